"""Drawn clips whose cars are known: coloured boxes that move, for tests of `carclf.video`."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

av = pytest.importorskip("av")

SIZE = 320, 180
GROUND = 60


def write_clip(path: Path, images, times, codec="libx264", rotation=0, sample_aspect_ratio=None) -> Path:
    """Write images (arrays uint8 [H, W, 3]) that are shown from `times` (seconds) on."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=1000, options={"g": "10"} if codec == "libx264" else {})
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        stream.height, stream.width = images[0].shape[:2]
        if sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A second of silence, without a picture."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        for k in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, k * 1600
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def numbered(n: int = 50) -> list[np.ndarray]:
    """Images whose grey is their number times 4."""
    return [np.full((*SIZE[::-1], 3), 4 * i % 256, np.uint8) for i in range(n)]


def drive(path: Path, cars: dict, seconds: float = 4, fps: float = 10, size=SIZE) -> pd.DataFrame:
    """A clip of coloured boxes, the first nearest, and their true boxes: time x0 y0 x1 y1 car.

    `cars` has for each name a colour, a width, and a function from the time to the middle of the box, or None.
    """
    images, rows = [], []
    times = np.arange(round(seconds * fps)) / fps
    for time in times:
        image = np.full((size[1], size[0], 3), GROUND, np.uint8)
        for name, (colour, width, middle) in reversed(list(cars.items())):
            if (at := middle(time)) is None:
                continue
            x0, y0 = max(0, round(at[0] - width / 2)), max(0, round(at[1] - width / 4))
            x1, y1 = min(size[0], round(at[0] + width / 2)), min(size[1], round(at[1] + width / 4))
            if x1 - x0 > 8 and y1 - y0 > 8:
                image[y0:y1, x0:x1] = colour
                rows.append((time, x0, y0, x1, y1, name))
        images.append(image)
    write_clip(path, images, times)
    return pd.DataFrame(rows, columns=["time", "x0", "y0", "x1", "y1", "car"])
