"""Predictions -> `report.html`: one page to send to a colleague, which holds everything that it shows."""

from __future__ import annotations

import base64
import io
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import date
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from carclf import __version__
from carclf.data.photos import PhotoError, Source, read_photo
from carclf.files import replacing, write_text, writing
from carclf.metrics import label_errors
from carclf.metrics.calibration import calibration_error_interval
from carclf.metrics.scores import brand_report, confused_pairs, metrics_table, scored
from carclf.metrics.thresholds import threshold_table
from carclf.model.crops import XY, has_boxes, judged
from carclf.plot import evaluation
from carclf.plot.cars import car_label, draw_cars
from carclf.plot.photos import pair_photos, pair_title
from carclf.plot.style import DARK, RIGHT, WRONG, doubt, plain

THUMBNAIL, SCENE = 240, 480  # pixels: the longer side of a photo in a notebook; and of one with its cars
SIDE, PAIR = 180, 146  # pixels: the same on the page; and in a confused pair, with six photos side by side
DPI = 144  # of pictures: sharp in print, too
FEW = 10  # test photos of a brand: with fewer, its own score says little
VERSIONS = f"carclf {__version__}, Python {platform.python_version()}, numpy {np.__version__}, pandas {pd.__version__}"


class Section(NamedTuple):
    """A part of the page."""

    title: str
    words: str  # empty lines separate paragraphs
    parts: Sequence[Axes | Figure | pd.DataFrame] = ()  # shown as pictures, and as tables (floats with three digits)


def write_report(
    folder: str | os.PathLike,
    predictions: pd.DataFrame,
    metrics: dict[str, float],
    *,
    probabilities: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    threshold: float | None = None,
    promise: pd.DataFrame | None = None,
    before: pd.DataFrame | None = None,
    facts: dict[str, object] | None = None,
    sections: Sequence[Section] = (),
    title: str = "How well the model recognises brands",
) -> Path:
    """Write `report.html`, its pictures as PNG files into `pictures/`, and `to_check.csv` for `apply_corrections`.

    Parameters
    ----------
    folder : created if missing
    predictions : predictions table of the photos tested; photos of brands not in `classes` are left out
    metrics : from `compute_metrics`
    probabilities : float [N, n_classes], of the same photos; with `classes`, photos with a suspect label are searched
    threshold : confidence, 0 to 1, from which an answer counts
    promise : table from `promised`: what the threshold promised on valid, and what test got
    before : predictions of the same photos without the temperature
    facts : what else a reader should know, such as the model's name
    sections : shown before the last section, which says what the numbers do not say

    Returns
    -------
    Path of `report.html`

    Raises
    ------
    OSError, TypeError, ValueError
        If a file cannot be written, a section holds something else than pictures and tables, or no photo can be scored.
    """
    known, folder = scored(predictions, classes), Path(folder)
    with writing(folder):
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
    suspects = known.head(0)
    if probabilities is not None and classes is not None:
        suspects = label_errors.label_suspects(predictions, probabilities, classes)
    _save_to_check(suspects, known, folder / "to_check.csv")
    already_open = set(plt.get_fignums())
    try:
        html = TEMPLATES.get_template("report.html.j2").render(
            title=title,
            today=date.today(),
            version=__version__,
            metrics=metrics,
            facts={**metrics_table(metrics)["value"], **(facts or {}), "evaluated with": VERSIONS},
            known=known,
            random=known.sample(min(10, len(known)), random_state=0),
            mistakes=label_errors.confident_mistakes(known, 10),
            losses=label_errors.highest_losses(known, 10),
            suspects=suspects,
            pictures=_pictures(known, before, threshold, folder / "pictures"),
            brands=_brands(known),
            gap=calibration_error_interval(known),
            threshold=threshold,
            at=None if threshold is None else threshold_table(known, [threshold]).iloc[0],
            promise=None if promise is None else {"kept": True, **promise.iloc[0]},
            sections=_parts(sections, folder / "pictures"),
            few=[brand for brand, photos in known.groupby("brand").size().items() if photos < FEW],
            untested=sorted(set(classes or ()) - set(known["brand"])),
            **_confusions(known),
        )
    finally:
        for number in set(plt.get_fignums()) - already_open:
            plt.close(number)  # or a notebook would show them all
    write_text(folder / "report.html", _clean(html))
    return folder / "report.html"


def prediction_cards(predictions: pd.DataFrame, photos: Sequence[Source]) -> str:
    """HTML of a card per photo: it, its brand, answer with its confidence, the file's name, the likeliest brands.

    `photos` are those of the table, each once. If the table has cars, they are drawn onto their photo and listed.
    """
    macros: Any = TEMPLATES.get_template("cards.html.j2").module
    if not has_boxes(predictions):
        return _clean(macros.cards(predictions, THUMBNAIL, photos))
    number = (predictions["car"] == 0).cumsum()
    scenes = [_scene(rows, photo) for (_, rows), photo in zip(predictions.groupby(number), photos, strict=True)]
    return _clean(macros.scenes(scenes, SCENE))


def _scene(rows: pd.DataFrame, photo: Source) -> dict[str, Any]:
    """A photo with its cars drawn onto a small copy, for the template."""
    first, found = rows.iloc[0], {"path": rows["path"].iloc[0], "problem": "", "data": "", "rows": []}
    if not pd.isna(first["problem"]):
        return found | {"problem": first["problem"]}
    image = read_photo(photo)
    scale = min(1.0, SCENE / max(image.size))
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    drawn = draw_cars(small, rows.assign(**(rows[XY] * scale)), lambda row: f"{row.car + 1} {car_label(row)}")
    return found | {"data": _jpeg(drawn), "rows": list(rows.itertuples())}


def _save_to_check(suspects: pd.DataFrame, known: pd.DataFrame, path: Path) -> None:
    """List suspect labels and the highest losses, unless somebody has filled in the file."""
    if not label_errors.is_filled_in(path):
        tables = [suspects, label_errors.highest_losses(known, 100)]
        to_check = pd.concat([table for table in tables if len(table)] or tables[:1])
        label_errors.save_suspects(to_check.drop_duplicates("path"), path)


def _pictures(known: pd.DataFrame, before: pd.DataFrame | None, threshold: float | None, folder: Path) -> dict:
    """The page's own pictures by name."""
    drawn = {"brand-scores": evaluation.brand_scores(known), "reliability": evaluation.reliability(known, before)}
    if not known["right"].all():
        drawn["confusion-matrix"] = evaluation.confusion_matrix(known)
        drawn["confusion-zoom"] = evaluation.confusion_zoom(known)
    if threshold is not None:
        drawn["threshold-curve"] = evaluation.threshold_curve(known, threshold=threshold)
        drawn["risk-coverage"] = evaluation.risk_coverage(known, threshold=threshold)
    return {name: _picture(ax, name, folder) for name, ax in drawn.items()}


def _confusions(known: pd.DataFrame) -> dict:
    """The most frequent mistakes: a table, and photos of the first few."""
    pairs = confused_pairs(known, 8)
    photos = {pair_title(pair): pair_photos(known, pair.brand, pair.predicted) for pair in pairs.head(5).itertuples()}
    owner = np.where(pairs.pop("same_owner"), "the same", "not the same")
    return {"pairs": photos, "pairs_table": _table(pairs.assign(share=pairs["share"].map(_percent), owner=owner))}


def _brands(known: pd.DataFrame) -> Markup:
    report = brand_report(known)
    for name in ("recall", "precision"):
        columns = zip(*(report[name + end] for end in ("", "_low", "_high")), strict=True)
        report[name] = [None if pd.isna(score) else f"{score:.0%} ({a:.0%} to {b:.0%})" for score, a, b in columns]
    return _table(report[["recall", "precision", "photos", "vehicles"]])


def _parts(sections: Sequence[Section], folder: Path) -> Iterator[tuple[Section, list[Markup]]]:
    """Each section with its parts as HTML."""
    for number, section in enumerate(sections, start=1):
        parts = []
        for place, part in enumerate(section.parts, start=1):
            if not isinstance(part, (pd.DataFrame, Axes, Figure)):
                kind = type(part).__name__
                raise TypeError(
                    f"a part of the section {section.title!r} is a {kind}; give Axes, Figures and DataFrames"
                )
            name = f"section-{number}-{place}"
            parts.append(_table(part) if isinstance(part, pd.DataFrame) else _picture(part, name, folder))
        yield section, parts


def _table(table: pd.DataFrame) -> Markup:
    """A table as HTML; an index that is more than a number comes first, under its own name."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.rename_axis(index=table.index.name or "").reset_index()
    table = table.map(_cell).rename(columns=lambda name: str(name).replace("_", " "))
    with pd.option_context("display.max_colwidth", None):  # or long texts would be cut
        return Markup(table.to_html(index=False, border=0))


def _cell(value: object) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.3g}" if isinstance(value, Real) else str(value)


def _picture(part: Axes | Figure, name: str, folder: Path) -> Markup:
    """Save a picture as PNG, and return it as an image that holds its own data."""
    figure, png = part.figure.canvas.figure, io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    with replacing(folder / f"{name}.png") as file:
        file.write_bytes(png.getvalue())
    title = next((ax.get_title("left") for ax in figure.axes), "") or name
    image = Markup('<figure><img width="{}" alt="{}" src="data:image/png;base64,{}"></figure>')
    return image.format(round(96 * figure.get_size_inches()[0]), title, base64.b64encode(png.getvalue()).decode())


def _thumbnail(row: Any, side: int, photo: Source | None = None) -> tuple[str, str]:
    """What was judged of a row's photo, at most `side` pixels, as `_jpeg`, or "" and why there is none."""
    try:
        image = judged(row, photo, at_least=side)
    except PhotoError as error:
        return "", str(error)
    image.thumbnail((side, side))
    return _jpeg(image), ""


def _jpeg(image: Image.Image) -> str:
    """A JPEG without metadata, in base64."""
    image.info.clear()  # a JPEG's comment would be copied
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def _percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def _clean(html: str) -> str:
    """Lone surrogates, which old file names may have and no file can hold, become "?"."""
    return html.strip().encode("utf-8", "replace").decode("utf-8")


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
TEMPLATES.globals |= {"DARK": DARK, "RIGHT": RIGHT, "WRONG": WRONG, "SIDE": SIDE, "PAIR": PAIR, "FEW": FEW}
TEMPLATES.tests["missing"] = pd.isna
TEMPLATES.filters |= {
    "doubt": doubt,
    "filename": lambda path, length: plain(Path(path).name, length),
    "plain": plain,
    "percent": _percent,
    "thumbnail": _thumbnail,
}
