"""The cars in a photo: anybody's boxes -> which cars to judge -> crops -> rows of the predictions.

Boxes are float pixels of the upright photo, from its upper left corner. No torch here: pictures need the crops, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from carclf.data.boxes import BOX, NO_CAR, SMALL, XY, by_path, checked, key_of
from carclf.data.photos import PhotoError, Source, read_photo, squish, upright_rgb

MARGIN = 0.08  # of a box's width and height, added on each side: on valid, 0.03 cost 1 to 3 points, 0.08 none
TOO_SMALL = 64  # pixels of a box's longer side: below that, a car gets no answer
CARS = ("whole", "main", "all")
PHOTOS = 4  # in memory at once, at full size
NOWHERE = [np.nan] * len(BOX)

Photo: TypeAlias = "Source | Image.Image | np.ndarray"
Boxes: TypeAlias = "pd.DataFrame | np.ndarray | Sequence | Callable[[Image.Image], Any] | None"
Finder: TypeAlias = "Callable[[Sequence[int], Sequence[Image.Image]], Sequence]"


def wanted(cars: str, boxes: Boxes = None, detector: Any = None) -> str:
    """One of `CARS`: boxes or a detector ask for all cars unless `cars` says more."""
    if boxes is not None and detector is not None:
        raise ValueError("boxes and a detector are given; leave one of them out")
    cars = "all" if cars == "find" else cars
    if cars not in CARS:
        raise ValueError(f"cars={cars!r} must be one of {', '.join(map(repr, CARS))}")
    return "all" if cars == "whole" and (boxes is not None or detector is not None) else cars


def one_car(cars: str, boxes: Boxes = None, detector: Any = None) -> dict[str, Any]:
    """These keywords of `Classifier.predict`; ValueError if they ask for several cars, of which a name tells one."""
    if wanted(cars, boxes, detector) == "all":
        raise ValueError(
            "all cars cannot be evaluated: the name of a file tells the brand of one car; pass cars='main', the "
            "largest, most central one, or, without boxes and detector, 'whole'"
        )
    return {"cars": cars, "boxes": boxes, "detector": detector}


def finder(names: Sequence[str], boxes: Boxes = None, detector: Any = None, device: str = "auto") -> Finder:
    """A function from photos (their rows, and the images) to the boxes of each.

    Parameters
    ----------
    names : of all photos, to look up tables with a column `path`
    boxes : a DataFrame with the columns x0 y0 x1 y1, and score if there is one; for several photos it also has `path`.
        Or anything that numpy makes a float array [n, 4] or more of: x0 y0 x1 y1, then the score. Or a function that
        takes a PIL image and returns one of these. A row of NaN stands for no car, as in a predictions table.
    detector : None for the one that ships, what `Detector.load` takes, or anything with a method `find` that takes
        PIL images and returns a table for each
    """
    if callable(boxes):
        ask = boxes
        return lambda rows, photos: [ask(photo) for photo in photos]
    if boxes is not None:
        of_photo = by_path(boxes, names)
        return lambda rows, photos: [of_photo.get(key_of(names[row]), []) for row in rows]
    model = import_module("carclf.model.detector").detector_of(detector, device)  # by its name, since it needs torch
    return lambda rows, photos: [_drawable(table) for table in model.find(photos)]


def opened(photo: Photo, at_least: int | None = None) -> Image.Image:
    """A path, bytes, open file, PIL image or uint8 array [h, w], [h, w, 3] or [h, w, 4] as `read_photo` gives it."""
    if isinstance(photo, np.ndarray):
        channels = 1 if photo.ndim == 2 else photo.shape[2] if photo.ndim == 3 else 0
        if photo.dtype != np.uint8 or channels not in (1, 3, 4):
            kind = f"an array of {photo.dtype} {list(photo.shape)}"
            raise PhotoError("unsupported", f"{kind}; give uint8 [h, w], [h, w, 3] (RGB) or [h, w, 4] (RGBA)")
        if not photo.size:
            raise PhotoError("empty", f"an array of {list(photo.shape)} has no pixels")
        photo = Image.fromarray(photo[..., 0] if photo.ndim == 3 and channels == 1 else photo)
    return upright_rgb(photo) if isinstance(photo, Image.Image) else read_photo(photo, at_least)


def select(boxes: pd.DataFrame, size: tuple[int, int], cars: str) -> pd.DataFrame:
    """The cars to judge, whatever the order of the boxes: "all" from left to right (x0, then y0), or the "main" one.

    The main one has the largest area · (1 - d / 2), where d is the distance from the middle of the box to that of the
    photo, 1 in a corner: ``d² = ((cx / W - ½)² + (cy / H - ½)²) / ½``. So a car in a corner counts half.
    """
    boxes = boxes.sort_values(BOX, kind="stable")
    if cars == "main" and len(boxes):
        x0, y0, x1, y1 = boxes[XY].to_numpy().T
        across, down = (x0 + x1) / 2 / size[0] - 0.5, (y0 + y1) / 2 / size[1] - 0.5
        weight = 1 - np.sqrt((across**2 + down**2) / 0.5) / 2
        boxes = boxes.iloc[[((x1 - x0) * (y1 - y0) * weight).argmax()]]
    return boxes.reset_index(drop=True)


def crop(photo: Image.Image, box: Sequence[float], margin: float = MARGIN) -> Image.Image:
    """What lies in a box x0, y0, x1, y1 and a margin of its width and height around it, clipped to the photo."""
    x0, y0, x1, y1 = (float(value) for value in list(box)[:4])
    across, down = margin * (x1 - x0), margin * (y1 - y0)
    left, upper = max(0, int(np.floor(x0 - across))), max(0, int(np.floor(y0 - down)))
    right, lower = min(photo.width, int(np.ceil(x1 + across))), min(photo.height, int(np.ceil(y1 + down)))
    if left >= right or upper >= lower:
        raise ValueError(f"the box {[x0, y0, x1, y1]} holds no pixel of a photo of {photo.size}; check it with checked")
    return photo.crop((left, upper, right, lower))


def has_boxes(table: Any) -> bool:
    """Whether it is a table with the columns x0, y0, x1, y1."""
    return isinstance(table, pd.DataFrame) and {*XY} <= set(table)


def box_of(row: Any) -> list[float] | None:
    """x0, y0, x1, y1 of a row of a predictions table (a Series or a tuple with names); None if it has no box."""
    box = [float(getattr(row, name, np.nan)) for name in XY]
    return None if np.isnan(box).any() else box


def judged(row: Any, photo: Photo | None = None, at_least: int | None = None) -> Image.Image:
    """What the model saw of a row's photo: its crop, or the whole photo if the row has no box.

    `photo` is its source, if not the row's path. With `at_least`, a whole photo is read as `read_photo` does.
    """
    source, box = row.path if photo is None else photo, box_of(row)
    return opened(source, at_least) if box is None else crop(opened(source), box, MARGIN)


def squares_of(predictions: pd.DataFrame, size: int, batch_size: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """What the model saw of the rows of a predictions table that have an answer: places in it, and squares."""
    answered = np.flatnonzero(predictions["predicted"].notna())
    for start in range(0, len(answered), batch_size):
        squares = {}
        for place in answered[start : start + batch_size]:
            with suppress(PhotoError):  # deleted since
                squares[int(place)] = squish(judged(predictions.iloc[place], at_least=2 * size), size)
        if squares:
            yield list(squares), np.stack(list(squares.values()))


def by_photo(predictions: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each photo, in the order of the table; a photo that was given twice comes twice."""
    again = predictions.groupby(["path", *(["car"] if "car" in predictions else [])], sort=False).cumcount()
    for _, rows in predictions.groupby([predictions["path"], again], sort=False):
        yield rows


def decide(table: pd.DataFrame, decision: np.ndarray) -> np.ndarray:
    """The decisions of a table's rows, given those of the model; nothing changes without box columns."""
    if not has_boxes(table):
        return decision
    xy = table[XY].to_numpy(float)
    nowhere = np.isnan(xy).any(1) & table["problem"].isna().to_numpy()
    return np.where(_too_small(xy), SMALL, np.where(nowhere, NO_CAR, decision)).astype(object)


def score(
    table: pd.DataFrame,
    photos: Sequence[Photo],
    problems: list[str | None],
    find: Finder,
    cars: str,
    size: int,
    batch_size: int,
    outputs: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    widths: tuple[int, int],
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Judge cars: a table with a row for each, and the logits and features of these rows; see `Classifier.score`.

    Parameters
    ----------
    table, photos, problems : as `photos_of` gives them; photos that cannot be read get a problem
    find, cars : see `finder` and `select`
    size : of the squares, uint8 [N, 3, size, size], of which `outputs` makes logits and features of these `widths`
    batch_size : squares at once

    Returns
    -------
    The rows of `table` for each car, or one for a photo without, with the columns

    ==============  =========================================================================================
    car             int: 0, 1, … within its photo
    x0, y0, x1, y1  float, pixels of the upright photo; NaN if no car was found, or the photo was not read
    score           float, 0 to 1: how sure whoever found the box was; NaN if they did not say
    problem         str, or missing
    ==============  =========================================================================================

    A car below `TOO_SMALL` keeps its box, and its logits are NaN; without a car, they are those of the whole photo.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more")
    rows: list[tuple[int, int, list[float]]] = []
    squares = _squares(rows, table["path"].tolist(), photos, problems, find, cars, size)
    places: list[int] = []
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    while batch := list(islice(squares, batch_size)):
        places += [place for place, _ in batch]
        parts.append(outputs(np.stack([square for _, square in batch])))
    found = []
    for kind, width in enumerate(widths):
        found.append(np.full((len(rows), width), np.nan, np.float32))
        if parts:
            found[-1][places] = np.concatenate([part[kind] for part in parts])
    numbers = [photo for photo, _, _ in rows]
    boxes = pd.DataFrame(np.array([box for _, _, box in rows], float).reshape(-1, len(BOX)), columns=BOX)
    table = table.iloc[numbers].reset_index(drop=True).assign(car=np.array([car for _, car, _ in rows], int))
    problem = pd.Series([problems[number] for number in numbers], table.index, dtype=object)
    return pd.concat([table, boxes], axis=1).assign(problem=problem), found[0], found[1]


def _squares(
    rows: list[tuple[int, int, list[float]]],
    names: Sequence[str],
    photos: Sequence[Photo],
    problems: list[str | None],
    find: Finder,
    cars: str,
    size: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """What is to be judged, squished, with its place in `rows`, which grows by every car: photo, car, box.

    Each photo is decoded once, at full size, as it is not known before how small its cars are. A large JPEG that is
    judged as a whole is read at a fraction of its size, so the logits of one without a car differ slightly from those.
    """
    starts = range(0, len(photos), PHOTOS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in tqdm(starts, "predict", unit="batch", leave=False, disable=len(starts) < 3):
            group = range(start, min(start + PHOTOS, len(photos)))
            readable = [i for i in group if problems[i] is None]
            images: dict[int, Image.Image] = {}
            for i, image in zip(readable, pool.map(_read, [photos[i] for i in readable]), strict=True):
                if isinstance(image, PhotoError):
                    problems[i] = str(image)
                else:
                    images[i] = image
            found = find(list(images), list(images.values())) if images else []
            boxes = dict(zip(images, found, strict=True))
            for i in group:
                if i not in images:
                    rows.append((i, 0, NOWHERE))
                    continue
                photo = images[i]
                chosen = select(checked(boxes[i], photo.size, names[i]), photo.size, cars).to_numpy()
                if not len(chosen):
                    rows.append((i, 0, NOWHERE))
                    yield len(rows) - 1, squish(photo, size)
                for car, (box, small) in enumerate(zip(chosen, _too_small(chosen), strict=True)):
                    rows.append((i, car, box.tolist()))
                    if not small:
                        yield len(rows) - 1, squish(crop(photo, box, MARGIN), size)


def _read(source: Photo) -> Image.Image | PhotoError:
    try:
        return opened(source)
    except PhotoError as error:
        return error


def _too_small(xy: np.ndarray) -> np.ndarray:
    """Whether boxes [n, 4 or more] are below `TOO_SMALL`; those of NaN are not."""
    return np.maximum(xy[:, 2] - xy[:, 0], xy[:, 3] - xy[:, 1]) < TOO_SMALL


def _drawable(found: pd.DataFrame) -> pd.DataFrame:
    """A detector's boxes without those of less than two pixels, which now and then lie on the photo's edge."""
    return found[(found["x1"] - found["x0"] >= 2) & (found["y1"] - found["y0"] >= 2)]
