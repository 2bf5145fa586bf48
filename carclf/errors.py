"""Words that messages and tables share: the nearest right name, whether a folder is there, long names made short."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """ "; did you mean 'head'?" for the choice nearest to a mistyped word, or nothing if none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def no_such(path: str | os.PathLike, kind: str = "folder") -> str:
    """ "there is no folder imagse; did you mean 'images'?": names the first part of a path that is missing."""
    path = Path(path)
    missing = next((part for part in reversed([path, *path.parents]) if not part.exists()), path)
    beside: list[str] = []
    with suppress(OSError):
        wanted = kind if missing == path else "folder"
        either = wanted not in ("file", "folder")
        beside = [e.name for e in missing.parent.iterdir() if either or e.is_dir() == (wanted == "folder")]
    where = "" if missing == path else f" ({missing} is missing)"
    return f"there is no {kind} {path}{where}{did_you_mean(missing.name, beside)}"


REMEDIES = {
    errno.ENOSPC: "free some disk or choose another folder",
    errno.EDQUOT: "free some disk or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "give the name of a file in it",
    errno.ENOENT: "make its folder, or choose another one",
    errno.EROFS: "this disk is read-only: choose another folder",
    errno.EACCES: "ask for permission to write there, or choose another folder",
    errno.EPERM: "ask for permission to write there, or choose another folder",
}


def cannot_write(path: str | os.PathLike, error: BaseException) -> str:
    """ "out.csv cannot be written: No space left on device; free some disk …", with the remedy for that reason."""
    reason = getattr(error, "strerror", None) or error
    remedy = REMEDIES.get(getattr(error, "errno", None) or 0, "free some disk or choose another folder")
    return f"{path} cannot be written: {reason}; {remedy}"


def shortened(text: str, most: int = 80) -> str:
    """Text of at most `most` characters: a longer one loses its middle."""
    kept = most - 1
    return text if len(text) <= most else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def counted(n: int, word: str) -> str:
    """ "1 photo", "1,200 photos"."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"
