"""Photos in grids: samples, predictions, confused pairs, duplicates, and maps of where a network looks.

Every function draws into an empty Figure `fig`, or makes one, and returns it. A photo that cannot be read is a grey
tile with the reason. Of a predictions table with boxes, the crops are shown: what was judged.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from carclf.brands import owner_of
from carclf.data.duplicates import contradicts
from carclf.data.photos import PhotoError, read_photo
from carclf.errors import counted
from carclf.metrics.scores import confused_pairs, scored
from carclf.model.crops import SMALL, judged
from carclf.plot.cars import draw_cars
from carclf.plot.style import (
    DARK,
    PALE,
    RIGHT,
    WIDTH,
    WRONG,
    figure,
    house_style,
    is_right,
    nothing_page,
    percent,
    plain,
    verdict,
)

TILE = 320  # pixels: the longer side of a photo in a grid
COLOURS, OPACITY = mpl.colormaps["inferno"], 0.65  # opacity where a map is 1; where it is 0, only the photo shows
Photo = str | Path | Image.Image | np.ndarray
NO_BRAND = "no brand in its name"


@house_style
def photo_grid(
    photos: Sequence[Photo], titles: Sequence[str] | None = None, columns: int = 6, fig: Figure | None = None
) -> Figure:
    """Photos side by side.

    Parameters
    ----------
    photos : paths, PIL images or arrays [3, H, W], or one array [N, 3, H, W]; uint8, or float in 0..1. Floats beyond
        that, as in a normalised batch, are rescaled together.
    titles : one per photo
    """
    fig = _grid([_pixels(photo) for photo in photos], titles, columns, fig)
    if len(photos):
        named = "" if titles is None else f": {', '.join(map(str, titles))}"
        fig.set_label(f"{counted(len(photos), 'photo')} side by side{named}")
    return fig


@house_style
def scene_page(photo: str | Path | Image.Image, cars: pd.DataFrame, fig: Figure | None = None) -> Figure:
    """A photo with its cars as `draw_cars` draws them; `cars` are its rows of a predictions table."""
    image = draw_cars(photo if isinstance(photo, Image.Image) else read_photo(photo), cars)
    fig = figure(fig, WIDTH, WIDTH * image.height / image.width + 0.4)
    ax = fig.add_subplot()
    ax.set_axis_off()
    ax.imshow(image)
    found = cars[cars["x0"].notna()]
    ax.set_title(counted(len(found), "car"))
    answers = "; ".join(verdict(row) for row in found.itertuples())
    fig.set_label(f"A photo with {counted(len(found), 'car')}: {answers}" if answers else "none: no car was found")
    return fig


def sample_photos(manifest: pd.DataFrame, n: int = 18, seed: int = 0, fig: Figure | None = None) -> Figure:
    """`n` random readable photos of a manifest, each under its brand."""
    readable = manifest[manifest["problem"].isna()]
    sample = readable.sample(min(n, len(readable)), random_state=seed)
    return photo_grid(sample["path"], sample["brand"].astype(object).fillna(NO_BRAND), fig=fig)


@house_style
def overlay_page(
    photos: Sequence[Photo] | pd.DataFrame,
    maps: np.ndarray,
    titles: Sequence[str] | None = None,
    fig: Figure | None = None,
) -> Figure:
    """Each photo beside itself under its map: the brighter a place, the more it counted for the answer.

    Parameters
    ----------
    photos : paths, PIL images or arrays uint8 [3, H, W], or a predictions table; each map is stretched to the shape of
        its photo or crop
    maps : float [N, H, W], 0 to 1
    titles : one per photo; default: the `verdict` on each row of a predictions table
    """
    if len(photos) != len(maps):
        raise ValueError(f"{len(photos)} photos and {len(maps)} maps; give one map per photo")
    tiles: list[np.ndarray | str] = []
    names: list[str] = []
    shown = list(photos.itertuples() if isinstance(photos, pd.DataFrame) else photos)
    if titles is None:
        titles = [verdict(row) for row in shown] if isinstance(photos, pd.DataFrame) else [""] * len(shown)
    for photo, cam, title in zip(shown, maps, titles, strict=True):
        image = _pixels(photo)
        tiles += [image, image if isinstance(image, str) else _overlaid(image, cam)]
        names += [title, ""]
    fig = _grid(tiles, names, 6, fig, span=2)
    if shown:
        named = f": {'; '.join(titles)}" if any(titles) else ""
        fig.set_label(f"Where the network looked in {counted(len(shown), 'photo')}{named}")
    return fig


@house_style
def prediction_page(predictions: pd.DataFrame, n: int = 12, seed: int = 0, fig: Figure | None = None) -> Figure:
    """`n` random photos, each beside its five likeliest brands; all photos in their order if there are no more.

    The title is the `verdict` on the photo, the small print the file's name.
    """
    if predictions.empty:
        return nothing_page("there is no such photo", fig)
    sample = predictions.sample(n, random_state=seed) if len(predictions) > n else predictions
    rows = -(-len(sample) // 3)
    fig, said = figure(fig, WIDTH, 1.75 * rows), []
    for place, row in enumerate(sample.itertuples()):
        readable, small = not pd.isna(row.predicted), getattr(row, "decision", None) == SMALL
        image = _pixels(row) if readable or small else str(row.problem)
        title = plain(verdict(row), 60) if readable or small else "not read"
        colour = DARK if not readable or pd.isna(row.brand) else RIGHT if is_right(row) else WRONG
        said.append(title)
        ax = fig.add_subplot(rows, 6, 2 * place + 1)
        size = _size(title, 41)  # the longest title ends where the bars do
        _tile(ax, image, title, plain(Path(row.path).name, 44), color=colour, weight="bold", size=size)
        if readable:
            _top5(fig.add_subplot(rows, 6, 2 * place + 2), row, colour)
    fig.set_label(f"{counted(len(sample), 'photo')} with the likeliest brands: {'; '.join(said)}")
    return fig


@house_style
def confused_page(predictions: pd.DataFrame, k: int = 4, n: int = 3, fig: Figure | None = None) -> Figure:
    """The `k` most confused pairs, one per row: up to `n` mistaken photos, and `n` of the brand named instead.

    Each row says how many photos were mistaken, their share of the brand, and whether both brands have one owner;
    each photo the `verdict` on it.
    """
    if not (predictions["predicted"].notna() & predictions["brand"].notna()).any():
        return nothing_page("no photo has both an answer and a brand in its name", fig)
    known = scored(predictions)
    pairs = confused_pairs(known, k)
    if pairs.empty:
        return nothing_page("no brand was mistaken for another", fig)
    fig = figure(fig, WIDTH, 2.05 * len(pairs))
    fig.set_label("Photos of the most confused pairs. " + ". ".join(map(pair_title, pairs.itertuples())))
    for part, pair in zip(fig.subfigures(len(pairs), squeeze=False)[:, 0], pairs.itertuples(), strict=True):
        part.suptitle(plain(pair_title(pair), 110), x=0.005, ha="left", size=10, weight="bold", parse_math=False)
        places = part.add_gridspec(1, 2 * n + 1, width_ratios=[1] * n + [0.2] + [1] * n)
        for side, table in enumerate(pair_photos(known, pair.brand, pair.predicted, n)):
            for place, row in enumerate(table.itertuples()):
                ax = part.add_subplot(places[0, side * (n + 1) + place])
                title = textwrap.fill(verdict(row), 27, break_on_hyphens=False)
                colour = RIGHT if row.right else WRONG
                _tile(ax, _pixels(row), title, plain(Path(row.path).name, 26), color=colour, size=7.5)
    return fig


@house_style
def duplicates_page(pairs: pd.DataFrame, n: int = 12, fig: Figure | None = None) -> Figure:
    """The first `n` pairs of `carclf.duplicates` side by side; pairs under two brands are marked with ✗.

    Each photo has its brand and the file's name, and the left one how far apart the two are.
    """
    if pairs.empty:
        return nothing_page("no two photos show the same picture", fig)
    shown = pairs.head(n).assign(contradicts=contradicts(pairs))
    rows = -(-len(shown) // 2)
    fig = figure(fig, WIDTH, 2.2 * rows)
    for place, pair in enumerate(shown.itertuples()):
        distance = (
            "the same file"
            if pair.kind == "exact"
            else f"{pair.bits} of 256 bits differ{'s' if pair.bits == 1 else ''}"
        )
        colour, mark = (WRONG, "✗ ") if pair.contradicts else (DARK, "")
        sides = ((pair.path, pair.brand, f"{distance} · "), (pair.other_path, pair.other_brand, ""))
        for side, (path, brand, note) in enumerate(sides, start=1):
            title = plain(mark + (NO_BRAND if pd.isna(brand) else brand), 32)
            note += plain(Path(path).name, 40 - len(note))
            _tile(fig.add_subplot(rows, 4, 2 * place + side), _pixels(path), title, note, color=colour)
    two = int(shown["contradicts"].sum())
    fig.set_label(f"{len(shown)} of {counted(len(pairs), 'pair')} of duplicates side by side, {two} under two brands")
    return fig


def pair_photos(predictions: pd.DataFrame, brand: str, predicted: str, n: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Photos of a confused pair: `n` of `brand` taken for `predicted`, and `n` of `predicted`, correct answers first.

    The most confident come first, but one photo of each vehicle before a second of any.
    """
    surest = scored(predictions).sort_values("confidence", ascending=False, kind="stable")
    surest = surest.assign(again=surest.groupby(["vehicle", "predicted"]).cumcount())
    mistaken = surest[(surest["brand"] == brand) & (surest["predicted"] == predicted)]
    others = surest[surest["brand"] == predicted].assign(wrong=lambda table: ~table["right"])
    return mistaken.sort_values("again", kind="stable").head(n), others.sort_values(["wrong", "again"]).head(n)


def pair_title(pair) -> str:
    """A row of `confused_pairs` as text."""
    together = f"both belong to {owner_of(pair.brand)}" if pair.same_owner else "no common owner"
    photos = f"{counted(pair.photos, 'photo')}, {percent(pair.share)} of {pair.brand}"
    return f"{pair.brand} mistaken for {pair.predicted}: {photos}; {together}"


def _pixels(source) -> np.ndarray | str:
    """A path, row, PIL image or array [3, H, W] as an array [H, W, 3], or the reason why there is no photo."""
    try:
        if isinstance(source, (str, Path)):
            source = read_photo(source, at_least=TILE)
        elif hasattr(source, "path"):
            source = judged(source, at_least=TILE)
    except PhotoError as error:
        return str(error)
    if isinstance(source, Image.Image):
        source = source.convert("RGB")
        source.thumbnail((TILE, TILE))
        return np.asarray(source)
    return np.moveaxis(np.asarray(source), 0, -1)


def _grid(
    images: list[np.ndarray | str], titles: Sequence[str] | None, columns: int, fig: Figure | None, span: int = 1
) -> Figure:
    """Draw what `_pixels` gave, row by row; a title may be as wide as `span` tiles."""
    if not images:
        return nothing_page("there is no photo to show", fig)
    floats = [image for image in images if not isinstance(image, str) and image.dtype.kind == "f"]
    low, high = min([0, *map(np.min, floats)]), max([1, *map(np.max, floats)])
    columns = min(columns, len(images))
    rows, width = -(-len(images) // columns), min(WIDTH / columns, 3)  # width of a tile in inches
    fig = figure(fig, width * columns, (0.75 * width + 0.25) * rows)
    titles = [""] * len(images) if titles is None else titles
    for place, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
        if not isinstance(image, str) and image.dtype.kind == "f":
            image = (image - low) / (high - low)
        title = plain(title, int(18 * width * span))
        _tile(fig.add_subplot(rows, columns, place), image, title, size=_size(title, 12 * width * span))
    return fig


def _size(title: str, room: float) -> float:
    """Points of a title's letters, 9 if there are no more than `room`."""
    return min(9, 9 * room / max(len(title), 1))


def _tile(ax: Axes, image: np.ndarray | str, title: str, note: str = "", **style) -> None:
    """Draw pixels [H, W, 3], or why there are none, in a 4:3 box under a title, with small print between the two."""
    ax.set(xticks=[], yticks=[], box_aspect=0.75)
    ax.spines[:].set_visible(False)
    ax.set_title(title, pad=16 if note else None, parse_math=False, **{"size": 9, **style})
    ax.text(0, 1.04, note, transform=ax.transAxes, size=7, parse_math=False, in_layout=False)
    if isinstance(image, str):
        ax.set_facecolor("#e4e4e4")
        reason = textwrap.fill(plain(image, 90), 22)
        ax.text(0.5, 0.5, reason, ha="center", va="center", size=7, parse_math=False, in_layout=False)
        return
    ax.imshow(image, aspect="auto")
    height, width = image.shape[:2]
    half = max(width, height / 0.75) / 2  # of the box's width, in pixels
    ax.set(xlim=(width / 2 - half, width / 2 + half), ylim=(height / 2 + 0.75 * half, height / 2 - 0.75 * half))


def _overlaid(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """A photo uint8 [H, W, 3] under a map, which is stretched to its shape."""
    stretched = Image.fromarray(np.asarray(cam, np.float32)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    cam = np.asarray(stretched)
    opacity = OPACITY * cam[..., None]
    return (image * (1 - opacity) + 255 * COLOURS(cam)[..., :3] * opacity).astype(np.uint8)


def _top5(ax: Axes, row, colour: str) -> None:
    """Bars of the likeliest brands with their names on them; the predicted one in `colour`."""
    ax.set(xlim=(0, 1), ylim=(4.6, -0.6), xticks=[], yticks=[], box_aspect=0.75)
    ax.spines[:].set_visible(False)
    for place, (brand, share) in enumerate(row.top5.items()):
        ax.barh(place, share, height=0.85, color=colour if place == 0 else PALE, alpha=0.45)
        ax.text(0.02, place, plain(brand, 18), va="center", size=7, parse_math=False, in_layout=False)
        ax.text(1, place, percent(share), va="center", ha="right", size=7, in_layout=False)
