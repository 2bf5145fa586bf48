"""Every setting of a training, in two frozen dataclasses that are saved with the run; recipes by name."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from carclf import devices
from carclf.files import write_text
from carclf.objective import CLASS_WEIGHTS

FILE = "recipe.json"
SAMPLERS = ("shuffle", "balanced")
PRECISIONS = ("auto", *devices.PRECISIONS)


@dataclass(frozen=True)
class Stage:
    """Some epochs with one OneCycle."""

    unfreeze: str  # "head", a block's name as `carclf.blocks` gives it (it and all above train), or "all"
    epochs: int
    max_lr: float  # peak of the OneCycle, of the head; earlier blocks may have less, see Recipe.block_decay
    size: int  # side of the training photos in pixels

    @classmethod
    def of(cls, stage: Stage | dict | list | tuple) -> Stage:
        """A stage from what a notebook (list) or a recipe.json (dict) holds."""
        return stage if isinstance(stage, cls) else cls(**stage) if isinstance(stage, dict) else cls(*stage)


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training; saved with the run, and `fit(Recipe.load(run), …)` repeats it.

    Imbalance has three remedies, for the loss, the order or the answer. Weights and the balanced sampler make the
    network believe that rare brands are more common than they are, so its confidences are no longer the chances on
    photos that are distributed like train; "none" keeps them. Logit adjustment (arXiv 2007.07314) trains plainly
    and shifts the finished model's logits, and with them its confidences, towards rare brands; use it alone.
    """

    backbone: str = "efficientnet_lite0"
    stages: tuple[Stage, ...] = (
        Stage("head", 1, 3e-3, 112),
        Stage("blocks.5", 1, 1e-3, 112),
        Stage("all", 9, 1e-3, 128),
        Stage("all", 3, 5e-4, 160),
    )
    micro_batch: int = 32  # photos a process holds in memory at once
    accumulate: int = 1  # micro-batches an optimizer step, of all processes together
    # What the network learns towards
    class_weight: str = "inverse_sqrt"  # of the loss: none, inverse, inverse_sqrt or effective_number
    sampler: str = "shuffle"  # each photo once an epoch, or "balanced": each brand equally often
    logit_adjustment: float = 0.0  # 1 takes the brands' shares in train wholly out of the finished model, 0 not at all
    label_smoothing: float = 0.1  # share of the target spread evenly over all brands
    # What keeps it from learning by heart
    augment: dict = field(default_factory=dict)  # strengths that differ from carclf.Augment's
    mixup: float = 0.0  # photos are blended in pairs, with shares from Beta(this, this); 0 switches it off
    cutmix: float = 0.0  # a box of one photo covers another, its area from Beta(this, this); 0 switches it off
    head_views: int = 2  # random views of each photo that take turns while the head alone trains; 0 is always a new one
    # How it gets there
    weight_decay: float = 0.05  # of AdamW; norms and biases are spared
    block_decay: float = 1.0  # each block's rate is this times that of the block above it
    clip_norm: float = 1.0  # longest gradient, as a Euclidean norm over all parameters; 0 switches it off
    ema: float = 0.0  # decay a step of the weights' moving average, which then is the model; 0 switches it off
    # Where it begins and runs
    head: str | None = None  # "linear" or "mlp"; None is the backbone's usual one
    weights: str | None = "imagenet"  # or the path of a state dict; None is random, for tests
    device: str = "auto"
    precision: str = "auto"  # float32, bfloat16 or float16; "auto" is what the device is fast in
    seed: int = 0

    def __post_init__(self):
        stages = tuple(Stage.of(s) for s in self.stages)
        object.__setattr__(self, "stages", stages)  # the documented way to normalise a frozen dataclass
        if not stages:
            raise ValueError("a recipe needs at least one stage, such as ('all', 5, 1e-3, 128)")
        if self.micro_batch < 3 or self.accumulate < 1:  # from 3 on, dividing evenly leaves no photo alone
            raise ValueError("micro_batch must be at least 3 (BatchNorm needs two photos) and accumulate at least 1")
        if any(s.epochs < 1 or s.size < 32 or not 0 < s.max_lr < float("inf") for s in stages):
            raise ValueError("every stage needs at least 1 epoch, a positive max_lr and photos of at least 32 pixels")
        for name, choices in (("class_weight", CLASS_WEIGHTS), ("sampler", SAMPLERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of: {', '.join(choices)}")
        for name, low, high in RANGES:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} must lie between {low:g} and {high:g}")

    @classmethod
    def load(cls, run: str | os.PathLike) -> Recipe:
        """The recipe of a run's folder.

        Raises
        ------
        ValueError
            Where there is none, or it is of another version.
        """
        path = Path(run) / FILE
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path} holds no recipe of this version ({error}); give the folder of a run") from error

    def save(self, run: Path) -> None:
        """Write recipe.json into a run's folder."""
        write_text(run / FILE, json.dumps(asdict(self), indent=1))


RANGES = (  # setting, smallest, largest
    ("label_smoothing", 0, 0.9),
    ("logit_adjustment", 0, 10),
    ("mixup", 0, 10),
    ("cutmix", 0, 10),
    ("head_views", 0, 1000),
    ("weight_decay", 0, 10),
    ("block_decay", 0.01, 1),
    ("clip_norm", 0, 1e6),
    ("ema", 0, 0.99999),
)

# By name, for `python -m carclf train DIR --recipe NAME`; docs/results.md has what each was measured to give.
RECIPES = {
    # 14 epochs at up to 160 pixels: a first answer.
    "quick": Recipe(),
    # The model that ships: 46 epochs at up to 256 pixels. In a short training such strong
    # augmentation cost points on known models, and won some on photos from other sources.
    "thorough": Recipe(
        stages=(
            ("head", 1, 3e-3, 128),
            ("blocks.2", 12, 1e-3, 128),
            ("blocks.2", 11, 7e-4, 160),
            ("blocks.2", 7, 4e-4, 192),
            ("blocks.2", 5, 2e-4, 224),
            ("blocks.2", 10, 3e-4, 256),
        ),
        label_smoothing=0.05,
        augment={
            "rotate": 8.0,
            "zoom_in": 0.4,
            "zoom_out": 0.5,
            "aspect": 0.25,
            "erase": 0.3,
            "erase_area": 0.25,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.5,
            "hue": 0.03,
            "grey": 0.1,
            "blur": 0.7,
        },
    ),
    # For a graphics card of 4 GB, with the head of three layers. Not run with pretrained weights yet.
    "resnet50": Recipe(
        backbone="resnet50",
        stages=(("head", 2, 3e-3, 160), ("layer4", 4, 5e-4, 160), ("layer2", 8, 3e-4, 192), ("layer2", 4, 1e-4, 224)),
        micro_batch=16,
        accumulate=4,
    ),
    # A stronger network of timm, for a card of 8 GB or much patience. Not run with pretrained weights yet.
    "convnext": Recipe(
        backbone="convnext_tiny.in12k_ft_in1k",
        stages=(("head", 2, 1e-3, 160), ("all", 10, 2e-4, 192), ("all", 4, 5e-5, 224)),
        micro_batch=16,
        accumulate=4,
        block_decay=0.7,
    ),
}
