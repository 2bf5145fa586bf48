"""How good boxes are: COCO's AP50, the share of cars found, and boxes in photos without cars; used by `detector.py`."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou
from training_windows import Photo

from carclf.model.detector import Detector

THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)


def measure(model: Detector, photos: list[Photo]) -> dict:
    """How the detector does on photos of a set that it has not seen.

    For cars of at least 48 and 96 pixels (longer side, where the photo's is 512): how many there are, AP50, and the
    share found with an IoU of 0.5 at each of `THRESHOLDS`. And the scores of all boxes in photos without any vehicle.
    """
    tables = []
    for start in range(0, len(photos), 32):
        tables += model.find([Image.fromarray(p.pixels) for p in photos[start : start + 32]], 0.05)
    result: dict = {"photos": len(photos)}
    for least in (48, 96):
        best = np.concatenate([best_scores(p, t, least) for p, t in zip(photos, tables, strict=True)])
        result[f"cars of {least} px"] = len(best)
        result[f"AP50 {least} px"] = round(average_precision(photos, tables, least), 4)
        result[f"found {least} px"] = {t: round(float((best >= t).mean()), 4) for t in THRESHOLDS}
    empty = [table.score for photo, table in zip(photos, tables, strict=True) if not len(photo.boxes)]
    scores = sorted(float(score) for score in np.concatenate(empty)) if empty else []
    return result | {"photos without vehicles": len(empty), "false scores": [round(s, 3) for s in scores]}


def best_scores(photo: Photo, table: pd.DataFrame, least: float) -> np.ndarray:
    """The best score of a box on each car of at least `least` pixels (IoU of 0.5 or more); 0 if there is none."""
    truth = photo.boxes[photo.labels == 0]
    truth = truth[(truth[:, 2:] - truth[:, :2]).max(1, initial=0) * 512 / max(photo.pixels.shape) >= least]
    boxes = torch.tensor(table[["x0", "y0", "x1", "y1"]].to_numpy(), dtype=torch.float32)
    hit = box_iou(torch.from_numpy(truth), boxes).numpy() >= 0.5
    return np.where(hit, table.score.to_numpy()[None], 0).max(1, initial=0)


def average_precision(photos: list[Photo], tables: list[pd.DataFrame], least: float) -> float:
    """COCO's AP at an IoU of 0.5 of cars whose longer side has `least` pixels if the photo's longer side has 512.

    Smaller cars and other vehicles count neither as misses nor, if boxed, as false boxes.
    """
    truth, found = [], []
    for number, (photo, table) in enumerate(zip(photos, tables, strict=True), 1):
        scale = 512 / max(photo.pixels.shape)
        for box, label in zip(photo.boxes * scale, photo.labels, strict=True):
            x, y, w, h = map(float, (box[0], box[1], box[2] - box[0], box[3] - box[1]))
            side = max(w, h) if label == 0 else 0.0  # other vehicles are below every limit
            one = {"id": len(truth) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            truth.append(one | {"bbox": [x, y, w, h], "area": side**2})
        for x0, y0, x1, y1, score in table.to_numpy() * [scale, scale, scale, scale, 1]:
            found.append({"image_id": number, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score})
    if not found:
        return 0.0
    with redirect_stdout(StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": i + 1} for i in range(len(photos))], "annotations": truth}
        coco.dataset["categories"] = [{"id": 1}]
        coco.createIndex()
        detections = coco.loadRes(found)
        for d in detections.dataset["annotations"]:
            d["area"] = max(d["bbox"][2:]) ** 2
        evaluation = COCOeval(coco, detections, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[least**2, 1e10]], ["wanted"]
        evaluation.params.iouThrs, evaluation.params.maxDets = np.array([0.5]), [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"][0, :, 0, 0, 0].mean())
