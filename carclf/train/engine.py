"""A network in training: the exact gradient of a batch, and one optimizer step with it.

However a batch is divided into micro-batches, and however many processes share them, the step is that of one large
batch: weighted losses are summed and divided by the weights of the whole batch. Only BatchNorm sees micro-batches.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn
from tqdm.auto import tqdm

from carclf.model import backbones
from carclf.model.augment import Augment
from carclf.model.device import ran_out_of_memory
from carclf.train.batches import Batch, Dataset, evenly
from carclf.train.distributed import BatchStatistics, Processes
from carclf.train.loss import weighted_loss
from carclf.train.recipe import Recipe

LEAST_MICRO_BATCH = 3  # dividing evenly by it leaves no photo alone, which BatchNorm could not take


class Engine:
    """Model, moving average, optimizer and loss scale of a training. Call `begin` for a stage, then `step`.

    Attributes
    ----------
    model : nn.Module that trains
    micro_batch : photos in memory at once; the recipe's, or less after memory ran out
    head_alone : whether the stage trains the head on features that are computed once
    """

    def __init__(self, recipe: Recipe, data: Dataset, processes: Processes, state: dict | None = None):
        self.recipe, self.data, self.processes, self.device = recipe, data, processes, processes.device
        state = state or {}
        if "model" in state:
            self.model = backbones.empty_model(recipe.backbone, len(data.classes), recipe.head)
            self.model.load_state_dict(state["model"])
        else:
            torch.manual_seed(recipe.seed)  # for the weights of the new head
            self.model = backbones.build_model(recipe.backbone, len(data.classes), recipe.weights, recipe.head)
        for stage in recipe.stages:
            backbones.set_trainable(self.model, stage.unfreeze)  # refuses an unknown block now and not hours later
        self.model.to(self.device.torch).to(memory_format=self.device.memory_format)
        self.average = None
        if recipe.ema:
            self.average = ModelEmaV3(self.model, recipe.ema, use_warmup=True, foreach=self.device.foreach is not False)
            self.average.module.load_state_dict(state.get("average", self.model.state_dict()))
        self.scaler = self.device.scaler()
        self.scaler.load_state_dict(state.get("scaler", self.scaler.state_dict()))
        self.updates = state.get("updates", 0)
        self.micro_batch = state.get("micro_batch", recipe.micro_batch)
        self._optimizer_state = state.get("optimizer")  # of the stage that was interrupted
        self._mean_std = backbones.normalisation(recipe.backbone)
        if processes.is_main and recipe.accumulate % processes.count:
            warnings.warn(
                f"accumulate={recipe.accumulate} leaves {processes.count} processes micro-batches smaller than "
                f"micro_batch={recipe.micro_batch}; a multiple of {processes.count} fills them",
                stacklevel=2,
            )

    def state_dict(self) -> dict:
        """Everything `Engine(…, state)` needs to continue."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "updates": self.updates,
            "micro_batch": self.micro_batch,
        }

    @property
    def network(self) -> nn.Module:
        """The network that is validated and saved: the moving average if the recipe has one."""
        return self.average.module if self.average else self.model

    def begin(self, number: int) -> None:
        """Freeze what this stage leaves alone; take a new optimizer, or the one of the interrupted stage."""
        self.number, self.stage = number, self.recipe.stages[number]
        self.unfreeze()
        groups = backbones.parameter_groups(self.model, self.recipe.weight_decay, self.recipe.layer_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.stage.max_lr, foreach=self.device.foreach)
        if self._optimizer_state is not None:
            self.optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        head = {id(p) for p in backbones.head_of(self.model, self.recipe.backbone).parameters()}
        trained = {id(p) for p in self.model.parameters() if p.requires_grad}
        self.head_alone = trained <= head and self.recipe.head_views > 0
        self._features: dict[int | None, torch.Tensor] = {}  # by view; None is the plain view of valid

    def unfreeze(self) -> None:
        """Put the blocks of this stage into training mode; validation leaves them in eval."""
        backbones.set_trainable(self.model, self.stage.unfreeze)

    def batches(self, epoch: int) -> list[Batch]:
        """The optimizer steps of one epoch of the stage."""
        batches = self.data.epoch(self.recipe, self.number, epoch, self.recipe.head_views if self.head_alone else 0)
        if len(batches[-1]) < 2 * self.processes.count:
            photos = f"an optimizer step of {len(batches[-1])} photos"
            sharing = f"cannot be shared by {self.processes.count} processes"
            raise ValueError(f"{photos} {sharing}; raise micro_batch or accumulate")
        return batches

    def step(self, batch: Batch, lr: float) -> float:
        """One optimizer step with the learning rate `lr` of the head; returns the weighted mean loss before it.

        Raises
        ------
        ArithmeticError
            If loss or gradient is not finite; the weights are as before.
        MemoryError
            If not even the smallest micro-batch fits.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        loss = self._gradient(batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        if self.average:
            self.average.update(self.model, self.updates)
        return loss

    def _gradient(self, batch: Batch) -> float:
        """Loss and clipped gradient of the whole batch; tries again after running out of memory or float16's range."""
        statistics = BatchStatistics(self.model)
        while True:
            parts = self._parts(len(batch), self.micro_batch)
            total = self._backward(batch, parts)
            if self.processes.any(total is None) or total is None:
                self._halve_micro_batch(len(batch))
            else:
                self.processes.sum([total, *(p.grad for p in self.model.parameters() if p.grad is not None)])
                statistics.merge(self.processes, len(parts))
                self.scaler.unscale_(self.optimizer)
                longest = self.recipe.clip_grad or math.inf
                norm = nn.utils.clip_grad_norm_(self.model.parameters(), longest, foreach=self.device.foreach).item()
                loss = total.item()
                if math.isfinite(loss) and math.isfinite(norm):
                    return loss
                if not (math.isfinite(loss) and self.scaler.is_enabled() and self.scaler.get_scale() >= 1):
                    statistics.restore()
                    raise ArithmeticError(f"the loss is {loss}, the gradient's norm {norm}")
                self.scaler.step(self.optimizer)  # an overflow in float16: this skips the optimizer's step,
                self.scaler.update()  # and this scales the loss less for the next try
            statistics.restore()
            self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, batch: Batch, parts: list[tuple[int, np.ndarray]]) -> torch.Tensor | None:
        """Add this process's part of the gradient; returns the part of the loss, or None if memory ran out."""
        device = self.device.torch
        labels = self.data.labels[self.data.train[batch.positions]]
        weights = self.data.weights[labels]
        weights = weights / weights.sum()
        loss = torch.zeros((), device=device)
        try:
            for number, part in parts:
                torch.manual_seed(batch.seed + number)  # the same dropout in whichever process
                x = self._inputs(batch, part)
                with self.device.autocast():
                    logits = self._forward(self.model, x)
                targets, shares = labels[part].to(device), weights[part].to(device)
                part_loss = weighted_loss(logits, targets, shares, self.recipe.label_smoothing)
                self.scaler.scale(part_loss).backward()
                loss += part_loss.detach()
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            return None
        return loss

    def _parts(self, n: int, size: int) -> list[tuple[int, np.ndarray]]:
        """This process's micro-batches of at most `size` of n photos, with their numbers among all."""
        return self.processes.part(evenly(np.arange(n), size, self.processes.count))

    def _inputs(self, batch: Batch, part: np.ndarray) -> torch.Tensor:
        """What `_forward` takes for a part of a batch: augmented photos, or their features if the head trains alone."""
        if self.head_alone:
            return self._computed_features(batch.view)[batch.positions[part]]
        return self._photos(self.data.train[batch.positions[part]], batch.draws[part])

    def _forward(self, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (backbones.head_of(network, self.recipe.backbone) if self.head_alone else network)(x)

    def _photos(self, rows: np.ndarray, draws: torch.Tensor | None = None) -> torch.Tensor:
        """Photos of some rows of the manifest: the views that `draws` decide, or plain."""
        augment = Augment(self.stage.size, *self._mean_std, **self.recipe.augment)
        photos = self.data.photos(rows)[0].to(self.device.torch)
        x = augment.plain()(photos) if draws is None else augment(photos, draws=draws)
        return x.contiguous(memory_format=self.device.memory_format)

    def _halve_micro_batch(self, photos: int) -> None:
        if self.micro_batch <= LEAST_MICRO_BATCH:
            raise MemoryError(
                f"{self.device.name} has no memory for {self.micro_batch} photos of {self.stage.size} pixels; "
                "train in another folder with a smaller size or backbone, or fewer blocks"
            )
        self.micro_batch = max(LEAST_MICRO_BATCH, self.micro_batch // 2)
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"{self.device.name} ran out of memory: an optimizer step is now summed from micro-batches of "
            f"{self.micro_batch} photos; its {photos} photos and their gradient stay the same",
            stacklevel=2,
        )

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        """The network's logits of the photos of valid, float32 [n, n_classes] on the CPU."""
        self.network.eval()
        rows = self.data.valid
        found = torch.zeros(len(rows), len(self.data.classes), device=self.device.torch)
        for _, part in self._parts(len(rows), 2 * self.micro_batch):  # nothing is kept for a gradient
            x = self._computed_features(None)[part] if self.head_alone else self._photos(rows[part])
            with self.device.autocast():
                found[part] = self._forward(self.network, x).float()
        return self.processes.sum([found])[0].cpu()

    @torch.no_grad()
    def _computed_features(self, view: int | None) -> torch.Tensor:
        """Features of one view of all photos of train, or of valid for None; in a fixed order, for exact resuming."""
        if view in self._features:
            return self._features[view]
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        rows = self.data.valid if view is None else self.data.train
        draws = None if view is None else self.data.draws(self.recipe.seed, self.number, view)
        found = torch.zeros(len(rows), backbones.n_features(self.model, self.recipe.backbone), device=self.device.torch)
        parts = self._parts(len(rows), 2 * self.micro_batch)
        for _, part in tqdm(parts, "features", unit="batch", leave=False, **self.processes.bar):
            x = self._photos(rows[part], None if draws is None else draws[part])
            with self.device.autocast():
                found[part] = backbones.features(self.model, x).float()
        self._features[view] = self.processes.sum([found])[0]
        for module, training in modes:
            module.training = training
        return self._features[view]
