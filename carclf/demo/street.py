"""Whole street pictures and short clips with drawn cars of several brands: every box and every identity is known.

The cars are painted by the painter of the demo photos, with the demo's proportions of each model, so that a
classifier that has learned the demo photos can name them. One camera sees a whole street, so sizes and views agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.random import Generator
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from carclf.demo.car import Car
from carclf.demo.folder import BRANDS, stream
from carclf.demo.picture import Camera, Painter, lens, sign
from carclf.demo.scenery import Lane, Street, empty_street

COLUMNS = ["x0", "y0", "x1", "y1", "brand", "model", "vehicle", "visible"]
MOST = 8  # cars in one picture: a street has room for no more that can be seen
SMALLEST = 0.042  # width of a car's box as a share of the picture's: 40 of 960 pixels
RETURN = 10  # seconds that a car needs to leave a clip and come back


class Seen(NamedTuple):
    """A car in one frame of a clip."""

    frame: int
    time: float  # seconds
    x0: float
    y0: float
    x1: float
    y1: float
    brand: str
    model: str
    vehicle: str
    visible: float  # share that neither another car nor the edge of the picture hides


_Vehicle = tuple[Car, tuple[str, str, str]]  # with its brand, model and name


class _Placed(NamedTuple):
    """A car on the street: what it is, and where its middle stands with the nose to `heading` (radians)."""

    car: Car
    names: tuple[str, str, str]  # brand, model, vehicle
    x: float
    y: float
    heading: float


def draw_street(seed: int = 0, size: tuple[int, int] = (960, 540), cars: int = 5) -> tuple[Image.Image, pd.DataFrame]:
    """Draw a street with cars; equal seeds give equal bytes on one machine.

    Returns
    -------
    image : PIL.Image.Image
        RGB, of this size.
    cars : DataFrame
        One row per car, near ones first: the box `x0 y0 x1 y1` in pixels, around what the picture would show of the
        car if nothing hid it, `brand`, `model`, `vehicle`, and `visible`: the share of the car, 0 to 1, that neither
        another car nor the edge of the picture hides.
    """
    if not 0 <= cars <= MOST:
        raise ValueError(f"cars is {cars}: give 0 to {MOST}, more find no room in one street")
    rng, vehicles, placed = stream(seed, "street"), _vehicles(seed, cars), []
    for attempt in range(200):
        if attempt % 20 == 0:  # this street has too little room for so many
            street = empty_street(size, rng)
        placed = _place(street, vehicles, size, rng)
        if len(placed) == cars:
            break
    else:
        raise ValueError(f"{cars} cars found no room in a picture of {size}: give fewer cars or another size")
    image, rows = _paint(street, placed)
    image = lens(size, street.light, stream(seed, "lens"))(image.reduce(2))
    return sign(image), pd.DataFrame(rows, columns=COLUMNS)


def clip_frames(
    seconds: float = 10,
    fps: float = 10,
    seed: int = 0,
    size: tuple[int, int] = (640, 360),
    cars: int = 4,
    returns: bool = False,
) -> Iterator[tuple[Image.Image, list[Seen]]]:
    """Yield the frames of a clip, and for each the cars in the picture, near ones first.

    The camera stands still. Cars drive through on two lanes, in pairs that meet in the middle of the picture, where the
    nearer one hides the farther one. With `returns`, the first car leaves and comes back on the farther lane. A car
    that is wholly hidden has a row with `visible` 0, one outside the picture has none.
    """
    if seconds <= 0 or fps <= 0 or cars < 0:
        raise ValueError(
            f"seconds is {seconds}, fps {fps}, cars {cars}: give seconds and fps above 0, cars of 0 or more"
        )
    if returns and (cars < 1 or seconds < RETURN):
        raise ValueError(f"seconds is {seconds}, cars {cars}: to leave and come back takes a car and {RETURN} seconds")
    rng = stream(seed, "clip")
    street = empty_street(size, rng, yaw=(44, 52), back=(5, 7), eye=(1.4, 1.7))
    look, traffic = lens(size, street.light, rng), _drives(street, _vehicles(seed, cars), seconds, returns, rng)
    look, noise = look._replace(gain=look.gain.astype(np.float32)), 0.4 * look.noise  # clips of full noise are large
    for frame in range(max(1, round(seconds * fps))):
        now = [drive(frame / fps) for drive in traffic]
        image, rows = _paint(street, [car for car in now if _seen(street, car)])
        look = look._replace(noise=np.roll(noise, rng.integers(noise.size), (0, 1)))
        yield sign(look(image.reduce(2))), [Seen(frame, frame / fps, *row) for row in rows]


def draw_clip(
    path: str | Path,
    seconds: float = 10,
    fps: float = 10,
    seed: int = 0,
    size: tuple[int, int] = (640, 360),
    cars: int = 4,
    returns: bool = False,
) -> pd.DataFrame:
    """Write the frames of `clip_frames` as an mp4.

    Returns
    -------
    DataFrame
        One row per car and frame, with the columns of `Seen`.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError('clips are written by PyAV, which is not installed: pip install "carclf[video]"') from error
    if size[0] % 2 or size[1] % 2:
        raise ValueError(f"size is {size}: width and height of a clip must be even")
    rows: list[Seen] = []
    frames = clip_frames(seconds, fps, seed, size, cars, returns)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"preset": "veryfast", "crf": "23"} if codec == "libx264" else {"b": "4000000"}  # bits a second
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        for image, seen in tqdm(
            frames, "drawing a clip", max(1, round(seconds * fps)), unit="frame", delay=2, leave=False
        ):
            container.mux(video.encode(av.VideoFrame.from_image(image)))
            rows += seen
        container.mux(video.encode())
    return pd.DataFrame(rows, columns=list(Seen._fields))


def _drives(
    street: Street, vehicles: list[_Vehicle], seconds: float, returns: bool, rng: Generator
) -> list[Callable[[float], _Placed]]:
    """Where each car is at a time in seconds. A pair of cars meets on the middle line of the picture."""
    passes = [(vehicle, i // 2, i % 2) for i, vehicle in enumerate(vehicles)]
    if returns:
        passes.append((vehicles[0], max(1, len(vehicles) // 2), 1))
    pairs = 1 + max((pair for _, pair, _ in passes), default=0)
    reach = max(seconds / 2 - 1.7, 0.75 * (pairs - 1)) if pairs > 1 else 0
    meet = seconds / 2 + np.linspace(-reach, reach, pairs)
    ahead, speeds = -street.camera.axes[2], rng.uniform(5.5, 7.5, 2)

    def drive(vehicle: _Vehicle, pair: int, side: int) -> Callable[[float], _Placed]:
        lane = street.driving[side]
        middle, heading = lane.y * ahead[0] / ahead[1], np.radians(lane.headings[0])
        speed = speeds[side] * np.cos(heading)
        return lambda time: _Placed(*vehicle, middle + speed * (time - meet[pair]), lane.y, heading)

    return [drive(*each) for each in passes]


def _seen(street: Street, placed: _Placed) -> bool:
    box, (w, h) = _reach(street.camera, placed), street.image.size
    return box is not None and bool((box[:2] < [w, h]).all() and (box[2:] > 0).all())


def _vehicles(seed: int, cars: int) -> list[_Vehicle]:
    """Different vehicles, of different brands as far as there are as many."""
    rng, made = stream(seed, "brands"), []
    names = list(BRANDS)
    order = [names[i] for _ in range(0, cars, len(names)) for i in rng.permutation(len(names))]
    for i, brand in enumerate(order[:cars]):
        model, vehicle = str(rng.choice(list(BRANDS[brand].models))), f"street {seed} car {i}"
        looks = stream(0, brand, model), stream(seed, "vehicle", vehicle)  # 0: proportions of the demo's own seed
        made.append((Car(BRANDS[brand].style, BRANDS[brand].models[model], *looks), (brand, model, vehicle)))
    return made


def _place(street: Street, vehicles: list[_Vehicle], size: tuple[int, int], rng: Generator) -> list[_Placed]:
    """Find room for cars: inside the picture, no two in one place, none wholly behind another; stops at a failure."""
    placed: list[_Placed] = []
    boxes: list[np.ndarray] = []
    lanes = [street.driving[0], *street.driving, *street.parking, *street.parking]
    for car, names in vehicles:
        for _ in range(60):
            lane = lanes[rng.integers(len(lanes))]
            depth = np.exp(rng.uniform(np.log(6), np.log(12 if not placed else 45)))
            at = _stand(street.camera, lane, depth, rng)
            candidate = _Placed(car, names, at, lane.y + rng.normal(0, 0.12), _heading(lane, rng))
            box = _reach(street.camera, candidate)
            if box is None or not _fits(box, boxes, size) or _bumps(candidate, placed, lane.room):
                continue
            placed.append(candidate)
            boxes.append(box)
            break
        else:
            break
    return placed


def _stand(camera: Camera, lane: Lane, depth: float, rng: Generator) -> float:
    """The x at which a car of this lane is about so deep in the picture, wherever the street leads."""
    ahead = -camera.axes[2]
    return float((depth - lane.y * ahead[1]) / ahead[0] + rng.normal(0, 1))


def _heading(lane: Lane, rng: Generator) -> float:
    return float(np.radians(lane.headings[rng.integers(len(lane.headings))] + rng.normal(0, 2)))


def _bumps(new: _Placed, placed: Sequence[_Placed], room: float) -> bool:
    return any(abs(new.x - old.x) < room and abs(new.y - old.y) < 2.4 for old in placed)


def _fits(box: np.ndarray, others: list[np.ndarray], size: tuple[int, int]) -> bool:
    """Whether a box is large enough, mostly inside the picture, and neither hides nor is hidden too much."""
    low, high = np.maximum(box[:2], 0), np.minimum(box[2:], 2 * np.array(size))
    if (high <= low).any() or box[2] - box[0] < SMALLEST * 2 * size[0] or box[2] - box[0] > 1.2 * size[0]:
        return False
    if (high - low).prod() < 0.8 * (box[2:] - box[:2]).prod():
        return False
    for other in others:
        shared = (np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])).clip(0).prod()
        if shared > 0.5 * min((box[2:] - box[:2]).prod(), (other[2:] - other[:2]).prod()):
            return False
    return True


def _own_camera(camera: Camera, placed: _Placed) -> Camera:
    """The camera of the street in the coordinates of a car."""
    c, s = np.cos(placed.heading), np.sin(placed.heading)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return Camera(turn @ (camera.eye - [placed.x, placed.y, 0]), camera.axes @ turn.T, camera.scale, camera.shift)


def _reach(camera: Camera, placed: _Placed) -> np.ndarray | None:
    """About the box of a car in pixels of the large picture; none if it is not wholly before the camera."""
    own, car = _own_camera(camera, placed), placed.car
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], float)
    cube *= [car.length / 2 + 0.1, car.half + 0.2, car.height]
    if ((own.eye - cube) @ own.axes[2]).min() < 1:
        return None
    seen = own(cube)
    return np.concatenate([seen.min(0), seen.max(0)])


def _paint(street: Street, placed: Sequence[_Placed]) -> tuple[Image.Image, list[tuple]]:
    """The large picture with cars, and their rows in pixels of the small one, near cars first."""
    image = street.image.copy()
    near_first = sorted(placed, key=lambda p: float(np.hypot(p.x, p.y)))
    painters = [Painter(image, p.car, _own_camera(street.camera, p)) for p in near_first]
    for painter in painters:  # a shadow lies on the ground, below every car
        painter.ground_shadow()
    for painter, p in zip(reversed(painters), reversed(near_first), strict=True):
        c, s = np.cos(p.heading), np.sin(p.heading)
        painter.paint_car(np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ street.sun)
    taken, rows = np.zeros((image.height, image.width), bool), []
    for painter, p in zip(painters, near_first, strict=True):
        if row := _row(painter.filled, taken):
            rows.append((*row[:4], *p.names, row[4]))
    return image, rows


def _row(outlines: list[np.ndarray], taken: np.ndarray) -> tuple[float, ...] | None:
    """Box in pixels of the small picture and visible share of what was filled; marks its pixels as taken."""
    points = np.concatenate(outlines)
    low, high = np.floor(points.min(0)).astype(int) - 1, np.ceil(points.max(0)).astype(int) + 2
    canvas = Image.new("1", tuple((high - low).tolist()))
    draw = ImageDraw.Draw(canvas)
    for outline in outlines:
        draw.polygon((outline - low).ravel().tolist(), 1)
    mask = np.asarray(canvas)
    (x, y), (w, h) = low.tolist(), taken.shape[::-1]
    left, top = max(0, -x), max(0, -y)
    inside = mask[top : max(0, h - y), left : max(0, w - x)]  # the part in the picture
    if not inside.any():
        return None
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    x, y = x + left, y + top
    before = taken[y : y + inside.shape[0], x : x + inside.shape[1]]
    visible = int((inside & ~before).sum()) / int(mask.sum())
    before |= inside
    box = np.array([x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1]) / 2
    return (*box.tolist(), visible)
