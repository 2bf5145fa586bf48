"""Does a recipe suit the photos, the cache and the memory, and did its later stages help? Said in words."""

from __future__ import annotations

import copy
import math
import warnings
from contextlib import AbstractContextManager
from dataclasses import astuple, replace

import pandas as pd
import psutil
import torch
from torch import nn

from carclf.metrics.words import percent
from carclf.model import backbones
from carclf.train.engine import Engine
from carclf.train.recipe import Recipe, Stage

ENLARGED = 2  # times the side of the cached photos; beyond it a stage pays for much more than there is to see
PROBE = 128  # pixels; activations grow with the area
# Of all stages that train more than the head. Chosen from one run each on photos of ten brands, 300 to validate (one
# standard error is 2.7 points): of 105 to train, 80 steps of the head gave 30 %, and then 4, 12, 24, 48 steps of all
# blocks 29, 26, 28, 32 %; of 300, 200 steps gave 37 %, and then 10, 20, 40 steps 37, 40, 41 %.
LEAST_STEPS = 40
HEAD_STEPS = 80


def check_plan(engine: Engine, resumed: bool) -> None:
    """Warn of stages that are too short or too large to help, before anything is written.

    Raises
    ------
    ValueError
        If a stage needs more memory than a CPU has: the system would kill the process. (Where a graphics card's runs
        out, smaller micro-batches are tried.)
    """
    if engine.device.kind == "cpu":
        check_memory(engine, resumed)
    if resumed or not engine.processes.is_main:
        return
    cached, photos = engine.data.cache.size, len(engine.data.train)
    for number, stage in enumerate(engine.recipe.stages, 1):
        if stage.size > ENLARGED * cached:
            warnings.warn(
                f"stage {number} enlarges the cached photos from {cached} to {stage.size} pixels, which adds no detail "
                f"and takes {(stage.size / cached) ** 2:.0f} times the time and memory; choose a size of at most "
                f"{ENLARGED * cached}, or build the cache with {stage.size} pixels",
                stacklevel=4,
            )
    steps = later_steps(engine.recipe, photos)
    if 0 < steps < LEAST_STEPS:
        warnings.warn(
            f"{photos} photos to train give the stages that train more than the head {steps} optimizer steps; below "
            f"{LEAST_STEPS} the head alone, trained long enough, is about as good. Add photos, or train longer: "
            f"stages = {as_list(longer(engine.recipe, photos))}",
            stacklevel=4,
        )


def check_outcome(recipe: Recipe, history: pd.DataFrame, photos: int, valid: int) -> None:
    """Warn if the stages after the head's ended below it by more than chance; `photos` of train and of valid."""
    heads = history[(history.unfreeze == "head").cumprod() == 1]  # the first stages
    if heads.empty or len(heads) == len(history):
        return
    head, last = heads.valid_accuracy.iloc[-1], history.valid_accuracy.iloc[-1]
    chance = 2 * math.sqrt((head * (1 - head) + last * (1 - last)) / valid)  # twice the standard error
    if head - last > chance:
        enough = longer(recipe, photos)
        gentler = [s if s.unfreeze == "head" else replace(s, max_lr=s.max_lr / 5) for s in enough]
        warnings.warn(
            f"the training ended below what the head alone had reached: {percent(last)} of {valid} photos of valid, "
            f"after {percent(head)}. The model is that of the best epoch; for a better one train in another folder "
            f"with a lower max_lr, and long enough: stages = {as_list(gentler)}",
            stacklevel=4,
        )


def later_steps(recipe: Recipe, photos: int) -> int:
    """Optimizer steps of all stages that train more than the head."""
    return sum(s.epochs for s in recipe.stages if s.unfreeze != "head") * _steps(recipe, photos)


def longer(recipe: Recipe, photos: int) -> list[Stage]:
    """The same stages with enough epochs to pass `check_plan`."""
    factor = math.ceil(LEAST_STEPS / later_steps(recipe, photos))
    least = math.ceil(HEAD_STEPS / _steps(recipe, photos))
    epochs = [max(s.epochs, least) if s.unfreeze == "head" else s.epochs * factor for s in recipe.stages]
    return [replace(stage, epochs=n) for stage, n in zip(recipe.stages, epochs, strict=True)]


def as_list(stages: list[Stage]) -> list[list]:
    """Stages as the notebook's settings cell takes them."""
    return [list(astuple(stage)) for stage in stages]


def _steps(recipe: Recipe, photos: int) -> int:
    return max(1, math.ceil(photos / (recipe.micro_batch * recipe.accumulate)))


def check_memory(engine: Engine, resumed: bool = False) -> None:
    """Refuse a stage whose activations, as `memory` estimates them, exceed what is free."""
    recipe, free = engine.recipe, psutil.virtual_memory().available
    per_pixel: dict[str, float] = {}
    for number, stage in enumerate(recipe.stages, 1):
        if stage.unfreeze not in per_pixel:
            per_pixel[stage.unfreeze] = bytes_per_pixel(engine, stage.unfreeze)
        photos = min(engine.micro_batch, len(engine.data.train))
        needed = per_pixel[stage.unfreeze] * photos * stage.size**2 * engine.processes.count
        if needed <= free:
            continue
        share = 0.9 * free / needed
        side, fewer = int(stage.size * math.sqrt(share)) // 32 * 32, int(photos * share)
        remedies = (
            [] if resumed else [f"choose a size of {side}"] * (side >= 32) + [f"micro_batch={fewer}"] * (fewer > 2)
        )
        raise ValueError(
            f"stage {number} needs about {needed / 1e9:,.1f} GB of memory for {photos} photos of {stage.size} pixels, "
            f"but {free / 1e9:,.1f} GB are free; {' or '.join([*remedies, 'close other programs'])}"
        )


def bytes_per_pixel(engine: Engine, unfreeze: str) -> float:
    """Bytes of memory that a training step or a validation takes, whichever is more, per pixel of a micro-batch.

    Measured on a few small photos, and within 20 % of the process's growth for Lite0. 0 if unknown.
    """
    model = copy.deepcopy(engine.model)  # its statistics stay as they are
    backbones.set_trainable(model, unfreeze)
    side = backbones.only_size(engine.recipe.backbone) or PROBE
    try:
        (few, _), (more, largest) = (activations(model, n, side, engine.device.autocast()) for n in (2, 3))
    except (RuntimeError, AssertionError):  # a backbone that does not take this size
        return 0.0
    # Validation takes twice the photos, and holds two layers' inputs and outputs at a time.
    return max(more - few, 4 * largest / 3) / side**2


def activations(model: nn.Module, photos: int, size: int, precision: AbstractContextManager) -> tuple[int, int]:
    """Bytes that the backward pass of a micro-batch needs besides the weights; and those around its largest layer."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}
    kept, around = [], [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        kept.append(tensor)  # keeps it alive: a later one could get the same address
        return tensor

    def measure(_: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        around.append(sum(t.nbytes for t in (*inputs, output) if isinstance(t, torch.Tensor)))

    hooks = [m.register_forward_hook(measure) for m in model.modules() if next(m.children(), None) is None]
    x = torch.rand(photos, 3, size, size, device=next(model.parameters()).device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision:
        model(x)
    for hook in hooks:
        hook.remove()
    return sum(seen.values()), max(around)
