import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional as F

import carclf
from carclf import checkpoints, models, tensors, training
from carclf.classifier import WEIGHTS
from carclf.devices import pick

STRENGTHS = "flip rotate zoom_in zoom_out aspect brightness contrast saturation hue grey erase"
NOTHING_RANDOM = dict.fromkeys(STRENGTHS.split(), 0.0)
STAGES = (("head", 1, 1e-2, 32), ("blocks.6", 2, 1e-3, 32))


@pytest.fixture(scope="module")
def data(photo_folder, tmp_path_factory):
    manifest = carclf.split(carclf.scan(photo_folder), seed=1)
    return manifest, carclf.TensorCache.build(manifest, tmp_path_factory.mktemp("cache"), size=40)


def recipe(**changes):
    return carclf.Recipe(**{"stages": STAGES, "micro_batch": 8, "device": "cpu", **changes})


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return carclf.fit(recipe(), *data, tmp_path_factory.mktemp("runs") / "first")


def assert_equal_weights(one, other):
    ours, theirs = (load_file(folder / "model" / WEIGHTS) for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


def test_a_run_leaves_its_records(run, data):
    assert {p.name for p in run.folder.iterdir()} == {
        "history.csv",
        "recipe.json",
        "split.csv",
        "model",
        checkpoints.FILE,
    }
    history = pd.read_csv(run.folder / "history.csv")
    assert history.stage.tolist() == [0, 1, 1]
    assert history.epoch.tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(history, run.history, check_exact=False)
    assert carclf.Recipe(**json.loads((run.folder / "recipe.json").read_text("utf-8"))) == recipe()
    assert len(carclf.read_test(run.folder / "split.csv")) == (data[0].split == "test").sum()


def test_the_network_learns_colours(data, tmp_path):
    settings = recipe(stages=(("all", 8, 1e-2, 32),), augment={"hue": 0, "grey": 0, "saturation": 0})
    run = carclf.fit(settings, *data, tmp_path)
    assert run.history.valid_accuracy.max() >= 0.75
    assert run.history.train_loss.iloc[-1] < run.history.train_loss.iloc[0]


def test_the_saved_model_is_the_best_epoch_on_valid(run, data):
    manifest, cache = data
    valid = np.flatnonzero(manifest.split == "valid")
    p = run.classifier.probabilities(cache.photos[cache.slots[valid]])
    predicted = np.array(run.classifier.classes)[p.argmax(1)]
    assert (predicted == manifest.brand.to_numpy()[valid]).mean() == pytest.approx(run.history.valid_accuracy.max())
    assert run.classifier.card.training["best_epoch"]["valid_accuracy"] == run.history.valid_accuracy.max()


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_is_the_uninterrupted_run_to_the_last_bit(run, data, tmp_path, stop_after):
    def stop(history):
        if len(history) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carclf.fit(recipe(), *data, tmp_path, on_epoch=stop)
    resumed = carclf.fit(recipe(), *data, tmp_path)
    timing = ["photos_per_second", "seconds"]
    pd.testing.assert_frame_equal(resumed.history.drop(columns=timing), run.history.drop(columns=timing))
    assert_equal_weights(run.folder, tmp_path)


def test_a_finished_run_is_not_trained_again(run, data, monkeypatch):
    monkeypatch.setattr(training, "_train_epoch", lambda *_: pytest.fail("trained"))
    again = carclf.fit(recipe(), *data, run.folder)
    assert len(again.history) == 3


def test_an_interrupted_write_leaves_the_last_checkpoint_whole(run, data, tmp_path, monkeypatch):
    def torn(tensors_, path, *_):
        path.write_bytes(b"half a file")
        raise SafetensorError("I/O error: no space left on device")

    with pytest.raises(KeyboardInterrupt):
        carclf.fit(recipe(), *data, tmp_path, on_epoch=lambda h: (_ for _ in ()).throw(KeyboardInterrupt))
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "save_file", torn)
        with pytest.raises(OSError, match=r"cannot be written: .*no space left.*free some disk"):
            carclf.fit(recipe(), *data, tmp_path)
    carclf.fit(recipe(), *data, tmp_path)
    assert_equal_weights(run.folder, tmp_path)


def test_a_checkpoint_that_cannot_be_read_says_what_to_do(data, tmp_path):
    (tmp_path / checkpoints.FILE).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"cannot be gone on from .*; delete it to begin anew"):
        carclf.fit(recipe(), *data, tmp_path)


def test_windows_may_flush_and_replace_a_checkpoint(tmp_path, monkeypatch):
    # Windows flushes no file that was opened for reading, and replaces none that is still mapped.
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (os.write(number, b""), flush(number)))
    tensors.write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(1000)})
    read = tensors.read_tensors(tmp_path / "a.safetensors")[0]
    if Path("/proc/self/maps").exists():
        assert "a.safetensors" not in Path("/proc/self/maps").read_text("utf-8")
    assert torch.equal(read["x"], torch.ones(1000))


def test_a_transformers_position_embedding_trains_with_all_the_rest():
    with pytest.warns(UserWarning, match="random weights"):
        model = carclf.build_model("vit_tiny_patch16_224", 3, weights=None)
    models.set_trainable(model, "all")
    grouped = {id(p) for group in training._groups(model, 0.05) for p in group["params"]}
    assert {id(model.pos_embed), id(model.cls_token)} <= grouped


def test_a_run_begun_otherwise_is_refused_naming_the_difference(run, data):
    manifest, cache = data
    with pytest.raises(ValueError, match=r"recipe.seed: was 0, is 7.*another folder"):
        carclf.fit(recipe(seed=7), manifest, cache, run.folder)
    other = manifest.assign(brand=manifest.brand.replace({manifest.brand.iloc[0]: "Zenvo"}))
    with pytest.raises(ValueError, match=rf"no longer {manifest.brand.iloc[0]}, new Zenvo"):
        carclf.fit(recipe(), other, cache, run.folder)
    moved = carclf.split(manifest.drop(columns="split"), seed=5)
    with pytest.raises(ValueError, match="the photos or their split have changed"):
        carclf.fit(recipe(), moved, cache, run.folder)


@pytest.mark.parametrize(("micro_batch", "accumulate"), [(30, 1), (10, 3), (4, 8), (7, 4)])
@pytest.mark.parametrize("n", [30, 23])
def test_micro_batches_have_the_gradient_of_one_large_batch(data, micro_batch, accumulate, n):
    manifest, cache = data
    settings = recipe(micro_batch=micro_batch, accumulate=accumulate, class_weight="inverse", augment=NOTHING_RANDOM)
    rows = training._Data.of(manifest, cache, settings)
    window = rows.train[:n]
    model = carclf.build_model("efficientnet_lite0", len(rows.classes)).eval()  # BatchNorm would see the batch's size
    augment = training._augment(settings, 32)
    loss = training._window_backward(model, window, augment, None, settings, rows, pick("cpu"))
    ours = [p.grad.clone() for p in model.parameters()]

    model.zero_grad()
    labels = rows.labels[window]
    each = F.cross_entropy(model(augment(cache.batch(window))), labels, label_smoothing=0.1, reduction="none")
    w = rows.weights[labels]
    reference = (w * each).sum() / w.sum()
    reference.backward()
    assert loss == pytest.approx(reference.item(), rel=1e-5)
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        scale = parameter.grad.norm()
        assert (mine - parameter.grad).norm() <= 1e-5 * scale + 1e-12


@pytest.mark.parametrize(("n", "size"), [(1, 8), (8, 8), (9, 8), (65, 64), (4563, 64)])
def test_windows_hold_every_photo_once_and_none_is_short(n, size):
    windows = training._windows(np.arange(n), size)
    assert len(windows) == math.ceil(n / size)
    assert np.concatenate(windows).tolist() == list(range(n))
    lengths = [len(w) for w in windows]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_norms_and_biases_are_spared_weight_decay():
    model = carclf.build_model("efficientnet_lite0", 3)
    models.set_trainable(model, "all")
    decayed, spared = training._groups(model, 0.05)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_a_loss_that_is_no_number_stops_the_run_with_the_remedy(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "weighted_loss", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(ArithmeticError, match=r"the loss is nan at stage 1/2 epoch 1/1, step 0.*lower max_lr"):
        carclf.fit(recipe(), *data, tmp_path)


def test_data_that_cannot_be_trained_on_is_refused(data, tmp_path):
    manifest, cache = data
    with pytest.raises(ValueError, match=r"no column 'split'.*carclf.split"):
        carclf.fit(recipe(), manifest.drop(columns="split"), cache, tmp_path)
    with pytest.raises(ValueError, match="another manifest"):
        carclf.fit(recipe(), manifest.iloc[:-1], cache, tmp_path)
    with pytest.raises(ValueError, match="0 to validate"):
        carclf.fit(recipe(), manifest.assign(split="train"), cache, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": ()}, "at least one stage"),
        ({"micro_batch": 2}, "micro_batch must be at least 3"),
        ({"accumulate": 0}, "accumulate at least 1"),
        ({"class_weight": "sqrt"}, "class_weight='sqrt' must be one of: none, inverse_sqrt, inverse"),
    ],
)
def test_a_wrong_recipe_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        carclf.Recipe(**settings)


def test_a_stage_that_names_no_block_is_refused_before_any_training(data, tmp_path):
    with pytest.raises(ValueError, match=r"unfreeze='layer4' is no block.*blocks.6"):
        carclf.fit(recipe(stages=(("head", 1, 1e-2, 32), ("layer4", 1, 1e-3, 32))), *data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"run cannot be written: .*; free some disk or choose another folder"):
        carclf.fit(recipe(), *data, tmp_path / "file" / "run")


def test_a_recipe_is_frozen_and_survives_json():
    r = recipe(augment={"rotate": 3.0})
    with pytest.raises(dataclasses.FrozenInstanceError):
        r.seed = 1
    assert carclf.Recipe(**json.loads(json.dumps(dataclasses.asdict(r)))) == r


@pytest.mark.slow
def test_resnet50_trains_one_epoch_from_random_weights(data, tmp_path):
    with pytest.warns(UserWarning, match="resnet50 starts from random weights"):
        run = carclf.fit(recipe(backbone="resnet50", weights=None, stages=(("layer4", 1, 1e-3, 32),)), *data, tmp_path)
    assert len(run.history) == 1
    assert run.classifier.card.head == "mlp"
