"""How far a measured number may be from the truth, given that photos of one vehicle are right or wrong together.

Vehicles are independent, photos are not. So resampling resamples vehicles (Field and Welsh 2007), and counting counts
an effective number of photos. All intervals are 95 % intervals unless they say otherwise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from scipy.stats import beta

TAIL = 0.025  # on either side


def indicator(codes: ArrayLike, n: int) -> csr_matrix:
    """Sparse float64 [N, n] with a one in row i and column codes[i], and none if the code is -1."""
    codes = np.asarray(codes)
    rows = np.flatnonzero(codes >= 0)
    return csr_matrix((np.ones(len(rows)), (rows, codes[rows])), shape=(len(codes), n))


def resampled_sums(photos: ArrayLike | csr_matrix, vehicle: ArrayLike, seed: int = 0, n_boot: int = 1000) -> np.ndarray:
    """Sums over the photos of as many vehicles as there are, drawn with replacement: float64 [n_boot, k].

    `photos` [N, k] holds the numbers to add up, `vehicle` [N] the vehicle of each photo.
    """
    codes, vehicles = pd.factorize(np.asarray(vehicle, object), sort=True)  # the order of the rows plays no part
    n, random = len(vehicles), np.random.default_rng(seed)
    by_vehicle = csr_matrix(photos).T @ indicator(codes, n)
    draws = (np.bincount(random.integers(n, size=n), minlength=n) for _ in range(n_boot))
    return np.stack([by_vehicle @ draw for draw in draws])


def percentiles(draws: np.ndarray, vehicles: float, bounds: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float]:
    """95 % percentile interval (low, high) of bootstrap `draws`, floats [n_boot] within `bounds`.

    Resampling cannot invent an outcome that was never seen. So if all draws agree, the interval allows for as many
    vehicles of the other kinds as the exact binomial bound does. `vehicles` is how many stand behind the number.
    """
    if vehicles <= 1:
        return bounds  # one vehicle says nothing about the next
    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    if high - low < 1e-12:
        alike = TAIL ** (1 / vehicles)
        low, high = (alike * low + (1 - alike) * bound for bound in bounds)
    return float(low), float(high)


def share_interval(right: pd.Series, vehicle: pd.Series, by: pd.Series) -> pd.DataFrame:
    """95 % intervals of the share of `right` in each group, for groups too small to resample.

    They are those of Clopper and Pearson on the effective number of photos, (Σm)² / Σm² with m photos per vehicle in
    that group (Kish 1965), as if all photos of a vehicle were right or wrong together. They are exact if every
    vehicle has one photo, and wider than necessary if siblings disagree. The three Series share one index.

    Returns
    -------
    DataFrame indexed by group, sorted
        ``low`` and ``high``, floats in 0..1.
    """
    share = right.groupby(by).mean()
    sizes = right.groupby([by, vehicle]).size()
    photos, squares = (part.groupby(level=0).sum() for part in (sizes, sizes**2))
    n = photos**2 / squares
    hits, misses = share * n, (1 - share) * n
    low = np.where(hits > 0, beta.ppf(TAIL, hits, misses + 1), 0.0)
    high = np.where(misses > 0, beta.ppf(1 - TAIL, hits + 1, misses), 1.0)
    return pd.DataFrame({"low": low, "high": high}, index=share.index)


def least_share(right: ArrayLike, photos: ArrayLike, confidence_level: float) -> np.ndarray:
    """One-sided bound of Clopper and Pearson: the share is at least this, with that confidence.

    `right` and `photos` are counts of independent photos; the bound is 0 if none is right.
    """
    return np.nan_to_num(beta.ppf(1 - confidence_level, right, np.subtract(photos, right) + 1))
