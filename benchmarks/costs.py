"""Estimate what training with a recipe costs: speed of each stage on this machine, minutes, memory.

python benchmarks/costs.py [--recipe resnet50] [--photos 8575]

Weights are random and photos are drawn; neither changes speed or memory. Memory is counted, not measured: what the
backward pass of a micro-batch keeps, in float32 and in mixed precision, and weights, gradients and AdamW's moments. The
device's own libraries come on top. Stages that train only the head are cheap and left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import replace

import pandas as pd
import torch
from timing import drawn_photos

import carclf
from carclf.train.batches import Dataset
from carclf.train.checks import activations
from carclf.train.distributed import Processes
from carclf.train.engine import Engine


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="*", default=["resnet50", "convnext"], choices=carclf.RECIPES)
    parser.add_argument("--photos", type=int, default=8575, help="photos to train on, for the minutes")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", ".*starts from random weights")
    with tempfile.TemporaryDirectory() as folder:
        data = Dataset.of(*drawn_photos(folder, 256))
        rows = [row for name in options.recipe for row in stages(name, data, options.photos)]
    print(pd.DataFrame(rows).round(1).to_string(index=False))


def stages(name: str, data: Dataset, photos: int) -> list[dict]:
    """One row per stage."""
    recipe = replace(carclf.RECIPES[name], weights=None)
    engine = Engine(recipe, data, Processes.join())
    rows = []
    for number, stage in enumerate(recipe.stages):
        engine.begin(number)
        if engine.head_alone:
            continue
        batches = engine.batches(0)[:3]
        engine.step(batches[0], 1e-4)  # warms up
        began = time.perf_counter()
        for batch in batches[1:]:
            engine.step(batch, 1e-4)
        speed = sum(map(len, batches[1:])) / (time.perf_counter() - began)
        row = {"recipe": name, "trains": stage.unfreeze, "epochs": stage.epochs, "size": stage.size}
        row |= {"photos per second": speed, "minutes": stage.epochs * photos / speed / 60}
        for kind, mixed in (("float32", False), ("mixed", True)):
            precision = torch.autocast(engine.device.torch.type, torch.bfloat16, enabled=mixed)
            kept, _ = activations(engine.model, recipe.micro_batch, stage.size, precision)
            row[f"activations, {kind}, MB"] = kept / 1e6
        trained = sum(p.numel() for p in engine.model.parameters() if p.requires_grad)
        every = sum(p.numel() for p in engine.model.parameters())
        rows.append(row | {"weights, gradients, moments, MB": (4 * every + 12 * trained) / 1e6})
    return rows


if __name__ == "__main__":
    main()
