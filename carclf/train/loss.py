"""The mathematics of a training: learning rate, weighted loss, class weights; and whether a device gets it right."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from carclf.model.device import Device

CLASS_WEIGHTS = ("none", "inverse_sqrt", "inverse", "effective_number")
TRUSTED = ("cuda", "cpu")  # `preflight` compares all other devices with the CPU
TOLERANCE = 1e-3  # relative; another order of summation in float32 stays far below


def one_cycle(step: int, steps: int, max_lr: float) -> float:
    """Learning rate of one step, 0 <= step < steps, of a OneCycle (arXiv 1708.07120).

    From max_lr / 25 up to max_lr over the first 30 %, then down to max_lr / 250,000, both along a cosine: the
    closed form of torch's OneCycleLR. A function of the step has no state that a resume could lose.
    """
    peak = 0.3 * steps - 1
    low, end = max_lr / 25, max_lr / 25e4
    if step <= peak:
        start, stop, share = low, max_lr, step / peak
    else:
        start, stop, share = max_lr, end, (step - peak) / max(steps - 1 - peak, 1e-9)
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2


def weighted_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Sum over the photos of weight times smoothed cross-entropy.

    Parameters
    ----------
    logits : float32 [N, n_classes]
    labels : int64 [N]
    weights : float32 [N], one per photo

    A sum, not a mean: divided by the weights of a whole batch, micro-batches add up to exactly one large batch.
    The weight multiplies the whole smoothed loss; class weights inside `F.cross_entropy` distort the smoothing
    (pytorch#104776). Not `F.cross_entropy(reduction="none")`: its gradients are zero on DirectML, and elsewhere they
    differ in the last bit, so runs of version 0.1 would not continue bit-exactly.
    """
    log_p = F.log_softmax(logits.float(), 1)
    hard = -log_p.gather(1, labels[:, None]).squeeze(1)
    return (weights * ((1 - label_smoothing) * hard - label_smoothing * log_p.mean(1))).sum()


def class_weights(counts: torch.Tensor, kind: str) -> torch.Tensor:
    """Weight of each class, float32 [n_classes], scaled so that the mean over all photos is 1.

    Parameters
    ----------
    counts : int64 [n_classes], photos of each class in train, all positive
    kind : "none"; "inverse", all brands count the same; "inverse_sqrt", half-way; or "effective_number" (arXiv
        1901.05555, beta = 1 - 1 / mean count), close to "inverse" for rare brands and to "none" for frequent ones
    """
    n = counts.double()
    if kind == "effective_number":
        beta = 1 - 1 / n.mean().clamp_min(1.001)
        weights = (1 - beta) / (1 - beta**n)
    else:
        weights = n ** {"none": 0.0, "inverse_sqrt": -0.5, "inverse": -1.0}[kind]
    return (weights * n.sum() / (weights * n).sum()).float()


def preflight(device: Device) -> None:
    """Refuse a device on which a small training step differs from the CPU's.

    The step has a convolution, BatchNorm and the training loss. DirectML can return correct losses with gradients of
    exactly zero (DirectML#739, #740): nothing would be learned, without any error. The RuntimeError names what
    differs and by how much.
    """
    if device.kind in TRUSTED:
        return
    expected, found = _small_step(torch.device("cpu")), _small_step(device.torch)
    for name, reference in expected.items():
        difference = (found[name] - reference).norm() / reference.norm().clamp_min(1e-12)
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"{device.name} computes the {name} incorrectly: {difference:.1%} away from the CPU's. A network would "
                "not learn on it; choose device='cpu', or another version of its driver and of torch"
            )


def _small_step(device: torch.device) -> dict[str, torch.Tensor]:
    """Loss, gradients and BatchNorm statistics of one float32 step, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    model.to(device)
    x, labels = torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 5
    loss = weighted_loss(model(x.to(device)), labels.to(device), torch.full((8,), 1 / 8).to(device), 0.1)
    loss.backward()
    found = {"loss": loss.detach()}
    # A bias before BatchNorm has no gradient but rounding errors.
    found |= {f"gradient of {n}": p.grad for n, p in model.named_parameters() if n != "0.bias" and p.grad is not None}
    found |= {f"BatchNorm's {n}": b for n, b in model.named_buffers() if b.is_floating_point()}
    return {name: value.cpu() for name, value in found.items()}
