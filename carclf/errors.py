"""Words that error messages share: the nearest right name, and whether a folder is there."""

from __future__ import annotations

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
        beside = [entry.name for entry in missing.parent.iterdir() if kind != "folder" or entry.is_dir()]
    where = "" if missing == path else f" ({missing} is missing)"
    return f"there is no {kind} {path}{where}{did_you_mean(missing.name, beside)}"
