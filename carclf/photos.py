"""Any bytes -> upright sRGB pixels, or a `PhotoError` that says why not."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from carclf.colours import to_srgb


def _heif() -> tuple[str, ...]:
    """("HEIF",) where pillow-heif is there; before 1.8 it is not for hostile bytes, they end the whole process."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    if tuple(map(int, pillow_heif.__version__.split(".")[:2])) < (1, 8):
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


# Content decides, not the ending. Parsers that call other programs (EPS) or read other files stay out.
# AVIF came with Pillow 11.3, and Pillow stumbles over a format that it was built without.
Image.init()
FORMATS = tuple(f for f in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF") if f in Image.OPEN) + _heif()
AVIF = "AVIF", "AVIF photos need Pillow 11.3 or newer: pip install pillow -U"
HEIF = "HEIF", "HEIC photos need pillow-heif 1.8 or newer: pip install pillow-heif -U"
BRANDS = {b"avi": AVIF, b"hei": HEIF, b"hev": HEIF, b"mif": HEIF, b"msf": HEIF}  # the ninth byte and the next two
# What a folder's listing takes for a photo; AVIF and HEIC even where nothing reads them, to be set aside aloud.
MORE_SUFFIXES = {".mpo", ".avif", ".heic", ".heif", ".hif"}
SUFFIXES = frozenset(s for s, kind in Image.registered_extensions().items() if kind in FORMATS) | MORE_SUFFIXES

Source = str | os.PathLike | bytes | BinaryIO


@dataclass(frozen=True)
class Limits:
    """What is too large or too small to be read. The size in the header is checked before a pixel is decoded."""

    max_pixels: int = 80_000_000  # Pillow has a limit of its own, twice `PIL.Image.MAX_IMAGE_PIXELS`, and it holds too
    max_bytes: int = 256 * 2**20  # a photo above 256 MiB is an attack or a mistake
    min_side: int = 16  # pixels; below that no badge, grille or lamp is left to see


LIMITS = Limits()


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


class _Quiet(contextlib.ContextDecorator):
    """Silences Pillow's warnings about broken metadata, which would be exceptions where warnings are errors.

    Python keeps one list of filters for all threads: the first reader in changes it, the last one out puts it back.
    """

    def __init__(self):
        self._lock, self._readers = threading.Lock(), 0

    def __enter__(self):
        with self._lock:
            if not self._readers:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._readers += 1

    def __exit__(self, *error):
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._filters.__exit__(*error)


_quiet = _Quiet()


@_quiet
def read_photo(source: Source, at_least: int | None = None, limits: Limits = LIMITS) -> Image.Image:
    """Decode one photo.

    Parameters
    ----------
    source : path, bytes or binary file
    at_least : int, optional
        Shorter side in pixels that is enough. A large JPEG is then decoded at the smallest of 1/1, 1/2, 1/4, 1/8
        of its size that still has it, in about a quarter of the time.
    limits : Limits, optional

    Returns
    -------
    PIL.Image.Image of mode RGB, upright by its EXIF orientation, in sRGB by its colour profile; alpha lies on white,
    16 and 32 bits are scaled to 8, of an animation it is the first frame.

    Raises
    ------
    PhotoError
        On any bad input, and nothing else.
    """
    return glance(source, at_least, limits)[1]


@_quiet
def glance(source: Source, at_least: int | None = None, limits: Limits = LIMITS) -> tuple[tuple[int, int], Image.Image]:
    """Upright (width, height) in pixels, and the photo as `read_photo` gives it, perhaps smaller, from one decode.

    The whole file is decoded: a cut file is found here and not in the middle of a training.

    Raises
    ------
    PhotoError
    """
    image = _open(source, limits)
    (width, height), shrink = image.size, min(image.size) // (at_least or min(image.size))
    reduced = shrink > 1 and _reduce(image, (width // shrink, height // shrink))
    image = _load(image)
    if not reduced:  # some decoders turn the photo themselves
        width, height = image.size
    # Reduced and rounded, 100 × 97 pixels are square, so a strip tells whether the photo lies on its side.
    turned = _upright(image.crop((0, 0, 1, 2))).size != (1, 2)
    return (height, width) if turned else (width, height), _to_rgb(_upright(image))


def read_bytes(source: Source, limits: Limits = LIMITS) -> bytes:
    """All bytes of a photo's file, without a look at what they mean.

    Raises
    ------
    PhotoError
        Where they cannot be read, are none or too many.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(os.fsdecode(source))
        try:
            if not path.is_file():  # a folder, a pipe or a device would hang or fill the memory
                raise PhotoError("unreadable", "there is no such file" if not path.exists() else "not a regular file")
            if (size := path.stat().st_size) > limits.max_bytes:
                raise PhotoError("too many pixels", f"{size:,} bytes, at most {limits.max_bytes:,} are read")
            data = path.read_bytes()
        except PhotoError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise PhotoError("unreadable", str(error)) from error
    elif hasattr(source, "read"):
        if isinstance(source, io.TextIOBase):
            raise PhotoError("unsupported", "the file was opened as text; open it with mode 'rb'")
        try:
            data = source.read(limits.max_bytes + 1)
        except Exception as error:  # of a cut archive or a broken connection they raise whatever they like
            raise _refusal(error) from error
    else:
        raise PhotoError("unsupported", f"a photo is a path, bytes or a binary file, not {type(source).__name__}")
    if not isinstance(data, bytes):
        raise PhotoError("unsupported", f"a photo's file gives bytes, not {type(data).__name__}")
    if len(data) > limits.max_bytes:
        raise PhotoError("too many pixels", f"more than {limits.max_bytes:,} bytes")
    if not data:
        raise PhotoError("empty", "the file has no bytes")
    return data


def _open(source: Source, limits: Limits) -> Image.Image:
    """Read the header and check the limits before a single pixel is decoded."""
    data = read_bytes(source, limits)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        kind, remedy = BRANDS.get(data[8:11], ("", "")) if data[4:8] == b"ftyp" else ("", "")
        if kind and kind not in FORMATS:
            raise PhotoError("unsupported", remedy) from error
        raise PhotoError("not an image", f"begins with {data[:8]!r}") from error
    except Image.DecompressionBombError as error:
        raise PhotoError("too many pixels", f"{error} The limit is PIL.Image.MAX_IMAGE_PIXELS, twice.") from error
    except Exception as error:  # decoders of hostile bytes raise whatever they like
        raise _refusal(error) from error
    width, height = image.size
    if width * height > limits.max_pixels:
        raise PhotoError("too many pixels", f"{width} × {height}, at most {limits.max_pixels:,} are decoded")
    if min(width, height) < limits.min_side:
        raise PhotoError("too small", f"{width} × {height} pixels, at least {limits.min_side} a side are needed")
    return image


def _refusal(error: Exception) -> PhotoError:
    message = f"{type(error).__name__}: {error}".strip()
    cut = any(words in message.lower() for words in ("truncated", "end of file", "eoferror"))
    return PhotoError("truncated" if cut else "unreadable", message)


def _reduce(image: Image.Image, size: tuple[int, int]) -> bool:
    """Have a JPEG decoded at a smaller scale; HEIF would give an embedded thumbnail in the photo's stead."""
    return isinstance(image, JpegImageFile) and image.draft(None, size) is not None


def _load(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # as above
        raise _refusal(error) from error
    return image


def _upright(image: Image.Image) -> Image.Image:
    # A broken EXIF block says nothing about which way is up; the pixels are still good.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)  # a copy of each photo would cost time and memory
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        return to_srgb(image)
    except Exception as error:  # as above
        raise PhotoError("unsupported", f"mode {image.mode}: {error}") from error
