"""The house style of every picture: its colours, its Axes and its short texts.

Functions that draw are decorated with `house_style`: they leave the caller's settings alone and never call ``show()``.
Blue is right and orange is wrong, which colour-blind readers can tell apart; a mark or a pattern repeats it.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# Start the backend now. Started inside a style's context, a notebook's backend would be half undone at its end,
# and every figure but the first would stay invisible.
plt.draw_if_interactive()
house_style = plt.style.context(Path(__file__).with_name("carclf.mplstyle"))  # a decorator, active during each call
WIDTH = 10  # inches: a notebook's column at 100 dots per inch
RIGHT, WRONG, PALE, DARK = "#0072B2", "#D55E00", "#c8c8c8", "#333333"


def figure(fig: Figure | None, *figsize: float) -> Figure:
    """The given Figure, or a new one of `figsize` inches."""
    return plt.figure(figsize=figsize or None) if fig is None else fig


def axes(ax: Axes | None, *figsize: float, percent: bool = False) -> Axes:
    """The given Axes, or those of a new figure of `figsize` inches, with ticks in the house style."""
    ax = figure(None, *figsize).add_subplot() if ax is None else ax
    rc = plt.rcParams  # matplotlib makes ticks when it draws, after the style's context has ended
    ax.tick_params(color=rc["xtick.color"], labelcolor=rc["xtick.labelcolor"], labelsize=rc["xtick.labelsize"])
    ax.tick_params(grid_color=rc["grid.color"], grid_linewidth=rc["grid.linewidth"])
    for axis in (ax.xaxis, ax.yaxis) if percent else ():
        axis.set_major_formatter(PercentFormatter(1))  # with decimals if the ticks need them
    return ax


def plain(text: object, length: int = 40) -> str:
    """`text` as one printable line of at most `length` characters, shortened in the middle."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return line if len(line) <= length else f"{line[: length // 2 - 1]}…{line[-(length // 2) :]}"


def doubt(row) -> str:
    """Why the model does not accept its own answer, to follow the confidence: ", unsure" or ", unknown"."""
    return "" if row.accepted else f", {getattr(row, 'decision', 'unsure')}"
