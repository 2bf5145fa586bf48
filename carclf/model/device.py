"""Which device, which precision, which memory layout."""

from __future__ import annotations

import importlib
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import memory_format as MemoryFormat  # `Device.torch` hides torch in the annotations below
from torch.amp import GradScaler

KINDS = ("cuda", "xpu", "mps", "directml", "cpu")  # best first
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BFLOAT16_UNITS = ("amx_tile", "avx512_bf16")  # of CPUs; training is 1.1 to 2.7 times as fast as in float32
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "could not allocate tensor")


@dataclass(frozen=True)
class Device:
    """Where and how to compute. Make one with `pick`."""

    name: str  # one of `KINDS`, or with a number such as "cuda:1"
    dtype: torch.dtype  # float32, or bfloat16 or float16 if the hardware is faster with it

    @property
    def kind(self) -> str:
        """The name without a number."""
        return self.name.partition(":")[0]

    @property
    def torch(self) -> torch.device:
        """The torch.device."""
        if self.kind == "directml":
            number = self.name.partition(":")[2]
            return _directml().device(int(number)) if number else _directml().device()
        return torch.device(self.name)

    @property
    def memory_format(self) -> MemoryFormat:
        """Channels last if convolutions are faster with it."""
        return torch.contiguous_format if self.kind in ("mps", "directml") else torch.channels_last

    @property
    def foreach(self) -> bool | None:
        """For torch's optimizers: None lets them choose, False avoids operations on lists, which go wrong there."""
        return False if self.kind == "directml" else None

    def autocast(self) -> AbstractContextManager:
        """Context in which convolutions and products run in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.torch.type, dtype=self.dtype)

    def scaler(self) -> GradScaler:
        """Scales the loss so that small gradients survive in float16; does nothing in other precisions."""
        return GradScaler(self.kind, enabled=self.dtype == torch.float16)

    def peak_memory(self) -> int:
        """Megabytes: the peak on a CUDA device; on others what this process holds now."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.torch) // 10**6
        return psutil.Process().memory_info().rss // 10**6

    def describe(self) -> str:
        """The hardware as text, for the records of a run."""
        if self.kind == "cuda":
            return torch.cuda.get_device_name(self.torch)
        processor = platform.processor() or platform.machine()
        return f"{self.kind}, {processor}, {psutil.cpu_count(logical=False)} cores, {torch.get_num_threads()} threads"

    def __str__(self) -> str:
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}"


def pick(name: str = "auto", precision: str = "auto") -> Device:
    """Choose a device and its precision.

    Parameters
    ----------
    name : str
        "auto" takes the first of CUDA (which is also AMD's ROCm), XPU, MPS, DirectML (AMD and Intel on Windows) and CPU
        that is available; or a device's own name.
    precision : str
        "float32", "bfloat16", "float16", or "auto": bfloat16 if the hardware computes it, float16 on CUDA cards that
        have only this (compute capability 7.0 and 7.5), else float32.

    Raises
    ------
    ValueError
        For a device that is not available, or a precision that DirectML gets wrong.
    """
    found = [kind for kind in KINDS if _available(kind)]
    if name == "auto":
        name = found[0]
    elif name.split(":")[0] not in found:
        raise ValueError(f"device {name!r} is not available; choose 'auto' or one of: {', '.join(found)}")
    device = Device(name, PRECISIONS.get(precision) or _fast_dtype(name.split(":")[0]))
    if device.kind == "directml" and device.dtype != torch.float32:
        raise ValueError(f"precision={precision!r} goes wrong on DirectML; choose 'auto' or 'float32'")
    return device


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch says that the device's memory is full."""
    known = isinstance(error, torch.cuda.OutOfMemoryError)  # newer versions raise it for every device
    return known or (isinstance(error, RuntimeError) and any(m in str(error).lower() for m in OUT_OF_MEMORY))


def _available(kind: str) -> bool:
    if kind == "xpu":
        return hasattr(torch, "xpu") and torch.xpu.is_available()
    if kind == "directml":
        return _directml() is not None and _directml().is_available()
    return {"cuda": torch.cuda, "mps": torch.backends.mps, "cpu": torch.cpu}[kind].is_available()


def _directml() -> Any:
    """The module torch_directml, or None."""
    try:
        return importlib.import_module("torch_directml")
    except (ImportError, OSError):  # OSError if it is installed without DirectX
        return None


def _fast_dtype(kind: str) -> torch.dtype:
    """The precision that is computed in hardware; emulated, a shorter one is slower than float32."""
    if kind == "cuda":
        capability = torch.cuda.get_device_capability()
        return torch.bfloat16 if capability >= (8, 0) else torch.float16 if capability >= (7, 0) else torch.float32
    if kind == "cpu":
        found = (getattr(torch.cpu, f"_is_{unit}_supported", lambda: False)() for unit in BFLOAT16_UNITS)
        return torch.bfloat16 if any(found) else torch.float32
    return torch.bfloat16 if kind == "xpu" else torch.float32
