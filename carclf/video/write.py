"""Frames -> an annotated clip: H.264 that browsers and phones play."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from carclf.files import writing
from carclf.video.frames import VideoError, load_av

FORMATS = {".mp4": "mp4", ".mov": "mov", ".m4v": "mp4", ".mkv": "matroska"}
TICKS = 1000  # a second: frames keep their time of presentation to the millisecond
RATE = 30  # frames a second that players are told to expect; with 1000, the H.264 level would be too high for phones


class ClipWriter:
    """Write images with their times into a clip, which appears under its name once it is complete.

    All are as large as the first, made even, as the codec asks.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in FORMATS:
            raise VideoError(f"{self.path}: an annotated clip ends with {', '.join(FORMATS)}; choose one of these")
        self._part = self.path.with_name(f"{self.path.name}.tmp")
        self._av = load_av(str(self.path))
        self._out: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> ClipWriter:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._out = self._av.open(str(self._part), "w", format=FORMATS[self.path.suffix.lower()])
        return self

    def write(self, time: float, image: Image.Image) -> None:
        """Append an image that is shown from this time (seconds) on."""
        with writing(self.path):
            if self._stream is None:
                codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"  # builds differ
                # Without B-frames, whose order would hide a pause between frames from the header's duration.
                self._stream = self._out.add_stream(codec, rate=RATE, options={"bf": "0"})
                self._stream.width, self._stream.height = (max(2, side - side % 2) for side in image.size)
                self._stream.pix_fmt = "yuv420p"
                self._stream.codec_context.time_base = Fraction(1, TICKS)
            size = self._stream.width, self._stream.height
            frame = self._av.VideoFrame.from_image(image if image.size == size else image.resize(size))
            frame.pts = self._last = max(round(time * TICKS), self._last + 1)
            frame.time_base = Fraction(1, TICKS)
            self._out.mux(self._stream.encode(frame))

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if self._stream is not None and kind is None:
                with writing(self.path):
                    self._out.mux(self._stream.encode(None))
            with suppress(Exception) if kind or self._stream is None else writing(self.path):
                self._out.close()
            if self._stream is not None and kind is None:
                with writing(self.path):
                    self._part.replace(self.path)
        finally:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
