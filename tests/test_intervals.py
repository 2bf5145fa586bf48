import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from carclf.metrics import intervals


def test_a_resample_draws_whole_vehicles():
    """Each photo counts as often as its siblings do, and as many vehicles are drawn as there are."""
    vehicle = ["a", "b", "a", "c", "c", "c"]
    sums = intervals.resampled_sums(np.eye(6), vehicle, n_boot=500)
    assert (sums[:, 0] == sums[:, 2]).all() and (sums[:, 3:] == sums[:, [3]]).all()
    assert (sums[:, 0] + sums[:, 1] + sums[:, 3] == 3).all()
    assert sums.mean(axis=0) == pytest.approx(np.ones(6), abs=0.15)


@pytest.mark.parametrize(
    "value, bounds, expected",
    [(1, (0, 1), (0.6, 1)), (0, (0, 1), (0, 0.4)), (0.5, (0, 1), (0.3, 0.7)), (0, (-1, 1), (-0.4, 0.4))],
)
def test_what_never_varied_may_still_vary(value, bounds, expected):
    vehicles = np.log(0.025) / np.log(0.6)
    assert intervals.percentiles(np.full(100, value), vehicles, bounds) == pytest.approx(expected)


def test_exact_interval_of_photos_that_stand_alone():
    right = pd.Series([True] * 7 + [False] * 3 + [True] * 4)
    by = pd.Series(["x"] * 10 + ["y"] * 4)
    found = intervals.share_interval(right, pd.Series(range(14)), by)
    for name, hits, n in ("x", 7, 10), ("y", 4, 4):
        assert found.loc[name].tolist() == pytest.approx(list(binomtest(hits, n).proportion_ci(method="exact")))


@pytest.mark.parametrize("alike", [0, 0.5, 1])
@pytest.mark.parametrize("share", [0.7, 0.95])
def test_the_interval_of_a_share_holds_however_alike_siblings_are(alike, share):
    """600 draws of 12 vehicles with 1 to 8 photos; with probability `alike` a photo copies its vehicle's answer."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 9, (600, 12))
    draw = np.repeat(np.arange(600), sizes.sum(axis=1))
    vehicle = np.repeat(np.arange(600 * 12), sizes.ravel())
    copied = (random.random(600 * 12) < share)[vehicle]
    right = np.where(random.random(len(draw)) < alike, copied, random.random(len(draw)) < share)
    found = intervals.share_interval(pd.Series(right), pd.Series(vehicle), pd.Series(draw))
    held = (found["low"] <= share) & (share <= found["high"])
    assert held.mean() >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 600)


def test_least_share_equals_the_one_sided_exact_bound():
    for right, photos in (0, 5), (3, 5), (5, 5), (95, 100):
        expected = binomtest(right, photos, alternative="greater").proportion_ci(0.9, method="exact").low
        assert intervals.least_share(right, photos, 0.9) == pytest.approx(expected)
    assert intervals.least_share(0, 0, 0.9) == 0
