"""`kill -9` at any moment, and several builders at once, leave a cache that is right or is built again.

`python tests/test_cache_kill.py PHOTOS CACHE KILLS` builds a cache in children that are killed with SIGKILL, and prints
a JSON list: where each kill struck. Between two kills photos change, so that there is always something to write. The
parent imports and never computes, so each child starts at once, and with no threads that a fork would lose.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from killed_runs import wait
from PIL import Image

import carclf
from carclf import files
from carclf.data import cache

KILLS = 24  # each moment three times
MOMENTS = ("any time", "half a photo", "half a header", "before the index", "half the index")
MOMENTS += ("before its replacing", "after its replacing", "array discarded")
PHOTOS, SIZE = 24, 16
SECONDS = 60  # of a child that neither ends nor is killed


def change(folder: Path, draw: random.Random, photos: int) -> None:
    """Redraw some photos."""
    for number in draw.sample(range(PHOTOS), photos):
        pixels = np.random.default_rng(draw.getrandbits(32)).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"Audi_A4_{number}.png")


def strike(moment: str, times: int) -> None:
    """Kill this process when it comes to a moment for the n-th time."""
    left = [times]

    def here(name: str) -> bool:
        left[0] -= name == moment
        return name == moment and left[0] == 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Array:
        """The array's file, which is killed in the middle of a write."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            data = bytes(data)
            if here("half a header" if len(data) == cache.HEADER_BYTES else "half a photo"):
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                kill()
            return self.file.write(data)

    def opened(path, *arguments, **options):
        file = open(path, *arguments, **options)  # noqa: SIM115, PTH123
        return Array(file) if Path(path).name == "photos.npy" else file

    def to_csv(table, file, **options):
        if here("before the index"):
            kill()
        text = write(table, **options)
        if here("half the index"):
            file.write(text[: len(text) // 2])
            file.flush()
            kill()
        file.write(text)

    def replace(source, target):
        if here("before its replacing"):
            kill()
        move(source, target)
        if here("after its replacing"):
            kill()

    def unlink(path, **options):
        remove(path, **options)
        if path.name == "photos.npy" and here("array discarded"):
            kill()

    write, move, remove = pd.DataFrame.to_csv, Path.replace, Path.unlink
    cache.open, pd.DataFrame.to_csv, Path.replace, Path.unlink = opened, to_csv, replace, unlink


def child(work, *arguments) -> int:
    """Start a process that does some work and ends."""
    number = os.fork()
    if number:
        return number
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123  (until the process ends)
    cache.CHUNK, cache.COMMIT_SECONDS = 3, -1  # several commits a build
    try:
        work(*arguments)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)


def killed(photos: Path, place: Path, moment: str, times: int) -> None:
    strike(moment, times)
    carclf.TensorCache.build(carclf.scan(photos), place, SIZE)


def checked(photos: Path, place: Path) -> None:
    """What numpy and pandas read is right if the file has not changed since; and a new build is complete."""
    for index in place.glob("*/index.csv"):
        table = pd.read_csv(index)
        array = np.load(index.with_name("photos.npy")) if (index.with_name("photos.npy")).exists() else []
        for row in table.itertuples():
            if len(array) and files.file_state(row.path) == (row.bytes, row.mtime_ns):
                np.testing.assert_array_equal(array[row.slot], cache.to_square(row.path, SIZE))
    built = carclf.TensorCache.build(carclf.scan(photos), place, SIZE)
    assert (built.slots >= 0).all()
    assert built.verify(sample=None).empty


def main() -> None:
    photos, place, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    draw, struck = random.Random(0), []
    change(photos, draw, PHOTOS)
    while len(struck) < kills:
        moment = MOMENTS[len(struck) % len(MOMENTS)]
        change(photos, draw, PHOTOS // 2)
        after = draw.uniform(0.01, 0.1) if moment == "any time" else SECONDS
        times = 1 if moment == "array discarded" else draw.randint(1, 4)
        status = wait(child(killed, photos, place, moment, times), after)
        if status is None:
            struck.append(moment)
        elif status:
            raise RuntimeError(f"a build after kills at {struck} ended with {status}")
        if draw.random() < 0.5:  # else the next kill finds what this one left
            status = wait(child(checked, photos, place), SECONDS)
            if status != 0:
                raise RuntimeError(f"the build after kills at {struck} ended with {status}")
    status = wait(child(checked, photos, place), SECONDS)
    if status != 0:
        raise RuntimeError(f"the last build ended with {status}")
    print(json.dumps(struck))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_build_killed_at_any_moment_is_complete_after_the_next(tmp_path):
    (tmp_path / "photos").mkdir()
    command = [sys.executable, __file__, str(tmp_path / "photos"), str(tmp_path / "cache"), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    struck = json.loads(done.stdout)
    assert len(struck) == KILLS
    assert {*struck} == {*MOMENTS}


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


if __name__ == "__main__":
    main()
