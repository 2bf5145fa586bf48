"""Predictions -> cards: each photo with its answer, its likeliest brands and why it is not accepted; in HTML.

They are shown in notebooks and on the page. Texts of photos are untrusted, and escaped by the templates.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from carclf.data.boxes import NO_CAR
from carclf.data.photos import PhotoError, Source, read_photo
from carclf.metrics.words import percent
from carclf.model.crops import XY, has_boxes, judged
from carclf.plot.cars import car_label, draw_cars
from carclf.plot.style import RIGHT, WRONG, is_right, plain, verdict

THUMBNAIL, SCENE = 240, 480  # pixels: the longer side of a photo in a notebook; and of one with its cars
GREY = "#888888"  # as RIGHT and WRONG, seen on white and on black
REASONS = {
    "unknown": "unlike all that the model learned from: perhaps no car, or another brand",
    NO_CAR: "so the whole photo was judged",
}


def prediction_cards(predictions: pd.DataFrame, photos: Sequence[Source]) -> str:
    """HTML of a card per photo: it, its brand, answer with its confidence, the file's name, the likeliest brands.

    `photos` are those of the table, each once. If the table has cars, they are drawn onto their photo and listed.
    """
    if not has_boxes(predictions):
        return clean(_macros().cards(predictions, THUMBNAIL, photos))
    number = (predictions["car"] == 0).cumsum()
    scenes = [_scene(rows, photo) for (_, rows), photo in zip(predictions.groupby(number), photos, strict=True)]
    return clean(_macros().scenes(scenes, SCENE))


def _scene(rows: pd.DataFrame, photo: Source) -> dict[str, Any]:
    """A photo with its cars drawn onto a small copy, for the template."""
    first, found = rows.iloc[0], {"path": rows["path"].iloc[0], "problem": "", "data": "", "rows": [], "alt": ""}
    if not pd.isna(first["problem"]):
        return found | {"problem": first["problem"]}
    image = read_photo(photo)
    scale = min(1.0, SCENE / max(image.size))
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    drawn = draw_cars(small, rows.assign(**(rows[XY] * scale)), lambda row: f"{row.car + 1} {car_label(row)}")
    # A brand in the photo's name is that of the car, if it is the only one.
    said = [_said(row) if len(rows) == 1 and row.decision != NO_CAR else car_label(row) for row in rows.itertuples()]
    alt = f"photo {_name(first['path'])} with its cars: {'; '.join(said)}"
    return found | {"data": _jpeg(drawn), "rows": list(zip(rows.itertuples(), said, strict=True)), "alt": alt}


def _thumbnail(row: Any, side: int, photo: Source | None = None) -> tuple[str, str]:
    """What was judged of a row's photo, at most `side` pixels, as `_jpeg`, or "" and why there is none."""
    try:
        image = judged(row, photo, at_least=side)
    except PhotoError as error:
        return "", plain(str(error).replace(str(row.path), _name(row.path)), 120)
    image.thumbnail((side, side))
    return _jpeg(image), ""


def _jpeg(image: Image.Image) -> str:
    """A JPEG without metadata, in base64."""
    image.info.clear()  # a JPEG's comment would be copied
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def clean(html: str) -> str:
    """Lone surrogates, which old file names may have and no file can hold, become "?"."""
    return html.strip().encode("utf-8", "replace").decode("utf-8")


def _name(path: str, length: int = 60) -> str:
    return plain(Path(path).name, length)


def _said(row: Any) -> str:
    return plain(verdict(row), 100)


def _shade(row: Any) -> tuple[str, str]:
    """The colour of an answer's line and bar, and the name of its letters' colour."""
    if pd.isna(row.predicted) or pd.isna(row.brand):
        return GREY, "none"
    return (RIGHT, "right") if is_right(row) else (WRONG, "wrong")


def _macros() -> Any:
    return TEMPLATES.get_template("cards.html.j2").module


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
TEMPLATES.globals |= {"REASONS": REASONS, "GREY": GREY, "zip": zip}
TEMPLATES.tests["missing"] = pd.isna
TEMPLATES.filters |= {
    "alt": lambda row: f"photo {_name(row.path)}: {_said(row)}",
    "filename": _name,
    "percent": percent,
    "plain": plain,
    "shade": _shade,
    "thumbnail": _thumbnail,
    "verdict": _said,
}
