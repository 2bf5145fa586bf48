"""How far a measured number may lie from the truth, where photos of one vehicle are right or wrong together.

Vehicles are independent, photos are not. So what resamples resamples vehicles (Field and Welsh 2007), and what counts
counts an effective number of photos. All intervals are of 95 % where nothing else is said.
"""

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.stats import beta

TAIL = 0.025  # on either side


def indicator(codes, n):
    """Sparse float64 [N, n] with a one in row i and column codes[i], and none where the code is -1."""
    rows = np.flatnonzero(np.asarray(codes) >= 0)
    return csr_matrix((np.ones(len(rows)), (rows, np.asarray(codes)[rows])), shape=(len(codes), n))


def resampled_sums(photos, vehicle, seed=0, n_boot=1000):
    """Sums over the photos of as many vehicles as there are, drawn with replacement, `n_boot` times.

    `photos` is an array or a sparse array [N, k] of numbers to add up, `vehicle` names the vehicle of each of the N.
    Returns float64 [n_boot, k].
    """
    codes, vehicles = pd.factorize(np.asarray(vehicle, object), sort=True)  # the order of the rows plays no part
    n, random = len(vehicles), np.random.default_rng(seed)
    by_vehicle = csr_matrix(photos).T @ indicator(codes, n)
    draws = (np.bincount(random.integers(n, size=n), minlength=n) for _ in range(n_boot))
    return np.stack([by_vehicle @ draw for draw in draws])


def percentiles(draws, vehicles, bounds=(0.0, 1.0)):
    """95 % percentile interval (low, high) of bootstrap `draws`, floats [n_boot] within `bounds`.

    Resampling cannot invent an outcome that was never seen: where all draws agree, the interval allows for as many
    vehicles of the other kinds as the exact binomial bound does. `vehicles` is how many stand behind the number.
    """
    if vehicles <= 1:
        return bounds  # one vehicle says nothing about the next
    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    if high - low < 1e-12:
        alike = TAIL ** (1 / vehicles)
        low, high = (alike * low + (1 - alike) * bound for bound in bounds)
    return float(low), float(high)


def share_interval(right, vehicle, by):
    """95 % intervals of the share that is right in each group, for groups too small to resample.

    They are those of Clopper and Pearson on the effective number of photos, (Σm)² / Σm² with m photos a vehicle in
    that group (Kish 1965), as though all photos of a vehicle were right or wrong together. They are exact where every
    vehicle has one photo, and wider than need be where siblings disagree.

    Parameters
    ----------
    right, vehicle, by : Series with one index: bool, the vehicle, and the group

    Returns
    -------
    DataFrame indexed by group, sorted: ``low`` and ``high``, floats in 0..1.
    """
    share = right.groupby(by).mean()
    sizes = right.groupby([by, vehicle]).size()
    photos, squares = (part.groupby(level=0).sum() for part in (sizes, sizes**2))
    n = photos**2 / squares
    hits, misses = share * n, (1 - share) * n
    low = np.where(hits > 0, beta.ppf(TAIL, hits, misses + 1), 0.0)
    high = np.where(misses > 0, beta.ppf(1 - TAIL, hits + 1, misses), 1.0)
    return pd.DataFrame({"low": low, "high": high}, index=share.index)


def least_share(right, photos, confidence_level):
    """One-sided bound of Clopper and Pearson: the share is at least this, with that confidence.

    `right` and `photos` are counts of independent photos, numbers or arrays; 0 where none is right.
    """
    return np.nan_to_num(beta.ppf(1 - confidence_level, right, np.subtract(photos, right) + 1))
