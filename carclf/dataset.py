"""Manifest + cache -> what the network learns from: labels, weights, and the photos of each optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from carclf import augment, mixing
from carclf.cache import TensorCache
from carclf.manifest import set_aside, usable
from carclf.objective import class_weights
from carclf.recipes import Recipe

ORDER, VIEWS = 0, 1  # the two streams of random numbers of an epoch
TURN = 0.6180339887  # golden ratio: a repeated photo's random numbers, moved on by this, are again evenly spread


@dataclass(frozen=True)
class Window:
    """The photos of one optimizer step, and all that is random about them.

    Attributes
    ----------
    positions : int64 [n], which photos of train
    draws : float32 [n, augment.DRAWS + mixing.DRAWS], random numbers from 0 to 1 of each photo's view
    view : int, the same for windows that show their photos in the same views
    seed : int, of dropout
    """

    positions: np.ndarray
    draws: torch.Tensor
    view: int
    seed: int

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Dataset:
    """Rows, labels and weights, in the manifest's order.

    Attributes
    ----------
    labels : int64 [len(manifest)], -1 where a row is not used
    weights : float32 [n_classes], mean 1 over the photos of train
    log_share : float32 [n_classes], log of each brand's share in train
    train, valid : int64, rows of the manifest
    """

    cache: TensorCache
    classes: tuple[str, ...]
    labels: torch.Tensor
    weights: torch.Tensor
    log_share: torch.Tensor
    train: np.ndarray
    valid: np.ndarray
    paths: np.ndarray

    @classmethod
    def of(cls, manifest: pd.DataFrame, cache: TensorCache, class_weight: str = "none") -> Dataset:
        """What can be learned from a manifest with a split.

        Raises
        ------
        ValueError
            Where that is nothing, or the cache is of another manifest.
        """
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
        log_share = (counts / counts.sum()).log()
        weights = class_weights(counts, class_weight)
        return cls(cache, classes, labels, weights, log_share, train, valid, manifest.path.to_numpy())

    def photos(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [n, 3, S, S] and labels int64 [n] of some rows of the manifest."""
        return self.cache.batch(rows), self.labels[rows]

    def left_out(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """Every photo that is neither learned nor validated nor kept for the test: path, brand and the reason."""
        late = manifest.path.map(self.cache.problems.set_index("path").problem)
        problem = manifest.problem.astype(object).where(manifest.problem.notna(), late.astype(object))
        unlearned = (manifest.split == "valid") & ~manifest.brand.isin(self.classes)
        problem = problem.mask(problem.isna() & unlearned, "its brand has no photo in train")
        elsewhere = problem.isna() & manifest.brand.notna() & ~manifest.split.isin(("train", "valid", "test"))
        return set_aside(manifest.assign(problem=problem.mask(elsewhere, "neither in train nor in valid nor in test")))

    def draws(self, seed: int, stage: int, view: int) -> torch.Tensor:
        """Random numbers for one view of every photo of train, float32 [len(train), …].

        They follow from (seed, stage, view, photo) alone, whatever the batch, the order or the process.
        """
        rng = np.random.default_rng([seed, stage, view, VIEWS])
        return torch.from_numpy(rng.random((len(self.train), augment.DRAWS + mixing.DRAWS), np.float32))

    def epoch(self, recipe: Recipe, stage: int, epoch: int, views: int = 0) -> list[Window]:
        """The optimizer steps of an epoch; all that is random follows from (seed, stage, epoch).

        Parameters
        ----------
        views : number of views that take turns from epoch to epoch; 0 is a new one in every epoch
        """
        rng = np.random.default_rng([recipe.seed, stage, epoch, ORDER])
        view = epoch % views if views else epoch
        draws = self.draws(recipe.seed, stage, view)
        if recipe.sampler == "balanced":
            labels = self.labels[self.train]
            chance = (-self.log_share.double()).exp()[labels].numpy()
            positions = rng.choice(len(self.train), len(self.train), p=chance / chance.sum())
            draws = draws[positions]
            if not views:  # a photo that is drawn again is shown in another view
                turns = pd.Series(positions).groupby(positions).cumcount().to_numpy(np.float32)
                draws = (draws + TURN * torch.from_numpy(turns)[:, None]) % 1
        else:
            positions = rng.permutation(len(self.train))
            draws = draws[positions]
        parts = evenly(np.arange(len(positions)), recipe.micro_batch * recipe.accumulate)
        return [Window(positions[part], draws[part], view, int(rng.integers(2**62))) for part in parts]


def evenly(items: np.ndarray, size: int, multiple: int = 1) -> list[np.ndarray]:
    """Divide items into ceil(n / size) parts that differ by one at most; or more, for a multiple of some number.

    Of equal size, so that no short last one weighs its few photos like many, or leaves BatchNorm a single photo.
    """
    return np.array_split(items, multiple * max(1, math.ceil(len(items) / (size * multiple))))
