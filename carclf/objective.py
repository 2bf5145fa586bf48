"""The mathematics of a training: the weighted loss, the class weights, the learning rate."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

CLASS_WEIGHTS = ("none", "inverse_sqrt", "inverse", "effective_number")


def one_cycle(step: int, steps: int, max_lr: float) -> float:
    """Learning rate of one step, 0 <= step < steps, of a OneCycle (arXiv 1708.07120).

    From max_lr / 25 up to max_lr over the first 30 %, then down to max_lr / 250,000, both along a cosine: the
    closed form of torch's OneCycleLR. A function of the step alone has no state to lose in a resume.
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
    """Sum over the photos of each photo's weight times its smoothed cross-entropy.

    Parameters
    ----------
    logits : float32 [N, n_classes]
    labels : int64 [N]
    weights : float32 [N], one a photo

    A sum and not a mean: divided by the weights of a whole window, it makes micro-batches exactly one large batch.
    The weight multiplies the smoothed loss as a whole; inside torch's cross_entropy it would distort the smoothing.
    """
    log_p = F.log_softmax(logits.float(), 1)
    hard = -log_p.gather(1, labels[:, None]).squeeze(1)
    return (weights * ((1 - label_smoothing) * hard - label_smoothing * log_p.mean(1))).sum()


def class_weights(counts: torch.Tensor, kind: str) -> torch.Tensor:
    """Weight of each class, scaled so that the mean over all photos is 1.

    Parameters
    ----------
    counts : int64 [n_classes], photos of each class in train, all positive
    kind : "none"; "inverse" makes every brand count the same; "inverse_sqrt" goes half the way;
        "effective_number" (arXiv 1901.05555, with beta = 1 - 1 / mean count) is close to "inverse" for rare brands
        and weighs those alike that have many photos

    Returns
    -------
    float32 [n_classes]
    """
    n = counts.double()
    if kind == "effective_number":
        beta = 1 - 1 / n.mean().clamp_min(1.001)
        weights = (1 - beta) / (1 - beta**n)
    else:
        weights = n ** {"none": 0.0, "inverse_sqrt": -0.5, "inverse": -1.0}[kind]
    return (weights * n.sum() / (weights * n).sum()).float()
