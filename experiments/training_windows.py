"""The photos that teach the detector, and the changed windows of them that it sees; used by `detector.py`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.transforms import v2
from tqdm.auto import tqdm

from carclf.data.photos import PhotoError, read_photo
from carclf.demo.street import draw_street

CARS = {"car", "suv", "van", "pickup", "minivan", "taxi", "policecar", "ambulance"}
KEPT_SIDE = 512  # longer side of photos in memory; training never shows them much larger
SIDE = 384  # longer side at which the detector sees photos in use
BATCH = 16


@dataclass(frozen=True)
class Photo:
    """One training photo: uint8 [h, w, 3], boxes float32 [n, 4] in its pixels, and labels int64 [n] as in `CLASSES`."""

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    name: str = ""


def read_boxes(folder: Path) -> list[Photo]:
    """The boxed photos, in order of their names; boxes other than cars are labelled as other vehicles."""
    table = pd.read_csv(folder / "boxes.csv", dtype={"file": str}).sort_values("file", kind="stable")
    photos = []
    for file, rows in tqdm(table.groupby("file", sort=True), "read boxed photos", leave=False):
        pixels = shrunk(folder / "photos" / str(file))
        if pixels is None:
            continue
        rows = rows.dropna(subset=["x0"])
        boxes = rows[["x0", "y0", "x1", "y1"]].to_numpy(np.float32) * np.tile(pixels.shape[1::-1], 2)
        labels = np.where(rows["class"].isin(CARS), 0, 1)
        photos.append(Photo(pixels, boxes.astype(np.float32), labels, str(file)))
    return photos


def read_all(paths: Sequence[str]) -> list[Photo]:
    """Photos without boxes; unreadable ones are left out."""
    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(shrunk, paths), "read photos", len(paths), leave=False))
    none = np.zeros((0, 4), np.float32), np.zeros(0, int)
    return [
        Photo(pixels, *none, Path(path).name) for path, pixels in zip(paths, found, strict=True) if pixels is not None
    ]


def shrunk(path: str | Path) -> np.ndarray | None:
    """Pixels of a photo whose longer side is at most `KEPT_SIDE`; None if it is unreadable."""
    try:
        image = read_photo(path)
    except PhotoError as error:
        print(f"left out: {path}: {error}")
        return None
    image.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return np.asarray(image)


def whole(photo: Photo) -> Photo:
    """The same photo with one box, the whole of it."""
    h, w = photo.pixels.shape[:2]
    return replace(photo, boxes=np.array([[0, 0, w, h]], np.float32), labels=np.zeros(1, int))


def street(seed: int) -> Photo:
    """A drawn street, so that the demo's own pictures are understood, too."""
    image, table = draw_street(seed, cars=seed % 6)
    table = table[table.visible >= 0.4]
    image_small = image.copy()
    image_small.thumbnail((KEPT_SIDE, KEPT_SIDE))
    boxes = table[["x0", "y0", "x1", "y1"]].to_numpy(np.float32) * (image_small.width / image.width)
    return Photo(np.asarray(image_small), boxes, np.zeros(len(table), int), f"drawn {seed}")


def batch(photos: dict, odds: dict, side: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[dict]]:
    """Windows of changed photos, float32 [BATCH, 3, side, side], 0 to 1, and their boxes."""
    pixels, targets = [], []
    for _ in range(BATCH):
        canvas, boxes, labels = window(photos, odds, side, rng)
        pixels.append(np.asarray(canvas))
        targets.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)})
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
    return recoloured(x, rng), targets


def pick_photo(photos: dict, odds: dict, rng: np.random.Generator, without: str = "") -> tuple[Photo, str]:
    """A random photo of a random kind."""
    kinds = [k for k in odds if k != without]
    chance = np.array([odds[k] for k in kinds])
    kind = kinds[rng.choice(len(kinds), p=chance / chance.sum())]
    return photos[kind][rng.integers(len(photos[kind]))], kind


def window(photos: dict, odds: dict, side: int, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """One training picture: a photo at a random scale and place, or a mosaic of four."""
    canvas = Image.new("RGB", (side, side), (127, 127, 127))
    if rng.random() < 0.3:
        cut = rng.integers(int(0.3 * side), int(0.7 * side), 2)
        cells = [(0, 0, *cut), (cut[0], 0, side, cut[1]), (0, cut[1], cut[0], side), (*cut, side, side)]
        parts = [place(canvas, pick_photo(photos, odds, rng, "tight")[0], cell, (0.8, 1.8), rng) for cell in cells]
    else:
        photo, kind = pick_photo(photos, odds, rng)
        parts = [place(canvas, photo, (0, 0, side, side), (1.0, 1.15) if kind == "tight" else None, rng)]
    boxes, labels = (np.concatenate(found) for found in zip(*parts, strict=True))
    return canvas, boxes.astype(np.float32), labels.astype(np.int64)


def place(canvas, photo: Photo, cell, cover, rng) -> tuple[np.ndarray, np.ndarray]:
    """Paste a photo into a cell of the canvas, and give its boxes there.

    `cover` (low, high): each side is that much longer than the cell's; None: at a random scale around that of use.
    """
    left, upper, right, lower = map(int, cell)
    w, h = right - left, lower - upper
    height, width = photo.pixels.shape[:2]
    if cover is None:
        scale = SIDE / max(width, height) * np.exp(rng.uniform(np.log(0.5), np.log(1.7)))
        scales = scale * np.exp(rng.uniform(-0.12, 0.12, 2))
    elif cover[0] >= 1:  # squished: the car touches all sides, or is cut
        scales = np.array([w / width, h / height]) * rng.uniform(*cover, 2)
    else:
        scales = max(w / width, h / height) * rng.uniform(*cover) * np.exp(rng.uniform(-0.12, 0.12, 2))
    size = np.maximum(1, np.round(scales * (width, height))).astype(int)
    offset = [int(rng.integers(min(0, room), max(0, room) + 1)) for room in (w - size[0], h - size[1])]
    # The part of the photo that is inside the cell, resampled alone.
    low = np.maximum(0, np.negative(offset))
    high = np.minimum(size, np.subtract((w, h), offset))
    source = [low[0] / scales[0], low[1] / scales[1], min(width, high[0] / scales[0]), min(height, high[1] / scales[1])]
    image = Image.fromarray(photo.pixels).resize(
        tuple(int(n) for n in high - low), Image.Resampling.BILINEAR, box=source
    )
    mirrored = rng.random() < 0.5
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    corner = np.add(offset, low)
    canvas.paste(image, (int(left + corner[0]), int(upper + corner[1])))
    boxes = photo.boxes * np.tile(scales, 2) + np.tile(offset, 2)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    limits = np.tile(corner, 2) + np.array([0, 0, *(high - low)])
    clipped = np.stack([boxes[:, i].clip(limits[i % 2], limits[2 + i % 2]) for i in range(4)], 1)
    if mirrored:
        clipped[:, [0, 2]] = limits[0] + limits[2] - clipped[:, [2, 0]]
    sides = clipped[:, 2:] - clipped[:, :2]
    seen = (np.prod(sides, axis=1) >= 0.3 * area) & (sides.max(1, initial=0) >= 8) & (sides.min(1, initial=99) >= 3)
    return clipped[seen] + np.tile((left, upper), 2), photo.labels[seen]


def recoloured(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Other light, colour and sharpness for each photo."""
    n = len(x)

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (n, 1, 1, 1))).float()

    grey = x.mean(1, keepdim=True)
    saturation = draw(0.4, 1.5) * torch.from_numpy(rng.random((n, 1, 1, 1)) > 0.12).float()
    x = grey + saturation * (x - grey)
    x = x * draw(0.65, 1.25) * torch.from_numpy(rng.uniform(0.9, 1.1, (n, 3, 1, 1))).float()
    middle = x.mean((1, 2, 3), keepdim=True)
    x = middle + draw(0.6, 1.35) * (x - middle)
    if rng.random() < 0.3:
        some = torch.from_numpy(np.flatnonzero(rng.random(n) < 0.4))
        if len(some):
            x[some] = v2.functional.gaussian_blur(x[some], [5, 5], [float(rng.uniform(0.4, 1.6))])
    return (x + draw(0, 0.03) * torch.randn(x.shape)).clamp(0, 1)
