"""Run by test_distributed.py: train with two processes as a notebook does.

python tests/notebook_launched.py PHOTOS CACHE OUT PORT
"""

import sys

import torch
from accelerate import notebook_launcher
from two_processes import load, recipe

import carclf


def main() -> None:
    photos, cache, out, port = sys.argv[1:]
    data = load(photos, cache)
    (torch.randn(500, 500) @ torch.randn(500, 500)).exp()  # starts OpenMP's threads, as augmentation does
    notebook_launcher(carclf.fit, (recipe(), *data, out), num_processes=2, use_port=port)
    print(carclf.Run.load(out).history)


if __name__ == "__main__":
    main()
