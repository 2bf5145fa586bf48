"""Pixels of any mode -> RGB of 8 bits in sRGB."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms


def to_srgb(image: Image.Image) -> Image.Image:
    """A decoded image of any mode as RGB: in sRGB by its embedded profile, alpha on white, 16 and 32 bits scaled to 8.

    Raises whatever Pillow raises for a mode that it cannot convert.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = _on_white(image)
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    transform = _srgb_transform(profile, image.mode) if profile else None
    rgb = ImageCms.applyTransform(image, transform) if transform else image.convert("RGB")
    rgb.info.pop("icc_profile", None)  # nobody converts it a second time
    return rgb


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as L; Pillow's own conversion clips everything above 255 to white."""
    image = image if image.mode == "F" else image.convert("I")
    # Integers usually reach to 65535 and floats to 1; a photo that goes beyond is scaled by its brightest pixel.
    scale = 255 / max(1 if image.mode == "F" else 65535, image.getextrema()[1])
    return image.point(lambda value: value * scale + 0.5).convert("L")


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("L" if image.mode in ("L", "LA") else "RGB", image.size, "white")
    image = image.convert("RGBA")
    white.paste(image, mask=image)
    return white


@lru_cache(maxsize=16)  # photos of one camera share a profile, and building its transform takes milliseconds
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings pixels of a mode from an embedded profile to sRGB; None where nothing would change.

    A broken profile, or one of another kind of pixels, changes nothing either.
    """
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(embedded, ImageCms.createProfile("sRGB"), mode, "RGB")
        samples = np.random.default_rng(0).integers(0, 256, (64, 64 * len(mode)), dtype=np.uint8)
        image = Image.frombytes(mode, (64, 64), samples.tobytes())
        before, after = image.convert("RGB"), ImageCms.applyTransform(image, transform)
        return transform if np.asarray(ImageChops.difference(before, after)).max() > 2 else None
    except Exception:  # profiles of hostile photos raise whatever they like
        return None
