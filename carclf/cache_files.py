"""The two files of a tensor cache: the array `photos.npy`, and `index.csv`, which says which row of it is which file.

A cache grows by appending: pixels first, then the header of the array, then the index, which replaces the old one
atomically. So rows that the index does not name do not exist, and rows that it has named are never written again.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from carclf.files import file_state

HEADER_BYTES = 128  # of photos.npy; fixed, so that growing the array rewrites the header in place
INDEX = {"bytes": "int64", "mtime_ns": "int64", "slot": "int64"}  # columns of index.csv, beside the path


def read_index(place: Path, size: int) -> pd.DataFrame:
    """The index by path; empty where there is none, where it is torn, or where the array does not hold what it says."""
    empty = pd.DataFrame(columns=list(INDEX), dtype="int64").rename_axis("path")
    try:
        text = (place / "index.csv").read_bytes()
        columns = {"usecols": ["path", *INDEX], "dtype": INDEX}
        index = pd.read_csv(io.BytesIO(text), index_col="path", keep_default_na=False, **columns)
        photos = npy.open_memmap(place / "photos.npy", mode="r")  # refuses a file shorter than its header says
    except (FileNotFoundError, ValueError, OverflowError):  # torn, or not ours
        return empty
    whole = text.endswith(b"\n") and index.index.is_unique and index.slot.is_unique
    ours = (photos.dtype, photos.shape[1:], photos.offset) == (np.uint8, (3, size, size), HEADER_BYTES)
    held = photos.flags.c_contiguous and index.slot.between(0, len(photos) - 1).all()
    return index if whole and ours and held else empty


def mostly_dead(index: pd.DataFrame) -> bool:
    """Whether more than half of the array is of photos that were written anew since, or whose files are gone."""
    alive = sum(file_state(path)[0] > 0 for path in index.index)
    return 2 * alive < index.slot.max() + 1


def discard(place: Path) -> None:
    """Begin anew. Readers of the old array keep it; an index never meets an array that it was not written for."""
    for name in ("photos.npy", "index.csv"):  # an index without an array is harmless, and Windows may refuse the first
        (place / name).unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be synchronised
        folder = os.open(place, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def commit(place: Path, file, index: pd.DataFrame, fresh: list, n: int, size: int) -> pd.DataFrame:
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
