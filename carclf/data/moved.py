"""A table whose photos have moved -> the same table with the paths at which they are now."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pandas as pd

from carclf.errors import no_such

SAMPLE = 50  # photos that are looked for in each place


def relocated(table: pd.DataFrame, source: Path, photos: str | os.PathLike | None = None) -> pd.DataFrame:
    """The table with new paths for photos that lie elsewhere now; a warning says where they were found.

    Parameters
    ----------
    table : with the columns path and problem
    source : the file that the table was read from
    photos : folder to which the photos were moved. Without it, the missing ones are looked for beside the folders that
        hold `source`, as if the whole project had moved, and are taken if they have as many bytes as before.

    Raises
    ------
    FileNotFoundError
        If `photos` is given and holds none of them.
    """
    if photos is not None and not Path(photos).is_dir():
        raise FileNotFoundError(f"{no_such(photos)}; give the folder that holds the photos of {source}")
    wanted = table[table.problem.isna()] if photos is not None else missing(table)
    if wanted.empty:
        return table
    common = _common(table.path)
    bases = [Path(photos).absolute()] if photos is not None else source.absolute().parents
    sizes = table["bytes"] if photos is None and "bytes" in table else None
    sample = wanted.iloc[:: -(-len(wanted) // SAMPLE)]
    places = [*_places(common, bases, 0 if photos is not None else 1)]
    counts = [len(_found(sample, place, len(common), sizes)) for place in places]
    if max(counts, default=0) == 0:
        if photos is None:
            return table
        example = bases[0].joinpath(*_parts(wanted.path.iloc[0])[len(common) :])
        raise FileNotFoundError(
            f"none of the {len(wanted):,} photos of {source} is in {photos}, such as {example}; "
            f"give the folder that stands for {PurePath(*common) if common else 'the common folder of the photos'}"
        )
    place = places[counts.index(max(counts))]
    new = _found(wanted, place, len(common), sizes)
    was = PurePath(*common) if common else "their folder"
    message = f"{len(new):,} of {len(table):,} photos of {source} were found in {place} instead of {was}"
    warnings.warn(message, stacklevel=3)
    return table.assign(path=new.reindex(table.index).fillna(table.path).astype(object))


def missing(table: pd.DataFrame) -> pd.DataFrame:
    """The rows without a problem whose files are not there."""
    good = table[table.problem.isna()]
    return good[[not os.path.exists(path) for path in good.path]]  # noqa: PTH110 - never raises on NUL


def missing_text(gone: pd.DataFrame, table: pd.DataFrame, source: str | os.PathLike, what: str = "photos") -> str:
    """What is missing, and how to say where it is."""
    remedy = "if the folder was moved, give its new place with photos=… (--photos DIR on the command line)"
    return f"{len(gone):,} of {len(table):,} {what} of {source} are missing, such as {gone.path.iloc[0]}; {remedy}"


def _parts(path: str) -> tuple[str, ...]:
    """Of a path of this system, or of another on which the table was written."""
    windows = re.match(r"[A-Za-z]:[\\/]|\\\\", path)
    return (PureWindowsPath if windows else PurePosixPath if path.startswith("/") else PurePath)(path).parts


def _common(paths: Iterable[str]) -> tuple[str, ...]:
    """Parts of the folder that holds all of them."""
    folders = [_parts(path)[:-1] for path in paths]
    low, high = min(folders), max(folders)
    n = next((i for i, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    return low[:n]


def _places(common: Iterable[str], bases: Iterable[Path], least: int) -> Iterator[Path]:
    """Folders that may stand for the common one: each base with as many of its last parts as are there."""
    common = [part for part in common if not re.search(r"[\\/]", part)]  # without the root
    for n in range(len(common), least - 1, -1):
        for base in bases:
            if (place := base.joinpath(*common[len(common) - n :])).is_dir():
                yield place


def _found(rows: pd.DataFrame, place: Path, depth: int, sizes: pd.Series | None) -> pd.Series:
    """Row -> path below the place, of those that are there, and the same size, if known."""
    found = {}
    for row, path in rows.path.items():
        new = os.path.join(place, *_parts(path)[depth:])  # noqa: PTH118
        try:
            size = os.stat(new).st_size  # noqa: PTH116
        except (OSError, ValueError):
            continue
        if sizes is None or size == sizes[row]:
            found[row] = new
    return pd.Series(found, dtype=object)
