"""An empty street in space: sky, houses, trees, people, pavements and a road with lanes, seen by one camera.

World coordinates are metres: x along the street, y across it, z up; the camera stands at x = y = 0. Everything that
stands on the ground is beyond the road or behind the camera's back, so nothing but a car ever hides a car.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from carclf.demo.picture import PLACES, Camera, Colour

NEAR = 0.5  # metres before the camera at which polygons are cut
FAR = 400.0  # metres: the end of the street
LANE, BAY = 3.3, 2.2  # widths in metres
_PARKED = (180, 180, 180, 0)  # most show the camera their noses, as in the demo photos
_OUTSIDE = ["city", "field", "desert", "dusk", "night", "snow"]  # the places of the demo photos that have a sky


@dataclass(frozen=True)
class Lane:
    """Where cars stand or drive."""

    y: float
    headings: tuple[float, ...]  # directions of the nose to choose from, in degrees from the x axis
    room: float  # metres along the street that a car needs


@dataclass
class Street:
    """An empty street: its picture, twice as large as asked for, and what it takes to put cars on it."""

    image: Image.Image
    camera: Camera
    light: float
    sun: np.ndarray
    driving: list[Lane]  # two lanes: the nearer one comes towards the camera, the farther one goes away
    parking: list[Lane]


class _Brush:
    """Fills polygons of the world; far ones fade into the haze."""

    def __init__(self, image: Image.Image, camera: Camera, haze: np.ndarray) -> None:
        self.draw, self.camera, self.haze = ImageDraw.Draw(image), camera, haze

    def depth(self, points: ArrayLike) -> np.ndarray:
        return (self.camera.eye - np.asarray(points, float)) @ self.camera.axes[2]

    def shade(self, colour: Colour, depth: float) -> tuple[int, ...]:
        share = _haze_share(depth)
        return tuple(np.clip(np.array(colour) * (1 - share) + self.haze * share, 0, 255).astype(int).tolist())

    def fill(self, points: ArrayLike, colour: Colour, hazy: bool = True) -> None:
        """Fill the polygon of points [n, 3], cut off behind the camera."""
        points = np.asarray(points, float)
        depth = self.depth(points)
        if (depth < NEAR).all():
            return
        if (depth < NEAR).any():
            points = _cut(points, depth)
        depth_shown = float(depth.clip(NEAR).mean()) if hazy else 0.0
        self.draw.polygon(self.camera(points).ravel().tolist(), self.shade(colour, depth_shown))

    def strip(self, y0: float, y1: float, colour: Colour, x0: float = -FAR, x1: float = FAR) -> None:
        """Fill a rectangle on the ground, without haze."""
        self.fill([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)], colour, hazy=False)

    def haze_ground(self, image: Image.Image) -> None:
        """Fade the ground: its depth is that of its row."""
        top = int(self.camera.shift[1])
        depth = self.camera.eye[2] * self.camera.scale / (np.arange(image.height - top) + 0.5)
        share = Image.fromarray((255 * _haze_share(depth)).astype(np.uint8)[:, None])
        colour = tuple(self.haze.astype(int).tolist())
        image.paste(colour, (0, top, image.width, image.height), share.resize((image.width, image.height - top)))

    def quads(self, quads: np.ndarray, colours: np.ndarray) -> None:
        """Fill quads [n, 4, 3] with colours [n, 3], leaving out what is not wholly before the camera."""
        depth = self.depth(quads)
        for outline, colour, d in zip(self.camera(quads), colours, depth, strict=True):
            if d.min() > NEAR:
                self.draw.polygon(outline.ravel().tolist(), self.shade(colour, d.mean()))

    def blob(self, at: ArrayLike, wide: float, high: float, colour: Colour) -> None:
        """Fill an upright ellipse with a middle and half axes in metres."""
        if (depth := float(self.depth(at))) > NEAR:
            (u, v), r = self.camera(np.asarray(at, float)), self.camera.scale / depth
            box = [u - wide * r, v - high * r, u + wide * r, v + high * r]
            self.draw.ellipse(box, self.shade(colour, depth))


def _haze_share(depth: ArrayLike) -> np.ndarray:
    return 1 - np.exp(-np.asarray(depth) / 150)


def _cut(points: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The part of a polygon that is before the camera."""
    kept = []
    for a, b, da, db in zip(points, np.roll(points, -1, 0), depth, np.roll(depth, -1), strict=True):
        if da >= NEAR:
            kept.append(a)
        if (da >= NEAR) != (db >= NEAR):
            kept.append(a + (b - a) * (NEAR - da) / (db - da))
    return np.array(kept)


Range = tuple[float, float]


def empty_street(
    size: tuple[int, int], place: Generator, yaw: Range = (14, 52), back: Range = (2.0, 5.5), eye: Range = (1.6, 3.0)
) -> Street:
    """Draw a street without cars, twice as large as `size`: halved, its edges are smooth.

    The camera looks along the street, turned towards it by `yaw` degrees, from `back` metres behind the kerb and `eye`
    metres above the ground.
    """
    (w, h), side = (2 * size[0], 2 * size[1]), place.choice([-1, 1])
    *colours, light = PLACES[_OUTSIDE[place.integers(len(_OUTSIDE))]]
    sky, haze, far, near, things = (np.clip(np.array(c) + place.normal(0, 9, 3), 0, 255) for c in colours)
    turn, horizon = np.radians(place.uniform(*yaw)) * side, place.uniform(0.36, 0.48)
    out = -np.array([np.cos(turn), np.sin(turn), 0])
    axes = np.array([[np.sin(turn), -np.cos(turn), 0], [0, 0, -1], out])
    stand, scale = np.array([0, 0, place.uniform(*eye)]), w * place.uniform(0.8, 1.05)
    camera = Camera(stand, axes, scale, np.array([w / 2, horizon * h]))

    image = _sky((w, h), horizon, sky, haze, things, place)
    brush = _Brush(image, camera, haze)
    driving, parking, kerb = _road(brush, side, place.uniform(*back), far, near, place)
    brush.haze_ground(image)
    _surroundings(brush, side, kerb, sky, far, things, light, place)
    sun = np.array([*place.normal(0, 0.5, 2), 0.8]) + 0.6 * out
    return Street(image, camera, light, sun / np.linalg.norm(sun), driving, parking)


def _sky(
    size: tuple[int, int], horizon: float, sky: np.ndarray, haze: np.ndarray, things: np.ndarray, place: Generator
) -> Image.Image:
    """Sky with clouds, and a skyline far away."""
    w, h = size
    y = np.linspace(0, 1, h)[:, None]
    column = sky + (haze - sky) * np.clip(y / horizon, 0, 1)
    image = Image.fromarray(np.broadcast_to(column[:, None], (h, w, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(place.integers(0, 6)):
        x, z, wide = place.uniform(0, w), place.uniform(0, horizon * h * 0.7), place.uniform(0.05, 0.2) * w
        for dx, dz, r in zip(*place.uniform(-1, 1, (2, 7)), place.uniform(0.3, 0.6, 7), strict=True):
            box = [x + (dx - r) * wide, z + (dz - r) * wide * 0.2, x + (dx + r) * wide, z + (dz + r) * wide * 0.2]
            draw.ellipse(box, (*np.clip(haze + 14, 0, 255).astype(int).tolist(), 46))
    for x in np.arange(0, 1, 0.05):
        tall, shade = place.uniform(0.01, 0.09), np.clip(0.55 * haze + 0.45 * things * place.uniform(0.8, 1.1), 0, 255)
        draw.rectangle([x * w, (horizon - tall) * h, (x + 0.06) * w, horizon * h], (*shade.astype(int).tolist(), 255))
    return image


def _road(
    brush: _Brush, side: int, kerb: float, far: np.ndarray, near: np.ndarray, place: Generator
) -> tuple[list[Lane], list[Lane], float]:
    """Paint ground, pavements, road and markings; the lanes for driving and parking, and where the far kerb is."""
    asphalt = np.clip(np.array([84, 85, 88]) * place.uniform(0.8, 1.25) * 0.6 + 0.4 * near, 0, 255)
    stone, white = np.clip(asphalt * 1.3 + 14, 0, 250), np.clip(asphalt * 0.4 + 140, 0, 255)
    brush.strip(-FAR, FAR, far)
    brush.strip(side * -4.0, side * kerb, stone)
    parking: list[Lane] = []
    y = kerb
    if place.random() < 0.5:
        parking.append(Lane(side * (y + BAY / 2), _PARKED, 5.6))
        y += BAY
    first = y
    driving = [Lane(side * (y + LANE / 2), (180,), 7.0), Lane(side * (y + 1.5 * LANE), (0,), 7.0)]
    y += 2 * LANE
    last, kind = y, place.choice(["none", "along", "across"], p=[0.35, 0.4, 0.25])
    if kind == "along":
        parking.append(Lane(side * (y + BAY / 2), _PARKED, 5.6))
        y += BAY
    elif kind == "across":
        parking.append(Lane(side * (y + 2.7), (90, 270), 2.7))
        y += 5.2
    brush.strip(side * kerb, side * y, asphalt)
    brush.strip(side * y, side * (y + 3), stone)
    for edge in (kerb, y):
        brush.strip(side * (edge - 0.1), side * (edge + 0.1), stone * 0.72)
    middle, cut = (first + last) / 2, place.uniform(2, 4)
    for x in np.arange(-10, 150, cut * 2.2):
        brush.strip(side * (middle - 0.07), side * (middle + 0.07), white, x, x + cut)
    for edge, has in ((first, first > kerb), (last, last < y)):
        if has:
            brush.strip(side * (edge - 0.06), side * (edge + 0.06), white * 0.9)
    if kind == "across":
        for x in np.arange(-8, 120, 2.7):
            brush.strip(side * last, side * y, white * 0.9, x - 0.05, x + 0.05)
    if place.random() < 0.3:  # a crossing
        at = place.uniform(6, 40)
        for share in np.arange(first + 0.3, last, 0.9):
            brush.strip(side * share, side * (share + 0.5), white, at, at + 3)
    return driving, parking, y


def _surroundings(
    brush: _Brush,
    side: int,
    kerb: float,
    sky: np.ndarray,
    far: np.ndarray,
    things: np.ndarray,
    light: float,
    place: Generator,
) -> None:
    """Houses, trees, lamp posts and people on both sides, far ones first."""
    density = place.choice([0.15, 0.6, 1.0], p=[0.25, 0.35, 0.4])  # a park, a suburb, a town
    line, low, high = kerb + 3 + place.uniform(0, 4) * (density < 1), 5.0, place.uniform(8, 22 if density == 1 else 9)
    jobs = []
    for y, start in ((side * line, -10.0), (side * -4.2, 1.0)):
        x = start
        while x < 160:
            wide = place.uniform(7, 18)
            if place.random() < density:
                jobs.append((x, y, "house", wide))
            elif y * side > 0 or place.random() < 0.5:
                jobs.append((x + wide / 2, y + np.sign(y) * place.uniform(0, 8), "tree", 0.0))
            x += wide * (1 if density == 1 else place.uniform(1.05, 1.5))
    gap = place.uniform(6, 14)
    if place.random() < 0.6:
        jobs += [(x, side * (kerb + 1), "tree", 0.0) for x in np.arange(place.uniform(-8, 6), 120, gap)]
    if place.random() < 0.7:
        jobs += [(x, side * (kerb + 0.5), "post", 0.0) for x in np.arange(place.uniform(0, 20), 150, 22)]
    for _ in range(place.integers(0, 5)):
        jobs.append((place.uniform(2, 40), side * (kerb + place.uniform(0.6, 2.6)), "person", 0.0))
    tint, crown = 0.5 * things + 0.5 * np.array([150, 135, 120]), 0.5 * np.array([66, 104, 52]) + 0.3 * things
    jobs.sort(key=lambda job: -np.hypot(job[0] + job[3] / 2, job[1]) - 30 * (job[2] == "house"))
    for x, y, what, wide in jobs:
        if what == "house":
            wall = np.clip(tint * place.uniform(0.7, 1.4) + place.normal(0, 14, 3), 15, 240)
            _house(brush, x, x + wide, y, place.uniform(low, high), wall, sky, light, density < 1, place)
        elif what == "tree":
            _tree(brush, x, y, np.clip(crown + place.normal(0, 10, 3), 8, 240), place)
        elif what == "post":
            brush.fill([(x, y, 0), (x + 0.14, y, 0), (x + 0.14, y, 6.5), (x, y, 6.5)], (70, 72, 76))
            brush.fill([(x, y, 6.4), (x, y - np.sign(y) * 1.6, 6.5), (x, y, 6.6)], (70, 72, 76))
        else:
            _person(brush, x, y, place)


def _house(
    brush: _Brush,
    x0: float,
    x1: float,
    y: float,
    height: float,
    wall: np.ndarray,
    sky: np.ndarray,
    light: float,
    pitched: bool,
    place: Generator,
) -> None:
    """A wall with rows of windows, a roof, and the side wall that faces the camera."""
    deep = np.sign(y) * 9
    if x0 > 0:
        gable = [(y, 0), (y + deep, 0), (y + deep, height), (y + deep / 2, height + 3 * pitched), (y, height)]
        brush.fill([(x0, across, up) for across, up in gable], wall * 0.72)
    if pitched:
        tiles = np.array([[120, 62, 48], [84, 84, 90], [96, 70, 56]][place.integers(3)]) * place.uniform(0.8, 1.1)
        eaves, ridge = ((y, height), (y + deep / 2, height + 3))
        brush.fill([(x0, *eaves), (x1, *eaves), (x1, *ridge), (x0, *ridge)], tiles)
    brush.fill([(x0, y, 0), (x1, y, 0), (x1, y, height), (x0, y, height)], wall)
    if not pitched:
        brush.fill([(x0, y, height - 0.4), (x1, y, height - 0.4), (x1, y, height), (x0, y, height)], wall * 0.8)
    floors, columns = max(1, int(height / 3.1)), max(2, int((x1 - x0) / place.uniform(2.2, 3.4)))
    step, wide, tall = (x1 - x0) / columns, place.uniform(0.25, 0.36), place.uniform(0.9, 1.7)
    x, z = (grid.ravel() for grid in np.meshgrid((np.arange(columns) + 0.5) * step + x0, 1.0 + 3.0 * np.arange(floors)))
    keep = z + tall < height - 0.3
    x, z, half = x[keep], z[keep], wide * step
    glass = np.clip(0.35 * sky + [18, 22, 28], 0, 255) * place.uniform(0.6, 1.2, (len(x), 1))
    lit = place.random(len(x)) < (0.45 if light < 0.82 else 0.04)
    glass = np.where(lit[:, None], [236, 204, 132], glass)
    for grow, colours in ((0.12, np.tile(np.clip(wall * 1.25 + 10, 0, 250), (len(x), 1))), (0.0, glass)):
        low, high = z - grow, z + tall + grow
        corners = [(x - half - grow, low), (x + half + grow, low), (x + half + grow, high), (x - half - grow, high)]
        quads = np.stack([np.stack([cx, np.full_like(cx, y), cz], -1) for cx, cz in corners], 1)
        brush.quads(quads, colours)


def _tree(brush: _Brush, x: float, y: float, green: np.ndarray, place: Generator) -> None:
    high, wide = place.uniform(3.5, 7.5), place.uniform(1.0, 2.2)
    brush.fill([(x - 0.15, y, 0), (x + 0.15, y, 0), (x + 0.1, y, high), (x - 0.1, y, high)], (74, 58, 46))
    for dx, dz, r, shade in place.uniform([-0.7, -0.6, 0.45, 0.75], [0.7, 0.7, 0.75, 1.2], (11, 4)):
        brush.blob((x + dx * wide, y, high + dz * wide), r * wide, r * wide, green * shade)


def _person(brush: _Brush, x: float, y: float, place: Generator) -> None:
    """A person standing on the pavement."""
    coat, legs, tall = place.uniform(30, 200, 3), place.uniform(25, 90, 3), place.uniform(0.92, 1.06)
    for dx in (-0.09, 0.09):
        brush.blob((x + dx, y, 0.42 * tall), 0.085, 0.44 * tall, legs)
    brush.blob((x, y, 1.12 * tall), 0.24, 0.36 * tall, coat)
    brush.blob((x, y, 1.60 * tall), 0.11, 0.14 * tall, (190, 150, 124))
