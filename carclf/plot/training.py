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
from carclf.errors import counted
from carclf.plot.style import (
    DARK,
    PALE,
    RATES,
    RIGHT,
    WIDTH,
    WRONG,
    axes,
    figure,
    house_style,
    legend_above,
    nothing,
    nothing_page,
    percent,
    rate,
)

SPLITS = {"train": "#56B4E9", "valid": "#E69F00", "test": "#0072B2", "set aside": PALE}
LOSS = "loss per photo (0 is perfect)"
UNUSABLE = "no photo is readable and carries a brand"


@house_style
def brand_counts(manifest: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of the photos of every brand, and of the vehicles in them if these are fewer; most photos on top."""
    if (rows := _usable(manifest)).empty:
        return nothing(UNUSABLE, ax)
    counts = rows.groupby("brand")["vehicle"].agg(photos="size", vehicles="nunique")
    counts = counts.iloc[::-1].sort_values("photos", kind="stable")
    ax, vehicles = _bars(ax, counts.index), counts["vehicles"].sum()
    ax.bar_label(ax.barh(range(len(counts)), counts["photos"], color=SPLITS["train"]), fmt="{:,.0f}", size=7, padding=3)
    low, high = counts["photos"].iloc[[0, -1]]
    each = "" if len(counts) == 1 else f" with {low:,} each" if low == high else f" with {low:,} to {high:,} each"
    of = "each of another vehicle" if vehicles == len(rows) > 1 else f"of {counted(vehicles, 'vehicle')}"
    title = f"{counted(len(rows), 'photo')} {of}, {counted(len(counts), 'brand')}{each}"
    ax.set_label(f"Most are {counts.index[-1]}: {high:,}, fewest {counts.index[0]}: {low:,}" if each else "")
    if vehicles < len(rows):
        ax.barh(range(len(counts)), counts["vehicles"], height=0.3, color=RIGHT)
        legend_above(ax, title, ax.containers, ["photos", "vehicles in them"])
    else:
        ax.set_title(title)
    return ax


@house_style
def photo_sizes(manifest: pd.DataFrame, cache_size: int | None = None, ax: Axes | None = None) -> Axes:
    """Histogram of the photos' shorter sides; the cache enlarges those below `cache_size` pixels."""
    if (rows := _usable(manifest)).empty:
        return nothing(UNUSABLE, ax)
    side = rows[["width", "height"]].min(axis=1)
    ax = axes(ax, 0.75 * WIDTH, 3)
    ax.hist(side, np.geomspace(side.min(), side.max() + 1, 40).tolist(), color=SPLITS["train"])
    ax.set(xscale="log", xlabel="shorter side in pixels", ylabel="photos")
    ticks = sorted(part * 2**power for part in (2, 3) for power in range(3, 13))
    ticks = [tick for tick in ticks if side.min() / 1.5 <= tick <= side.max() * 1.5]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.locator_params(axis="y", integer=True)
    title = f"Half of {counted(len(side), 'photo')} have a shorter side of {side.median():,.0f} pixels or less"
    if cache_size is not None:
        ax.axvline(cache_size, color=WRONG, linestyle=":")
        below = side < cache_size
        title = (
            f"{percent(below.mean())} of {counted(len(side), 'photo')} have a shorter side below {cache_size} pixels"
        )
    ax.set_title(title)
    ax.set_label(f"The shorter sides are {side.min():,.0f} to {side.max():,.0f} pixels")
    return ax


@house_style
def split_counts(manifest: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of the photos of every brand, stacked by split; most photos on top."""
    if (rows := _usable(manifest)).empty:
        return nothing(UNUSABLE, ax)
    counts = pd.crosstab(rows["brand"], rows["split"].astype(object).fillna("set aside"))
    counts = counts.iloc[::-1].loc[lambda table: table.sum(axis=1).sort_values(kind="stable").index]
    ax, left = _bars(ax, counts.index), np.zeros(len(counts))
    for split in [split for split in SPLITS if split in counts]:
        label = f"{split}: {counts[split].sum():,}"
        ax.barh(range(len(counts)), counts[split], left=left, color=SPLITS[split], label=label)
        left += counts[split].to_numpy()
    legend_above(ax, f"{counted(len(rows), 'photo')} of {counted(len(counts), 'brand')} by split")
    return ax


@house_style
def split_scores(scores: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bars of the accuracy of the same training on each split (`train.fit.score_splits`), with its interval."""
    if scores.empty:
        return nothing("the comparison of splits was skipped", ax)
    ax = axes(ax, 0.75 * WIDTH, 1 + 0.45 * len(scores), shares="x")
    reach = [scores["accuracy"] - scores["low"], scores["high"] - scores["accuracy"]]
    colours = [WRONG if share > 0 else RIGHT for share in scores["with_sibling_in_train"]]
    siblings = [f"{percent(share)} with a sibling in train" for share in scores["with_sibling_in_train"]]
    names = [f"{name}\n{share}" for name, share in zip(scores.index, siblings, strict=True)]
    ax.barh(names, scores["accuracy"], xerr=reach, color=colours, ecolor=DARK, height=0.6)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="accuracy on valid, with 95 % interval over vehicles", xlim=(0, 1))
    title = "The same training, measured on each way to split the photos"
    if len(scores) == 1:
        title = "One training: " + ("the ways to split are the same here" if " or " in scores.index[0] else "one split")
    ax.set_title(title)
    found = zip(scores.index, scores["accuracy"], siblings, strict=True)
    ax.set_label(", ".join(f"{name}: accuracy {percent(share)}, {photos}" for name, share, photos in found))
    return ax


@house_style
def training_curves(history: pd.DataFrame, fig: Figure | None = None) -> Figure:
    """Loss and scores after every epoch (a row of `history`), with the start of each stage marked."""
    if history.empty:
        return nothing_page("no epoch has ended yet", fig)
    fig = figure(fig, WIDTH, 3.8)
    loss, score = (axes(ax, shares=shares) for ax, shares in zip(fig.subplots(1, 2), ("", "y"), strict=True))
    for ax, names in (loss, ["train_loss", "valid_loss"]), (score, ["valid_accuracy", "valid_macro_recall"]):
        for name in names:
            ax.plot(range(1, len(history) + 1), history[name], "o-", label=name.replace("_", " "))
        for first in _mark_stages(ax, history):
            label = f"{history['unfreeze'].iloc[first]}, {history['size'].iloc[first]} px"
            place = ax.get_xaxis_transform()
            ax.text(first + 0.5, 0.98, label, transform=place, va="top", rotation="vertical", size=7, color=DARK)
        ax.locator_params(axis="x", integer=True, min_n_ticks=1)
        ax.set_xlim(0.3, len(history) + 0.5)
        ax.legend(loc="best")
    last = history["valid_loss"].iloc[-1]
    loss.set(xlabel="epoch", ylabel=LOSS, title=f"Loss after {counted(len(history), 'epoch')}: {last:.2f} on valid")
    best = percent(history["valid_accuracy"].max(), 1)
    score.set(xlabel="epoch", ylabel="share of valid's photos", title=f"Scores on valid: best accuracy {best}")
    return fig


@house_style
def training_steps(steps: pd.DataFrame, fig: Figure | None = None) -> Figure:
    """Learning rate and loss of every optimizer step (a row of `Run.steps`), with the start of each stage marked."""
    if steps.empty:
        return nothing_page("no step was taken yet", fig)
    fig = figure(fig, WIDTH, 3.8)
    lr, loss = (axes(ax) for ax in fig.subplots(1, 2))
    number = np.arange(1, len(steps) + 1)
    lr.plot(number, steps["lr"])
    near = len(steps) // 40
    loss.plot(number, steps["loss"], color=PALE if near > 1 else RIGHT, linewidth=1, label="of each step")
    if near > 1:
        mean = steps["loss"].rolling(near, min_periods=1, center=True).mean()
        loss.plot(number, mean, color=RIGHT, label=f"mean of {near} steps")
    for ax in lr, loss:
        _mark_stages(ax, steps)
    loss.legend(loc="best")
    lr.yaxis.set_major_formatter(RATES)
    highest = rate(float(steps["lr"].max()))
    lr.set(
        xlabel="optimizer step",
        ylabel="learning rate of the head",
        title=f"Learning rate: one OneCycle per stage, up to {highest}",
    )
    loss.set(xlabel="optimizer step", ylabel=LOSS, title=f"Loss on train in {counted(len(steps), 'step')}")
    return fig


@house_style
def range_test(table: pd.DataFrame, suggestion: float | None = None, ax: Axes | None = None) -> Axes:
    """Loss while the learning rate grows (the table of `find_lr`), with the suggested lr marked."""
    if table.empty:
        return nothing("no step was taken", ax)
    ax = axes(ax, 0.6 * WIDTH, 3.8)
    ax.plot(table["lr"], table["loss"], color=PALE, linewidth=1, label="of each step")
    ax.plot(table["lr"], table["smoothed"], label="smoothed")
    if suggestion is not None:
        ax.axvline(suggestion, color=WRONG, linestyle="--", label=f"suggested: {rate(suggestion)}")
    ax.legend(loc="best")
    ax.set(xscale="log", xlabel="learning rate", ylabel=LOSS)
    ax.xaxis.set_major_formatter(RATES)
    ax.set_title(f"Learning rate range test of {counted(len(table), 'step')}")
    return ax


def _usable(manifest: pd.DataFrame) -> pd.DataFrame:
    """The photos that `require_usable` gives; empty if there is none."""
    return require_usable(manifest) if (manifest["problem"].isna() & manifest["brand"].notna()).any() else manifest[:0]


def _bars(ax: Axes | None, names: Sequence[str]) -> Axes:
    """Axes with one row per brand, as high as they need, so that every name can be read."""
    row = 0.2 if len(names) <= 60 else 0.15  # inches
    ax = axes(ax, 0.75 * WIDTH, 1.4 + row * len(names))
    ax.set_yticks(range(len(names)), names, size=45 * row, parse_math=False)
    ax.grid(axis="y", visible=False)
    ax.locator_params(axis="x", integer=True)
    ax.set(xlabel="photos", ylabel="brand", ylim=(-0.6, len(names) - 0.4))
    return ax


def _mark_stages(ax: Axes, table: pd.DataFrame) -> np.ndarray:
    """Draw a line before the first row of each stage; returns those rows."""
    starts = np.flatnonzero(table["stage"].ne(table["stage"].shift()))
    for first in starts:
        ax.axvline(first + 0.5, color="#999999", linestyle=":", linewidth=1)
    return starts
