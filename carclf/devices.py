"""Which device, which precision, which memory layout; and whether it computes gradients rightly."""

from __future__ import annotations

import importlib
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from carclf.objective import weighted_loss

KINDS = ("cuda", "xpu", "mps", "directml", "cpu")  # best first
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TRUSTED = ("cuda", "cpu")  # of the others, one step's gradients are compared with the CPU's before training
BFLOAT16_UNITS = ("amx_tile", "avx512_bf16")  # of processors; training is 1.1 to 2.7 times as fast as in float32
TOLERANCE = 1e-3  # relative, of float32 on another device: different orders of summation stay far below
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "could not allocate tensor")


@dataclass(frozen=True)
class Device:
    """Where and how to compute. Make one with `pick`.

    Attributes
    ----------
    name : one of `KINDS`, or with a number such as "cuda:1"
    dtype : torch.float32, or torch.bfloat16 or torch.float16 where the hardware is faster with it
    """

    name: str
    dtype: torch.dtype

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
    def memory_format(self) -> torch.memory_format:
        """Channels last where convolutions are faster with it."""
        return torch.contiguous_format if self.kind in ("mps", "directml") else torch.channels_last

    @property
    def foreach(self) -> bool | None:
        """For torch's optimizers: None is their own choice, False where operations on lists go wrong."""
        return False if self.kind == "directml" else None

    def autocast(self) -> AbstractContextManager:
        """Context in which convolutions and products run in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.torch.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss so that small gradients survive in float16; elsewhere it does nothing."""
        return torch.amp.GradScaler(self.kind, enabled=self.dtype == torch.float16)

    def peak_memory(self) -> int:
        """Megabytes: the most that was held on a CUDA device, elsewhere what this process holds now."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.torch) // 10**6
        return psutil.Process().memory_info().rss // 10**6

    def describe(self) -> str:
        """The hardware in words, for the records of a run."""
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
    name : "auto" takes the first of CUDA (which is also AMD's ROCm), XPU, MPS, DirectML (AMD and Intel on Windows)
        and CPU that this machine has; or a device's own name
    precision : "auto", "float32", "bfloat16" or "float16"
        "auto" is bfloat16 where that is computed in hardware, float16 on CUDA cards that have only this
        (compute capability 7.0 and 7.5), else float32

    Returns
    -------
    Device

    Raises
    ------
    ValueError
        For a device this machine does not have, naming those it has, or a precision that DirectML gets wrong.
    """
    found = [kind for kind in KINDS if _available(kind)]
    if name == "auto":
        name = found[0]
    elif name.split(":")[0] not in found:
        raise ValueError(f"device {name!r} is not to be had here; choose 'auto' or one of: {', '.join(found)}")
    device = Device(name, PRECISIONS.get(precision) or _fast_dtype(name.split(":")[0]))
    if device.kind == "directml" and device.dtype != torch.float32:
        raise ValueError(f"precision={precision!r} goes wrong on DirectML; choose 'auto' or 'float32'")
    return device


def preflight(device: Device) -> None:
    """Refuse a device on which one small training step differs from the CPU's.

    A convolution, BatchNorm and the loss of training; DirectML is known to return right losses with gradients of
    exactly zero (DirectML#739, #740), and nothing would be learned without any error.

    Raises
    ------
    RuntimeError
        Naming what differs and by how much.
    """
    if device.kind in TRUSTED:
        return
    expected, found = _small_step(torch.device("cpu"), nullcontext()), _small_step(device.torch, nullcontext())
    for name, reference in expected.items():
        difference = (found[name] - reference).norm() / reference.norm().clamp_min(1e-12)
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"{device.name} computes the {name} wrongly: {difference:.1%} away from the CPU's. Training on it "
                "would not learn; choose device='cpu', or another version of its driver and of torch"
            )


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch says that the device's memory is full."""
    known = isinstance(error, torch.cuda.OutOfMemoryError)  # of CUDA, and of every device in newer versions
    return known or (isinstance(error, RuntimeError) and any(m in str(error).lower() for m in OUT_OF_MEMORY))


def _small_step(device: torch.device, context: AbstractContextManager) -> dict[str, torch.Tensor]:
    """Loss, gradients and BatchNorm statistics of one step, float32 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    model.to(device)
    x, labels = torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 5
    with context:
        loss = weighted_loss(model(x.to(device)), labels.to(device), torch.full((8,), 1 / 8).to(device), 0.1)
    loss.backward()
    found = {"loss": loss.detach().cpu()}
    found |= {f"gradient of {name}": p.grad.cpu() for name, p in model.named_parameters() if name != "0.bias"}
    return found | {f"BatchNorm's {n}": b.cpu() for n, b in model.named_buffers() if b.is_floating_point()}


def _available(kind: str) -> bool:
    if kind == "xpu":
        return hasattr(torch, "xpu") and torch.xpu.is_available()
    if kind == "directml":
        return _directml() is not None and _directml().is_available()
    return {"cuda": torch.cuda, "mps": torch.backends.mps, "cpu": torch.cpu}[kind].is_available()


def _directml():
    """The module torch_directml, or None."""
    try:
        return importlib.import_module("torch_directml")
    except (ImportError, OSError):  # OSError where it is installed and there is no DirectX
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
