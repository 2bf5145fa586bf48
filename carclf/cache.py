"""Manifest -> uint8 array on disk, and batches from it.

Only what never changes is kept: decoding, turning upright, resizing. Augmentation comes after, fresh every epoch.
A folder `cache/<settings>/` holds `photos.npy`, which numpy opens by itself, and `index.csv`, which says which row
of it is which file. The index is written last and atomically: rows it does not name do not exist. Rows that it has
named are never written again, so who has the array open may go on reading.

A photo is known by its path, bytes and time of change. A file that was exchanged for one alike in all three, or pixels
that rotted on the disk, only `TensorCache.verify` can see.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import torch
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from carclf.cache_files import HEADER_BYTES, commit, discard, mostly_dead, read_index
from carclf.files import SPARE, file_state
from carclf.photos import PhotoError, Source, read_photo

SCHEMA = 2  # raise when the pixels or the files' layout change
CHUNK = 8  # photos that one thread decodes in one go
COMMIT_SECONDS = 10  # an interrupted build loses no more work than this


def to_square(source: Source, size: int) -> np.ndarray:
    """Decode one photo and squish it to uint8 [3, size, size], RGB, upright.

    Squishing keeps the whole car and every pixel of its face; on cars it beat cropping and padding.

    Raises
    ------
    PhotoError
    """
    image = read_photo(source, at_least=2 * size)
    resized = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow's bilinear is antialiased
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


class TensorCache:
    """The photos of a manifest as one uint8 array.

    Make one with `TensorCache.build`.

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
        """Decode what the cache does not hold yet, and open it.

        Prints how much there is to decode and how much disk is free; nothing where there is nothing to decode.

        Parameters
        ----------
        manifest : DataFrame from `carclf.scan`; rows with a problem are passed over
        folder : where caches live; this one gets a folder of its own inside, named after its settings
        size : side of the square photos in pixels

        Raises
        ------
        OSError
            Where the folder cannot be written or the disk is too small.
        """
        if size < 1:
            raise ValueError(f"size={size} must be at least 1 pixel; 192 is usual")
        # The resampling differs between Pillow's versions, so the version is part of the key.
        place = Path(folder).absolute() / f"squish{size}-pillow{PIL.__version__}-v{SCHEMA}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            with _locked(place):
                index, problems = _fill(place, manifest.path[manifest.problem.isna()], size)
                # Opened before another builder may begin a new array.
                photos = (
                    np.load(place / "photos.npy", mmap_mode="r") if len(index) else np.empty((0, 3, size, size), "u1")
                )
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
            For a row that was set aside, naming its file and why, and for a row that there is not.
        TypeError
            For anything but row numbers, such as a mask.
        """
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise TypeError(f"a batch is made of row numbers, not of {rows.dtype}; np.flatnonzero(mask) gives them")
        beyond = rows[(rows < 0) | (rows >= len(self))]
        if len(beyond):
            raise KeyError(f"row {beyond[0]} is not in the cache: the manifest has {len(self):,} rows, counted from 0")
        slots = self.slots[rows.astype(np.int64)]
        if (slots < 0).any():
            raise KeyError(self._why_not(rows[slots < 0][0]))
        return torch.from_numpy(self.photos[slots])

    def verify(self, sample: int | None = 200, seed: int = 0) -> pd.DataFrame:
        """Decode some photos anew, with a progress bar, and compare them with what the cache holds.

        The remedy for any difference is to delete `folder` and to build again.

        Parameters
        ----------
        sample : how many photos, drawn at random by `seed`; None compares all

        Returns
        -------
        DataFrame with columns path and problem, one row for each photo that differs or does not decode any more;
        empty where the cache is right.
        """
        rows = np.flatnonzero(self.slots >= 0)
        if sample is not None and sample < len(rows):
            rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
        paths = [self.paths[row] for row in rows]
        fresh = (photo for _, photos in _decoded(paths, self.size) for photo in photos)
        pairs = zip(self.slots[rows], tqdm(fresh, "verify", len(rows), unit="photo", leave=False), strict=True)
        found = [_difference(self.photos[slot], photo) for slot, photo in pairs]
        table = pd.DataFrame({"path": paths, "problem": found}, dtype=object)
        return table.dropna(subset="problem", ignore_index=True)

    def _why_not(self, row: int) -> str:
        path, problem = self.paths[row], self._aside[row]
        failed = self.problems.problem[self.problems.path == path]
        why = f"failed to decode: {failed.iloc[0]}" if len(failed) else f"was set aside: {problem}"
        return f"{path} is not in the cache: it {why}; take rows whose cache.slots is not -1"


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One builder at a time; a cache that is whole can be read where nothing can be written, and no lock either."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(place / ".lock"))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        yield


def _difference(cached: np.ndarray, fresh: np.ndarray | PhotoError) -> str | None:
    if isinstance(fresh, PhotoError):
        return str(fresh)
    apart = np.abs(cached.astype(np.int16) - fresh)
    differ = np.count_nonzero(apart)
    return f"{differ:,} of {apart.size:,} values differ, by {apart.max()} at most" if differ else None


def _fill(place: Path, paths: pd.Series, size: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode what is missing or changed; return the index, by path, and what failed."""
    index = read_index(place, size)
    paths = paths.unique()
    now = pd.DataFrame([file_state(p) for p in paths], paths, ["bytes", "mtime_ns"], "int64")
    known = index.reindex(now.index)
    todo = now[(known.bytes != now.bytes) | (known.mtime_ns != now.mtime_ns) | (now.bytes == 0)]
    if len(todo) and index.empty:
        discard(place)
    elif len(todo) and mostly_dead(index):
        with suppress(PermissionError):  # Windows keeps what somebody reads; the array then grows on
            discard(place)
            index, todo = index.iloc[:0], now
    problems = []
    if len(todo):
        _check_disk(place, len(todo), 3 * size * size)
        index, problems = _append(place, index, todo, size)
    failed = pd.DataFrame(problems, columns=["path", "problem"])
    # A photo that is gone or broken now may still have its old pixels in the array.
    return index.drop(failed.path, errors="ignore"), failed


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
                file.write(photo)
                fresh.append((path, *identity, slot))
                slot += 1
            bar.update(len(paths))
            if time.monotonic() - last > COMMIT_SECONDS:
                index, fresh, last = commit(place, file, index, fresh, slot, size), [], time.monotonic()
        return commit(place, file, index, fresh, slot, size), problems


def _decoded(paths: Sequence[str], size: int) -> Iterator[tuple[Sequence[str], list[np.ndarray | PhotoError]]]:
    """Paths and their photos, some at a time and in order, while the next ones are decoded in parallel."""

    def decode(path: str) -> np.ndarray | PhotoError:
        try:
            return to_square(path, size)
        except PhotoError as error:
            return error

    chunks = (paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK))
    waiting, threads = deque(), os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(lambda chunk: [decode(path) for path in chunk], chunk)))
            if len(waiting) > 2 * threads:  # more would only fill the memory
                chunk, photos = waiting.popleft()
                yield chunk, photos.result()
        for chunk, photos in waiting:
            yield chunk, photos.result()


def _check_disk(place: Path, photos: int, each: int) -> None:
    """Say what is to be written and what is free, before anything is decoded."""
    needed, free = photos * each, shutil.disk_usage(place).free
    what = f"{photos:,} photos" if photos > 1 else "1 photo"
    print(f"cache: {what} to decode, {needed / 1e6:,.1f} MB, {free / 1e9:,.1f} GB free")
    if free < needed + SPARE:
        raise OSError(errno.ENOSPC, f"it needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free")
