"""Folder -> manifest: a table with one row a photo."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from carclf.brands import folder_brand, name_pattern, parse_name
from carclf.fingerprints import merge_duplicates
from carclf.inspection import inspect
from carclf.photos import SUFFIXES

TEXTS = ("path", "brand", "model", "vehicle", "problem", "label_from", "sha256", "fingerprint", "cluster", "suspect")
COLUMNS = (*TEXTS[:4], "width", "height", "bytes", *TEXTS[4:])
NAMING = "name photos 'Audi_A4_1.jpg' or put them in a folder called 'Audi'"  # the remedy for unread brands


def list_photos(folder: str | os.PathLike) -> list[str]:
    """Absolute paths, sorted, of all files below `folder` with a photo's ending; dot files are left out.

    Raises
    ------
    NotADirectoryError, ValueError
        Where there is no such folder, or no photo in it.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder; give the folder that holds the photos")
    found = []
    unreadable: list[OSError] = []
    for place, folders, names in os.walk(
        root, onerror=unreadable.append
    ):  # links to folders are not followed: no loops
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [
            os.path.join(place, n)  # noqa: PTH118 - ten times faster than Path, and a folder may hold a million
            for n in names
            if not n.startswith(".") and os.path.splitext(n)[1].lower() in SUFFIXES  # noqa: PTH122
        ]
    # Neither the index of a cache nor split.csv could hold them; Latin-1 comes from old archives.
    foreign = [path for path in found if "\r" in path or path.encode("utf-8", "replace").decode("utf-8") != path]
    if foreign:
        message = f"{len(foreign)} names are not UTF-8 or hold a carriage return, such as {foreign[0]!r}"
        warnings.warn(f"{message}; they are left out, rename these files", stacklevel=2)
        found = set(found).difference(foreign)
    if unreadable:
        message = (
            f"{len(unreadable)} folders cannot be read, such as {unreadable[0].filename!r} ({unreadable[0].strerror})"
        )
        warnings.warn(f"{message}; their photos are left out, ask for the right to read them", stacklevel=2)
    if not found:
        raise ValueError(f"no photos in {root}: put files such as 'Audi_A4_1.jpg' or 'Audi/1.jpg' there")
    return sorted(found)


def scan(folder: str | os.PathLike | Sequence[str | os.PathLike]) -> pd.DataFrame:
    """Read the names, and decode every photo of a folder that is new or has changed since the last scan.

    Parameters
    ----------
    folder : one folder, or several: copies are then found across them as well

    Returns
    -------
    DataFrame, one row a photo, sorted by path, with the columns

    ============  ==================================================================================
    path          str, absolute
    brand         str, or missing where neither the name nor the parent folder's name carries one
    model         str, or missing: what the name says after the brand, without year and number
    vehicle       str: photos of one car share it; the photo itself where the name does not tell
    width height  pixels, upright; 0 where unreadable
    bytes         size of the file
    problem       str, or missing: why the photo is set aside
    label_from    "name", "folder" or missing: where the brand was read
    sha256        str, digest of the file, or missing where it cannot be read
    fingerprint   str, what the picture looks like (`carclf.fingerprints`), or missing
    cluster       str: photos of one picture share it; missing where the picture is there once
    suspect       str, or missing: why the brand may be wrong
    ============  ==================================================================================

    Vehicles that share a picture (identical files or near-duplicates) are one vehicle. Identical files that carry
    different brands are set aside; near-duplicates that do are suspects.

    Raises
    ------
    NotADirectoryError, ValueError
        Where there is no such folder, or no photo in it.
    """
    folders = [folder] if isinstance(folder, (str, os.PathLike)) else folder
    paths = sorted({path for one in folders for path in list_photos(one)})
    names = pd.DataFrame([read_name(p) for p in paths], columns=["brand", "model", "vehicle", "label_from"])
    facts = inspect(paths).rename_axis("path").reset_index()
    manifest = merge_duplicates(pd.concat([facts, names], axis=1))
    return manifest[list(COLUMNS)].astype(dict.fromkeys(TEXTS, object))


def read_name(path: str) -> tuple[str | None, str | None, str, str | None]:
    """Brand, model, vehicle and where the brand was read: "name", "folder" or None."""
    name, parent = Path(path).name, Path(path).parent
    brand, model, vehicle = parse_name(name)
    vehicle = vehicle or path  # a listing's photos belong together in whatever folders they lie
    if brand is not None:
        return brand, model, vehicle, "name"
    brand = folder_brand(parent.name)
    return brand, None, vehicle, None if brand is None else "folder"


def summary(manifest: pd.DataFrame) -> str:
    """What a scan found, in a few lines: counts, where the labels came from, unread names, problems."""
    good = usable(manifest)
    unread = manifest[manifest.brand.isna()]
    lines = [
        f"{len(manifest):,} photos, {len(good):,} usable: "
        f"{good.brand.nunique()} brands, {good.vehicle.nunique():,} vehicles",
        "brand read from " + ", ".join(f"the {k}: {v:,}" for k, v in manifest.label_from.value_counts().items())
        if manifest.label_from.notna().any()
        else "no name carries a brand",
    ]
    if len(unread):
        patterns = Counter(name_pattern(Path(p).name) for p in unread.path).most_common(5)
        lines.append(f"no brand in {len(unread):,} names: " + ", ".join(f"{p} ({n:,})" for p, n in patterns))
    problems = manifest.problem.dropna().str.split(":").str[0].value_counts()
    if len(problems):
        lines.append("set aside: " + ", ".join(f"{reason} ({n:,})" for reason, n in problems.items()))
    if "cluster" in manifest and manifest.cluster.notna().any():
        copies, pictures = manifest.cluster.count(), manifest.cluster.nunique()
        suspects = manifest.suspect.count()
        lines.append(f"{copies:,} photos show {pictures:,} pictures more than once; suspect names: {suspects:,}")
    return "\n".join(lines)


def usable(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows with a brand and without a problem."""
    return manifest[manifest.brand.notna() & manifest.problem.isna()]


class Report(NamedTuple):
    """What a folder offers to a training; tables, to be shown one by one.

    Attributes
    ----------
    brands : DataFrame, a row a brand and most photos first: photos, vehicles, models, share of all photos, photos of
        pictures that are there more than once, suspect names, photos set aside
    sizes : DataFrame, rows least, 5 %, median, 95 %, most: width, height, shorter_side in pixels, kilobytes
    problems : DataFrame, a row a reason: photos that cannot be used for it, and one of them as an example
    imbalance : how many times as many photos the largest brand has as the smallest
    """

    brands: pd.DataFrame
    sizes: pd.DataFrame
    problems: pd.DataFrame
    imbalance: float


def report(manifest: pd.DataFrame) -> Report:
    """Photos and vehicles of each brand, sizes of the photos, and what cannot be used.

    Raises
    ------
    ValueError
        Where no photo can be used.
    """
    good, rest = usable(manifest), set_aside(manifest)
    if good.empty:
        raise ValueError(f"none of the {len(manifest)} photos is readable and carries a brand: {NAMING}")
    counts = {"photos": ("path", "size"), "vehicles": ("vehicle", "nunique"), "models": ("model", "nunique")}
    brands = good.groupby("brand").agg(**counts, more_than_once=("cluster", "count"), suspect=("suspect", "count"))
    brands.insert(3, "share", brands.photos / len(good))
    brands["set_aside"] = rest.brand.value_counts().reindex(brands.index, fill_value=0)
    pixels = good[["width", "height"]].assign(shorter_side=good[["width", "height"]].min(axis=1))
    sizes = pixels.assign(kilobytes=good.bytes / 1e3).quantile([0, 0.05, 0.5, 0.95, 1]).round().astype(int)
    sizes.index = ["least", "5 %", "median", "95 %", "most"]
    reason = rest.reason.str.split(":").str[0]
    problems = rest.groupby(reason).agg(photos=("path", "size"), example=("path", "first"))
    return Report(
        brands.sort_values("photos", ascending=False, kind="stable"),
        sizes,
        problems.sort_values("photos", ascending=False, kind="stable"),
        brands.photos.max() / brands.photos.min(),
    )


def set_aside(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not `usable`: columns `path` (below the common folder), `brand` and `reason`."""
    rest = manifest[manifest.brand.isna() | manifest.problem.notna()]
    if manifest.empty:
        return pd.DataFrame(columns=["path", "brand", "reason"], dtype=object)
    root = os.path.commonpath(manifest.path.map(os.path.dirname).tolist())
    return pd.DataFrame(
        {
            "path": rest.path.map(lambda p: os.path.relpath(p, root)),
            "brand": rest.brand,
            "reason": rest.problem.fillna("neither the name nor the folder carries a brand"),
        }
    )


def read_table(source: str | os.PathLike) -> pd.DataFrame:
    """A manifest from a CSV file, such as the split.csv of a run.

    Raises
    ------
    OSError, ValueError
        Where there is no such table, or it lacks columns.
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"there is no {source}; give the split.csv of a run, or a folder of photos")
    texts = dict.fromkeys((*TEXTS, "split"), object)
    try:
        table = pd.read_csv(source, keep_default_na=False, na_values=dict.fromkeys(texts, ""), dtype=texts)
    except ValueError as error:
        raise ValueError(f"{source} is not a table ({error}); give the split.csv of a run") from error
    absent = {"path", "brand", "vehicle", "problem", "split"} - set(table)
    if absent:
        raise ValueError(f"{source} lacks the columns {', '.join(sorted(absent))}; give the split.csv of a run")
    return table.assign(**dict.fromkeys(set(TEXTS) - set(table)))  # of an earlier version


def read_test(source: str | os.PathLike) -> pd.DataFrame:
    """The photos to test on: those marked test in the `split.csv` of a run, or all photos of a folder.

    Returns
    -------
    DataFrame as `scan` gives it; from a `split.csv` also with the column `split`

    Raises
    ------
    OSError, ValueError
        Where there is no such folder or table, or it holds no test photos.
    """
    source = Path(source)
    if source.is_dir() or source.suffix.lower() != ".csv":
        return scan(source)
    table = read_table(source)
    test = table[table.split == "test"].reset_index(drop=True)
    if test.empty:
        raise ValueError(f"no row of {source} is marked test; give the split.csv that training wrote")
    return test
