"""Maps of where a network looks: laid over the photos, and how much of them lies on the car."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from carclf.galleries import photo_grid
from carclf.photos import PhotoError, read_photo

SIDE = 320  # pixels: the shorter side at which files are read for the page
COLOURS, OPACITY = mpl.colormaps["inferno"], 0.65  # of the map's largest value; where it is 0, the photo alone is seen


def inside_share(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How much of each map lies inside its box, the rest being border.

    A map that does not care where the car is has the share that the box has of the photo, which is what
    `inside_share(np.ones_like(maps), boxes)` gives: compare with that.

    Parameters
    ----------
    maps : float [N, H, W], not negative, as `carclf.explain.grad_cam` gives them
    boxes : float [N, 4], left, top, right and bottom as shares of the photo's width and height, 0 to 1; or one [4]

    Returns
    -------
    float64 [N], 0 to 1; NaN for a map of zeros

    Raises
    ------
    ValueError
        For boxes that lie beyond 0 to 1 or have no inside.
    """
    maps = np.asarray(maps, float)
    boxes = np.broadcast_to(np.asarray(boxes, float), (len(maps), 4))
    wrong = ((boxes < 0) | (boxes > 1)).any(1) | (boxes[:, :2] >= boxes[:, 2:]).any(1)
    if wrong.any():
        raise ValueError(
            f"box {boxes[wrong][0].tolist()} must be left, top, right, bottom as shares of the photo, "
            "0 ≤ left < right ≤ 1 and 0 ≤ top < bottom ≤ 1; divide pixels by width and height"
        )
    across, down = (_covered(boxes[:, i], boxes[:, i + 2], maps.shape[2 - i]) for i in (0, 1))
    inside, whole = np.einsum("nhw,nh,nw->n", maps, down, across), maps.sum((1, 2))
    return np.divide(inside, whole, where=whole > 0, out=np.full(len(maps), np.nan))


def overlay_page(
    photos: Sequence[str | Path | Image.Image | np.ndarray],
    maps: np.ndarray,
    titles: Sequence[str] | None = None,
    boxes: np.ndarray | None = None,
    fig: Figure | None = None,
) -> Figure:
    """Each photo beside itself under its map: the brighter a place, the more it counted for the answer.

    Parameters
    ----------
    photos : paths, images or arrays uint8 [3, H, W]; a map is stretched to its photo's shape
    maps : float [N, H, W], 0 to 1
    titles : [N], over the photos
    boxes : float [N, 4], drawn as a frame where given; as in `inside_share`
    """
    if len(photos) != len(maps):
        raise ValueError(f"{len(photos)} photos and {len(maps)} maps; give one map a photo")
    tiles, names = [], []
    for i, (photo, cam) in enumerate(zip(photos, maps, strict=True)):
        image = _image(photo)
        names += ["" if titles is None else titles[i], ""]
        if isinstance(image, Image.Image):
            tiles += [image, _framed(_overlaid(image, cam), None if boxes is None else boxes[i])]
        else:  # a grey tile with the reason
            tiles += [photo, photo]
    return photo_grid(tiles, names, columns=6, fig=fig)


def _covered(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    """Which part of each of n pixels in a row lies between low and high, shares of the row: float [len(low), n]."""
    first = np.arange(n)
    return (np.minimum(high[:, None] * n, first + 1) - np.maximum(low[:, None] * n, first)).clip(0, 1)


def _image(photo) -> Image.Image | None:
    """The photo as RGB pixels, None where it cannot be read."""
    if isinstance(photo, (str, Path)):
        try:
            photo = read_photo(photo, at_least=SIDE)
        except PhotoError:
            return None
        photo.thumbnail((2 * SIDE, SIDE))
    return photo.convert("RGB") if isinstance(photo, Image.Image) else Image.fromarray(np.moveaxis(photo, 0, -1))


def _overlaid(image: Image.Image, cam: np.ndarray) -> Image.Image:
    cam = np.asarray(Image.fromarray(np.asarray(cam, np.float32)).resize(image.size, Image.Resampling.BILINEAR))
    opacity = OPACITY * cam[..., None]
    mixed = np.asarray(image) * (1 - opacity) + 255 * COLOURS(cam)[..., :3] * opacity
    return Image.fromarray(mixed.astype(np.uint8))


def _framed(image: Image.Image, box: np.ndarray | None) -> Image.Image:
    if box is not None:
        corners = np.asarray(box) * [*image.size, *image.size] - [0, 0, 1, 1]
        ImageDraw.Draw(image).rectangle(corners.tolist(), outline=(255, 255, 255), width=2)
    return image
