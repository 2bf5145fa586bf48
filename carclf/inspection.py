"""What each file holds: its size, digest and fingerprint. Read in parallel, and again only where a file has changed."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pandas as pd
from platformdirs import user_cache_path
from tqdm.auto import tqdm

from carclf.files import file_state
from carclf.fingerprints import SIDE, fingerprint
from carclf.photos import PhotoError, glance, read_bytes

VERSION = 2  # raise when a photo would be read otherwise than before
COLUMNS = ("bytes", "mtime_ns", "width", "height", "problem", "sha256", "fingerprint")
CHUNK = 1_000  # files read between two writes to the memory: a scan that is stopped loses no more
FOLDER = "CARCLF_CACHE"  # environment variable: where the memory lies instead of in the user's cache folder


def inspect(paths: list[str]) -> pd.DataFrame:
    """Decode every file that is new or has changed since an earlier call, and remember what was seen.

    A file has changed where its size or its time of change has. The memory is an SQLite file that may be deleted at
    any time; without it everything is read again.

    Parameters
    ----------
    paths : absolute paths, sorted, each once

    Returns
    -------
    DataFrame, one row a path and in their order, indexed by path, with the columns

    =============  ===========================================================================================
    bytes          size of the file
    mtime_ns       its time of change
    width height   pixels, upright; 0 where unreadable
    problem        str, or missing: why the file is no usable photo
    sha256         str, digest of the file, or missing where it cannot be read
    fingerprint    str as `fingerprints.fingerprint` gives it, or missing
    =============  ===========================================================================================
    """
    now = pd.DataFrame([file_state(path) for path in paths], paths, COLUMNS[:2])
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
                facts = pool.map(_look, part.index)
                rows = [(*state, *fact) for state, fact in zip(part.itertuples(index=False), facts, strict=True)]
                seen.append(pd.DataFrame(rows, part.index, COLUMNS, dtype=object))
                memory.remember(seen[-1])
                bar.update(len(part))
    table = pd.concat(seen).reindex(paths)
    return table.astype(dict.fromkeys(("bytes", "mtime_ns", "width", "height"), "int64"))


def _look(path: str) -> tuple[int, int, str | None, str | None, str | None]:
    """Width, height, problem, digest and fingerprint of one file."""
    try:
        data = read_bytes(path)
    except PhotoError as error:
        return 0, 0, str(error), None, None
    digest = hashlib.sha256(data).hexdigest()
    try:
        (width, height), small = glance(data, SIDE)
    except PhotoError as error:
        return 0, 0, str(error), digest, None
    return width, height, None, digest, fingerprint(small)


class _Memory:
    """What earlier scans saw of the files that could be used; where it fails, a scan goes on without it."""

    def __init__(self):
        folder = Path(os.environ.get(FOLDER) or user_cache_path("carclf", appauthor=False)).expanduser()
        self.file = folder / f"scans-v{VERSION}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(self.file, timeout=60)
            columns = f"path TEXT PRIMARY KEY, {', '.join(COLUMNS)}"
            self.connection.execute(f"CREATE TABLE IF NOT EXISTS files ({columns}) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def recall(self, now: pd.DataFrame) -> pd.DataFrame:
        """What was seen of those files that have not changed since, indexed by path."""
        rows = []
        try:
            if self.connection is not None and len(now):
                query = f"SELECT path, {', '.join(COLUMNS)} FROM files WHERE path BETWEEN ? AND ?"
                rows = self.connection.execute(query, (now.index[0], now.index[-1])).fetchall()  # sorted as in Python
        except sqlite3.Error as error:
            self._give_up(error)
        table = pd.DataFrame(rows, columns=["path", *COLUMNS], dtype=object).set_index("path")
        table = table[table.index.isin(now.index)]
        return table[(table[["bytes", "mtime_ns"]] == now.loc[table.index]).all(axis=1)]

    def remember(self, rows: pd.DataFrame) -> None:
        """Add files without a problem: what is no photo today may be one with another version of a decoder."""
        if self.connection is None:
            return
        marks = ", ".join("?" * (1 + len(COLUMNS)))
        try:
            with self.connection:
                good = rows[rows.problem.isna()].itertuples(name=None)
                self.connection.executemany(f"INSERT OR REPLACE INTO files VALUES ({marks})", good)
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        """Let go of the file."""
        if self.connection is not None:
            self.connection.close()

    def _give_up(self, error: Exception) -> None:
        if getattr(self, "connection", None) is not None:
            self.connection.close()
        self.connection = None
        warnings.warn(
            f"scans are not remembered, as {self.file} cannot be used ({error}); delete it, or set the environment "
            f"variable {FOLDER} to a folder of yours",
            stacklevel=5,
        )
