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

from carclf.brands import name_pattern, parse_path
from carclf.data.duplicates import SIDE, fingerprint, merge_duplicates
from carclf.data.listing import count_endings, describe_endings, list_files
from carclf.data.moved import missing, missing_text, relocated
from carclf.data.photos import PhotoError, probe, read_bytes
from carclf.errors import counted, no_such, shortened
from carclf.files import file_state, read_csv

TEXTS = (
    *("path", "brand", "model", "vehicle", "problem", "label_from", "sha256", "fingerprint", "cluster", "suspect"),
    "note",
)
COLUMNS = (*TEXTS[:4], "width", "height", "bytes", *TEXTS[4:])
FACTS = ("bytes", "mtime_ns", "width", "height", "problem", "sha256", "fingerprint", "note")  # of one file
OTHERS = "not_photos"  # name among the attrs of a manifest: ending -> number of files that are not photos
NAMING = "name photos 'Audi_A4_1.jpg' or put them in a folder called 'Audi'"  # the remedy for unread brands

VERSION = 3  # of the scan memory; raise it if the same file would now give other facts
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
        brand         str, or missing if neither the name nor a folder from `folder` on says one
        model         str, or missing: what the name says after the brand, without year and number
        vehicle       str: photos of one car share it; the photo itself if the name does not say
        width height  pixels, upright; 0 if unreadable
        bytes         size of the file
        problem       str, or missing: why the photo is set aside
        label_from    "name", "folder", "model" (only a model is said) or missing: where the brand was read
        sha256        str, digest of the file, or missing if unreadable
        fingerprint   str, what the picture looks like (`carclf.data.duplicates`), or missing
        cluster       str: photos of one picture share it; missing if no other photo shows the picture
        suspect       str, or missing: why the brand may be wrong
        note          str, or missing: what is wrong with the file of a photo that is used, as its pixels are whole
        ============  ==================================================================================

        Vehicles that share a picture (identical files or near-duplicates) are one vehicle. Identical files with
        different brands are set aside; near-duplicates with different brands are suspects.

        ``attrs["not_photos"]`` counts the files that are not photos by their ending; `summary` names them.

    Raises
    ------
    NotADirectoryError, ValueError
        If there is no such folder, or no photo in it.
    """
    folders = [folder] if isinstance(folder, (str, os.PathLike)) else folder
    listed = [list_files(one) for one in folders]
    paths, others = (sorted({path for one in listed for path in one[i]}) for i in (0, 1))
    root = {path: str(Path(one).absolute()) for one, found in zip(folders, listed, strict=True) for path in found[0]}
    read = [parse_path(path, root[path]) for path in paths]
    names = pd.DataFrame(read, columns=["brand", "model", "vehicle", "label_from"])
    facts = inspect(paths).rename_axis("path").reset_index()
    manifest = merge_duplicates(pd.concat([facts, names], axis=1))
    manifest = manifest[list(COLUMNS)].astype(dict.fromkeys(TEXTS, object))
    manifest.attrs[OTHERS] = count_endings(others)
    return manifest


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


def _facts_of(path: str) -> tuple[int, int, str | None, str | None, str | None, str | None]:
    """Width, height, problem, digest, fingerprint and note of one file."""
    digest = None
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        (width, height), small, note = probe(data, SIDE)
    except PhotoError as error:
        return 0, 0, str(error), digest, None, None
    return width, height, None, digest, fingerprint(small), note


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
    if missing := {"path", "brand", "problem"}.difference(manifest):
        lacking = ", ".join(sorted(missing))
        raise ValueError(f"this is no manifest, as it lacks {lacking}; carclf.scan(folder) makes one")
    rows = usable(manifest)
    if rows.empty:
        example = f", such as {shortened(Path(manifest.path.iloc[0]).name)!r}" if len(manifest) else ""
        problems = manifest.problem.dropna().str.split(":").str[0].value_counts()
        if len(problems) and manifest.brand.notna().any():  # then the names are not to blame
            why = ", ".join(f"{reason} ({n:,})" for reason, n in problems.items())
            nameless = int((manifest.brand.isna() & manifest.problem.isna()).sum())
            why += f", without a brand ({nameless:,})" if nameless else ""
            first = manifest[manifest.problem.notna()].iloc[0]
            example = f"{shortened(Path(first.path).name)!r}: {first.problem}"
            raise ValueError(f"none of the {len(manifest)} photos can be used: {why}; such as {example}")
        raise ValueError(f"none of the {len(manifest)} photos is readable and carries a brand{example}: {NAMING}")
    return rows


def set_aside(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not `usable`, for people: `path` (below the common folder, shortened), `brand`, `reason`."""
    rest = manifest[manifest.brand.isna() | manifest.problem.notna()]
    root = os.path.commonpath(manifest.path.map(os.path.dirname).tolist()) if len(manifest) else ""
    path = rest.path.map(lambda path: shortened(os.path.relpath(path, root)))
    reason = rest.problem.fillna("neither the name nor the folder carries a brand")
    return pd.DataFrame({"path": path, "brand": rest.brand, "reason": reason})


def summary(manifest: pd.DataFrame) -> str:
    """What a scan found, in a few lines: counts, where the brands were read, unread names, problems."""
    good, unread = usable(manifest), manifest[manifest.brand.isna()]
    brands, vehicles = good.brand.nunique(), good.vehicle.nunique()
    found = f"{counted(brands, 'brand')}, {counted(vehicles, 'vehicle')}"
    lines = [f"{counted(len(manifest), 'photo')}, {len(good):,} usable: {found}"]
    told = {"model": "only a model, such as 'Mustang'"}
    sources = [f"{told.get(s, f'the {s}')}: {n:,}" for s, n in manifest.label_from.value_counts().items()]
    lines.append(f"brand read from {', '.join(sources)}" if sources else "no name carries a brand")
    if len(unread):
        patterns = Counter(name_pattern(Path(path).name) for path in unread.path).most_common(5)
        named = ", ".join(f"{shortened(pattern)} ({n:,})" for pattern, n in patterns)
        lines.append(f"no brand in {counted(len(unread), 'name')}: {named}")
    problems = manifest.problem.dropna().str.split(":").str[0].value_counts()
    if len(problems):
        lines.append("set aside: " + ", ".join(f"{reason} ({n:,})" for reason, n in problems.items()))
    if others := manifest.attrs.get(OTHERS):
        lines.append(f"not photos: {describe_endings(others)}")
    if "note" in manifest and manifest.note.notna().any():
        notes = manifest.note.value_counts()
        lines.append("used although not whole: " + ", ".join(f"{note} ({n:,})" for note, n in notes.items()))
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


def read_table(source: str | os.PathLike, photos: str | os.PathLike | None = None) -> pd.DataFrame:
    """A manifest from a CSV file, such as the split.csv of a run.

    Photos that have moved get their new paths: if `photos` names the folder where they are now, or if they are still
    beside the folders that hold the file. A warning says where they were found, and another which are missing.
    """
    table = relocated(parse_table(source), Path(source), photos)
    gone = missing(table)
    if len(gone):
        warnings.warn(missing_text(gone, table, source), stacklevel=2)
    return table


def parse_table(source: str | os.PathLike) -> pd.DataFrame:
    """The same as the file has it: its photos may be anywhere."""
    if not Path(source).is_file():
        raise FileNotFoundError(f"{no_such(source, 'file')}; give the split.csv of a run, or a folder of photos")
    texts = dict.fromkeys((*TEXTS, "split"), object)
    try:
        table = read_csv(source, keep_default_na=False, na_values=dict.fromkeys(texts, ""), dtype=texts)
    except ValueError as error:
        raise ValueError(f"{source} is not a table ({error}); give the split.csv of a run") from error
    absent = {"path", "brand", "vehicle", "problem", "split"} - set(table)
    if absent:
        raise ValueError(f"{source} lacks the columns {', '.join(sorted(absent))}; give the split.csv of a run")
    if table.path.isna().any():
        raise ValueError(f"{source} has no path in row {table.path.isna().argmax() + 2}; give the split.csv of a run")
    return table.assign(**dict.fromkeys(set(TEXTS) - set(table)))  # missing from tables of earlier versions


def read_test(
    source: str | os.PathLike, photos: str | os.PathLike | None = None, skip_missing: bool = False
) -> pd.DataFrame:
    """The photos to test on: a `scan` of a folder, or those marked test in the `split.csv` of a run.

    Parameters
    ----------
    photos : the folder to which the photos of the split.csv were moved, if they are not found; see `read_table`
    skip_missing : test on the rest if some photos are missing, which is an error otherwise
    """
    if Path(source).is_dir() or Path(source).suffix.lower() != ".csv":
        return scan(source)
    table = relocated(parse_table(source), Path(source), photos)
    test = table[table.split == "test"].reset_index(drop=True)
    if test.empty:
        raise ValueError(f"no row of {source} is marked test; give the split.csv that training wrote")
    gone = missing(test)
    if len(gone):
        message = missing_text(gone, test, source, "test photos")
        if not skip_missing or len(gone) == len(test):
            some = "; or test on the rest with skip_missing=True (--skip-missing)" if len(gone) < len(test) else ""
            raise FileNotFoundError(message + some)
        warnings.warn(f"{message}; the test is on the rest", stacklevel=2)
        test = test.drop(gone.index).reset_index(drop=True)
    return test
