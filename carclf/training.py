"""Recipe -> trained model: stages of gradual unfreezing, a OneCycle each, checkpoints on the way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from carclf import checkpoints, devices
from carclf.cache import TensorCache
from carclf.classifier import Card, Classifier
from carclf.dataset import Dataset
from carclf.engine import Engine
from carclf.models import head_name
from carclf.objective import one_cycle
from carclf.processes import Processes
from carclf.recipes import Recipe
from carclf.records import Records, steps_table


@dataclass(frozen=True)
class Run:
    """What `fit` returns, and what `Run.load` finds in a run's folder, also in one that was interrupted.

    Attributes
    ----------
    folder : Path with model/, history.csv, steps.csv, recipe.json, split.csv and environment.json
    history : DataFrame, a row an epoch
    steps : DataFrame, a row an optimizer step: stage, epoch, photos, rate, loss
    classifier : Classifier, the epoch with the best accuracy on valid
    """

    folder: Path
    history: pd.DataFrame
    steps: pd.DataFrame
    classifier: Classifier

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str = "auto") -> Run:
        """Open a run.

        Raises
        ------
        FileNotFoundError
            Where no epoch of it has ended yet.
        """
        folder = Path(folder)
        classifier = Classifier.load(folder / "model", device)
        return cls(folder, pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "steps.csv"), classifier)


@torch.random.fork_rng(devices=[])  # the caller's random numbers stay as they were; of all devices would warn
def fit(
    recipe: Recipe,
    manifest: pd.DataFrame,
    cache: TensorCache,
    out: str | os.PathLike,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
    log_with: str | None = None,
) -> Run:
    """Train, or go on where an earlier call with the same arguments was stopped.

    Parameters
    ----------
    recipe : Recipe
    manifest : DataFrame from `carclf.split`; train is learned, valid chooses the epoch, test is not touched
    cache : TensorCache built from this manifest
    out : folder of the run; with several machines, one that all of them see
    on_epoch : called with the history after each epoch, to draw curves
    log_with : a tracker of Accelerate, such as "tensorboard"

    Raises
    ------
    ValueError
        Where the data cannot be trained on, or the run in `out` was begun with other settings or data.
    ArithmeticError
        Where loss or gradient is no finite number any more; the last checkpoint stands.
    KeyboardInterrupt
        After Ctrl-C; the same call goes on, and `Run.load(out)` gives the best epoch so far.
    """
    out = Path(out)
    processes = Processes.join(recipe.device, recipe.precision)
    data = Dataset.of(manifest, cache, recipe.class_weight)
    devices.preflight(processes.device)
    state = checkpoints.load(out, _identity(recipe, data))
    engine = Engine(recipe, data, processes, state.engine)
    records = Records(out, recipe, processes, log_with)
    records.begin(manifest, data.left_out(manifest), state)
    try:
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
                if on_epoch is not None and processes.is_main:
                    on_epoch(pd.DataFrame(state.history))
            state.stage, state.epoch = state.stage + 1, 0
    except KeyboardInterrupt:
        where = f"stage {state.stage + 1}, epoch {state.epoch + 1}"
        raise KeyboardInterrupt(f"stopped in {where}; call fit again with the same arguments to go on") from None
    finally:
        records.finish()
    processes.wait()  # for the main process to have written the model
    history, steps = pd.DataFrame(state.history), steps_table(state.trace)
    return Run(out, history, steps, Classifier.load(out / "model", recipe.device))


def _train_epoch(engine: Engine, state: checkpoints.State, records: Records) -> dict:
    """What is left of one pass over train; the first columns of its row of the history."""
    stage, number = engine.stage, state.stage
    engine.unfreeze()
    windows = engine.windows(state.epoch)
    first, steps = state.epoch * len(windows), stage.epochs * len(windows)
    title = f"stage {number + 1}/{len(engine.recipe.stages)} epoch {state.epoch + 1}/{stage.epochs}"
    began, seen = time.monotonic(), 0
    bar = tqdm(windows, title, unit="step", leave=False, disable=not engine.processes.is_main)
    bar.update(state.step)
    for step in range(state.step, len(windows)):
        rate = one_cycle(first + step, steps, stage.max_lr)
        try:
            loss = engine.step(windows[step], rate)
        except ArithmeticError as error:
            raise ArithmeticError(
                f"{error} at {title}, step {step}, rate {rate:.2g}; lower max_lr of this stage. "
                "The last checkpoint is whole: the same call goes on from it"
            ) from error
        state.trace.append((number, state.epoch, len(windows[step]), rate, loss))
        state.step = step + 1
        seen += len(windows[step])
        bar.update()
        if records.is_due():
            records.save(state, engine.state_dict())
    bar.close()
    seconds = max(time.monotonic() - began, 1e-9)
    trace = steps_table(state.trace[-len(windows) :])
    row = {"stage": number, "epoch": len(state.history), "unfreeze": stage.unfreeze, "size": stage.size}
    row |= {"first_rate": trace.rate.iloc[0], "last_rate": trace.rate.iloc[-1]}
    row |= {"train_loss": float(np.average(trace.loss, weights=trace.photos))}
    return row | {"photos_per_second": seen / seconds, "seconds": seconds, "memory_mb": engine.device.peak_memory()}


def _validate(engine: Engine) -> dict[str, float]:
    """Loss (unweighted, without smoothing), accuracy and macro recall on valid."""
    logits, labels = engine.logits(), engine.data.labels[engine.data.valid]
    hit = (logits.argmax(1) == labels).float()
    recall = pd.Series(hit.numpy()).groupby(labels.numpy()).mean()
    return {
        "valid_loss": F.cross_entropy(logits, labels).item(),
        "valid_accuracy": hit.mean().item(),
        "valid_macro_recall": float(recall.mean()),
    }


def _save_model(engine: Engine, state: checkpoints.State, out: Path) -> None:
    recipe, data = engine.recipe, engine.data
    head = head_name(recipe.backbone, recipe.head)
    training = {"recipe": asdict(recipe), "train_photos": len(data.train), "best_epoch": state.history[-1]}
    card = Card(recipe.backbone, head, data.classes, engine.stage.size, data.cache.size, training=training)
    Classifier(engine.finished(), card, engine.device.name).save(out / "model")


def _identity(recipe: Recipe, data: Dataset) -> dict:
    """What must not change between the calls that make one run. The device may."""
    rows = "\n".join(f"{s} {data.paths[r]} {data.labels[r]}" for s in ("train", "valid") for r in getattr(data, s))
    settings = json.loads(json.dumps(asdict(recipe)))
    del settings["device"]
    return {
        "recipe": settings,
        "classes": list(data.classes),
        "cache_size": data.cache.size,
        "data": checkpoints.digest(rows),
    }
