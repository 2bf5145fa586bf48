import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from carclf.model.classifier import Scores
from carclf.model.ood import OodDetector


def three_brands(n, seed, centres=((6, 0, 0, 0), (0, 6, 0, 0), (0, 0, 6, 0)), brands=("Audi", "BMW", "Ford")):
    """Scores of a network that knows three brands, for features around some centres; n photos of each."""
    rng = np.random.default_rng(seed)
    features = np.concatenate([rng.normal(centre, (1, 1, 1, 0.3), (n, 4)) for centre in centres])
    table = pd.DataFrame({"brand": np.repeat(brands, n), "loss": 0.1})
    return Scores(table, features[:, :3].astype(np.float32) - 1, features.astype(np.float32))


STRANGE = three_brands(100, 3, centres=[(1, 1, 1, 2)], brands=["Kia"])  # features near the origin, far from all brands


@pytest.fixture(scope="module")
def train():
    return three_brands(60, 0)


@pytest.fixture(scope="module")
def valid():
    return three_brands(40, 1)


@pytest.fixture(scope="module")
def detector(train, valid):
    return OodDetector.choose(train, valid)


def test_photos_like_the_training_photos_score_above_others(train):
    fitted = OodDetector.fit(train.features, train.table.brand)
    scores = fitted.score(np.concatenate([three_brands(100, 2).features, STRANGE.features]))
    assert scores.shape == (400,)
    assert roc_auc_score(np.arange(400) < 300, scores) > 0.95
    assert not fitted.unknown(STRANGE.features).any()  # without a threshold


def test_the_score_is_scipys_mahalanobis_with_the_covariance_that_brands_share(train, valid):
    """With the lesser half of its axes taken as equal, as scikit-learn does for a PCA."""
    unit = [s.features / np.linalg.norm(s.features, axis=1, keepdims=True).astype(float) for s in (train, valid)]
    means = np.stack([unit[0][train.table.brand == b].mean(0) for b in ("Audi", "BMW", "Ford")])
    spread = unit[0] - means[train.table.brand.map({"Audi": 0, "BMW": 1, "Ford": 2})]
    inverse = np.linalg.inv(PCA(2).fit(spread).get_covariance())
    expected = [-(min(mahalanobis(f, m, inverse) for m in means) ** 2) for f in unit[1]]
    found = OodDetector.fit(train.features, train.table.brand).score(valid.features)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.05)  # the arrays are stored in half precision


@pytest.mark.parametrize("known", [0.5, 0.95, 1.0])
def test_the_promised_share_of_valid_is_known(known, train, valid):
    detector = OodDetector.choose(train, valid, known)
    share = (~detector.unknown(valid.features)).mean()
    assert share == detector.known
    assert known <= share <= known + 1 / len(valid.table)  # the largest threshold that keeps the promise


def test_only_photos_of_known_brands_choose(train, valid, detector):
    strange = STRANGE._replace(table=STRANGE.table.assign(loss=np.nan))
    both = Scores(
        pd.concat([valid.table, strange.table], ignore_index=True),
        np.concatenate([valid.logits, strange.logits]),
        np.concatenate([valid.features, strange.features]),
    )
    assert OodDetector.choose(train, both) == detector
    with pytest.raises(ValueError, match="valid has no readable photo of a brand that the model knows"):
        OodDetector.choose(train, strange)


def test_a_photo_that_could_not_be_read_is_neither_known_nor_unknown(detector, valid):
    features, expected = valid.features.copy(), detector.score(valid.features)
    features[3] = expected[3] = np.nan
    np.testing.assert_array_equal(detector.score(features), expected)
    assert not detector.unknown(features)[3]
    assert np.isnan(detector.score(features[3:4])).all()


def test_what_is_stored_is_small_and_does_not_depend_on_the_order_of_photos(train):
    order = np.random.default_rng(0).permutation(len(train.table))
    one, two = (OodDetector.fit(train.features[rows], train.table.brand[rows]) for rows in (slice(None), order))
    assert all(array.dtype in (np.float16, np.float32) for array in one.arrays.values())
    np.testing.assert_allclose(one.score(train.features), two.score(train.features), rtol=0.02, atol=0.05)


def test_a_stored_detector_is_the_same_after_reading(detector):
    again = OodDetector.of(json.loads(json.dumps(detector.facts)), load(save(detector.arrays)), 4)
    assert again == detector
    np.testing.assert_equal(again.arrays, detector.arrays)


@pytest.mark.parametrize(
    ("facts", "arrays", "n_features"),
    [
        ({"method": "entropy"}, {}, 4),
        ({"threshold": None}, {}, 4),
        ({"threshold": float("nan")}, {}, 4),
        ({}, {"means": None}, 4),
        ({}, {"extra": np.ones(3)}, 4),
        ({}, {}, 5),
        ({}, {"variance": np.ones(1)}, 4),
        ({}, {"means": np.ones(4)}, 4),
        ({}, {"means": np.full((3, 4), np.nan)}, 4),
    ],
)
def test_a_stored_detector_that_does_not_fit_is_refused(facts, arrays, n_features, detector):
    kept = {name: array for name, array in (detector.arrays | arrays).items() if array is not None}
    with pytest.raises(ValueError, match=r"these are not the facts of an OOD detector .*; choose it again"):
        OodDetector.of(detector.facts | facts, kept, n_features)


def test_impossible_shares_and_too_few_photos_are_refused(train, valid):
    with pytest.raises(ValueError, match=r"known=95: the share of known photos .* try 0.95"):
        OodDetector.choose(train, valid, known=95)
    with pytest.raises(ValueError, match=r"3 photos of 3 brands do not show .* give at least 5 photos of train"):
        OodDetector.fit(train.features[::60], train.table.brand[::60])
