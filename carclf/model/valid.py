"""What a model said about its valid photos, kept in its folder: `metrics.prevalence` corrects shares of brands with it.

Only logits, labels and groups; no names of files. So the shares need neither the photos of valid nor the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from carclf.model.weights import read_tensors, write_tensors

FILE = "valid.safetensors"
LARGEST = 6e4  # that float16 holds, about


class Valid(NamedTuple):
    """Photos of valid that were read, of brands that the model knows."""

    logits: np.ndarray  # float32 [n, n_classes], before the temperature; float16 in the file
    labels: np.ndarray  # int [n], numbers of their brands among the classes
    vehicles: np.ndarray  # int [n], the same for photos of one vehicle

    @classmethod
    def of(cls, table: pd.DataFrame, logits: np.ndarray, classes: Sequence[str]) -> Valid | None:
        """From the table and the logits of Scores; None if no photo counts."""
        labels = pd.Index(classes).get_indexer(table["brand"])
        kept = (labels >= 0) & table["predicted"].notna().to_numpy()
        if not kept.any():
            return None
        vehicle = table["vehicle"].astype(object).fillna(table["path"]) if "vehicle" in table else table["path"]
        rounded = logits[kept].clip(-LARGEST, LARGEST).astype(np.float16).astype(np.float32)  # as the file will have it
        return cls(rounded, labels[kept], pd.factorize(vehicle[kept])[0])

    @classmethod
    def load(cls, folder: Path, n_classes: int) -> Valid | None:
        """From a model folder; None if it has no such file, and ValueError if the file cannot belong to the model."""
        if not (folder / FILE).is_file():
            return None
        tensors = read_tensors(folder / FILE)[0]
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        n = max(tensors["labels"].shape, default=0) if "labels" in tensors else 0
        vector = (n,), torch.int32
        if not n or found != {"logits": ((n, n_classes), torch.float16), "labels": vector, "vehicles": vector}:
            wrong = f"it holds {found or 'nothing'}"
        else:
            logits, labels, vehicles = (tensors[name].numpy() for name in cls._fields)
            if np.isfinite(logits).all() and np.isin(labels, range(n_classes)).all():
                return cls(logits.astype(np.float32), labels.astype(int), vehicles.astype(int))
            wrong = f"a logit is not finite, or a label is none of {n_classes} brands"
        raise ValueError(f"{folder / FILE} does not fit card.json ({wrong}); copy all files of one model, or delete it")

    def save(self, folder: Path) -> None:
        """Write the file into a model folder."""
        arrays = {"logits": self.logits.astype(np.float16), "labels": self.labels, "vehicles": self.vehicles}
        tensors = {k: torch.from_numpy(v if k == "logits" else v.astype(np.int32)) for k, v in arrays.items()}
        write_tensors(folder / FILE, tensors)
