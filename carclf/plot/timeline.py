"""The cars of a clip over time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from carclf.errors import counted
from carclf.plot.cars import COLOURS, OTHER
from carclf.plot.style import DARK, WIDTH, axes, house_style, nothing, plain, verdict

LABELLED = 60  # cars at most that have their names beside them


@house_style
def timeline(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A bar per car of `predict_video`, from when it was first seen to when it was last seen, by its decision.

    The first car is on top. Cars of several clips lie one clip below the other.
    """
    if table.empty:
        return nothing("no car was found in the clip", ax)
    ax = axes(ax, 0.75 * WIDTH, 1.2 + min(0.2 * len(table), 12))
    decision = table["decision"].astype(object).fillna("none").to_numpy()
    start, end = table["first_seen"].to_numpy(float), table["last_seen"].to_numpy(float)
    span = max(np.nanmax(end, initial=0.0), 1e-9)
    rows = np.arange(len(table))
    colours = [COLOURS.get(word, OTHER) for word in decision]
    ax.barh(rows, np.maximum(end - start, span / 200), left=start, height=0.75, color=colours, edgecolor=DARK, lw=0.5)
    for row, car in zip(rows, table.itertuples(), strict=True) if len(table) <= LABELLED else ():
        text = plain(verdict(car), 60)
        ax.annotate(text, (end[row], row), (4, 0), textcoords="offset points", va="center", size=8, parse_math=False)
    kinds = [word for word in (*COLOURS, "none") if word in decision]
    handles = [Patch(facecolor=COLOURS.get(word, OTHER), edgecolor=DARK, lw=0.5) for word in kinds]
    if kinds:
        counts = [f"{word}: {(decision == word).sum():,}" for word in kinds]
        ax.legend(handles, counts, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    shown = len(table) <= LABELLED
    ax.set_yticks(rows if shown else [], [f"#{track}" for track in table["track"]] if shown else [], size=8)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="seconds of the clip", ylabel="car", xlim=(0, span * 1.25), ylim=(len(table) - 0.4, -0.6))
    ax.set_title(f"{counted(len(table), 'car')}, {int((decision == 'accepted').sum()):,} with an accepted answer")
    return ax
