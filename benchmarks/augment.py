"""Time augmentation: whole batches at once against photo by photo, in turns.

python benchmarks/augment.py [--cached 256] [--size 224] [--batch 32] [--rounds 7]

The photos are noise, which does not change the speed.

all strengths   carclf.Augment with shift and blur too
default         carclf.Augment with its default strengths
plain           only its resize and normalisation, as for validation and prediction
torchvision     transforms.v2 of the same kinds and strengths, photo by photo, uint8 until the normalisation
kornia          the same for a batch, with random numbers per photo, if installed
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec

import torch
from timing import in_turns
from torchvision.transforms import v2

import carclf
from carclf.model.augment import IMAGENET_MEAN, IMAGENET_STD


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cached", type=int, default=256, help="side of the photos in the cache")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    x = torch.randint(0, 256, (options.batch, 3, options.cached, options.cached), dtype=torch.uint8)
    augments = {
        "all strengths": carclf.Augment(options.size, shift=0.05, blur=1.0),
        "default": carclf.Augment(options.size),
        "plain": carclf.Augment(options.size).plain(),
        "torchvision": torchvision_augment(options.size),
    }
    if find_spec("kornia"):
        augments["kornia"] = kornia_augment(options.size)
    found = in_turns({name: lambda a=a: a(x) for name, a in augments.items()}, options.batch, options.rounds)
    title = f"{options.cached} to {options.size} px, {torch.get_num_threads()} threads"
    print(found.rename_axis(title).to_string())


def torchvision_augment(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
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


def kornia_augment(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
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
