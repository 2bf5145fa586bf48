"""Manifest -> manifest + split: who teaches, who chooses, who tests; and whether a split leaks."""

from __future__ import annotations

import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from carclf.manifest import NAMING, read_table, usable

SPLITS = ("train", "valid", "test")


def split(
    manifest: pd.DataFrame,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    whole: str = "vehicle",
    previous: pd.DataFrame | str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Add the column `split`: train, valid, test, or missing for rows without a brand or with a problem.

    Stratified by brand: each brand is divided on its own, by photos, in the given fractions.

    Parameters
    ----------
    manifest : DataFrame from `scan`
    fractions : shares of train, valid and test; they sum to 1
    seed : int >= 0
    whole : {"vehicle", "model", "photo"}
        What is never divided. "vehicle" asks how well a new photo of a known model is named, "model" how well a
        model never seen is. "photo" lets siblings of test photos into train and measures memory; it is there to
        show by how much. With "model", photos whose name tells no model stay in train.
    previous : an earlier result, or the split.csv of a run
        What was in a split stays there, and new photos are divided so that the fractions come near. A photo is known
        again by its path, its bytes or its vehicle. Where vehicles of two splits turn out to be one, all of it goes to
        test if a part of it was there, else to valid. So a photo that was tested is never learned later.

    Every brand with at least three such groups has a place in each split. Of two groups the smaller is tested, a
    single one stays in train; a warning names these brands. A group that carries two brands, since the same picture
    is named both, stays in train, where a wrong name spoils no result.

    Raises
    ------
    ValueError
        For fewer than two brands, settings out of range, or a previous split without the columns path and split.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {fractions} must be three positive shares that sum to 1, such as (.7, .15, .15)")
    if whole not in ("vehicle", "model", "photo"):
        raise ValueError(f"whole={whole!r} must be 'vehicle', 'model' or 'photo'")
    rows = usable(manifest).sort_values("path")  # the result does not depend on the order of the rows
    _check_brands(manifest, rows)
    groups = _groups(rows, whole)
    place = {} if previous is None else _earlier(rows, groups, _read_split(previous), whole)
    mixed = rows.brand.groupby(groups).nunique()
    place = dict.fromkeys(mixed.index[(mixed > 1) & (mixed.index >= 0)], "train") | place
    too_small = []
    for brand, of_brand in groups.groupby(rows.brand, sort=True):
        # Each brand has its own random stream: another brand's photos do not change its split.
        rng = np.random.default_rng([seed, zlib.crc32(brand.encode())])
        sizes = of_brand[of_brand >= 0].value_counts().sort_index()
        place |= _divide(sizes.sample(frac=1, random_state=rng), fractions, place)
        if len(sizes) < 3:
            too_small.append(f"{brand} ({len(sizes)})")
    if too_small:
        warnings.warn(
            f"brands with fewer than 3 {whole}s: {', '.join(too_small)}. One {whole} is only learned, of two one is "
            f"tested; add photos of further {whole}s",
            stacklevel=2,
        )
    result = pd.Series(None, index=manifest.index, dtype=object)
    result[rows.index] = [place.get(group, "train") for group in groups]
    return manifest.assign(split=result)


def leakage(manifest: pd.DataFrame, column: str = "split") -> pd.DataFrame:
    """How many test photos have a sibling in train.

    Parameters
    ----------
    manifest : DataFrame from `split`, or any with a column that says train and test
    column : name of that column

    Returns
    -------
    DataFrame with a row each for "picture" (the same picture again), "vehicle" (a photo of the same car) and "model",
    and the columns test_photos, with_sibling_in_train and share (0 to 1). The first two are leaks: what is measured on
    such photos is memory. A sibling of the same model is a leak only where the question is about models never seen.

    Raises
    ------
    ValueError
        Where there is no such column, or no photo is in test.
    """
    if column not in manifest:
        raise ValueError(f"the manifest has no column {column!r}; call carclf.split(manifest) first, or name another")
    rows = usable(manifest)
    test, train = rows[rows[column] == "test"], rows[rows[column] == "train"]
    if test.empty:
        raise ValueError(f"no photo is marked test in the column {column!r}, so there is nothing to look at")
    found = {}
    for kind, key in (("picture", rows.cluster), ("vehicle", rows.vehicle), ("model", _model_key(rows))):
        siblings = key[test.index].isin(key[train.index].dropna()).sum()
        found[kind] = (len(test), int(siblings), siblings / len(test))
    return pd.DataFrame.from_dict(found, "index", columns=["test_photos", "with_sibling_in_train", "share"])


def _read_split(previous: pd.DataFrame | str | os.PathLike) -> pd.DataFrame:
    table = previous if isinstance(previous, pd.DataFrame) else read_table(previous)
    if not {"path", "split"} <= set(table):
        raise ValueError(
            "the previous split lacks the columns path and split; give what carclf.split gave, or split.csv"
        )
    return table[table.split.isin(SPLITS)]


def _earlier(rows: pd.DataFrame, groups: pd.Series, previous: pd.DataFrame, whole: str) -> dict[int, str]:
    """Group number -> the split it was in before; of several the one that must not be learned."""
    rank = pd.Series(-1, rows.index)
    before = previous.split.map(SPLITS.index)
    for column in ("path", "sha256") if whole == "photo" else ("path", "sha256", "vehicle"):
        if column in previous and column in rows:
            known = before.groupby(previous[column]).max()
            rank = np.maximum(rank, rows[column].map(known).fillna(-1).astype(int))
    strictest = rank.groupby(groups).max()
    return {group: SPLITS[r] for group, r in strictest.items() if group >= 0 and r >= 0}


def _check_brands(manifest: pd.DataFrame, rows: pd.DataFrame) -> None:
    if rows.empty:
        example = f", such as {Path(manifest.path.iloc[0]).name!r}" if len(manifest) else ""
        raise ValueError(f"none of the {len(manifest)} photos is readable and carries a brand{example}: {NAMING}")
    if rows.brand.nunique() < 2:
        raise ValueError(f"all photos are of one brand, {rows.brand.iloc[0]}; a classifier needs two or more: {NAMING}")


def _groups(rows: pd.DataFrame, whole: str) -> pd.Series:
    """Number of the group of each row, -1 for rows that belong to none (no model in the name)."""
    if whole == "photo":
        return pd.Series(np.arange(len(rows)), rows.index)
    vehicle = pd.factorize(rows.vehicle)[0]
    if whole == "vehicle":
        return pd.Series(vehicle, rows.index)
    # A vehicle under two models ties both together.
    model = pd.factorize(_model_key(rows))[0]
    known = model >= 0
    n = vehicle.max() + 1
    size = n + max(model.max(), 0) + 1
    edges = coo_matrix((np.ones(known.sum()), (vehicle[known], n + model[known])), shape=(size, size))
    component = connected_components(edges, directed=False)[1][vehicle]
    tied_to_a_model = np.isin(vehicle, vehicle[known])
    return pd.Series(np.where(tied_to_a_model, component, -1), rows.index)


def _model_key(rows: pd.DataFrame) -> pd.Series:
    """Brand and model in one; 'C Class', 'c-class' and 'C_CLASS' are one model, no model is missing."""
    return rows.brand + "\n" + rows.model.str.lower().str.replace(r"[\W_]+", "", regex=True)


def _divide(sizes: pd.Series, fractions: tuple[float, float, float], place: dict[int, str]) -> dict[int, str]:
    """Group number -> split, for one brand's groups in random order with their photo counts; `place` is decided."""
    decided = {group: place[group] for group in sizes.index if group in place}
    free = sizes.drop(list(decided))
    # One group for each split that has none, the largest of them to train; then each goes where most is missing.
    empty = [s for s in (SPLITS if len(sizes) >= 3 else ("train", "test")) if s not in decided.values()]
    first = free.iloc[: len(empty)].sort_values(ascending=False, kind="stable")
    found = decided | dict(zip(first.index, empty, strict=False))
    photos = sizes.groupby(pd.Series(found, dtype=object)).sum().reindex(SPLITS, fill_value=0)
    missing = np.array(fractions) * sizes.sum() - photos.to_numpy()
    for group, n in free.iloc[len(empty) :].items():
        target = int(missing.argmax())
        missing[target] -= n
        found[group] = SPLITS[target]
    return found
