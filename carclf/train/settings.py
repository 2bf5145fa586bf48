"""What each setting of a recipe may be; what cannot work is refused in one sentence, a ValueError."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from carclf.errors import did_you_mean, no_such
from carclf.model import device
from carclf.model.augment import Augment
from carclf.train.loss import CLASS_WEIGHTS

RANGES: dict[str, tuple[type, float, float]] = {  # of every number: whole or not, smallest, largest
    "epochs": (int, 1, math.inf),
    "max_lr": (float, math.ulp(0), math.inf),
    "size": (int, 32, math.inf),
    "micro_batch": (int, 3, math.inf),  # from 3 on, dividing evenly leaves no photo alone, which BatchNorm needs
    "accumulate": (int, 1, math.inf),
    "label_smoothing": (float, 0, 0.9),
    "head_views": (int, 0, 1000),
    "weight_decay": (float, 0, 10),
    "layer_decay": (float, 0.01, 1),
    "clip_grad": (float, 0, 1_000_000),
    "ema": (float, 0, 0.99999),
    "seed": (int, 0, 2**63 - 1),
}
CHOICES: dict[str, tuple[str | None, ...]] = {
    "class_weight": CLASS_WEIGHTS,
    "precision": ("auto", *device.PRECISIONS),
    "head": (None, "linear", "mlp"),
}
STRENGTHS = {f.name: 1.0 for f in fields(Augment) if f.name not in ("size", "mean", "std")}  # and the largest
STRENGTHS |= {"rotate": 180.0, "zoom_out": 10.0, "aspect": 5.0, "blur": 50.0}
# Of our own recipes' backbones: asking timm would cost over a second, whenever this module is imported.
PARTS = {
    "efficientnet_lite0": ("conv_stem", "bn1", *(f"blocks.{i}" for i in range(7)), "conv_head", "bn2", "classifier"),
    "resnet50": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"),
    "convnext_tiny.in12k_ft_in1k": ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "head"),
}


def check_numbers(settings: Any) -> None:
    """Refuse numbers of another type or out of range; numpy's become Python's, which JSON takes."""
    for name in (f.name for f in fields(settings) if f.name in RANGES):
        kind, low, high = RANGES[name]
        value = getattr(settings, name)
        right = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        if not right or not low <= value <= high or value == math.inf:
            reach = f"between {low:,} and {high:,}" if high < math.inf else f"of at least {low:,}"
            reach = "above 0" if low == math.ulp(0) else reach
            raise ValueError(f"{name}={value!r} must be a {'whole ' if kind is int else ''}number {reach}")
        object.__setattr__(settings, name, int(value) if isinstance(value, Integral) else float(value))


def check_choices(settings: Any) -> None:
    """Refuse a word that is none of the few that a setting may be."""
    for name, choices in CHOICES.items():
        value = getattr(settings, name)
        if value not in choices:
            known, near = ", ".join(map(str, choices)), did_you_mean(value, filter(None, choices))
            raise ValueError(f"{name}={value!r} must be one of: {known}{near}")


def check_backbone(backbone: Any, stages: Sequence[Any]) -> None:
    """Refuse a backbone that timm does not know, a part that it does not have, and a size that it does not take."""
    if not isinstance(backbone, str):
        raise ValueError(f"backbone={backbone!r} must be text, such as 'efficientnet_lite0'")
    parts, only_size = PARTS.get(backbone), None
    if parts is None or any(stage.unfreeze not in ("head", "all", *parts) for stage in stages):
        from carclf.model import backbones  # imports timm

        parts, only_size = backbones.part_names(backbone), backbones.only_size(backbone)
        for number, stage in enumerate(stages, 1):
            if stage.unfreeze not in ("head", "all", *parts):
                raise ValueError(f"stage {number}: {backbones.no_part(stage.unfreeze, parts)}")
            if only_size not in (None, stage.size):
                raise ValueError(f"stage {number}: size={stage.size}, but {backbone} takes {only_size} pixels only")


def check_device(name: Any) -> None:
    """Refuse what is no device's name; whether it is here, `pick` says."""
    kind, colon, number = name.partition(":") if isinstance(name, str) else ("", "", "")
    kinds = ("auto", *device.KINDS)
    if kind not in kinds or (colon and not number.isdecimal()):
        near = "; did you mean 'cuda'?" if name == "gpu" else did_you_mean(name, kinds)
        raise ValueError(f"device={name!r} must be one of: {', '.join(kinds)}, or one with a number, as cuda:1{near}")


def checked_weights(given: Any) -> str | None:
    """ "imagenet", None, or the path of a file that is there."""
    if given in (None, "imagenet"):
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise ValueError(f"weights={given!r} must be 'imagenet', None or the path of a state dict")
    path, choice = os.fspath(given), "give weights='imagenet', None or the path of a state dict"
    if not Path(path).is_file():
        near = did_you_mean(path, ["imagenet"])
        raise ValueError(f"there is no file {path!r}{near}" if near else f"{no_such(path, 'file')}; {choice}")
    return path


def checked_strengths(given: Any) -> dict[str, float]:
    """The augmentation's strengths that differ from the defaults."""
    if not isinstance(given, dict):
        raise ValueError(f"augment={given!r} must be a dict of strengths, such as {{'rotate': 8, 'erase': 0.3}}")
    for name, value in given.items():
        if name not in STRENGTHS:
            near = did_you_mean(name, STRENGTHS) or f"; its strengths are {', '.join(STRENGTHS)}"
            raise ValueError(f"augment has no strength {name!r}{near}")
        if not isinstance(value, (int, float)) or not 0 <= value <= STRENGTHS[name]:
            raise ValueError(f"augment: {name}={value!r} must be a number between 0 and {STRENGTHS[name]:g}")
    return {name: float(value) for name, value in given.items()}
