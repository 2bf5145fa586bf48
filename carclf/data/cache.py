"""Manifest -> uint8 array on disk, and batches from it.

Only what never changes is kept: decoding, turning upright, resizing. Augmentation comes after, new in every epoch.
A folder `cache/<settings>/` holds `photos.npy`, which numpy opens by itself, and `index.csv`, which says which row
of it is which file. The index is written last and atomically: rows that it does not name do not exist. Rows that it
has named are never written again, so whoever has the array open can go on reading.

A photo is known by its path, size and time of change. Only `TensorCache.verify` notices a file that was
replaced by one with the same path, size and time, or pixels that were corrupted on the disk.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import PIL
import torch
from filelock import FileLock
from numpy.lib import format as npy
from tqdm.auto import tqdm

from carclf.data.photos import PhotoError, Source, read_photo, squish
from carclf.files import check_disk, file_state

SCHEMA = 2  # raise when the pixels or the files' layout change
HEADER_BYTES = 128  # of photos.npy; fixed, so that growing the array rewrites the header in place
INDEX = {"bytes": "int64", "mtime_ns": "int64", "slot": "int64"}  # columns of index.csv, beside the path
CHUNK = 8  # photos that one thread decodes in one go
COMMIT_SECONDS = 10  # an interrupted build loses no more work than this


def to_square(source: Source, size: int) -> np.ndarray:
    """Decode one photo and squish it to uint8 [3, size, size], RGB, upright; PhotoError if it cannot be used."""
    return squish(read_photo(source, at_least=2 * size), size)


class TensorCache:
    """The photos of a manifest as one uint8 array, made by `TensorCache.build`.

    Attributes
    ----------
    folder : Path
        Where `photos.npy` and `index.csv` lie; it may be deleted.
    photos : np.memmap of shape (n, 3, size, size), uint8
    slots : ndarray of shape (len(manifest),), int64
        Row of `photos` for each row of the manifest, -1 for rows that were set aside.
    problems : DataFrame with columns path and problem
        Photos that failed to decode while the cache was built.
    """

    def __init__(
        self, folder: Path, manifest: pd.DataFrame, photos: np.ndarray, slots: np.ndarray, problems: pd.DataFrame
    ):
        self.folder, self.photos, self.slots, self.problems = folder, photos, slots, problems
        self.paths, self.size = manifest.path.tolist(), photos.shape[-1]
        self._aside = manifest.problem.tolist()

    def __len__(self) -> int:
        return len(self.slots)

    @classmethod
    def build(cls, manifest: pd.DataFrame, folder: str | os.PathLike, size: int = 256) -> TensorCache:
        """Decode what the cache does not hold yet, and open it; say how much that is and how much disk is free.

        Parameters
        ----------
        manifest : DataFrame from `carclf.scan`; rows with a problem are skipped
        folder : where caches live; this one gets a folder of its own inside, named after its settings
        size : side of the square photos in pixels

        Raises
        ------
        OSError
            If the folder cannot be written or the disk is too small.
        """
        if size < 1:
            raise ValueError(f"size={size} must be at least 1 pixel; 192 is usual")
        # The resampling differs between Pillow's versions, so the version is part of the key.
        place = Path(folder).absolute() / f"squish{size}-pillow{PIL.__version__}-v{SCHEMA}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            with _locked(place):
                index, problems = _fill(place, manifest.path[manifest.problem.isna()], size)
                # Opened before another builder may start a new array.
                photos = np.empty((0, 3, size, size), "u1")
                if len(index):
                    photos = np.load(place / "photos.npy", mmap_mode="r")
        except OSError as error:
            remedy = "choose another folder" + " or a smaller size" * (error.errno == errno.ENOSPC)
            message = f"the cache {place} cannot be written: {error.strerror}; {remedy}"
            raise OSError(error.errno, message) from error
        slots = manifest.path.map(index.slot).where(manifest.problem.isna()).fillna(-1).to_numpy(np.int64)
        return cls(place, manifest, photos, slots, problems)

    def batch(self, rows: np.ndarray | list[int]) -> torch.Tensor:
        """Photos of some rows of the manifest, counted from 0, as torch.uint8 [len(rows), 3, size, size].

        Raises
        ------
        KeyError
            For a row that was set aside, with its file and the reason, and for a row that does not exist.
        TypeError
            For anything but row numbers, such as a mask.
        """
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise TypeError(f"a batch takes row numbers, not {rows.dtype}; np.flatnonzero(mask) gives them")
        beyond = rows[(rows < 0) | (rows >= len(self))]
        if len(beyond):
            raise KeyError(f"row {beyond[0]} is not in the cache: the manifest has {len(self):,} rows, counted from 0")
        slots = self.slots[rows.astype(np.int64)]
        if (slots < 0).any():
            row = rows[slots < 0][0]
            failed = self.problems.problem[self.problems.path == self.paths[row]]
            why = f"failed to decode: {failed.iloc[0]}" if len(failed) else f"was set aside: {self._aside[row]}"
            raise KeyError(f"{self.paths[row]} is not in the cache: it {why}; take rows whose cache.slots is not -1")
        return torch.from_numpy(self.photos[slots])

    def verify(self, sample: int | None = 200, seed: int = 0) -> pd.DataFrame:
        """Decode some photos again and compare them with the cache. If any differs, delete `folder` and build again.

        Parameters
        ----------
        sample : how many photos, drawn at random by `seed`; None compares all

        Returns
        -------
        differences : DataFrame with columns path and problem
            One row for each photo that differs or no longer decodes; empty if the cache is right.
        """
        rows = np.flatnonzero(self.slots >= 0)
        if sample is not None and sample < len(rows):
            rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
        paths, found = [self.paths[row] for row in rows], []
        decoded = (photo for _, photos in _decoded(paths, self.size) for photo in photos)
        bar = tqdm(decoded, "verify", len(rows), unit="photo", leave=False)
        for path, slot, photo in zip(paths, self.slots[rows], bar, strict=True):
            if isinstance(photo, PhotoError):
                found.append((path, str(photo)))
                continue
            apart = np.abs(self.photos[slot].astype(np.int16) - photo)
            if differ := np.count_nonzero(apart):
                found.append((path, f"{differ:,} of {apart.size:,} values differ, by {apart.max()} at most"))
        return pd.DataFrame(found, columns=["path", "problem"], dtype=object)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One builder at a time; a complete cache can be read without a lock, from a folder that cannot be written."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(place / ".lock"))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        yield


def _fill(place: Path, paths: pd.Series, size: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode what is missing or changed; return the index, by path, and what failed."""
    index, names = _read_index(place, size), paths.unique()
    now = pd.DataFrame([file_state(name) for name in names], names, ["bytes", "mtime_ns"], "int64")
    known = index.reindex(now.index)
    todo = now[(known.bytes != now.bytes) | (known.mtime_ns != now.mtime_ns) | (now.bytes == 0)]
    problems: list[tuple[str, str]] = []
    if len(todo) and index.empty:
        _discard(place)
    # More than half of the array is of photos that were decoded again since, or whose files are gone.
    elif len(todo) and 2 * sum(file_state(path)[0] > 0 for path in index.index) < index.slot.max() + 1:
        with suppress(PermissionError):  # Windows keeps a file that is being read; the array then keeps growing
            _discard(place)
            index, todo = index.iloc[:0], now
    if len(todo):
        needed, what = len(todo) * 3 * size * size, f"{len(todo):,} photos" if len(todo) > 1 else "1 photo"
        free = check_disk(place, needed)
        print(f"cache: {what} to decode, {needed / 1e6:,.1f} MB, {free / 1e9:,.1f} GB free")
        index, problems = _append(place, index, todo, size)
    failed = pd.DataFrame(problems, columns=["path", "problem"])
    # A photo that is gone or broken now may still have its old pixels in the array.
    return index.drop(failed.path, errors="ignore"), failed


def _read_index(place: Path, size: int) -> pd.DataFrame:
    """The index by path; empty if it is missing or torn, or if the array does not hold what it says."""
    empty = pd.DataFrame(columns=list(INDEX), dtype="int64").rename_axis("path")
    try:
        text = (place / "index.csv").read_bytes()
        index = pd.read_csv(
            io.BytesIO(text), index_col="path", keep_default_na=False, usecols=["path", *INDEX], dtype=INDEX
        )
        photos = npy.open_memmap(place / "photos.npy", mode="r")  # refuses a file shorter than its header says
    except (FileNotFoundError, ValueError, OverflowError):  # torn, or not ours
        return empty
    whole = text.endswith(b"\n") and index.index.is_unique and index.slot.is_unique
    ours = (photos.dtype, photos.shape[1:], photos.offset) == (np.uint8, (3, size, size), HEADER_BYTES)
    held = photos.flags.c_contiguous and index.slot.between(0, len(photos) - 1).all()
    return index if whole and ours and held else empty


def _discard(place: Path) -> None:
    """Start over. Readers of the old array keep it; an index never meets an array that it was not written for."""
    for name in ("photos.npy", "index.csv"):  # an index without an array is harmless, and Windows may refuse the first
        (place / name).unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be synchronised
        folder = os.open(place, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _append(place: Path, index: pd.DataFrame, todo: pd.DataFrame, size: int) -> tuple[pd.DataFrame, list]:
    """Decode and write photos behind those that the index names; return the new index and what failed."""
    array = place / "photos.npy"
    slot = int(index.slot.max()) + 1 if len(index) else 0
    fresh, problems, last = [], [], time.monotonic()
    with (
        open(array, "r+b" if array.exists() else "w+b") as file,  # noqa: PTH123
        tqdm(desc="cache", total=len(todo), unit="photo", leave=False) as bar,
        closing(_decoded(todo.index, size)) as chunks,
    ):
        file.seek(HEADER_BYTES + slot * 3 * size * size)
        for paths, photos in chunks:
            for (path, *identity), photo in zip(todo.loc[paths].itertuples(), photos, strict=True):
                if isinstance(photo, PhotoError):
                    problems.append((path, str(photo)))
                    continue
                file.write(photo.data)
                fresh.append((path, *identity, slot))
                slot += 1
            bar.update(len(paths))
            if time.monotonic() - last > COMMIT_SECONDS:
                index, fresh, last = _commit(place, file, index, fresh, slot, size), [], time.monotonic()
        return _commit(place, file, index, fresh, slot, size), problems


def _commit(place: Path, file: BinaryIO, index: pd.DataFrame, fresh: list, n: int, size: int) -> pd.DataFrame:
    """Make what was written count: pixels first, then the header, then the index. A power failure keeps that order."""
    end = file.tell()
    file.seek(0)
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, 3, size, size)})
    # numpy pads to a multiple of 64 and leaves room for the first axis to grow, so the length is always the same.
    if file.tell() != HEADER_BYTES:
        raise RuntimeError(f"numpy wrote a header of {file.tell()} bytes, not {HEADER_BYTES}; please report this")
    file.flush()
    os.fsync(file.fileno())
    file.seek(end)
    added = pd.DataFrame(fresh, columns=["path", *INDEX]).set_index("path").astype(INDEX)
    index = pd.concat([index.drop(added.index, errors="ignore"), added])
    with open(place / "index.tmp", "w", encoding="utf-8", newline="") as part:  # noqa: PTH123
        index.to_csv(part, lineterminator="\n")
        part.flush()
        os.fsync(part.fileno())
    (place / "index.tmp").replace(place / "index.csv")
    return index


def _decoded(paths: Sequence[str], size: int) -> Generator[tuple[Sequence[str], list], None, None]:
    """Paths and their photos, some at a time and in order, while the next ones are decoded in parallel."""

    def decode(path: str) -> np.ndarray | PhotoError:
        try:
            return to_square(path, size)
        except PhotoError as error:
            return error

    threads = os.cpu_count() or 1
    waiting: deque[tuple[Sequence[str], Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            waiting.append((chunk, pool.submit(lambda chunk: [decode(path) for path in chunk], chunk)))
            if len(waiting) > 2 * threads:  # more would only fill the memory
                chunk, photos = waiting.popleft()
                yield chunk, photos.result()
        for chunk, photos in waiting:
            yield chunk, photos.result()
