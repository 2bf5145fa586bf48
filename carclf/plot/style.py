"""The house style of every picture: its colours, its Axes and its short texts.

Functions that draw are decorated with `house_style`: they leave the caller's settings alone and never call ``show()``.
Blue is right and orange is wrong, which colour-blind readers can tell apart; a mark or a pattern repeats it.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter
from PIL import Image

from carclf.brands import is_right_answer
from carclf.errors import shortened
from carclf.metrics.thresholds import NEVER_ACCEPTED
from carclf.metrics.words import percent

# Start the backend now. Started inside a style's context, a notebook's backend would be half undone at its end,
# and every figure but the first would stay invisible.
plt.draw_if_interactive()
house_style = plt.style.context(Path(__file__).with_name("carclf.mplstyle"))  # a decorator, active during each call
WIDTH = 10  # inches: a notebook's column at 100 dots per inch
RIGHT, WRONG, PALE, DARK, GREEN = "#0072B2", "#D55E00", "#c8c8c8", "#333333", "#009E73"
FEW, FADED = 5, 0.35  # a mark with fewer photos behind it is drawn with this opacity


class Picture(Figure):
    """A Figure that a notebook shows with an alt text; JupyterLab gives none to a plain PNG."""

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """An image in HTML; IPython adds the PNG, for exports that know no HTML."""
        png, webp = io.BytesIO(), io.BytesIO()
        self.savefig(png, format="png", dpi=self.dpi, bbox_inches="tight")
        with Image.open(png) as image:
            image.convert("RGB").save(webp, "WEBP", quality=90)  # a fifth of the PNG
            size = f'width="{image.width}" style="max-width: 100%; height: auto"'
        alt, data = alt_text(self), base64.b64encode(webp.getvalue()).decode()
        shown = f'<img alt="{html.escape(alt)}" {size} src="data:image/webp;base64,{data}">'
        return {"text/html": shown, "text/plain": alt}, {"image/png": {"alt": alt}}


def alt_text(figure: Figure) -> str:
    """What a figure shows, with its numbers, for those who cannot see it.

    The label of the Figure if it has one, else of all its Axes: title, label, names of the axes and legend.
    """
    if words := str(figure.get_label()):
        return textwrap.shorten(words, 500, placeholder="…")
    said = []
    for ax in figure.axes:
        legend, names = ax.get_legend(), [ax.get_ylabel(), ax.get_xlabel()]
        own = str(ax.get_label()) if ax.get_axes_locator() is None else ""  # that of a colour bar says nothing
        parts = [ax.get_title("left"), own, " against ".join(filter(None, names))]
        parts += [", ".join(text.get_text() for text in legend.get_texts())] if legend else []
        parts += [] if ax.axison else [text.get_text() for text in ax.texts]  # of `nothing`
        said += [part for part in parts if part]
    return textwrap.shorten(". ".join(said), 500, placeholder="…")


def figure(fig: Figure | None, *figsize: float) -> Figure:
    """The given Figure, or a new one of `figsize` inches."""
    return plt.figure(figsize=figsize or None, FigureClass=Picture) if fig is None else fig


def axes(ax: Axes | None, *figsize: float, shares: str = "") -> Axes:
    """The given Axes, or those of a new figure of `figsize` inches, with ticks in the house style.

    Ticks are per cent along the axes named in `shares`: "x", "y" or "xy".
    """
    ax = figure(None, *figsize).add_subplot() if ax is None else ax
    rc = plt.rcParams  # matplotlib makes ticks when it draws, after the style's context has ended
    ax.tick_params(color=rc["xtick.color"], labelcolor=rc["xtick.labelcolor"], labelsize=rc["xtick.labelsize"])
    ax.tick_params(grid_color=rc["grid.color"], grid_linewidth=rc["grid.linewidth"])
    for name in shares:
        getattr(ax, f"{name}axis").set_major_formatter(Shares())
    return ax


def nothing(why: str, ax: Axes | None = None) -> Axes:
    """Axes with the words "none: " and why there is nothing to draw."""
    ax = figure(None, 0.75 * WIDTH, 0.6).add_subplot() if ax is None else ax
    ax.set_axis_off()
    text = textwrap.fill(f"none: {why}", 100)
    ax.text(0, 0.5, text, va="center", color=DARK, transform=ax.transAxes, parse_math=False)
    return ax


def nothing_page(why: str, fig: Figure | None = None) -> Figure:
    """A Figure with such Axes; one without any would be invisible in a notebook."""
    fig = figure(fig, 0.75 * WIDTH, 0.6)
    nothing(why, fig.add_subplot())
    return fig


def legend_above(ax: Axes, title: str, *handles: Any, ncols: int = 4) -> None:
    """A title, and a legend between it and the Axes: there it lies on no bar and no curve, whatever they show."""
    style: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "borderpad": 0.2}
    legend = ax.legend(*handles, ncols=ncols, handlelength=1.6, columnspacing=1.5, **style)
    lines = [text.get_text().count("\n") + 1 for text in legend.get_texts()]
    rows = -(-len(lines) // ncols)  # of the longest column
    height = max(sum(lines[first : first + rows]) for first in range(0, len(lines), rows))
    ax.set_title(title, pad=8 + 15 * height)


class Shares(Formatter):
    """Ticks of shares, in per cent with as many digits as tell them apart."""

    digits = 0

    def set_locs(self, locs: Any) -> None:
        """Called by the axis before it writes its ticks."""
        shown = 100 * np.asarray(locs, float)
        self.digits = next((d for d in range(4) if np.allclose(shown.round(d), shown, rtol=0, atol=1e-6)), 4)

    def __call__(self, x: float, pos: int | None = None) -> str:
        return percent(x, self.digits)


def rate(x: float, _: Any = None) -> str:
    """A learning rate in few letters: "3e-4"."""
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if x else "0"


RATES = FuncFormatter(rate)


def plain(text: object, length: int = 40) -> str:
    """`text` as one printable line of at most `length` characters, shortened in the middle; "98 %" stays together."""
    line = "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else " " for c in str(text))
    return shortened(line, length)


def verdict(row: Any) -> str:
    """What the model said of a photo and, where it is known, whether that is right: the one form of all pictures.

    "✓ Toyota 98 %"; "said Toyota 98 %, is Ford"; "Toyota 98 %" without a label; "(unsure)" after an answer that is not
    accepted; "unknown, perhaps Toyota 97 %". Without an answer: the decision, or why the photo could not be read.

    Parameters
    ----------
    row : of a predictions table: a Series, or as `DataFrame.itertuples` gives it. If it has `right`, that counts.
    """
    predicted, brand, decision = (getattr(row, name, None) for name in ("predicted", "brand", "decision"))
    decision = None if pd.isna(decision) else decision
    if pd.isna(predicted):
        problem = getattr(row, "problem", None)
        return str(decision or ("no answer" if pd.isna(problem) else problem))
    right = is_right(row)
    wrong = "" if right or pd.isna(brand) else f", is {brand}"
    said = f"{predicted} {percent(row.confidence)}"
    if decision in NEVER_ACCEPTED:
        said = f"{decision}, perhaps {said}"
    else:
        accepted = getattr(row, "accepted", decision in ("accepted", None))
        said = ("said " if wrong else "") + said + ("" if accepted else f" ({decision or 'unsure'})")
    return ("✓ " if right else "") + said + wrong


def is_right(row: Any) -> bool:
    """Whether a row's answer is right; False without a label."""
    brand = getattr(row, "brand", None)
    if hasattr(row, "right"):
        return not pd.isna(brand) and bool(row.right)
    return is_right_answer(row.predicted, brand, getattr(row, "model", None))
