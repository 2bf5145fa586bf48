"""Tensors on disk: safetensors files, written whole or not at all, and never executed."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from carclf.files import replacing


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace a safetensors file at once; the old one stands until the new one is on disk."""
    with replacing(path) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, metadata)
        with part.open("r+b") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())


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
