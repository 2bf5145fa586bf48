"""Sections of words, tables and pictures -> one HTML file that holds all it shows and needs no script.

Every text is escaped, and the page forbids itself to load anything.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carclf.cards import escape
from carclf.files import replacing, write_text, writing

DPI = 144  # of pictures: sharp on paper, too
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.7em; margin-bottom: 0 } h2 { font-size: 1.25em; margin-top: 2.2em; border-bottom: 1px solid #ccc }
h3 { font-size: 1em; margin: 1.4em 0 .3em } small, figcaption, nav { color: #555 } nav a { margin-right: 1em }
a { color: #0072B2 } figure { margin: 1em 0 } img { max-width: 100%; height: auto; vertical-align: top }
table { border-collapse: collapse; font-size: .9em; margin: 1em 0 } th { text-align: left; font-weight: 600 }
td, th { padding: .2em .8em .2em 0; border-bottom: 1px solid #e6e6e6; overflow-wrap: anywhere }
td { font-variant-numeric: tabular-nums }
.numbers { display: flex; flex-wrap: wrap; gap: 1em; margin: 1.5em 0 }
.numbers div { flex: 1 1 200px; border-left: 4px solid #0072B2; padding: 0 .8em } .numbers b { display: block;
font-size: 2em; line-height: 1.2 } .sides { display: flex; flex-wrap: wrap; gap: 12px 36px }
.sides > div { display: flex; gap: 6px } .card { font-size: .8em }
@media print { body { margin: 0; max-width: none; font-size: 11px } nav { display: none } a { color: inherit }
* { print-color-adjust: exact; -webkit-print-color-adjust: exact }
figure, .card, .sides, tr { break-inside: avoid } h2, h3 { break-after: avoid } }
"""


class Section(NamedTuple):
    """A part of the page.

    Attributes
    ----------
    title : str
    words : str; empty lines part its paragraphs
    parts : what follows: Axes and Figures become pictures, DataFrames tables (floats with three digits)
    """

    title: str
    words: str
    parts: Sequence = ()


class Html(str):
    """Text that is HTML already."""


def write_page(path, title, head, sections):
    """Write a page, and its pictures as PNG files into the folder `pictures` beside it.

    `head` is an `Html` below the title, `sections` a sequence of Sections. Raises TypeError for a part of a section
    that is neither Axes, Figure, DataFrame nor `Html`, and OSError where nothing can be written.
    """
    pictures = Path(path).parent / "pictures"
    with writing(pictures):
        pictures.mkdir(parents=True, exist_ok=True)
    body = "".join(_section(section, number, pictures) for number, section in enumerate(sections, start=1))
    links = "".join(f'<a href="#s{n}">{escape(section.title)}</a> ' for n, section in enumerate(sections, start=1))
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>{head}<nav>{links}</nav>{body}</body></html>
"""
    write_text(Path(path), page)


def _section(section, number, pictures):
    words = "".join(f"<p>{escape(text)}</p>" for text in section.words.split("\n\n") if text)
    slug = re.sub(r"[^a-z0-9]+", "-", section.title.lower())[:40].strip("-")
    parts = "".join(
        _part(part, section.title, pictures / f"{number}-{place}-{slug}.png")
        for place, part in enumerate(section.parts, start=1)
    )
    return f'<section id="s{number}"><h2>{escape(section.title)}</h2>{words}{parts}</section>'


def _part(part, title, file):
    if isinstance(part, Html):
        return part
    if isinstance(part, pd.DataFrame):
        return _table(part)
    if isinstance(part, (Axes, Figure)):
        return _picture(part.figure, title, file)
    raise TypeError(f"a part of the section {title!r} is a {type(part).__name__}; give Axes, Figures and DataFrames")


def _table(table):
    """Rows and columns; an index that is more than a number stands first, under its own name."""
    numbered = isinstance(table.index, pd.RangeIndex)
    names = [*([] if numbered else [table.index.name or ""]), *table.columns]
    head = "".join(f"<th>{escape(name).replace('_', ' ')}</th>" for name in names) if any(names) else ""
    rows = zip(table.index, table.to_numpy(object), strict=True)
    cells = (values if numbered else [first, *values] for first, values in rows)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value):
    if pd.isna(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.3g}" if isinstance(value, Real) else escape(value)


def _picture(figure, title, file):
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    with replacing(file) as part:
        part.write_bytes(png.getvalue())
    data = base64.b64encode(png.getvalue()).decode()
    name = next((ax.get_title("left") for ax in figure.axes), "") or title
    width = round(96 * figure.get_size_inches()[0])
    return f'<figure><img width="{width}" alt="{escape(name)}" src="data:image/png;base64,{data}"></figure>'
