"""Find the cars in a photo: torchvision's FCOS on features of EfficientNet-Lite0, or COCO's SSDLite320.

FCOS (Tian et al. 2019, arXiv 1904.01355) predicts at each place of a feature map whether a car is there and how far its
four sides are; torchvision brings matching, loss and non-maximum suppression. `experiments/detector.py` trains it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import FeaturePyramidNetwork, nms

from carclf.data.boxes import XY
from carclf.files import write_text, writing
from carclf.model.backbones import TIMM_NAMES, imagenet_model, normalisation
from carclf.model.crops import Photo, opened
from carclf.model.device import pick
from carclf.model.weights import halved, read_state_dict, read_tensors, write_tensors

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "find-cars"
CARD, WEIGHTS = "card.json", "model.safetensors"
SCHEMA = 1
CLASSES = ("car", "other vehicle")  # only cars are reported; knowing buses and trucks keeps them from being called cars
CHANNELS, CONVOLUTIONS = 64, 2  # of the head: 256 and 4, as published, would take most of the time
OVERLAP = 0.45  # IoU from which two boxes are one vehicle, and the one with the lower score goes
LOWEST = 0.05  # boxes with a lower score are never looked at
AT_ONCE = 4  # photos per pass on a CPU, so that activations stay in its caches
COCO_FILE = "ssdlite320_mobilenet_v3_large_coco-a79551df.pth"
COCO_CAR, COCO_SIDE = 3, 640

Table: TypeAlias = pd.DataFrame


@dataclass(frozen=True)
class DetectorCard:
    """Everything about a detector but its weights; the JSON file beside them."""

    side: int = 384  # longer side, in pixels, to which a photo is scaled
    threshold: float = 0.5  # boxes with a lower score, 0 to 1, are left out
    training: dict | None = None  # data and results, for people
    about: dict | None = None  # what it has seen, what it misses, licences, as text
    schema: int = SCHEMA


class Detector:
    """A network that finds cars, with the size of its photos and its threshold."""

    def __init__(self, model: nn.Module, card: DetectorCard, device: str = "auto", car: int = 0) -> None:
        self.card, self.device, self._car = card, pick(device), car
        self.model = model.eval().to(self.device.torch).to(memory_format=self.device.memory_format)

    @property
    def threshold(self) -> float:
        """Lowest score, 0 to 1, of a box that is reported."""
        return self.card.threshold

    @classmethod
    def load(cls, source: str | os.PathLike | None = None, device: str = "auto") -> Detector:
        """Load a detector; nothing in its files is executed.

        Parameters
        ----------
        source : None for the one that ships, a folder with `model.safetensors` and `card.json`, "coco" for
            torchvision's SSDLite320 with its COCO weights, downloaded once, or the path of these weights

        Raises
        ------
        OSError, ValueError
            If files are missing, damaged or of another version; the message names the remedy.
        """
        if str(source) == "coco" or Path(str(source)).suffix == ".pth":
            return cls(_coco(source), DetectorCard(COCO_SIDE), device, COCO_CAR)
        folder = SHIPPED if source is None else Path(source)
        for name in (WEIGHTS, CARD):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing; give a detector's folder, such as models/find-cars of the project, "
                    "or detector='coco'"
                )
        try:
            card = DetectorCard(**json.loads((folder / CARD).read_text(encoding="utf-8")))
            if card.schema != SCHEMA:
                raise ValueError(f"it has schema {card.schema}, this version reads {SCHEMA}")
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{folder / CARD} is not a detector's card of this version ({error}); copy all files of one detector"
            ) from error
        model = build_detector(card.side)
        try:
            model.load_state_dict(read_tensors(folder / WEIGHTS)[0])
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{folder / WEIGHTS} does not fit a detector ({reason}); copy all files of one detector"
            ) from error
        return cls(_fused(model.eval()), card, device)

    def find(self, photos: Sequence[Image.Image], threshold: float | None = None) -> list[Table]:
        """Boxes of the cars in each photo, a table each, as `find_cars` gives them.

        Only photos of one shape, one after the other, are computed together: what a photo gets never depends on others.
        """
        threshold = self.threshold if threshold is None else threshold
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} must lie between 0 and 1")
        at_once = AT_ONCE if self.device.kind == "cpu" else 32
        tables: list[Table] = []
        for _, group in groupby(((photo, _shrunk(photo, self.card.side)) for photo in photos), lambda p: p[1].shape):
            while part := list(islice(group, at_once)):
                with torch.inference_mode(), self.device.autocast():
                    found = self.model([pixels.to(self.device.torch) for _, pixels in part])
                tables += [self._table(*pair, boxes, threshold) for pair, boxes in zip(part, found, strict=True)]
        return tables

    def _table(self, photo: Image.Image, pixels: torch.Tensor, found: dict[str, torch.Tensor], least: float) -> Table:
        """The boxes of cars, from pixels of the small photo to those of the photo."""
        # A van called both car and bus is what its higher score says.
        best = torch.zeros_like(found["scores"], dtype=torch.bool)
        best[nms(found["boxes"].float(), found["scores"].float(), OVERLAP)] = True
        cars = best & (found["labels"] == self._car) & (found["scores"] >= max(least, LOWEST))
        scale = np.tile(np.divide(photo.size, pixels.shape[:0:-1]), 2)
        xyxy = found["boxes"][cars].float().cpu().numpy() * scale
        scores = found["scores"][cars].float().cpu().numpy().astype(float)
        return pd.DataFrame(xyxy, columns=XY).assign(score=scores)

    def save(self, folder: str | os.PathLike, card: DetectorCard | None = None) -> Path:
        """Write the folder of a detector that is not fused yet, with matrices as float16."""
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, halved(self.model.state_dict()))
        write_text(folder / CARD, json.dumps(asdict(card or self.card), indent=1, ensure_ascii=False))
        return folder


def find_cars(photo: Photo, threshold: float | None = None, detector: Any = None) -> Table:
    """Find the cars in a photo: car, van, SUV, pickup, minivan, taxi; no buses, lorries or motorbikes.

    Parameters
    ----------
    photo : path, bytes, open file, PIL image, or uint8 [h, w], [h, w, 3] or [h, w, 4]
    threshold : lowest score, 0 to 1; default: the detector's own
    detector : None for the one that ships, "coco", or anything else that `Detector.load` takes, or a Detector

    Returns
    -------
    DataFrame, one row per car, best first, with the columns x0 y0 x1 y1, float, in pixels of the upright photo from its
    upper left corner, and score, float, 0 to 1

    Raises
    ------
    PhotoError
        If the photo cannot be read.
    """
    return detector_of(detector).find([opened(photo)], threshold)[0]


def detector_of(detector: Any = None, device: str = "auto") -> Any:
    """The detector that a `detector` argument stands for; each is loaded once, as that takes longer than finding."""
    if detector is not None and not isinstance(detector, (str, os.PathLike)):
        if hasattr(detector, "find"):
            return detector
        raise ValueError(
            f"detector={detector!r} finds nothing; give a detector's folder, 'coco', or an object with a method `find` "
            "that takes PIL images and returns a table of boxes for each"
        )
    file = (SHIPPED if detector is None else Path(detector)) / WEIGHTS
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    return _load(None if detector is None else str(detector), device, changed)


@lru_cache(maxsize=4)
def _load(source: str | None, device: str, changed: int) -> Detector:
    return Detector.load(source, device)


def build_detector(side: int = 384, pretrained: bool = False) -> FCOS:
    """FCOS on Lite0's features at strides 8, 16, 32 and 64, untrained or with ImageNet weights below its head.

    It takes a list of float32 [3, H, W], 0 to 1, whose longer side is `side`, and in training also targets: `boxes`
    float32 [n, 4] in pixels and `labels` int64 [n], positions in `CLASSES`.
    """
    mean, std = normalisation("efficientnet_lite0")
    backbone: Any = _Pyramid()
    if pretrained:
        full, own = imagenet_model("efficientnet_lite0").state_dict(), backbone.body.state_dict()
        backbone.body.load_state_dict({name: full[name] for name in own})
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)  # the strides: FCOS has no other anchors
    head: Any = _Head(CHANNELS, 1, len(CLASSES), CONVOLUTIONS)
    # Sides start 3 strides away from their place, not at it, where half of the ReLUs after this layer would be dead.
    nn.init.constant_(head.regression_head.bbox_reg.bias, 3.0)
    return FCOS(
        *(backbone, len(CLASSES), side, side, list(mean), list(std), anchors, head),
        score_thresh=LOWEST,
        nms_thresh=OVERLAP,
    )


class _Pyramid(nn.Module):
    """Float32 [N, 3, H, W] -> a feature pyramid of four levels with `out_channels` channels each."""

    def __init__(self) -> None:
        super().__init__()
        body: Any = timm.create_model(TIMM_NAMES["efficientnet_lite0"], features_only=True, out_indices=(2, 3, 4))
        self.body, self.pyramid = body, FeaturePyramidNetwork(body.feature_info.channels(), CHANNELS)
        self.top = nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1)
        self.out_channels = CHANNELS

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        levels = self.pyramid(dict(zip("012", self.body(x.contiguous(memory_format=torch.channels_last)), strict=True)))
        levels["3"] = self.top(levels["2"])
        return {name: level.float() for name, level in levels.items()}  # anchors are made in this type


class _Head(FCOSHead):
    """torchvision's, in float32: boxes computed in bfloat16 would be off by pixels."""

    def forward(self, x: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: values.float() for name, values in super().forward(x).items()}


def _fused(module: nn.Module) -> nn.Module:
    """Multiply each BatchNorm into the convolution before it: the same outputs, 1.5 times as fast on a CPU."""
    children = list(module.named_children())
    for _, child in children:
        _fused(child)
    for (name, conv), (norm_name, norm) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms apply the activation, too
    return module


def _shrunk(photo: Image.Image, side: int) -> torch.Tensor:
    """Float32 [3, h, w], 0 to 1, whose longer side is `side`; small photos are enlarged."""
    scale = side / max(photo.size)
    width, height = (max(1, round(n * scale)) for n in photo.size)
    small = photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float().div_(255)


def _coco(source: Any) -> nn.Module:
    """torchvision's SSDLite320, with weights from a file or downloaded."""
    kinds = torchvision.models.detection
    build: Callable = kinds.ssdlite320_mobilenet_v3_large
    if str(source) != "coco":
        model = build(weights=None, weights_backbone=None, num_classes=91)
        try:
            model.load_state_dict(read_state_dict(Path(source)))
        except RuntimeError as error:
            raise ValueError(f"{source} does not hold SSDLite320; give {COCO_FILE} from torchvision") from error
        return model
    try:
        return build(weights=kinds.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors
        raise OSError(
            f"the COCO weights could not be downloaded ({error}). Three ways out: (1) bring {COCO_FILE} from a machine "
            "with network and give detector='path/to/the/file'; (2) leave `detector` out for the one that ships; "
            "(3) give boxes= of any other detector."
        ) from error
