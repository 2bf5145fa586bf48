"""Folder of photos -> manifest: a table with one row per photo."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from platformdirs import user_cache_path
from tqdm.auto import tqdm

from carclf.brands import folder_brand, name_pattern, parse_name
from carclf.data.duplicates import SIDE, fingerprint, merge_duplicates
from carclf.data.photos import SUFFIXES, PhotoError, probe, read_bytes
from carclf.files import file_state

TEXTS = ("path", "brand", "model", "vehicle", "problem", "label_from", "sha256", "fingerprint", "cluster", "suspect")
COLUMNS = (*TEXTS[:4], "width", "height", "bytes", *TEXTS[4:])
FACTS = ("bytes", "mtime_ns", "width", "height", "problem", "sha256", "fingerprint")  # of one file
NAMING = "name photos 'Audi_A4_1.jpg' or put them in a folder called 'Audi'"  # the remedy for unread brands

VERSION = 2  # of the scan memory; raise it if the same file would now give other facts
FOLDER = "CARCLF_CACHE"  # environment variable: folder of the scan memory instead of the user's cache folder
CHUNK = 1_000  # files between two writes to the scan memory: all that an interrupted scan loses


def scan(folder: str | os.PathLike | Sequence[str | os.PathLike]) -> pd.DataFrame:
    """Read all names, and decode every photo of a folder that is new or has changed since the last scan.

    Parameters
    ----------
    folder : str, path, or a sequence of them
        Copies are also found across several folders.

    Returns
    -------
    DataFrame
        One row per photo, sorted by path, with the columns

        ============  ==================================================================================
        path          str, absolute
        brand         str, or missing if neither the name nor the parent folder's name has one
        model         str, or missing: what the name says after the brand, without year and number
        vehicle       str: photos of one car share it; the photo itself if the name does not say
        width height  pixels, upright; 0 if unreadable
        bytes         size of the file
        problem       str, or missing: why the photo is set aside
        label_from    "name", "folder" or missing: where the brand was read
        sha256        str, digest of the file, or missing if unreadable
        fingerprint   str, what the picture looks like (`carclf.data.duplicates`), or missing
        cluster       str: photos of one picture share it; missing if no other photo shows the picture
        suspect       str, or missing: why the brand may be wrong
        ============  ==================================================================================

        Vehicles that share a picture (identical files or near-duplicates) are one vehicle. Identical files with
        different brands are set aside; near-duplicates with different brands are suspects.

    Raises
    ------
    NotADirectoryError, ValueError
        If there is no such folder, or no photo in it.
    """
    folders = [folder] if isinstance(folder, (str, os.PathLike)) else folder
    paths = sorted({path for one in folders for path in list_photos(one)})
    names = pd.DataFrame([read_name(path) for path in paths], columns=["brand", "model", "vehicle", "label_from"])
    facts = inspect(paths).rename_axis("path").reset_index()
    manifest = merge_duplicates(pd.concat([facts, names], axis=1))
    return manifest[list(COLUMNS)].astype(dict.fromkeys(TEXTS, object))


def list_photos(folder: str | os.PathLike) -> list[str]:
    """Sorted absolute paths of all files below `folder` with the suffix of a photo; dot files are left out."""
    root = Path(folder).absolute()
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder; give the folder that holds the photos")
    found: list[str] = []
    errors: list[OSError] = []
    for place, folders, names in os.walk(root, onerror=errors.append):  # does not follow links, so there are no loops
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(place, name)  # noqa: PTH118 - ten times faster than Path
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122
        ]
    # A cache index or split.csv could not hold these names; Latin-1 comes from old archives.
    foreign = [path for path in found if "\r" in path or path.encode("utf-8", "replace").decode("utf-8") != path]
    if foreign:
        message = f"{len(foreign)} names are not UTF-8 or hold a carriage return, such as {foreign[0]!r}"
        warnings.warn(f"{message}; they are left out, rename these files", stacklevel=2)
    if errors:
        message = f"{len(errors)} folders cannot be read, such as {errors[0].filename!r} ({errors[0].strerror})"
        warnings.warn(f"{message}; their photos are left out, ask for permission to read them", stacklevel=2)
    photos = sorted(set(found).difference(foreign))
    if not photos:
        raise ValueError(f"no photos in {root}: put files such as 'Audi_A4_1.jpg' or 'Audi/1.jpg' there")
    return photos


def read_name(path: str) -> tuple[str | None, str | None, str, str | None]:
    """Brand, model, vehicle and where the brand was read: "name", "folder" or None."""
    name, parent = Path(path).name, Path(path).parent
    brand, model, vehicle = parse_name(name)
    vehicle = vehicle or path  # photos of one listing belong together even in different folders
    if brand is not None:
        return brand, model, vehicle, "name"
    brand = folder_brand(parent.name)
    return brand, None, vehicle, None if brand is None else "folder"


def inspect(paths: list[str]) -> pd.DataFrame:
    """The columns `FACTS` of sorted absolute paths, indexed by path. Decodes only what is new or has changed."""
    now = pd.DataFrame([file_state(path) for path in paths], paths, FACTS[:2])
    with closing(_Memory()) as memory:
        seen = [memory.recall(now)]
        todo = now.drop(seen[0].index)
        quiet = {"disable": True} if todo.empty else {}  # else tqdm's own settings decide
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,  # Pillow decodes outside the interpreter lock
            tqdm(desc="scan", total=len(todo), unit="photo", leave=False, **quiet) as bar,
        ):
            for start in range(0, len(todo), CHUNK):
                part = todo.iloc[start : start + CHUNK]
                facts = pool.map(_facts_of, part.index)
                rows = [(*state, *fact) for state, fact in zip(part.itertuples(index=False), facts, strict=True)]
                seen.append(pd.DataFrame(rows, part.index, FACTS, dtype=object))
                memory.remember(seen[-1])
                bar.update(len(part))
    return pd.concat(seen).reindex(paths).astype(dict.fromkeys(FACTS[:4], "int64"))


def _facts_of(path: str) -> tuple[int, int, str | None, str | None, str | None]:
    """Width, height, problem, digest and fingerprint of one file."""
    digest = None
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        (width, height), small = probe(data, SIDE)
    except PhotoError as error:
        return 0, 0, str(error), digest, None
    return width, height, None, digest, fingerprint(small)


class _Memory:
    """What earlier scans saw, in an SQLite file that may be deleted at any time. If it fails, a scan does without."""

    def __init__(self) -> None:
        folder = Path(os.environ.get(FOLDER) or user_cache_path("carclf", appauthor=False)).expanduser()
        self.file = folder / f"scans-v{VERSION}.sqlite"
        self.connection: sqlite3.Connection | None = None
        with self._optional():
            folder.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(self.file, timeout=60)
            columns = f"path TEXT PRIMARY KEY, {', '.join(FACTS)}"
            self.connection.execute(f"CREATE TABLE IF NOT EXISTS files ({columns}) WITHOUT ROWID")

    def recall(self, now: pd.DataFrame) -> pd.DataFrame:
        """Facts of the files that have not changed since they were remembered, indexed by path."""
        rows = []
        with self._optional():
            if self.connection and len(now):
                query = f"SELECT path, {', '.join(FACTS)} FROM files WHERE path BETWEEN ? AND ?"
                rows = self.connection.execute(query, (now.index[0], now.index[-1])).fetchall()  # sorted as in Python
        table = pd.DataFrame(rows, columns=["path", *FACTS], dtype=object).set_index("path")
        table = table[table.index.isin(now.index)]
        return table[(table[["bytes", "mtime_ns"]] == now.loc[table.index]).all(axis=1)]

    def remember(self, rows: pd.DataFrame) -> None:
        """Add the files without a problem: another version of a decoder may be able to read the rest."""
        with self._optional():
            if self.connection:
                with self.connection:
                    marks = ", ".join("?" * (1 + len(FACTS)))
                    good = rows[rows.problem.isna()].itertuples(name=None)
                    self.connection.executemany(f"INSERT OR REPLACE INTO files VALUES ({marks})", good)

    def close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None

    @contextmanager
    def _optional(self) -> Iterator[None]:
        """Turn a failure of the file into one warning, and go on without it."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self.close()
            message = f"scans are not remembered, because {self.file} cannot be used ({error})"
            remedy = f"delete it, or set the environment variable {FOLDER} to a folder of yours"
            warnings.warn(f"{message}; {remedy}", stacklevel=6)


def usable(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows with a brand and without a problem."""
    return manifest[manifest.brand.notna() & manifest.problem.isna()]


def require_usable(manifest: pd.DataFrame) -> pd.DataFrame:
    """The `usable` rows; a ValueError with the remedy if there are none."""
    rows = usable(manifest)
    if rows.empty:
        example = f", such as {Path(manifest.path.iloc[0]).name!r}" if len(manifest) else ""
        raise ValueError(f"none of the {len(manifest)} photos is readable and carries a brand{example}: {NAMING}")
    return rows


def set_aside(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not `usable`: columns `path` (below the common folder), `brand` and `reason`."""
    rest = manifest[manifest.brand.isna() | manifest.problem.notna()]
    root = os.path.commonpath(manifest.path.map(os.path.dirname).tolist()) if len(manifest) else ""
    path = rest.path.map(lambda path: os.path.relpath(path, root))
    reason = rest.problem.fillna("neither the name nor the folder carries a brand")
    return pd.DataFrame({"path": path, "brand": rest.brand, "reason": reason})


def summary(manifest: pd.DataFrame) -> str:
    """What a scan found, in a few lines: counts, where the brands were read, unread names, problems."""
    good, unread = usable(manifest), manifest[manifest.brand.isna()]
    brands, vehicles = good.brand.nunique(), good.vehicle.nunique()
    lines = [f"{len(manifest):,} photos, {len(good):,} usable: {brands} brands, {vehicles:,} vehicles"]
    sources = [f"the {source}: {n:,}" for source, n in manifest.label_from.value_counts().items()]
    lines.append(f"brand read from {', '.join(sources)}" if sources else "no name carries a brand")
    if len(unread):
        patterns = Counter(name_pattern(Path(path).name) for path in unread.path).most_common(5)
        lines.append(f"no brand in {len(unread):,} names: " + ", ".join(f"{p} ({n:,})" for p, n in patterns))
    problems = manifest.problem.dropna().str.split(":").str[0].value_counts()
    if len(problems):
        lines.append("set aside: " + ", ".join(f"{reason} ({n:,})" for reason, n in problems.items()))
    if "cluster" in manifest and manifest.cluster.notna().any():
        copies, pictures, suspects = manifest.cluster.count(), manifest.cluster.nunique(), manifest.suspect.count()
        lines.append(f"{copies:,} photos show {pictures:,} pictures more than once; suspect names: {suspects:,}")
    return "\n".join(lines)


class Report(NamedTuple):
    """What a folder offers for training."""

    brands: pd.DataFrame  # most photos first: photos, vehicles, models, share, more_than_once, suspect, set_aside
    sizes: pd.DataFrame  # least, 5 %, median, 95 %, most of width, height and shorter_side in pixels, and of kilobytes
    problems: pd.DataFrame  # a row per reason: how many photos are set aside for it, and one of them as an example
    imbalance: float  # photos of the largest brand over photos of the smallest


def describe(manifest: pd.DataFrame) -> Report:
    """Photos and vehicles of each brand, sizes of the photos, and what cannot be used; a ValueError if nothing can."""
    good, rest = require_usable(manifest), set_aside(manifest)
    counts = {"photos": ("path", "size"), "vehicles": ("vehicle", "nunique"), "models": ("model", "nunique")}
    brands = good.groupby("brand").agg(**counts, more_than_once=("cluster", "count"), suspect=("suspect", "count"))
    brands.insert(3, "share", brands.photos / len(good))
    brands["set_aside"] = rest.brand.value_counts().reindex(brands.index, fill_value=0)
    pixels = good[["width", "height"]].assign(shorter_side=good[["width", "height"]].min(axis=1))
    sizes = pixels.assign(kilobytes=good.bytes / 1e3).quantile([0, 0.05, 0.5, 0.95, 1]).round().astype(int)
    sizes.index = pd.Index(["least", "5 %", "median", "95 %", "most"])
    problems = rest.groupby(rest.reason.str.split(":").str[0]).agg(photos=("path", "size"), example=("path", "first"))
    brands, problems = (t.sort_values("photos", ascending=False, kind="stable") for t in (brands, problems))
    return Report(brands, sizes, problems, brands.photos.max() / brands.photos.min())


def read_table(source: str | os.PathLike) -> pd.DataFrame:
    """A manifest from a CSV file, such as the split.csv of a run."""
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
    return table.assign(**dict.fromkeys(set(TEXTS) - set(table)))  # missing from tables of earlier versions


def read_test(source: str | os.PathLike) -> pd.DataFrame:
    """The photos to test on: a `scan` of a folder, or those marked test in the `split.csv` of a run."""
    source = Path(source)
    if source.is_dir() or source.suffix.lower() != ".csv":
        return scan(source)
    table = read_table(source)
    test = table[table.split == "test"].reset_index(drop=True)
    if test.empty:
        raise ValueError(f"no row of {source} is marked test; give the split.csv that training wrote")
    return test
