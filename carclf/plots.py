"""Tables to pictures, with matplotlib only.

Every function draws in the house style (`carclf.mplstyle`), leaves the caller's settings alone and never calls
``show()``. One picture takes an Axes `ax`, or makes a figure that fits, and returns the Axes; several side by side
take an empty Figure `fig`, or make one, and return the Figure. Tables are those of `manifest`, `training` and
`evaluation`. Blue is right and orange is wrong, which colour-blind readers tell apart, and a mark says it again.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm

from carclf import evaluation
from carclf.manifest import NAMING, usable

# Starts the backend now: started inside a style's context, a notebook's backend would be half undone at its end,
# and all figures but the first would stay invisible.
plt.draw_if_interactive()
house_style = plt.style.context(Path(__file__).with_name("carclf.mplstyle"))  # as a decorator: on during each call
WIDTH = 10  # inches: a notebook's column at 100 dots an inch
RIGHT, WRONG, PALE, DARK = "#0072B2", "#D55E00", "#c8c8c8", "#333333"
SPLITS = {"train": "#56B4E9", "valid": "#E69F00", "test": "#0072B2", "set aside": PALE}


def _axes(ax, *figsize, percent=False):
    """The given Axes, or one in a new figure of `figsize` inches, with ticks in the house style."""
    ax = plt.figure(figsize=figsize or None).add_subplot() if ax is None else ax
    rc = plt.rcParams  # matplotlib makes ticks when it draws, after the style's context has ended
    ax.tick_params(color=rc["xtick.color"], labelcolor=rc["xtick.labelcolor"], labelsize=rc["xtick.labelsize"])
    ax.tick_params(grid_color=rc["grid.color"], grid_linewidth=rc["grid.linewidth"])
    for axis in (ax.xaxis, ax.yaxis) if percent else ():
        axis.set_major_formatter("{x:.0%}")
    return ax


def _usable(manifest):
    """The photos that training can use, at least one."""
    rows = usable(manifest)
    if rows.empty:
        raise ValueError(f"none of the {len(manifest)} photos is readable and carries a brand: {NAMING}")
    return rows


def _bars(ax, names):
    """Axes with a row a brand, as high as they need, so that every name can be read."""
    row = 0.2 if len(names) <= 60 else 0.15  # inches
    ax = _axes(ax, 0.75 * WIDTH, 1.2 + row * len(names))
    ax.set_yticks(range(len(names)), names, size=45 * row, parse_math=False)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="photos", ylabel="brand", ylim=(-0.6, len(names) - 0.4))
    return ax


@house_style
def brand_counts(manifest, ax=None):
    """Bars of photos, and of vehicles within them, for every brand; most photos on top."""
    rows = _usable(manifest)
    counts = rows.groupby("brand")["vehicle"].agg(photos="size", vehicles="nunique")
    counts = counts.iloc[::-1].sort_values("photos", kind="stable")
    ax = _bars(ax, counts.index)
    ax.bar_label(ax.barh(range(len(counts)), counts["photos"], color=SPLITS["train"]), fmt="{:,.0f}", size=7, padding=3)
    ax.barh(range(len(counts)), counts["vehicles"], height=0.3, color=RIGHT)
    ax.legend(ax.containers, ["photos", "vehicles they show"], loc="lower right", framealpha=1)
    ax.set_title(f"{len(rows):,} photos of {counts['vehicles'].sum():,} vehicles, {len(counts)} brands")
    return ax


@house_style
def photo_sizes(manifest, cache_size=None, ax=None):
    """Histogram of the photos' shorter sides; those left of `cache_size` pixels are enlarged by the cache."""
    rows = _usable(manifest)
    side = rows[["width", "height"]].min(axis=1)
    ax = _axes(ax, 0.75 * WIDTH, 3)
    bins = np.geomspace(side.min(), side.max() + 1, 40)
    ax.hist(side, bins, color=SPLITS["train"])
    ax.set(xscale="log", xlabel="shorter side in pixels", ylabel="photos")
    ticks = sorted(part * 2**power for part in (2, 3) for power in range(3, 13))
    ticks = [tick for tick in ticks if side.min() / 1.5 <= tick <= side.max() * 1.5]
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
    ax.minorticks_off()
    title = f"Half of the photos have a shorter side of {side.median():,.0f} pixels or less"
    if cache_size is not None:
        ax.axvline(cache_size, color=WRONG, linestyle=":")
        title = f"{(side < cache_size).mean():.0%} of the photos have a shorter side below {cache_size} pixels"
    ax.set_title(title)
    return ax


@house_style
def split_counts(manifest, ax=None):
    """Bars of photos for every brand, stacked by split; most photos on top."""
    rows = _usable(manifest)
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
def split_scores(scores, ax=None):
    """Bars of the accuracy that the same training reaches on each split (`carclf.score_splits`), with its interval."""
    ax = _axes(ax, 0.75 * WIDTH, 1 + 0.45 * len(scores))
    ax.xaxis.set_major_formatter("{x:.0%}")
    reach = [scores["accuracy"] - scores["low"], scores["high"] - scores["accuracy"]]
    colours = [WRONG if share > 0 else RIGHT for share in scores["with_sibling_in_train"]]
    names = [f"{name}\n{row.with_sibling_in_train:.0%} with a sibling in train" for name, row in scores.iterrows()]
    ax.barh(names, scores["accuracy"], xerr=reach, color=colours, ecolor=DARK, height=0.6)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="accuracy on valid, with 95 % interval over vehicles", xlim=(0, 1))
    ax.set_title("The same training, measured on each way to divide the photos")
    return ax


@house_style
def training_curves(history, fig=None):
    """Loss and scores after every epoch (a row of `history`), with the beginning of each stage marked."""
    fig = plt.figure(figsize=(WIDTH, 3.8)) if fig is None else fig
    loss, score = (_axes(ax) for ax in fig.subplots(1, 2))
    for ax, names in (loss, ["train_loss", "valid_loss"]), (score, ["valid_accuracy", "valid_macro_recall"]):
        for name in names:
            ax.plot(range(1, len(history) + 1), history[name], "o-", label=name.replace("_", " "))
        for first in np.flatnonzero(history["stage"].ne(history["stage"].shift())):
            label = f"{history['unfreeze'].iloc[first]}, {history['size'].iloc[first]} px"
            ax.axvline(first + 0.5, color="#999999", linestyle=":", linewidth=1)
            place = {"transform": ax.get_xaxis_transform(), "va": "top", "rotation": "vertical"}
            ax.text(first + 0.5, 0.98, label, size=7, color=DARK, **place)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(loc="best")
    best = history["valid_accuracy"].max()
    loss.set(xlabel="epoch", ylabel="loss, nats a photo", title="Loss")
    score.set(xlabel="epoch", ylabel="share", title=f"Scores on valid: best accuracy {best:.1%}")
    score.yaxis.set_major_formatter("{x:.0%}")
    return fig


@house_style
def training_steps(steps, fig=None):
    """Learning rate and loss of every optimizer step (a row of `Run.steps`), with each stage's beginning marked."""
    fig = plt.figure(figsize=(WIDTH, 3.8)) if fig is None else fig
    rate, loss = (_axes(ax) for ax in fig.subplots(1, 2))
    number = np.arange(1, len(steps) + 1)
    rate.plot(number, steps["rate"])
    loss.plot(number, steps["loss"], color=PALE, linewidth=1, label="of each step")
    near = max(1, len(steps) // 40)
    mean = steps["loss"].rolling(near, min_periods=1, center=True).mean()
    loss.plot(number, mean, label=f"mean of {near} steps")
    for ax in rate, loss:
        for first in np.flatnonzero(steps["stage"].ne(steps["stage"].shift())):
            ax.axvline(first + 0.5, color="#999999", linestyle=":", linewidth=1)
    loss.legend(loc="best")
    rate.set(xlabel="optimizer step", ylabel="learning rate of the head", title="Learning rate: a OneCycle a stage")
    loss.set(xlabel="optimizer step", ylabel="loss, nats a photo", title="Loss on train")
    return fig


@house_style
def range_test(table, suggestion=None, ax=None):
    """Loss while the learning rate grows (the table of `find_lr`), with the suggested rate marked."""
    ax = _axes(ax, 0.6 * WIDTH, 3.8)
    ax.plot(table["rate"], table["loss"], color=PALE, linewidth=1, label="of each step")
    ax.plot(table["rate"], table["smoothed"], label="smoothed")
    if suggestion is not None:
        ax.axvline(suggestion, color=WRONG, linestyle="--", label=f"suggested: {suggestion:.1g}")
    ax.legend(loc="best")
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss, nats a photo", title="Which rate the network can bear")
    return ax


@house_style
def confusion_matrix(predictions, ax=None):
    """Where each brand's photos went: blue the share named rightly, orange the shares that were mistaken.

    Takes a predictions table, or a confusion table as `evaluation.confusion` makes it. A row holds shares of
    one true brand's photos, and is grey where there are none. Brands taken for each other stand together.
    """
    counts = evaluation.ordered(evaluation.confusion(predictions) if "top5" in predictions else predictions)
    shares, n = evaluation.row_shares(counts).to_numpy(), len(counts)
    cell = np.clip(8 / n, 0.08, 0.45)  # inches
    ax, size = _axes(ax, max(3, cell * n) + 2, max(3, cell * n) + 1.5), np.clip(0.9 * 72 * cell, 5, 9)
    ax.set_xticks(range(n), counts.columns, rotation=90, size=size, parse_math=False)
    ax.set_yticks(range(n), counts.index, size=size, parse_math=False)
    ax.tick_params(length=0, pad=2, grid_linewidth=0.4)  # the grid leads from a cell to its names
    for row in np.flatnonzero(np.isnan(shares[:, 0])):
        ax.axhspan(row - 0.5, row + 0.5, color=PALE)
    here = np.eye(n, dtype=bool)
    worst = max(0.1, np.nanmax(shares, where=~here, initial=0))
    for mask, cmap, label, low, norm in (
        (here, "Blues", "right", 0.55, PowerNorm(1, 0, 1)),
        (~here, "Oranges", "mistaken", 0.05, PowerNorm(0.5, 0, worst)),  # the root shows the few per cent, too
    ):
        cells = np.ma.masked_where(~mask | ~(shares > 0), shares)
        image = ax.imshow(cells, cmap=cmap, norm=norm, aspect="auto", interpolation="nearest", zorder=1)
        bar = ax.figure.colorbar(image, cax=ax.inset_axes([1.02, low, 0.02, 0.38]), format="{x:.0%}")
        bar.ax.set_title(label, size=9)
        for row, column in np.argwhere(mask & (shares >= 0.005)) if n <= 16 else ():
            ink = "white" if norm(shares[row, column]) > 0.6 else DARK
            ax.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", size=8, color=ink)
    photos = counts.to_numpy().sum()
    ax.set(xlabel="predicted brand", ylabel="true brand, share of its photos")
    ax.set_title(f"{photos:,} photos of {n} brands, {np.trace(counts) / photos:.1%} named rightly")
    return ax


@house_style
def risk_coverage(predictions, ax=None, threshold=None):
    """Accuracy of the answers against the share of photos answered, the surest first; `threshold` is marked."""
    table = evaluation.threshold_table(predictions, np.unique(predictions["confidence"].dropna()))
    ax = _axes(ax, percent=True)
    ax.plot(table["coverage"], table["accuracy"], color=RIGHT)
    if threshold is not None:
        at = evaluation.threshold_table(predictions, [threshold]).iloc[0]
        label = f"threshold {threshold:.2f}: {at['coverage']:.0%} answered, {at['accuracy']:.1%} of them right"
        ax.plot(at["coverage"], at["accuracy"], "o", color=WRONG, markersize=8, label=label)
        ax.legend(loc="lower left")
    ax.set(xlim=(0, 1.01), xlabel="photos answered, the surest first", ylabel="answers that are right")
    ax.set_title(f"{table['accuracy'].iloc[0]:.1%} right when every photo is answered")
    return ax


@house_style
def threshold_curve(predictions, ax=None, threshold=None):
    """Share of photos answered, and of answers that are right, by threshold; `threshold` is marked."""
    table = evaluation.threshold_table(predictions, np.unique(predictions["confidence"].dropna()))
    ax = _axes(ax, percent=True)
    ax.plot(table["threshold"], table["accuracy"], color=RIGHT, label="answers that are right")
    ax.plot(table["threshold"], table["coverage"], color=WRONG, linestyle="--", label="photos answered")
    if threshold is not None:
        ax.axvline(threshold, color=DARK, linestyle=":", label=f"threshold {threshold:.2f}")
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="threshold on the confidence", ylabel="share")
    ax.set_title("What a threshold costs and brings")
    ax.legend(loc="lower left")
    return ax


@house_style
def reliability(predictions, ax=None, bins=15):
    """Accuracy by confidence, with the share of photos in each range; below the diagonal it claims too much."""
    ax, table = _axes(ax, 5.5, 5, percent=True), evaluation.reliability_table(predictions, bins)
    shares = table["photos"] / table["photos"].sum()
    ax.bar((table.index + 0.5) / bins, shares, 0.9 / bins, color=PALE, label="share of all photos")
    ax.plot([0, 1], [0, 1], color=DARK, linestyle=":", linewidth=1, label="confidence = accuracy")
    ax.plot(table["confidence"], table["accuracy"], "o-", color=RIGHT, label="accuracy")
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy, share of the photos")
    ax.set_title(f"Expected calibration error {evaluation.expected_calibration_error(predictions, bins):.1%}")
    ax.legend(loc="upper left")
    return ax
