"""Files: whether one has changed, room on the disk, writing that replaces a file atomically, tables for people."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype
from safetensors import SafetensorError

from carclf.errors import cannot_write

SPARE = 100 * 2**20  # bytes of disk that are kept free
# A number with a decimal point, alone in its cell.
POINT = re.compile(r"(?m)(?:^|[;\t])[-+]?\d+\.\d+(?:[eE][+-]?\d+)?(?:$|[;\t])")
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # how a cell begins that spreadsheets evaluate, or that we have quoted


def file_state(path: str) -> tuple[int, int]:
    """File size and time of the last change (ns), used to detect changes; (0, 0) if missing.

    The time is the later of the two that systems keep: programs set one of them back, for example on unpacking.
    """
    try:
        stat = os.stat(path)  # noqa: PTH116 - a folder may hold a million
    except OSError:
        return 0, 0
    return stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)


def check_disk(folder: Path, needed: int) -> int:
    """Free bytes of the folder's disk; OSError if what is needed does not fit."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise OSError(errno.ENOSPC, f"it needs {needed / 1e9:.2f} GB, only {free / 1e9:.2f} GB are free")
    return free


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn a failure to write into an OSError that names the path and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # a SafetensorError is no OSError, even if the disk is full
        raise OSError(cannot_write(path, error)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write to; its file replaces `path` once it is complete, and is deleted otherwise.

    A link stays, and what it points to is replaced. A device or a pipe is refused.
    """
    with writing(path):
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")
        part = path.with_name(f"{path.name}.tmp")
        try:
            yield part
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Replace a UTF-8 file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_csv(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Replace a CSV file for people atomically; an index with a name becomes the first column.

    If it holds more than ASCII, a mark at the start tells spreadsheets that it is UTF-8. Texts that they would take for
    a formula begin with an apostrophe, which `read_csv` takes away again.
    """
    table = table.reset_index() if table.index.name else table
    texts = {name: table[name].map(_guarded) for name in table if not is_numeric_dtype(table[name])}
    text = table.assign(**texts).to_csv(index=False, lineterminator="\n")
    write_text(Path(path), text if text.isascii() else "\ufeff" + text)


def read_csv(path: str | os.PathLike, **options: Any) -> pd.DataFrame:
    """A table that `write_csv` wrote, or one of people's own; `options` are those of pandas.

    Semicolons or tabs may separate its cells, and decimals may have commas, as spreadsheets of many countries write it.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    separator = max(",;\t", key=text.partition("\n")[0].count)
    decimal = "." if separator == "," or POINT.search(text) else ","
    table = pd.read_csv(io.StringIO(text), sep=separator, decimal=decimal, **options)
    for name in table:
        if not is_numeric_dtype(table[name]):
            quoted = table[name].astype(object).str.startswith("'", na=False)
            if quoted.any():
                table.loc[quoted, name] = table.loc[quoted, name].map(_unguarded)
    return table


def _guarded(text: Any) -> Any:
    """Text that no spreadsheet evaluates; anything else as it is."""
    if not isinstance(text, str):
        return text
    text = text.encode("utf-8", "replace").decode("utf-8")  # UTF-8 cannot hold the lone surrogates of old file names
    return f"'{text}" if FORMULA.match(text) else text


def _unguarded(text: str) -> str:
    """The text that `_guarded` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
