import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from tables import audis

from carclf.metrics.calibration import (
    calibration_error_interval,
    expected_calibration_error,
    fit_temperature,
    reliability_table,
)


def simulated(n, temperature=1.0, seed=0, n_classes=8):
    """Logits, and labels drawn from their probabilities at a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, n_classes))
    labels = (softmax(logits / temperature, axis=1).cumsum(axis=1) < random.random((n, 1))).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("planted", [0.5, 1, 1.7, 4])
def test_a_planted_temperature_is_found(planted):
    logits, labels = simulated(20_000, planted)
    assert fit_temperature(logits, labels) == pytest.approx(planted, rel=0.05)


def test_no_temperature_has_a_smaller_loss():
    logits, labels = simulated(300, 2)
    found = fit_temperature(logits.astype("float32"), labels)

    def loss(temperature):
        return -log_softmax(logits / temperature, axis=1)[np.arange(300), labels].mean()

    assert loss(found) <= min(loss(t) for t in np.geomspace(0.1, 10, 400)) + 1e-9


def test_unread_and_unlabelled_photos_are_left_out():
    logits, labels = simulated(400, 2)
    more = np.concatenate([logits, np.full((3, 8), np.nan), logits[:2] * 50])
    found = fit_temperature(more, np.concatenate([labels, [0, 1, 2], [-1, -1]]))
    assert found == pytest.approx(fit_temperature(logits, labels))


def test_the_temperature_stays_if_all_is_right():
    logits, _ = simulated(50)
    labels = logits.argmax(axis=1)
    with pytest.warns(UserWarning, match=r"all 50 photos are right, .* how sure.*stays 1; fit it on more"):
        assert fit_temperature(logits, labels) == 1
    labels[0] = logits[0].argmin()  # one mistake is enough to say something
    assert 0.1 < fit_temperature(logits, labels) < 10


def test_labels_of_one_brand_are_enough():
    logits, labels = simulated(20_000, 2)
    one = labels == 3
    assert 0.1 < fit_temperature(logits[one], labels[one]) < 10


def test_logits_that_say_nothing_give_a_warning():
    logits, labels = simulated(2000)
    with pytest.warns(UserWarning, match="an end of the range tried: these logits do not separate right from wrong"):
        found = fit_temperature(logits, (logits.argmax(axis=1) + 1 + labels % 3) % 8)
    assert found == pytest.approx(10, rel=0.01)


def test_logits_and_labels_must_fit():
    logits, labels = simulated(10)
    shapes = r"must be \[N, n_classes\] and \[N\], with two classes or more"
    for wrong, message in (
        ((logits[:, :1], labels), shapes),
        ((logits[0], labels), shapes),
        ((logits, labels[:9]), shapes),
        ((logits, labels * 0 - 1), "0 of 10 photos have logits and a label"),
        ((logits, labels + 8), "must be below 8"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_temperature(*wrong)


def test_a_fitted_temperature_lowers_the_error():
    """Fitted on valid, looked at on test: the error falls, within its intervals."""
    error, low, high = {}, {}, {}
    fitted = fit_temperature(*simulated(3000, 3, seed=1))
    logits, labels = simulated(3000, 3, seed=2)
    for name, temperature in ("before", 1), ("after", fitted):
        p = softmax(logits / temperature, axis=1)
        predictions = audis(p.max(axis=1), p.argmax(axis=1) == labels)
        error[name] = expected_calibration_error(predictions)
        low[name], high[name] = calibration_error_interval(predictions, n_boot=300)
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
    assert expected_calibration_error(audis(confidence, right), bins) == pytest.approx(expected)


def test_calibration_error_of_one_sure_photo():
    assert expected_calibration_error(audis([1.0], [True])) == 0
    assert expected_calibration_error(audis([1.0], [False])) == 1
    assert calibration_error_interval(audis([1.0], [False])) == (0, 1)  # one vehicle


def test_few_photos_make_an_error_that_the_interval_subtracts_again():
    """100 perfect models on 200 photos: the error is never 0, and the interval holds the true 0 in nearly all."""
    random = np.random.default_rng(0)
    errors, held = [], 0
    for _ in range(100):
        confidence = random.uniform(0.2, 1, 200)
        predictions = audis(confidence, random.random(200) < confidence)
        errors.append(expected_calibration_error(predictions))
        held += calibration_error_interval(predictions, n_boot=300)[0] == 0
    assert np.mean(errors) > 0.05
    assert held >= 88  # 95 of 100, less three standard deviations


def test_the_interval_holds_a_true_error():
    """100 models that claim 12 points too much in every range: nearly all intervals hold that, with siblings alike."""
    random, held = np.random.default_rng(1), 0
    for _ in range(100):
        confidence = np.repeat(random.uniform(0.4, 1, 300), 2)
        right = np.repeat(random.random(300), 2) < confidence - 0.12
        predictions = audis(confidence, right, vehicle=np.repeat(np.arange(300), 2).astype(str))
        low, high = calibration_error_interval(predictions, bins=10, n_boot=200)
        held += low <= 0.12 <= high
    assert held >= 88  # 95 of 100, less three standard deviations


def test_reliability_has_an_interval_a_range():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 300)
    found = reliability_table(audis(confidence, random.random(300) < confidence), bins=10)
    assert found.index.tolist() == [5, 6, 7, 8, 9]
    assert found["photos"].sum() == 300
    assert (found["accuracy_low"] < found["accuracy"]).all() and (found["accuracy"] < found["accuracy_high"]).all()
    once = reliability_table(audis([0.95] * 20, [True] * 20, vehicle=["one"] * 20))
    assert once[["accuracy_low", "accuracy_high"]].to_numpy().tolist() == [[pytest.approx(0.025), 1]]
