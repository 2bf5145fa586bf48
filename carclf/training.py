"""Recipe -> trained model: stages of gradual unfreezing, a OneCycle each, exact accumulation, checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from carclf import checkpoints, devices
from carclf.augment import Augment
from carclf.cache import TensorCache
from carclf.classifier import Card, Classifier
from carclf.files import write_text, writing
from carclf.manifest import usable
from carclf.models import build_model, head_name, normalisation, set_trainable
from carclf.objective import CLASS_WEIGHTS, class_weights, one_cycle, weighted_loss


@dataclass(frozen=True)
class Stage:
    """Some epochs with one OneCycle."""

    unfreeze: str  # "head", a block's name as `carclf.blocks` gives it (it and all above train), or "all"
    epochs: int
    max_lr: float  # peak of the OneCycle
    size: int  # side of the training photos in pixels

    @classmethod
    def of(cls, stage: Stage | dict | list | tuple) -> Stage:
        """A stage from what a notebook (list) or a recipe.json (dict) holds."""
        return stage if isinstance(stage, cls) else cls(**stage) if isinstance(stage, dict) else cls(*stage)


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training; saved with the run, and the run repeats from it."""

    backbone: str = "efficientnet_lite0"
    stages: tuple[Stage, ...] = (
        Stage("head", 1, 3e-3, 112),
        Stage("blocks.5", 1, 1e-3, 112),
        Stage("all", 9, 1e-3, 128),
        Stage("all", 3, 5e-4, 160),
    )
    micro_batch: int = 32  # photos in memory at once
    accumulate: int = 1  # micro-batches an optimizer step
    class_weight: str = "inverse_sqrt"  # "none", "inverse_sqrt" or "inverse" of a brand's photos in train
    label_smoothing: float = 0.1  # share of the target spread evenly over all brands
    weight_decay: float = 0.05  # of AdamW; norms and biases are spared
    augment: dict = field(default_factory=dict)  # strengths that differ from carclf.Augment's
    head: str | None = None  # "linear" or "mlp"; None is the backbone's usual one
    weights: str | None = "imagenet"  # or the path of a state dict; None is random, for tests
    device: str = "auto"
    seed: int = 0

    def __post_init__(self):
        stages = tuple(Stage.of(s) for s in self.stages)
        object.__setattr__(self, "stages", stages)  # the documented way to normalise a frozen dataclass
        if not stages:
            raise ValueError("a recipe needs at least one stage, such as ('all', 5, 1e-3, 128)")
        if self.micro_batch < 3 or self.accumulate < 1:  # from 3 on, dividing evenly leaves no photo alone
            raise ValueError("micro_batch must be at least 3 (BatchNorm needs two photos) and accumulate at least 1")
        if any(s.epochs < 1 or s.size < 32 for s in stages):
            raise ValueError("every stage needs at least 1 epoch and photos of at least 32 pixels")
        if self.class_weight not in CLASS_WEIGHTS:
            raise ValueError(f"class_weight={self.class_weight!r} must be one of: {', '.join(CLASS_WEIGHTS)}")


@dataclass(frozen=True)
class Run:
    """What `fit` returns.

    Attributes
    ----------
    folder : Path with history.csv, recipe.json, split.csv and model/
    history : DataFrame, a row an epoch
    classifier : Classifier, the epoch with the best accuracy on valid
    """

    folder: Path
    history: pd.DataFrame
    classifier: Classifier


def fit(
    recipe: Recipe,
    manifest: pd.DataFrame,
    cache: TensorCache,
    out: str | os.PathLike,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> Run:
    """Train, or go on where an earlier call with the same arguments was stopped.

    Parameters
    ----------
    recipe : Recipe
    manifest : DataFrame from `carclf.split`; train is learned, valid chooses the epoch, test is not touched
    cache : TensorCache built from this manifest
    out : folder of the run
    on_epoch : called with the history after each epoch, to draw curves

    Raises
    ------
    ValueError
        Where the data cannot be trained on, or the run in `out` was begun with other settings or data.
    """
    out = Path(out)
    data = _Data.of(manifest, cache, recipe)
    device = devices.pick(recipe.device)
    state = checkpoints.load(out, _identity(recipe, data))
    torch.manual_seed(recipe.seed)  # the new head's weights
    model = build_model(recipe.backbone, len(data.classes), recipe.weights, recipe.head)
    model.to(device.torch, memory_format=device.memory_format)
    if state.model is not None:
        model.load_state_dict(state.model)
    for stage in recipe.stages:
        set_trainable(model, stage.unfreeze)  # a block that is not there is refused now and not hours later
    _begin(out, recipe, manifest)

    for number, stage in enumerate(recipe.stages):
        if number < state.stage:
            continue
        set_trainable(model, stage.unfreeze)
        optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=stage.max_lr)
        if state.optimizer is not None:
            optimizer.load_state_dict(state.optimizer)
        for epoch in range(state.epoch, stage.epochs):
            began = time.monotonic()
            set_trainable(model, stage.unfreeze)  # validation left all of it in eval
            train_loss = _train_epoch(model, optimizer, recipe, number, epoch, data, device)
            seconds = time.monotonic() - began
            row = {"stage": number, "epoch": len(state.history), "unfreeze": stage.unfreeze, "size": stage.size}
            row |= {"lr": optimizer.param_groups[0]["lr"], "train_loss": train_loss}
            row |= _validate(model, recipe, stage.size, data, device)
            row |= {"photos_per_second": len(data.train) / seconds, "seconds": time.monotonic() - began}
            state.history.append(row)
            if row["valid_accuracy"] >= max(h["valid_accuracy"] for h in state.history):
                _save_model(model, recipe, stage.size, data, state.history, out)
            state.stage, state.epoch = number, epoch + 1
            checkpoints.save(out, state, model, optimizer)
            if on_epoch is not None:
                on_epoch(pd.DataFrame(state.history))
        state.epoch, state.optimizer = 0, None
    return Run(out, pd.DataFrame(state.history), Classifier.load(out / "model", recipe.device))


@dataclass(frozen=True)
class _Data:
    """Rows, labels and weights, in the manifest's order."""

    cache: TensorCache
    classes: tuple[str, ...]
    labels: torch.Tensor  # int64 [len(manifest)], -1 where a row is not used
    weights: torch.Tensor  # float32 [n_classes], mean 1 over the photos of train
    train: np.ndarray  # rows of the manifest
    valid: np.ndarray
    paths: np.ndarray

    @classmethod
    def of(cls, manifest: pd.DataFrame, cache: TensorCache, recipe: Recipe) -> _Data:
        if "split" not in manifest:
            raise ValueError("the manifest has no column 'split'; call carclf.split(manifest) first")
        if cache.paths != manifest.path.tolist():
            raise ValueError("the cache was built from another manifest; call TensorCache.build with this one")
        good = manifest.index.isin(usable(manifest).index) & (cache.slots >= 0)
        train, valid = (np.flatnonzero(good & (manifest.split == s).to_numpy()) for s in ("train", "valid"))
        brands = manifest.brand.to_numpy()
        valid = valid[np.isin(brands[valid], brands[train])]  # of a brand never learned there is nothing to choose
        if not len(train) or not len(valid):
            counts = f"{len(train)} photos to train and {len(valid)} to validate"
            raise ValueError(f"{counts}; add photos, of at least three vehicles a brand")
        classes = tuple(sorted(set(brands[train])))
        number = {brand: i for i, brand in enumerate(classes)}
        labels = torch.tensor([number.get(brand, -1) for brand in brands])
        counts = torch.bincount(labels[train], minlength=len(classes))
        weights = class_weights(counts, recipe.class_weight)
        return cls(cache, classes, labels, weights, train, valid, manifest.path.to_numpy())


def _train_epoch(model, optimizer, recipe, number, epoch, data, device) -> float:
    """One pass over train; the mean loss of a photo."""
    stage = recipe.stages[number]
    augment = _augment(recipe, stage.size)
    # All that is random follows from (seed, stage, epoch): an epoch after a resume is the epoch it would have been.
    rng = np.random.default_rng([recipe.seed, number, epoch])
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    windows = _windows(rng.permutation(data.train), recipe.micro_batch * recipe.accumulate)
    first, steps = epoch * len(windows), stage.epochs * len(windows)
    title = f"stage {number + 1}/{len(recipe.stages)} epoch {epoch + 1}/{stage.epochs}"
    total = torch.zeros((), dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):  # of all devices would warn where there are several
        torch.manual_seed(int(rng.integers(2**63)))  # dropout
        for step, window in enumerate(tqdm(windows, title, unit="step", leave=False), first):
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(step, steps, stage.max_lr)
            loss = _window_backward(model, window, augment, generator, recipe, data, device)
            if not math.isfinite(loss):
                raise ArithmeticError(
                    f"the loss is {loss} at {title}, step {step}, rate {group['lr']:.2g}; lower max_lr of this stage. "
                    "The last checkpoint is whole: the same call goes on from it"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss * len(window)
    return float(total) / len(data.train)


def _windows(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Divide rows into ceil(n / size) windows, one optimizer step each, that differ by one photo at most.

    Of equal size, so that no short last window weighs its few photos like many, or leaves BatchNorm a single one.
    """
    return np.array_split(rows, math.ceil(len(rows) / size))


def _window_backward(model, window, augment, generator, recipe, data, device) -> float:
    """Gradient of one window as if it were one batch; its weighted mean loss."""
    weight_sum = data.weights[data.labels[window]].sum()
    loss_sum = 0.0
    for rows in _windows(window, recipe.micro_batch):
        x = augment(data.cache.batch(rows).to(device.torch), generator)
        labels = data.labels[rows]
        weights = data.weights[labels] / weight_sum
        with device.autocast():
            logits = model(x.contiguous(memory_format=device.memory_format))
        loss = weighted_loss(logits, labels.to(device.torch), weights.to(device.torch), recipe.label_smoothing)
        loss.backward()
        loss_sum += loss.item()
    return loss_sum


@torch.inference_mode()
def _validate(model, recipe, size, data, device) -> dict[str, float]:
    """Loss (unweighted, without smoothing), accuracy and macro recall on valid."""
    model.eval()
    augment = _augment(recipe, size).plain()
    loss, hit = [], []
    for rows in _windows(data.valid, 2 * recipe.micro_batch):
        x = augment(data.cache.batch(rows).to(device.torch))
        with device.autocast():
            logits = model(x.contiguous(memory_format=device.memory_format)).float().cpu()
        labels = data.labels[rows]
        loss.append(F.cross_entropy(logits, labels, reduction="none"))
        hit.append((logits.argmax(1) == labels).float())
    loss, hit, labels = torch.cat(loss), torch.cat(hit), data.labels[data.valid]
    recall = pd.Series(hit.numpy()).groupby(labels.numpy()).mean()
    return {
        "valid_loss": loss.mean().item(),
        "valid_accuracy": hit.mean().item(),
        "valid_macro_recall": float(recall.mean()),
    }


def _augment(recipe: Recipe, size: int) -> Augment:
    mean, std = normalisation(recipe.backbone)
    return Augment(size, mean, std, **recipe.augment)


def _groups(model: nn.Module, weight_decay: float) -> Iterator[dict]:
    """Parameters that train: those with weight decay, and norms and biases without."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    yield {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay}
    yield {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}


def _save_model(model, recipe, size, data, history, out: Path) -> None:
    head = head_name(recipe.backbone, recipe.head)
    training = {"recipe": asdict(recipe), "train_photos": len(data.train), "best_epoch": history[-1]}
    card = Card(recipe.backbone, head, data.classes, size, data.cache.size, training=training)
    Classifier(model, card, recipe.device).save(out / "model")


def _identity(recipe: Recipe, data: _Data) -> dict:
    """What must not change between the calls that make one run."""
    rows = "\n".join(f"{s} {data.paths[r]} {data.labels[r]}" for s in ("train", "valid") for r in getattr(data, s))
    return {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "classes": list(data.classes),
        "cache_size": data.cache.size,
        "data": checkpoints.digest(rows),
    }


def _begin(out: Path, recipe: Recipe, manifest: pd.DataFrame) -> None:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_text(out / "split.csv", manifest.to_csv(index=False, lineterminator="\n"))
    write_text(out / "recipe.json", json.dumps(asdict(recipe), indent=1))
