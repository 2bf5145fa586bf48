"""Recipes, and what becomes of the recipes and runs of version 0.1."""

import dataclasses
import json

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import carclf
from carclf.train.recipe import FILE
from carclf.train.run import FILE as CHECKPOINT

OLD = """{
 "backbone": "efficientnet_lite0",
 "stages": [{"unfreeze": "head", "epochs": 1, "max_lr": 0.01, "size": 32},
            {"unfreeze": "blocks.6", "epochs": 2, "max_lr": 0.001, "size": 32}],
 "micro_batch": 8, "accumulate": 1, "class_weight": "inverse_sqrt", "sampler": "shuffle", "logit_adjustment": 0.0,
 "label_smoothing": 0.1, "augment": {}, "mixup": 0.0, "cutmix": 0.0, "head_views": 2, "weight_decay": 0.05,
 "block_decay": 0.9, "clip_norm": 2.0, "ema": 0.0, "head": null, "weights": "imagenet", "device": "cpu",
 "precision": "auto", "seed": 0
}"""
NEW = carclf.Recipe(
    stages=(("head", 1, 1e-2, 32), ("blocks.6", 2, 1e-3, 32)),
    micro_batch=8,
    class_weight="inverse_sqrt",
    layer_decay=0.9,
    clip_grad=2.0,
    device="cpu",
)
COLUMNS = {"lr": "rate", "first_lr": "first_rate", "last_lr": "last_rate"}  # of a run's tables, and their old names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": ()}, "at least one stage"),
        ({"micro_batch": 2}, "micro_batch must be at least 3"),
        ({"accumulate": 0}, "accumulate at least 1"),
        ({"class_weight": "sqrt"}, "class_weight='sqrt' must be one of: none, inverse_sqrt, inverse, effective_number"),
        ({"precision": "half"}, "precision='half' must be one of: auto, float32"),
        ({"stages": (("all", 1, 0.0, 64),)}, "a positive max_lr"),
        ({"ema": 1.0}, "ema=1.0 must lie between 0 and 0.99999"),
        ({"layer_decay": 1.5}, "layer_decay=1.5 must lie between 0.01 and 1"),
    ],
)
def test_a_wrong_recipe_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        carclf.Recipe(**settings)


def test_a_recipe_is_frozen_and_survives_json():
    recipe = carclf.Recipe(augment={"rotate": 3.0})
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1
    assert carclf.Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


def test_recipes_for_the_processor_have_no_class_weights():
    found = {name: recipe.class_weight for name, recipe in carclf.RECIPES.items()}
    weighted = dict.fromkeys(("resnet50", "convnext"), "inverse_sqrt")
    assert found == {"quick": "none", "thorough": "none", **weighted}


def test_an_old_recipe_loads_under_its_new_names(tmp_path):
    (tmp_path / FILE).write_text(OLD, "utf-8")
    with pytest.warns(DeprecationWarning) as warned:
        assert carclf.Recipe.load(tmp_path) == NEW
    assert {str(w.message).partition("(")[2] for w in warned} == {
        "block_decay=…) is deprecated, use layer_decay=…",
        "clip_norm=…) is deprecated, use clip_grad=…",
    }


@pytest.mark.parametrize(
    ("name", "value"), [("mixup", 0.2), ("cutmix", 1), ("sampler", "balanced"), ("logit_adjustment", 1)]
)
def test_a_removed_setting_is_ignored_with_a_warning(name, value):
    with pytest.warns(UserWarning, match=rf"{name}={value!r} is ignored: .*removed because it lost points"):
        assert carclf.Recipe(**{name: value, "seed": 3}) == carclf.Recipe(seed=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'mixdown'"):
        carclf.Recipe(mixdown=1)


@pytest.fixture
def interrupted(data, tmp_path):
    """A run that stopped after its second epoch, in the files of version 0.1."""
    folder = tmp_path / "old"

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carclf.fit(NEW, *data, folder, on_epoch=stop)
    (folder / FILE).write_text(OLD, "utf-8")
    for name in ("history.csv", "steps.csv"):
        pd.read_csv(folder / name).rename(columns=COLUMNS).to_csv(folder / name, index=False)
    rewrite(folder, json.loads(OLD))
    return folder


def rewrite(folder, settings):
    """Give a checkpoint the settings and the column names that version 0.1 wrote."""
    with safe_open(folder / CHECKPOINT, "pt") as file:
        facts = json.loads(file.metadata()["state"])
    facts["identity"]["recipe"] = {k: v for k, v in settings.items() if k != "device"}
    facts["history"] = [{COLUMNS.get(k, k): v for k, v in row.items()} for row in facts["history"]]
    save_file(load_file(folder / CHECKPOINT), folder / CHECKPOINT, {"state": json.dumps(facts)})


def test_an_old_run_loads_with_new_columns_and_resumes_to_the_last_bit(interrupted, data, tmp_path):
    run, old = carclf.fit(NEW, *data, tmp_path / "whole"), carclf.Run.load(interrupted)
    pd.testing.assert_frame_equal(old.steps, run.steps[: len(old.steps)])
    assert old.history.columns.tolist() == run.history.columns.tolist()
    assert "rate" in pd.read_csv(interrupted / "steps.csv")
    resumed = carclf.fit(NEW, *data, interrupted)
    timing = ["photos_per_second", "seconds", "memory_mb"]
    pd.testing.assert_frame_equal(resumed.history.drop(columns=timing), run.history.drop(columns=timing))
    ours, reference = (load_file(each.folder / CHECKPOINT) for each in (resumed, run))
    torch.testing.assert_close(ours, reference, rtol=0, atol=0)


def test_an_old_run_with_a_removed_setting_says_why_it_cannot_continue(interrupted, data):
    rewrite(interrupted, json.loads(OLD) | {"mixup": 0.2})
    with pytest.raises(ValueError, match=r"recipe.mixup: was 0.2, now not in this version\); use another folder"):
        carclf.fit(NEW, *data, interrupted)
