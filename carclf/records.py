"""What a run leaves behind for people: recipe, split, environment, a row an epoch and a row a step."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, filter_trackers

from carclf import checkpoints
from carclf.checkpoints import State
from carclf.files import write_text, writing
from carclf.processes import Processes
from carclf.recipes import Recipe

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "pillow")
SAVE_SECONDS = 120  # a killed run loses no more than this of an epoch
TRACE = ("stage", "epoch", "photos", "rate", "loss")


class Records:
    """The files of a run. In all but the main process it writes nothing."""

    def __init__(self, out: Path, recipe: Recipe, processes: Processes, log_with: str | None = None):
        self.out, self.recipe, self.processes = out, recipe, processes
        self.saved = time.monotonic()
        self.trackers = _trackers(log_with, out, recipe) if log_with and processes.is_main else []

    def begin(self, manifest: pd.DataFrame, left_out: pd.DataFrame, state: State) -> None:
        """Write what is known before the first step."""
        if not self.processes.is_main:
            return
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / "split.csv", manifest.to_csv(index=False, lineterminator="\n"))
        _write_table(self.out / "left_out.csv", left_out)
        self.recipe.save(self.out)
        calls = self.out / "environment.json"
        earlier = json.loads(calls.read_text("utf-8")) if state.engine and calls.exists() else []
        write_text(calls, json.dumps([*earlier, _environment(self.recipe, self.processes, state)], indent=1))

    def save(self, state: State, engine: dict) -> None:
        """Write the checkpoint, and the tables that are read from it."""
        self.saved = time.monotonic()
        if not self.processes.is_main:
            return
        checkpoints.save(self.out, state, engine)
        _write_table(self.out / "history.csv", pd.DataFrame(state.history))
        _write_table(self.out / "steps.csv", steps_table(state.trace))

    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for another within the epoch."""
        return time.monotonic() - self.saved > SAVE_SECONDS

    def log(self, row: dict, updates: int) -> None:
        """Hand an epoch's numbers to the trackers."""
        for tracker in self.trackers:
            tracker.log({k: v for k, v in row.items() if not isinstance(v, str)}, step=updates)

    def finish(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.finish()


def steps_table(trace: list[tuple]) -> pd.DataFrame:
    """A row an optimizer step: stage and epoch from 0, photos, learning rate of the head, loss."""
    return pd.DataFrame(trace, columns=TRACE).astype({name: int for name in TRACE[:3]})


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _environment(recipe: Recipe, processes: Processes, state: State) -> dict:
    """What, beside the recipe, a result depends on."""
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
    """The commit of this code, with "+" where files have changed since; None outside a checkout."""
    git = ["git", "-C", os.fspath(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed.stdout.strip())


def _trackers(log_with: str, out: Path, recipe: Recipe) -> list[GeneralTracker]:
    """Accelerate's trackers of this name, such as "tensorboard"; they write beside the run's files."""
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
