"""The predictions table: its first columns from what the user gives, all others from what a model says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image

from carclf.brands import parse_path
from carclf.data.listing import list_photos
from carclf.errors import no_such
from carclf.model import crops

TOP = 5  # brands in the column top5
CARRIED = ("brand", "model", "vehicle", "split")  # columns of a manifest that its predictions keep
PATHS, ENCODED = (str, os.PathLike), (bytes, bytearray, memoryview)
TAKEN = "give a path, a folder, bytes, an open file, a PIL image, a uint8 array, a list of these, or a manifest"

Sources: TypeAlias = "crops.Photo | Iterable[crops.Photo] | pd.DataFrame"


def photos_of(
    sources: Sources, names: Sequence[str] | None = None
) -> tuple[pd.DataFrame, list[crops.Photo], list[str | None]]:
    """First columns of the predictions, what to decode, and why not to, one per photo; see `Classifier.predict`."""
    if isinstance(sources, pd.Series) and "path" in sources.index:  # a row of a manifest
        sources = sources.to_frame().T
    if isinstance(sources, pd.DataFrame):
        return _of_manifest(sources)
    photos: list[Any] = []
    problems: list[str | None] = []
    for number, source in enumerate(listed(sources), 1):
        if isinstance(source, PATHS) and os.path.isdir(source):  # noqa: PTH112 - never raises on NUL
            photos += list_photos(source)
            problems += [None] * (len(photos) - len(problems))
        elif _is_photo(source):
            photos.append(source)
            problems.append(_no_file(source))
        else:
            raise TypeError(f"photo {number} is of the type {type(source).__name__}; {TAKEN}")
    if not photos:
        raise ValueError(f"no photos are given; {TAKEN}")
    if names is None:
        names = [_name(photo) or f"photo {i}" for i, photo in enumerate(photos, 1)]
    if len(names) != len(photos):
        raise ValueError(f"{len(names)} names for {len(photos)} photos; give one name per photo")
    return pd.DataFrame({"path": list(names), "brand": _brands(names)}), photos, problems


def _of_manifest(table: pd.DataFrame) -> tuple[pd.DataFrame, list[crops.Photo], list[str | None]]:
    """The same of a table with the column path."""
    if "path" not in table:
        raise ValueError(f"the table has no column path, only {', '.join(map(str, table))}; {TAKEN}")
    nowhere = table["path"].map(lambda path: not isinstance(path, PATHS)).to_numpy(bool)
    if nowhere.any():
        raise ValueError(
            f"row {nowhere.argmax()} of the table has no path but {table['path'].iloc[nowhere.argmax()]!r}"
        )
    if "brand" not in table:
        table = table.assign(brand=_brands(table["path"]).to_numpy())
    problems = table["problem"] if "problem" in table else [None] * len(table)
    known = [None if pd.isna(problem) else problem for problem in problems]
    kept = [column for column in CARRIED if column in table]
    return table[["path", *kept]].reset_index(drop=True), table["path"].tolist(), known


def listed(sources: Any) -> list:
    """One photo, or several, as a list."""
    if _is_photo(sources):
        if isinstance(sources, PATHS) and not os.path.exists(sources):  # noqa: PTH110 - never raises on NUL
            raise FileNotFoundError(_no_file(sources) or no_such(sources, "file"))
        return [sources]
    if isinstance(sources, Mapping) or not isinstance(sources, Iterable):
        raise TypeError(f"photos of the type {type(sources).__name__} are not taken; {TAKEN}")
    return list(sources)


def _is_photo(source: Any) -> bool:
    """Whether it is given as one photo; arrays of text and of four axes hold several."""
    if isinstance(source, np.ndarray):
        return source.ndim in (2, 3) and source.dtype.kind in "uifb"
    return isinstance(source, (*PATHS, *ENCODED, Image.Image)) or hasattr(source, "read")


def _no_file(source: Any) -> str | None:
    """Why a text cannot be the path of a photo: it is an address, or a pattern."""
    text = os.fsdecode(source) if isinstance(source, PATHS) else ""
    if "://" in text:
        return f"{text} is an address, not a file: download the photo first"
    if any(sign in text for sign in "*?[") and not os.path.exists(text):  # noqa: PTH110
        return f"there is no file {text}: patterns are not expanded; give the folder, or glob.glob(…)"
    return None


def _name(photo: Any) -> str | None:
    """The path of a file, if it is one."""
    name = (
        photo if isinstance(photo, PATHS) else None if isinstance(photo, Image.Image) else getattr(photo, "name", None)
    )
    return str(os.fsdecode(name)) if isinstance(name, (*PATHS, bytes)) else None


def _brands(names: Iterable[str | os.PathLike]) -> pd.Series:
    """The brands that the names or their folders say, or missing."""
    return pd.Series([parse_path(os.fspath(name))[0] for name in names], dtype=object)


def tabulate(
    table: pd.DataFrame, probabilities: np.ndarray, classes: Sequence[str], threshold: float, unknown: np.ndarray
) -> pd.DataFrame:
    """Add what a model says to a table with the columns path, brand and problem; see `Classifier.predict`.

    `probabilities` is float [N, n_classes], NaN if a photo could not be read or a car is too small, and `unknown` is
    bool [N].
    """
    names = np.array(classes, object)
    # A stable sort of the negated values: ties go to the first brand by name, on every machine.
    order = np.argsort(-probabilities, 1, kind="stable")[:, :TOP]
    best = np.take_along_axis(probabilities, order, 1)
    readable = ~np.isnan(best[:, 0])
    predicted = names[order[:, 0]]
    predicted[~readable] = None
    decision = np.where(best[:, 0] >= threshold, "accepted", "unsure").astype(object)
    decision[unknown] = "unknown"
    decision[~readable] = None
    decision = crops.decide(table, decision)
    number = pd.Index(classes).get_indexer(table["brand"])
    loss = -np.log(probabilities[np.arange(len(table)), number].clip(1e-12)).astype(float)
    found = {
        "predicted": predicted,
        "confidence": best[:, 0].astype(float),
        "loss": np.where(number >= 0, loss, np.nan),
        "top5": [
            dict(zip(names[o], p.astype(float).tolist(), strict=True)) if ok else None
            for o, p, ok in zip(order, best, readable, strict=True)
        ],
        "decision": decision,
        "accepted": decision == "accepted",
    }
    return table.drop(columns="problem").assign(**found, problem=table["problem"])
