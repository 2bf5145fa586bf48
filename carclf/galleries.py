"""Photos as pictures: pages of samples and of predictions, in the house style."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from carclf.brands import owner_of
from carclf.evaluation import confused_pairs, scored
from carclf.fingerprints import contradicts
from carclf.photos import PhotoError, read_photo
from carclf.style import DARK, PALE, RIGHT, WIDTH, WRONG, doubt, house_style, plain

TILE = 320  # pixels: the longer side of a photo in a grid


def _pixels(source):
    """A path, PIL image or array [3, H, W] as an array [H, W, 3], or as the reason why there is no photo."""
    if isinstance(source, (str, Path)):
        try:
            source = read_photo(source, at_least=TILE)
        except PhotoError as error:
            return str(error)
    if isinstance(source, Image.Image):
        source = source.convert("RGB")
        source.thumbnail((TILE, TILE))
        return np.asarray(source)
    return np.moveaxis(np.asarray(source), 0, -1)


def _tile(ax, image):
    """Draw pixels [H, W, 3], or the reason why there are none, in a box of 4 to 3 with white margins."""
    ax.set(xticks=[], yticks=[], box_aspect=0.75)
    ax.spines[:].set_visible(False)
    if isinstance(image, str):
        ax.set_facecolor("#e4e4e4")
        reason = textwrap.fill(plain(image, 90), 22)
        ax.text(0.5, 0.5, reason, ha="center", va="center", size=7, parse_math=False, in_layout=False)
        return
    ax.imshow(image, aspect="auto")
    height, width = image.shape[:2]
    half = max(width, height / 0.75) / 2  # of the box's width, in pixels
    ax.set(xlim=(width / 2 - half, width / 2 + half), ylim=(height / 2 + 0.75 * half, height / 2 - 0.75 * half))


@house_style
def photo_grid(photos, titles=None, columns=6, fig=None):
    """Photos side by side; one that cannot be read is a grey tile with the reason.

    `photos` is a sequence of paths, PIL images or arrays [3, H, W], uint8 or float, or one array
    [N, 3, H, W]. Floats beyond 0..1, as a normalised batch has them, are all scaled alike until they fit.
    """
    images = [_pixels(photo) for photo in photos]
    if not images:
        raise ValueError("there are no photos to show: the list is empty")
    floats = [image for image in images if not isinstance(image, str) and image.dtype.kind == "f"]
    low, high = min([0, *map(np.min, floats)]), max([1, *map(np.max, floats)])
    columns = min(columns, len(images))
    rows, width = -(-len(images) // columns), min(WIDTH / columns, 3)  # width of a tile in inches
    fig = plt.figure(figsize=(width * columns, (0.75 * width + 0.25) * rows)) if fig is None else fig
    titles = [""] * len(images) if titles is None else titles
    for place, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
        ax = fig.add_subplot(rows, columns, place)
        scale = not isinstance(image, str) and image.dtype.kind == "f"
        _tile(ax, (image - low) / (high - low) if scale else image)
        ax.set_title(plain(title, int(14 * width)), size=9, parse_math=False)
    return fig


def sample_photos(manifest, n=18, seed=0, fig=None):
    """`n` random readable photos of a manifest, each under its brand."""
    readable = manifest[manifest["problem"].isna()]
    sample = readable.sample(min(n, len(readable)), random_state=seed)
    return photo_grid(sample["path"], sample["brand"].astype(object).fillna("no brand in its name"), fig=fig)


def _verdict(row):
    """Title and colour of one prediction: the true brand, a mark, and what the model said instead."""
    if pd.isna(row.predicted):
        return f"– {'' if pd.isna(row.brand) else row.brand}", DARK
    if pd.isna(row.brand):
        return f"? {row.predicted}", DARK
    return (f"✓ {row.brand}", RIGHT) if row.brand == row.predicted else (f"✗ {row.brand}, not {row.predicted}", WRONG)


def _top5(ax, row, colour):
    """Bars of the likeliest brands with their names on them; the predicted one in `colour`."""
    ax.set(xlim=(0, 1), ylim=(4.6, -0.6), xticks=[], yticks=[], box_aspect=0.75)
    ax.spines[:].set_visible(False)
    for place, (brand, share) in enumerate(row.top5.items()):
        ax.barh(place, share, height=0.85, color=colour if place == 0 else PALE, alpha=0.45)
        ax.text(0.02, place, plain(brand, 18), va="center", size=7, parse_math=False, in_layout=False)
        ax.text(1, place, f"{share:.0%}", va="center", ha="right", size=7, in_layout=False)


def _nothing(fig, why):
    fig = plt.figure(figsize=(WIDTH, 0.5)) if fig is None else fig
    fig.text(0, 0.5, why)
    return fig


def _note(ax, text):
    """Small print between a photo and its title."""
    ax.text(0, 1.04, text, transform=ax.transAxes, size=7, parse_math=False, in_layout=False)


@house_style
def prediction_page(predictions, n=12, seed=0, fig=None):
    """`n` photos, each beside its five likeliest brands: random ones, or all in their order where there are no more.

    So it shows a table of `carclf.mistakes`, too. The title holds the true brand after ✓ or ✗ (or ? and the answer,
    where the file name says no brand), below it stand the confidence, "unsure" or "unknown" where the model would not
    answer, and the file's name.
    """
    if predictions.empty:
        return _nothing(fig, "There is no such photo.")
    sample = predictions.sample(n, random_state=seed) if len(predictions) > n else predictions
    rows = -(-len(sample) // 3)
    fig = plt.figure(figsize=(WIDTH, 1.75 * rows)) if fig is None else fig
    for place, row in enumerate(sample.itertuples()):
        photo, readable = fig.add_subplot(rows, 6, 2 * place + 1), not pd.isna(row.predicted)
        _tile(photo, _pixels(row.path) if readable else str(row.problem))
        title, colour = _verdict(row)
        photo.set_title(plain(title, 40), size=9, color=colour, weight="bold", pad=16, parse_math=False)
        sure = f"{row.confidence:.0%}{doubt(row)} · " if readable else ""
        _note(photo, sure + plain(Path(row.path).name, 36))
        if readable:
            _top5(fig.add_subplot(rows, 6, 2 * place + 2), row, colour)
    return fig


def pair_photos(predictions, brand, predicted, n=3):
    """Photos of one confused pair: `n` of `brand` named `predicted`, and `n` of `predicted`, first those named rightly.

    The surest come first, but one of each vehicle before the second of any. Returns two tables, as `scored` does.
    """
    surest = scored(predictions).sort_values("confidence", ascending=False, kind="stable")
    surest = surest.assign(again=surest.groupby(["vehicle", "predicted"]).cumcount())
    mistaken = surest[(surest["brand"] == brand) & (surest["predicted"] == predicted)]
    others = surest[surest["brand"] == predicted].assign(wrong=lambda table: ~table["right"])
    return mistaken.sort_values("again", kind="stable").head(n), others.sort_values(["wrong", "again"]).head(n)


def pair_title(pair):
    """A row of `confused_pairs` in words."""
    owner = owner_of(pair.brand)
    together = f"both belong to {owner}" if pair.same_owner else "no common owner"
    photos = f"{pair.photos:,} photo{'s' if pair.photos > 1 else ''}"
    return f"{pair.brand} taken for {pair.predicted}: {photos}, {pair.share:.0%} of {pair.brand}; {together}"


@house_style
def confused_page(predictions, k=4, n=3, fig=None):
    """The `k` most confused pairs, a row each: left photos of the one brand named as the other, right the other brand.

    Above each row stand the photos mistaken, their share of the brand's photos and whether one owner has both brands;
    above each photo what the model said, after ✓ or ✗.
    """
    pairs = confused_pairs(scored(predictions), k)
    if pairs.empty:
        return _nothing(fig, "No brand was taken for another.")
    fig = plt.figure(figsize=(WIDTH, 1.9 * len(pairs))) if fig is None else fig
    for rows, pair in zip(np.atleast_1d(fig.subfigures(len(pairs))), pairs.itertuples(), strict=True):
        rows.suptitle(plain(pair_title(pair), 110), x=0.005, ha="left", size=10, weight="bold", parse_math=False)
        places = rows.add_gridspec(1, 2 * n + 1, width_ratios=[1] * n + [0.2] + [1] * n)
        for side, table in enumerate(pair_photos(predictions, pair.brand, pair.predicted, n)):
            for place, row in enumerate(table.itertuples()):
                ax = rows.add_subplot(places[0, side * (n + 1) + place])
                _tile(ax, _pixels(row.path))
                title, colour = (f"✓ {row.brand}", RIGHT) if row.right else (f"✗ {row.predicted}", WRONG)
                ax.set_title(plain(title, 24), size=8, color=colour, pad=14, parse_math=False)
                _note(ax, f"{row.confidence:.0%} · {plain(Path(row.path).name, 18)}")
    return fig


@house_style
def duplicates_page(pairs, n=12, fig=None):
    """The first `n` pairs of `carclf.duplicates`, side by side: pairs under two brands first, marked with ✗.

    Above each photo stand its brand and the file's name, and on the left one how far apart the two are.
    """
    if pairs.empty:
        return _nothing(fig, "No picture is there more than once.")
    shown = pairs.head(n).assign(contradicts=contradicts(pairs))
    rows = -(-len(shown) // 2)
    fig = plt.figure(figsize=(WIDTH, 2.2 * rows)) if fig is None else fig
    for place, pair in enumerate(shown.itertuples()):
        distance = "the same file" if pair.kind == "exact" else f"{pair.bits} of 256 bits differ"
        colour, mark = (WRONG, "✗ ") if pair.contradicts else (DARK, "")
        sides = ((pair.path, pair.brand, f"{distance} · "), (pair.other_path, pair.other_brand, ""))
        for side, (path, brand, note) in enumerate(sides):
            ax = fig.add_subplot(rows, 4, 2 * place + side + 1)
            _tile(ax, _pixels(path))
            title = mark + ("no brand in its name" if pd.isna(brand) else brand)
            ax.set_title(plain(title, 32), size=9, color=colour, pad=16, parse_math=False)
            _note(ax, note + plain(Path(path).name, 40 - len(note)))
    return fig
