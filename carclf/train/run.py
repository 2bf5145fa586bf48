"""The folder of a run: the checkpoint it resumes from, and the records it leaves for people."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, filter_trackers

from carclf.data.manifest import parse_table
from carclf.errors import no_such
from carclf.files import write_csv, write_text, writing
from carclf.model.classifier import Classifier
from carclf.model.device import pick
from carclf.model.weights import read_metadata, read_tensors, write_tensors
from carclf.train.differences import CONTENT, changed_settings, differences, photo_changes, recipe_settings
from carclf.train.distributed import Processes
from carclf.train.recipe import Recipe, current_settings

FILE = "checkpoint.safetensors"
FACTS = ("identity", "stage", "epoch", "step", "history")
ENGINE_FACTS = ("scaler", "updates", "micro_batch")
TRACE = ("stage", "epoch", "photos", "lr", "loss")
RENAMED = {"rate": "lr", "first_rate": "first_lr", "last_rate": "last_lr"}  # columns of version 0.1
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "pillow")
SAVE_SECONDS = 120  # a killed run loses no more than this of an epoch
ANOTHER = "use another folder, or delete this one to start over"


@dataclass(frozen=True)
class Run:
    """What `fit` returns, and what `Run.load` finds in a run's folder, even if the run was interrupted."""

    folder: Path  # with model/, history.csv, steps.csv, recipe.json, split.csv and environment.json
    history: pd.DataFrame  # a row per epoch
    steps: pd.DataFrame  # a row per optimizer step, as `steps_table` gives it
    classifier: Classifier  # of the epoch with the best accuracy on valid

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str = "auto") -> Run:
        """Open a run; raises FileNotFoundError if no epoch of it has finished yet."""
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{no_such(folder)}; give the folder of a run")
        if not (folder / "model").is_dir():
            missing = "holds no model yet: `fit` writes it after the first epoch; call it, or give the folder of a run"
            raise FileNotFoundError(f"{folder} {missing}")
        classifier = Classifier.load(folder / "model", device)
        history, steps = (pd.read_csv(folder / f"{name}.csv").rename(columns=RENAMED) for name in ("history", "steps"))
        return cls(folder, history, steps, classifier)


def check_run(recipe: Recipe, run_folder: str | os.PathLike) -> None:
    """Refuse a recipe that cannot run here or cannot continue the run in this folder, before any photo is decoded.

    Raises
    ------
    ValueError
        If the folder holds a run with other settings, naming each; if it cannot be a folder; or if the device is not
        available.
    """
    if recipe.device != "auto":  # "auto" is found later, in each process
        pick(recipe.device, "float32")
    folder = Path(run_folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the run a folder of its own")
    if not (folder / FILE).exists():
        return
    try:
        old = json.loads(read_metadata(folder / FILE)["state"])["identity"]["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot resume from {folder / FILE} ({error}); delete it to start over") from error
    if changed := changed_settings(current_settings(old), recipe_settings(recipe)):
        raise ValueError(f"{folder} holds a run with other settings: {'; '.join(changed)}; {ANOTHER}")


@dataclass
class State:
    """Progress of a training."""

    identity: dict  # recipe, classes and data; a run resumes only if they are the same
    stage: int = 0  # of the next optimizer step
    epoch: int = 0  # within the stage
    step: int = 0  # within the epoch
    history: list[dict] = field(default_factory=list)  # a dict per epoch
    trace: list[tuple] = field(default_factory=list)  # (stage, epoch, photos, lr, loss) per optimizer step
    engine: dict | None = None  # `Engine.state_dict()` of the checkpoint

    def is_finished(self, recipe: Recipe) -> bool:
        """Whether nothing is left to train."""
        return (self.stage, self.epoch) >= (len(recipe.stages) - 1, recipe.stages[-1].epochs)


class Records:
    """The files of a run. Only the main process writes them."""

    def __init__(self, out: Path, recipe: Recipe, processes: Processes):
        self.out, self.recipe, self.processes = out, recipe, processes
        self.trackers: list[GeneralTracker] = []
        self.saved = time.monotonic()

    def resume(self, identity: dict, manifest: pd.DataFrame) -> State:
        """The state of the last checkpoint, or a new one if there is none.

        Photos that were moved together are the same; those with other content give a warning.

        Raises
        ------
        ValueError
            If the run has another recipe, other classes or other data, naming the difference; or if the checkpoint
            cannot be read.
        """
        path = self.out / FILE
        if not path.exists():
            return State(identity)
        try:
            tensors, metadata = read_tensors(path)
            facts = json.loads(metadata["state"])
            old = facts["identity"]
            photos = self._photo_changes(manifest)
            changed = differences(old, identity, photos)
            trace = [tuple(row) for row in tensors.pop("trace").tolist()]
            history = [{RENAMED.get(k, k): v for k, v in row.items()} for row in facts["history"]]
            engine = {name: facts[name] for name in ENGINE_FACTS}
            groups = facts["param_groups"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"cannot resume from {path} ({error}); delete it to start over") from error
        state = State(identity, facts["stage"], facts["epoch"], facts["step"], history, trace)
        finished = state.is_finished(self.recipe)
        run = f"{self.out} holds a{' finished' * finished} run"
        if changed:
            kind = "on other" if changed[0].startswith("photos") else "with other settings:"
            raise ValueError(f"{run} {kind} {'; '.join(changed)}; {ANOTHER}")
        if (content := photos.get(CONTENT)) and self.processes.is_main:
            then = "its model has not seen them" if finished else "it continues with the photos as they are now"
            warnings.warn(
                f"{run}, and {content:,} of its photos have another content now; {then}. To train again, {ANOTHER}",
                stacklevel=4,
            )
        parts: dict[str, dict] = {"model": {}, "average": {}}
        slots: dict[int, dict] = {}
        for key, value in tensors.items():
            part, name = key.split(".", 1)
            if part == "optimizer":
                number, name = name.split(".", 1)
                slots.setdefault(int(number), {})[name] = value
            else:
                parts[part][name] = value
        state.engine = engine | parts | {"optimizer": {"state": slots, "param_groups": groups}}
        return state

    def begin(self, manifest: pd.DataFrame, left_out: pd.DataFrame, state: State, log_with: str | None) -> None:
        """Write what is known before the first step, and start the trackers."""
        if not self.processes.is_main:
            return
        self.trackers = _trackers(log_with, self.out, self.recipe) if log_with else []
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        write_csv(manifest, self.out / "split.csv")
        write_csv(left_out, self.out / "left_out.csv")
        self.recipe.save(self.out)
        calls = self.out / "environment.json"
        earlier = json.loads(calls.read_text("utf-8")) if state.engine and calls.exists() else []
        write_text(calls, json.dumps([*earlier, _environment(self.recipe, self.processes, state)], indent=1))

    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another one within the epoch."""
        return time.monotonic() - self.saved > SAVE_SECONDS

    def save(self, state: State, engine: dict) -> None:
        """Replace the checkpoint atomically with this state and `Engine.state_dict()`, and write the tables."""
        self.saved = time.monotonic()
        if not self.processes.is_main:
            return
        optimizer = engine["optimizer"]
        tensors = {f"{part}.{k}": v for part in ("model", "average") for k, v in engine[part].items()}
        tensors |= {f"optimizer.{i}.{k}": v for i, slot in optimizer["state"].items() for k, v in slot.items()}
        tensors["trace"] = torch.tensor(state.trace, dtype=torch.float64)
        facts = {name: getattr(state, name) for name in FACTS} | {name: engine[name] for name in ENGINE_FACTS}
        facts["param_groups"] = optimizer["param_groups"]
        write_tensors(self.out / FILE, tensors, {"state": json.dumps(facts)})
        write_csv(pd.DataFrame(state.history), self.out / "history.csv")
        write_csv(steps_table(state.trace), self.out / "steps.csv")

    def log(self, row: dict, updates: int) -> None:
        """Pass an epoch's numbers to the trackers."""
        for tracker in self.trackers:
            tracker.log({k: v for k, v in row.items() if not isinstance(v, str)}, step=updates)

    def finish(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.finish()

    def _photo_changes(self, manifest: pd.DataFrame) -> dict[str, int]:
        try:
            return photo_changes(parse_table(self.out / "split.csv"), manifest)
        except (OSError, ValueError):
            return {}


def steps_table(trace: list[tuple]) -> pd.DataFrame:
    """A row per optimizer step: stage and epoch (both from 0), photos, lr (of the head), loss."""
    return pd.DataFrame(trace, columns=list(TRACE)).astype({name: int for name in TRACE[:3]})


def digest(text: str) -> str:
    """Short fingerprint of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _environment(recipe: Recipe, processes: Processes, state: State) -> dict:
    """What a result depends on, besides the recipe."""
    return {
        "began": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "from": {"stage": state.stage, "epoch": state.epoch, "step": state.step},
        "seed": recipe.seed,
        "data": state.identity["data"],
        "git": git_revision(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "hardware": processes.device.describe(),
        "precision": str(processes.device.dtype).removeprefix("torch."),
        "processes": processes.count,
        "threads": torch.get_num_threads(),
    }


def git_revision() -> str | None:
    """The commit of this code, with "+" if files have changed since; None outside a checkout."""
    git = ["git", "-C", os.fspath(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed.stdout.strip())


def _trackers(log_with: str, out: Path, recipe: Recipe) -> list[GeneralTracker]:
    """Accelerate's trackers of this name, such as "tensorboard"; they write into the run's folder."""
    PartialState()  # they ask it whether this is the main process
    kinds = [LOGGER_TYPE_TO_CLASS[str(kind)] for kind in filter_trackers(log_with, out)]
    if not kinds:
        raise ValueError(f"log_with={log_with!r} is not installed; pip install {log_with}, or leave log_with out")
    folder = {"logging_dir": out}
    trackers = [kind(out.name, **(folder if kind.requires_logging_directory else {})) for kind in kinds]
    settings = {k: v if isinstance(v, (int, float, str)) else json.dumps(v) for k, v in asdict(recipe).items()}
    for tracker in trackers:
        if hasattr(tracker, "start"):  # older versions start when they are made
            tracker.start()
        tracker.store_init_configuration(settings)
    return trackers
