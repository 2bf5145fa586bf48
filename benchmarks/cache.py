"""The tensor cache against a loop that saves one tensor a photo, in turns, as ratios; and what the cache takes.

python benchmarks/cache.py [path/to/photos] [--size 192] [--rounds 3]

Without a folder the drawn demo photos are taken. Each measurement has a process and an empty folder of its own, begins
after the imports, and finds the photos in the operating system's memory, where a scan has brought them.

cache           `TensorCache.build` into an empty folder, until all is safely on disk
plain float32   `torch.save(ToTensor()(Image.open(path).convert("RGB").resize((S, S))), file)` for one photo after the
                other, with torchvision's ToTensor: what a tutorial does; four bytes a value
plain uint8     `torch.save(torch.from_numpy(np.array(Image.open(path).convert("RGB").resize((S, S)))), file)`
plain bilinear  the same with the cache's filter; Pillow's own choice, bicubic, takes longer

The plain loops neither turn photos upright nor wait for the disk. Torch has one thread there: more only slow it down.
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

NEW = 10  # photos that are added to a cache of all the others


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"  # in the processes that are measured
    with tempfile.TemporaryDirectory() as folder:
        if options.photos is None:
            options.photos = Path(folder) / "photos"
            carclf.draw_demo(options.photos)
        manifest = carclf.scan(options.photos)
        manifest = manifest[manifest.problem.isna()]
        title = f"{len(manifest):,} photos, {options.size} px, {os.cpu_count()} processor cores"
        print(against_loops(manifest, options).rename_axis(title).to_string())
        print(costs(manifest, options).rename_axis(title).to_string())


def against_loops(manifest: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Seconds of each way, the median over the rounds, and the cache's as a multiple of it."""
    ways = {"cache": build, "plain float32": save_float32, "plain uint8": save_uint8, "plain bilinear": save_bilinear}
    taken = []
    for number in range(options.rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                taken.append({"round": number, "way": name, **measured(way, manifest, folder, options.size)})
    taken = pd.DataFrame(taken).pivot(index="round", columns="way")
    ratio = taken["seconds"].div(taken["seconds", "cache"], axis=0)
    found = taken.median().unstack(0).loc[list(ways), ["seconds", "processor seconds"]]
    found["photos a second"] = len(manifest) / found.seconds
    found["cache is so many times faster"] = ratio.median()
    found["least"], found["most"] = ratio.min(), ratio.max()
    return found.round(2)


def costs(manifest: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Seconds and peak memory of a cache from nothing, of one that is whole, and of one that lacks a few photos."""
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
    """Seconds, those of all processor cores together, and the peak memory of the process that it ran in."""
    if hasattr(os, "sync"):
        os.sync()  # nobody pays for what another has still to write
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(in_child, work, *arguments).result()


def in_child(work: Callable, *arguments: object) -> dict[str, float]:
    # Looked at again and again, since the peak that Linux keeps for a process begins with its parent's.
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak.append(psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, processor = time.perf_counter(), time.process_time()
    work(*arguments)
    found = {"seconds": time.perf_counter() - began, "processor seconds": time.process_time() - processor}
    done.set()
    watcher.join()
    return {**found, "peak memory, MB": max(peak) / 1e6}


if __name__ == "__main__":
    main()
