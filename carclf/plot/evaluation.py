"""Predictions -> pictures of what a model gets right, and of how far its confidence can be trusted.

Every function draws into an Axes `ax`, or into those of a new figure, and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from carclf.errors import counted
from carclf.metrics import scores
from carclf.metrics.calibration import expected_calibration_error, reliability_table
from carclf.metrics.intervals import share_interval
from carclf.metrics.thresholds import NEVER_ACCEPTED, threshold_table
from carclf.metrics.words import least_percent
from carclf.plot.matrix import draw_cells, worst_block, worst_mistakes
from carclf.plot.style import (
    DARK,
    FADED,
    FEW,
    GREEN,
    PALE,
    RIGHT,
    WIDTH,
    WRONG,
    axes,
    house_style,
    legend_above,
    nothing,
    percent,
)

NUMBERED = 16  # brands up to which the cells of a matrix have room for numbers
FEW_ANSWERS = 10  # a curve over fewer is pale
UNSCORED = "no photo has both an answer and a brand in its name"


@house_style
def confusion_matrix(predictions: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Where each brand's photos went: correct answers in blue, mistakes in orange.

    A row has shares of one true brand's photos, is pale if these are fewer than five, and grey if there are none.
    Brands that are confused stand together.

    Parameters
    ----------
    predictions : a predictions table, or a table of counts from `scores.confusion`
    """
    if not _shows(predictions):
        return nothing(UNSCORED, ax)
    counts = scores.ordered(_counts(predictions))
    n, photos = len(counts), int(counts.to_numpy().sum())
    # Beyond 60 brands, names stand on all four sides, every other one on each: twice the room at the same width.
    side = np.clip(0.45 * n, 3, 7.6 if n <= 60 else WIDTH - 3.3)  # inches
    ax = axes(ax, side + (2.4 if n <= 60 else 3.3), side + (1.5 if n <= 60 else 2.2))
    size = np.clip(72 * side / n * (0.9 if n <= 60 else 1.7), 5, 9)
    draw_cells(
        ax, scores.row_shares(counts), counts.sum(axis=1), size, numbers=n <= NUMBERED, sides=1 if n <= 60 else 2
    )
    correct = scores.scored(predictions)["right"].mean() if "top5" in predictions else np.trace(counts) / photos
    ax.set_title(f"{counted(photos, 'photo')} of {counted(n, 'brand')}, {percent(correct, 1)} correct")
    ax.set_label(worst_mistakes(counts))
    return ax


@house_style
def confusion_zoom(predictions: pd.DataFrame, k: int | None = None, ax: Axes | None = None) -> Axes:
    """The `k` brands with the most mistakes among them, and the share of each that went to all others.

    The block grows from the worst pair by the brand that has the most mistakes in common with those chosen. It is not
    drawn if it would show what `confusion_matrix` shows already: every brand.

    Parameters
    ----------
    predictions : as for `confusion_matrix`
    k : default: 12, of the more than 16 brands whose matrix has no numbers in its cells
    """
    if not _shows(predictions):
        return nothing(UNSCORED, ax)
    counts = _counts(predictions)
    if not (mistakes := int(counts.to_numpy().sum() - np.trace(counts))):
        return nothing("no brand was mistaken for another", ax)
    if len(counts) <= (NUMBERED if k is None else k):
        return nothing(f"the confusion matrix shows all {counted(len(counts), 'brand')} already", ax)
    chosen = worst_block(counts.to_numpy(), k or 12)
    block = scores.ordered(counts.iloc[chosen, chosen])
    rows = counts.loc[block.index]
    shares = scores.row_shares(block.assign(**{"all others": rows.sum(axis=1) - block.sum(axis=1)}))
    ax = axes(ax, 0.9 * WIDTH, 0.42 * len(block) + 2.2)
    draw_cells(ax, shares, rows.sum(axis=1), 9, numbers=True)
    ax.axvline(len(block) - 0.5, color=DARK, linewidth=0.8)
    shown = int(block.to_numpy().sum() - np.trace(block))
    ax.set_title(f"{len(block)} brands mistaken for each other: {shown:,} of {counted(mistakes, 'mistake')}")
    ax.set_label(worst_mistakes(counts))
    return ax


@house_style
def brand_scores(predictions: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Recall and precision of each brand with their 95 % intervals over vehicles; the highest recall is on top.

    Marks with fewer than five photos behind them are pale.
    """
    if not _shows(predictions):
        return nothing(UNSCORED, ax)
    report = scores.brand_report(predictions).sort_values("recall", kind="stable")
    named = scores.answers(scores.scored(predictions)).value_counts().reindex(report.index, fill_value=0)
    row = 0.26 if len(report) <= 60 else 0.17  # inches
    names = [f"{brand} ({photos:,})" for brand, photos in report["photos"].items()]
    ax = _brand_rows(ax, names, row, "share; pale marks: fewer than 5 photos")
    kinds = (
        ("recall", report["photos"], 0.15, "o", RIGHT, "recall: of the brand's photos, correct"),
        ("precision", named, -0.2, "D", GREEN, "precision: of the photos named so, correct"),
    )
    for kind, photos, up, mark, colour, label in kinds:
        style: dict[str, Any] = {"fmt": mark, "color": colour, "elinewidth": 1.2, "markersize": 4}
        for some, opacity in (photos >= FEW, 1.0), (photos < FEW, FADED):
            table, place = report[some.to_numpy()], np.flatnonzero(some) + up
            reach = _reach(table, kind, f"{kind}_low", f"{kind}_high")
            ax.errorbar(table[kind], place, xerr=reach, alpha=opacity, label=label if opacity == 1 else None, **style)
    ax.set(xlim=(0, 1.02), ylabel="brand (its photos)")
    median, worst = report["recall"].median(), report.iloc[0]
    legend_above(ax, f"Recall and precision by brand, with 95 % intervals: median recall {percent(median)}")
    ax.set_label(f"Lowest recall: {report.index[0]} {percent(worst.recall)} of {counted(int(worst.photos), 'photo')}")
    return ax


@house_style
def brand_shares(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Share of each brand in the photos, counted and corrected with its interval; largest on top.

    Parameters
    ----------
    table : from `carclf.brand_shares`; an optional column ``truth`` is marked too
    """
    if table.empty:
        return nothing("no brand has a share", ax)
    table = table.sort_values("corrected", kind="stable")
    ax = _brand_rows(ax, table.index, 0.22 if len(table) <= 60 else 0.16, "share of the photos")
    place, reach = np.arange(len(table)), _reach(table, "corrected", "low", "high")
    ax.errorbar(table["corrected"], place, xerr=reach, fmt="o", color=RIGHT, label="corrected, 95 % interval")
    ax.plot(table["counted"], place, "x", color=WRONG, label="counted")
    if "truth" in table:
        ax.plot(table["truth"], place, "|", color="black", markersize=11, markeredgewidth=2, label="truth")
    ax.set(ylabel="brand", xlim=(0, 1.05 * ax.dataLim.x1))
    largest = table.iloc[-1]
    legend_above(ax, f"Shares of {counted(len(table), 'brand')}, counted and corrected")
    ax.set_label(f"Largest: {table.index[-1]} {percent(largest.corrected)}, counted {percent(largest.counted)}")
    return ax


@house_style
def risk_coverage(
    predictions: pd.DataFrame,
    ax: Axes | None = None,
    threshold: float | None = None,
    promise: dict[str, Any] | None = None,
) -> Axes:
    """Accuracy of the answers, with its 95 % interval, by share of photos answered, most confident first.

    Parameters
    ----------
    threshold : 0 to 1, is marked with what is promised for it
    promise : of a model's card; without one, nothing is promised
    """
    if not _shows(predictions):
        return nothing(UNSCORED, ax)
    table = threshold_table(predictions, np.unique([0, *predictions["confidence"].dropna()]))  # 0: the unknown as well
    ax = axes(ax, shares="xy")
    _accuracy(ax, predictions, table, "coverage")
    if threshold is not None:
        at = threshold_table(predictions, [threshold]).iloc[0]
        label = f"{_marked(threshold, promise)};\n{percent(at['coverage'])} answered"
        label += f", {percent(at['accuracy'], 1)} of them correct" if at["photos"] else ""
        ax.plot(at["coverage"], at["accuracy"], "o", color=WRONG, markersize=8, label=label)
    ax.set(xlim=(0, 1.01), ylim=(0, 1.03))
    ax.set(xlabel="photos answered, most confident first", ylabel="answers that are correct")
    photos = counted(len(scores.scored(predictions)), "photo")
    legend_above(ax, f"{percent(table['accuracy'].iloc[0], 1)} correct if all of {photos} are answered", ncols=1)
    return ax


@house_style
def threshold_curve(
    predictions: pd.DataFrame,
    ax: Axes | None = None,
    threshold: float | None = None,
    promise: dict[str, Any] | None = None,
) -> Axes:
    """Share of photos answered, and of answers that are correct with its 95 % interval, by threshold.

    Parameters
    ----------
    threshold, promise : as for `risk_coverage`
    """
    if not _shows(predictions):
        return nothing(UNSCORED, ax)
    table = threshold_table(predictions, np.unique(predictions["confidence"].dropna()))
    ax = axes(ax, shares="xy")
    _accuracy(ax, predictions, table, "threshold")
    ax.plot(table["threshold"], table["coverage"], color=WRONG, linestyle="--", label="photos answered")
    if threshold is not None:
        ax.axvline(threshold, color=DARK, linestyle=":", label=_marked(threshold, promise))
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="threshold on the confidence", ylabel="share")
    photos = counted(len(scores.scored(predictions)), "photo")
    legend_above(ax, f"What a threshold costs and gains, on {photos}", ncols=2)
    return ax


@house_style
def reliability(
    predictions: pd.DataFrame, before: pd.DataFrame | None = None, ax: Axes | None = None, bins: int = 10
) -> Axes:
    """Accuracy by confidence with its 95 % interval, and the share of photos in each range of confidence.

    Below the diagonal the model is overconfident.

    Parameters
    ----------
    before : predictions of the same photos without the temperature, drawn dashed
    bins : marks at most; each stands for equally many photos, ten or more if there are so many
    """
    if not _shows(predictions):
        return nothing(UNSCORED, ax)
    ax, ranges = axes(ax, 5.5, 5.5, shares="xy"), reliability_table(predictions)
    photos = ranges["photos"].sum()
    marks = max(1, min(bins, photos // FEW_ANSWERS))
    table = reliability_table(predictions, marks, equally_many=True)
    width = 1 / 15  # the ranges of `reliability_table`
    ax.bar(
        (ranges.index + 0.5) * width, ranges["photos"] / photos, 0.9 * width, color=PALE, label="share of all photos"
    )
    ax.plot([0, 1], [0, 1], color=DARK, linestyle=":", linewidth=1, label="confidence = accuracy")
    if before is not None:
        raw, error = reliability_table(before, marks, equally_many=True), expected_calibration_error(before)
        label = f"before the temperature, error {percent(error, 1)}"
        ax.plot(raw["confidence"], raw["accuracy"], "s--", color=WRONG, label=label)
    least = table["photos"].min()
    label = f"accuracy, 95 % interval, {counted(least, 'photo')}{' or more each' if len(table) > 1 else ''}"
    line: dict[str, Any] = {"color": RIGHT, "ecolor": RIGHT + "80", "elinewidth": 1, "label": label}
    reach = _reach(table, "accuracy", "accuracy_low", "accuracy_high")
    ax.errorbar(table["confidence"], table["accuracy"], reach, fmt="o-", alpha=1 if least >= FEW else FADED, **line)
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence", ylabel="accuracy, share of the photos")
    error = expected_calibration_error(predictions)
    ax.set_title(f"Expected calibration error {percent(error, 1)}, on {counted(photos, 'photo')}")
    # Below the picture: no corner of it is free for every model.
    ax.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.12), fontsize=8)
    return ax


def _shows(predictions: pd.DataFrame) -> bool:
    """Whether there is a photo to score in predictions, or in a table of counts."""
    if "top5" not in predictions:
        return bool(predictions.to_numpy().sum())
    return bool((predictions["predicted"].notna() & predictions["brand"].notna()).any())


def _marked(threshold: float, promise: dict[str, Any] | None) -> str:
    """A threshold and what is promised for it: nothing, unless it is the one of a promise that is kept."""
    kept = promise is not None and promise["kept"] and np.isclose(threshold, promise["threshold"])
    said = f"at least {least_percent(promise['accuracy'])} promised" if promise and kept else "nothing is promised"
    return f"threshold {threshold:.2f}: {said}"


def _accuracy(ax: Axes, predictions: pd.DataFrame, table: pd.DataFrame, along: str) -> None:
    """Draw the accuracy of a `threshold_table` and its 95 % interval along a column of it, pale over few answers."""
    few = table["photos"] < FEW_ANSWERS
    mark = "o" if len(table) < FEW_ANSWERS else None  # a line through one point is invisible
    label = "correct answers" + (f" (pale: fewer than {FEW_ANSWERS})" if few.any() else "")
    style: dict[str, Any] = {"color": RIGHT, "marker": mark}
    ax.plot(table[along], table["accuracy"].mask(few), label=label, **style)
    # The pale line begins where the other ends.
    ax.plot(table[along], table["accuracy"].where(few | few.shift(-1, fill_value=False)), alpha=FADED, **style)
    some = table.iloc[np.unique(np.linspace(0, len(table) - 1, 50).round().astype(int))]
    known = scores.scored(predictions)
    answered = known[~known["decision"].isin(NEVER_ACCEPTED)] if "decision" in known else known
    parts = {t: known if t == 0 else answered[answered["confidence"] >= t] for t in some["threshold"]}
    each = pd.concat(parts, names=["threshold", None]).reset_index(0)
    each.index = pd.RangeIndex(len(each))
    reach = share_interval(each["right"], each["vehicle"], each["threshold"]).reindex(some["threshold"])
    ax.fill_between(
        some[along], reach["low"], reach["high"], color=RIGHT, alpha=0.12, linewidth=0, label="95 % interval"
    )


def _counts(predictions: pd.DataFrame) -> pd.DataFrame:
    return scores.confusion(predictions) if "top5" in predictions else predictions


def _brand_rows(ax: Axes | None, names: Sequence[str], row: float, xlabel: str) -> Axes:
    """Axes of shares with a row of that many inches per brand, so that every name can be read."""
    ax = axes(ax, 0.75 * WIDTH, 1.6 + row * len(names), shares="x")
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.tick_params(axis="y", labelsize=min(9, 45 * row))
    ax.set(ylim=(-0.8, len(names) - 0.2), xlabel=xlabel)
    return ax


def _reach(table: pd.DataFrame, value: str, low: str, high: str) -> np.ndarray:
    """How far an interval reaches below and above each value; float [2, N], never negative."""
    return np.clip([table[value] - table[low], table[high] - table[value]], 0, None)
