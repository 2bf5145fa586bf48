"""Take a picture of a drawn car: a place, a camera in space, a painter who fills far polygons first, a lens.

Three random streams decide what photos share: `model` proportions and lamps; `vehicle` paint, plate, trim and place;
`photo` camera, light and noise, which differ from photo to photo.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from carclf.demo.car import BADGES, DARK, GRILLES, LAMPS, Car, Style, bars_of, box, ngon

FACE = 1.4  # how much larger than life lamps and badges are drawn: small photos must still show them
CUE = 1.0  # how clearly a brand's marks stand out from the paint, in (0, 1]: smaller is harder
NOISE = 4.0  # sensor noise, in grey levels of 0..255: larger is harder

VIEWS = {"front": 0, "quarter": 38, "side": 88, "rear quarter": 146, "rear": 180}  # degrees around the car
SIZES = [(320, 240)] * 6 + [(360, 240), (300, 225), (280, 280), (400, 300)]  # width × height in pixels
Colour = np.ndarray | tuple[int, int, int]  # 0 to 255


class Camera:
    """Projects points to pixels. Axes point to the right, down and backwards; scale and shift are in pixels."""

    def __init__(self, eye: np.ndarray, axes: np.ndarray, scale: float, shift: np.ndarray) -> None:
        self.eye, self.axes, self.scale, self.shift = eye, axes, scale, shift

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of points [..., 3]."""
        seen = (points - self.eye) @ self.axes.T
        return seen[..., :2] / -seen[..., 2:] * self.scale + self.shift


class _Portrait(Camera):
    """A camera so placed that the car fills a share of the picture and stands on the ground."""

    def __init__(self, car: Car, view: str, size: tuple[int, int], photo: Generator) -> None:
        yaw = np.radians(VIEWS[view] + photo.normal(0, 5)) * photo.choice([-1, 1])
        pitch = np.radians(photo.uniform(3, 12))
        out = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
        right = np.array([-np.sin(yaw), np.cos(yaw), 0])
        super().__init__(photo.uniform(7.5, 11) * out, np.stack([right, -np.cross(out, right), out]), 1.0, np.zeros(2))
        box = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], float)
        seen = self(box * [car.length / 2, car.half, car.height])
        low, high = seen.min(0), seen.max(0)
        fit = (np.array(size) * [0.95, 0.72] / (high - low)).min()
        self.scale = photo.uniform(0.88, 1.06) * fit
        space = np.array(size) - self.scale * (high - low)
        self.shift = space * [photo.uniform(0.2, 0.8), photo.uniform(0.6, 0.9)] - self.scale * low


class Painter:
    """Fills polygons in space, or on the nose or tail of the car, lit by the sun of the scene."""

    def __init__(self, image: Image.Image, car: Car, camera: Camera) -> None:
        self.draw, self.car, self.camera = ImageDraw.Draw(image, "RGBA"), car, camera
        self.filled: list[np.ndarray] = []  # opaque polygons [n, 2] in pixels: together, the outline of the car

    def fill(self, points: ArrayLike, colour: Colour, alpha: int = 255) -> None:
        """Fill the polygon of points [n, 3] with a colour of 0..255."""
        outline = self.camera(np.asarray(points))
        self.draw.polygon([*map(tuple, outline)], (*(min(255, int(c)) for c in colour), alpha))
        if alpha == 255:
            self.filled.append(outline)

    def mark(self, outline: np.ndarray, end: int, colour: Colour, cue: float = 1.0) -> None:
        """Fill an outline [n, 2] of (y, z) on the nose (end=1) or tail (end=-1), faded towards the paint by 1 - cue."""
        self.fill(self.car.on_end(outline, end), cue * np.array(colour) + (1 - cue) * 0.8 * self.car.paint)

    def ground_shadow(self) -> None:
        for grow in np.linspace(1.3, 0.9, 14):
            ring = np.array(ngon(24)) * [0.54 * self.car.length, 1.05 * self.car.half] * grow
            self.fill(np.c_[ring, np.zeros(24)], (0, 0, 0), 20)

    def tyres(self) -> None:
        for axle in (0, 1):
            for side in (-1, 1):
                inner, outer = (self.car.disc(axle, self.car.radius, side * y * self.car.half) for y in (0.6, 0.95))
                for tread in np.stack([inner, outer, np.roll(outer, 1, 0), np.roll(inner, 1, 0)], 1):
                    self.fill(tread, (20, 20, 22))

    def shell(self, kind: str, quads: np.ndarray, normals: np.ndarray, sun: np.ndarray) -> None:
        """Paint the quads that face the camera, far ones first: paint, or glass on the steep ends of a cabin."""
        gaze = self.camera.eye - quads.mean(1)
        near = np.linalg.norm(gaze, axis=1)
        light = 0.52 + 0.38 * np.clip(normals @ sun, 0, 1) + 0.22 * np.clip(normals[:, 2], 0, 1)
        for i in np.argsort(-near):
            if normals[i] @ gaze[i] <= 0:
                continue
            self.fill(quads[i], self.car.paint * light[i] + 26 * max(normals[i, 2], 0) ** 3)
            if kind == "cabin" and 0.1 < normals[i, 2] < 0.96 and abs(normals[i, 1]) < 0.1:  # steep, but not a side
                self.fill(quads[i] * [1, 0.9, 1], np.array([52, 62, 74]) * (0.6 + 0.7 * normals[i, 2]))

    def paint_car(self, sun: np.ndarray) -> None:
        """The whole car, far parts first, without its shadow."""
        self.tyres()
        for shell in self.car.shells():
            self.shell(*shell, sun)
        across = self.camera.eye / np.linalg.norm(self.camera.eye)
        if abs(across[1]) > 0.25:
            self.sides()
        if across[0] > 0.1:
            self.nose()
        elif across[0] < -0.1:
            self.tail()

    def sides(self) -> None:
        """Windows, doors and wheels of the side that faces the camera."""
        car, side = self.car, np.sign(self.camera.eye[1])
        x, base, roof, lean = car.cabin()
        tall = roof - base > 0.14
        lower, upper = (
            np.stack([x, side * car.half * (0.9 + (lean - 0.9) * up), base + up * (roof - base)], 1)[tall]
            for up in (0.10, 0.84)
        )
        if len(lower) > 4:
            self.fill(np.concatenate([lower, upper[::-1]]), (38, 44, 52))
            for share, width in ((0.47, 1), (0.82, 2)):
                i = int(share * len(lower))
                self.fill([lower[i], lower[i + width], upper[i + width], upper[i]], self.car.paint * 0.55)
        y = side * car.half * 1.005
        for front, rear in ((0.20, -0.03), (-0.03, -0.24)):
            low, high = car.floor + 0.1, car.deck - 0.1
            door = [(front, low), (front, high), (rear, high), (rear, low)]
            path = self.camera(np.array([(f * car.length, y, z) for f, z in door]))
            self.draw.line([*map(tuple, path)], (0, 0, 0, 110), 2)
            grip = np.array([[0.02, 0], [0.055, 0], [0.055, 0.03], [0.02, 0.03]]) * [car.length, 1]
            self.fill([(rear * car.length + gx, y, 0.52 * car.height + gz) for gx, gz in grip], car.trim)
        mirror = np.array([[0, 0], [0.18, 0.02], [0.16, 0.14], [0, 0.14]])
        at = (0.46 - car.cuts[0]) * car.length
        self.fill([(at - mx, y * 1.02, car.bonnet + mz) for mx, mz in mirror], car.paint * 0.8)
        for axle in (0, 1):
            self.fill(car.disc(axle, 1.16 * car.radius, y), (14, 14, 16))
            self.fill(car.disc(axle, car.radius, y * 1.01), (30, 30, 33))
            self.fill(car.disc(axle, 0.70 * car.radius, y * 1.015), np.array(car.rim) * 0.45)
            hub = car.disc(axle, 0.66 * car.radius, y * 1.02)
            middle = hub.mean(0)
            for k in range(car.style.spokes):
                a = 2 * np.pi * (k + np.array([-0.16, 0.16])) / car.style.spokes
                tip = middle + 0.66 * car.radius * np.stack([np.sin(a), 0 * a, np.cos(a)], 1)
                self.fill([middle, *tip], car.rim)

    def nose(self) -> None:
        """Grille, lamps, badge, intake and plate."""
        car, style = self.car, self.car.style
        face = car.nose - car.floor
        shape, wide, high, rise = style.grille
        size = np.array([wide, high]) * car.grille_scale
        middle = np.array([0, car.floor + min(rise * face, face - size[1] - 0.03)])
        self.mark(box(0, car.floor + 0.14 * face, 0.62 * car.half, 0.07), 1, DARK)
        for mirror in (1, -1) if shape == "kidneys" else (1,):
            outline = np.array(GRILLES[shape]) * size * [mirror, 1]
            self.mark(outline * 1.10 + middle, 1, car.trim, CUE)
            self.mark(outline + middle, 1, DARK, CUE)
            for bar in bars_of(outline, style.bars):
                self.mark(bar + middle, 1, np.array(car.trim) * 0.8 + 20, CUE)
        self.lamps(style.lamps, 1, car.nose - 0.14, (70, 76, 84), (236, 240, 246))
        self.plate(1, car.floor + 0.27 * face)
        above = shape in ("kidneys", "shield", "box")
        badge = min(middle[1] + size[1] + 0.04, car.nose - 0.03) if above else middle[1]
        self.badge(1, car.nose - 0.06 if rise < 0.3 else badge, 0.11)  # above a low grille it is on the bonnet

    def tail(self) -> None:
        """Tail lamps, badge, bumper and plate."""
        car = self.car
        self.mark(box(0, car.floor + 0.06, 0.74 * car.half, 0.06), -1, (34, 34, 37))
        self.lamps(car.style.tail, -1, car.deck - 0.26, (92, 12, 16), (206, 34, 36))
        self.plate(-1, car.deck - 0.42)
        self.badge(-1, car.deck - 0.20, 0.11)

    def lamps(self, shape: str, end: int, z: float, rim: Colour, lens: Colour) -> None:
        outline, wide, high, out = LAMPS[shape]
        outline = np.array(outline) * [wide, high] * self.car.lamp_scale * FACE
        outline[:, 1] += self.car.lamp_tilt * outline[:, 0] * 0.5
        for side in (1, -1):
            for scale, colour in ((1.0, rim), (0.72, lens), (0.3, np.array(lens) * 0.75)):
                self.mark((outline * scale + [out * self.car.half, z]) * [side, 1], end, colour, CUE)

    def plate(self, end: int, z: float) -> None:
        self.mark(box(0, z, 0.25, 0.055), end, (238, 238, 232))
        for k, (wide, high) in enumerate(self.car.glyphs):
            self.mark(box(-0.19 + 0.063 * k, z, 0.026 * wide, 0.04 * high), end, (30, 30, 60))

    def badge(self, end: int, z: float, radius: float) -> None:
        for outline, colour in BADGES[self.car.style.badge]:
            self.mark(np.array(outline) * radius * FACE + [0, z], end, colour, CUE)


# name: colours of the sky at the top and at the horizon, of the ground far and near, of things around; brightness
PLACES = {
    "city": ((120, 156, 196), (206, 214, 222), (120, 120, 122), (88, 88, 92), (150, 136, 122), 1.0),
    "field": ((92, 146, 208), (216, 228, 238), (112, 136, 78), (120, 118, 110), (62, 92, 52), 1.05),
    "desert": ((110, 160, 214), (236, 222, 200), (206, 180, 136), (168, 142, 108), (172, 132, 96), 1.1),
    "dusk": ((72, 66, 110), (238, 160, 110), (88, 78, 84), (64, 60, 68), (50, 44, 62), 0.8),
    "garage": ((104, 104, 100), (150, 148, 140), (132, 130, 126), (96, 95, 94), (126, 122, 112), 0.85),
    "night": ((22, 26, 48), (66, 70, 98), (84, 84, 90), (62, 62, 68), (44, 46, 62), 0.66),
    "snow": ((168, 184, 200), (226, 232, 238), (226, 230, 236), (198, 204, 212), (110, 118, 122), 1.0),
    "show": ((226, 226, 228), (244, 244, 244), (206, 206, 208), (176, 176, 180), (150, 164, 182), 1.0),
}


def _background(size: tuple[int, int], place: Generator, photo: Generator) -> tuple[Image.Image, float]:
    """A picture of sky, ground and things on the horizon, and how bright the place is."""
    names = list(PLACES)
    *colours, light = PLACES[names[place.integers(len(names))]]
    sky, haze, far, near, things = (np.clip(np.array(c) + place.normal(0, 9, 3), 0, 255) for c in colours)
    (w, h), horizon = size, place.uniform(0.36, 0.56) + photo.normal(0, 0.012)
    y = np.linspace(0, 1, h)[:, None]
    above = sky + (haze - sky) * np.clip(y / horizon, 0, 1)
    below = far + (near - far) * np.clip((y - horizon) / (1 - horizon), 0, 1)
    column = np.where(y < horizon, above, below)
    image = Image.fromarray(np.broadcast_to(column[:, None], (h, w, 3)).astype(np.uint8))
    draw, drift = ImageDraw.Draw(image, "RGBA"), photo.normal(0, 0.03)
    round_tops = place.random() < 0.5
    for _ in range(place.integers(3, 12)):
        x, wide, tall = place.uniform(-0.1, 1.0) + drift, place.uniform(0.04, 0.30), place.uniform(0.04, 0.34)
        box = [x * w, (horizon - tall) * h, (x + wide) * w, (horizon + (tall if round_tops else 0.01)) * h]
        shade = (*np.clip(things * place.uniform(0.7, 1.25), 0, 255).astype(int), 255)
        if round_tops:
            draw.pieslice(box, 180, 360, shade)
        else:
            draw.rectangle(box, shade)
    lane, bright = horizon + (1 - horizon) * place.uniform(0.35, 0.8), int(place.integers(120, 255))
    for k in np.arange(-0.1, 1.1, 0.22) * (place.random() < 0.6):
        if k:
            dash = [(k + drift) * w, lane * h, (k + drift + 0.13) * w, (lane + 0.015) * h]
            draw.rectangle(dash, (bright, bright, bright, 120))
    return image, light


class Lens(NamedTuple):
    """What a camera does to a scene: exposure, tint, a gradient of light, blur and noise."""

    blur: float  # pixels
    gain: np.ndarray  # [height, width, 3]
    noise: np.ndarray  # grey levels, likewise

    def __call__(self, image: Image.Image) -> Image.Image:
        sharp = image.filter(ImageFilter.GaussianBlur(self.blur)) if self.blur else image
        pixels = np.asarray(sharp, np.float32) * self.gain + self.noise
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def lens(size: tuple[int, int], light: float, photo: Generator) -> Lens:
    """A camera in a place of this brightness, for pictures of this width and height."""
    blur = float(photo.choice([0, 0, 0.5, 0.8, 1.2]))
    w, h = size
    down, across = photo.normal(0, [0.06, 0.08])
    slope = down * np.linspace(-1, 1, h)[:, None, None] + across * np.linspace(-1, 1, w)[:, None]
    gain = light * photo.uniform(0.8, 1.15) * photo.normal(1, 0.025, 3)
    noise = photo.standard_normal((h, w, 3), np.float32) * photo.uniform(0.3, 1.6) * NOISE
    return Lens(blur, gain * (1 + slope), noise)


def draw_photo(
    style: Style, body: str, view: str, *, model: Generator, vehicle: Generator, photo: Generator
) -> Image.Image:
    """Draw one photo: an upright RGB image, 280 to 400 pixels wide.

    `body` is a key of `BODIES`, `view` one of `VIEWS`. The random streams advance; equal streams give equal pixels.
    """
    image, light, car, camera = _scene(style, body, view, model, vehicle, photo)
    sun = np.array([*photo.normal(0, 0.5, 2), 0.7]) + 0.6 * camera.axes[2]
    painter = Painter(image, car, camera)
    painter.ground_shadow()
    painter.paint_car(sun / np.linalg.norm(sun))
    image = image.reduce(2)
    return sign(lens(image.size, light, photo)(image))


def car_box(
    style: Style, body: str, view: str, *, model: Generator, vehicle: Generator, photo: Generator
) -> np.ndarray:
    """Box of body, cabin and wheels on the photo that `draw_photo` draws with the same arguments.

    Returns
    -------
    ndarray of shape (4,)
        Left, top, right and bottom as shares of the photo's width and height, 0 to 1. The shadow does not count; large
        lamps and wheel arches may stick out by a few hundredths.
    """
    image, _, car, camera = _scene(style, body, view, model, vehicle, photo)
    wheels = [car.disc(axle, car.radius, side * car.half) for axle in (0, 1) for side in (-1, 1)]
    shells = [quads.reshape(-1, 3) for _, quads, _ in car.shells()]
    seen = camera(np.concatenate([*wheels, *shells])) / image.size
    return np.concatenate([seen.min(0), seen.max(0)]).clip(0, 1)


def _scene(
    style: Style, body: str, view: str, model: Generator, vehicle: Generator, photo: Generator
) -> tuple[Image.Image, float, Car, Camera]:
    """The place without the car (twice as large as the photo), its light, the car and the camera."""
    car = Car(style, body, model, vehicle)
    size = SIZES[vehicle.integers(len(SIZES))]
    large = (2 * size[0], 2 * size[1])  # drawn twice as large, then halved: smooth edges
    image, light = _background(large, vehicle, photo)
    return image, light, car, _Portrait(car, view, large, photo)


def sign(image: Image.Image) -> Image.Image:
    """Write "drawn" into the corner of every photo: wherever it is shown, it says what it is."""
    font = ImageFont.load_default(15)
    ImageDraw.Draw(image).text(
        (5, image.height - 20), "drawn", (235, 235, 235), font, stroke_width=1, stroke_fill=(60, 60, 60)
    )
    return image
