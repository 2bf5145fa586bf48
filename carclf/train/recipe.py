"""Every setting of a training, in two frozen dataclasses that are saved with the run; recipes by name."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from carclf.deprecated import renamed_arguments
from carclf.errors import did_you_mean, no_such
from carclf.files import write_text
from carclf.train.settings import (
    check_backbone,
    check_choices,
    check_device,
    check_numbers,
    checked_strengths,
    checked_weights,
)

T = TypeVar("T")
FILE = "recipe.json"
EXAMPLE = "[['head', 1, 3e-3, 112], ['all', 9, 1e-3, 128]]"
# Settings of version 0.1.
RENAMED = {"clip_norm": "clip_grad", "block_decay": "layer_decay"}
REMOVED = {"mixup": 0, "cutmix": 0, "sampler": "shuffle", "logit_adjustment": 0}  # and the value that did nothing


@dataclass(frozen=True)
class Stage:
    """Some epochs with one OneCycle."""

    unfreeze: str  # "head", "all", or the lowest block that trains, as `carclf.model.backbones.blocks` names it
    epochs: int
    max_lr: float  # peak of the OneCycle, for the head; earlier blocks may have less, see Recipe.layer_decay
    size: int  # side of the training photos in pixels

    def __post_init__(self) -> None:
        if not isinstance(self.unfreeze, str):
            raise ValueError(f"unfreeze={self.unfreeze!r} must be text, such as 'head' or 'all'")
        check_numbers(self)


def _stages(given: Any) -> tuple[Stage, ...]:
    """Stages from what a notebook (a list of four values each) or recipe.json (a dict each) gives."""
    stage_like = (Stage, list, tuple, dict)
    if isinstance(given, (str, dict)) or not isinstance(given, Iterable):
        raise ValueError(f"stages={given!r} must be a list of stages, such as {EXAMPLE}")
    given = list(given)
    if not given:
        raise ValueError(f"a recipe needs at least one stage, such as {EXAMPLE}")
    if not any(isinstance(each, stage_like) for each in given):
        raise ValueError(f"stages={given} must be a list of lists; for a single stage write [{given}]")
    found, names = [], [f.name for f in fields(Stage)]
    for number, each in enumerate(given, 1):
        values = each
        if isinstance(each, (list, tuple)) and len(each) == len(names):
            values = dict(zip(names, each, strict=True))
        if not isinstance(values, Stage):
            if not isinstance(values, dict) or values.keys() != set(names):
                four = f"give its four values, {', '.join(names)}, such as ['all', 9, 1e-3, 128]"
                raise ValueError(f"stage {number} is {each!r}: {four}")
            try:
                values = Stage(**values)
            except ValueError as error:
                raise ValueError(f"stage {number}: {error}") from None
        found.append(values)
    return tuple(found)


def current_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe's settings by their current names, without removed ones that had no effect."""
    return {RENAMED.get(k, k): v for k, v in settings.items() if k not in REMOVED or v != REMOVED[k]}


def _accepting_old_settings(recipe: type[T]) -> type[T]:
    """Class decorator: settings of version 0.1 are renamed or dropped, with a warning; unknown ones are named."""
    init: Callable[..., None] = recipe.__init__
    names = [f.name for f in fields(recipe)]  # type: ignore[arg-type]

    @renamed_arguments(**RENAMED)
    @functools.wraps(init)
    def tolerant(self: T, *args: Any, **settings: Any) -> None:
        settings = current_settings(settings)
        for name in REMOVED.keys() & settings.keys():
            message = f"{name}={settings.pop(name)!r} is ignored: this setting was removed"
            warnings.warn(f"{message} because it lost points (docs/results.md)", stacklevel=3)
        for name in settings.keys() - set(names):
            near = did_you_mean(name, names) or f"; its settings are {', '.join(names)}"
            raise TypeError(f"a recipe has no setting {name!r}{near}")
        init(self, *args, **settings)

    recipe.__init__ = tolerant  # type: ignore[method-assign]
    return recipe


@_accepting_old_settings
@dataclass(frozen=True)
class Recipe:
    """Every setting of a training; saved with the run, so `fit(Recipe.load(run), …)` repeats it.

    Class weights raise the recall of rare brands, at the price of accuracy and of confidences that no longer are the
    chances on photos distributed like train; "none" keeps them.
    """

    backbone: str = "efficientnet_lite0"
    stages: tuple[Stage, ...] = (
        Stage("head", 1, 3e-3, 112),
        Stage("blocks.5", 1, 1e-3, 112),
        Stage("all", 9, 1e-3, 128),
        Stage("all", 3, 5e-4, 160),
    )
    micro_batch: int = 32  # photos that a process holds in memory at once
    accumulate: int = 1  # micro-batches per optimizer step, over all processes
    # Target
    class_weight: str = "none"  # of the loss: none, inverse_sqrt, inverse or effective_number
    label_smoothing: float = 0.1  # share of the target spread evenly over all brands
    # Regularisation
    augment: dict = field(default_factory=dict)  # strengths that differ from carclf.Augment's defaults
    head_views: int = 2  # random views of each photo that take turns while only the head trains; 0: always a new one
    weight_decay: float = 0.05  # of AdamW; norms and biases are excluded
    # Optimization
    layer_decay: float = 1.0  # a block's lr is this times the lr of the block above it
    clip_grad: float = 1.0  # largest Euclidean norm of the gradient over all parameters; 0 switches it off
    ema: float = 0.0  # decay per step of the weights' moving average, which then is the model; 0 switches it off
    # Start and hardware
    head: str | None = None  # "linear" or "mlp"; None is the backbone's default
    weights: str | None = "imagenet"  # or the path of a state dict; None is random, for tests
    device: str = "auto"
    precision: str = "auto"  # float32, bfloat16 or float16; "auto" is the one that the device is fast in
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work, in one sentence: ValueError."""
        object.__setattr__(self, "stages", _stages(self.stages))  # the documented way to normalise a frozen dataclass
        check_numbers(self)
        check_choices(self)
        check_backbone(self.backbone, self.stages)
        check_device(self.device)
        object.__setattr__(self, "weights", checked_weights(self.weights))
        object.__setattr__(self, "augment", checked_strengths(self.augment))

    @classmethod
    def load(cls, run: str | os.PathLike) -> Recipe:
        """The recipe in a run's folder; raises ValueError if there is none that can be read."""
        path = Path(run) / FILE
        if not Path(run).is_dir():
            raise ValueError(f"{no_such(run)}; give the folder of a run")
        try:
            settings = json.loads(path.read_text("utf-8"))
            weights = settings.pop("weights", "imagenet")
            recipe = cls(**settings)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a recipe of this version ({error}); give the folder of a run") from error
        object.__setattr__(recipe, "weights", weights)  # their file may have gone: only a new run reads it
        return recipe

    def save(self, run: Path) -> None:
        """Write recipe.json into a run's folder."""
        write_text(run / FILE, json.dumps(asdict(self), indent=1))


# By name, for `carclf train DIR --recipe NAME`; docs/results.md has what was measured.
RECIPES = {
    # 14 epochs at up to 160 pixels: a first answer.
    "quick": Recipe(),
    # 46 epochs at up to 256 pixels; the shipped model had class weights, too. In a short training this strong
    # augmentation lost points on known models and gained some on photos from other sources.
    "thorough": Recipe(
        stages=(
            Stage("head", 1, 3e-3, 128),
            Stage("blocks.2", 12, 1e-3, 128),
            Stage("blocks.2", 11, 7e-4, 160),
            Stage("blocks.2", 7, 4e-4, 192),
            Stage("blocks.2", 5, 2e-4, 224),
            Stage("blocks.2", 10, 3e-4, 256),
        ),
        label_smoothing=0.05,
        augment=dict(zoom_in=0.4, zoom_out=0.5, aspect=0.25, rotate=8.0, erase=0.3, erase_area=0.25)
        | dict(brightness=0.4, contrast=0.4, saturation=0.5, hue=0.03, grey=0.1, blur=0.7),
    ),
    # For a graphics card with 4 GB; its head has three layers. Not run with pretrained weights yet.
    "resnet50": Recipe(
        backbone="resnet50",
        stages=(
            Stage("head", 2, 3e-3, 160),
            Stage("layer4", 4, 5e-4, 160),
            Stage("layer2", 8, 3e-4, 192),
            Stage("layer2", 4, 1e-4, 224),
        ),
        micro_batch=16,
        accumulate=4,
        class_weight="inverse_sqrt",
    ),
    # A stronger network from timm, for a card with 8 GB, or patience. Not run with pretrained weights yet.
    "convnext": Recipe(
        backbone="convnext_tiny.in12k_ft_in1k",
        stages=(Stage("head", 2, 1e-3, 160), Stage("all", 10, 2e-4, 192), Stage("all", 4, 5e-5, 224)),
        micro_batch=16,
        accumulate=4,
        class_weight="inverse_sqrt",
        layer_decay=0.7,
    ),
}
