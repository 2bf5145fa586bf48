import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import carclf
from carclf.data.manifest import read_test
from carclf.model import weights as tensors
from carclf.model.classifier import WEIGHTS
from carclf.train import engine as engines
from carclf.train.loss import one_cycle
from carclf.train.run import FILE as CHECKPOINT

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
        ours, theirs = (load_file(folder / file) for folder in (one, other))
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), key


def test_a_run_leaves_its_records(run, data):
    tables, records = {"history.csv", "steps.csv", "split.csv", "left_out.csv"}, {"recipe.json", "environment.json"}
    assert {p.name for p in run.folder.iterdir()} == tables | records | {"model", CHECKPOINT}
    history = pd.read_csv(run.folder / "history.csv")
    assert history.stage.tolist() == [0, 1, 1]
    assert history.epoch.tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(history, run.history, check_exact=False)
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
    p = run.classifier.probabilities(cache.photos[cache.slots[valid]])
    predicted = np.array(run.classifier.classes)[p.argmax(1)]
    assert (predicted == manifest.brand.to_numpy()[valid]).mean() == pytest.approx(run.history.valid_accuracy.max())
    assert run.classifier.card.training["best_epoch"]["valid_accuracy"] == run.history.valid_accuracy.max()


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_is_the_uninterrupted_run_to_the_last_bit(run, data, tmp_path, stop_after):
    with pytest.raises(KeyboardInterrupt):
        carclf.fit(recipe(), *data, tmp_path, on_epoch=lambda history: len(history) == stop_after and stop())
    resumed = carclf.fit(recipe(), *data, tmp_path)
    timing = ["photos_per_second", "seconds", "memory_mb"]
    pd.testing.assert_frame_equal(resumed.history.drop(columns=timing), run.history.drop(columns=timing))
    assert_equal_weights(run.folder, tmp_path)


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


def test_an_interrupted_run_can_be_used(run, data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing; give the folder that training wrote"):
        carclf.Run.load(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        carclf.fit(recipe(), *data, tmp_path, on_epoch=stop)
    stopped = carclf.Run.load(tmp_path)
    assert len(stopped.history) == 1
    assert stopped.classifier.classes == run.classifier.classes
    pd.testing.assert_frame_equal(carclf.Run.load(run.folder).steps, run.steps)


def test_a_recipe_of_a_run_repeats_it(run, data, tmp_path):
    carclf.fit(carclf.Recipe.load(run.folder), *data, tmp_path)
    assert_equal_weights(run.folder, tmp_path)
    with pytest.raises(ValueError, match=r"is not a recipe of this version.*give the folder of a run"):
        carclf.Recipe.load(tmp_path / "model")


def test_the_trace_of_lrs_is_the_closed_form_of_each_stage(run):
    for number, stage in enumerate(recipe().stages):
        lrs = run.steps.lr[run.steps.stage == number]
        assert lrs.tolist() == [one_cycle(i, len(lrs), stage.max_lr) for i in range(len(lrs))]
    assert run.history.first_lr.iloc[0] == run.steps.lr.iloc[0]
    assert run.history.last_lr.iloc[-1] == run.steps.lr.iloc[-1]


def test_training_leaves_the_callers_random_numbers_alone(data, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    carclf.fit(recipe(stages=STAGES[:1]), *data, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_tracker_gets_every_epoch(data, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = carclf.fit(recipe(), *data, tmp_path / "run", log_with="tensorboard")
    found = events.EventAccumulator(str(tmp_path / "run" / "run")).Reload()
    logged = [event.value for event in found.Scalars("valid_accuracy")]
    assert logged == pytest.approx(run.history.valid_accuracy.tolist())
    with pytest.raises(ValueError, match=r"wand"):
        carclf.fit(recipe(), *data, tmp_path / "other", log_with="wandb")


def test_a_finished_run_is_not_trained_again(run, data, monkeypatch):
    monkeypatch.setattr("carclf.train.fit._train_epoch", lambda *_: pytest.fail("trained"))
    again = carclf.fit(recipe(), *data, run.folder)
    assert len(again.history) == 3


def test_an_interrupted_write_leaves_the_last_checkpoint_intact(run, data, tmp_path, monkeypatch):
    def torn(tensors_, path, *_):
        path.write_bytes(b"half a file")
        raise SafetensorError("I/O error: no space left on device")

    with pytest.raises(KeyboardInterrupt):
        carclf.fit(recipe(), *data, tmp_path, on_epoch=stop)
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "save_file", torn)
        with pytest.raises(OSError, match=r"cannot be written: .*no space left.*free some disk"):
            carclf.fit(recipe(), *data, tmp_path)
    carclf.fit(recipe(), *data, tmp_path)
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


def test_a_run_with_other_settings_is_refused_naming_the_difference(run, data):
    manifest, cache = data
    with pytest.raises(ValueError, match=r"other settings \(recipe.seed: was 0, now 7\); use another folder"):
        carclf.fit(recipe(seed=7), manifest, cache, run.folder)
    other = manifest.assign(brand=manifest.brand.replace({manifest.brand.iloc[0]: "Zenvo"}))
    with pytest.raises(ValueError, match=rf"no longer {manifest.brand.iloc[0]}, new Zenvo"):
        carclf.fit(recipe(), other, cache, run.folder)
    moved = carclf.split(manifest.drop(columns="split"), seed=5)
    with pytest.raises(ValueError, match="the photos or their split have changed"):
        carclf.fit(recipe(), moved, cache, run.folder)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_remedy(data, tmp_path, monkeypatch):
    settings, ordinary = recipe(stages=(("all", 2, 1e-3, 32),)), engines.weighted_loss
    batches = []

    def explodes(logits, *rest):
        batches.append(1)
        return ordinary(logits, *rest) * (float("nan") if len(batches) > 4 else 1)

    monkeypatch.setattr(engines, "weighted_loss", explodes)
    with pytest.raises(ArithmeticError, match=r"the loss is nan.* at stage 1/1 epoch 2/2, step 1, lr .*lower max_lr"):
        carclf.fit(settings, *data, tmp_path)
    monkeypatch.setattr(engines, "weighted_loss", ordinary)
    assert len(carclf.Run.load(tmp_path).history) == 1  # the last good checkpoint stands
    assert len(carclf.fit(settings, *data, tmp_path).history) == 2


def test_data_that_cannot_be_trained_on_is_refused(data, tmp_path):
    manifest, cache = data
    with pytest.raises(ValueError, match=r"no column 'split'.*carclf.split"):
        carclf.fit(recipe(), manifest.drop(columns="split"), cache, tmp_path)
    with pytest.raises(ValueError, match="another manifest"):
        carclf.fit(recipe(), manifest.iloc[:-1], cache, tmp_path)
    with pytest.raises(ValueError, match="0 to validate"):
        carclf.fit(recipe(), manifest.assign(split="train"), cache, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_stage_that_names_no_block_is_refused_before_any_training(data, tmp_path):
    with pytest.raises(ValueError, match=r"unfreeze='layer4' is not a block.*blocks.6"):
        carclf.fit(recipe(stages=(("head", 1, 1e-2, 32), ("layer4", 1, 1e-3, 32))), *data, tmp_path / "run")
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
