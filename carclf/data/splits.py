"""Manifest -> manifest + split: which photos train, which validate, which test; and whether a split leaks."""

from __future__ import annotations

import os
import warnings
import zlib

import numpy as np
import pandas as pd

from carclf.brands import parse_path
from carclf.data.duplicates import components, same_pictures
from carclf.data.manifest import NAMING, parse_table, require_usable, usable
from carclf.deprecated import renamed_arguments

SPLITS = ("train", "valid", "test")


@renamed_arguments(whole="group_by", previous="previous_split")
def split(
    manifest: pd.DataFrame,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    group_by: str = "vehicle",
    previous_split: pd.DataFrame | str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Add the column `split`: train, valid, test, or missing for new rows without a brand or with a problem.

    Stratified: the photos of each brand are divided in the given fractions, separately from other brands.

    Parameters
    ----------
    manifest : DataFrame
        From `scan`.
    fractions : tuple of float
        Shares of train, valid and test; they sum to 1.
    group_by : {"vehicle", "model", "photo"}
        What is kept together. "vehicle" asks how well a new photo of a known model is named, "model" how well an
        unseen model is. "photo" lets siblings of test photos into train, so it measures memory; it is there to show
        how much that adds. With "model", photos whose name does not say the model stay in train.
    previous_split : DataFrame or path, optional
        An earlier result, or the split.csv of a run. Its photos stay where they were, and new ones are divided so that
        the fractions come near. A photo is recognised by its path, bytes, vehicle or picture. If groups of two splits
        turn out to be one, all of it goes to test if any of it was there, else to valid: a tested photo is never
        learned later. A photo that is set aside today keeps its place.

    Notes
    -----
    Every brand with at least three groups is in each split, unless `previous_split` says otherwise. Of two groups the
    smaller is tested, a single one stays in train; a warning names these brands. A group that carries two brands stays
    in train, where a wrong name spoils no result, unless a part of it was tested before.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {fractions} must be three positive shares that sum to 1, such as (.7, .15, .15)")
    if seed < 0:
        raise ValueError(f"seed={seed} must be 0 or more")
    if group_by not in ("vehicle", "model", "photo"):
        raise ValueError(f"group_by={group_by!r} must be 'vehicle', 'model' or 'photo'")
    if not manifest.index.is_unique:
        raise ValueError("the manifest has repeated row numbers; scan several folders in one call: scan([a, b])")
    rows = require_usable(manifest).sort_values("path")  # the result does not depend on the order of the rows
    if rows.brand.nunique() < 2:
        raise ValueError(f"all photos are of one brand, {rows.brand.iloc[0]}; a classifier needs two or more: {NAMING}")
    groups, without_model = _groups(rows, group_by)
    earlier = _earlier(manifest, previous_split, group_by)
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
        message = (
            f"brands with fewer than 3 {group_by}s: {', '.join(too_small)}. With one {group_by} a brand is never tested"
        )
        warnings.warn(f"{message}, with two never validated; add photos of more {group_by}s", stacklevel=3)
    result = pd.Series(None, index=manifest.index, dtype=object)
    result[earlier >= 0] = [SPLITS[rank] for rank in earlier[earlier >= 0]]  # also photos that are set aside today
    result[rows.index] = [place[group] for group in groups]
    _check_train(rows, result, earlier, fractions)
    return manifest.assign(split=result)


def leakage(manifest: pd.DataFrame, column: str = "split") -> pd.DataFrame:
    """How many test photos have a sibling in train.

    Parameters
    ----------
    manifest : DataFrame
        From `split`, or any other whose `column` says train and test.

    Returns
    -------
    DataFrame
        Rows "picture" (the same picture again), "vehicle" (a photo of the same car) and "model", columns test_photos,
        with_sibling_in_train and share (0 to 1). The first two are leaks: on such photos a score measures memory. A
        sibling of the same model is a leak only if the question is about unseen models.
    """
    if column not in manifest:
        raise ValueError(f"the manifest has no column {column!r}; call carclf.split(manifest) first, or name another")
    rows = usable(manifest)
    test, train = rows[rows[column] == "test"], rows[rows[column] == "train"]
    if test.empty:
        raise ValueError(f"no photo is marked test in the column {column!r}; call carclf.split(manifest) first")
    found = {}
    for kind, key in (("picture", rows.cluster), ("vehicle", rows.vehicle), ("model", model_key(rows))):
        siblings = key[test.index].isin(key[train.index].dropna()).sum()
        found[kind] = (len(test), int(siblings), siblings / len(test))
    return pd.DataFrame.from_dict(found, "index", columns=["test_photos", "with_sibling_in_train", "share"])


def model_key(rows: pd.DataFrame) -> pd.Series:
    """Brand and model as one str; 'C Class', 'c-class' and 'C_CLASS' are one model, no model is missing."""
    return rows.brand + "\n" + rows.model.str.lower().str.replace(r"[\W_]+", "", regex=True)


def _groups(rows: pd.DataFrame, group_by: str) -> tuple[pd.Series, set[int]]:
    """Number of the group of each row, and the groups without a model if models are asked for."""
    if group_by == "photo":
        return pd.Series(np.arange(len(rows)), rows.index), set()
    vehicle = pd.factorize(rows.vehicle)[0]
    if group_by == "vehicle":
        return pd.Series(vehicle, rows.index), set()
    # A vehicle with two models ties both together.
    model = pd.factorize(model_key(rows))[0]
    known, n = model >= 0, vehicle.max() + 1
    pairs = np.stack([vehicle[known], n + model[known]], 1)
    group = components(pairs, n + model.max() + 1)[vehicle]
    return pd.Series(group, rows.index), {*group} - {*group[known]}


def _disputed(rows: pd.DataFrame, groups: pd.Series) -> pd.Index:
    """Groups with photos that may show either of two brands."""
    disputed = rows.brand.groupby(groups).nunique() > 1
    if "suspect" in rows:
        disputed |= rows.suspect.notna().groupby(groups).any()
    return disputed.index[disputed]


def _earlier(
    manifest: pd.DataFrame, previous_split: pd.DataFrame | str | os.PathLike | None, group_by: str
) -> pd.Series:
    """For each row the split it was in before, as an index of SPLITS, of several the last; -1 if it is new."""
    rank = pd.Series(-1, manifest.index)
    if previous_split is None:
        return rank
    previous = previous_split if isinstance(previous_split, pd.DataFrame) else parse_table(previous_split)
    if not {"path", "split"} <= set(previous):
        raise ValueError("the previous split lacks the columns path and split; give a result of split, or split.csv")
    previous = previous[previous.split.isin(SPLITS)]
    columns = ("path", "sha256") if group_by == "photo" else ("path", "sha256", "vehicle")
    keys = [(manifest[name], previous[name]) for name in columns if name in manifest and name in previous]
    if group_by != "photo":
        # A vehicle that was merged with another has a new name, but its file names still give the old one.
        ours, theirs = (table.path.map(lambda path: parse_path(path)[2]) for table in (manifest, previous))
        keys.append((ours, theirs))
        if "fingerprint" in manifest and "fingerprint" in previous:
            pictures = same_pictures(pd.concat([manifest.fingerprint, previous.fingerprint], ignore_index=True))
            ours, theirs = np.split(pictures, [len(manifest)])
            keys.append((pd.Series(ours, manifest.index), pd.Series(theirs, previous.index)))
    before = previous.split.map(SPLITS.index)
    for ours, theirs in keys:
        rank = np.maximum(rank, ours.map(before.groupby(theirs).max()).fillna(-1).astype(int))
    found, n = int((rank >= 0).sum()), len(previous)
    if not found and n:
        raise ValueError(f"none of the {n:,} photos of the previous split is recognised; give a split of these photos")
    if found < n / 2:
        message = f"only {found:,} of the {n:,} photos of the previous split are recognised"
        warnings.warn(f"{message}; if the others are here under new names, they may be learned now", stacklevel=4)
    return rank


def _check_train(rows: pd.DataFrame, result: pd.Series, earlier: pd.Series, fractions: tuple) -> None:
    """Warn or refuse if a previous split leaves too little to learn from."""
    learned = set(rows.brand[earlier[rows.index] == SPLITS.index("train")])
    train = rows[result[rows.index] == "train"]
    lost = learned - set(train.brand)
    message = f"the previous split leaves {len(train):,} of {len(rows):,} photos to train"
    remedy = "if it was made with another `group_by`, give one of the same, or none"
    if learned and len(lost) > len(learned) / 2:
        raise ValueError(f"{message}, and none of {', '.join(sorted(lost))}; {remedy}")
    if (earlier >= 0).any() and len(train) < fractions[0] * len(rows) / 2:
        warnings.warn(f"{message}; {remedy}", stacklevel=4)


def _divide(sizes: pd.Series, fractions: tuple[float, float, float], place: dict[int, str]) -> dict[int, str]:
    """Group number -> split, for the groups of one brand (photos of each, in random order); `place` is decided."""
    decided = {group: place[group] for group in sizes.index if group in place}
    free = sizes.drop(list(decided))
    # First one group for each split that has none, the largest to train; then each goes where most is missing.
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
