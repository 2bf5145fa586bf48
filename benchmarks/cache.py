"""Time the tensor cache against a loop that saves one tensor per photo, in turns; and measure its own costs.

python benchmarks/cache.py [path/to/photos] [--size 192] [--rounds 3]

The default are the drawn demo photos. Each measurement runs in its own process and empty folder, starts after the
imports, and finds the photos in the operating system's file cache, as they were just scanned.

cache           `TensorCache.build` into an empty folder, until everything is safely on disk
plain float32   `torch.save(ToTensor()(Image.open(path).convert("RGB").resize((S, S))), file)` photo by photo, with
                torchvision's ToTensor, as in tutorials; four bytes per value
plain uint8     `torch.save(torch.from_numpy(np.array(Image.open(path).convert("RGB").resize((S, S)))), file)`
plain bilinear  the same with the cache's filter; Pillow's default, bicubic, is slower

The plain loops neither turn photos upright nor wait for the disk. They use one torch thread; more only slow them down.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image
from torchvision import transforms

import carclf

NEW = 10  # photos added to a cache of all others


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"  # in the measured processes
    with tempfile.TemporaryDirectory() as folder:
        if options.photos is None:
            options.photos = Path(folder) / "photos"
            carclf.draw_demo(options.photos)
        manifest = carclf.scan(options.photos)
        manifest = manifest[manifest.problem.isna()]
        title = f"{len(manifest):,} photos, {options.size} px, {os.cpu_count()} CPU cores"
        print(against_loops(manifest, options).rename_axis(title).to_string())
        print(costs(manifest, options).rename_axis(title).to_string())


def against_loops(manifest: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Seconds of each way (median of the rounds) and the speedup of the cache over it."""
    ways = {"cache": build, "plain float32": save_float32, "plain uint8": save_uint8, "plain bilinear": save_bilinear}
    taken = []
    for number in range(options.rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                taken.append({"round": number, "way": name, **measured(way, manifest, folder, options.size)})
    taken = pd.DataFrame(taken).pivot(index="round", columns="way")
    ratio = taken["seconds"].div(taken["seconds", "cache"], axis=0)
    found = taken.median().unstack(0).loc[list(ways), ["seconds", "CPU seconds"]]
    found["photos per second"] = len(manifest) / found.seconds
    found["speedup of cache"] = ratio.median()
    return found.assign(lowest=ratio.min(), highest=ratio.max()).round(2)


def costs(manifest: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Seconds and peak memory of building from nothing, of opening a complete cache, and of adding a few photos."""
    steps = {
        "cold": (manifest, "all"),
        "warm": (manifest, "all"),
        f"all but {NEW}": (manifest[:-NEW], "most"),
        f"{NEW} more": (manifest, "most"),
    }
    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (photos, place) in steps.items():
            taken[name] = measured(build, photos, Path(folder) / place, options.size)
        taken["imports alone"] = measured(nothing, manifest, folder, options.size)
    return pd.DataFrame(taken).T.round(2)


def build(manifest: pd.DataFrame, folder: str, size: int) -> None:
    carclf.TensorCache.build(manifest, folder, size)


def save_float32(manifest: pd.DataFrame, folder: str, size: int) -> None:
    save(manifest, folder, lambda image: transforms.ToTensor()(image.resize((size, size))))


def save_uint8(manifest: pd.DataFrame, folder: str, size: int) -> None:
    save(manifest, folder, lambda image: torch.from_numpy(np.array(image.resize((size, size)))))


def save_bilinear(manifest: pd.DataFrame, folder: str, size: int) -> None:
    save(manifest, folder, lambda image: torch.from_numpy(np.array(image.resize((size, size), Image.BILINEAR))))


def save(manifest: pd.DataFrame, folder: str, tensor: Callable[[Image.Image], torch.Tensor]) -> None:
    """The loop that most people would write."""
    torch.set_num_threads(1)
    for number, path in enumerate(manifest.path):
        torch.save(tensor(Image.open(path).convert("RGB")), f"{folder}/{number}.pt")


def nothing(*_: object) -> None:
    time.sleep(0.1)


def measured(work: Callable, *arguments: object) -> dict[str, float]:
    """Run work in a new process; its seconds, CPU seconds and peak memory."""
    if hasattr(os, "sync"):
        os.sync()  # or this measurement pays for pending writes of the one before
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(in_child, work, *arguments).result()


def in_child(work: Callable, *arguments: object) -> dict[str, float]:
    # Polled, since the peak that Linux records for a process starts with its parent's.
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak.append(psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, processor = time.perf_counter(), time.process_time()
    work(*arguments)
    found = {"seconds": time.perf_counter() - began, "CPU seconds": time.process_time() - processor}
    done.set()
    watcher.join()
    return {**found, "peak memory, MB": max(peak) / 1e6}


if __name__ == "__main__":
    main()
