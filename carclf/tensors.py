"""Tensors on disk: safetensors files, written whole or not at all, and never executed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from carclf.files import writing


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace a safetensors file at once; the old one stands until the new one is on disk."""
    # In a folder of its own: safetensors writes by way of a file with a random name, which a kill leaves behind.
    part = path.with_name(f"{path.name}.tmp")
    with writing(path):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part / path.name, metadata)
        with (part / path.name).open("r+b") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        (part / path.name).replace(path)
        shutil.rmtree(part, ignore_errors=True)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, copied: no view keeps the file open, so it can be replaced.

    Raises
    ------
    ValueError
        Where the file is torn or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
