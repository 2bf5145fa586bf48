"""Files: whether one has changed, room on the disk, and writing that replaces a file atomically."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

SPARE = 100 * 2**20  # bytes of disk that are kept free


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
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path} cannot be written: {reason}; free some disk or choose another folder") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write to; its file replaces `path` once it is complete, and goes if it is not."""
    with writing(path):
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
