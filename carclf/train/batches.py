"""Manifest + cache -> what the network learns from: labels, weights, and the photos of each optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from carclf.data.cache import TensorCache
from carclf.data.manifest import set_aside, usable
from carclf.model import augment
from carclf.train.loss import class_weights
from carclf.train.recipe import Recipe

ORDER, VIEWS = 0, 1  # the two streams of random numbers of an epoch
# Random numbers per photo: the augmentation's, and four that version 0.1 used for mixup. The width of a row decides
# all later numbers, so with another one a run started by that version would not continue bit-exactly.
DRAWS = augment.DRAWS + 4


@dataclass(frozen=True)
class Batch:
    """The photos of one optimizer step and everything random about them."""

    positions: np.ndarray  # int64 [n], indices into `Dataset.train`
    draws: torch.Tensor  # float32 [n, DRAWS], from 0 to 1; they decide each photo's view
    view: int  # batches of the same number show their photos in the same views
    seed: int  # of dropout

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Dataset:
    """Rows, labels and weights, in the manifest's order."""

    cache: TensorCache
    classes: tuple[str, ...]
    labels: torch.Tensor  # int64 [len(manifest)], -1 for rows that are not used
    weights: torch.Tensor  # float32 [n_classes], mean 1 over the photos of train
    train: np.ndarray  # int64, row numbers of the manifest
    valid: np.ndarray  # the same
    paths: np.ndarray

    @classmethod
    def of(cls, manifest: pd.DataFrame, cache: TensorCache, class_weight: str = "none") -> Dataset:
        """What can be learned from a manifest with a split; ValueError if nothing, or the cache does not fit."""
        if "split" not in manifest:
            raise ValueError("the manifest has no column 'split'; call carclf.split(manifest) first")
        if cache.paths != manifest.path.tolist():
            raise ValueError("the cache was built from another manifest; call TensorCache.build with this one")
        good = manifest.index.isin(usable(manifest).index) & (cache.slots >= 0)
        train, valid = (np.flatnonzero(good & (manifest.split == s).to_numpy()) for s in ("train", "valid"))
        brands = manifest.brand.to_numpy()
        valid = valid[np.isin(brands[valid], brands[train])]  # an unlearned brand says nothing about an epoch
        if not len(train) or not len(valid):
            counts = f"{len(train)} photos to train and {len(valid)} to validate"
            raise ValueError(f"{counts}; add photos, of at least three vehicles per brand")
        classes = tuple(sorted(set(brands[train])))
        if len(classes) < 2:
            raise ValueError(f"all photos of train are of one brand, {classes[0]}; add photos of another brand")
        number = {brand: i for i, brand in enumerate(classes)}
        labels = torch.tensor([number.get(brand, -1) for brand in brands])
        weights = class_weights(torch.bincount(labels[train], minlength=len(classes)), class_weight)
        return cls(cache, classes, labels, weights, train, valid, manifest.path.to_numpy())

    def photos(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Photos uint8 [n, 3, S, S] and labels int64 [n] of some rows of the manifest."""
        return self.cache.batch(rows), self.labels[rows]

    def left_out(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """Every photo that is in none of train, valid and test: path, brand and reason."""
        late = manifest.path.map(self.cache.problems.set_index("path").problem)
        problem = manifest.problem.astype(object).where(manifest.problem.notna(), late.astype(object))
        unlearned = (manifest.split == "valid") & ~manifest.brand.isin(self.classes)
        problem = problem.mask(problem.isna() & unlearned, "its brand has no photo in train")
        elsewhere = problem.isna() & manifest.brand.notna() & ~manifest.split.isin(("train", "valid", "test"))
        return set_aside(manifest.assign(problem=problem.mask(elsewhere, "in none of train, valid and test")))

    def draws(self, seed: int, stage: int, view: int) -> torch.Tensor:
        """Random numbers for one view of every photo of train, float32 [len(train), DRAWS].

        They depend on seed, stage, view and photo only, not on batch, order or process.
        """
        rng = np.random.default_rng([seed, stage, view, VIEWS])
        return torch.from_numpy(rng.random((len(self.train), DRAWS), np.float32))

    def epoch(self, recipe: Recipe, stage: int, epoch: int, views: int = 0) -> list[Batch]:
        """The optimizer steps of an epoch; everything random about them depends on seed, stage and epoch only.

        Parameters
        ----------
        views : number of views that take turns from epoch to epoch; 0 is a new one in every epoch
        """
        rng = np.random.default_rng([recipe.seed, stage, epoch, ORDER])
        view = epoch % views if views else epoch
        draws = self.draws(recipe.seed, stage, view)
        order = rng.permutation(len(self.train))
        parts = evenly(order, recipe.micro_batch * recipe.accumulate)
        return [Batch(part, draws[part], view, int(rng.integers(2**62))) for part in parts]


def evenly(items: np.ndarray, size: int, multiple: int = 1) -> list[np.ndarray]:
    """Divide items into as few parts of at most `size` as possible, their number a multiple of `multiple`.

    Their lengths differ by at most one: a short last part would give its few photos the weight of many, or leave
    BatchNorm a single photo.
    """
    return np.array_split(items, multiple * max(1, math.ceil(len(items) / (size * multiple))))
