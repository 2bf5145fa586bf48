import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax, softmax

from carclf import calibration


def simulated(n, temperature=1.0, seed=0, n_classes=8):
    """Logits, and labels drawn from their probabilities at a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, n_classes))
    labels = (softmax(logits / temperature, axis=1).cumsum(axis=1) < random.random((n, 1))).sum(axis=1)
    return logits, labels


def table(confidence, right, **columns):
    """A predictions table of Audis."""
    frame = pd.DataFrame({"confidence": confidence, "predicted": np.where(right, "Audi", "BMW")})
    return frame.assign(brand="Audi", path=[f"{i}.jpg" for i in range(len(frame))], **columns)


@pytest.mark.parametrize("planted", [0.5, 1, 1.7, 4])
def test_a_planted_temperature_is_found(planted):
    logits, labels = simulated(20_000, planted)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(planted, rel=0.05)


def test_no_temperature_has_a_smaller_loss():
    logits, labels = simulated(300, 2)
    found = calibration.fit_temperature(logits.astype("float32"), labels)

    def loss(temperature):
        return -log_softmax(logits / temperature, axis=1)[np.arange(300), labels].mean()

    assert loss(found) <= min(loss(t) for t in np.geomspace(0.1, 10, 400)) + 1e-9


def test_temperature_equals_scikit_learn():
    pytest.importorskip("sklearn", "1.8", reason="scikit-learn fits temperatures from 1.8 on")
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Network(ClassifierMixin, BaseEstimator):
        """Hands on the logits that it is given."""

        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

    logits, labels = simulated(2000, 1.7)
    frozen = FrozenEstimator(Network().fit(logits, labels))
    theirs = CalibratedClassifierCV(frozen, method="temperature").fit(logits, labels).predict_proba(logits)
    ours = calibration.rescale(logits, calibration.fit_temperature(logits, labels))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_unread_and_unlabelled_photos_are_left_out():
    logits, labels = simulated(400, 2)
    more = np.concatenate([logits, np.full((3, 8), np.nan), logits[:2] * 50])
    found = calibration.fit_temperature(more, np.concatenate([labels, [0, 1, 2], [-1, -1]]))
    assert found == pytest.approx(calibration.fit_temperature(logits, labels))


def test_where_all_is_right_the_temperature_stays():
    logits, _ = simulated(50)
    with pytest.warns(UserWarning, match="all 50 photos are right, so nothing says how sure.*stays 1; fit it on more"):
        assert calibration.fit_temperature(logits, logits.argmax(axis=1)) == 1
    labels = logits.argmax(axis=1)
    labels[0] = logits[0].argmin()  # one mistake is enough to say something
    assert 0.1 < calibration.fit_temperature(logits, labels) < 10


def test_labels_of_one_brand_are_enough():
    logits, labels = simulated(20_000, 2)
    one = labels == 3
    assert 0.1 < calibration.fit_temperature(logits[one], labels[one]) < 10


def test_logits_that_say_nothing_are_told():
    logits, labels = simulated(2000)
    with pytest.warns(UserWarning, match="an end of what is tried: these logits do not tell right from wrong"):
        found = calibration.fit_temperature(logits, (logits.argmax(axis=1) + 1 + labels % 3) % 8)
    assert found == pytest.approx(10, rel=0.01)


def test_logits_and_labels_must_fit():
    logits, labels = simulated(10)
    for wrong in (logits[:, :1], labels), (logits[0], labels), (logits, labels[:9]):
        with pytest.raises(ValueError, match=r"must be \[N, n_classes\] and \[N\], with two classes or more"):
            calibration.fit_temperature(*wrong)
    with pytest.raises(ValueError, match="0 of 10 photos have logits and a label"):
        calibration.fit_temperature(logits, labels * 0 - 1)
    with pytest.raises(ValueError, match="must be below 8"):
        calibration.fit_temperature(logits, labels + 8)
    with pytest.raises(ValueError, match="temperature 0 must be above 0; fit_temperature gives one"):
        calibration.rescale(logits, 0)


@pytest.mark.parametrize("temperature", [0.3, 1, 5])
def test_a_temperature_changes_no_answer(temperature):
    logits, _ = simulated(500)
    logits[0] = np.nan
    found = calibration.rescale(logits, temperature)
    assert np.isnan(found[0]).all()
    assert (found[1:].argmax(axis=1) == logits[1:].argmax(axis=1)).all()
    assert found[1:].sum(axis=1) == pytest.approx(np.ones(499))
    probabilities = softmax(logits[1:], axis=1)
    assert calibration.rescale(np.log(probabilities), temperature) == pytest.approx(found[1:])


def test_a_temperature_mends_what_it_should():
    """Fitted on valid, looked at on test: the error falls, within its intervals."""
    error, low, high = {}, {}, {}
    fitted = calibration.fit_temperature(*simulated(3000, 3, seed=1))
    logits, labels = simulated(3000, 3, seed=2)
    for name, temperature in ("before", 1), ("after", fitted):
        p = calibration.rescale(logits, temperature)
        one = table(p.max(axis=1), p.argmax(axis=1) == labels)
        error[name] = calibration.expected_calibration_error(one)
        low[name], high[name] = calibration.calibration_error_interval(one, n_boot=300)
    assert low["before"] <= error["before"] <= high["before"]
    assert high["after"] < low["before"]
    assert low["after"] == 0


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_expected_calibration_error_equals_its_definition(bins):
    random = np.random.default_rng(bins)
    confidence = random.random(400)
    right = random.random(400) < 0.6
    expected = 0
    for low in np.arange(bins) / bins:
        inside = (confidence >= low) & (confidence < low + 1 / bins)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration.expected_calibration_error(table(confidence, right), bins) == pytest.approx(expected)


def test_expected_calibration_error_of_the_sure():
    assert calibration.expected_calibration_error(table([1.0], [True])) == 0
    assert calibration.expected_calibration_error(table([1.0], [False])) == 1
    assert calibration.calibration_error_interval(table([1.0], [False])) == (0, 1)  # one vehicle


def test_few_photos_make_an_error_that_the_interval_takes_off_again():
    """100 perfect models on 200 photos: the error is never 0, and the interval holds the true 0 in nearly all."""
    random = np.random.default_rng(0)
    errors, held = [], 0
    for _ in range(100):
        confidence = random.uniform(0.2, 1, 200)
        one = table(confidence, random.random(200) < confidence)
        errors.append(calibration.expected_calibration_error(one))
        held += calibration.calibration_error_interval(one, n_boot=300)[0] == 0
    assert np.mean(errors) > 0.05
    assert held >= 88  # 95 of 100, less three standard deviations


def test_the_interval_holds_a_true_error():
    """100 models that claim 12 points too much in every range: nearly all intervals hold that, with siblings alike."""
    random, held = np.random.default_rng(1), 0
    for _ in range(100):
        confidence = np.repeat(random.uniform(0.4, 1, 300), 2)
        right = np.repeat(random.random(300), 2) < confidence - 0.12
        one = table(confidence, right, vehicle=np.repeat(np.arange(300), 2).astype(str))
        low, high = calibration.calibration_error_interval(one, bins=10, n_boot=200)
        held += low <= 0.12 <= high
    assert held >= 88  # 95 of 100, less three standard deviations


def test_reliability_has_an_interval_a_range():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 300)
    found = calibration.reliability_table(table(confidence, random.random(300) < confidence), bins=10)
    assert found.index.tolist() == [5, 6, 7, 8, 9]
    assert found["photos"].sum() == 300
    assert (found["accuracy_low"] < found["accuracy"]).all() and (found["accuracy"] < found["accuracy_high"]).all()
    once = calibration.reliability_table(table([0.95] * 20, [True] * 20, vehicle=["one"] * 20))
    assert once[["accuracy_low", "accuracy_high"]].to_numpy().tolist() == [[pytest.approx(0.025), 1]]
