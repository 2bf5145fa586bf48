"""What several benchmarks share: drawn photos, and timing in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

import carclf


def drawn_photos(folder: str, size: int) -> tuple[pd.DataFrame, carclf.TensorCache]:
    """Draw the demo's photos into a folder; returns their manifest with a split, and their cache."""
    carclf.draw_demo(folder)
    manifest = carclf.split(carclf.scan(folder))
    return manifest, carclf.TensorCache.build(manifest, Path(folder) / "cache", size)


def in_turns(ways: dict[str, Callable[[], object]], photos: int, rounds: int) -> pd.DataFrame:
    """Photos per second of each way (median of the rounds) and the speedup of the first way over it.

    The ways take turns, so that a noisy machine disturbs all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    taken, first = pd.DataFrame(seconds), next(iter(ways))
    ratio = taken.div(taken[first], axis=0)
    found = pd.DataFrame({"photos per second": photos / taken.median(), f"speedup of {first}": ratio.median()})
    return found.assign(lowest=ratio.min(), highest=ratio.max()).round(2)
