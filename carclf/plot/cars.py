"""Cars in a photo or in a frame of a clip: boxes, brands and confidences drawn onto a copy of it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import count, product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from carclf.data.boxes import NO_CAR, SMALL
from carclf.data.photos import read_photo
from carclf.files import writing
from carclf.model.crops import by_photo
from carclf.plot.style import percent, plain, verdict

# By decision, of Okabe and Ito's palette, which colour-blind readers can tell apart. All are light, for black letters
# and for dark pictures; on light ones, a box has black edges. The label repeats what the colour says.
COLOURS = {"accepted": "#56B4E9", "unsure": "#E69F00", "unknown": "#CC79A7", SMALL: "#C8C8C8"}
OTHER = "#F0E442"  # no car found, no decision
SMALLEST = 11  # pixels of the letters: smaller ones cannot be read
LETTERS = 40  # of a label
STEPS = 12  # rows of letters that a label is moved up or down at most, to lie beside the others
FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"

Area = tuple[float, float, float, float]  # x0, y0, x1, y1


def draw_cars(photo: Image.Image, rows: pd.DataFrame, label: Callable[[Any], str] | None = None) -> Image.Image:
    """A copy of a photo, RGB, with a box and a label for each car; letters and lines grow with the picture.

    Parameters
    ----------
    photo : upright, as `read_photo` gives it
    rows : of this photo, with the columns x0 y0 x1 y1 in its pixels, and any of `track`, `predicted`, `confidence`,
        `accepted`, `decision` and `score`. A row without a box has its label in the upper left corner.
    label : from a row, as `DataFrame.itertuples` gives it, to its text; default: its track, brand and confidence, what
        the model doubts, or, without predictions, the box's score
    """
    picture = photo.convert("RGB") if photo.mode != "RGB" else photo.copy()
    draw, scale = ImageDraw.Draw(picture), (picture.width * picture.height) ** 0.5
    font, line = _font(max(SMALLEST, round(scale / 38))), max(2, round(scale / 270))
    edge, names = max(1, line // 3), rows.reset_index(drop=True)
    areas = _areas(names, picture.size)
    for row, area in zip(names.itertuples(), areas, strict=True):
        if area is not None:
            draw.rectangle(_grown(area, edge), outline="black", width=line + 2 * edge)
            draw.rectangle(area, outline=_colour(row), width=line)
    taken: list[Area] = []
    # Labels without a brand come last, and only where they cover no other: in a crowd they would hide the answers.
    for row, area in sorted(zip(names.itertuples(), areas, strict=True), key=lambda pair: _is_minor(pair[0])):
        text = plain((label or car_label)(row), LETTERS)
        if not text:
            continue
        text, width, height = _fitted(text, font, picture.width)
        place, covered = _place(area, (width, height), picture.size, taken)
        if covered and _is_minor(row):
            continue
        taken.append(place)
        draw.rectangle(place, fill=_colour(row), outline="black", width=1)
        draw.text((place[0] + height / 5, (place[1] + place[3]) / 2), text, fill="black", font=font, anchor="lm")
    return picture


def draw_photos(predictions: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Draw the cars of a predictions table onto copies of its photos: JPEGs without metadata, in a folder.

    A file has the name of its photo, made safe, and a number if there is such a file: nothing is overwritten. Photos
    that could not be read are left out.
    """
    folder, written = Path(folder), []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    photos = list(by_photo(predictions[predictions["problem"].isna()]))
    for rows in tqdm(photos, "draw", unit="photo", leave=False, disable=len(photos) < 3):
        picture = draw_cars(read_photo(path := rows["path"].iloc[0]), rows)
        picture.info.clear()  # a JPEG's comment would be copied
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=92)
        with writing(folder):
            written.append(_write_new(folder, _safe(path), jpeg.getvalue()))
    return written


def _safe(path: str) -> str:
    """A name after that of a photo which every system can hold; "_cars" keeps it apart from those that are reserved."""
    letters = re.sub(r"[^\w\-. ()]", "_", Path(path).stem).encode("utf-8")[:160].decode("utf-8", "ignore")
    return f"{letters.strip('. ') or 'photo'}_cars"


def _write_new(folder: Path, name: str, jpeg: bytes) -> Path:
    """Write a file that was not there before."""
    for number in count(1):
        place = folder / f"{name}{'' if number == 1 else f'-{number}'}.jpg"
        with suppress(FileExistsError), place.open("xb") as file:
            file.write(jpeg)
            return place
    raise AssertionError("there is always another number")


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


def car_label(row: Any) -> str:
    """What `draw_cars` writes to a car by default; the brand in a photo's name says nothing about one of its cars."""
    track, decision, score = (getattr(row, name, None) for name in ("track", "decision", "score"))
    text = "" if pd.isna(track) else f"#{track:.0f} " if isinstance(track, float) else f"#{track} "
    if decision == NO_CAR:  # the brand of the whole photo would only baffle
        return f"{text}{decision}"
    if not pd.isna(getattr(row, "predicted", None)):
        return text + verdict(row._replace(brand=None) if hasattr(row, "brand") else row)
    if not pd.isna(decision):
        return f"{text}{decision}"
    return text.strip() if pd.isna(score) else text + percent(score)


def _colour(row: Any) -> str:
    decision = getattr(row, "decision", None)
    return COLOURS.get(decision, OTHER) if isinstance(decision, str) else OTHER


def _is_minor(row: Any) -> bool:
    return getattr(row, "decision", None) == SMALL


def _areas(rows: pd.DataFrame, size: tuple[int, int]) -> list[Area | None]:
    """Each row's box, clipped to the picture; None if it has none there."""
    xy = rows.reindex(columns=["x0", "y0", "x1", "y1"]).to_numpy(float)
    clipped = xy.clip(0, np.tile(np.subtract(size, 1), 2))
    shown = np.isfinite(xy).all(1) & (clipped[:, 0] < clipped[:, 2]) & (clipped[:, 1] < clipped[:, 3])
    return [tuple(area) if ok else None for area, ok in zip(clipped.tolist(), shown, strict=True)]


def _grown(area: Area, by: int) -> Area:
    return area[0] - by, area[1] - by, area[2] + by, area[3] + by


def _fitted(text: str, font: ImageFont.FreeTypeFont, room: int) -> tuple[str, int, int]:
    """A text that is shortened until it fits, and the width and height of its label."""
    height = round(font.size * 1.3)
    while True:
        width = round(font.getlength(text) + 2 * height / 5)
        if width < room or len(text) <= 3:
            return text, width, height
        text = plain(text, len(text) - 1)


def _place(area: Area | None, label: tuple[int, int], size: tuple[int, int], taken: list[Area]) -> tuple[Area, float]:
    """Where a label lies: at its box, inside the picture, on as little of other labels as can be; and on how much.

    The first choice is above the box, then below, inside, and further off.
    """
    width, height = label
    x0, y0, x1, y1 = (0, height, *size) if area is None else area
    rows = [y0 - height, y1, y0, y1 - height]
    rows += [y for step in range(1, STEPS) for y in (y0 - (step + 1) * height, y1 + step * height)]
    best, least = None, np.inf
    for y, x in product([y for y in rows if 0 <= y < size[1] - height] or [0], (x0, x1 - width)):
        left = max(0, min(x, size[0] - 1 - width))
        place = left, y, left + width, y + height
        covered = sum(_common(place, other) for other in taken)
        if covered < least:
            best, least = place, covered
        if not covered:
            break
    assert best is not None
    return best, least


def _common(a: Area, b: Area) -> float:
    """Pixels that two areas share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
