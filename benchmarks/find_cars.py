"""Time the parts of naming every car in a photo or a clip, and the detector against others, in turns.

python benchmarks/find_cars.py path/to/photos [--photos 96] [--rounds 5]

decode       JPEG files to PIL images, in threads
find_cars    the detector that ships, photos in memory
unfused      the same network with its BatchNorms apart
ssdlite      torchvision's SSDLite320 at its own size (random weights: its speed does not depend on them)
all cars     `Classifier.predict(…, cars="all")` from the files, with models/cars-lite0
whole        `Classifier.predict(…)` from the files
clip         the same photos as frames of a clip: seconds of clip a second are a fifth of the photos a second
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from timing import in_turns
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import carclf
from carclf.data.listing import list_photos
from carclf.model.detector import SHIPPED, WEIGHTS, Detector, DetectorCard, build_detector
from carclf.model.weights import read_tensors

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    every = list_photos(options.folder)
    paths = every[:: max(1, len(every) // options.photos)][: options.photos]
    with ThreadPoolExecutor() as pool:
        photos = list(pool.map(carclf.read_photo, paths))
        ways = {
            "find_cars": lambda: ours.find(photos),
            "unfused": lambda: unfused.find(photos),
            "ssdlite": lambda: ssdlite.find(photos),
            "decode": lambda: list(pool.map(carclf.read_photo, paths)),
            "all cars": lambda: classifier.predict(paths, cars="all", detector=ours),
            "whole": lambda: classifier.predict(paths),
        }
        ours, classifier = Detector.load(), carclf.Classifier.load(ROOT / "models" / "cars-lite0")
        plain = build_detector(ours.card.side)
        plain.load_state_dict(read_tensors(SHIPPED / WEIGHTS)[0])
        unfused = Detector(plain, ours.card)
        network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
        ssdlite = Detector(network, DetectorCard(640))
        with tempfile.TemporaryDirectory() as folder:
            for number, photo in enumerate(photos):
                photo.resize((960, 540)).save(Path(folder) / f"{number:04d}.jpg")
            ways["clip"] = lambda: carclf.predict_video(classifier, folder, detector=ours)
            cars = sum(map(len, ours.find(photos)))
            print(f"{len(paths)} photos, {cars} cars found, detector at {ours.card.side} px, {ours.device}")
            print(in_turns(ways, len(paths), options.rounds).to_string())


if __name__ == "__main__":
    main()
