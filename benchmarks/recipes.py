"""One setting of the recipe at a time, at a reduced scale, against the same baseline on the same photos.

python benchmarks/recipes.py path/to/photos path/to/photos/of/other/collections --out runs/recipes

Every arm learns from the first folder, without some models that are left out whole, and is asked three questions: new
photos of the models it knows, photos of the models left out, and photos of the same brands from the other collections.
An arm is a run that goes on where it was stopped; what is done already is not done again. The photos that test the
shipped model (`benchmarks/ship.py`) take no part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax
from ship import shipped_split

import carclf
from carclf.novelty import novelty_metrics
from carclf.predictions import tabulate

BASE = carclf.Recipe(stages=(("head", 1, 3e-3, 112), ("all", 6, 1e-3, 112)))
STRONGER = {"rotate": 10.0, "zoom_in": 0.4, "zoom_out": 0.4, "aspect": 0.25, "brightness": 0.4, "contrast": 0.4}
STRONGER |= {"saturation": 0.6, "hue": 0.05, "grey": 0.1, "erase": 0.4, "erase_area": 0.3, "blur": 1.0}
WEAKER = dict.fromkeys(("rotate", "zoom_out", "aspect", "brightness", "contrast", "saturation", "hue", "grey"), 0.0)
ARMS = {
    "baseline": {},
    "no label smoothing": {"label_smoothing": 0.0},
    "no class weights": {"class_weight": "none"},
    "only blocks.2 and above": {"stages": (("head", 1, 3e-3, 112), ("blocks.2", 6, 1e-3, 112))},
    "all at once": {"stages": (("all", 7, 1e-3, 112),)},
    "head alone for 4 epochs": {"stages": (("head", 4, 3e-3, 112), ("all", 6, 1e-3, 112))},
    "unfrozen in three stages": {"stages": (("head", 1, 3e-3, 112), ("blocks.5", 1, 1e-3, 112), ("all", 5, 1e-3, 112))},
    "head of three layers": {"head": "mlp"},
    "zoom out to 1.6": {"augment": {"zoom_out": 0.6}},
    "stronger augmentation": {"augment": STRONGER},
    "mirror, crop and erasing alone": {"augment": WEAKER},
    "mixup .2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
    "moving average .99": {"ema": 0.99},
    "blocks' rates × .8": {"block_decay": 0.8},
    "half the rate": {"stages": (("head", 1, 3e-3, 112), ("all", 6, 5e-4, 112))},
    "twice the rate": {"stages": (("head", 1, 3e-3, 112), ("all", 6, 2e-3, 112))},
    "sizes rise, 96 to 160": {
        "stages": (("head", 1, 3e-3, 96), ("all", 4, 1e-3, 96), ("all", 1, 5e-4, 128), ("all", 1, 5e-4, 160))
    },
    "last epoch at 224": {"stages": (("head", 1, 3e-3, 112), ("all", 5, 1e-3, 112), ("all", 1, 5e-4, 224))},
    "last epoch at 256": {"stages": (("head", 1, 3e-3, 112), ("all", 5, 1e-3, 112), ("all", 1, 5e-4, 256))},
}
QUESTIONS = ("known models", "unseen models", "other collections")


def main() -> None:
    """Train all arms of one seed and print the table of everything that was ever trained into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("elsewhere", help="photos of other collections, as benchmarks/ship.py takes them")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    manifest = questions(options.photos, options.elsewhere)
    cache = carclf.TensorCache.build(manifest, "cache", 256)
    for arm in options.arms:
        answer(arm, replace(BASE, seed=options.seed, **ARMS[arm]), manifest, cache, options.out)
    table = pd.concat(compared(options.out, manifest))
    table.to_csv(options.out / "table.csv")
    print(table.round(1).to_string())


def questions(photos: str, elsewhere: str) -> pd.DataFrame:
    """The manifest with a split of its own: train, valid, and the column `question` of what is asked at the end."""
    manifest = shipped_split(photos, elsewhere)
    spare, home = manifest.split.isin(["train", "valid"]), manifest.collection.isna()
    by_model = carclf.split(manifest[spare & home], (0.7, 0.1, 0.2), whole="model")
    unseen = by_model.index[by_model.split == "test"]
    known = carclf.split(manifest[spare & home].drop(unseen), (0.8, 0.1, 0.1))
    taught = manifest.brand.isin(known.brand[known.split == "train"])
    manifest = manifest.assign(split=None, question=None)
    manifest.loc[known.index, "split"] = known.split.replace("test", "valid")
    manifest.loc[manifest.split == "valid", "question"] = QUESTIONS[0]
    manifest.loc[unseen, "question"] = QUESTIONS[1]
    manifest.loc[spare & ~home, "question"] = np.where(taught, QUESTIONS[2], "unknown brands")[spare & ~home]
    return manifest


def answer(arm: str, recipe: carclf.Recipe, manifest: pd.DataFrame, cache: carclf.TensorCache, out: Path) -> None:
    """Train one arm, unless that was done, and keep what the network says of every photo that is asked about."""
    place = out / f"{arm}-{recipe.seed}".replace(" ", "-")
    if not (place / "arm.json").exists():
        run = carclf.fit(recipe, manifest, cache, place)
        rows = np.flatnonzero(manifest.question.notna())
        parts = np.array_split(rows, max(1, len(rows) // 64))
        logits = np.concatenate([run.classifier.outputs(cache.batch(part).numpy())[0] for part in parts])
        np.save(place / "logits.npy", logits)
        facts = {"arm": arm, "seed": recipe.seed, "minutes": run.history.seconds.sum() / 60}
        (place / "arm.json").write_text(json.dumps(facts | {"classes": run.classifier.classes}))


def compared(out: Path, manifest: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """A row an arm and seed: each question's accuracy in per cent, and its distance from the baseline of that seed."""
    asked = manifest[manifest.question.notna()].drop(columns="split")
    arms = {(f["arm"], f["seed"]): (f, place) for place, f in _finished(out)}
    for (arm, seed), (facts, _) in arms.items():
        tables = [predictions(asked, *arms[one, seed]) for one in ("baseline", arm)]
        row = {"minutes": facts["minutes"]}
        for question in QUESTIONS:
            base, own = (table[table.question == question] for table in tables)
            found = carclf.compare(base, own)
            row[question] = 100 * found["accuracy_b"]
            row |= {f"{question} {end}": 100 * found[f"accuracy_difference{end}"] for end in ("", "_low", "_high")}
            row[f"{question}, macro recall"] = 100 * found["macro_recall_b"]
        row["answered"] = 100 * answered(tables[1][tables[1].question == QUESTIONS[2]])
        sides = (tables[1].confidence[tables[1].question == q] for q in (QUESTIONS[2], "unknown brands"))
        row["unknown brands, AUROC"] = novelty_metrics(*sides, n_boot=10)["auroc"]
        yield pd.DataFrame(row, pd.MultiIndex.from_tuples([(arm, seed)], names=["arm", "seed"]))


def _finished(out: Path) -> Iterator[tuple[Path, dict]]:
    return ((path.parent, json.loads(path.read_text())) for path in sorted(out.glob("*/arm.json")))


def predictions(asked: pd.DataFrame, facts: dict, place: Path) -> pd.DataFrame:
    """What an arm said, as `Classifier.predict` would have it."""
    probabilities = softmax(np.load(place / "logits.npy"), axis=1)
    return tabulate(asked, probabilities, facts["classes"], 0.0, np.zeros(len(asked), bool))


def answered(table: pd.DataFrame, accuracy: float = 0.9) -> float:
    """The largest share of the photos, surest first, of which this share is right."""
    surest = table.sort_values("confidence", ascending=False)
    right = (surest.brand == surest.predicted).cumsum() / np.arange(1, len(table) + 1)
    return float(np.max(np.flatnonzero(right >= accuracy) + 1, initial=0) / len(table))


if __name__ == "__main__":
    main()
