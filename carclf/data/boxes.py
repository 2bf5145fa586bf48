"""Anybody's boxes of cars -> a table with the columns `BOX`, or an error that says what is wrong with which box.

Boxes are float pixels of the upright photo, from its upper left corner.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carclf.errors import no_such
from carclf.files import read_csv

XY = ["x0", "y0", "x1", "y1"]
BOX = [*XY, "score"]
SMALL, NO_CAR = "too small", "no car found"  # decisions about cars, beside those about photos
FRACTIONS = 1.5  # boxes that end before this many pixels are meant as fractions of the photo


def checked(boxes: Any, size: tuple[int, int] | None = None, photo: str = "the photo") -> pd.DataFrame:
    """Anybody's boxes of one photo as a table with the float columns `BOX`, clipped to the photo's (width, height).

    Its index and order are those of the boxes. Raises ValueError, with the row, for what cannot be a box.
    """
    table = _table(boxes, photo)
    table = table[table[XY].notna().any(axis=1)]
    xy, score = table[XY].to_numpy(), table["score"].to_numpy()

    def refuse(wrong: np.ndarray, what: str, remedy: str) -> None:
        if wrong.any():
            row = wrong.argmax()
            values = ", ".join(f"{name}={value:g}" for name, value in zip(XY, xy[row], strict=True))
            raise ValueError(
                f"box {table.index[row]} of {photo} {what} ({values}); a box is x0 < x1 and y0 < y1 in pixels of the "
                f"upright photo{f' of {size[0]} × {size[1]}' if size else ''}: {remedy}"
            )

    refuse(~np.isfinite(xy).all(1), "is not finite", "correct or drop this row")
    refuse(
        (np.abs(xy) <= FRACTIONS).all(1),
        "seems to be in fractions of the photo",
        "multiply x by the photo's width and y by its height, and give corners, not centre and size",
    )
    refuse(
        (xy[:, 0] >= xy[:, 2]) | (xy[:, 1] >= xy[:, 3]),
        "is inverted or empty",
        "if it is x, y, width and height, then x1 = x + width and y1 = y + height",
    )
    wrong = ~(np.isnan(score) | ((score >= 0) & (score <= 1)))
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(
            f"box {table.index[row]} of {photo} has the score {score[row]:g}, which must be 0 to 1: "
            "divide per cents by 100, and leave the column out if it holds something else, such as a class"
        )
    if size is not None:
        xy = xy.clip(0, np.tile(size, 2))
        outside = (xy[:, 0] >= xy[:, 2]) | (xy[:, 1] >= xy[:, 3])
        xy = np.where(outside[:, None], table[XY], xy)  # for the message
        refuse(outside, "lies outside the photo", "was it found on a resized photo, or before it was turned upright?")
    return pd.DataFrame(np.column_stack([xy, score]), table.index, BOX)


def by_path(boxes: Any, names: Sequence[str]) -> dict[str, pd.DataFrame | np.ndarray]:
    """Boxes by the `key_of` their photo; checked as far as is possible without the photos, which takes no time."""
    if not isinstance(boxes, pd.DataFrame) or "path" not in boxes:
        if len(names) != 1:
            raise ValueError(
                f"the boxes do not say which of the {len(names)} photos they belong to; give a DataFrame with the "
                "column path, or a function that takes a photo"
            )
        return {key_of(names[0]): boxes}
    found = {}
    for key, part in boxes.groupby(boxes["path"].map(key_of), sort=False):
        checked(part, photo=str(part["path"].iloc[0]))
        found[key] = part
    if found and len(names) and not set(found) & {key_of(name) for name in names}:
        raise ValueError(
            f"no path of the boxes, such as {boxes['path'].iloc[0]}, is that of a photo, such as {names[0]}; "
            "write the paths of the photos into the column path"
        )
    return found


def read_boxes(source: str | os.PathLike, of: str = "path") -> pd.DataFrame:
    """Boxes from a CSV file with the columns path (or what `of` names), x0, y0, x1, y1 and perhaps score."""
    if not Path(source).is_file():
        raise FileNotFoundError(f"{no_such(source, 'file')}; give a CSV file with the columns {of}, {', '.join(XY)}")
    try:
        table = read_csv(source, keep_default_na=False, na_values={name: ["", "nan", "NaN"] for name in BOX})
    except ValueError as error:
        raise ValueError(f"{source} is not a table ({error}); give a CSV file with a header") from error
    if absent := [name for name in (of, *XY) if name not in table]:
        raise ValueError(f"{source} lacks the columns {', '.join(absent)}; name them {of}, {', '.join(XY)}")
    return table


def key_of(path: Any) -> str:
    """By what a photo's path in one table is found in another."""
    return os.path.normcase(os.path.abspath(str(path)))  # noqa: PTH100 - never raises on NUL


def _table(boxes: Any, photo: str) -> pd.DataFrame:
    """Boxes as a table of floats with the columns `BOX`, unchecked."""
    if isinstance(boxes, pd.DataFrame):
        if absent := [name for name in XY if name not in boxes]:
            raise ValueError(f"the boxes of {photo} have no column {', '.join(absent)}; name them {', '.join(XY)}")
        table = boxes.reindex(columns=BOX)
    else:
        try:
            array = np.asarray(boxes)
            array = array.reshape(0, 4) if array.size == 0 else array
            if array.ndim != 2 or array.shape[1] < 4:
                raise ValueError(f"of shape {array.shape}")
        except (TypeError, ValueError) as error:  # ragged lists, tensors on a GPU
            raise ValueError(
                f"the boxes of {photo} are a {type(boxes).__name__} ({error}); give an array [n, 4] or more of "
                f"{', '.join(XY)} and then, if there is one, the score, or a DataFrame with these columns"
            ) from error
        table = pd.DataFrame(array[:, :5], columns=BOX[: min(5, array.shape[1])]).reindex(columns=BOX)
    try:
        return table.apply(pd.to_numeric).astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the boxes of {photo} are not all numbers ({error}); correct or drop these rows") from error
