"""Make the model that ships, from photos to model folder and results.

python benchmarks/ship.py path/to/cars path/to/photos/of/other/collections --out runs/ship

The first folder divides as usual. Of the second, whole collections (the two digits after the underscore) are kept for
valid and for test: a photo from a source never seen is what users bring, and a threshold that keeps its promise there
has to be chosen there. Killed, the same command goes on. Test is looked at once, at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import carclf

FRACTIONS = (0.86, 0.07, 0.07)
COLLECTION = r"_(\d\d)\d{4}\.\w+$"
VALID, TEST = ("05", "07", "17"), ("08", "11", "12", "18", "19", "20", "21", "27")
HELD = dict.fromkeys(VALID, "valid") | dict.fromkeys(TEST, "test")
ENOUGH = 20  # vehicles in train from which on a brand is learned
RECIPE = carclf.RECIPES["thorough"]


def shipped_split(home: str, elsewhere: str) -> pd.DataFrame:
    """Manifest of both folders with the columns split and collection (missing for the first folder)."""
    manifest = carclf.split(carclf.scan([home, elsewhere]), FRACTIONS)
    away = carclf.scan(elsewhere).path
    names = manifest.path.where(manifest.path.isin(away))
    collection = names.str.extract(COLLECTION)[0]
    place = collection.map(HELD).fillna("train").where(collection.notna(), manifest.split)
    rank = place.map({"train": 0, "valid": 1, "test": 2})
    rank = rank.groupby(manifest.vehicle).transform("max")  # a vehicle of two collections stays in one part
    place = rank.map({0: "train", 1: "valid", 2: "test"}).where(manifest.split.notna())
    learned = manifest[place == "train"].groupby("brand").vehicle.nunique()
    enough = manifest.brand.isin(learned.index[learned >= ENOUGH])
    return manifest.assign(split=place.astype(object).where(enough, None), collection=collection)


def main() -> None:
    """Train, or go on, and write the model and what it does on test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home")
    parser.add_argument("elsewhere", help="photos named <Brand> <words>_<two digits of the collection><number>")
    parser.add_argument("--out", type=Path, default=Path("runs/ship"))
    parser.add_argument("--cache", default="cache")
    options = parser.parse_args()
    manifest = shipped_split(options.home, options.elsewhere)
    cache = carclf.TensorCache.build(manifest, options.cache, 256)
    run = carclf.fit(RECIPE, manifest, cache, options.out)
    print(run.history.to_string())


if __name__ == "__main__":
    main()
