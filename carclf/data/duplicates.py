"""Photos that show the same picture: identical files, and copies in another size, quality or crop.

A fingerprint is the perceptual hash pHash (the 16 × 16 lowest frequencies of a photo, each a bit: above the median or
not) of four views: the entire photo, its middle square and its middle bands of 2 to 1 and 3 to 1. A copy cropped
equally at both sides has the same square, one cropped above and below has the same band. Two photos are near-duplicates
if one of the views differs in at most `NEAR` of 256 bits. From 36 bits on, different cars in the same studio start to
match.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

NEAR = 32  # bits of 256
SIDE, LOWEST, VIEWS = 64, 16, 4  # pixels a view is shrunk to, frequencies kept in each direction, views per photo
FLAT = 2.0  # grey levels: a view whose standard deviation is below this says nothing
SAMPLES, SAMPLE_BITS = 32, 16  # two photos are compared if one of so many samples of bits is equal in both
REACH = 20  # and only with so many next ones of equal sample, so that a thousand copies need no million comparisons
COUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # bits set in a byte


def fingerprint(image: Image.Image) -> str | None:
    """Perceptual hash of an upright photo of at least `SIDE` pixels per side.

    Returns
    -------
    str or None
        4 × 64 hexadecimal digits, 256 bits per view; None for a photo without contrast.
    """
    grey = image.convert("L")
    views = [np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX, box)) for box in _boxes(*grey.size)]
    if min(view.std() for view in views) < FLAT:
        return None
    low = dctn(np.stack(views).astype(np.float32), axes=(1, 2))[:, :LOWEST, :LOWEST].reshape(VIEWS, -1)
    return np.packbits(low > np.median(low, 1, keepdims=True), 1).tobytes().hex()


def _boxes(width: int, height: int) -> Iterator[tuple[float, float, float, float]]:
    """The entire photo, its middle square, its middle bands of 2 to 1 and 3 to 1."""
    for wide, high in ((width, height), (1, 1), (2, 1), (3, 1)):
        scale = min(width / wide, height / high)
        w, h = wide * scale, high * scale
        yield (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def duplicates(manifest: pd.DataFrame) -> pd.DataFrame:
    """Pairs of photos that show the same picture, pairs with different brands first: one of the two names is wrong.

    Parameters
    ----------
    manifest : DataFrame
        From `carclf.scan`; photos that were decoded and then set aside are compared too.

    Returns
    -------
    DataFrame
        One row per pair: path and other_path, brand and other_brand (missing if the name has none), kind ("exact" or
        "near") and bits (0 to 32, how far apart the most similar of their views are). If many photos show one picture,
        there are just enough pairs to connect them.
    """
    number, bits, exact = _pairs(manifest)
    photos = manifest[["path", "brand"]]
    one, other = (photos.iloc[number[:, side]].reset_index(drop=True) for side in (0, 1))
    pairs = one.join(other.add_prefix("other_")).assign(kind=np.where(exact, "exact", "near"), bits=bits)
    pairs = pairs[["path", "other_path", "brand", "other_brand", "kind", "bits"]]
    order = pairs.assign(same=~contradicts(pairs)).sort_values(["same", "bits", "path", "other_path"]).index
    return pairs.loc[order].reset_index(drop=True)


def contradicts(pairs: pd.DataFrame) -> pd.Series:
    """For each row of `duplicates`, whether the names carry two different brands."""
    return pairs.brand.notna() & pairs.other_brand.notna() & (pairs.brand != pairs.other_brand)


def merge_duplicates(manifest: pd.DataFrame) -> pd.DataFrame:
    """Mark what a scan found more than once.

    `cluster` is the path of the first photo of the same picture, missing if there is no other. Vehicles that share a
    picture become one vehicle. Identical files with different brands are set aside, because either name may be wrong;
    near-duplicates with different brands are kept, with a note in `suspect`.
    """
    number, _, exact = _pairs(manifest)
    rows = np.arange(len(manifest))
    picture, file = (components(pairs, len(manifest)) for pairs in (number, number[exact]))
    first = pd.Series(rows).groupby(picture).transform("min").to_numpy()
    vehicle = pd.factorize(manifest.vehicle)[0]
    together = components(vehicle[number], vehicle.max(initial=-1) + 1)[vehicle]
    contradiction, suspect = (_brands_named(manifest, group) for group in (file, picture))
    good = manifest.problem.isna().to_numpy()
    set_aside = good & contradiction.notna()
    reason = "contradiction: the same photo is named " + contradiction
    return manifest.assign(
        cluster=np.where(np.isin(rows, number), manifest.path.to_numpy()[first], None),
        vehicle=manifest.groupby(together).vehicle.transform("first").astype(object),
        problem=manifest.problem.astype(object).where(~set_aside, reason),
        suspect=("near-duplicates are named " + suspect).where(good & ~set_aside, None),
    )


def _brands_named(manifest: pd.DataFrame, group: np.ndarray) -> pd.Series:
    """For each row "Audi and BMW" if its group has these brands; missing if it has one or none."""
    brands = manifest.brand[(manifest.width > 0) & manifest.brand.notna()]
    named = brands.groupby(group[brands.index]).agg(lambda names: sorted(set(names)))
    text = named[named.str.len() > 1].str.join(" and ").astype(object)
    return pd.Series(text.reindex(group).to_numpy(object), manifest.index, dtype=object)


def same_pictures(fingerprints: pd.Series) -> np.ndarray:
    """Number, int [n], of the picture that each photo shows; a photo without a fingerprint is a picture of its own."""
    known = np.flatnonzero(fingerprints.notna())
    return components(known[_near(fingerprints.iloc[known])[0]], len(fingerprints))


def components(pairs: np.ndarray, n: int) -> np.ndarray:
    """Number, int [n], of the group that each of n things is in, if the two of each pair, int [m, 2], are together."""
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _pairs(manifest: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers int64 [n, 2], ascending in each pair; differing bits [n]; whether the files are identical [n]."""
    decoded = manifest.width > 0
    digest = manifest.sha256.where(decoded)
    rows = pd.Series(np.flatnonzero(digest.notna()))
    first = rows.groupby(digest.dropna().to_numpy()).transform("first")
    copies = np.stack([first, rows], 1)[(first != rows).to_numpy()]
    known = np.flatnonzero(manifest.fingerprint.notna() & decoded)
    known = known[~np.isin(known, copies[:, 1])]  # copies are compared through their first
    near, bits = _near(manifest.fingerprint.iloc[known])
    pairs = np.concatenate([copies, known[near]])
    return pairs, np.concatenate([np.zeros(len(copies), int), bits]), np.arange(len(pairs)) < len(copies)


def _near(fingerprints: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of fingerprints with a view in common, int64 [m, 2], and their differing bits [m].

    Bit-sampling locality-sensitive hashing (Indyk and Motwani 1998): two fingerprints are compared only if they agree
    in one of 32 random samples of 16 bits. If bits differ independently, this finds a pair 32 bits apart with 98 %
    probability, one 24 apart with 99.9 %. What is connected already is not compared again, so a thousand frames of
    one scene are a thousand pairs.
    """
    prints = np.frombuffer(bytes.fromhex("".join(fingerprints)), np.uint8).reshape(-1, VIEWS, 32)
    rng, n = np.random.default_rng(0), len(prints)
    pairs, bits, group = np.empty((0, 2), np.int64), np.empty(0, np.int64), np.arange(n)
    for view in range(VIEWS):
        ones = np.unpackbits(prints[:, view], axis=1)
        for _ in range(SAMPLES):
            sample = ones[:, rng.choice(ones.shape[1], SAMPLE_BITS, replace=False)]
            found = _neighbours(sample @ (1 << np.arange(SAMPLE_BITS)))
            found = found[group[found[:, 0]] != group[found[:, 1]]]
            distance = COUNT[prints[found[:, 0]] ^ prints[found[:, 1]]].sum(2, dtype=np.int64).min(1)
            close = distance <= NEAR
            if close.any():
                pairs, bits = np.concatenate([pairs, found[close]]), np.concatenate([bits, distance[close]])
                group = components(pairs, n)
    nearest = minimum_spanning_tree(coo_matrix((bits + 1, np.sort(pairs, 1).T), shape=(n, n))).tocoo()
    return np.stack([nearest.row, nearest.col], 1).astype(np.int64), nearest.data.astype(np.int64) - 1


def _neighbours(keys: np.ndarray) -> np.ndarray:
    """Pairs int64 [m, 2] of rows with equal keys: each row with the next `REACH` of the same key."""
    order = np.argsort(keys, kind="stable")
    pairs = [np.empty((0, 2), np.int64)]
    for step in range(1, min(REACH, len(keys) - 1) + 1):
        equal = keys[order[:-step]] == keys[order[step:]]
        if not equal.any():
            break
        pairs.append(np.stack([order[:-step][equal], order[step:][equal]], 1))
    return np.concatenate(pairs)
