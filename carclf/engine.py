"""A network in training: the exact gradient of a window, and one optimizer step with it.

However a window is divided into micro-batches, and however many processes share them, the step is that of one large
batch: weighted losses are summed and divided by the weights of the whole window. Only BatchNorm sees micro-batches.
"""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn
from tqdm.auto import tqdm

from carclf import augment
from carclf.dataset import Dataset, Window, evenly
from carclf.devices import ran_out_of_memory
from carclf.mixing import Mixture
from carclf.models import build_model, empty_model, features, head_of, normalisation, parameter_groups, set_trainable
from carclf.objective import weighted_loss
from carclf.processes import BatchStatistics, Processes
from carclf.recipes import Recipe

LEAST_MICRO_BATCH = 3  # dividing evenly by it leaves no photo alone, which BatchNorm could not take


class Engine:
    """Model, moving average, optimizer and loss scale of a training. Call `begin` for a stage, then `step`.

    Attributes
    ----------
    model : nn.Module that trains
    network : nn.Module that is validated and saved: the moving average, where the recipe has one
    micro_batch : photos in memory at once; the recipe's, or less after memory ran out
    optimizer : torch.optim.AdamW of the stage
    head_alone : whether the stage trains on features that were computed once
    """

    def __init__(self, recipe: Recipe, data: Dataset, processes: Processes, state: dict | None = None):
        self.recipe, self.data, self.processes, self.device = recipe, data, processes, processes.device
        state = state or {}
        shape = (recipe.backbone, len(data.classes))
        if "model" in state:
            self.model = empty_model(*shape, recipe.head)
            self.model.load_state_dict(state["model"])
        else:
            torch.manual_seed(recipe.seed)  # the new head's weights
            self.model = build_model(*shape, recipe.weights, recipe.head)
        for stage in recipe.stages:
            set_trainable(self.model, stage.unfreeze)  # a block that is not there is refused now and not hours later
        self.model.to(self.device.torch, memory_format=self.device.memory_format)
        self.average = None
        if recipe.ema:
            foreach = self.device.foreach is not False
            self.average = ModelEmaV3(self.model, recipe.ema, use_warmup=True, foreach=foreach)
            self.average.module.load_state_dict(state.get("average", self.model.state_dict()))
        self.scaler = self.device.scaler()
        self.scaler.load_state_dict(state.get("scaler", self.scaler.state_dict()))
        self.updates = state.get("updates", 0)
        self.micro_batch = state.get("micro_batch", recipe.micro_batch)
        self._optimizer_state = state.get("optimizer")  # of the stage that was interrupted
        self._mean_std = normalisation(recipe.backbone)
        if processes.is_main and recipe.accumulate % processes.count:
            warnings.warn(
                f"accumulate={recipe.accumulate} leaves {processes.count} processes micro-batches smaller than "
                f"micro_batch={recipe.micro_batch}; a multiple of {processes.count} fills them",
                stacklevel=2,
            )

    def state_dict(self) -> dict:
        """Everything that a training must remember, for `Engine(…, state)`."""
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
        """What is validated and saved."""
        return self.average.module if self.average else self.model

    def begin(self, number: int) -> None:
        """Freeze what this stage leaves alone, and take a fresh optimizer or the one that was interrupted."""
        self.number, self.stage = number, self.recipe.stages[number]
        self.unfreeze()
        groups = parameter_groups(self.model, self.recipe.weight_decay, self.recipe.block_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.stage.max_lr, foreach=self.device.foreach)
        if self._optimizer_state is not None:
            self.optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        head = {id(p) for p in head_of(self.model, self.recipe.backbone).parameters()}
        alone = {id(p) for p in self.model.parameters() if p.requires_grad} <= head
        self.head_alone = alone and self.recipe.head_views > 0
        self._features: dict[int | None, torch.Tensor] = {}  # by view; None is the plain view of valid

    def unfreeze(self) -> None:
        """Put into training what this stage trains; validation leaves all of it in eval."""
        set_trainable(self.model, self.stage.unfreeze)

    def windows(self, epoch: int) -> list[Window]:
        """The optimizer steps of one epoch of the stage."""
        windows = self.data.epoch(self.recipe, self.number, epoch, self.recipe.head_views if self.head_alone else 0)
        if len(windows[-1]) < 2 * self.processes.count:
            raise ValueError(
                f"an optimizer step of {len(windows[-1])} photos cannot be shared by {self.processes.count} processes; "
                "raise micro_batch or accumulate"
            )
        return windows

    def step(self, window: Window, rate: float) -> float:
        """One optimizer step.

        Parameters
        ----------
        rate : learning rate of the head; earlier blocks have less, as the recipe says

        Returns
        -------
        float, the window's weighted mean loss before the step

        Raises
        ------
        ArithmeticError
            Where loss or gradient is no finite number; weights are as they were before.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        loss = self._gradient(window)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        if self.average:
            self.average.update(self.model, self.updates)
        return loss

    def _gradient(self, window: Window) -> float:
        """Gradient of one window as if it were one batch; again, where memory or float16's range did not suffice."""
        statistics = BatchStatistics(self.model)
        while True:
            loss = self._backward(window)
            if self.processes.any(loss is None):
                self._halve_micro_batch(len(window))
            else:
                loss, norm = self._bring_together(loss, statistics, len(self._micro_batches(window)))
                if math.isfinite(loss) and math.isfinite(norm):
                    return loss
                if not (math.isfinite(loss) and self._lower_scale()):
                    statistics.restore()
                    raise ArithmeticError(f"the loss is {loss}, the gradient's norm {norm}")
            statistics.restore()
            self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, window: Window) -> torch.Tensor | None:
        """Add this process's part of the gradient; the loss of that part, or None where memory ran out."""
        mixture = self._mixture(window)
        weights, partners = self._weights(window, mixture)
        loss = torch.zeros((), device=self.device.torch)
        try:
            for number, part in self.processes.part(self._micro_batches(window)):
                torch.manual_seed(window.seed + number)  # dropout is the same whichever process draws it
                x, labels = self._inputs(window, part, mixture)
                with self.device.autocast():
                    logits = self._forward(self.model, x)
                part_loss = self._loss(logits, labels[0], weights[part])
                if mixture is not None:
                    part_loss = part_loss + self._loss(logits, labels[1], partners[part])
                self.scaler.scale(part_loss).backward()
                loss += part_loss.detach()
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            return None
        return loss

    def _micro_batches(self, window: Window) -> list[np.ndarray]:
        return evenly(np.arange(len(window)), self.micro_batch, self.processes.count)

    def _mixture(self, window: Window) -> Mixture | None:
        """How photos are mixed; where the head alone trains they are not, as its features are computed once."""
        mixup, cutmix = self.recipe.mixup, self.recipe.cutmix
        if not (mixup or cutmix) or self.head_alone:
            return None
        return Mixture.of(window.draws[:, augment.DRAWS :], mixup, cutmix, self.stage.size)

    def _weights(self, window: Window, mixture: Mixture | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights [n] of the photos' losses and of their partners'; all of them together sum to 1."""
        own = self.data.weights[self.data.labels[self.data.train[window.positions]]]
        share = torch.ones(len(window)) if mixture is None else mixture.share
        weights, partners = own * share, own.flip(0) * (1 - share)
        total = weights.sum() + partners.sum()
        return weights / total, partners / total

    def _inputs(self, window: Window, part: np.ndarray, mixture: Mixture | None) -> tuple[torch.Tensor, list]:
        """What the network is given for a part of a window, and its labels; then those of the photos' partners.

        The partner of a window's first photo is its last, and so on: that does not depend on the micro-batches.
        """
        x, labels = self._views(window, part)
        if mixture is None:
            return x, [labels]
        others, other_labels = self._views(window, len(window) - 1 - part)
        mixed = mixture[part](x, others).contiguous(memory_format=self.device.memory_format)
        return mixed, [labels, other_labels]

    def _views(self, window: Window, part: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        positions = window.positions[part]
        if self.head_alone:
            self._compute_features(window.view)
            return self._features[window.view][positions], self.data.labels[self.data.train[positions]]
        photos, labels = self.data.photos(self.data.train[positions])
        x = self._augment()(photos.to(self.device.torch), draws=window.draws[part])
        return x.contiguous(memory_format=self.device.memory_format), labels

    def _augment(self) -> augment.Augment:
        return augment.Augment(self.stage.size, *self._mean_std, **self.recipe.augment)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        device = self.device.torch
        return weighted_loss(logits, labels.to(device), weights.to(device), self.recipe.label_smoothing)

    def _forward(self, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (head_of(network, self.recipe.backbone) if self.head_alone else network)(x)

    def _bring_together(self, loss: torch.Tensor, statistics: BatchStatistics, parts: int) -> tuple[float, float]:
        """Sum loss and gradients over the processes, and clip them; loss and the gradient's norm before clipping."""
        trained = [p for p in self.model.parameters() if p.grad is not None]
        self.processes.sum([loss, *(p.grad for p in trained)])
        statistics.merge(self.processes, parts // self.processes.count)
        self.scaler.unscale_(self.optimizer)
        longest = self.recipe.clip_norm or math.inf
        return loss.item(), nn.utils.clip_grad_norm_(trained, longest, foreach=self.device.foreach).item()

    def _lower_scale(self) -> bool:
        """After an overflow in float16, make the loss smaller for another try; False where that cannot help."""
        if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
            return False
        self.scaler.step(self.optimizer)  # changes nothing: it has found the overflow
        self.scaler.update()
        return True

    def _halve_micro_batch(self, photos: int) -> None:
        if self.micro_batch <= LEAST_MICRO_BATCH:
            raise MemoryError(
                f"{self.device.name} has no memory for {self.micro_batch} photos of {self.stage.size} pixels; "
                "choose a smaller size or backbone, or let fewer blocks train"
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
        """What the network says of the photos of valid, float32 [n, n_classes] on the CPU."""
        self.network.eval()
        rows = self.data.valid
        if self.head_alone:
            self._compute_features(None)
        found = torch.zeros(len(rows), len(self.data.classes), device=self.device.torch)
        for _, part in self.processes.part(self._validation_batches(len(rows))):
            x = self._features[None][part] if self.head_alone else self._plain(rows[part])
            with self.device.autocast():
                found[part] = self._forward(self.network, x).float()
        self.processes.sum([found])
        return found.cpu() - self.recipe.logit_adjustment * self.data.log_share

    def _validation_batches(self, n: int) -> list[np.ndarray]:
        return evenly(np.arange(n), 2 * self.micro_batch, self.processes.count)

    def _plain(self, rows: np.ndarray) -> torch.Tensor:
        photos, _ = self.data.photos(rows)
        x = self._augment().plain()(photos.to(self.device.torch))
        return x.contiguous(memory_format=self.device.memory_format)

    @torch.no_grad()
    def _compute_features(self, view: int | None) -> None:
        """Features of one view of all photos of train, or of valid for None; in a fixed order, so that a resumed
        run computes them alike."""
        if view in self._features:
            return
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        rows = self.data.valid if view is None else self.data.train
        draws = None if view is None else self.data.draws(self.recipe.seed, self.number, view)
        parts = self.processes.part(self._validation_batches(len(rows)))
        title = "features of valid" if view is None else f"features, view {view + 1}"
        found = None
        for _, part in tqdm(parts, title, unit="batch", leave=False, disable=not self.processes.is_main):
            if view is None:
                x = self._plain(rows[part])
            else:
                photos, _ = self.data.photos(rows[part])
                x = self._augment()(photos.to(self.device.torch), draws=draws[part])
            with self.device.autocast():
                y = features(self.model, self.recipe.backbone, x.contiguous(memory_format=self.device.memory_format))
            found = torch.zeros(len(rows), y.shape[1], device=y.device) if found is None else found
            found[part] = y.float()
        self._features[view] = self.processes.sum([found])[0]
        for module, training in modes:
            module.training = training

    def finished(self) -> nn.Module:
        """The network as it is saved: with the logit adjustment in the last layer's bias."""
        if not self.recipe.logit_adjustment:
            return self.network
        network = copy.deepcopy(self.network)
        head = head_of(network, self.recipe.backbone)
        last = head[-1] if isinstance(head, nn.Sequential) else head
        with torch.no_grad():
            last.bias -= self.recipe.logit_adjustment * self.data.log_share.to(last.bias.device)
        return network
