"""Where a network looks: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).

A map is the last convolutional features of a photo, each channel weighted by how much a little more of it would raise
the brand's logit, with what speaks against the brand cut off. It says which places counted for the answer, coarsely
(7 × 7 of them for 224 pixels), and not whether they should have.

captum computes the same, as a test shows; for four lines of it nobody need install it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from carclf.augment import Augment
from carclf.classifier import Classifier
from carclf.models import blocks, normalisation

BATCH = 32  # photos a pass


def grad_cam(classifier: Classifier, photos: np.ndarray, targets: Sequence[int] | None = None) -> np.ndarray:
    """Which places of photos speak for a brand.

    Parameters
    ----------
    classifier : Classifier with a convolutional backbone; nothing about it is changed
    photos : uint8 [N, 3, S, S], squished as `TensorCache` holds them
    targets : [N] places of brands in `classifier.classes`; default: of the predicted ones

    Returns
    -------
    float32 [N, S, S], 0 to 1: each map's largest value is 1, or all of it 0 where nothing speaks for the brand

    Raises
    ------
    ValueError
        For a transformer, whose features are no map, and for targets that are no brands of the classifier.
    """
    photos = np.asarray(photos)
    if targets is not None:
        targets = _checked(np.asarray(targets), len(photos), len(classifier.classes))
    card, device, model = classifier.card, classifier.device, classifier.model
    prepare = Augment(card.size, *normalisation(card.backbone)).plain()
    maps = np.zeros((len(photos), *photos.shape[2:]), np.float32)
    layer = None
    for start in range(0, len(photos), BATCH):
        part = slice(start, start + BATCH)
        x = prepare(torch.from_numpy(photos[part]).to(device.torch)).contiguous(memory_format=device.memory_format)
        layer = layer or last_map(model, x[:1])
        cam = F.interpolate(
            _cam(model, layer, x, None if targets is None else targets[part]), photos.shape[2:], mode="bilinear"
        )
        peak = cam.amax((2, 3), keepdim=True)
        maps[part] = (cam / peak.masked_fill(peak == 0, 1))[:, 0].cpu().numpy()
    return maps


def _cam(model: nn.Module, layer: str, x: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
    """Grad-CAM [N, 1, h, w] at a block, not scaled."""
    found = []

    def begin_here(_, __, output):
        found.append(output.detach().requires_grad_())  # the graph starts here: nothing below needs a gradient
        return found[0].clone()  # an activation that works in place after it may not touch the leaf

    hook = blocks(model)[layer].register_forward_hook(begin_here)
    try:
        with torch.enable_grad():
            logits = model(x)
            targets = logits.argmax(1) if targets is None else targets.to(logits.device)
            gradient = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), found[0])[0]
    finally:
        hook.remove()
    return (gradient.mean((2, 3), keepdim=True) * found[0].detach()).sum(1, keepdim=True).relu()


def last_map(model: nn.Module, x: torch.Tensor) -> str:
    """The block, as `carclf.blocks` names it, whose output is the last map of convolutional features larger than 1 × 1.

    resnet50: layer4; efficientnet_lite0: bn2, which holds the activation after conv_head; convnext: its last stage.

    Parameters
    ----------
    x : float32 [N, 3, H, W], normalised photos for one pass

    Raises
    ------
    ValueError
        For a model that has none, such as a transformer.
    """
    parts, shapes = blocks(model), {}

    def note(name):
        return lambda _, __, output: shapes.update({name: getattr(output, "shape", ())})

    hooks = [part.register_forward_hook(note(name)) for name, part in parts.items()]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    found = None
    for name in list(parts)[:-1]:  # the last one is the head
        shape = shapes.get(name, ())
        is_map = len(shape) == 4 and min(shape[2:]) > 1
        if any(isinstance(m, nn.Conv2d) for m in parts[name].modules()):
            found = name if is_map else found if len(shape) == 4 else None
        elif any(p.ndim > 1 for p in parts[name].parameters()):
            found = None  # attention over tokens
        elif is_map and found:
            found = name  # the norm and activation after a convolution
    if found is None:
        raise ValueError(
            "Grad-CAM needs a map of convolutional features larger than 1 × 1 before the head, and this network has "
            "none: explain one with a convolutional backbone, such as resnet50 or efficientnet_lite0"
        )
    return found


def _checked(targets: np.ndarray, n: int, n_classes: int) -> torch.Tensor:
    if targets.shape != (n,) or targets.dtype.kind not in "iu" or ((targets < 0) | (targets >= n_classes)).any():
        raise ValueError(
            f"targets must be one whole number from 0 to {n_classes - 1} for each of the {n} photos, "
            f"got {targets.tolist()}; classifier.classes.index(brand) gives them"
        )
    return torch.from_numpy(targets.astype(np.int64))
