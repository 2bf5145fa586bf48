"""Predictions to pictures: the tables of `evaluation` and its neighbours, with matplotlib only.

Every function takes an Axes `ax`, or makes a figure that fits, and returns the Axes; `style` has the other manners.
"""

import numpy as np
from matplotlib.colors import PowerNorm

from carclf import evaluation
from carclf.calibration import expected_calibration_error, reliability_table
from carclf.style import DARK, PALE, RIGHT, WIDTH, WRONG, axes, house_style
from carclf.thresholds import threshold_table


@house_style
def confusion_matrix(predictions, ax=None):
    """Where each brand's photos went: blue the share named rightly, orange the shares that were mistaken.

    Takes a predictions table, or a confusion table as `evaluation.confusion` makes it. A row holds shares of
    one true brand's photos, and is grey where there are none. Brands taken for each other stand together.
    """
    counts = evaluation.ordered(_counts(predictions))
    n = len(counts)
    # Beyond 60 brands, names stand on all four sides, every other one on each: twice the room, at the same width.
    side = np.clip(0.45 * n, 3, 8 if n <= 60 else WIDTH - 2.9)  # inches
    ax = axes(ax, side + (2 if n <= 60 else 2.9), side + (1.5 if n <= 60 else 2.2))
    size = np.clip(72 * side / n * (0.9 if n <= 60 else 1.7), 5, 9)
    _cells(ax, evaluation.row_shares(counts), size, numbers=n <= 16, sides=1 if n <= 60 else 2)
    photos = counts.to_numpy().sum()
    right = np.trace(counts) / photos
    ax.set_title(f"{photos:,} photos of {n} brands, {right:.1%} named rightly")
    return ax


@house_style
def confusion_zoom(predictions, k=12, ax=None):
    """The `k` brands with the most photos mistaken among them, and the share of each that went to all others.

    Takes what `confusion_matrix` takes; a row holds shares of all photos of its brand. The block grows from the worst
    pair, by the brand that has most mistakes in common with those chosen.
    """
    counts = _counts(predictions)
    chosen = _worst_block(counts.to_numpy(), min(k, len(counts)))
    block = evaluation.ordered(counts.iloc[chosen, chosen])
    rows = counts.loc[block.index]
    shares = evaluation.row_shares(block.assign(**{"all others": rows.sum(axis=1) - block.sum(axis=1)}))
    shares.index = [f"{brand} ({photos:,})" for brand, photos in rows.sum(axis=1).items()]
    ax = axes(ax, 0.9 * WIDTH, 0.42 * len(block) + 2.2)
    _cells(ax, shares, 9, numbers=True)
    ax.axvline(len(block) - 0.5, color=DARK, linewidth=0.8)
    ax.set_ylabel("true brand (its photos), share of them")
    mistakes = [int(table.sum() - np.trace(table)) for table in (block.to_numpy(), counts.to_numpy())]
    ax.set_title(f"{len(block)} brands taken for each other: {mistakes[0]:,} of {mistakes[1]:,} mistakes")
    return ax


def _counts(predictions):
    return evaluation.confusion(predictions) if "top5" in predictions else predictions


def _worst_block(counts, k):
    """Places of `k` brands that share mistakes, in a confusion table int [n, n]."""
    shared = counts + counts.T
    np.fill_diagonal(shared, 0)
    chosen = [int(shared.max(axis=1).argmax())]
    while len(chosen) < k:
        with_chosen = shared[:, chosen].sum(axis=1)
        with_chosen[chosen] = -1
        chosen.append(int(with_chosen.argmax()))
    return chosen


def _cells(ax, shares, size, numbers, sides=1):
    """Draw a table of shares as coloured cells, the diagonal in blue and the others in orange, with its names."""
    _names(ax, shares, size, sides)
    shares = shares.to_numpy()
    for row in np.flatnonzero(np.isnan(shares[:, 0])):
        ax.axhspan(row - 0.5, row + 0.5, color=PALE)
    here = np.eye(*shares.shape, dtype=bool)
    mistaken = shares[~here & (shares > 0)]
    most = max(0.1, np.quantile(mistaken, 0.98)) if mistaken.size else 0.1  # a brand of one photo would pale the rest
    more = "max" if (mistaken > most).any() else "neither"
    for mask, cmap, label, low, norm, extend in (
        (here, "Blues", "right", 0.55, PowerNorm(1, 0, 1), "neither"),
        (~here, "Oranges", "mistaken", 0.05, PowerNorm(0.5, 0, most), more),  # the root shows the few per cent, too
    ):
        cells = np.ma.masked_where(~mask | ~(shares > 0), shares)
        image = ax.imshow(cells, cmap=cmap, norm=norm, aspect="auto", interpolation="nearest", zorder=1)
        place = ax.inset_axes([1.02 if sides == 1 else 1.17, low, 0.02, 0.38])
        bar = ax.figure.colorbar(image, cax=place, format="{x:.0%}", extend=extend)
        bar.ax.set_title(label, size=9)
        for row, column in np.argwhere(mask & (shares >= 0.005)) if numbers else ():
            ink = "white" if norm(shares[row, column]) > 0.6 else DARK
            ax.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", size=8, color=ink)
    ax.set(xlabel="predicted brand", ylabel="true brand, share of its photos")


def _names(ax, shares, size, sides):
    """Name rows and columns: on one side each, or every other one, which are minor ticks, on the opposite side."""
    for axis, names, near, far in (
        (ax.xaxis, shares.columns, "bottom", "top"),
        (ax.yaxis, shares.index, "left", "right"),
    ):
        turned = {"rotation": 90 if near == "bottom" else 0, "size": size, "parse_math": False}
        for first in range(sides):
            axis.set_ticks(range(first, len(names), sides), names[first::sides], minor=first == 1, **turned)
        shown = {f"label{near}": False, f"label{far}": True, near: False, "labelcolor": DARK}
        axis.set_tick_params(which="minor", grid_color="#e6e6e6", **shown)
    ax.grid(True, which="both")
    ax.tick_params(which="both", length=0, pad=2, grid_linewidth=0.4)  # the grid leads from a cell to its names


@house_style
def risk_coverage(predictions, ax=None, threshold=None):
    """Accuracy of the answers against the share of photos answered, the surest first; `threshold` is marked."""
    table = threshold_table(predictions, np.unique([0, *predictions["confidence"].dropna()]))  # 0: the unknown as well
    ax = axes(ax, percent=True)
    ax.plot(table["coverage"], table["accuracy"], color=RIGHT)
    if threshold is not None:
        at = threshold_table(predictions, [threshold]).iloc[0]
        label = f"threshold {threshold:.2f}: {at['coverage']:.0%} answered, {at['accuracy']:.1%} of them right"
        ax.plot(at["coverage"], at["accuracy"], "o", color=WRONG, markersize=8, label=label)
        ax.legend(loc="lower left")
    ax.set(xlim=(0, 1.01), xlabel="photos answered, the surest first", ylabel="answers that are right")
    ax.set_title(f"{table['accuracy'].iloc[0]:.1%} right when every photo is answered")
    return ax


@house_style
def threshold_curve(predictions, ax=None, threshold=None):
    """Share of photos answered, and of answers that are right, by threshold; `threshold` is marked."""
    table = threshold_table(predictions, np.unique(predictions["confidence"].dropna()))
    ax = axes(ax, percent=True)
    ax.plot(table["threshold"], table["accuracy"], color=RIGHT, label="answers that are right")
    ax.plot(table["threshold"], table["coverage"], color=WRONG, linestyle="--", label="photos answered")
    if threshold is not None:
        ax.axvline(threshold, color=DARK, linestyle=":", label=f"threshold {threshold:.2f}")
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="threshold on the confidence", ylabel="share")
    ax.set_title("What a threshold costs and brings")
    ax.legend(loc="lower left")
    return ax


@house_style
def reliability(predictions, before=None, ax=None, bins=15):
    """Accuracy by confidence with its 95 % interval, and the share of photos in each range of confidence.

    Below the diagonal it claims too much. `before` is the same photos' predictions without the temperature, drawn
    dashed beside it.
    """
    ax, table = axes(ax, 5.5, 5.5, percent=True), reliability_table(predictions, bins)
    shares = table["photos"] / table["photos"].sum()
    ax.bar((table.index + 0.5) / bins, shares, 0.9 / bins, color=PALE, label="share of all photos")
    ax.plot([0, 1], [0, 1], color=DARK, linestyle=":", linewidth=1, label="confidence = accuracy")
    if before is not None:
        raw, error = reliability_table(before, bins), expected_calibration_error(before, bins)
        label = f"accuracy before the temperature, error {error:.1%}"
        ax.plot(raw["confidence"], raw["accuracy"], "s--", color=WRONG, label=label)
    reach = _reach(table, "accuracy", "accuracy_low", "accuracy_high")
    line = {"fmt": "o-", "color": RIGHT, "ecolor": RIGHT + "80", "elinewidth": 1, "label": "accuracy, 95 % interval"}
    ax.errorbar(table["confidence"], table["accuracy"], reach, **line)
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy, share of the photos")
    ax.set_title(f"Expected calibration error {expected_calibration_error(predictions, bins):.1%}")
    # Below the picture: no corner of it is free for every model.
    ax.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.12), ncols=2, fontsize=8, columnspacing=1)
    return ax


@house_style
def brand_scores(predictions, ax=None):
    """Share of each brand's photos that are named rightly, with its 95 % interval over vehicles; best on top."""
    report = evaluation.brand_report(predictions).sort_values("recall", kind="stable")
    ax = _brand_dots(ax, report, "recall", "recall_low", "recall_high", "named rightly, 95 % interval")
    names = [f"{brand} ({photos:,})" for brand, photos in report["photos"].items()]
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.set(xlim=(0, 1.02), xlabel="share of the brand's photos", ylabel="brand (its photos)")
    ax.set_title(f"Half of the brands are named rightly on {report['recall'].median():.0%} of their photos or more")
    return ax


@house_style
def brand_shares(table, ax=None):
    """Each brand's share of the photos, counted and corrected with its interval (`carclf.brand_shares`).

    Largest on top. Where the table has a column `truth`, it is marked, too.
    """
    table = table.sort_values("corrected", kind="stable")
    ax = _brand_dots(ax, table, "corrected", "low", "high", "corrected, 95 % interval")
    place = np.arange(len(table))
    ax.plot(table["counted"], place, "x", color=WRONG, label="counted")
    if "truth" in table:
        ax.plot(table["truth"], place, "|", color="black", markersize=11, markeredgewidth=2, label="truth")
    ax.set(xlabel="share of the photos", ylabel="brand")
    ax.set_xlim(left=0)
    ax.legend(loc="lower right")
    ax.set_title(f"Shares of {len(table)} brands, counted and corrected")
    return ax


def _brand_dots(ax, table, value, low, high, label):
    """Axes with a row a brand, as high as they need: a dot for each value with its interval."""
    row = 0.22 if len(table) <= 60 else 0.16  # inches
    ax = axes(ax, 0.75 * WIDTH, 1.4 + row * len(table))
    ax.errorbar(
        table[value], range(len(table)), xerr=_reach(table, value, low, high), fmt="o", color=RIGHT, label=label
    )
    ax.set_yticks(range(len(table)), table.index, parse_math=False)
    ax.tick_params(axis="y", labelsize=min(9, 45 * row))
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_ylim(-0.8, len(table) - 0.2)
    return ax


def _reach(table, value, low, high):
    """How far an interval reaches below and above each value; float [2, N], never negative."""
    return np.clip([table[value] - table[low], table[high] - table[value]], 0, None)
