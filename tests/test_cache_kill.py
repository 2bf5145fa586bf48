"""`kill -9` at any moment, and several builders at once, leave a cache that is right or is built again.

`python tests/test_cache_kill.py PHOTOS CACHE KILLS` builds a cache in children that are killed with SIGKILL, and prints
a JSON list: where each kill struck. Between two kills photos change, so that there is always something to write. The
parent imports and never computes, so each child starts at once, and with no threads that a fork would lose.
"""

import io
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

    def at(name: str) -> None:
        left[0] -= name == moment
        if name == moment and left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def in_halves(file, data, write, name: str) -> None:
        write(data[: len(data) // 2])
        file.flush()
        at(name)
        write(data[len(data) // 2 :])

    class Array(io.BufferedRandom):
        def write(self, data):
            data = bytes(data)
            name = "half a header" if len(data) == cache.HEADER_BYTES else "half a photo"
            in_halves(self, data, super().write, name)

    def opened(path, mode, **options):
        array = Path(path).name == "photos.npy"
        return Array(io.FileIO(path, mode)) if array else open(path, mode, **options)  # noqa: PTH123

    def to_csv(table, file, **options):
        at("before the index")
        in_halves(file, text_of(table, **options), file.write, "half the index")

    def replace(source, target):
        at("before its replacing")
        move(source, target)
        at("after its replacing")

    def unlink(path, **options):
        remove(path, **options)
        if path.name == "photos.npy":
            at("array discarded")

    text_of, move, remove = pd.DataFrame.to_csv, Path.replace, Path.unlink
    cache.open, pd.DataFrame.to_csv, Path.replace, Path.unlink = opened, to_csv, replace, unlink


def run(work, *arguments, seconds: float = SECONDS) -> int:
    """Exit code of a forked process that does some work; -SIGKILL if it was killed, if only for taking too long."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(seconds)
    process.kill()  # nothing if it has ended
    process.join()
    return process.exitcode


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
    cache.CHUNK, cache.COMMIT_SECONDS = 3, -1  # several commits a build
    draw, struck, stdout = random.Random(0), [], sys.stdout
    sys.stdout = None  # the children print what they decode
    change(photos, draw, PHOTOS)
    while len(struck) < kills:
        moment = MOMENTS[len(struck) % len(MOMENTS)]
        change(photos, draw, PHOTOS // 2)
        after = draw.uniform(0.01, 0.1) if moment == "any time" else SECONDS
        times = 1 if moment == "array discarded" else draw.randint(1, 4)
        status = run(killed, photos, place, moment, times, seconds=after)
        if status == -signal.SIGKILL:
            struck.append(moment)
        elif status:
            raise RuntimeError(f"a build after kills at {struck} ended with {status}")
        # Without a check, the next kill finds what this one left.
        if (draw.random() < 0.5 or len(struck) == kills) and (status := run(checked, photos, place)):
            raise RuntimeError(f"the build after kills at {struck} ended with {status}")
    print(json.dumps(struck), file=stdout)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_build_killed_at_any_moment_is_complete_after_the_next(tmp_path):
    (tmp_path / "photos").mkdir()
    command = [sys.executable, __file__, str(tmp_path / "photos"), str(tmp_path / "cache"), str(KILLS)]
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
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
