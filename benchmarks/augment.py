"""Milliseconds a photo of augmentation: whole batches at once against photo by photo, in turns, as ratios.

python benchmarks/augment.py [--cached 256] [--size 224] [--batch 32] [--rounds 7]

Photos are noise: that changes no speed. All take turns, so that a noisy machine disturbs them alike:

all strengths   carclf.Augment with shift and blur too
default         carclf.Augment as recipes have it
plain           its resize and normalisation, of validation and prediction
torchvision     transforms.v2 of the same kinds and strengths, photo by photo, uint8 up to the normalisation
kornia          the same for a batch with random numbers a photo, where it is installed
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec

import pandas as pd
import torch
from torchvision.transforms import v2

import carclf
from carclf.augment import IMAGENET_MEAN, IMAGENET_STD


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cached", type=int, default=256, help="side of the photos in the cache")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    x = torch.randint(0, 256, (options.batch, 3, options.cached, options.cached), dtype=torch.uint8)
    print(table(options, x).to_string())


def table(options: argparse.Namespace, x: torch.Tensor) -> pd.DataFrame:
    """The median over the rounds, and as a multiple of what all strengths take; with the least and the most of the
    rounds."""
    ways = {
        "all strengths": carclf.Augment(options.size, shift=0.05, blur=1.0),
        "default": carclf.Augment(options.size),
        "plain": carclf.Augment(options.size).plain(),
        "torchvision": torchvisions(options.size),
    }
    if find_spec("kornia"):
        ways["kornia"] = kornias(options.size)
    seconds = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, augment in ways.items():
            began = time.perf_counter()
            augment(x)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    taken = pd.DataFrame(seconds) / options.batch * 1000
    ratio = taken.div(taken["all strengths"], axis=0)
    found = pd.DataFrame({"ms a photo": taken.median(), "so many times as long": ratio.median()})
    found["least"], found["most"] = ratio.min(), ratio.max()
    threads = torch.get_num_threads()
    return found.round(2).rename_axis(f"{options.cached} to {options.size} px, {threads} threads")


def torchvisions(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What one would write with torchvision, in a DataLoader's worker."""
    bilinear = v2.InterpolationMode.BILINEAR
    each = v2.Compose(
        [
            v2.RandomAffine(5, translate=(0.05, 0.05), interpolation=bilinear),
            v2.RandomResizedCrop(size, scale=(0.64, 1.0), ratio=(0.9, 1.1), antialias=False),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.3, 0.02),
            v2.RandomGrayscale(0.03),
            v2.GaussianBlur(7, (0.001, 1.0)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            v2.RandomErasing(0.2, (0.02, 0.15)),
        ]
    )
    return lambda x: torch.stack([each(photo) for photo in x])


def kornias(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same with Kornia, which takes batches of floats."""
    import kornia.augmentation as K

    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    batch = K.AugmentationSequential(
        K.RandomAffine(5, translate=(0.05, 0.05), p=1.0),
        K.RandomResizedCrop((size, size), scale=(0.64, 1.0), ratio=(0.9, 1.1), p=1.0),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.2, 0.2, 0.3, 0.02, p=1.0),
        K.RandomGrayscale(p=0.03),
        K.RandomGaussianBlur((7, 7), (0.001, 1.0), p=1.0),
        K.Normalize(mean, std),
        K.RandomErasing((0.02, 0.15), p=0.2),
    )
    return lambda x: batch(x.float() / 255)


if __name__ == "__main__":
    main()
