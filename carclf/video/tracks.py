"""Boxes of one frame after the other -> numbers of cars: which box shows the car of which earlier box.

At five frames a second a car moves by up to more than its own width, so boxes of one car often do not overlap, and kept
trackers, which ask how much they do, lose it or mix it with its neighbour. Here a car is expected where its speed takes
it, and boxes are assigned to cars at the least total distance, counted in sizes of the boxes; other colours add to it.
A car that leaves the picture does not turn back: what comes in there is another one.
A column of cars that keep less than twice the distance which they drive between two frames cannot be followed; then
frames must be closer, too.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

PATIENCE = 1.4  # seconds that a car may be hidden; one that comes back later counts as another
LOOK = 4 * 3 * 3  # numbers that describe the colours of a box
UNLIKE = 12.0  # distance, in sizes of the boxes, for one of colour, 0 to 1
EDGE = 0.01  # of the picture: boxes that come so close touch its edge
FAR = 1e6  # a distance at which nothing is assigned


class Tracker:
    """Numbers the cars of a clip; equal boxes give equal numbers. Frames are about `every` seconds apart."""

    def __init__(self, every: float = 0.2) -> None:
        self.patience = max(PATIENCE, 2.2 * every)  # at least one frame may miss a car
        self._least = 1.2 * every
        self._ids = np.empty(0, int)
        self._seen = np.empty(0)  # seconds: when each car was last seen
        self._frames = np.empty(0, int)  # how often
        self._at = np.empty((0, 4))  # middle x and y, and the logarithms of width and height, when last seen
        self._speed = np.empty((0, 4))  # of these, a second
        self._look = np.empty((0, LOOK))  # colours of its boxes, later ones count more
        self._stays = np.empty(0)  # seconds for which each car is looked for once it is hidden
        self._next = 0

    def update(
        self, time: float, boxes: np.ndarray, size: tuple[int, int], looks: np.ndarray | None = None
    ) -> np.ndarray:
        """The car of each box, int [n], of a frame later than the last.

        `boxes` is float [n, 4], x0 y0 x1 y1, `size` the frame's width and height, and `looks` what `look` gives for
        each box, float [n, LOOK]: without them, colours do not count.
        """
        looks = np.full((len(boxes), LOOK), np.nan) if looks is None else looks
        self._keep(time - self._seen <= self._stays)
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
        found = np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, np.log(sides)])
        number = np.full(len(found), -1)  # row of the car of each box
        elapsed = time - self._seen
        # Cars whose speed is known choose first: a new one could be anywhere near, and would take their boxes.
        for known, near, a_second in (True, 0.6, 3.0), (False, 0.4, 6.0):
            rows, free = np.flatnonzero((self._frames > 1) == known), np.flatnonzero(number < 0)
            expected = self._at[rows] + self._speed[rows] * elapsed[rows, None]
            reach = np.minimum(near + a_second * elapsed[rows, None], 1.6)  # in sizes of the boxes
            distance = _distance(expected[:, None], found[None, free])
            distance += _unlike(self._look[rows][:, None], looks[None, free])
            back = _back(self._at[rows][:, None], found[None, free], self._speed[rows][:, None], size[0])
            distance = np.where(back > 0.15, FAR, distance)  # another car comes in where this one goes out
            distance = np.where(distance <= reach, distance, FAR)
            for row, box in zip(*linear_sum_assignment(distance), strict=True):
                if distance[row, box] < FAR:
                    number[free[box]] = rows[row]
        held = np.flatnonzero(number >= 0)
        cars = number[held]
        speed = (found[held] - self._at[cars]) / elapsed[cars, None]
        # The first speed is taken as it is, but half of the growth: a box that enters the picture grows with it.
        gain = np.where(self._frames[cars, None] > 1, 0.6, [[1, 1, 0.5, 0.5]])
        self._speed[cars] += gain * (speed - self._speed[cars])
        self._at[cars], self._seen[cars] = found[held], time
        self._look[cars] = (self._look[cars] + looks[held]) / 2
        self._frames[cars] += 1
        half_gone = _half_gone(boxes[held], self._speed[cars, :2] / sides[held], size)
        self._stays[cars] = np.clip(half_gone, self._least, self.patience)
        fresh = np.flatnonzero(number < 0)
        number[fresh] = len(self._ids) + np.arange(len(fresh))
        self._ids = np.append(self._ids, self._next + np.arange(len(fresh)))
        self._next += len(fresh)
        self._seen, self._frames = np.append(self._seen, [time] * len(fresh)), np.append(self._frames, fresh * 0 + 1)
        self._stays = np.append(self._stays, [self.patience] * len(fresh))
        self._at, self._speed = np.vstack([self._at, found[fresh]]), np.vstack([self._speed, found[fresh] * 0])
        self._look = np.vstack([self._look, looks[fresh]])
        return self._ids[number]

    def _keep(self, rows: np.ndarray) -> None:
        self._ids, self._seen, self._frames = self._ids[rows], self._seen[rows], self._frames[rows]
        self._at, self._speed, self._stays = self._at[rows], self._speed[rows], self._stays[rows]
        self._look = self._look[rows]


def look(image: Image.Image, boxes: np.ndarray) -> np.ndarray:
    """The colours inside boxes [n, 4], float [n, LOOK], 0 to 1: a coarse picture of each without its border."""
    found = np.empty((len(boxes), LOOK))
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        across, down = 0.15 * (x1 - x0), 0.15 * (y1 - y0)
        inner = x0 + across, y0 + down, x1 - across, y1 - down
        found[row] = np.asarray(image.resize((4, 3), Image.Resampling.BILINEAR, box=inner)).ravel() / 255
    return found


def _distance(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Distance of cars [n, 1, 4] and boxes [1, m, 4] in sizes of the boxes, and a fifth of how much sizes differ."""
    apart = np.abs(expected - found)
    size = np.exp((expected[..., 2:] + found[..., 2:]) / 2)
    size[..., 1] = 0.6 * size.max(-1)  # a box that the picture's edge cuts is narrow, not far away
    return np.hypot(apart[..., 0] / size[..., 0], apart[..., 1] / size[..., 1]) + 0.2 * apart[..., 2:].sum(-1)


def _back(cars: np.ndarray, found: np.ndarray, speed: np.ndarray, width: int) -> np.ndarray:
    """How far the inner side of a box lies behind that of a leaving car, in widths of the car's box; 0 for others.

    A car leaves while its box touches the right or left edge of a picture of this `width` and moves there.
    """
    out, half, other = np.sign(speed[..., 0]), np.exp(cars[..., 2]) / 2, np.exp(found[..., 2]) / 2
    edge = np.where(out > 0, width - cars[..., 0] - half, cars[..., 0] - half)
    behind = out * (cars[..., 0] - found[..., 0]) - half + other
    return np.where(edge <= EDGE * width, behind / (2 * half), 0) * (out != 0)


def _unlike(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much the colours of cars [n, 1, LOOK] and boxes [1, m, LOOK] add to their distance; nothing if unknown.

    In drawn clips a car in full view differs from itself a frame later by .008 (median; 95th percentile .042), from
    another one by .09 (5th percentile .052), and from itself half hidden by .05 (90th percentile .12).
    """
    apart = np.abs(looks - others).mean(-1)
    return np.nan_to_num(UNLIKE * np.maximum(apart - 0.05, 0))


def _half_gone(boxes: np.ndarray, speed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Seconds until boxes that touch an edge of the picture and move towards it are half as large; infinity for others.

    Whatever is seen there later is another car that comes in. `speed` [n, 2] is that of their middles, in their sides
    a second: of a box that the edge cuts, half of the car's.
    """
    near = EDGE * np.array(size)
    out = np.where(boxes[:, :2] <= near, -speed, 0) + np.where(boxes[:, 2:] >= size - near, speed, 0)
    return 0.25 / np.maximum(out.max(1), 1e-9)
