"""A learning rate for a stage: the range test (arXiv 1506.01186)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from carclf.data.cache import TensorCache
from carclf.train.batches import Dataset
from carclf.train.distributed import Processes
from carclf.train.engine import Engine
from carclf.train.loss import preflight
from carclf.train.recipe import Recipe

SMOOTHING = 0.9  # weight of the past in the smoothed loss
DIVERGED = 2.0  # times the lowest smoothed loss


@dataclass(frozen=True)
class RangeTest:
    """What `find_lr` measured; `carclf.plot.range_test` draws it."""

    table: pd.DataFrame  # a row per optimizer step: lr, loss, smoothed
    suggestion: float | None  # lr at which the smoothed loss falls fastest: a first max_lr. None if it never falls


@torch.random.fork_rng(devices=[])
def find_lr(
    recipe: Recipe,
    manifest: pd.DataFrame,
    cache: TensorCache,
    stage: int = -1,
    model: nn.Module | None = None,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
) -> RangeTest:
    """Train a few steps while the learning rate grows from low to high: where does the loss fall, where does it rise?

    Parameters
    ----------
    recipe, manifest, cache : as for `fit`; nothing is written, and no model is changed
    stage : index of the recipe's stage; by default the last
    model : start with a copy of its weights, such as `run.classifier.model`; by default as `fit` starts
    low, high : the learning rates of the first and the last step
    steps : optimizer steps; the test ends earlier once the loss has doubled

    Raises
    ------
    ValueError
        If low, high and steps make no range, or the data cannot be trained on.
    """
    if not 0 < low < high or steps < 10:
        raise ValueError(f"low={low:g}, high={high:g}, steps={steps}: give 0 < low < high and at least 10 steps")
    if not -len(recipe.stages) <= stage < len(recipe.stages):
        raise ValueError(f"stage={stage}: the recipe has the stages 0 to {len(recipe.stages) - 1}")
    data = Dataset.of(manifest, cache, recipe.class_weight)
    processes = Processes.join(recipe.device, recipe.precision)
    preflight(processes.device)
    weights = {} if model is None else {"model": {k: v.detach().cpu() for k, v in model.state_dict().items()}}
    engine = Engine(recipe, data, processes, weights)
    engine.begin(stage % len(recipe.stages))
    epochs = math.ceil(steps / len(engine.batches(0)))
    batches = [batch for epoch in range(epochs) for batch in engine.batches(epoch)]
    rows, smooth, least = [], 0.0, math.inf
    for number in tqdm(range(steps), "range test", unit="step", leave=False, **processes.bar):
        lr = low * (high / low) ** (number / (steps - 1))
        try:
            loss = engine.step(batches[number], lr)
        except ArithmeticError:
            break
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        smoothed = smooth / (1 - SMOOTHING ** (number + 1))  # without the bias towards the initial 0
        rows.append((lr, loss, smoothed))
        least = min(least, smoothed)
        if number >= 10 and smoothed > DIVERGED * least:
            break
    table = pd.DataFrame(rows, columns=["lr", "loss", "smoothed"])
    return RangeTest(table, suggest(table))


def suggest(table: pd.DataFrame) -> float | None:
    """The lr at which the smoothed loss falls fastest over log(lr), before its lowest value; or None."""
    falling = table.smoothed.to_numpy()[: int(table.smoothed.idxmin()) + 1] if len(table) else np.empty(0)
    return float(table.lr.iloc[int(np.gradient(falling).argmin())]) if len(falling) >= 3 else None
