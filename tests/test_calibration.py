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


def test_unread_and_unlabelled_photos_are_left_out_and_labels_of_one_brand_are_enough():
    logits, labels = simulated(400, 2)
    more = np.concatenate([logits, np.full((3, 8), np.nan), logits[:2] * 50])
    found = fit_temperature(more, np.concatenate([labels, [0, 1, 2], [-1, -1]]))
    assert found == pytest.approx(fit_temperature(logits, labels))
    one = labels == 3
    assert 0.1 < fit_temperature(logits[one], labels[one]) < 10


def test_the_temperature_stays_if_all_is_right_and_ends_with_a_warning_if_nothing_is():
    logits, labels = simulated(2000)
    right = logits.argmax(axis=1)
    with pytest.warns(UserWarning, match=r"all 2000 photos are right, .* how sure.*stays 1; fit it on more"):
        assert fit_temperature(logits, right) == 1
    with pytest.warns(UserWarning, match="is 10, the highest that is tried: .* says little about what is right"):
        assert fit_temperature(logits, (right + 1 + labels % 3) % 8) == pytest.approx(10, rel=0.01)
    logits, right = logits[:50], right[:50]
    right[0] = logits[0].argmin()  # one mistake is enough to say something
    assert 0.1 < fit_temperature(logits, right) < 10


def test_logits_and_labels_must_fit():
    logits, labels = simulated(10)
    shapes = r"must be \[N, n_classes\] and \[N\], with two classes or more"
    for *wrong, message in (
        (logits[:, :1], labels, shapes),
        (logits[0], labels, shapes),
        (logits, labels[:9], shapes),
        (logits, labels * 0 - 1, "0 of 10 photos have logits and a label"),
        (logits, labels + 8, "must be below 8"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_temperature(*wrong)


def test_a_fitted_temperature_lowers_the_error():
    """Fitted on valid, looked at on test: the error falls, within its intervals."""
    found = []
    logits, labels = simulated(3000, 3, seed=2)
    for temperature in 1, fit_temperature(*simulated(3000, 3, seed=1)):
        p = softmax(logits / temperature, axis=1)
        predictions = audis(p.max(axis=1), p.argmax(axis=1) == labels)
        found.append((expected_calibration_error(predictions), *calibration_error_interval(predictions, n_boot=300)))
    (error, low, high), (_, low_after, high_after) = found
    assert low <= error <= high
    assert high_after < low
    assert low_after == 0


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


@pytest.mark.parametrize("too_sure", [0, 0.12])
def test_the_interval_holds_the_true_error(too_sure):
    """100 models that claim so much too much in every range: nearly all intervals hold that, with siblings alike.

    Of a perfect model the error is never 0 on few photos; the interval subtracts that again.
    """
    random, errors, held = np.random.default_rng(1), [], 0
    for _ in range(100):
        confidence = np.repeat(random.uniform(0.2 + too_sure, 1, 200), 2)
        right = np.repeat(random.random(200), 2) < confidence - too_sure
        predictions = audis(confidence, right, vehicle=np.repeat(np.arange(200), 2).astype(str))
        errors.append(expected_calibration_error(predictions))
        low, high = calibration_error_interval(predictions, n_boot=300)
        held += low <= too_sure <= high
    assert np.mean(errors) > 0.05
    assert held >= 88  # 95 of 100, less three standard deviations


def test_reliability_has_an_interval_per_range():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 300)
    found = reliability_table(audis(confidence, random.random(300) < confidence), bins=10)
    assert found.index.tolist() == [5, 6, 7, 8, 9]
    assert found["photos"].sum() == 300
    assert (found["accuracy_low"] < found["accuracy"]).all() and (found["accuracy"] < found["accuracy_high"]).all()
    once = reliability_table(audis([0.95] * 20, [True] * 20, vehicle=["one"] * 20))
    assert once[["accuracy_low", "accuracy_high"]].to_numpy().tolist() == [[pytest.approx(0.025), 1]]
