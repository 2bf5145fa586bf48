"""Manifest -> uint8 array on disk, and batches from it.

Only what never changes is kept: decoding, turning upright, resizing. Augmentation comes after, fresh every epoch.
A folder `cache/<settings>/` holds `photos.npy`, which numpy opens by itself, and `index.csv`, which says which row
of it is which file. The index is written last and atomically: rows it does not name do not exist.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import torch
from filelock import FileLock
from numpy.lib import format as npy
from PIL import Image
from tqdm.auto import tqdm

from carclf.photos import PhotoError, Source, read_photo

SCHEMA = 1  # raise when the pixels or the files' layout change
HEADER_BYTES = 128  # of photos.npy; fixed, so that growing the array rewrites the header in place
CHUNK = 64  # photos decoded between two looks at the clock
INDEX = {"bytes": "int64", "mtime_ns": "int64", "slot": "int64"}  # columns of index.csv, beside the path
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
    photos : np.memmap of shape (n, 3, size, size), uint8
    slots : ndarray of shape (len(manifest),), int64
        Row of `photos` for each row of the manifest, -1 for rows that were set aside.
    problems : DataFrame with columns path and problem
        Photos that failed to decode while the cache was built.
    """

    def __init__(self, photos: np.ndarray, paths: list[str], slots: np.ndarray, problems: pd.DataFrame):
        self.photos, self.paths, self.slots, self.problems = photos, paths, slots, problems
        self.size = photos.shape[-1]

    def __len__(self) -> int:
        return len(self.slots)

    @classmethod
    def build(cls, manifest: pd.DataFrame, folder: str | os.PathLike, size: int = 256) -> TensorCache:
        """Decode what the cache does not hold yet, and open it.

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
        # The resampling differs between Pillow's versions, so the version is part of the key.
        place = Path(folder).absolute() / f"squish{size}-pillow{PIL.__version__}-v{SCHEMA}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(place / ".lock"):
                index, problems = _fill(place, manifest.path[manifest.problem.isna()], size)
        except OSError as error:
            message = f"the cache {place} cannot be written: {error.strerror}; choose another folder or a smaller size"
            raise OSError(error.errno, message) from error
        photos = np.load(place / "photos.npy", mmap_mode="r") if len(index) else np.empty((0, 3, size, size), "u1")
        slots = manifest.path.map(index.slot).where(manifest.problem.isna()).fillna(-1).to_numpy(np.int64)
        return cls(photos, manifest.path.tolist(), slots, problems)

    def batch(self, rows: np.ndarray | list[int]) -> torch.Tensor:
        """Photos of some rows of the manifest, counted from 0, as torch.uint8 [len(rows), 3, size, size].

        Raises
        ------
        KeyError
            For a row that was set aside, naming its file.
        """
        slots = self.slots[np.asarray(rows, np.int64)]
        if (slots < 0).any():
            path = self.paths[np.asarray(rows)[slots < 0][0]]
            raise KeyError(f"{path} is not in the cache: it was set aside; leave out rows with a problem")
        return torch.from_numpy(self.photos[slots])


def _fill(place: Path, paths: pd.Series, size: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode what is missing or changed; return the index, by path, and what failed."""
    index = _read_index(place, size)
    paths = paths.unique()
    now = pd.DataFrame([_identity(p) for p in paths], paths, ["bytes", "mtime_ns"], "int64")
    known = index.reindex(now.index)
    todo = now[(known.bytes != now.bytes) | (known.mtime_ns != now.mtime_ns)]
    problems = []
    if len(todo):
        photo = 3 * size * size
        _check_disk(place, len(todo) * photo)
        title = f"cache {len(todo):,} photos, {len(todo) * photo / 1e6:,.0f} MB"
        with (
            open(place / "photos.npy", "r+b" if (place / "photos.npy").exists() else "w+b") as file,  # noqa: PTH123
            ThreadPoolExecutor(os.cpu_count()) as pool,
            tqdm(desc=title, total=len(todo), unit="photo", leave=False) as bar,
        ):
            slot = int(index.slot.max()) + 1 if len(index) else 0
            fresh, last = [], time.monotonic()
            for start in range(0, len(todo), CHUNK):
                part = todo.iloc[start : start + CHUNK]
                file.seek(HEADER_BYTES + slot * photo)
                for path, result in zip(part.index, pool.map(lambda p: _decode(p, size), part.index), strict=True):
                    if isinstance(result, PhotoError):
                        problems.append((path, str(result)))
                        continue
                    file.write(result)
                    fresh.append((path, *part.loc[path], slot))
                    slot += 1
                bar.update(len(part))
                if time.monotonic() - last > COMMIT_SECONDS or start + CHUNK >= len(todo):
                    index, fresh, last = _commit(place, file, index, fresh, slot, size), [], time.monotonic()
    failed = pd.DataFrame(problems, columns=["path", "problem"])
    # A photo that is gone or broken now may still have its old pixels in the array.
    return index.drop(failed.path, errors="ignore"), failed


def _decode(path: str, size: int) -> np.ndarray | PhotoError:
    try:
        return to_square(path, size)
    except PhotoError as error:
        return error


def _identity(path: str) -> tuple[int, int]:
    """What tells that a file has changed: bytes and time of change; zeros where it is gone."""
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _read_index(place: Path, size: int) -> pd.DataFrame:
    """The index by path; empty where there is none or where the array is shorter than it says."""
    empty = pd.DataFrame(columns=list(INDEX), dtype="int64").rename_axis("path")
    if not (place / "index.csv").exists() or not (place / "photos.npy").exists():
        return empty
    try:
        columns = {"usecols": ["path", *INDEX], "dtype": INDEX}
        index = pd.read_csv(place / "index.csv", index_col="path", keep_default_na=False, **columns)
    except ValueError:  # torn, or not ours
        return empty
    whole = HEADER_BYTES + (max(index.slot, default=-1) + 1) * 3 * size * size
    return index if (place / "photos.npy").stat().st_size >= whole else empty


def _commit(place: Path, file, index: pd.DataFrame, fresh: list, n: int, size: int) -> pd.DataFrame:
    """Make what was written count: pixels first, then the header, then the index."""
    file.seek(0)
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, 3, size, size)})
    # numpy pads to a multiple of 64 and leaves room for the first axis to grow, so the length is always the same.
    if file.tell() != HEADER_BYTES:
        raise RuntimeError(f"numpy wrote a header of {file.tell()} bytes, not {HEADER_BYTES}; please report this")
    file.flush()
    os.fsync(file.fileno())
    added = pd.DataFrame(fresh, columns=["path", "bytes", "mtime_ns", "slot"]).set_index("path").astype(INDEX)
    index = pd.concat([index.drop(added.index, errors="ignore"), added])
    index.to_csv(place / "index.tmp", encoding="utf-8")
    (place / "index.tmp").replace(place / "index.csv")
    return index


def _check_disk(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed + 100 * 2**20:  # some room for everybody else
        raise OSError(errno.ENOSPC, f"it needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free")
