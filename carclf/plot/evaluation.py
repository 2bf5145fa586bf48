"""Predictions -> pictures of what a model gets right, and of how far its confidence can be trusted.

Every function draws into an Axes `ax`, or into those of a new figure, and returns it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from carclf.metrics import scores
from carclf.metrics.calibration import expected_calibration_error, reliability_table
from carclf.metrics.thresholds import threshold_table
from carclf.plot.style import DARK, PALE, RIGHT, WIDTH, WRONG, axes, house_style


@house_style
def confusion_matrix(predictions: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Where each brand's photos went: correct answers in blue, mistakes in orange.

    A row has shares of one true brand's photos and is grey if there are none. Brands that are confused stand together.

    Parameters
    ----------
    predictions : a predictions table, or a table of counts from `scores.confusion`
    """
    counts = scores.ordered(_counts(predictions))
    n = len(counts)
    # Beyond 60 brands, names stand on all four sides, every other one on each: twice the room at the same width.
    side = np.clip(0.45 * n, 3, 8 if n <= 60 else WIDTH - 2.9)  # inches
    ax = axes(ax, side + (2 if n <= 60 else 2.9), side + (1.5 if n <= 60 else 2.2))
    size = np.clip(72 * side / n * (0.9 if n <= 60 else 1.7), 5, 9)
    _cells(ax, scores.row_shares(counts), size, numbers=n <= 16, sides=1 if n <= 60 else 2)
    photos = counts.to_numpy().sum()
    ax.set_title(f"{photos:,} photos of {n} brands, {np.trace(counts) / photos:.1%} correct")
    return ax


@house_style
def confusion_zoom(predictions: pd.DataFrame, k: int = 12, ax: Axes | None = None) -> Axes:
    """The `k` brands with the most mistakes among them, and the share of each that went to all others.

    The block grows from the worst pair by the brand that has the most mistakes in common with those chosen.

    Parameters
    ----------
    predictions : as for `confusion_matrix`
    """
    counts = _counts(predictions)
    chosen = _worst_block(counts.to_numpy(), min(k, len(counts)))
    block = scores.ordered(counts.iloc[chosen, chosen])
    rows = counts.loc[block.index]
    shares = scores.row_shares(block.assign(**{"all others": rows.sum(axis=1) - block.sum(axis=1)}))
    shares.index = [f"{brand} ({photos:,})" for brand, photos in rows.sum(axis=1).items()]
    ax = axes(ax, 0.9 * WIDTH, 0.42 * len(block) + 2.2)
    _cells(ax, shares, 9, numbers=True)
    ax.axvline(len(block) - 0.5, color=DARK, linewidth=0.8)
    ax.set_ylabel("true brand (its photos), share of them")
    shown, of_all = (int(table.sum() - np.trace(table)) for table in (block.to_numpy(), counts.to_numpy()))
    ax.set_title(f"{len(block)} brands mistaken for each other: {shown:,} of {of_all:,} mistakes")
    return ax


@house_style
def brand_scores(predictions: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Recall of each brand with its 95 % interval over vehicles; best on top."""
    report = scores.brand_report(predictions).sort_values("recall", kind="stable")
    report.index = [f"{brand} ({photos:,})" for brand, photos in report["photos"].items()]
    ax = _brand_dots(ax, report, "recall", "recall_low", "recall_high", "recall, 95 % interval")
    ax.set(xlim=(0, 1.02), xlabel="recall: share of the brand's photos that is correct", ylabel="brand (its photos)")
    ax.set_title(f"Recall by brand: median {report['recall'].median():.0%}")
    return ax


@house_style
def brand_shares(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Share of each brand in the photos, counted and corrected with its interval; largest on top.

    Parameters
    ----------
    table : from `carclf.brand_shares`; an optional column ``truth`` is marked too
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


@house_style
def risk_coverage(predictions: pd.DataFrame, ax: Axes | None = None, threshold: float | None = None) -> Axes:
    """Accuracy of the answers by share of photos answered, most confident first; marks `threshold`, 0 to 1."""
    table = threshold_table(predictions, np.unique([0, *predictions["confidence"].dropna()]))  # 0: the unknown as well
    ax = axes(ax, percent=True)
    ax.plot(table["coverage"], table["accuracy"], color=RIGHT)
    if threshold is not None:
        at = threshold_table(predictions, [threshold]).iloc[0]
        label = f"threshold {threshold:.2f}: {at['coverage']:.0%} answered, {at['accuracy']:.1%} of them correct"
        ax.plot(at["coverage"], at["accuracy"], "o", color=WRONG, markersize=8, label=label)
        ax.legend(loc="lower left")
    ax.set(xlim=(0, 1.01), xlabel="photos answered, most confident first", ylabel="answers that are correct")
    ax.set_title(f"{table['accuracy'].iloc[0]:.1%} correct if every photo is answered")
    return ax


@house_style
def threshold_curve(predictions: pd.DataFrame, ax: Axes | None = None, threshold: float | None = None) -> Axes:
    """Share of photos answered, and of answers that are correct, by threshold; marks `threshold`, 0 to 1."""
    table = threshold_table(predictions, np.unique(predictions["confidence"].dropna()))
    ax = axes(ax, percent=True)
    ax.plot(table["threshold"], table["accuracy"], color=RIGHT, label="answers that are correct")
    ax.plot(table["threshold"], table["coverage"], color=WRONG, linestyle="--", label="photos answered")
    if threshold is not None:
        ax.axvline(threshold, color=DARK, linestyle=":", label=f"threshold {threshold:.2f}")
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="threshold on the confidence", ylabel="share")
    ax.set_title("What a threshold costs and gains")
    ax.legend(loc="lower left")
    return ax


@house_style
def reliability(
    predictions: pd.DataFrame, before: pd.DataFrame | None = None, ax: Axes | None = None, bins: int = 15
) -> Axes:
    """Accuracy by confidence with its 95 % interval, and the share of photos in each range of confidence.

    Below the diagonal the model is overconfident.

    Parameters
    ----------
    before : predictions of the same photos without the temperature, drawn dashed
    bins : equal ranges of confidence
    """
    ax, table = axes(ax, 5.5, 5.5, percent=True), reliability_table(predictions, bins)
    shares = table["photos"] / table["photos"].sum()
    ax.bar((table.index + 0.5) / bins, shares, 0.9 / bins, color=PALE, label="share of all photos")
    ax.plot([0, 1], [0, 1], color=DARK, linestyle=":", linewidth=1, label="confidence = accuracy")
    if before is not None:
        raw, error = reliability_table(before, bins), expected_calibration_error(before, bins)
        label = f"accuracy before the temperature, error {error:.1%}"
        ax.plot(raw["confidence"], raw["accuracy"], "s--", color=WRONG, label=label)
    line: dict[str, Any] = {"color": RIGHT, "ecolor": RIGHT + "80", "elinewidth": 1, "label": "accuracy, 95 % interval"}
    reach = _reach(table, "accuracy", "accuracy_low", "accuracy_high")
    ax.errorbar(table["confidence"], table["accuracy"], reach, fmt="o-", **line)
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy, share of the photos")
    ax.set_title(f"Expected calibration error {expected_calibration_error(predictions, bins):.1%}")
    # Below the picture: no corner of it is free for every model.
    ax.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.12), ncols=2, fontsize=8, columnspacing=1)
    return ax


def _counts(predictions: pd.DataFrame) -> pd.DataFrame:
    return scores.confusion(predictions) if "top5" in predictions else predictions


def _worst_block(counts: np.ndarray, k: int) -> list[int]:
    """Places of `k` brands that share mistakes, in a confusion table int [n, n]."""
    shared = counts + counts.T
    np.fill_diagonal(shared, 0)
    chosen = [int(shared.max(axis=1).argmax())]
    while len(chosen) < k:
        with_chosen = shared[:, chosen].sum(axis=1)
        with_chosen[chosen] = -1
        chosen.append(int(with_chosen.argmax()))
    return chosen


def _cells(ax: Axes, table: pd.DataFrame, size: float, numbers: bool, sides: int = 1) -> None:
    """Draw a table of shares as coloured cells with its names, the diagonal in blue and the others in orange."""
    _names(ax, table, size, sides)
    shares = table.to_numpy()
    for row in np.flatnonzero(np.isnan(shares[:, 0])):
        ax.axhspan(row - 0.5, row + 0.5, color=PALE)
    diagonal = np.eye(*shares.shape) == 1
    mistaken = shares[~diagonal & (shares > 0)]
    most = (
        max(0.1, np.quantile(mistaken, 0.98)) if mistaken.size else 0.1
    )  # a brand of one photo would wash out the scale
    more = "max" if (mistaken > most).any() else "neither"
    root = PowerNorm(0.5, 0, most)  # makes a few per cent visible
    kinds = (
        (diagonal, "Blues", "correct", 0.55, PowerNorm(1, 0, 1), "neither"),
        (~diagonal, "Oranges", "mistaken", 0.05, root, more),
    )
    for mask, cmap, label, low, norm, extend in kinds:
        cells = np.ma.masked_where(~mask | ~(shares > 0), shares)
        image = ax.imshow(cells, cmap=cmap, norm=norm, aspect="auto", interpolation="nearest", zorder=1)
        place = ax.inset_axes((1.02 if sides == 1 else 1.17, low, 0.02, 0.38))
        bar = ax.figure.colorbar(image, cax=place, format="{x:.0%}", extend=extend)
        bar.ax.set_title(label, size=9)
        for row, column in np.argwhere(mask & (shares >= 0.005)) if numbers else ():
            ink = "white" if norm(shares[row, column]) > 0.6 else DARK
            ax.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", size=8, color=ink)
    ax.set(xlabel="predicted brand", ylabel="true brand, share of its photos")


def _names(ax: Axes, table: pd.DataFrame, size: float, sides: int) -> None:
    """Name rows and columns: on one side each, or every other one, as minor ticks, on the opposite side."""
    for axis, names, near, far in (
        (ax.xaxis, table.columns, "bottom", "top"),
        (ax.yaxis, table.index, "left", "right"),
    ):
        style = {"rotation": 90 if near == "bottom" else 0, "size": size, "parse_math": False}
        for first in range(sides):
            axis.set_ticks(range(first, len(names), sides), names[first::sides], minor=first == 1, **style)
        shown = {f"label{near}": False, f"label{far}": True, near: False}
        axis.set_tick_params(which="minor", labelcolor=DARK, grid_color="#e6e6e6", **shown)
    ax.grid(True, which="both")
    ax.tick_params(which="both", length=0, pad=2, grid_linewidth=0.4)  # the grid leads from a cell to its names


def _brand_dots(ax: Axes | None, table: pd.DataFrame, value: str, low: str, high: str, label: str) -> Axes:
    """Axes with one row per brand, as high as they need: a dot for each value with its interval."""
    row = 0.22 if len(table) <= 60 else 0.16  # inches
    ax = axes(ax, 0.75 * WIDTH, 1.4 + row * len(table))
    reach = _reach(table, value, low, high)
    ax.errorbar(table[value], range(len(table)), xerr=reach, fmt="o", color=RIGHT, label=label)
    ax.set_yticks(range(len(table)), table.index, parse_math=False)
    ax.tick_params(axis="y", labelsize=min(9, 45 * row))
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_ylim(-0.8, len(table) - 0.2)
    return ax


def _reach(table: pd.DataFrame, value: str, low: str, high: str) -> np.ndarray:
    """How far an interval reaches below and above each value; float [2, N], never negative."""
    return np.clip([table[value] - table[low], table[high] - table[value]], 0, None)
