"""The state of a training on disk: one safetensors file, replaced atomically."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from carclf.tensors import read_tensors, write_tensors

FILE = "checkpoint.safetensors"
FACTS = ("identity", "stage", "epoch", "step", "history")


@dataclass
class State:
    """Where a training stands.

    Attributes
    ----------
    identity : recipe, classes and data; a run goes on only where they are the same
    stage, epoch, step : the next optimizer step, counted from 0: epochs within the stage, steps within the epoch
    history : one dict an epoch
    trace : one (stage, epoch, photos, rate, loss) an optimizer step
    engine : what `Engine.state_dict` gave, or None at the beginning of a run
    """

    identity: dict
    stage: int = 0
    epoch: int = 0
    step: int = 0
    history: list[dict] = field(default_factory=list)
    trace: list[tuple] = field(default_factory=list)
    engine: dict | None = None


def save(folder: Path, state: State, engine: dict) -> None:
    """Write the checkpoint. There is a whole one on disk at every moment."""
    optimizer = engine["optimizer"]
    tensors = {f"{part}.{k}": v for part in ("model", "average") for k, v in engine[part].items()}
    tensors |= {f"optimizer.{i}.{k}": v for i, slot in optimizer["state"].items() for k, v in slot.items()}
    tensors["trace"] = torch.tensor(state.trace, dtype=torch.float64)
    facts = {name: getattr(state, name) for name in FACTS}
    facts |= {"param_groups": optimizer["param_groups"]}
    facts |= {name: engine[name] for name in ("scaler", "updates", "micro_batch")}
    write_tensors(folder / FILE, tensors, {"state": json.dumps(facts)})


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
        changed = differences(facts["identity"], identity)
        trace = [tuple(row) for row in tensors.pop("trace").tolist()]
        engine = {name: facts[name] for name in ("scaler", "updates", "micro_batch")}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{folder / FILE} cannot be gone on from ({error}); delete it to begin anew") from error
    if changed:
        raise ValueError(
            f"{folder} holds a run that was begun otherwise ({'; '.join(changed)}); "
            "give another folder, or delete this one to begin anew"
        )
    parts: dict[str, dict] = {"model": {}, "average": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    slots: dict[int, dict] = {}
    for key, value in parts["optimizer"].items():
        number, _, name = key.partition(".")
        slots.setdefault(int(number), {})[name] = value
    engine |= {**parts, "optimizer": {"state": slots, "param_groups": facts["param_groups"]}}
    return State(**{name: facts[name] for name in FACTS}, trace=trace, engine=engine)


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
