"""`kill -9` at any moment, and several builders at once, leave a cache that is right or is built again."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import killed_builds
import pytest
import torch

import carclf
from carclf import cache

KILLS = 24  # each moment three times
SIZE = 16


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_build_killed_at_any_moment_is_whole_after_the_next(tmp_path):
    (tmp_path / "photos").mkdir()
    command = [sys.executable, killed_builds.__file__, str(tmp_path / "photos"), str(tmp_path / "cache"), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    struck = json.loads(done.stdout)
    assert len(struck) == KILLS
    assert {*struck} == {*killed_builds.MOMENTS}


def grow(photos: Path, place: Path, rows: slice) -> bool:
    """Build more and more of some rows, and whether every cache on the way was right and stayed so."""
    cache.CHUNK, cache.COMMIT_SECONDS = 2, -1
    manifest = carclf.scan(photos).iloc[rows]
    (place.parent / f"ready-{rows.start}").touch()
    while len([*place.parent.glob("ready-*")]) < 2:
        time.sleep(0.001)
    opened = []
    for end in range(4, len(manifest) + 1, 4):
        built = carclf.TensorCache.build(manifest[:end], place, SIZE)
        assert (built.slots >= 0).all()
        opened.append((built, built.batch(range(end)).clone()))
    return all(b.verify(sample=None).empty and torch.equal(b.batch(range(len(b))), x) for b, x in opened)


@pytest.mark.slow
def test_two_processes_that_build_overlapping_parts_are_both_right(photo_folder, tmp_path):
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(grow, photo_folder, tmp_path / "cache", rows) for rows in (slice(0, 28), slice(12, 40))]
    assert all(part.result() for part in parts)
    built = carclf.TensorCache.build(carclf.scan(photo_folder), tmp_path / "cache", SIZE)
    assert len(built.photos) == 40  # nothing was decoded by both
