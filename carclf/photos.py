"""Any bytes -> upright RGB pixels, or a `PhotoError` that says why not."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 80_000_000  # below Pillow's own warning at 89 million, so its process-wide limit is never touched
MAX_BYTES = 256 * 2**20  # a photo above 256 MiB is an attack or a mistake
MIN_SIDE = 16  # pixels; below that no badge, grille or lamp is left to see

# Content decides, not the ending. Parsers that call other programs (EPS) or read other files stay out.
# AVIF came with Pillow 11.3, and Pillow stumbles over a format that it was built without.
Image.init()
FORMATS = tuple(f for f in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF") if f in Image.OPEN)
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".avif",
        ".heic",
        ".heif",
    ]
)  # what a folder's listing takes for a photo; HEIC too, so that it is set aside aloud

Source = str | os.PathLike | bytes | BinaryIO


class PhotoError(ValueError):
    """A photo that cannot be used.

    Attributes
    ----------
    reason : str
        One of `REASONS`.
    detail : str
        What exactly was seen, for people.
    """

    REASONS = ("empty", "not an image", "truncated", "too many pixels", "too small", "unreadable", "unsupported")

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_photo(source: Source, at_least: int | None = None) -> Image.Image:
    """Decode one photo.

    Parameters
    ----------
    source : path, bytes or binary file
    at_least : int, optional
        Shorter side in pixels that is enough. A large JPEG is then decoded at the smallest of 1/1, 1/2, 1/4, 1/8
        of its size that still has it, in about a quarter of the time.

    Returns
    -------
    PIL.Image.Image of mode RGB, upright by its EXIF orientation; alpha lies on white, 16 bits are scaled to 8,
    of an animation it is the first frame.

    Raises
    ------
    PhotoError
        On any bad input, and nothing else.
    """
    image = _open(source)
    if at_least is not None:
        shrink = min(image.size) // at_least
        if shrink > 1:
            image.draft(None, (image.width // shrink, image.height // shrink))
    return _to_rgb(_upright(_load(image)))


def measure_photo(source: Source) -> tuple[int, int]:
    """Upright (width, height) in pixels of a photo that decodes from its first byte to its last.

    The whole file is decoded, at the smallest scale: a cut file is found here and not in the middle of a training.

    Raises
    ------
    PhotoError
    """
    image = _open(source)
    width, height = image.size
    if image.draft(None, (1, 1)) is None:  # only a JPEG decodes at a smaller scale
        return _upright(_load(image)).size
    # Reduced and rounded, 100 × 97 pixels are square, so a strip tells whether the photo lies on its side.
    strip = _load(image).crop((0, 0, 1, 2))
    turned = _upright(strip).size != strip.size
    return (height, width) if turned else (width, height)


def _read_bytes(source: Source) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            if not path.is_file():  # a folder, a pipe or a device would hang or fill the memory
                raise PhotoError("unreadable", "there is no such file" if not path.exists() else "not a regular file")
            if path.stat().st_size > MAX_BYTES:
                raise PhotoError("too many pixels", f"{path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read")
            data = path.read_bytes()
        except PhotoError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise PhotoError("unreadable", str(error)) from error
    elif hasattr(source, "read"):
        if isinstance(source, io.TextIOBase):
            raise PhotoError("unsupported", "the file was opened as text; open it with mode 'rb'")
        try:
            data = source.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise PhotoError("unreadable", str(error)) from error
    else:
        raise PhotoError("unsupported", f"a photo is a path, bytes or a binary file, not {type(source).__name__}")
    if not isinstance(data, bytes):
        raise PhotoError("unsupported", f"a photo's file gives bytes, not {type(data).__name__}")
    if len(data) > MAX_BYTES:
        raise PhotoError("too many pixels", f"more than {MAX_BYTES:,} bytes")
    if not data:
        raise PhotoError("empty", "the file has no bytes")
    return data


def _open(source: Source) -> Image.Image:
    """Read the header and check the limits before a single pixel is decoded."""
    data = _read_bytes(source)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PhotoError("not an image", f"begins with {data[:8]!r}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError("too many pixels", str(error)) from error
    except Exception as error:  # decoders of hostile bytes raise whatever they like
        raise PhotoError("unreadable", f"{type(error).__name__}: {error}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PhotoError("too many pixels", f"{width} × {height}, at most {MAX_PIXELS:,} are decoded")
    if min(width, height) < MIN_SIDE:
        raise PhotoError("too small", f"{width} × {height} pixels, at least {MIN_SIDE} a side are needed")
    return image


def _load(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # as above
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise PhotoError("truncated" if cut else "unreadable", f"{type(error).__name__}: {error}") from error
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about which way is up; the pixels are still good
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips everything above 255 to white
            grey = np.asarray(image).astype(np.float64) / 257
            image = Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except Exception as error:  # as above
        raise PhotoError("unsupported", f"mode {image.mode}: {error}") from error
