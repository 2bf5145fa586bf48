"""Which device, which precision, which memory layout."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """Where and how to compute. Make one with `pick`.

    Attributes
    ----------
    name : "cpu", "cuda", "mps", "xpu", or with a number such as "cuda:1"
    dtype : torch.float32, or torch.bfloat16 where the hardware is faster with it
    """

    name: str
    dtype: torch.dtype

    @property
    def torch(self) -> torch.device:
        """The torch.device."""
        return torch.device(self.name)

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last where convolutions are faster with it."""
        return torch.contiguous_format if self.name.startswith("mps") else torch.channels_last

    def autocast(self) -> AbstractContextManager:
        """Context in which convolutions and products run in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.torch.type, dtype=self.dtype)

    def __str__(self) -> str:
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}"


def pick(name: str = "auto") -> Device:
    """Choose a device and its precision.

    Parameters
    ----------
    name : "auto" takes CUDA (which is also AMD's ROCm), then XPU, then MPS, then the CPU; or a device's own name

    Raises
    ------
    ValueError
        For a device this machine does not have, naming those it has.
    """
    found = _available()
    if name == "auto":
        name = found[0]
    elif name.split(":")[0] not in found:
        raise ValueError(f"device {name!r} is not to be had here; choose 'auto' or one of: {', '.join(found)}")
    return Device(name, torch.bfloat16 if _fast_bfloat16(name.split(":")[0]) else torch.float32)


def _available() -> list[str]:
    """Kinds of devices, best first."""
    kinds = []
    if torch.cuda.is_available():
        kinds.append("cuda")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        kinds.append("xpu")
    if torch.backends.mps.is_available():
        kinds.append("mps")
    return [*kinds, "cpu"]


def _fast_bfloat16(kind: str) -> bool:
    """Whether bfloat16 is computed in hardware; emulated, it is slower than float32."""
    if kind == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if kind == "cpu":
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        return has_amx()
    return kind == "xpu"
