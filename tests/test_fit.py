import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import carclf
from carclf.data.manifest import read_test
from carclf.model import weights as tensors
from carclf.model.classifier import WEIGHTS
from carclf.train import engine as engines
from carclf.train.loss import one_cycle
from carclf.train.run import FILE as CHECKPOINT
from carclf.train.run import check_run

STAGES = (("head", 1, 1e-2, 32), ("blocks.6", 2, 1e-3, 32))


def recipe(**changes):
    return carclf.Recipe(**{"stages": STAGES, "micro_batch": 8, "device": "cpu", **changes})


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return carclf.fit(recipe(), *data, tmp_path_factory.mktemp("runs") / "first")


def stop(*_):
    raise KeyboardInterrupt


def assert_equal_weights(one, other):
    """Compare the saved models and everything in the checkpoints: model, average, optimizer, trace."""
    for file in (Path("model") / WEIGHTS, CHECKPOINT):
        torch.testing.assert_close(load_file(one / file), load_file(other / file), rtol=0, atol=0)


def test_a_run_leaves_its_records(run, data):
    tables, records = {"history.csv", "steps.csv", "split.csv", "left_out.csv"}, {"recipe.json", "environment.json"}
    assert {p.name for p in run.folder.iterdir()} == tables | records | {"model", CHECKPOINT}
    history = pd.read_csv(run.folder / "history.csv")
    assert history[["stage", "epoch"]].to_numpy().tolist() == [[0, 0], [1, 1], [1, 2]]
    pd.testing.assert_frame_equal(history, run.history, check_exact=False)
    pd.testing.assert_frame_equal(carclf.Run.load(run.folder).steps, run.steps)
    assert {"first_lr", "last_lr", "train_loss", "valid_loss", "valid_macro_recall", "memory_mb"} <= {*history}
    assert carclf.Recipe.load(run.folder) == recipe()
    (call,) = json.loads((run.folder / "environment.json").read_text("utf-8"))
    assert call["seed"] == 0
    assert call["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"data", "git", "hardware", "precision", "processes"} <= call.keys()
    assert len(read_test(run.folder / "split.csv")) == (data[0].split == "test").sum()


def test_the_network_learns_colours(data, tmp_path):
    manifest, _ = data
    cache = carclf.TensorCache.build(manifest, tmp_path, size=72)
    settings = recipe(stages=(("all", 6, 2e-3, 64),), augment={"hue": 0, "grey": 0, "saturation": 0})
    run = carclf.fit(settings, manifest, cache, tmp_path / "run")
    assert run.history.valid_accuracy.max() >= 0.8  # 0.91 or 1 with each of five seeds
    assert run.history.train_loss.iloc[-1] < run.history.train_loss.iloc[0]


def test_the_saved_model_is_the_best_epoch_on_valid(run, data):
    manifest, cache = data
    valid = np.flatnonzero(manifest.split == "valid")
    p = run.classifier.softmax(run.classifier.outputs(cache.photos[cache.slots[valid]])[0])
    predicted = np.array(run.classifier.classes)[p.argmax(1)]
    assert (predicted == manifest.brand.to_numpy()[valid]).mean() == pytest.approx(run.history.valid_accuracy.max())
    assert run.classifier.card.training["best_epoch"]["valid_accuracy"] == run.history.valid_accuracy.max()


def test_a_run_interrupted_within_an_epoch_continues_with_the_next_step(data, tmp_path, monkeypatch):
    settings = recipe(stages=(("head", 1, 1e-2, 32), ("all", 2, 1e-3, 32)), ema=0.9, head="mlp")
    whole = carclf.fit(settings, *data, tmp_path / "whole")
    monkeypatch.setattr("carclf.train.run.SAVE_SECONDS", 0)  # a checkpoint after each step
    step, trained = engines.Engine.step, []

    def stop_twice(self, *arguments):
        trained.append(1)
        if len(trained) in (2, 6):
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(engines.Engine, "step", stop_twice)
    for where in ("stage 1, epoch 1", "stage 2, epoch 1"):
        with pytest.raises(KeyboardInterrupt, match=f"stopped in {where}; call fit again"):
            carclf.fit(settings, *data, tmp_path / "parts")
    parts = carclf.fit(settings, *data, tmp_path / "parts")
    pd.testing.assert_frame_equal(parts.steps, whole.steps)
    assert len(trained) == len(whole.steps) + 2
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    assert len(json.loads((tmp_path / "parts" / "environment.json").read_text("utf-8"))) == 3


def test_a_recipe_of_a_run_repeats_it_and_leaves_the_callers_random_numbers_alone(run, data, tmp_path):
    torch.manual_seed(5)
    carclf.fit(carclf.Recipe.load(run.folder), *data, tmp_path)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert_equal_weights(run.folder, tmp_path)
    with pytest.raises(ValueError, match=r"is not a recipe of this version.*give the folder of a run"):
        carclf.Recipe.load(tmp_path / "model")


def test_the_trace_of_lrs_is_the_closed_form_of_each_stage(run):
    for number, stage in enumerate(recipe().stages):
        lrs = run.steps.lr[run.steps.stage == number]
        assert lrs.tolist() == [one_cycle(i, len(lrs), stage.max_lr) for i in range(len(lrs))]
    assert run.history.first_lr.iloc[0] == run.steps.lr.iloc[0]
    assert run.history.last_lr.iloc[-1] == run.steps.lr.iloc[-1]


def test_a_tracker_gets_every_epoch(data, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = carclf.fit(recipe(), *data, tmp_path / "run", log_with="tensorboard")
    found = events.EventAccumulator(str(tmp_path / "run" / "run")).Reload()
    logged = [event.value for event in found.Scalars("valid_accuracy")]
    assert logged == pytest.approx(run.history.valid_accuracy.tolist())
    with pytest.raises(ValueError, match=r"wand"):
        carclf.fit(recipe(), *data, tmp_path / "other", log_with="wandb")


def test_a_finished_run_is_not_trained_again_but_shows_its_curves(run, data, monkeypatch):
    monkeypatch.setattr("carclf.train.fit._train_epoch", lambda *_: pytest.fail("trained"))
    shown = []
    found = carclf.fit(recipe(), *data, run.folder, on_epoch=shown.append).history
    pd.testing.assert_frame_equal(found, run.history)
    assert len(shown) == 1
    pd.testing.assert_frame_equal(shown[0], run.history)


def test_a_run_that_continues_shows_the_curves_of_before_at_once(data, tmp_path):
    lengths = []

    def show(history):
        lengths.append(len(history))
        if lengths == [1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carclf.fit(recipe(), *data, tmp_path, on_epoch=show)
    carclf.fit(recipe(), *data, tmp_path, on_epoch=show)
    assert lengths == [1, 1, 2, 3]


def test_an_interrupted_run_can_be_used_and_resumed_to_the_last_bit_even_after_a_torn_write(
    run, data, tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError, match=r"holds no model yet: `fit` writes it after the first epoch"):
        carclf.Run.load(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        carclf.fit(recipe(), *data, tmp_path, on_epoch=stop)

    def torn(tensors_, path, *_):
        path.write_bytes(b"half a file")
        raise SafetensorError("I/O error: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensors, "save_file", torn)
        with pytest.raises(OSError, match=r"cannot be written: .*no space left.*free some disk"):
            carclf.fit(recipe(), *data, tmp_path)
    stopped = carclf.Run.load(tmp_path)
    assert len(stopped.history) == 1
    assert stopped.classifier.classes == run.classifier.classes
    resumed = carclf.fit(recipe(), *data, tmp_path)
    timing = ["photos_per_second", "seconds", "memory_mb"]
    pd.testing.assert_frame_equal(resumed.history.drop(columns=timing), run.history.drop(columns=timing))
    assert_equal_weights(run.folder, tmp_path)


def test_a_checkpoint_that_cannot_be_read_says_what_to_do(data, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"cannot resume from .*; delete it to start over"):
        carclf.fit(recipe(), *data, tmp_path)


def test_windows_may_flush_and_replace_a_checkpoint(tmp_path, monkeypatch):
    # Windows does not flush a file opened for reading, nor replace one that is still mapped.
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (os.write(number, b""), flush(number)))
    tensors.write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(1000)})
    read = tensors.read_tensors(tmp_path / "a.safetensors")[0]
    if Path("/proc/self/maps").exists():
        assert "a.safetensors" not in Path("/proc/self/maps").read_text("utf-8")
    assert torch.equal(read["x"], torch.ones(1000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7}, "seed: was 0, now 7"),
        (
            {"stages": (STAGES[0], ("all", 2, 5e-4, 32))},
            r"unfreeze of stage 2: was blocks.6, now all; max_lr of stage 2: was 0.001, now 0.0005",
        ),
        ({"stages": (*STAGES, ("all", 1, 1e-3, 32))}, r"stage 3 \(all, 1, 0.001, 32\) is new"),
        ({"stages": STAGES[:1]}, r"stage 2 \(blocks.6, 2, 0.001, 32\) is gone"),
        (
            {"augment": {"rotate": 3}, "head": "mlp"},
            r"rotate of augment: was the default, now 3; head: was None, now mlp",
        ),
    ],
)
def test_other_settings_are_refused_before_any_photo_is_read_and_both_remedies_work(
    run, data, tmp_path, changes, message
):
    other = recipe(**changes)
    for refuse in (check_run, lambda *two: carclf.fit(other, *data, two[1])):
        with pytest.raises(
            ValueError, match=rf"other settings: {message}; use another folder, or delete this one"
        ) as e:
            refuse(other, run.folder)
        assert "{" not in str(e.value)
    check_run(recipe(), run.folder)
    check_run(other, tmp_path / "another")
    shutil.copytree(run.folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")
    check_run(other, tmp_path / "copy")


def test_a_folder_and_a_device_that_cannot_be_used_are_refused_before_any_photo_is_read(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file is a file; give the run a folder of its own"):
        check_run(recipe(), tmp_path / "file")
    with pytest.raises(ValueError, match=r"device 'xpu' is not available; choose 'auto'"):
        check_run(recipe(device="xpu"), tmp_path / "run")
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"cannot resume from .*; delete it to start over"):
        check_run(recipe(), tmp_path)
    (tmp_path / CHECKPOINT).unlink()
    check_run(recipe(), tmp_path)


def test_other_photos_are_refused_with_their_numbers(run, data):
    manifest, cache = data
    brand = manifest.brand[0]
    renamed = manifest.assign(brand=manifest.brand.replace({brand: "Zenvo"}))
    moved = carclf.split(manifest.drop(columns="split"), seed=5)
    learned = manifest.split.isin(["train", "valid"])
    fewer = manifest.assign(split=manifest.split.mask(manifest.path == manifest.path[learned].iloc[0], "test"))
    for changed, message in (
        (
            renamed,
            rf"settings: brands: no longer {brand}, new Zenvo; photos or another split: \d+ of another brand; use",
        ),
        (
            moved,
            r"a finished run on other photos or another split: \d+ new, \d+ gone, \d+ in another split; use another",
        ),
        (fewer, r"holds a finished run on other photos or another split: 1 gone; use another folder"),
    ):
        with pytest.raises(ValueError, match=message):
            carclf.fit(recipe(), changed, cache, run.folder)


def test_a_photo_with_other_content_is_told_and_nothing_is_written_over_a_finished_run(run, data):
    manifest, cache = data
    row = np.flatnonzero(manifest.split == "train")[0]
    changed = manifest.assign(sha256=manifest.sha256.where(manifest.index != row, "0" * 64))
    files = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    for _ in range(2):  # it is said each time
        with pytest.warns(
            UserWarning, match=r"a finished run, and 1 of its photos have another content now; its model has not"
        ):
            again = carclf.fit(recipe(), changed, cache, run.folder)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == files
    pd.testing.assert_frame_equal(again.history, run.history)


def test_an_interrupted_run_continues_where_its_photos_were_moved_to(run, data, tmp_path):
    manifest, cache = data
    with pytest.raises(KeyboardInterrupt):
        carclf.fit(recipe(), manifest, cache, tmp_path, on_epoch=stop)
    moved = manifest.assign(path=manifest.path.str.replace("photos", "elsewhere"))
    cache = carclf.TensorCache(cache.folder, moved, cache.photos, cache.slots, cache.problems)
    carclf.fit(recipe(), moved, cache, tmp_path)
    assert_equal_weights(run.folder, tmp_path)
    carclf.fit(recipe(), moved, cache, tmp_path)  # finished, and silent
    row = np.flatnonzero(moved.split == "train")[0]
    changed = moved.assign(sha256=moved.sha256.where(moved.index != row, "0" * 64))
    with pytest.warns(UserWarning, match="1 of its photos have another content"):
        carclf.fit(recipe(), changed, cache, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_with_remedies_that_work(data, tmp_path):
    stages = (("head", 1, 1e-2, 32), ("all", 1, 1e30, 32))
    settings = recipe(stages=stages, precision="bfloat16")
    with pytest.raises(
        ArithmeticError, match=r"the (loss is|gradient).* at stage 2/2 epoch 1/1, step [12], lr "
    ) as error:
        carclf.fit(settings, *data, tmp_path / "run")
    with pytest.raises(ArithmeticError):  # the same call ends there again
        carclf.fit(settings, *data, tmp_path / "run")
    assert len(carclf.Run.load(tmp_path / "run").history) == 1  # the last good checkpoint stands
    lower = re.search(
        r"train again in another folder with a lower max_lr in this stage, such as (\S+) or precision='float32'$",
        str(error.value),
    )
    again = recipe(stages=(stages[0], ("all", 1, float(lower[1]), 32)), precision="float32")
    assert np.isfinite(carclf.fit(again, *data, tmp_path / "another").history.train_loss).all()


def test_weights_that_are_no_numbers_are_named(data, tmp_path):
    state = carclf.build_model("efficientnet_lite0", 4).state_dict()
    state["conv_head.weight"] = state["conv_head.weight"] * float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"values that are no numbers, .*'conv_head.weight'; .* or weights='imagenet'"):
        carclf.fit(recipe(weights=str(tmp_path / "w.safetensors")), *data, tmp_path / "run")


def test_what_cannot_be_trained_is_refused_before_anything_is_written(data, tmp_path):
    manifest, cache = data
    for changed, message in (
        (manifest.drop(columns="split"), r"no column 'split'.*carclf.split"),
        (manifest.iloc[:-1], "another manifest"),
        (manifest.assign(split="train"), "0 to validate"),
        (manifest.assign(brand="BMW"), "all photos of train are of one brand, BMW; add photos of another"),
    ):
        with pytest.raises(ValueError, match=message):
            carclf.fit(recipe(), changed, cache, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"run cannot be written: .*; free some disk or choose another folder"):
        carclf.fit(recipe(), *data, tmp_path / "file" / "run")


@pytest.mark.slow
def test_resnet50_trains_one_epoch_from_random_weights(data, tmp_path):
    with pytest.warns(UserWarning, match="resnet50 starts from random weights"):
        run = carclf.fit(recipe(backbone="resnet50", weights=None, stages=(("layer4", 1, 1e-3, 32),)), *data, tmp_path)
    assert len(run.history) == 1
    assert run.classifier.card.head == "mlp"
