"""What a split does to a score: the same short training on photos divided in different ways."""

from __future__ import annotations

import warnings
from dataclasses import replace
from tempfile import TemporaryDirectory

import pandas as pd

from carclf.cache import TensorCache
from carclf.evaluation import metrics
from carclf.recipes import Recipe, Stage
from carclf.splits import leakage, split
from carclf.training import fit

EPOCHS = 20  # of the head alone, whose features are computed once
WAYS = {"photo": "photo by photo", "vehicle": "vehicles whole", "model": "models whole"}


def score_splits(
    recipe: Recipe, manifest: pd.DataFrame, cache: TensorCache, wholes: tuple[str, ...] = ("photo", "vehicle")
) -> pd.DataFrame:
    """Train the head alone on each split, and score it on valid: one method, several numbers.

    Parameters
    ----------
    recipe : backbone, seed, device and first photo size are taken from it
    manifest, cache : as for `fit`; photos that it marks test are neither learned nor scored here
    wholes : what `carclf.split` keeps whole, for each row

    Returns
    -------
    DataFrame, a row a split and indexed by it, with the columns photos (of valid), with_sibling_in_train (share of them
    of whose vehicle a photo is in train, 0 to 1), accuracy, low and high (its 95 % interval over vehicles)
    """
    stage = Stage("head", EPOCHS, 3e-3, recipe.stages[0].size)
    short = replace(recipe, stages=(stage,), head_views=2)
    asked = manifest
    if "split" in manifest:
        asked = manifest.assign(problem=manifest.problem.astype(object).mask(manifest.split == "test", "to be tested"))
    rows = []
    for whole in wholes:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "brands with fewer than 3")  # the user's own split has said so
            divided = split(asked, seed=recipe.seed, whole=whole)
        with TemporaryDirectory() as folder:
            classifier = fit(short, divided, cache, folder).classifier
        valid = classifier.predict(divided[divided.split == "valid"])
        found = metrics(valid, classes=classifier.classes, seed=recipe.seed)
        scored = divided.assign(split=divided.split.map({"train": "train", "valid": "test"}))
        share = leakage(scored).share["vehicle"]
        rows.append((WAYS[whole], found["n"], share, *(found[f"accuracy{end}"] for end in ("", "_low", "_high"))))
    columns = ["split", "photos", "with_sibling_in_train", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index("split")
