"""What the benchmarks compute themselves: the weights that ship, and arms of several seeds beside the baseline."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import carclf
from carclf import checkpoints
from carclf.classifier import WEIGHTS

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from recipes import QUESTIONS, beside
from ship import AVERAGED, between


@pytest.fixture(scope="module")
def run(photo_folder, tmp_path_factory):
    manifest = carclf.split(carclf.scan(photo_folder), seed=1)
    cache = carclf.TensorCache.build(manifest, tmp_path_factory.mktemp("cache"), size=40)
    recipe = carclf.Recipe(stages=(("all", 2, 1e-3, 32),), micro_batch=8, device="cpu")
    return carclf.fit(recipe, manifest, cache, tmp_path_factory.mktemp("runs") / "first")


def test_what_ships_lies_halfway_between_the_best_epoch_and_the_last(run):
    best, last = load_file(run.folder / "model" / WEIGHTS), load_file(run.folder / checkpoints.FILE)
    for name in best:  # as if the best had been the first of the two epochs
        best[name] = best[name] + 1 if best[name].is_floating_point() else best[name]
    shifted = carclf.Classifier.load(run.folder / "model")
    shifted.model.load_state_dict(best)
    shifted.save(run.folder / "model")
    for _ in range(2):  # twice gives the same: the run stays as it was
        classifier = between(run)
        for name, weights in classifier.model.state_dict().items():
            middle = (best[name] + last[f"model.{name}"]) / 2 if weights.is_floating_point() else best[name]
            assert torch.equal(weights, middle), name
    assert classifier.card.training["weights"] == AVERAGED
    assert "valid_accuracy" not in classifier.card.training["best_epoch"]


def predictions(seed, right):
    """Two photos of each question, the first named rightly or not; and one of a brand that is not known."""
    rows = [(q, f"{q} {i}", "Audi", "Audi" if i or right else "BMW") for q in QUESTIONS for i in (0, 1)]
    rows.append(("unknown brands", "unknown", "Lada", "BMW"))
    table = pd.DataFrame(rows, columns=["question", "vehicle", "brand", "predicted"])
    table["path"] = f"{seed} " + table.vehicle
    return table.assign(
        confidence=(0.9 - seed / 2) * np.where(table.brand == "Lada", 0.6, 1.0),  # of the second network all are lower
        top5=[[name] for name in table.predicted],
        problem=None,
        seed=seed,
        minutes=1.0 + seed,
    )


def test_an_arm_of_two_seeds_is_compared_seed_by_seed():
    base = pd.concat([predictions(0, right=False), predictions(1, right=False)])
    arm = pd.concat([predictions(0, right=True), predictions(1, right=False)])
    row = beside(base, arm)
    assert row["minutes"] == 1.5
    for question in QUESTIONS:
        assert row[question] == 0.75
        assert row[f"{question}, difference"] == 0.25
    assert beside(base, base)["known models, difference"] == 0
    assert row["unknown brands, AUROC"] == 1  # though .54 of the first network is above .4 of the second
