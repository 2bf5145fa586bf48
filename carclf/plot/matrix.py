"""The drawing of a confusion table: coloured cells with their names, and the brands that are worth a closer look."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize

from carclf.plot.style import DARK, FADED, FEW, PALE, Shares, percent


def draw_cells(ax: Axes, table: pd.DataFrame, photos: pd.Series, size: float, numbers: bool, sides: int = 1) -> None:
    """Draw a table of shares as coloured cells with its names, the diagonal in blue and the others in orange.

    `photos` stand behind each row. The colours mean the same in every picture, so that 17 % never looks like the worst.
    """
    _names(ax, [f"{brand} ({n:,})" for brand, n in photos.items()], table.columns, size, sides)
    shares, few = table.to_numpy(), photos.between(1, FEW - 1).to_numpy()
    for row in np.flatnonzero(np.isnan(shares[:, 0])):
        ax.axhspan(row - 0.5, row + 0.5, color=PALE)
    diagonal = np.eye(*shares.shape) == 1
    opacity = np.where(few, FADED, 1.0)[:, None] * np.ones_like(shares)
    oranges = ListedColormap(mpl.colormaps["Oranges"](np.linspace(0.22, 1, 256)))  # shows a single per cent
    norm = Normalize(0, 1)
    kinds = (
        (diagonal, mpl.colormaps["Blues"], "correct", 0.55),
        (~diagonal, oranges, "mistaken", 0.05),
    )
    for mask, cmap, label, low in kinds:
        cells = np.ma.masked_where(~mask | ~(shares > 0), shares)
        ax.imshow(cells, cmap=cmap, norm=norm, alpha=opacity, aspect="auto", interpolation="nearest", zorder=1)
        place = ax.inset_axes((1.02 if sides == 1 else 1.17, low, 0.02, 0.38))
        bar = ax.figure.colorbar(ScalarMappable(norm, cmap), cax=place, format=Shares())
        bar.ax.set_title(label, size=9)
        for row, column in np.argwhere(mask & (shares >= 0.005)) if numbers else ():
            ink = "white" if norm(shares[row, column]) > 0.6 and not few[row] else DARK
            ax.text(column, row, percent(shares[row, column]), ha="center", va="center", size=8, color=ink)
    pale = f"; pale: fewer than {FEW}" if few.any() else ""
    ax.set(xlabel="predicted brand", ylabel=f"true brand (its photos{pale}), share of them")


def _names(ax: Axes, rows: Sequence[str], columns: Sequence[str], size: float, sides: int) -> None:
    """Name rows and columns: on one side each, or every other one, as minor ticks, on the opposite side."""
    for axis, names, near, far in (
        (ax.xaxis, columns, "bottom", "top"),
        (ax.yaxis, rows, "left", "right"),
    ):
        style = {"rotation": 90 if near == "bottom" else 0, "size": size, "parse_math": False}
        for first in range(sides):
            axis.set_ticks(range(first, len(names), sides), names[first::sides], minor=first == 1, **style)
        shown = {f"label{near}": False, f"label{far}": True, near: False}
        axis.set_tick_params(which="minor", labelcolor=DARK, grid_color="#e6e6e6", **shown)
    ax.grid(True, which="both")
    ax.tick_params(which="both", length=0, pad=2, grid_linewidth=0.4)  # the grid leads from a cell to its names


def worst_block(counts: np.ndarray, k: int) -> list[int]:
    """Places of `k` brands that share mistakes, in a confusion table int [n, n]."""
    shared = counts + counts.T
    np.fill_diagonal(shared, 0)
    chosen = [int(shared.max(axis=1).argmax())]
    while len(chosen) < k:
        with_chosen = shared[:, chosen].sum(axis=1)
        with_chosen[chosen] = -1
        chosen.append(int(with_chosen.argmax()))
    return chosen


def worst_mistakes(counts: pd.DataFrame) -> str:
    """The three most frequent mistakes of a confusion table in words."""
    wrong = (counts * (1 - np.eye(len(counts), dtype=int))).stack().sort_values(ascending=False, kind="stable").head(3)
    rows = counts.sum(axis=1)
    worst = [f"{n} of {rows[brand]} {brand} for {said}" for (brand, said), n in wrong[wrong > 0].items()]
    return f"Most often mistaken: {', '.join(worst)}" if worst else "No mistakes"
