"""Which learning rate a stage can bear: the range test (arXiv 1506.01186)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from carclf import devices
from carclf.cache import TensorCache
from carclf.dataset import Dataset
from carclf.engine import Engine
from carclf.processes import Processes
from carclf.recipes import Recipe

SMOOTHING = 0.9  # weight of the past in the smoothed loss
DIVERGED = 2.0  # times the least smoothed loss


@dataclass(frozen=True)
class RangeTest:
    """What `find_lr` measured; `plots.range_test` draws it.

    Attributes
    ----------
    table : DataFrame, a row an optimizer step: rate, loss, smoothed
    suggestion : float, the rate where the smoothed loss falls fastest; a max_lr to begin with. None where it never
        falls: look at the plot, begin with a lower rate or take more steps
    """

    table: pd.DataFrame
    suggestion: float | None


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
    """Train a few steps while the rate grows from low to high: where does the loss fall, where does it break out?

    Parameters
    ----------
    recipe, manifest, cache : as for `fit`; nothing is written, and no model is changed
    stage : which of the recipe's stages, as an index; by default the last
    model : nn.Module, optional
        Begin with its weights, such as those of `run.classifier.model`; a copy is trained. Default: as `fit` begins.
    low, high : the rates of the first and the last step
    steps : optimizer steps; the test ends earlier when the loss has doubled

    Raises
    ------
    ValueError
        For rates or steps that make no range, or data that cannot be trained on.
    """
    if not 0 < low < high or steps < 10:
        raise ValueError(f"low={low:g}, high={high:g}, steps={steps}: give 0 < low < high and at least 10 steps")
    if not -len(recipe.stages) <= stage < len(recipe.stages):
        raise ValueError(f"stage={stage}: the recipe has the stages 0 to {len(recipe.stages) - 1}")
    data = Dataset.of(manifest, cache, recipe.class_weight)
    processes = Processes.join(recipe.device, recipe.precision)
    devices.preflight(processes.device)
    weights = {} if model is None else {"model": {k: v.detach().cpu() for k, v in model.state_dict().items()}}
    engine = Engine(recipe, data, processes, weights)
    engine.begin(stage % len(recipe.stages))
    epochs = math.ceil(steps / len(engine.windows(0)))
    windows = [window for epoch in range(epochs) for window in engine.windows(epoch)]
    rows, smooth, least = [], 0.0, math.inf
    for number in tqdm(range(steps), "range test", unit="step", leave=False, disable=not processes.is_main):
        rate = low * (high / low) ** (number / (steps - 1))
        try:
            loss = engine.step(windows[number], rate)
        except ArithmeticError:
            break
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        smoothed = smooth / (1 - SMOOTHING ** (number + 1))  # as if the past before the first step were like it
        rows.append((rate, loss, smoothed))
        least = min(least, smoothed)
        if number >= 10 and smoothed > DIVERGED * least:
            break
    table = pd.DataFrame(rows, columns=["rate", "loss", "smoothed"])
    return RangeTest(table, suggest(table))


def suggest(table: pd.DataFrame) -> float | None:
    """The rate where the smoothed loss falls fastest over the rate's logarithm, before its least value; or None."""
    falling = table.smoothed.to_numpy()[: int(table.smoothed.idxmin()) + 1] if len(table) else np.empty(0)
    return float(table.rate.iloc[int(np.gradient(falling).argmin())]) if len(falling) >= 3 else None
