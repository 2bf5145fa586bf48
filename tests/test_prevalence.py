"""Corrected shares are nearer to the truth than counted predictions, and their intervals hold it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from carclf.metrics.prevalence import brand_shares, resolution, shares_on
from carclf.report.tables import shares_table

BRANDS = ["Audi", "BMW", "Kia", "Seat", "Volvo"]
CENTRES = np.random.default_rng(1).normal(0, 1.4, (5, 4))
PRIOR = np.array([0.4, 0.3, 0.15, 0.1, 0.05])  # of train and valid
SURE, LABELS = (np.eye(5) + 1e-9) / (1 + 5e-9), np.repeat(np.arange(5), 20)  # what is never wrong; a valid for it


def draw(rng, n, shares, preference=0.0):
    """Answers of a classifier trained under PRIOR, and the brands; `preference` favours rare ones, as weights do."""
    labels = rng.choice(5, n, p=shares)
    x = CENTRES[labels] + rng.normal(0, 1, (n, 4))
    distance = ((x[:, None] - CENTRES) ** 2).sum(2)
    logits = -distance / 2 + (1 - preference) * np.log(PRIOR)
    return softmax(logits, axis=1), labels


def names(labels):
    return [BRANDS[i] for i in labels]


@pytest.mark.parametrize("preference", [0.0, 0.5, 1.0])
def test_corrected_shares_beat_counting_on_resampled_sets_with_known_shares(preference):
    rng = np.random.default_rng(2)
    valid, labels = draw(rng, 2_000, PRIOR, preference)
    counted, corrected = [], []
    for _ in range(30):
        truth = rng.dirichlet(np.ones(5))
        photos, _ = draw(rng, 1_000, truth, preference)
        table = brand_shares(valid, names(labels), photos, BRANDS, n_boot=0).loc[BRANDS]
        counted.append(np.abs(table.counted - truth).sum())
        corrected.append(np.abs(table.corrected - truth).sum())
    assert np.mean(corrected) < 0.6 * np.mean(counted)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    held, wide = [], []
    for _ in range(25):
        valid, labels = draw(rng, 600, PRIOR, 0.5)
        truth = rng.dirichlet(np.full(5, 2.0))
        photos, _ = draw(rng, 400, truth, 0.5)
        table = brand_shares(valid, names(labels), photos, BRANDS, n_boot=60).loc[BRANDS]
        held += ((table.low <= truth) & (truth <= table.high)).tolist()
        wide += (table.high - table.low).tolist()
    assert 0.85 <= np.mean(held) <= 1
    assert np.mean(wide) < 0.15  # and they say something


def test_nothing_is_corrected_if_the_classifier_is_never_wrong():
    street = np.repeat(np.arange(5), [50, 20, 10, 10, 10])
    table = brand_shares(SURE[LABELS], names(LABELS), SURE[street], BRANDS, n_boot=10)
    for column, near in ("counted", 1e-9), ("corrected", 1e-4):
        np.testing.assert_allclose(table.loc[BRANDS, column], [0.5, 0.2, 0.1, 0.1, 0.1], atol=near)
        assert table[column].sum() == pytest.approx(1)
    assert table.index[0] == "Audi"


def test_a_vehicle_counts_as_one_however_often_it_was_photographed():
    street, vehicles = [0] * 90 + [1], ["one Audi"] * 90 + ["one BMW"]
    table = brand_shares(SURE[LABELS], names(LABELS), SURE[street], BRANDS, vehicles, n_boot=20)
    np.testing.assert_allclose(table.corrected[["Audi", "BMW"]], 0.5, atol=1e-3)
    assert table.low["Audi"] < 0.1 < 0.9 < table.high["Audi"]  # two vehicles say little


def test_a_brand_without_photos_in_valid_keeps_a_share_and_the_same_seed_gives_the_same_intervals():
    rng = np.random.default_rng(4)
    valid, labels = draw(rng, 500, PRIOR)
    kept = labels != 4
    photos, _ = draw(rng, 1_000, np.full(5, 0.2))
    first, again, other = (
        brand_shares(valid[kept], names(labels[kept]), photos, BRANDS, seed=s, n_boot=10) for s in (0, 0, 1)
    )
    assert first.corrected["Volvo"] > 0
    assert np.isfinite(first).all(axis=None)
    assert first.equals(again)
    assert not first.equals(other)


def test_photos_of_one_vehicle_of_valid_are_drawn_together():
    rng = np.random.default_rng(5)
    valid, labels = draw(rng, 40, PRIOR)
    photos, _ = draw(rng, 500, PRIOR)
    once, ten = (
        brand_shares(
            np.repeat(valid, 10, 0), names(np.repeat(labels, 10)), photos, BRANDS, valid_vehicles=groups, n_boot=40
        )
        for groups in (None, np.repeat(np.arange(40), 10).tolist())
    )
    np.testing.assert_allclose(once.corrected, ten.corrected)
    assert (ten.high - ten.low).mean() > 1.3 * (once.high - once.low).mean()  # 40 vehicles say less than 400


@pytest.mark.parametrize("n", [3, 40, 900])
def test_what_was_not_seen_is_bounded_by_the_number_of_photos(n):
    table = brand_shares(SURE[LABELS], names(LABELS), SURE[np.zeros(n, int)], BRANDS, n_boot=20)
    rest = table.drop("Audi")
    assert (1 - resolution(n)) ** n == pytest.approx(0.025)  # the chance to miss such a brand n times
    assert (rest.high >= round(resolution(n), 3) - 1e-3).all() and (rest.corrected < 0.1 / n).all()
    assert table.low["Audi"] <= 1 - resolution(n) + 1e-3 and table.high["Audi"] == 1
    decimals = table.map(lambda share: len(repr(float(share)).partition(".")[2]))
    assert decimals.max(axis=None) <= 2 + np.ceil(np.log10(n))  # and no 2.4e-292


def test_a_brand_that_valid_lacks_does_not_take_the_street():
    rng = np.random.default_rng(6)
    shares = np.array([0.45, 0.3, 0.15, 0.1, 0])
    valid, labels = draw(rng, 600, PRIOR)
    kept = labels != 4
    photos, truth = draw(rng, 600, shares, 0.3)  # of another kind than valid: rare brands are named more often
    table = brand_shares(valid[kept], names(labels[kept]), photos, BRANDS, n_boot=0)
    assert table.corrected["Volvo"] < 2 * max(table.counted["Volvo"], 0.01)
    assert (truth != 4).all()


def test_the_table_of_shares_drops_no_brand_in_silence():
    table = pd.DataFrame(
        {
            "counted": [0.6, 0.4, 0, 0, 0],
            "corrected": [0.7, 0.3, 0, 0, 0],
            "low": 0.0,
            "high": [0.9, 0.5, 0.3, 0.031, 0.031],
        },
        pd.Index(BRANDS, name="brand"),
    )
    *lines, last = shares_table(table, 120).splitlines()
    assert [line.split()[0] for line in lines] == ["brand", "Audi", "BMW", "Kia"]  # Kia may hide among the others
    assert last == "2 more brands were not seen: below 3.0\N{NO-BREAK SPACE}% each, as far as 120 photos can tell"
    assert "not seen" not in shares_table(table[:3], 120)


def test_bad_input_is_refused_with_the_remedy():
    p = np.full((4, 5), 0.2)
    with pytest.raises(ValueError, match="valid holds brands that the model does not know: Lada; leave them out"):
        brand_shares(p, ["Audi", "BMW", "Kia", "Lada"], p, BRANDS)
    for wrong in p[:0], np.full((2, 5), np.nan):
        with pytest.raises(ValueError, match="of the photos in question are empty or not finite; leave out photos"):
            brand_shares(p, names([0, 1, 2, 3]), wrong, BRANDS)


class Parrot:
    """A classifier that says what the names of the photos say, and cannot read some."""

    classes = BRANDS

    def score(self, photos):
        brands = photos.brand.tolist()
        logits = np.array([[10.0 * (brand == other) for other in BRANDS] for brand in brands])
        predicted = [None if "broken" in path else brand for path, brand in zip(photos.path, brands, strict=True)]
        logits[[name is None for name in predicted]] = np.nan
        return SimpleNamespace(table=photos.assign(predicted=predicted), logits=logits)

    def softmax(self, logits):
        return softmax(logits, axis=1)


def test_answers_kept_with_the_model_stand_for_the_photos_of_valid():
    valid = pd.DataFrame({"path": [f"{i}.jpg" for i in range(100)], "brand": BRANDS * 20, "problem": None})
    street = pd.DataFrame({"path": "a.jpg", "brand": ["Audi"] * 30 + ["BMW"] * 10})
    parrot = Parrot()
    parrot.valid = None
    with pytest.raises(ValueError, match="keeps no answers on valid; calibrate_on_valid writes them, or give valid"):
        shares_on(parrot, None, street)
    labels = np.arange(100) % 5
    parrot.valid = SimpleNamespace(logits=parrot.score(valid).logits, labels=labels, vehicles=np.arange(100))
    pd.testing.assert_frame_equal(shares_on(parrot, None, street, n_boot=5), shares_on(parrot, valid, street, n_boot=5))


def test_shares_of_a_classifiers_answers_leave_out_what_it_cannot_read():
    brands = BRANDS * 20 + ["Lada"]
    valid = pd.DataFrame({"path": [f"{i}.jpg" for i in range(101)], "brand": brands, "problem": None})
    valid.loc[3, "problem"] = "truncated: half"
    street = pd.DataFrame({"path": "a.jpg", "brand": ["Audi"] * 30 + ["BMW"] * 10 + ["Kia"]})
    street.loc[40, "path"] = "broken.jpg"
    table = shares_on(Parrot(), valid, street, n_boot=5)
    np.testing.assert_allclose(table.counted[["Audi", "BMW", "Kia"]], [0.75, 0.25, 0])
    np.testing.assert_allclose(table.corrected[["Audi", "BMW"]], [0.75, 0.25], atol=0.01)
    one_each = shares_on(Parrot(), valid, street.assign(vehicle=street.brand), n_boot=5)
    np.testing.assert_allclose(one_each.counted[["Audi", "BMW"]], 0.5)
