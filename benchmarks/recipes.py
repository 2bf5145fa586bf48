"""One setting of the recipe at a time, at a reduced scale, against the same baseline on the same photos.

python benchmarks/recipes.py path/to/photos --out runs/recipes

Each arm is a run that goes on where it was stopped. The table compares accuracy on valid photo by photo (a paired
bootstrap over vehicles), so only differences whose interval leaves out zero mean anything. Test is not touched.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

import carclf
from carclf.dataset import Dataset
from carclf.models import head_of

BASE = carclf.Recipe(stages=(("head", 3, 3e-3, 96), ("all", 4, 1e-3, 96)), ema=0.0, clip_norm=0.0)
ARMS = {
    "baseline": {},
    "no label smoothing": {"label_smoothing": 0.0},
    "mixup .2": {"mixup": 0.2},
    "moving average .99": {"ema": 0.99},
    "gradient clipped at 1": {"clip_norm": 1.0},
    "blocks' rates × .8": {"block_decay": 0.8},
    "no class weights": {"class_weight": "none"},
    "class weights inverse": {"class_weight": "inverse"},
    "cutmix 1": {"cutmix": 1.0},
    "balanced sampler": {"class_weight": "none", "sampler": "balanced"},
    "effective number": {"class_weight": "effective_number"},
}
RESAMPLES = 2000


def main() -> None:
    """Train all arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    manifest = carclf.split(carclf.scan(options.photos), seed=0)
    cache = carclf.TensorCache.build(manifest, "cache", 128)
    scored = {}
    for arm in ["baseline", *(a for a in options.arms if a != "baseline")]:
        recipe = replace(BASE, seed=options.seed, **ARMS[arm])
        run = carclf.fit(recipe, manifest, cache, options.out / f"{arm}-{options.seed}".replace(" ", "-"))
        scored[arm] = last_epoch(run, manifest, cache)
        if arm == "no class weights":  # the same network, shifted after training
            scored["logit adjustment 1"] = adjusted(run, manifest, cache)
        table(scored).to_csv(options.out / f"table-{options.seed}.csv")
        print(table(scored).to_string(), flush=True)


def last_epoch(run: carclf.Run, manifest: pd.DataFrame, cache: carclf.TensorCache) -> pd.DataFrame:
    """What the network of the best epoch says of each photo of valid, and what the run took."""
    rows = np.flatnonzero((manifest.split == "valid").to_numpy() & (cache.slots >= 0))
    parts = np.array_split(rows, max(1, len(rows) // 64))
    p = np.concatenate([run.classifier.probabilities(cache.photos[cache.slots[part]]) for part in parts])
    number = {brand: i for i, brand in enumerate(run.classifier.classes)}
    labels = torch.tensor([number[b] for b in manifest.brand.iloc[rows]])
    table = manifest.iloc[rows][["brand", "vehicle"]].reset_index(drop=True)
    table["right"] = p.argmax(1) == labels.numpy()
    table["confidence"] = p.max(1)
    table["loss"] = F.nll_loss(torch.from_numpy(p).clamp_min(1e-9).log(), labels, reduction="none").numpy()
    table.attrs["minutes"] = run.history.seconds.sum() / 60
    return table


def adjusted(run: carclf.Run, manifest: pd.DataFrame, cache: carclf.TensorCache) -> pd.DataFrame:
    """The same after post-hoc logit adjustment."""
    data = Dataset.of(manifest, cache)
    with torch.no_grad():
        head_of(run.classifier.model, BASE.backbone).bias -= data.log_share
    return last_epoch(run, manifest, cache)


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error over 15 equal bins of confidence."""
    bins = table.groupby((table.confidence * 15).astype(int))
    return float((bins.size() / len(table) * (bins.right.mean() - bins.confidence.mean()).abs()).sum())


def table(scored: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row an arm: scores on valid in per cent, and the difference from the baseline with its interval."""
    rng = np.random.default_rng(0)
    base = scored["baseline"]
    vehicles = base.groupby("vehicle").indices
    groups = list(vehicles.values())
    draws = [np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(RESAMPLES)]
    rows = {}
    for arm, one in scored.items():
        gain = one.right.to_numpy(float) - base.right.to_numpy(float)
        low, high = np.quantile([gain[d].mean() for d in draws], [0.025, 0.975])
        rows[arm] = {
            "accuracy": 100 * one.right.mean(),
            "macro recall": 100 * one.groupby("brand").right.mean().mean(),
            "difference": 100 * gain.mean(),
            "low": 100 * low,
            "high": 100 * high,
            "loss": one.loss.mean(),
            "calibration error": 100 * calibration_error(one),
            "minutes": one.attrs["minutes"],
        }
    return pd.DataFrame(rows).T.rename_axis("arm").round(2)


if __name__ == "__main__":
    main()
