"""One process or several, on one machine or several: who does which part, and sums over all of them.

`accelerate launch` and `notebook_launcher` start the processes; without them there is one. What must be equal in
all of them (weights, optimizer, order of the photos) is computed alike in each, so only sums are exchanged.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import distributed, nn

from carclf.devices import Device, pick

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Processes:
    """This process among all of them. Make one with `join`.

    Attributes
    ----------
    count, rank : number of processes, and of this one from 0
    device : what this process computes on
    """

    count: int
    rank: int
    device: Device

    @classmethod
    def join(cls, device: str = "auto", precision: str = "auto") -> Processes:
        """Find the other processes, if a launcher has started several.

        Parameters
        ----------
        device, precision : as for `devices.pick`; with several CUDA cards each process takes its own
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(1, 0, pick(device, precision))
        if multiprocessing.parent_process() is not None:  # notebook_launcher forks; a fork has lost OpenMP's threads
            torch.set_num_threads(1)  # and would wait for them for ever
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

    def part(self, items: list) -> list[tuple[int, object]]:
        """This process's part of a list whose length is a multiple of `count`, with each item's number."""
        each = len(items) // self.count
        return list(enumerate(items))[self.rank * each : (self.rank + 1) * each]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        if self.count == 1:
            return flag
        return bool(self.sum([torch.tensor(float(flag), device=self.device.torch)])[0] > 0)

    @torch.no_grad()
    def sum(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Sum each tensor over all processes, in place and in one message; float tensors."""
        if self.count > 1:
            flat = torch.cat([t.reshape(-1) for t in tensors])
            distributed.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view(tensor.shape))
        return tensors

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            PartialState().wait_for_everyone()


class BatchStatistics:
    """The running statistics of those BatchNorm layers that learn.

    They are remembered when this is made, so that a step can be taken back, and brought together after it: several
    processes leave the statistics that one process would, had it seen their micro-batches one after the other.
    """

    def __init__(self, model: nn.Module):
        self.layers = [m for m in model.modules() if isinstance(m, NORMS) and m.training and m.track_running_stats]
        self.before = [[b.clone() for b in layer.buffers()] for layer in self.layers]

    @torch.no_grad()
    def restore(self) -> None:
        """As they were when this was made."""
        for layer, buffers in zip(self.layers, self.before, strict=True):
            for buffer, old in zip(layer.buffers(), buffers, strict=True):
                buffer.copy_(old)

    @torch.no_grad()
    def merge(self, processes: Processes, micro_batches: int) -> None:
        """Bring the processes' statistics together, each of which saw so many micro-batches.

        A micro-batch with statistics s turns r into (1 - m) r + m s. After process k, each later one makes the
        difference that k has made smaller by (1 - m) for each of its micro-batches.
        """
        if processes.count == 1:
            return
        changes = []
        for layer, (mean, var, _) in zip(self.layers, self.before, strict=True):
            fade = (1 - layer.momentum) ** (micro_batches * (processes.count - 1 - processes.rank))
            changes += [(layer.running_mean - mean) * fade, (layer.running_var - var) * fade]
        if not changes:
            return
        processes.sum(changes)
        for layer, (mean, var, seen) in zip(self.layers, self.before, strict=True):
            layer.running_mean.copy_(mean + changes.pop(0))
            layer.running_var.copy_(var + changes.pop(0))
            layer.num_batches_tracked.copy_(seen + micro_batches * processes.count)
