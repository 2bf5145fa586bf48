"""The cars of the demo: shapes in metres, and what is specific to each brand, model and vehicle.

x points to the front of a car, y to its left, z up. The looks are caricatures, not statements about real cars.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

SPREAD = 0.04  # how far models of one brand deviate from its look, as a share of each measure: larger is harder


@dataclass(frozen=True)
class Style:
    """How the cars of one brand look; shapes are keys of the tables below, lengths are in metres."""

    grille: tuple[str, float, float, float]  # shape, half width, half height, middle as a share of the face
    bars: str  # what fills the grille: "-", "|" or "/" for each bar, "x" for a mesh
    lamps: str
    tail: str
    badge: str
    spokes: int
    stance: float = 1.0  # multiplies the height
    rake: float = 0.0  # moves the roof backwards, as a share of the length


# fmt: off
# Length and height in metres; where windscreen, roof and rear window start and where the rear window ends, as shares
# of the length from the nose; heights of bonnet and boot lid as shares of the height.
BODIES = {
    "hatch": (4.1, 1.48, .23, .42, .80, .965, .62, .62),
    "sedan": (4.7, 1.45, .27, .45, .68, .84, .61, .66),
    "wagon": (4.7, 1.48, .27, .44, .88, .975, .61, .64),
    "suv": (4.6, 1.70, .24, .40, .84, .970, .63, .63),
    "coupe": (4.4, 1.31, .32, .50, .62, .90, .63, .66),
}

# Outlines in [-1, 1]²: the first axis points away from the middle of the car, the second upwards.
GRILLES = {
    "box": [(-1, -1), (-1, 1), (1, 1), (1, -1)],
    "crown": [(-.8, -1), (-1, .2), (-.85, 1), (.85, 1), (1, .2), (.8, -1)],
    "hexagon": [(-.7, -1), (-1, .45), (-.8, 1), (.8, 1), (1, .45), (.7, -1)],
    "kidneys": [(.06, -1), (.06, 1), (.85, 1), (1, .4), (.8, -1)],
    "mouth": [(-.85, -1), (-1, .3), (-.95, 1), (.95, 1), (1, .3), (.85, -1)],
    "shield": [(0, -1), (-.6, -.35), (-1, 1), (1, 1), (.6, -.35)],
    "trapeze": [(-1, -1), (-.6, 1), (.6, 1), (1, -1)],
}


def ngon(n: int, r: float = 1.0, x: float = 0.0, y: float = 0.0) -> list[tuple[float, float]]:
    """The corners of a regular polygon, the first one on top."""
    return [(x + r * np.sin(a), y + r * np.cos(a)) for a in 2 * np.pi * np.arange(n) / n]


# Lamps: outline, half width, half height in metres, distance from the middle as a share of the half width.
LAMPS = {
    "block": ([(-1, -1), (-1, .8), (.8, 1), (1, -.8)], .20, .10, .74),
    "column": ([(-.2, -1), (-.6, 1), (.6, 1), (.8, -1)], .12, .24, .84),
    "egg": ([(x * .8, y) for x, y in ngon(14)], .15, .13, .72),
    "hammer": ([(-1, -.6), (-1, .9), (1, 1), (1, -1), (-.2, -1)], .21, .09, .76),
    "hook": ([(-1, -.1), (-1, .7), (1, 1), (1, -1), (.4, -1), (.2, -.1)], .22, .11, .74),
    "oval": (ngon(14), .19, .10, .72),
    "round": (ngon(14), .12, .12, .72),
    "slant": ([(-1, -.9), (-.9, .1), (1, 1), (.9, -.2)], .23, .10, .74),
    "slit": ([(-1, -.8), (-1, .3), (1, 1), (1, -.1)], .22, .055, .75),
    "square": ([(-1, -1), (-1, 1), (1, 1), (1, -1)], .14, .10, .78),
    "swept": ([(-1, -.9), (-1, .7), (.6, 1), (1, .5), (.9, -1)], .22, .09, .75),
    "twin": ([(-1, -1), (-1, 1), (1, .8), (1, -.4), (.6, -1)], .23, .08, .73),
    "wedge": ([(-1, -.7), (-.7, .6), (1, 1), (.6, -1)], .22, .12, .74),
}

CHROME, DARK, _BLUE, _RED = (226, 230, 236), (24, 25, 29), (38, 84, 170), (176, 30, 38)
_DISC = [(ngon(18), CHROME)]
BADGES = {
    "arrow": [(ngon(18, .8), CHROME), (ngon(18, .5), DARK), (ngon(3, .5, .7, .7), CHROME)],
    "crest": [([(-.7, 1), (.7, 1), (.7, -.2), (0, -1), (-.7, -.2)], (214, 176, 60)), (ngon(4, .5), _RED)],
    "hook": [*_DISC, (ngon(18, .8), DARK),
             ([(-.3, .7), (0, .7), (0, -.2), (.6, -.2), (.6, -.5), (-.5, -.5)], CHROME)],
    "oval": [([(a * x, b * y) for x, y in ngon(18)], c) for a, b, c in [(1.5, .8, CHROME), (1.3, .6, _BLUE)]],
    "plain": [([(-1.6, -.4), (-1.6, .4), (1.6, .4), (1.6, -.4)], CHROME)],
    "quarters": [(ngon(18), DARK), *[(ngon(4, .35, x, y), c) for x, y, c in
                 [(-.4, .4, _BLUE), (.4, .4, CHROME), (-.4, -.4, CHROME), (.4, -.4, _BLUE)]]],
    "ring": [*_DISC, (ngon(18, .75), (30, 96, 60)), (ngon(3, .5), CHROME)],
    "rings": [p for c in (-1.5, -.5, .5, 1.5) for p in ((ngon(14, .7, c), CHROME), (ngon(14, .45, c), DARK))],
    "roundel": [*_DISC, (ngon(18, .8), _BLUE), ([(-.7, .4), (0, -.7), (.7, .4), (0, -.2)], CHROME)],
    "star": [*_DISC, (ngon(18, .85), DARK), *[([(-.12, 0), (.12, 0), t], CHROME) for t in ngon(3, .9)]],
    "tee": [([(-1, 1), (1, 1), (.8, .6), (.2, .6), (0, -1), (-.2, .6), (-.8, .6)], CHROME)],
}
PAINTS = [(196, 199, 203), (236, 237, 238), (40, 42, 47), (92, 96, 102), (28, 52, 104), (150, 24, 30),
           (62, 104, 140), (38, 74, 54), (190, 160, 110), (206, 120, 40), (112, 66, 48)]
# fmt: on


class Car:
    """One vehicle: measures of its brand and model, its own paint and trim."""

    def __init__(self, style: Style, body: str, model: Generator, vehicle: Generator) -> None:
        length, height, *cuts, bonnet, deck = BODIES[body]
        stray = model.uniform(1 - SPREAD, 1 + SPREAD, 8)
        self.style = style
        self.length, self.height = length * stray[0] ** 0.4, height * style.stance * stray[1] ** 0.4
        self.half = 0.90 * stray[2] ** 0.3
        self.cuts = np.add(cuts, [0, style.rake + 0.1 * (stray[3] - 1), style.rake / 2, 0])
        self.bonnet, self.deck = np.array([bonnet, deck]) * stray[4] ** 0.3 * self.height
        self.floor, self.nose = 0.13 * self.height, 0.87 * self.bonnet
        self.radius = 0.21 * self.height + 0.01
        self.grille_scale, self.lamp_scale, self.lamp_tilt = stray[5], stray[6] ** 1.5, 2 * (stray[7] - 1)
        self.paint = np.clip(PAINTS[vehicle.integers(len(PAINTS))] + vehicle.normal(0, 9, 3), 12, 245)
        self.trim = (CHROME, DARK, self.paint * 0.8)[vehicle.choice(3, p=[0.6, 0.25, 0.15])]
        self.rim = (CHROME, (130, 133, 138), (60, 61, 64))[vehicle.integers(3)]
        self.glyphs = vehicle.uniform(0.3, 0.9, (7, 2))

    def shells(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield ("body" or "cabin", quads [n, 4, 3], outward unit normals [n, 3])."""
        stations = [0, 0.004, 0.02, 0.14, self.cuts[0], self.cuts[3], 0.985, 0.996, 1]
        z = [self.nose - 0.10, self.nose - 0.03, self.nose, self.bonnet - 0.03, self.bonnet]
        z += [self.deck, self.deck, self.deck - 0.06, self.deck - 0.16]
        s = np.concatenate([np.linspace(0, 0.12, 9), np.linspace(0.15, 0.87, 10), np.linspace(0.9, 1, 9)])
        top, width = np.interp(s, stations, z), self.half * _plan(s)
        waist = np.minimum(0.46 * self.height, top - 0.05)
        rings = [(np.full_like(s, self.floor), 0.95 * width), (waist, width), (top, 0.93 * width)]
        yield "body", *self._loft(s, rings)

        x, base, roof, lean = self.cabin()
        rings = [(base, np.full_like(x, 0.9 * self.half)), (roof, lean * self.half)]
        yield "cabin", *self._loft(0.5 - x / self.length, rings)

    def cabin(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Stations x, and at each the cabin's lower and upper height, and its upper width as a share of the car's."""
        windscreen, roof_start, roof_end, rear = self.cuts
        s = np.linspace(windscreen, rear, 25)
        heights = [self.bonnet, 0.975 * self.height, self.height, 0.97 * self.height, self.deck]
        roof = np.interp(s, [windscreen, roof_start, (roof_start + roof_end) / 2, roof_end, rear], heights)
        roof = np.convolve(np.pad(roof, 2, mode="edge"), np.ones(5) / 5, "valid")
        base = np.interp(s, [windscreen, rear], [self.bonnet, self.deck]) - 0.02
        lean = 0.90 - 0.20 * np.clip((roof - base) / (self.height - self.bonnet), 0, 1)
        return (0.5 - s) * self.length, base, np.maximum(roof, base), lean

    def _loft(self, s: np.ndarray, rings: list) -> tuple[np.ndarray, np.ndarray]:
        """Skin rings of (height, half width) at stations s in [0, 1]: two sides, a lid, two ends."""
        x = (0.5 - s) * self.length
        left = np.array([np.stack([x, w, z], 1) for z, w in rings])  # [rings, stations, 3]
        right = left * [1, -1, 1]
        parts = [(np.stack([a[:-1, :-1], a[:-1, 1:], a[1:, 1:], a[1:, :-1]], 2), axis)
                 for a, axis in ((left, [0, 1, 0]), (right, [0, -1, 0]))]  # fmt: skip
        parts.append((np.stack([left[-1, :-1], left[-1, 1:], right[-1, 1:], right[-1, :-1]], 1), [0, 0, 1]))
        for e, axis in ((0, [1, 0, 0]), (-1, [-1, 0, 0])):
            parts.append((np.stack([left[:-1, e], left[1:, e], right[1:, e], right[:-1, e]], 1), axis))
        quads = np.concatenate([q.reshape(-1, 4, 3) for q, _ in parts])
        axes = np.concatenate([np.tile(axis, (q.size // 12, 1)) for q, axis in parts])
        normals = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
        normals *= np.sign((normals * axes).sum(1, keepdims=True))
        return quads, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)

    def on_end(self, outline: np.ndarray, end: int) -> np.ndarray:
        """Wrap an outline [n, 2] of (y, z) around the nose (end=1) or the tail (end=-1): points [n, 3]."""
        y, z = np.asarray(outline, float).T
        off = np.clip(np.abs(y) / self.half, 0.78, 0.999)  # the inverse of _plan
        back = 0.12 * (1 - np.sqrt((1 - off) / 0.22)) * self.length
        return np.stack([end * (self.length / 2 - back + 0.01), y, z], 1)

    def disc(self, axle: int, radius: float, y: float) -> np.ndarray:
        """A disc [20, 3] around an axle (0 front, 1 rear), parallel to the side of the car."""
        x, z = np.array(ngon(20, radius)).T
        return np.stack([x + self.length * (0.315, -0.30)[axle], np.full(20, y), z + self.radius], 1)


def _plan(s: np.ndarray) -> np.ndarray:
    """Half width at s in [0, 1] from nose to tail, as a share of the largest: the corners are round."""
    return 1 - 0.22 * (1 - np.minimum(1, np.minimum(s, 1 - s) / 0.12)) ** 2


def box(y: float, z: float, half_width: float, half_height: float) -> np.ndarray:
    """A rectangle [4, 2] of (y, z)."""
    return np.array(GRILLES["box"]) * [half_width, half_height] + [y, z]


def bars_of(outline: np.ndarray, bars: str) -> Iterator[np.ndarray]:
    """Yield the bars of a grille as polygons [4, 2], each ending at the outline [n, 2]."""
    low, high = outline.min(0), outline.max(0)
    counts = (12, 6) if bars == "x" else (bars.count("|"), bars.count("-"))
    for axis, count in enumerate(counts):
        reach = high[axis] - low[axis]
        for share in (np.arange(count) + 0.5) / max(count, 1):
            cut = low[axis] + share * reach
            half = min(0.011, 0.22 * reach / count)
            if len(ends := _crossings(outline, axis, cut)) == 2:
                bar = box(cut, float(np.mean(ends)), half, (ends[1] - ends[0]) / 2)
                yield bar[:, ::-1] if axis else bar
    if "/" in bars:
        yield np.array([low, low + 0.02, high, high - 0.02])


def _crossings(outline: np.ndarray, axis: int, cut: float) -> list[float]:
    """Where the closed outline crosses the line on which coordinate `axis` equals cut, sorted."""
    a, b = outline, np.roll(outline, -1, 0)
    across = (a[:, axis] < cut) != (b[:, axis] < cut)
    share = (cut - a[across, axis]) / (b[across, axis] - a[across, axis])
    return sorted(a[across, 1 - axis] + share * (b[across, 1 - axis] - a[across, 1 - axis]))
