"""Files: what tells that one has changed; written whole or not at all, and why one cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

SPARE = 100 * 2**20  # bytes of disk that are left to everybody else


def file_state(path: str) -> tuple[int, int]:
    """What tells that a file has changed: its bytes and the time of its last change in ns; zeros where it is gone.

    The later of the two times that systems keep: programs set one of them back, as when an archive is unpacked.
    """
    try:
        stat = os.stat(path)  # noqa: PTH116 - a folder may hold a million
    except OSError:
        return 0, 0
    return stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn a failure to write below into an OSError that names the path and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # SafetensorError is no OSError, also where the disk is full
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path} cannot be written: {reason}; free some disk or choose another folder") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write to, whose file takes the place of `path` once it is whole."""
    with writing(path):
        part = path.with_name(f"{path.name}.tmp")
        yield part
        part.replace(path)


def write_text(path: Path, text: str) -> None:
    """Replace a UTF-8 file at once."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
