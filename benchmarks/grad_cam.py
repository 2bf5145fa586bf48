"""How much of what speaks for an answer lies on the car: python benchmarks/grad_cam.py [runs/demo] [--page maps.png]

On the test photos that `make demo` leaves, of which it is known where the car was drawn. A map that does not care where
the car is would have the box's share of the photo.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import carclf


def main() -> None:
    """Measure, print, and draw a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", nargs="?", type=Path, default=Path("runs/demo"))
    parser.add_argument("--page", help="draw twelve of the maps into this picture")
    options = parser.parse_args()
    classifier = carclf.Classifier.load(options.demo / "run" / "model")
    test = carclf.read_test(options.demo / "run" / "split.csv")
    cache = carclf.TensorCache.build(test, options.demo / "cache", classifier.card.cache_size)
    maps = carclf.grad_cam(classifier, cache.batch(range(len(test))).numpy())
    boxes = carclf.car_boxes(options.demo / "photos", test.path.tolist())
    inside, box = (carclf.inside_share(each, boxes) for each in (maps, np.ones_like(maps)))
    right = (classifier.predict(test).predicted == test.brand).to_numpy()
    print(f"{len(test)} photos: {np.nanmean(inside):.0%} of the maps inside the car's box, which is {box.mean():.0%}")
    print(f"named rightly {np.nanmean(inside[right]):.0%}, wrongly {np.nanmean(inside[~right]):.0%}")
    if options.page:
        carclf.overlay_page(test.path.tolist()[:12], maps[:12], test.brand.tolist()[:12]).savefig(options.page)


if __name__ == "__main__":
    main()
