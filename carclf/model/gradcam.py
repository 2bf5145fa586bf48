"""Where a network looks: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).

A map is the last convolutional features of a photo, each channel weighted by how much a little more of it would raise
the brand's logit; what speaks against the brand is cut off. It shows which places counted for the answer, coarsely
(7 × 7 of them for 224 pixels), and not whether they should have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from carclf.data.photos import Source
from carclf.model import crops
from carclf.model.classifier import Classifier
from carclf.model.predictions import photos_of

BATCH = 32  # photos per pass


def grad_cam(
    classifier: Classifier,
    photos: np.ndarray | str | os.PathLike | Sequence[Source] | pd.DataFrame,
    targets: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Which places of photos speak for a brand.

    Parameters
    ----------
    classifier : Classifier
        With a convolutional backbone; nothing about it is changed.
    photos : as `Classifier.predict` takes them, or uint8 [N, 3, S, S] as `TensorCache` holds them; of a predictions
        table with boxes, the crop of each row
    targets : [N] positions of brands in `classifier.classes`; default: the predicted ones

    Returns
    -------
    float32 [N, S, S], 0 to 1
        S is the card's `cache_size` unless the photos are an array. The largest value of each map is 1. A map is all 0
        if nothing speaks for the brand, or if the photo cannot be read or the manifest sets it aside, or if a car is
        too small.

    Raises
    ------
    ValueError
        For a transformer, whose features are not a map, and for targets that are not brands of the classifier.
    """
    batches: Iterable[tuple[Any, np.ndarray]]
    if getattr(photos, "ndim", 1) == 4:
        squares = np.asarray(photos)
        n, side = len(squares), squares.shape[2:]
        batches = [(slice(i, i + BATCH), squares[i : i + BATCH]) for i in range(0, n, BATCH)]
    else:
        _, sources, problems = photos_of(photos)
        n, side = len(sources), (classifier.card.cache_size,) * 2
        if crops.has_boxes(photos):
            batches = crops.squares_of(photos, classifier.card.cache_size, BATCH)
        else:
            batches = classifier.squares(sources, problems, BATCH)
    wanted = None if targets is None else _checked(np.asarray(targets), n, len(classifier.classes))
    maps = np.zeros((n, *side), np.float32)
    for rows, part in batches:
        cam = _cam(classifier, part, None if wanted is None else wanted[rows])
        cam = F.interpolate(cam, side, mode="bilinear")
        peak = cam.amax((2, 3), keepdim=True)
        maps[rows] = (cam / peak.masked_fill(peak == 0, 1))[:, 0].cpu().numpy()
    return maps


def _cam(classifier: Classifier, squares: np.ndarray, targets: torch.Tensor | None) -> torch.Tensor:
    """Grad-CAM [N, 1, h, w] at the last features, not scaled."""
    model: Any = classifier.model
    with torch.no_grad():
        features = model.forward_features(classifier.prepare(squares))
    if getattr(features, "ndim", 0) != 4 or features.shape[1] != model.num_features or min(features.shape[2:]) < 2:
        raise ValueError(
            "Grad-CAM needs a map of convolutional features larger than 1 × 1 before the head, and this network has "
            "none: explain one with a convolutional backbone, such as resnet50 or efficientnet_lite0"
        )
    features.requires_grad_()  # the graph starts here: nothing below needs a gradient
    with torch.enable_grad():
        logits = model.forward_head(features)
        chosen = logits.argmax(1) if targets is None else targets.to(logits.device)
        gradient = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), features)[0]
    return (gradient.mean((2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True).relu()


def _checked(targets: np.ndarray, n: int, n_classes: int) -> torch.Tensor:
    if targets.shape != (n,) or targets.dtype.kind not in "iu" or ((targets < 0) | (targets >= n_classes)).any():
        raise ValueError(
            f"targets must be one whole number from 0 to {n_classes - 1} for each of the {n} photos, "
            f"got {targets.tolist()}; classifier.classes.index(brand) gives them"
        )
    return torch.from_numpy(targets.astype(np.int64))
