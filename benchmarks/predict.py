"""Time prediction from JPEG files to answers, against what one would write instead, in turns.

python benchmarks/predict.py models/cars-lite0 path/to/photos [--photos 512] [--rounds 5]

predict      `Classifier.predict`: decodes in threads at the needed scale, mixed precision if the hardware has it,
             channels-last, in batches; with temperature, threshold and out-of-distribution score
plain loop   the same network in float32 NCHW behind a DataLoader with two workers that decode, resize and normalise
"""

from __future__ import annotations

import argparse

import torch
from timing import in_turns
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import carclf
from carclf.data.listing import list_photos
from carclf.model.backbones import normalisation
from carclf.model.classifier import Classifier


class Photos(torch.utils.data.Dataset):
    """Photos as most people would load them."""

    def __init__(self, paths: list[str], classifier: Classifier):
        self.paths = paths
        size, (mean, std) = classifier.card.size, normalisation(classifier.card.backbone)
        resize = v2.Resize((size, size), antialias=True)
        self.transform = v2.Compose(
            [resize, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(carclf.read_photo(self.paths[i]))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    every = list_photos(options.folder)
    paths = every[:: max(1, len(every) // options.photos)][: options.photos]
    classifier = Classifier.load(options.model)
    plain = Classifier.load(options.model).model.to(memory_format=torch.contiguous_format)
    print(f"{classifier.card.backbone} at {classifier.card.size} px, {len(paths)} photos, {classifier.device}")
    ways = {"predict": lambda: classifier.predict(paths), "plain loop": lambda: plain_loop(plain, classifier, paths)}
    print(in_turns(ways, len(paths), options.rounds).to_string())


@torch.inference_mode()
def plain_loop(model: torch.nn.Module, classifier: Classifier, paths: list[str]) -> list[str]:
    """The most probable brand of each photo."""
    loader, device = DataLoader(Photos(paths, classifier), 64, num_workers=2), classifier.device.torch
    return [classifier.classes[i] for batch in loader for i in model(batch.to(device)).argmax(1)]


if __name__ == "__main__":
    main()
