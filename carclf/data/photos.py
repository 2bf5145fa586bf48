"""Any bytes -> upright sRGB pixels, or a `PhotoError` that says why not."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from carclf.data.mend import breaks_off, mended


def _heif() -> tuple[str, ...]:
    """("HEIF",) if pillow-heif is installed; versions before 1.8 crash the process on hostile bytes, so not those."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    if tuple(map(int, pillow_heif.__version__.split(".")[:2])) < (1, 8):
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


# The content decides, not the ending. Parsers that call other programs (EPS) or read other files stay out, and so do
# TGA, which cannot be told by its content, and JPEG 2000, of which one kilobyte makes Pillow take 1.5 GB.
# Pillow fails on the name of a format that it was built without, such as AVIF before 11.3.
Image.init()
FORMATS = tuple(f for f in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF") if f in Image.OPEN) + _heif()
AVIF = "AVIF", "AVIF photos need Pillow 11.3 or newer: pip install pillow -U"
HEIF = "HEIF", "HEIC photos need pillow-heif 1.8 or newer: pip install pillow-heif -U"
# How pictures begin that nothing here reads.
OTHERS = {b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"8BPS": "Photoshop"}
OTHERS |= {b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000"}
BRANDS = {b"avi": AVIF, b"hei": HEIF, b"hev": HEIF, b"mif": HEIF, b"msf": HEIF}  # bytes 8 to 10 of the file
# Files that a scan lists. AVIF and HEIC count even if nothing here reads them, so that they show up with their remedy.
SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)
SUFFIXES |= {".mpo", ".avif", ".heic", ".heif", ".hif"}

Source = str | os.PathLike | bytes | BinaryIO


@dataclass(frozen=True)
class Limits:
    """What is too large or too small to be read. The size in the header is checked before a pixel is decoded."""

    # Decoded ones: a JPEG of which only a fraction is asked for may have up to four times as many. Pillow's own limit,
    # twice `PIL.Image.MAX_IMAGE_PIXELS`, applies too.
    max_pixels: int = 80_000_000
    max_bytes: int = 256 * 2**20  # a photo above 256 MiB is an attack or a mistake
    min_side: int = 16  # pixels; below that no badge, grille or lamp is visible


LIMITS = Limits()
FRACTION = 4  # so many times the pixels may be in a JPEG that is decoded at a fraction


class PhotoError(ValueError):
    """A photo that cannot be used: `reason` is one of `REASONS`, `detail` says what was seen."""

    REASONS = (
        *("empty", "not an image", "truncated", "too large", "too many pixels", "too small"),
        *("unreadable", "unsupported"),
    )

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class _Quiet(contextlib.ContextDecorator):
    """Silences Pillow's warnings about broken metadata, which would raise if warnings are errors.

    Python has one list of filters for all threads: the first reader in changes it, the last one out restores it.
    """

    def __init__(self) -> None:
        self._lock, self._readers = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._readers:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._readers += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._filters.__exit__(None, None, None)


_quiet = _Quiet()


class Probed(NamedTuple):
    """What `probe` finds."""

    size: tuple[int, int]  # upright width and height of the full photo in pixels
    image: Image.Image  # as `read_photo` gives it
    note: str | None  # what is wrong with the file, although its pixels are whole


def read_photo(source: Source, at_least: int | None = None, limits: Limits = LIMITS) -> Image.Image:
    """Decode one photo.

    Parameters
    ----------
    source : path, bytes or binary file
    at_least : int, optional
        Shorter side in pixels that is enough. A large JPEG is then decoded at the smallest of 1/1, 1/2, 1/4, 1/8
        of its size that still has it, in about a quarter of the time.

    Returns
    -------
    image : PIL.Image.Image
        Mode RGB, upright by its EXIF orientation, in sRGB by its colour profile. Alpha lies on white, 16 and 32 bits
        are scaled to 8, an animation gives its first frame.

    Raises
    ------
    PhotoError
        On any bad input, and nothing else.
    """
    return probe(source, at_least, limits).image


@_quiet
def probe(source: Source, at_least: int | None = None, limits: Limits = LIMITS) -> Probed:
    """The photo as `read_photo` gives it and its full size, from one decode.

    The whole file is decoded: a truncated file is found here and not in the middle of a training.
    """
    data = read_bytes(source, limits)
    try:
        found = _decode(data, at_least, limits)
        if breaks_off(data):
            raise PhotoError("truncated", "the file breaks off")
        return found
    except PhotoError as error:
        if error.reason not in ("truncated", "unreadable") or not (whole := mended(data, limits.max_pixels)):
            raise
        try:
            return _decode(whole.data, at_least, limits, whole.profile)._replace(note=whole.note)
        except PhotoError:
            raise error from None


def _decode(data: bytes, at_least: int | None, limits: Limits, profile: bytes | None = None) -> Probed:
    """Decode a file, with this colour profile if it has none of its own."""
    image = _open(data, limits)
    (width, height), shrink = image.size, min(image.size) // (at_least or min(image.size))
    # JPEG only: a HEIF file would give an embedded thumbnail instead of the photo.
    reduced = isinstance(image, JpegImageFile) and shrink > 1 and image.draft(None, (width // shrink, height // shrink))
    _check_pixels(image, width, height, limits)
    try:
        image.load()
    except Exception as error:  # decoders of hostile bytes raise whatever they like
        raise _refusal(error) from error
    if not reduced:  # some decoders turn the photo themselves
        width, height = image.size
    if profile:
        image.info["icc_profile"] = profile
    # Reduced and rounded, 100 × 97 pixels are square, so a strip shows whether the photo lies on its side.
    turned = _upright(image.crop((0, 0, 1, 2))).size != (1, 2)
    image = _upright(image)
    try:
        return Probed((height, width) if turned else (width, height), _to_rgb(image), None)
    except Exception as error:  # of a mode that Pillow cannot convert
        raise PhotoError("unsupported", f"mode {image.mode}: {error}") from error


@_quiet
def upright_rgb(image: Image.Image, limits: Limits = LIMITS) -> Image.Image:
    """An image that is open already, as `read_photo` gives it, or a PhotoError; the image itself stays as it is."""
    if min(image.size) < limits.min_side:
        raise PhotoError(
            "too small", f"{image.width} × {image.height} pixels, at least {limits.min_side} a side are needed"
        )
    try:
        return _to_rgb(_upright(image.copy()))
    except Exception as error:  # it may be a file that has not been decoded yet
        raise _refusal(error) from error


def squish(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image as uint8 [3, size, size].

    Squishing keeps the whole car and every pixel of its face; on cars it beat cropping and padding.
    """
    resized = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow's bilinear is antialiased
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def read_bytes(source: Source, limits: Limits = LIMITS) -> bytes:
    """All bytes of a photo's file, undecoded; PhotoError if there are none, too many, or they cannot be read."""
    data: object
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(os.fsdecode(source))
        try:
            if not path.is_file():  # a folder, a pipe or a device would hang or fill the memory
                raise PhotoError("unreadable", "there is no such file" if not path.exists() else "not a regular file")
            if (size := path.stat().st_size) > limits.max_bytes:
                raise PhotoError("too large", f"{size:,} bytes, at most {limits.max_bytes:,} are read")
            data = path.read_bytes()
        except PhotoError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise PhotoError("unreadable", str(error)) from error
    elif isinstance(source, io.TextIOBase):
        raise PhotoError("unsupported", "the file was opened as text; open it with mode 'rb'")
    elif hasattr(source, "read"):
        try:
            data = source.read(limits.max_bytes + 1)
        except Exception as error:  # truncated archives and broken connections raise whatever they like
            raise _refusal(error) from error
    else:
        raise PhotoError("unsupported", f"a photo is a path, bytes or a binary file, not {type(source).__name__}")
    if not isinstance(data, bytes):
        raise PhotoError("unsupported", f"a photo's file gives bytes, not {type(data).__name__}")
    if len(data) > limits.max_bytes:
        raise PhotoError("too large", f"more than {limits.max_bytes:,} bytes, which are all that is read")
    if not data:
        raise PhotoError("empty", "the file has no bytes")
    return data


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Read the header."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        kind, remedy = BRANDS.get(data[8:11], ("", "")) if data[4:8] == b"ftyp" else ("", "")
        if kind and kind not in FORMATS:
            raise PhotoError("unsupported", remedy) from error
        if other := next((name for start, name in OTHERS.items() if data.startswith(start)), None):
            raise PhotoError("unsupported", f"{other}; convert it to JPEG") from error
        raise PhotoError("not an image", f"begins with {data[:8]!r}") from error
    except Image.DecompressionBombError as error:
        if not data.startswith(b"\xff\xd8\xff"):
            raise PhotoError("too many pixels", f"{error} The limit is PIL.Image.MAX_IMAGE_PIXELS, twice.") from error
        image = JpegImageFile(io.BytesIO(data))  # the same without that limit: it may be decoded at a fraction
    except Exception as error:  # decoders of hostile bytes raise whatever they like
        raise _refusal(error) from error
    if image.format == "TIFF" and (data[8:10] == b"CR" or cast(Any, image).tag_v2.get(254) == 1):
        raise PhotoError("unsupported", "a raw file, of which only a preview can be read; convert it to JPEG")
    width, height = image.size
    if min(width, height) < limits.min_side:
        raise PhotoError("too small", f"{width} × {height} pixels, at least {limits.min_side} a side are needed")
    return image


def _check_pixels(image: Image.Image, width: int, height: int, limits: Limits) -> None:
    """Refuse what would take too much memory at the scale at which it is going to be decoded."""
    most, remedy = limits.max_pixels, "save it smaller"
    if Image.MAX_IMAGE_PIXELS is not None:
        most = min(most, 2 * Image.MAX_IMAGE_PIXELS)
    if image.width * image.height > most:
        remedy += ", or read a fraction of it: read_photo(…, at_least=512)" if isinstance(image, JpegImageFile) else ""
        raise PhotoError("too many pixels", f"{width} × {height}, at most {most:,} are decoded; {remedy}")
    if isinstance(image, JpegImageFile):
        full = width * height
        if image.info.get("progressive"):  # libjpeg holds it entirely, at two bytes a value
            sampling = [h * v for _, h, v, _ in image.layer]
            full = full * sum(sampling) // max(sampling)
        if full > FRACTION * most:
            at = f"at most {FRACTION * most:,} are read, even for a fraction"
            raise PhotoError("too many pixels", f"{width} × {height}, {at}; {remedy}")


def _refusal(error: Exception) -> PhotoError:
    message = f"{type(error).__name__}: {error}".strip()
    truncated = any(words in message.lower() for words in ("truncated", "end of file", "eoferror"))
    return PhotoError("truncated", "the file breaks off") if truncated else PhotoError("unreadable", message)


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # a broken EXIF block gives no orientation; the pixels are still good
        ImageOps.exif_transpose(image, in_place=True)  # a copy of each photo would cost time and memory
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB in sRGB by the embedded profile, alpha on white, 16 and 32 bits scaled to 8."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        # Pillow's own conversion clips everything above 255 to white. Integers usually reach 65535 and floats 1;
        # a photo that goes beyond is scaled by its brightest pixel.
        image, usual = (image, 1) if image.mode == "F" else (image.convert("I"), 65535)
        scale = 255 / max(usual, cast(float, image.getextrema()[1]))
        image = image.point(lambda value: value * scale + 0.5).convert("L")
    if image.has_transparency_data:
        white = Image.new("L" if image.mode in ("L", "LA") else "RGB", image.size, "white")
        image = image.convert("RGBA")
        white.paste(image, mask=image)
        image = white
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    transform = _srgb_transform(profile, image.mode) if profile else None
    rgb = transform.apply(image) if transform else image.convert("RGB")
    rgb.info.pop("icc_profile", None)  # or somebody converts it a second time
    return rgb


@lru_cache(maxsize=16)  # photos of one camera share a profile, and building its transform takes milliseconds
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Transform from an embedded profile to sRGB; None if it is broken, for other pixels, or changes nothing."""
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(embedded, ImageCms.createProfile("sRGB"), mode, "RGB")
        samples = np.random.default_rng(0).integers(0, 256, (64, 64 * len(mode)), dtype=np.uint8)
        image = Image.frombytes(mode, (64, 64), samples.tobytes())
        before, after = image.convert("RGB"), transform.apply(image)
        return transform if np.asarray(ImageChops.difference(before, after)).max() > 2 else None
    except Exception:  # profiles of hostile photos raise whatever they like
        return None
