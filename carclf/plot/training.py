"""Manifests, splits and trainings -> pictures.

One picture draws into an Axes `ax`, or into those of a new figure, and returns it; two side by side draw into an empty
Figure `fig`, or make one, and return it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carclf.data.manifest import require_usable
from carclf.plot.style import DARK, PALE, RIGHT, WIDTH, WRONG, axes, figure, house_style

SPLITS = {"train": "#56B4E9", "valid": "#E69F00", "test": "#0072B2", "set aside": PALE}


@house_style
def brand_counts(manifest: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of the photos of every brand, and of the vehicles in them; most photos on top."""
    rows = require_usable(manifest)
    counts = rows.groupby("brand")["vehicle"].agg(photos="size", vehicles="nunique")
    counts = counts.iloc[::-1].sort_values("photos", kind="stable")
    ax = _bars(ax, counts.index)
    ax.bar_label(ax.barh(range(len(counts)), counts["photos"], color=SPLITS["train"]), fmt="{:,.0f}", size=7, padding=3)
    ax.barh(range(len(counts)), counts["vehicles"], height=0.3, color=RIGHT)
    ax.legend(ax.containers, ["photos", "vehicles in them"], loc="lower right", framealpha=1)
    ax.set_title(f"{len(rows):,} photos of {counts['vehicles'].sum():,} vehicles, {len(counts)} brands")
    return ax


@house_style
def photo_sizes(manifest: pd.DataFrame, cache_size: int | None = None, ax: Axes | None = None) -> Axes:
    """Histogram of the photos' shorter sides; the cache enlarges those below `cache_size` pixels."""
    rows = require_usable(manifest)
    side = rows[["width", "height"]].min(axis=1)
    ax = axes(ax, 0.75 * WIDTH, 3)
    ax.hist(side, np.geomspace(side.min(), side.max() + 1, 40).tolist(), color=SPLITS["train"])
    ax.set(xscale="log", xlabel="shorter side in pixels", ylabel="photos")
    ticks = sorted(part * 2**power for part in (2, 3) for power in range(3, 13))
    ticks = [tick for tick in ticks if side.min() / 1.5 <= tick <= side.max() * 1.5]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    title = f"Half of the photos have a shorter side of {side.median():,.0f} pixels or less"
    if cache_size is not None:
        ax.axvline(cache_size, color=WRONG, linestyle=":")
        title = f"{(side < cache_size).mean():.0%} of the photos have a shorter side below {cache_size} pixels"
    ax.set_title(title)
    return ax


@house_style
def split_counts(manifest: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of the photos of every brand, stacked by split; most photos on top."""
    rows = require_usable(manifest)
    counts = pd.crosstab(rows["brand"], rows["split"].astype(object).fillna("set aside"))
    counts = counts.iloc[::-1].loc[lambda table: table.sum(axis=1).sort_values(kind="stable").index]
    ax, left = _bars(ax, counts.index), np.zeros(len(counts))
    for split in [split for split in SPLITS if split in counts]:
        label = f"{split}: {counts[split].sum():,}"
        ax.barh(range(len(counts)), counts[split], left=left, color=SPLITS[split], label=label)
        left += counts[split].to_numpy()
    ax.legend(loc="lower right")
    ax.set_title(f"{len(rows):,} photos by brand and split")
    return ax


@house_style
def split_scores(scores: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of the accuracy of the same training on each split (`train.fit.score_splits`), with its interval."""
    ax = axes(ax, 0.75 * WIDTH, 1 + 0.45 * len(scores))
    ax.xaxis.set_major_formatter("{x:.0%}")
    reach = [scores["accuracy"] - scores["low"], scores["high"] - scores["accuracy"]]
    colours = [WRONG if share > 0 else RIGHT for share in scores["with_sibling_in_train"]]
    names = [f"{name}\n{row.with_sibling_in_train:.0%} with a sibling in train" for name, row in scores.iterrows()]
    ax.barh(names, scores["accuracy"], xerr=reach, color=colours, ecolor=DARK, height=0.6)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="accuracy on valid, with 95 % interval over vehicles", xlim=(0, 1))
    ax.set_title("The same training, measured on each way to split the photos")
    return ax


@house_style
def training_curves(history: pd.DataFrame, fig: Figure | None = None) -> Figure:
    """Loss and scores after every epoch (a row of `history`), with the start of each stage marked."""
    fig = figure(fig, WIDTH, 3.8)
    loss, score = (axes(ax) for ax in fig.subplots(1, 2))
    for ax, names in (loss, ["train_loss", "valid_loss"]), (score, ["valid_accuracy", "valid_macro_recall"]):
        for name in names:
            ax.plot(range(1, len(history) + 1), history[name], "o-", label=name.replace("_", " "))
        for first in _mark_stages(ax, history):
            label = f"{history['unfreeze'].iloc[first]}, {history['size'].iloc[first]} px"
            place = ax.get_xaxis_transform()
            ax.text(first + 0.5, 0.98, label, transform=place, va="top", rotation="vertical", size=7, color=DARK)
        ax.locator_params(axis="x", integer=True)
        ax.legend(loc="best")
    loss.set(xlabel="epoch", ylabel="loss, nats per photo", title="Loss")
    best = history["valid_accuracy"].max()
    score.set(xlabel="epoch", ylabel="share", title=f"Scores on valid: best accuracy {best:.1%}")
    score.yaxis.set_major_formatter("{x:.0%}")
    return fig


@house_style
def training_steps(steps: pd.DataFrame, fig: Figure | None = None) -> Figure:
    """Learning rate and loss of every optimizer step (a row of `Run.steps`), with the start of each stage marked."""
    fig = figure(fig, WIDTH, 3.8)
    lr, loss = (axes(ax) for ax in fig.subplots(1, 2))
    number = np.arange(1, len(steps) + 1)
    lr.plot(number, steps["lr"])
    loss.plot(number, steps["loss"], color=PALE, linewidth=1, label="of each step")
    near = max(1, len(steps) // 40)
    mean = steps["loss"].rolling(near, min_periods=1, center=True).mean()
    loss.plot(number, mean, label=f"mean of {near} steps")
    for ax in lr, loss:
        _mark_stages(ax, steps)
    loss.legend(loc="best")
    lr.set(xlabel="optimizer step", ylabel="learning rate of the head", title="Learning rate: one OneCycle per stage")
    loss.set(xlabel="optimizer step", ylabel="loss, nats per photo", title="Loss on train")
    return fig


@house_style
def range_test(table: pd.DataFrame, suggestion: float | None = None, ax: Axes | None = None) -> Axes:
    """Loss while the learning rate grows (the table of `find_lr`), with the suggested lr marked."""
    ax = axes(ax, 0.6 * WIDTH, 3.8)
    ax.plot(table["lr"], table["loss"], color=PALE, linewidth=1, label="of each step")
    ax.plot(table["lr"], table["smoothed"], label="smoothed")
    if suggestion is not None:
        ax.axvline(suggestion, color=WRONG, linestyle="--", label=f"suggested: {suggestion:.1g}")
    ax.legend(loc="best")
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss, nats per photo")
    ax.set_title("Learning rate range test")
    return ax


def _bars(ax: Axes | None, names: Sequence[str]) -> Axes:
    """Axes with one row per brand, as high as they need, so that every name can be read."""
    row = 0.2 if len(names) <= 60 else 0.15  # inches
    ax = axes(ax, 0.75 * WIDTH, 1.2 + row * len(names))
    ax.set_yticks(range(len(names)), names, size=45 * row, parse_math=False)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="photos", ylabel="brand", ylim=(-0.6, len(names) - 0.4))
    return ax


def _mark_stages(ax: Axes, table: pd.DataFrame) -> np.ndarray:
    """Draw a line before the first row of each stage; returns those rows."""
    starts = np.flatnonzero(table["stage"].ne(table["stage"].shift()))
    for first in starts:
        ax.axvline(first + 0.5, color="#999999", linestyle=":", linewidth=1)
    return starts
