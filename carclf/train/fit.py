"""Train a recipe on a manifest; and what different splits do to the score of the same short training."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from carclf.data.cache import TensorCache
from carclf.data.manifest import usable
from carclf.data.splits import leakage, model_key, split
from carclf.deprecated import renamed_arguments
from carclf.errors import did_you_mean
from carclf.metrics.scores import compute_metrics
from carclf.model.backbones import head_name
from carclf.model.card import Card
from carclf.model.classifier import Classifier
from carclf.train.batches import Dataset
from carclf.train.checks import check_outcome, check_plan
from carclf.train.differences import below, recipe_settings
from carclf.train.distributed import Processes
from carclf.train.engine import Engine
from carclf.train.loss import one_cycle, preflight
from carclf.train.recipe import Recipe, Stage
from carclf.train.run import Records, Run, State, digest, steps_table

EPOCHS = 20  # of `score_splits`; the head alone trains, on features that are computed once
WAYS = {"photo": "by photo", "vehicle": "by vehicle", "model": "by model"}


@torch.random.fork_rng(devices=[])  # keeps the caller's random numbers; all devices would give a warning
def fit(
    recipe: Recipe,
    manifest: pd.DataFrame,
    cache: TensorCache,
    out: str | os.PathLike,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
    log_with: str | None = None,
) -> Run:
    """Train, or continue where an earlier call with the same arguments stopped.

    Parameters
    ----------
    recipe : Recipe
    manifest : DataFrame from `carclf.split`; train is learned, valid chooses the epoch, test is not touched
    cache : TensorCache built from this manifest
    out : folder of the run; with several machines, one that all of them see
    on_epoch : called with the history after each epoch, to draw curves; at first with that of an earlier call
    log_with : a tracker of Accelerate, such as "tensorboard"

    Raises
    ------
    ValueError
        If the data cannot be trained on, or the run in `out`, finished or not, has other settings or photos; if a stage
        needs more memory than a CPU has.
    ArithmeticError
        If loss or gradient is no longer finite. The same call would end there again.
    KeyboardInterrupt
        After Ctrl-C; the same call continues, and `Run.load(out)` gives the best epoch so far.
    """
    out = Path(out)
    processes = Processes.join(recipe.device, recipe.precision)
    data = Dataset.of(manifest, cache, recipe.class_weight)
    preflight(processes.device)
    records = Records(out, recipe, processes)
    state = records.resume(_identity(recipe, data), manifest)
    engine = Engine(recipe, data, processes, state.engine)
    if not (finished := state.is_finished(recipe)):
        check_plan(engine, resumed=state.engine is not None)
        records.begin(manifest, data.left_out(manifest), state, log_with)
    show = on_epoch if on_epoch is not None and processes.is_main else lambda history: None
    try:
        if state.history:  # of an earlier call
            show(pd.DataFrame(state.history))
        while state.stage < len(recipe.stages):
            engine.begin(state.stage)
            while state.epoch < engine.stage.epochs:
                row = _train_epoch(engine, state, records) | _validate(engine)
                state.history.append(row)
                if processes.is_main and row["valid_accuracy"] >= max(h["valid_accuracy"] for h in state.history):
                    _save_model(engine, state, out)
                state.epoch, state.step = state.epoch + 1, 0
                records.save(state, engine.state_dict())
                records.log(row, engine.updates)
                show(pd.DataFrame(state.history))
            state.stage, state.epoch = state.stage + 1, 0
    except KeyboardInterrupt:
        where = f"stage {state.stage + 1}, epoch {state.epoch + 1}"
        raise KeyboardInterrupt(f"stopped in {where}; call fit again with the same arguments to continue") from None
    finally:
        records.finish()
    processes.wait()  # until the main process has written the model
    history = pd.DataFrame(state.history)
    if processes.is_main and not finished:
        check_outcome(recipe, history, len(data.train), len(data.valid))
    return Run(out, history, steps_table(state.trace), Classifier.load(out / "model", recipe.device))


def _train_epoch(engine: Engine, state: State, records: Records) -> dict:
    """The rest of one pass over train; returns the first columns of its row of the history."""
    stage, number = engine.stage, state.stage
    engine.unfreeze()
    batches = engine.batches(state.epoch)
    first, steps = state.epoch * len(batches), stage.epochs * len(batches)
    title = f"stage {number + 1}/{len(engine.recipe.stages)} epoch {state.epoch + 1}/{stage.epochs}"
    began, seen = time.monotonic(), 0
    bar = tqdm(batches, title, unit="step", leave=False, delay=1, **engine.processes.bar)
    bar.update(state.step)
    for step in range(state.step, len(batches)):
        lr = one_cycle(first + step, steps, stage.max_lr)
        try:
            loss = engine.step(batches[step], lr)
        except ArithmeticError as error:
            raise ArithmeticError(f"{error} at {title}, step {step}, lr {lr:.2g}; {_remedy(engine)}") from error
        state.trace.append((number, state.epoch, len(batches[step]), lr, loss))
        state.step = step + 1
        seen += len(batches[step])
        bar.update()
        if records.is_due():
            records.save(state, engine.state_dict())
    bar.close()
    seconds = max(time.monotonic() - began, 1e-9)
    trace = steps_table(state.trace[-len(batches) :])
    return {
        "stage": number,
        "epoch": len(state.history),
        "unfreeze": stage.unfreeze,
        "size": stage.size,
        "first_lr": trace.lr.iloc[0],
        "last_lr": trace.lr.iloc[-1],
        "train_loss": float(np.average(trace.loss, weights=trace.photos)),
        "photos_per_second": seen / seconds,
        "seconds": seconds,
        "memory_mb": engine.device.peak_memory(),
    }


def _remedy(engine: Engine) -> str:
    """What helps against a loss that is no number; the same settings would lead there again."""
    lower = f"a lower max_lr in this stage, such as {min(1e-3, engine.stage.max_lr / 10):g}"
    ways = [lower if engine.updates else "other weights"]  # before the first update no learning rate is to blame
    if engine.device.dtype != torch.float32:
        ways.append("precision='float32'")
    return f"train again in another folder with {' or '.join(ways)}"


def _validate(engine: Engine) -> dict[str, float]:
    """Loss (without weights and smoothing), accuracy and macro recall on valid."""
    logits, labels = engine.logits(), engine.data.labels[engine.data.valid]
    hit = (logits.argmax(1) == labels).float()
    recall = pd.Series(hit.numpy()).groupby(labels.numpy()).mean()
    return {
        "valid_loss": F.cross_entropy(logits, labels).item(),
        "valid_accuracy": hit.mean().item(),
        "valid_macro_recall": float(recall.mean()),
    }


def _save_model(engine: Engine, state: State, out: Path) -> None:
    recipe, data = engine.recipe, engine.data
    head = head_name(recipe.backbone, recipe.head)
    training = {"recipe": asdict(recipe), "train_photos": len(data.train), "best_epoch": state.history[-1]}
    card = Card(recipe.backbone, head, data.classes, engine.stage.size, data.cache.size, training=training)
    Classifier(engine.network, card, engine.device.name).save(out / "model")


def _identity(recipe: Recipe, data: Dataset) -> dict:
    """What must be the same in all calls that make up one run. The device may change."""

    def rows(paths: Sequence[str]) -> str:
        parts = (("train", data.train), ("valid", data.valid))
        return digest("\n".join(f"{s} {paths[r]} {data.labels[r]}" for s, part in parts for r in part))

    return {
        "recipe": recipe_settings(recipe),
        "classes": list(data.classes),
        "cache_size": data.cache.size,
        "data": rows(data.paths.tolist()),
        "names": rows(below(data.paths)),  # the same if all photos were moved together
    }


@renamed_arguments(wholes="group_by")
def score_splits(
    recipe: Recipe, manifest: pd.DataFrame, cache: TensorCache, group_by: Sequence[str] = ("photo", "vehicle")
) -> pd.DataFrame:
    """Train the head alone on each split and score it on valid: one method, several numbers.

    The head trains for 20 epochs, whatever the recipe's stages: on features that are computed once this takes seconds,
    and the comparison is about splits, not about the best result. Ways to split that are the same, as where every
    vehicle has one photo, are trained once and share a row.

    Parameters
    ----------
    recipe : its backbone, seed, device and first photo size are used
    manifest, cache : as for `fit`; photos that it marks as test are neither learned nor scored
    group_by : what `carclf.split` keeps together, for each row: of "photo", "vehicle" and "model"

    Returns
    -------
    DataFrame, a row per split and indexed by it, with the columns photos (of valid), with_sibling_in_train (share of
    them, 0 to 1, with a photo of the same vehicle in train), accuracy, low and high (95 % interval over vehicles);
    `attrs["note"]` says what was trained, and which ways are the same
    """
    if wrong := [way for way in group_by if way not in WAYS]:
        raise ValueError(f"group_by={wrong[0]!r} must be one of: {', '.join(WAYS)}{did_you_mean(wrong[0], WAYS)}")
    stage = Stage("head", EPOCHS, 3e-3, recipe.stages[0].size)
    note = f"only the head is trained, {EPOCHS} epochs at {stage.size} pixels, whatever the recipe's stages"
    short = replace(recipe, stages=(stage,), head_views=1)  # a second view would double the time
    if "split" in manifest:
        manifest = manifest.assign(
            problem=manifest.problem.astype(object).mask(manifest.split == "test", "kept for the test")
        )
    alike, rows = _alike(manifest, group_by), []
    bar = tqdm(total=EPOCHS * len(alike), desc="compare splits", unit="epoch", leave=False)
    for ways in alike:
        name = " or ".join(WAYS[way] for way in ways)
        if len(ways) > 1:
            note += f"; {name} is the same here, as every {ways[0]} is another {ways[-1]}, and is trained once"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "brands with fewer than 3")  # the user's own split has said so
            divided = split(manifest, seed=recipe.seed, group_by=ways[0])
        try:
            with TemporaryDirectory() as folder:
                classifier = fit(short, divided, cache, folder, on_epoch=lambda _: bar.update()).classifier
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the comparison of splits starts over when it is called again") from None
        metrics = compute_metrics(
            classifier.predict(divided[divided.split == "valid"]), classes=classifier.classes, seed=recipe.seed
        )
        scored = divided.assign(split=divided.split.map({"train": "train", "valid": "test"}))
        row = {"split": name, "photos": metrics["n"]}
        row |= {"with_sibling_in_train": leakage(scored).share["vehicle"], "accuracy": metrics["accuracy"]}
        rows.append(row | {"low": metrics["accuracy_low"], "high": metrics["accuracy_high"]})
    bar.close()
    columns = ["split", "photos", "with_sibling_in_train", "accuracy", "low", "high"]
    scores = pd.DataFrame(rows, columns=columns).set_index("split")
    scores.attrs["note"] = note
    return scores


def _alike(manifest: pd.DataFrame, group_by: Sequence[str]) -> list[list[str]]:
    """The ways to split, those together that keep the same photos together."""
    photos = usable(manifest)
    keys = {"photo": photos.path, "vehicle": photos.vehicle, "model": model_key(photos)}
    found: dict[tuple, list[str]] = {}
    for way in group_by:  # numbers in order of appearance are equal where the groups are
        found.setdefault(tuple(pd.factorize(keys[way])[0]), []).append(way)
    return list(found.values())
