"""Manifest -> manifest + split: who teaches, who chooses, who tests; and whether a split leaks."""

from __future__ import annotations

import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from carclf.fingerprints import components, same_pictures
from carclf.manifest import NAMING, read_name, read_table, usable

SPLITS = ("train", "valid", "test")


def split(
    manifest: pd.DataFrame,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    whole: str = "vehicle",
    previous: pd.DataFrame | str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Add the column `split`: train, valid, test, or missing for new rows without a brand or with a problem.

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
        again by its path, its bytes, its vehicle or its picture. Where groups of two splits turn out to be one, all of
        it goes to test if a part of it was there, else to valid. So a photo that was tested is never learned later;
        one that is set aside today keeps its place for the day when it is not.

    Every brand with at least three such groups has a place in each split, unless `previous` decides otherwise. Of two
    groups the smaller is tested, a single one stays in train; a warning names these brands. A group whose brand is
    disputed, since the same picture has two, stays in train, where a wrong name spoils no result; if a part of it was
    tested before, it stays there.

    Raises
    ------
    ValueError
        For fewer than two brands, settings out of range, or a previous split that is none, knows none of these photos
        or leaves most brands nothing to learn from.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {fractions} must be three positive shares that sum to 1, such as (.7, .15, .15)")
    if seed < 0:
        raise ValueError(f"seed={seed} must be 0 or more")
    if whole not in ("vehicle", "model", "photo"):
        raise ValueError(f"whole={whole!r} must be 'vehicle', 'model' or 'photo'")
    if not manifest.index.is_unique:
        raise ValueError("the manifest has rows of one number twice; scan several folders in one call: scan([a, b])")
    rows = usable(manifest).sort_values("path")  # the result does not depend on the order of the rows
    _check_brands(manifest, rows)
    groups, without_model = _groups(rows, whole)
    earlier = pd.Series(-1, manifest.index) if previous is None else _earlier(manifest, _read_split(previous), whole)
    place = dict.fromkeys([*without_model, *_disputed(rows, groups)], "train")
    place |= {group: SPLITS[rank] for group, rank in earlier[rows.index].groupby(groups).max().items() if rank >= 0}
    too_small = []
    for brand, of_brand in groups.groupby(rows.brand, sort=True):
        # Each brand has its own random stream: another brand's photos do not change its split.
        rng = np.random.default_rng([seed, zlib.crc32(brand.encode())])
        sizes = of_brand[~of_brand.isin(without_model)].value_counts().sort_index()
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
    result[earlier >= 0] = [SPLITS[rank] for rank in earlier[earlier >= 0]]  # also of photos that are set aside today
    result[rows.index] = [place[group] for group in groups]
    _check_train(rows, result, earlier, fractions)
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
    for kind, key in (("picture", rows.cluster), ("vehicle", rows.vehicle), ("model", model_key(rows))):
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


def _earlier(manifest: pd.DataFrame, previous: pd.DataFrame, whole: str) -> pd.Series:
    """For each row the place in SPLITS of the split that it was in before, of several the last; -1 where it is new."""
    before, rank = previous.split.map(SPLITS.index), pd.Series(-1, manifest.index)

    def match(ours: pd.Series, theirs: pd.Series) -> None:
        rank.update(np.maximum(rank, ours.map(before.groupby(theirs).max()).fillna(-1).astype(int)))

    match(manifest.path, previous.path)
    for column in ("sha256",) if whole == "photo" else ("sha256", "vehicle"):
        if column in previous and column in manifest:
            match(manifest[column], previous[column])
    if whole != "photo":  # a vehicle that was merged with another has a new name, but that of its files is still there
        match(*(table.path.map(lambda path: read_name(path)[2]) for table in (manifest, previous)))
        if "fingerprint" in previous and "fingerprint" in manifest:
            pictures = same_pictures(pd.concat([previous.fingerprint, manifest.fingerprint], ignore_index=True))
            theirs, ours = np.split(pictures, [len(previous)])
            match(pd.Series(ours, manifest.index), pd.Series(theirs, previous.index))
    found, n = int((rank >= 0).sum()), len(previous)
    if not found and n:
        raise ValueError(
            f"none of the {n:,} photos of the previous split is recognised; give the split of these photos"
        )
    if found < n / 2:
        message = f"only {found:,} photos are recognised of the {n:,} of the previous split"
        warnings.warn(f"{message}; where the others are here under new names, they may be learned now", stacklevel=3)
    return rank


def _disputed(rows: pd.DataFrame, groups: pd.Series) -> pd.Index:
    """Groups with photos of which nobody knows which of two brands they show."""
    disputed = rows.brand.groupby(groups).nunique() > 1
    if "suspect" in rows:
        disputed |= rows.suspect.notna().groupby(groups).any()
    return disputed.index[disputed]


def _check_train(rows: pd.DataFrame, result: pd.Series, earlier: pd.Series, fractions: tuple) -> None:
    """Say aloud where an earlier split leaves too little to learn from."""
    learned = set(rows.brand[earlier[rows.index] == SPLITS.index("train")])
    train = rows[result[rows.index] == "train"]
    lost = learned - set(train.brand)
    message = f"the previous split leaves {len(train):,} of {len(rows):,} photos to train"
    remedy = "if it was made with another `whole`, give one of the same, or none"
    if learned and len(lost) > len(learned) / 2:
        raise ValueError(f"{message}, and none of {', '.join(sorted(lost))}; {remedy}")
    if (earlier >= 0).any() and len(train) < fractions[0] * len(rows) / 2:
        warnings.warn(f"{message}; {remedy}", stacklevel=3)


def _check_brands(manifest: pd.DataFrame, rows: pd.DataFrame) -> None:
    if rows.empty:
        example = f", such as {Path(manifest.path.iloc[0]).name!r}" if len(manifest) else ""
        raise ValueError(f"none of the {len(manifest)} photos is readable and carries a brand{example}: {NAMING}")
    if rows.brand.nunique() < 2:
        raise ValueError(f"all photos are of one brand, {rows.brand.iloc[0]}; a classifier needs two or more: {NAMING}")


def _groups(rows: pd.DataFrame, whole: str) -> tuple[pd.Series, set[int]]:
    """Number of the group of each row, and the groups whose photos carry no model where models are asked for."""
    if whole == "photo":
        return pd.Series(np.arange(len(rows)), rows.index), set()
    vehicle = pd.factorize(rows.vehicle)[0]
    if whole == "vehicle":
        return pd.Series(vehicle, rows.index), set()
    # A vehicle under two models ties both together.
    model = pd.factorize(model_key(rows))[0]
    known, n = model >= 0, vehicle.max() + 1
    pairs = np.stack([vehicle[known], n + model[known]], 1)
    group = components(pairs, n + model.max() + 1)[vehicle]
    return pd.Series(group, rows.index), {*group} - {*group[known]}


def model_key(rows: pd.DataFrame) -> pd.Series:
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
