"""Folder -> manifest: a table with one row a photo; and its split into train, valid and test."""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from carclf.brands import folder_brand, name_pattern, parse_name
from carclf.photos import SUFFIXES, PhotoError, measure_photo

COLUMNS = ("path", "brand", "model", "vehicle", "width", "height", "bytes", "problem", "label_from")
SPLITS = ("train", "valid", "test")
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
    for place, folders, names in os.walk(root):  # symbolic links to folders are not followed: no loops
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
    if not found:
        raise ValueError(f"no photos in {root}: put files such as 'Audi_A4_1.jpg' or 'Audi/1.jpg' there")
    return sorted(found)


def scan(folder: str | os.PathLike) -> pd.DataFrame:
    """Read the names and decode every photo of a folder once.

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
    ============  ==================================================================================

    Byte-identical files are one vehicle; where such files carry different brands, all are set aside.

    Raises
    ------
    NotADirectoryError, ValueError
        Where there is no such folder, or no photo in it.
    """
    paths = list_photos(folder)
    names = [read_name(path) for path in paths]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter lock
        facts = list(tqdm(pool.map(_inspect, paths), "scan", len(paths), unit="photo", leave=False))
    manifest = pd.DataFrame(
        [(p, *n[:3], *f, n[3]) for p, n, f in zip(paths, names, facts, strict=True)], columns=COLUMNS
    ).astype({c: object for c in ("brand", "model", "vehicle", "problem", "label_from")})
    return _merge_copies(manifest)


def read_name(path: str) -> tuple[str | None, str | None, str, str | None]:
    """Brand, model, vehicle and where the brand was read: "name", "folder" or None."""
    name, parent = Path(path).name, Path(path).parent
    brand, model, vehicle = parse_name(name)
    vehicle = vehicle or path  # a listing's photos belong together in whatever folders they lie
    if brand is not None:
        return brand, model, vehicle, "name"
    brand = folder_brand(parent.name)
    return brand, None, vehicle, None if brand is None else "folder"


def _inspect(path: str) -> tuple[int, int, int, str | None]:
    """Width, height, bytes and problem of one file."""
    try:
        size = os.stat(path).st_size  # noqa: PTH116
    except OSError:
        size = 0
    try:
        return *measure_photo(path), size, None
    except PhotoError as error:
        return 0, 0, size, str(error)


def _merge_copies(manifest: pd.DataFrame) -> pd.DataFrame:
    """Give byte-identical photos one vehicle, or set them aside where their brands contradict each other."""
    good = manifest[manifest.problem.isna()]
    candidates = good[good.duplicated(["bytes", "width", "height"], keep=False)]  # only those can be equal
    digests = candidates.path.map(lambda p: hashlib.sha256(Path(p).read_bytes()).hexdigest())
    for rows in digests.groupby(digests).groups.values():
        if len(rows) < 2:
            continue
        brands = sorted(manifest.loc[rows, "brand"].dropna().unique())
        if len(brands) > 1:
            manifest.loc[rows, "problem"] = f"contradiction: the same photo is named {' and '.join(brands)}"
        else:
            vehicles = manifest.loc[rows, "vehicle"]
            manifest.loc[manifest.vehicle.isin(vehicles), "vehicle"] = vehicles.iloc[0]
    return manifest


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
    return "\n".join(lines)


def usable(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows with a brand and without a problem."""
    return manifest[manifest.brand.notna() & manifest.problem.isna()]


def set_aside(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not `usable`: columns `path` (below the common folder), `brand` and `reason`."""
    rest = manifest.drop(usable(manifest).index)
    root = os.path.commonpath(manifest.path.map(os.path.dirname).tolist())
    return pd.DataFrame(
        {
            "path": rest.path.map(lambda p: os.path.relpath(p, root)),
            "brand": rest.brand,
            "reason": rest.problem.fillna("neither the name nor the folder carries a brand"),
        }
    )


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
    if not source.is_file():
        raise FileNotFoundError(f"there is no {source}; give the split.csv of a run, or a folder of photos")
    texts = {c: object for c in (*COLUMNS, "split") if c not in ("width", "height", "bytes")}
    try:
        table = pd.read_csv(source, keep_default_na=False, na_values=dict.fromkeys(texts, ""), dtype=texts)
    except ValueError as error:
        raise ValueError(f"{source} is not a table ({error}); give the split.csv of a run") from error
    absent = {"path", "brand", "vehicle", "problem", "split"} - set(table)
    if absent:
        raise ValueError(f"{source} lacks the columns {', '.join(sorted(absent))}; give the split.csv of a run")
    test = table[table.split == "test"].reset_index(drop=True)
    if test.empty:
        raise ValueError(f"no row of {source} is marked test; give the split.csv that training wrote")
    return test


def split(
    manifest: pd.DataFrame,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    whole: str = "vehicle",
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

    Every brand with at least three such groups has a place in each split. Of two groups the smaller is tested, a
    single one stays in train; a warning names these brands.

    Raises
    ------
    ValueError
        For fewer than two brands, or settings out of range.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {fractions} must be three positive shares that sum to 1, such as (.7, .15, .15)")
    if whole not in ("vehicle", "model", "photo"):
        raise ValueError(f"whole={whole!r} must be 'vehicle', 'model' or 'photo'")
    rows = usable(manifest).sort_values("path")  # the result does not depend on the order of the rows
    _check_brands(manifest, rows)
    groups = _groups(rows, whole)
    result = pd.Series(None, index=manifest.index, dtype=object)
    too_small = []
    for brand, of_brand in groups.groupby(rows.brand, sort=True):
        # Each brand has its own random stream: another brand's photos do not change its split.
        rng = np.random.default_rng([seed, zlib.crc32(brand.encode())])
        sizes = of_brand[of_brand >= 0].value_counts().sort_index()
        place = _divide(sizes.sample(frac=1, random_state=rng), fractions)
        if len(sizes) < 3:
            too_small.append(f"{brand} ({len(sizes)})")
        result[of_brand.index] = [place.get(group, "train") for group in of_brand]
    if too_small:
        warnings.warn(
            f"brands with fewer than 3 {whole}s: {', '.join(too_small)}. One {whole} is only learned, of two one is "
            f"tested; add photos of further {whole}s",
            stacklevel=2,
        )
    return manifest.assign(split=result)


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
    # 'C Class', 'c-class' and 'C_CLASS' are one model; a vehicle under two models ties both together.
    model = pd.factorize(rows.brand + "\n" + rows.model.str.lower().str.replace(r"[\W_]+", "", regex=True))[0]
    known = model >= 0
    n = vehicle.max() + 1
    size = n + max(model.max(), 0) + 1
    edges = coo_matrix((np.ones(known.sum()), (vehicle[known], n + model[known])), shape=(size, size))
    component = connected_components(edges, directed=False)[1][vehicle]
    tied_to_a_model = np.isin(vehicle, vehicle[known])
    return pd.Series(np.where(tied_to_a_model, component, -1), rows.index)


def _divide(sizes: pd.Series, fractions: tuple[float, float, float]) -> dict[int, str]:
    """Group number -> split, for one brand's groups in random order with their photo counts."""
    if len(sizes) < 3:
        return dict(zip(sizes.sort_values(ascending=False, kind="stable").index, ("train", "test"), strict=False))
    # One group for each split first, the largest of the three to train; then each goes where most is missing.
    first = sizes.iloc[:3].sort_values(ascending=False, kind="stable")
    place = dict(zip(first.index, SPLITS, strict=True))
    missing = np.array(fractions) * sizes.sum() - first.to_numpy()
    for group, photos in sizes.iloc[3:].items():
        target = int(missing.argmax())
        missing[target] -= photos
        place[group] = SPLITS[target]
    return place
