"""Time scanning: a folder for the first and the second time, duplicates, names.

python benchmarks/scan.py [path/to/photos] [--names 1000000] [--photos 100000]

scan         a folder, and again when nothing has changed; default: the drawn photos
duplicates   pairs among random fingerprints, 1 % of which are planted near another
names        reading brand, model and vehicle from names, against listing the same files: empty ones in a temporary
             folder, named like listings, image searches, data sets and anonymous photos
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import carclf
from carclf.brands import parse_path
from carclf.data.duplicates import NEAR, VIEWS
from carclf.data.listing import list_photos
from carclf.data.manifest import FOLDER

PATTERNS = (
    "{brand}_{model}_{year}_37_18_250_20_4_70_54_180_16_AWD_5_4_4dr_{letters}.jpg",
    "{brand} car back_{brand}_car_back_{n}.jpg",
    "{brand} {model} {year}_{n:05}.jpg",
    "Image_{n:06}.jpg",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--photos", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ[FOLDER] = place
        folder = options.folder or Path(place, "photos")
        if options.folder is None:
            carclf.draw_demo(folder)
        print(scans(folder))
        print(duplicates(options.photos))
        print(names(Path(place, "names"), options.names))


def seconds(call) -> tuple[float, object]:
    """Seconds that a call takes, and its result."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def names(place: Path, n: int) -> str:
    """Parse n names, against listing them."""
    rng = np.random.default_rng(0)
    brands = [row.name for row in carclf.brand_table()]
    letters = ["".join(word) for word in rng.choice(list("abcdefghijklmnopqrstuvwxyzABCDEF"), (n, 3))]
    for i in range(n):
        if i % 1000 == 0:
            folder = place / f"{i:07}"
            folder.mkdir(parents=True)
        known = {"brand": brands[i % len(brands)], "model": f"Model{i % 97}", "year": 1990 + i % 35}
        name = PATTERNS[i % len(PATTERNS)].format(**known, letters=letters[i], n=i)
        os.close(os.open(f"{folder}/{name}", os.O_CREAT))
    listing, paths = min((seconds(lambda: list_photos(place)) for _ in range(3)), key=lambda found: found[0])
    parsing, read = min((seconds(lambda: [parse_path(path) for path in paths]) for _ in range(3)), key=lambda f: f[0])
    named = sum(row[0] is not None for row in read)
    return (
        f"names: {n:,} ({named:,} with a brand), listing {listing:.1f} s, parsing {parsing:.1f} s, "
        f"ratio {parsing / listing:.1f} (best of 3 each)"
    )


def duplicates(n: int) -> str:
    """Find planted pairs among n random fingerprints."""
    rng = np.random.default_rng(0)
    prints = rng.integers(0, 256, (n, VIEWS, 32), dtype=np.uint8)
    planted = rng.permutation(n)[: n // 50].reshape(-1, 2)
    for one, other in planted:
        bits = np.unpackbits(prints[one, 1])
        bits[rng.choice(256, int(rng.integers(1, NEAR + 1)), replace=False)] ^= 1
        prints[other, 1] = np.packbits(bits)
    paths = [str(i) for i in range(n)]
    texts = [one.tobytes().hex() for one in prints]
    manifest = pd.DataFrame({"path": paths, "brand": None, "sha256": paths, "fingerprint": texts, "width": 100})
    taken, found = seconds(lambda: carclf.duplicates(manifest))
    return f"duplicates: {n:,} fingerprints, {len(found):,} of {len(planted):,} planted pairs found in {taken:.1f} s"


def scans(folder: str | Path) -> str:
    """Scan a folder twice."""
    first, manifest = seconds(lambda: carclf.scan(folder))
    second, _ = seconds(lambda: carclf.scan(folder))
    return f"scan: {len(manifest):,} photos, first {first:.2f} s, again {second:.2f} s"


if __name__ == "__main__":
    main()
