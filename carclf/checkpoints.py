"""The state of a training on disk: one safetensors file, replaced atomically after each epoch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from carclf.files import write_text
from carclf.tensors import read_tensors, write_tensors

FILE = "checkpoint.safetensors"


@dataclass
class State:
    """Where a training stands.

    Attributes
    ----------
    identity : recipe, classes and data; a run goes on only where they are the same
    stage, epoch : the next epoch to train, and its stage, counted from 0
    history : one dict an epoch
    model, optimizer : state dicts, or None at the beginning of a run and of a stage
    """

    identity: dict
    stage: int = 0
    epoch: int = 0
    history: list[dict] = field(default_factory=list)
    model: dict[str, torch.Tensor] | None = None
    optimizer: dict | None = None


def save(folder: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint and history.csv. There is a whole checkpoint on disk at every moment."""
    saved = optimizer.state_dict()
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"optimizer.{i}.{k}": v for i, slot in saved["state"].items() for k, v in slot.items()}
    facts = {k: getattr(state, k) for k in ("identity", "stage", "epoch", "history")}
    facts["param_groups"] = saved["param_groups"]
    write_tensors(folder / FILE, tensors, {"state": json.dumps(facts)})
    write_text(folder / "history.csv", pd.DataFrame(state.history).to_csv(index=False, lineterminator="\n"))


def load(folder: Path, identity: dict) -> State:
    """The last checkpoint of a run, or a fresh state where there is none.

    Raises
    ------
    ValueError
        Where the run was begun with another recipe, other classes or other data, naming the difference; or where
        the checkpoint cannot be read.
    """
    if not (folder / FILE).exists():
        return State(identity)
    try:
        tensors, metadata = read_tensors(folder / FILE)
        facts = json.loads(metadata["state"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{folder / FILE} cannot be gone on from ({error}); delete it to begin anew") from error
    changed = differences(facts["identity"], identity)
    if changed:
        raise ValueError(
            f"{folder} holds a run that was begun otherwise ({'; '.join(changed)}); "
            "give another folder, or delete this one to begin anew"
        )
    slots: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".", 2)
            slots.setdefault(int(i), {})[name] = value
    return State(
        **{k: facts[k] for k in ("identity", "stage", "epoch", "history")},
        model={k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")},
        optimizer={"state": slots, "param_groups": facts["param_groups"]},
    )


def digest(text: str) -> str:
    """Short fingerprint of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Human-readable list of what differs between two nested dicts."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif key == "classes" and a != b:
            gone, added = sorted(set(a) - set(b)), sorted(set(b) - set(a))
            found.append(f"classes: no longer {', '.join(gone) or 'none'}, new {', '.join(added) or 'none'}")
        elif key == "data" and a != b:
            found.append("the photos or their split have changed")
        elif a != b:
            found.append(f"{prefix}{key}: was {a}, is {b}")
    return found
