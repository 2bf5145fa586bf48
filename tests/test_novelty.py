import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from carclf.classifier import Scores
from carclf.novelty import METHODS, Novelty, knownness, learn, novelty_metrics


def three_brands(n, seed, centres=((6, 0, 0, 0), (0, 6, 0, 0), (0, 0, 6, 0)), brands=("Audi", "BMW", "Ford")):
    """Scores of a network that knows three brands, for features around some centres; n photos of each."""
    rng = np.random.default_rng(seed)
    features = np.concatenate([rng.normal(centre, (1, 1, 1, 0.3), (n, 4)) for centre in centres])
    logits = features[:, :3] - 1
    table = pd.DataFrame({"brand": np.repeat(brands, n), "loss": 0.1})
    return Scores(table, logits.astype(np.float32), features.astype(np.float32))


@pytest.fixture(scope="module")
def train():
    return three_brands(60, 0)


@pytest.fixture(scope="module")
def valid():
    return three_brands(40, 1)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_learned_is_better_known_than_what_was_not(method, train):
    """Features near the origin, as nothing known is there."""
    fitted = learn(method, train.features, train.table.brand)
    known = three_brands(100, 2)
    strange = three_brands(100, 3, centres=[(1, 1, 1, 2)], brands=["Kia"])
    inside, outside = (knownness(s.logits, s.features, method, fitted) for s in (known, strange))
    assert inside.shape == (300,)
    assert novelty_metrics(inside, outside, n_boot=20)["auroc"] > 0.95


def test_energy_and_max_softmax_are_their_formulas(train):
    logits = train.logits.astype(float)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(knownness(train.logits, train.features, "max_softmax"), p.max(1))
    np.testing.assert_allclose(knownness(train.logits, train.features, "energy"), np.log(np.exp(logits).sum(1)))


def test_mahalanobis_is_scipys_by_the_covariance_that_brands_have_in_common(train, valid):
    """Of a covariance whose lesser half of axes is taken for equal, which is scikit-learn's of a PCA."""
    unit = [s.features / np.linalg.norm(s.features, axis=1, keepdims=True).astype(float) for s in (train, valid)]
    means = np.stack([unit[0][train.table.brand == b].mean(0) for b in ("Audi", "BMW", "Ford")])
    spread = unit[0] - means[train.table.brand.map({"Audi": 0, "BMW": 1, "Ford": 2})]
    inverse = np.linalg.inv(PCA(2).fit(spread).get_covariance())
    expected = [-(min(mahalanobis(f, m, inverse) for m in means) ** 2) for f in unit[1]]
    fitted = learn("mahalanobis", train.features, train.table.brand)
    found = knownness(valid.logits, valid.features, "mahalanobis", fitted)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.05)  # the arrays are kept in half precision


def test_class_mean_and_neighbours_are_counted_by_hand(train, valid):
    unit = [s.features / np.linalg.norm(s.features, axis=1, keepdims=True) for s in (train, valid)]
    means = np.stack([unit[0][train.table.brand == b].mean(0) for b in ("Audi", "BMW", "Ford")])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    apart = np.linalg.norm(unit[1][:, None] - unit[0][None], axis=2)
    for method, expected in (
        ("class_mean", (unit[1] @ means.T).max(1)),
        ("neighbours", -np.sort(apart, 1)[:, 9]),
    ):
        fitted = learn(method, train.features, train.table.brand)
        np.testing.assert_allclose(knownness(valid.logits, valid.features, method, fitted), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_promised_share_of_valid_is_known(method, train, valid):
    for known in (0.5, 0.95, 1.0):
        novelty = Novelty.choose(train, valid, method, known)
        unknown = novelty.unknown(valid.logits, valid.features)
        assert known <= novelty.known <= known + 1 / len(unknown)  # the largest threshold that keeps the promise
        assert (~unknown).mean() == novelty.known


def test_only_photos_of_known_brands_choose(train, valid):
    strange = three_brands(40, 3, centres=[(1, 1, 1, 2)], brands=["Kia"])
    strange.table["loss"] = np.nan
    both = Scores(
        pd.concat([valid.table, strange.table], ignore_index=True),
        np.concatenate([valid.logits, strange.logits]),
        np.concatenate([valid.features, strange.features]),
    )
    assert Novelty.choose(train, both, "energy") == Novelty.choose(train, valid, "energy")
    with pytest.raises(ValueError, match="valid has no readable photo of a brand that the model knows"):
        Novelty.choose(train, strange, "energy")


@pytest.mark.parametrize("method", METHODS)
def test_a_photo_that_could_not_be_read_is_neither_known_nor_unknown(method, train, valid):
    novelty = Novelty.choose(train, valid, method)
    logits, features = valid.logits.copy(), valid.features.copy()
    logits[3], features[3] = np.nan, np.nan
    score = novelty.knownness(logits, features)
    assert np.flatnonzero(np.isnan(score)).tolist() == [3]
    assert not novelty.unknown(logits, features)[3]
    np.testing.assert_array_equal(np.delete(score, 3), np.delete(novelty.knownness(valid.logits, valid.features), 3))


def test_what_a_score_keeps_is_small_and_forgets_the_order_of_photos(train):
    order = np.random.default_rng(0).permutation(len(train.table))
    for method in METHODS:
        one = learn(method, train.features, train.table.brand)
        two = learn(method, train.features[order], train.table.brand[order])
        assert all(array.dtype in (np.float16, np.float32) for array in one.values())
        first, second = (knownness(train.logits, train.features, method, fitted) for fitted in (one, two))
        np.testing.assert_allclose(first, second, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_stored_says_the_same_when_it_is_read(method, train, valid):
    novelty = Novelty.choose(train, valid, method)
    again = Novelty.of(json.loads(json.dumps(novelty.facts)), load(save(novelty.arrays)), 4)
    assert again == novelty
    one, two = (n.knownness(valid.logits, valid.features) for n in (novelty, again))
    np.testing.assert_array_equal(one, two)


def test_what_is_stored_is_checked(train, valid):
    novelty = Novelty.choose(train, valid)
    facts, arrays = novelty.facts, novelty.arrays
    for change, kept, n_features in [
        ({"method": "entropy"}, arrays, 4),
        ({"method": "neighbours"}, arrays, 4),
        ({"threshold": None}, arrays, 4),
        ({"threshold": float("nan")}, arrays, 4),
        ({}, {}, 4),
        ({}, arrays, 5),
        ({}, {**arrays, "variance": arrays["variance"][1:]}, 4),
        ({}, {**arrays, "means": arrays["means"][0]}, 4),
        ({}, {**arrays, "means": arrays["means"] * np.float16(np.nan)}, 4),
    ]:
        with pytest.raises(ValueError, match="this is not how a model knows what is unknown"):
            Novelty.of({**facts, **change}, kept, n_features)


def test_metrics_are_sklearns_and_counted_by_hand():
    known, unknown = np.arange(100.0), np.append(np.arange(-50.0, 0), [4.5, 5.0, 7.0, np.nan])
    found = novelty_metrics(known, unknown, n_boot=200)
    assert (found["known"], found["unknown"]) == (100, 53)
    truth, scores = [1] * 100 + [0] * 53, np.append(known, unknown[:-1])
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert found["fpr95"] == pytest.approx(2 / 53)  # 95 of the known lie at 5 or above, and two of the unknown
    for name in ("auroc", "fpr95"):
        assert 0 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] <= 1
    assert novelty_metrics(known, unknown, n_boot=200) == found
    assert novelty_metrics(known, -known - 1, n_boot=5)["auroc"] == 1
    assert novelty_metrics(known, known, n_boot=5)["auroc"] == 0.5


def test_photos_of_a_group_are_drawn_together():
    """Ten equal photos of each vehicle say no more than one: the interval is that of the vehicles."""
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(1, 1, 30), rng.normal(0, 1, 30)
    tenfold = np.repeat(known, 10), np.repeat(unknown, 10)
    vehicles = np.repeat(np.arange(30), 10)
    width = {
        name: np.ptp([found["auroc_low"], found["auroc_high"]])
        for name, found in {
            "alone": novelty_metrics(known, unknown, n_boot=300),
            "together": novelty_metrics(*tenfold, vehicles, vehicles, n_boot=300),
            "as if apart": novelty_metrics(*tenfold, n_boot=300),
        }.items()
    }
    assert width["together"] == pytest.approx(width["alone"], rel=0.2)
    assert width["as if apart"] < 0.5 * width["alone"]


def test_what_cannot_be_asked_is_refused(train, valid):
    with pytest.raises(ValueError, match="method='entropy' must be one of: max_softmax, energy"):
        knownness(train.logits, train.features, "entropy")
    with pytest.raises(ValueError, match=r"known=95: the share of known photos .* try 0.95"):
        Novelty.choose(train, valid, "energy", known=95)
    with pytest.raises(ValueError, match="no unknown photo has a score"):
        novelty_metrics([1.0, 2.0], [np.nan])
    with pytest.raises(ValueError, match=r"3 photos of 3 brands do not say .* method='energy'"):
        learn("mahalanobis", train.features[::60], train.table.brand[::60])
