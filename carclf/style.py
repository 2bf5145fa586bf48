"""How every picture looks: the house style, its colours and its Axes.

Functions that draw are decorated with `house_style`: they leave the caller's settings alone and never call ``show()``.
Blue is right and orange is wrong, which colour-blind readers tell apart, and a mark or a pattern says it again.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

# Starts the backend now: started inside a style's context, a notebook's backend would be half undone at its end,
# and all figures but the first would stay invisible.
plt.draw_if_interactive()
house_style = plt.style.context(Path(__file__).with_name("carclf.mplstyle"))  # as a decorator: on during each call
WIDTH = 10  # inches: a notebook's column at 100 dots an inch
RIGHT, WRONG, PALE, DARK = "#0072B2", "#D55E00", "#c8c8c8", "#333333"


def axes(ax, *figsize, percent=False):
    """The given Axes, or one in a new figure of `figsize` inches, with ticks in the house style."""
    ax = plt.figure(figsize=figsize or None).add_subplot() if ax is None else ax
    rc = plt.rcParams  # matplotlib makes ticks when it draws, after the style's context has ended
    ax.tick_params(color=rc["xtick.color"], labelcolor=rc["xtick.labelcolor"], labelsize=rc["xtick.labelsize"])
    ax.tick_params(grid_color=rc["grid.color"], grid_linewidth=rc["grid.linewidth"])
    for axis in (ax.xaxis, ax.yaxis) if percent else ():
        axis.set_major_formatter(PercentFormatter(1))  # with decimals where the ticks need them
    return ax


def plain(text, length=40):
    """Any str as one printable line of at most `length` characters, shortened in the middle."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length // 2) :]}"


def doubt(row):
    """What stands behind the confidence of a prediction that is not accepted: ", unsure" or ", unknown"."""
    return "" if row.accepted else f", {getattr(row, 'decision', 'unsure')}"
