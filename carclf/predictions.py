"""Photos and probabilities -> the predictions table: every number, picture and decision later is a view of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from carclf.manifest import list_photos, read_name
from carclf.photos import Source

TOP = 5  # brands in the column top5
CARRIED = ("brand", "model", "vehicle", "split")  # columns of a manifest that its predictions keep


def photos_of(sources, names: Sequence[str] | None) -> tuple[pd.DataFrame, list[Source], list[str | None]]:
    """The table's first columns, what to decode, and why not, one a row each; for `Classifier.predict`."""
    if isinstance(sources, pd.DataFrame):
        kept = [c for c in CARRIED if c in sources]
        problems = sources["problem"] if "problem" in sources else [None] * len(sources)
        known = [None if pd.isna(problem) else problem for problem in problems]
        return sources[["path", *kept]].reset_index(drop=True), sources.path.tolist(), known
    if isinstance(sources, (str, os.PathLike, bytes)):
        sources = [sources]
    photos = [photo for source in sources for photo in _expand(source)]
    if names is None:
        names = [str(p) if isinstance(p, (str, os.PathLike)) else f"photo {i}" for i, p in enumerate(photos, 1)]
    if len(names) != len(photos):
        raise ValueError(f"{len(names)} names for {len(photos)} photos; give one name a photo")
    brands = [read_name(name)[0] for name in names]
    table = pd.DataFrame({"path": list(names), "brand": pd.Series(brands, dtype=object)})
    return table, photos, [None] * len(photos)


def _expand(source: Source) -> Iterable[Source]:
    is_folder = isinstance(source, (str, os.PathLike)) and os.path.isdir(source)  # noqa: PTH112 - never raises on NUL
    return list_photos(source) if is_folder else [source]


def tabulate(
    table: pd.DataFrame, probabilities: np.ndarray, classes: list[str], threshold: float, unknown: np.ndarray
) -> pd.DataFrame:
    """Add to a table what a model says about its photos: the columns that `Classifier.predict` describes.

    Parameters
    ----------
    table : DataFrame with the columns path, brand and problem; stays as it is
    probabilities : float [N, n_classes], NaN where a photo could not be read
    classes : brands in the order of the columns
    threshold : smallest confidence, 0 to 1, that is accepted
    unknown : bool [N], photos unlike all that the model has learned from
    """
    names = np.array(classes, object)
    # A stable sort of the negated values: ties go to the first brand by name, on every machine.
    order = np.argsort(-probabilities, 1, kind="stable")[:, :TOP]
    readable = ~np.isnan(probabilities[:, 0])
    best = np.take_along_axis(probabilities, order, 1)
    decision = np.select([~readable, unknown, best[:, 0] >= threshold], [None, "unknown", "accepted"], "unsure")
    found = {
        "predicted": np.where(readable, names[order[:, 0]], None),
        "confidence": best[:, 0].astype(float),
        "loss": _loss(table["brand"], probabilities, classes),
        "top5": [
            dict(zip(names[o], p.astype(float).tolist(), strict=True)) if ok else None
            for o, p, ok in zip(order, best, readable, strict=True)
        ],
        "decision": decision.astype(object),
        "accepted": decision == "accepted",
    }
    problem = table["problem"]
    return table.drop(columns=["problem"]).assign(**found, problem=problem)


def _loss(brands: pd.Series, probabilities: np.ndarray, classes: list[str]) -> np.ndarray:
    number = brands.map({name: i for i, name in enumerate(classes)})
    known = number.notna().to_numpy()
    loss = np.full(len(brands), np.nan)
    loss[known] = -np.log(probabilities[known, number[known].astype(int)].clip(1e-12))
    return loss
