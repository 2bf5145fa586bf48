"""Time training: this engine against what one would write instead, in turns.

python benchmarks/throughput.py [--backbone resnet50] [--size 224] [--rounds 5]

Weights are random and photos are drawn; neither changes the speed.

engine       `Engine.step`: augmentation, mixed precision if the hardware has it, channels-last, exact accumulation
plain step   float32 NCHW, torch's cross-entropy and AdamW, on one batch that is ready in memory
plain loop   the same behind a DataLoader with two workers that decode JPEGs and augment photo by photo
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import count

import pandas as pd
import torch
from timing import drawn_photos, in_turns
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import carclf
from carclf.train.batches import Dataset
from carclf.train.distributed import Processes
from carclf.train.engine import Engine


class Photos(torch.utils.data.Dataset):
    """Photos and labels as most people would load them."""

    def __init__(self, paths: list[str], labels: list[int], size: int):
        self.paths, self.labels = paths, labels
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.6, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomRotation(5),
                v2.ColorJitter(0.2, 0.2, 0.3, 0.02),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
                v2.RandomErasing(0.2),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(carclf.read_photo(self.paths[i])), self.labels[i]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps per round")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", ".*starts from random weights")
    with tempfile.TemporaryDirectory() as folder:
        manifest, cache = drawn_photos(folder, options.size + 32)
        print(table(options, manifest, cache).to_string())
        print(head_table(options, manifest, cache).to_string())


def table(options: argparse.Namespace, manifest: pd.DataFrame, cache: carclf.TensorCache) -> pd.DataFrame:
    """Speed of each loop."""
    data = Dataset.of(manifest, cache)
    loops = {
        "engine": engine_steps(options, data),
        "plain step": plain_steps(options, data, ready=True),
        "plain loop": plain_steps(options, data, ready=False),
    }
    ways = {name: lambda step=step: [step() for _ in range(options.steps)] for name, step in loops.items()}
    found = in_turns(ways, options.batch * options.steps, options.rounds)
    return found.rename_axis(f"{options.backbone} {options.size} px, {torch.get_num_threads()} threads")


def engine_steps(options: argparse.Namespace, data: Dataset) -> Callable[[], object]:
    """Each call is one step of the engine."""
    stages = (("all", 10_000, 1e-3, options.size),)
    recipe = carclf.Recipe(backbone=options.backbone, weights=None, stages=stages, micro_batch=options.batch)
    engine = Engine(recipe, data, Processes.join())
    engine.begin(0)
    print(engine.device)
    batches = (batch for epoch in count() for batch in engine.batches(epoch) if len(batch) >= options.batch - 1)
    return lambda: engine.step(next(batches), 1e-4)


def plain_steps(options: argparse.Namespace, data: Dataset, ready: bool) -> Callable[[], object]:
    """Each call is one step of a plain loop, on a batch in memory or from a DataLoader."""
    model = carclf.build_model(options.backbone, len(data.classes), weights=None).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    photos = Photos(data.paths[data.train].tolist(), data.labels[data.train].tolist(), options.size)
    loader = DataLoader(photos, options.batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
    batches = (batch for _ in count() for batch in loader)
    kept = next(batches) if ready else None

    def step() -> None:
        x, labels = kept or next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def head_table(options: argparse.Namespace, manifest: pd.DataFrame, cache: carclf.TensorCache) -> pd.DataFrame:
    """Seconds of a stage of eight epochs that trains only the head, with and without its shortcut."""
    seconds = {}
    for views in (2, 0):
        stages = (("head", 8, 1e-3, 96),)
        recipe = carclf.Recipe(backbone=options.backbone, weights=None, stages=stages, head_views=views)
        engine = Engine(recipe, Dataset.of(manifest, cache), Processes.join())
        engine.begin(0)
        began = time.perf_counter()
        for epoch in range(8):
            for batch in engine.batches(epoch):
                engine.step(batch, 1e-3)
        seconds["features computed once" if views else "in every epoch"] = time.perf_counter() - began
    found = pd.DataFrame({"seconds": seconds})
    found["ratio"] = found.seconds / found.seconds.iloc[0]
    return found.round(1).rename_axis(f"only the head, 8 epochs, {len(manifest)} photos, 96 px")


if __name__ == "__main__":
    main()
