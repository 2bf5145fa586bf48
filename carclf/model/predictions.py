"""The predictions table: its first columns from what the user gives, all others from what a model says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from carclf.data.manifest import list_photos, read_name
from carclf.data.photos import Source
from carclf.model import crops

TOP = 5  # brands in the column top5
CARRIED = ("brand", "model", "vehicle", "split")  # columns of a manifest that its predictions keep

Sources: TypeAlias = "str | os.PathLike | bytes | Sequence[Source] | pd.DataFrame"


def photos_of(
    sources: Sources, names: Sequence[str] | None = None
) -> tuple[pd.DataFrame, list[Source], list[str | None]]:
    """First columns of the predictions, what to decode, and why not to, one per photo; see `Classifier.predict`."""
    if isinstance(sources, pd.DataFrame):
        sources = sources if "brand" in sources else sources.assign(brand=None)
        kept = [c for c in CARRIED if c in sources]
        problems = sources["problem"] if "problem" in sources else [None] * len(sources)
        known = [None if pd.isna(problem) else problem for problem in problems]
        return sources[["path", *kept]].reset_index(drop=True), sources.path.tolist(), known
    photos: list[Source] = []
    for source in [sources] if isinstance(sources, (str, os.PathLike, bytes)) else sources:
        if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):  # noqa: PTH112 - never raises on NUL
            photos += list_photos(source)
        else:
            photos.append(source)
    if names is None:
        names = [str(p) if isinstance(p, (str, os.PathLike)) else f"photo {i}" for i, p in enumerate(photos, 1)]
    if len(names) != len(photos):
        raise ValueError(f"{len(names)} names for {len(photos)} photos; give one name per photo")
    brands = [read_name(name)[0] for name in names]
    table = pd.DataFrame({"path": list(names), "brand": pd.Series(brands, dtype=object)})
    return table, photos, [None] * len(photos)


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
