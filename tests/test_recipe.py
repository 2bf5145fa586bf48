"""Recipes, and what becomes of the recipes and runs of version 0.1."""

import copy
import dataclasses
import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import carclf
from carclf.model.backbones import part_names
from carclf.train.recipe import FILE
from carclf.train.run import FILE as CHECKPOINT
from carclf.train.settings import PARTS

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


def stage(unfreeze="all", epochs=3, max_lr=1e-3, size=64):
    return {"stages": [[unfreeze, epochs, max_lr, size]]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        # A list of lists of four
        ({"stages": ()}, r"at least one stage, such as \[\['head', 1"),
        ({"stages": "all"}, "stages='all' must be a list of stages, such as"),
        ({"stages": None}, "stages=None must be a list of stages"),
        ({"stages": ["all", 5, 1e-3, 64]}, r"a list of lists; for a single stage write \[\['all', 5, 0.001, 64\]\]"),
        ({"stages": [["all", 5, 1e-3]]}, "stage 1 is .*: give its four values, unfreeze, epochs, max_lr, size, such"),
        ({"stages": [{"unfreeze": "all", "epoch": 1, "max_lr": 1, "size": 64}]}, "stage 1 is .* its four values"),
        # Numbers
        (stage(epochs="8"), "stage 1: epochs='8' must be a whole number of at least 1"),
        (stage(epochs=3.0), "stage 1: epochs=3.0 must be a whole number"),
        (stage(epochs=None), "stage 1: epochs=None must be a whole number"),
        (stage(epochs=True), "stage 1: epochs=True must be a whole number"),
        (stage(max_lr=0.0), "stage 1: max_lr=0.0 must be a number above 0"),
        (stage(max_lr=float("nan")), "stage 1: max_lr=nan must be a number above 0"),
        (stage(max_lr=float("inf")), "stage 1: max_lr=inf must be a number above 0"),
        (stage(size=16), "stage 1: size=16 must be a whole number of at least 32"),
        ({"micro_batch": 2}, "micro_batch=2 must be a whole number of at least 3"),
        ({"accumulate": 0}, "accumulate=0 must be a whole number of at least 1"),
        ({"ema": 1.0}, "ema=1.0 must be a number between 0 and 0.99999"),
        ({"ema": None}, "ema=None must be a number between"),
        ({"layer_decay": "0.5"}, "layer_decay='0.5' must be a number between 0.01 and 1"),
        ({"seed": -1}, "seed=-1 must be a whole number between 0 and 9,223,372,036,854,775,807"),
        ({"augment": {"rotate": "3"}}, "augment: rotate='3' must be a number between 0 and 180"),
        ({"augment": None}, "augment=None must be a dict of strengths, such as"),
        # Words, with the nearest right one
        (
            {"class_weight": "inverse_sqr"},
            "must be one of: none, inverse_sqrt, inverse, .*; did you mean 'inverse_sqrt'?",
        ),
        ({"precision": "half"}, "precision='half' must be one of: auto, float32, bfloat16, float16$"),
        ({"head": "mpl"}, "head='mpl' must be one of: None, linear, mlp; did you mean 'mlp'?"),
        ({"augment": {"rotat": 3}}, "augment has no strength 'rotat'; did you mean 'rotate'?"),
        ({"device": "cdua"}, "device='cdua' must be one of: auto, cuda, .*; did you mean 'cuda'?"),
        ({"device": "gpu"}, "device='gpu' must be one of: auto, cuda, .*; did you mean 'cuda'?"),
        ({"device": 0}, "device=0 must be one of: auto, cuda"),
        ({"weights": "imagnet"}, "there is no file 'imagnet'; did you mean 'imagenet'?"),
        ({"weights": "gone.pth"}, "no file gone.pth; give weights='imagenet', None or the path of a state dict"),
        ({"weights": 3}, "weights=3 must be 'imagenet', None or the path"),
        ({"backbone": "resnet5"}, "unknown backbone 'resnet5'; .*; did you mean 'resnet50'?"),
        ({"backbone": "EfficientNet-Lite0"}, "did you mean 'efficientnet_lite0'?"),
        ({"backbone": "resnet50.tv_in2k"}, "unknown weights of backbone 'resnet50.tv_in2k'; choose one of: .*tv_in1k"),
        ({"backbone": None}, "backbone=None must be text"),
        (stage("heads"), "stage 1: unfreeze='heads' is no part of the network; did you mean 'head'?"),
        (
            stage("layer4"),
            "unfreeze='layer4' is no part of the network; choose head, all or one of: conv_stem, .*blocks.6",
        ),
        (stage(None), "stage 1: unfreeze=None must be text"),
        ({"backbone": "resnet50"}, "stage 2: unfreeze='blocks.5' is no part .*; choose head, all or one of: .*layer4"),
        ({"backbone": "vit_tiny_patch16_224", **stage("block.9", size=224)}, "did you mean 'blocks.9'?"),
        (
            {"backbone": "vit_tiny_patch16_224", **stage(size=128)},
            "size=128, but vit_tiny_patch16_224 takes 224 pixels",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_once_in_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as raised:
        carclf.Recipe(**settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "near"), [("emma", "; did you mean 'ema'?"), ("zzz", "; its settings are backbone, stages, ")]
)
def test_a_setting_that_does_not_exist_is_named_with_the_nearest(name, near):
    for make in (carclf.Recipe, lambda **changes: dataclasses.replace(carclf.Recipe(), **changes)):
        with pytest.raises(TypeError, match=re.escape(f"a recipe has no setting {name!r}{near}")):
            make(**{name: 0.9})


@pytest.mark.parametrize("backbone", PARTS)
def test_the_parts_of_known_backbones_are_those_of_their_networks(backbone):
    assert PARTS[backbone] == part_names(backbone)
    assert part_names("vit_tiny_patch16_224")[-2:] == ("norm", "head")


def test_importing_the_recipes_does_not_wait_for_timm():
    command = "import sys, carclf; carclf.Recipe(); carclf.RECIPES; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_a_recipe_can_be_copied_and_pickled_and_takes_numbers_of_numpy(tmp_path):
    (tmp_path / "w.pth").touch()
    stages = [["blocks.5", np.int64(3), np.float32(0.5), 64]]
    recipe = carclf.Recipe(stages=stages, augment={"rotate": np.float64(3)}, weights=tmp_path / "w.pth")
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == dataclasses.replace(recipe) == recipe
    recipe.save(tmp_path)
    (tmp_path / "w.pth").unlink()
    assert carclf.Recipe.load(tmp_path) == recipe  # a run that has begun does not need the file again


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
    with pytest.raises(ValueError, match=r"mixup: was 0.2, now not in this version; use another folder"):
        carclf.fit(NEW, *data, interrupted)
