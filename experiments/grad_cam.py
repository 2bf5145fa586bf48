"""Measure how much of a Grad-CAM map lies on the car, on the drawn photos that `make demo` leaves.

python experiments/grad_cam.py [runs/demo] [--page maps.png]

The demo knows where it drew each car. A map that ignores the car has as much inside the car's box as the box has of the
photo.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import carclf
from carclf.data.manifest import read_test
from carclf.demo.folder import car_boxes
from carclf.plot.photos import overlay_page


def main() -> None:
    """Measure, print, and draw a page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", nargs="?", type=Path, default=Path("runs/demo"))
    parser.add_argument("--page", help="draw twelve of the maps into this picture")
    options = parser.parse_args()
    classifier = carclf.Classifier.load(options.demo / "run" / "model")
    test = read_test(options.demo / "run" / "split.csv")
    cache = carclf.TensorCache.build(test, options.demo / "cache", classifier.card.cache_size)
    maps = carclf.grad_cam(classifier, cache.batch(range(len(test))).numpy())
    boxes = car_boxes(options.demo / "photos", test.path.tolist())
    inside, box = (inside_share(each, boxes) for each in (maps, np.ones_like(maps)))
    right = (classifier.predict(test).predicted == test.brand).to_numpy()
    print(f"{len(test)} photos: {np.nanmean(inside):.0%} of the maps inside the car's box, which is {box.mean():.0%}")
    print(f"correct answers {np.nanmean(inside[right]):.0%}, incorrect {np.nanmean(inside[~right]):.0%}")
    if options.page:
        overlay_page(test.path.tolist()[:12], maps[:12], test.brand.tolist()[:12]).savefig(options.page)


def inside_share(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Share of each map that lies inside its box, float64 [N]; NaN for a map of zeros.

    Parameters
    ----------
    maps : float [N, H, W], not negative
    boxes : float [N, 4] or [4], left, top, right, bottom, 0 to 1 of the photo's width and height
    """
    maps = np.asarray(maps, float)
    boxes = np.broadcast_to(np.asarray(boxes, float), (len(maps), 4))
    wrong = ((boxes < 0) | (boxes > 1)).any(1) | (boxes[:, :2] >= boxes[:, 2:]).any(1)
    if wrong.any():
        raise ValueError(
            f"box {boxes[wrong][0].tolist()} must be left, top, right, bottom as shares of the photo, "
            "0 ≤ left < right ≤ 1 and 0 ≤ top < bottom ≤ 1; divide pixels by width and height"
        )
    across, down = (covered(boxes[:, i], boxes[:, i + 2], maps.shape[2 - i]) for i in (0, 1))
    inside, whole = np.einsum("nhw,nh,nw->n", maps, down, across), maps.sum((1, 2))
    return np.divide(inside, whole, where=whole > 0, out=np.full(len(maps), np.nan))


def covered(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    """Part of each of n pixels in a row that lies between low and high (0 to 1 of the row), float [len(low), n]."""
    first = np.arange(n)
    return (np.minimum(high[:, None] * n, first + 1) - np.maximum(low[:, None] * n, first)).clip(0, 1)


if __name__ == "__main__":
    main()
