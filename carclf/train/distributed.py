"""One process or several, on one machine or several: who does which part, and sums over all of them.

`accelerate launch` and `notebook_launcher` start the processes. Each computes for itself what must be equal in all
(weights, optimizer, order of the photos), so only sums are exchanged.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import distributed, nn

from carclf.model.device import Device, pick

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among all of them. Make one with `join`."""

    count: int
    rank: int  # of this one, from 0
    device: Device  # of this one

    @classmethod
    def join(cls, device: str = "auto", precision: str = "auto") -> Processes:
        """Find the other processes if a launcher has started several.

        Parameters
        ----------
        device, precision : as for `carclf.model.device.pick`; with several CUDA cards each process takes its own
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(1, 0, pick(device, precision))
        if multiprocessing.parent_process() is not None:  # notebook_launcher forks; a fork has lost OpenMP's threads
            torch.set_num_threads(1)  # and would wait for them forever
        chosen = pick(device, precision)
        has_cards = chosen.kind in ("cuda", "xpu")
        state = PartialState(cpu=not has_cards)
        if has_cards:
            chosen = Device(str(state.device), chosen.dtype)
        return cls(state.num_processes, state.process_index, chosen)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and draws progress bars."""
        return self.rank == 0

    @property
    def bar(self) -> dict[str, bool]:
        """Arguments for tqdm: no bar in all but the main process, else tqdm's own settings decide."""
        return {} if self.is_main else {"disable": True}

    def part(self, items: list[T]) -> list[tuple[int, T]]:
        """This process's part of a list whose length is a multiple of `count`, with each item's number."""
        each = len(items) // self.count
        return list(enumerate(items))[self.rank * each : (self.rank + 1) * each]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        if self.count == 1:
            return flag
        return bool(self.sum([torch.tensor(float(flag), device=self.device.torch)])[0] > 0)

    @torch.no_grad()
    def sum(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Sum each float tensor over all processes, in place and in one message."""
        if self.count > 1:
            flat = torch.cat([t.reshape(-1) for t in tensors])
            distributed.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view(tensor.shape))
        return tensors

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            PartialState().wait_for_everyone()


class BatchStatistics:
    """The running statistics of the BatchNorm layers that train, as they are when this is made.

    `restore` takes a step back. `merge` leaves the statistics of one process that saw all micro-batches in turn.
    """

    def __init__(self, model: nn.Module):
        layers = [m for m in model.modules() if isinstance(m, NORMS) and m.training and m.track_running_stats]
        self.now = [dict(layer.named_buffers()) for layer in layers]
        self.before = [{name: b.clone() for name, b in buffers.items()} for buffers in self.now]
        self.momentum = [layer.momentum or 0.0 for layer in layers]

    @torch.no_grad()
    def restore(self) -> None:
        """Set them back."""
        for now, before in zip(self.now, self.before, strict=True):
            for name, old in before.items():
                now[name].copy_(old)

    @torch.no_grad()
    def merge(self, processes: Processes, micro_batches: int) -> None:
        """Combine the processes' statistics; each process saw `micro_batches` of them.

        A micro-batch with statistics s turns r into (1 - m) r + m s. Each micro-batch of a later process therefore
        multiplies the change that process k made by (1 - m).
        """
        if processes.count == 1 or not self.now:
            return
        changes = []
        later = micro_batches * (processes.count - 1 - processes.rank)
        for now, before, momentum in zip(self.now, self.before, self.momentum, strict=True):
            fade = (1 - momentum) ** later
            changes += [(now[name] - before[name]) * fade for name in ("running_mean", "running_var")]
        changed = iter(processes.sum(changes))
        for now, before in zip(self.now, self.before, strict=True):
            for name in ("running_mean", "running_var"):
                now[name].copy_(before[name] + next(changed))
            now["num_batches_tracked"].copy_(before["num_batches_tracked"] + micro_batches * processes.count)
