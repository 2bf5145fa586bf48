import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tables import make_predictions

from carclf import plot
from carclf.metrics.calibration import expected_calibration_error, reliability_table
from carclf.metrics.scores import brand_report, confusion, row_shares


@pytest.fixture(scope="module")
def predictions():
    return make_predictions(6)


def names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def intervals(ax, coordinate):
    """Both ends of every error bar: along x, 0, or y, 1."""
    (bars,) = next(c for c in ax.containers if hasattr(c, "has_yerr"))[2]
    return [segment[:, coordinate].tolist() for segment in bars.get_segments()]


@pytest.mark.parametrize("n_brands", [1, 2, 12, 49, 60, 61, 120])
def test_every_brand_of_the_confusion_matrix_is_legible_at_notebook_width(n_brands):
    ax = plot.confusion_matrix(make_predictions(n_brands, n=20 * n_brands))
    figure = ax.figure
    figure.canvas.draw()
    assert figure.get_figwidth() <= 10
    for axis, place in (ax.xaxis, "x0"), (ax.yaxis, "y0"):
        sides = [[tick for tick in axis.get_ticklabels(minor=minor) if tick.get_text()] for minor in (False, True)]
        assert sum(map(len, sides)) == n_brands
        for labels in sides:
            boxes = [label.get_window_extent() for label in labels]
            assert all(label.get_fontsize() >= 6 for label in labels)
            starts = sorted(getattr(box, place) for box in boxes)
            thickness = min((label.get_fontsize() for label in labels), default=0) * figure.dpi / 72
            assert all(np.diff(starts) >= 0.9 * thickness)  # one name does not lie on the next
            assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)  # none is cut off


def test_zoom_shows_the_brands_mistaken_for_each_other():
    brands = ["A", "B", "C", "D"]  # A and C are mistaken for each other, and B and D never
    counts = [[6, 0, 4, 0], [1, 9, 0, 0], [2, 0, 7, 1], [0, 0, 0, 5]]
    ax = plot.confusion_zoom(pd.DataFrame(counts, index=pd.Index(brands, name="brand"), columns=brands), k=2)
    assert names(ax.xaxis) == ["A", "C", "all others"]
    assert names(ax.yaxis) == ["A (10)", "C (10)"]
    assert {text.get_text() for text in ax.texts} == {"60%", "40%", "20%", "70%", "10%"}
    assert ax.get_title("left") == "2 brands mistaken for each other: 6 of 8 mistakes"


def test_zoom_of_fewer_brands_than_asked_for_shows_all():
    predictions = make_predictions(4)
    mistakes = (predictions["brand"] != predictions["predicted"]).sum()
    title = plot.confusion_zoom(predictions, k=12).get_title("left")
    assert title == f"4 brands mistaken for each other: {mistakes} of {mistakes} mistakes"
    plot.confusion_zoom(make_predictions(1)).figure.canvas.draw()


def test_a_brand_of_one_photo_does_not_pale_the_others():
    counts = pd.DataFrame(np.eye(60, dtype=int) * 90 + 1)
    counts.iloc[0] = 0
    counts.iloc[0, 1] = 1  # the only photo of the first brand was mistaken
    assert plot.confusion_matrix(counts).images[1].norm.vmax == pytest.approx(0.1)


def test_confusion_matrix_takes_predictions_or_counts(predictions):
    counts = confusion(predictions)
    axes = plot.confusion_matrix(predictions), plot.confusion_matrix(counts, ax=plt.figure().add_subplot())
    right = (predictions["brand"] == predictions["predicted"]).mean()
    for ax in axes:
        order = names(ax.yaxis)
        assert order == names(ax.xaxis)
        diagonal = row_shares(counts).loc[order, order].to_numpy().diagonal()
        np.testing.assert_allclose(np.diagonal(ax.images[0].get_array()), diagonal)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted brand", "true brand, share of its photos")
        assert ax.get_title("left") == f"600 photos of 6 brands, {right:.1%} correct"


def test_confusion_matrix_greys_brands_without_photos(predictions):
    ax = plot.confusion_matrix(confusion(predictions, [f"Brand Number {i}" for i in range(7)]))
    assert len(ax.patches) == 1
    ax.figure.canvas.draw()


@pytest.mark.parametrize("curve", [plot.risk_coverage, plot.threshold_curve])
def test_thresholds_are_marked(curve, predictions):
    ax = curve(predictions, ax=plt.figure().add_subplot(), threshold=0.6)
    assert any("threshold 0.60" in label.get_text() for label in ax.get_legend().get_texts())
    assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title("left")
    curve(predictions.head(1)).figure.canvas.draw()


def test_risk_coverage_ends_at_the_accuracy(predictions):
    line = plot.risk_coverage(predictions).lines[0]
    accuracy = (predictions["brand"] == predictions["predicted"]).mean()
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (1, pytest.approx(accuracy))


def test_reliability_shows_its_error_its_intervals_and_the_confidences_before(predictions):
    before = predictions.assign(confidence=predictions["confidence"] ** 0.3)
    ax = plot.reliability(predictions, before)
    assert ax.get_title("left") == f"Expected calibration error {expected_calibration_error(predictions):.1%}"
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1)
    table = reliability_table(predictions)
    np.testing.assert_allclose(intervals(ax, 1), table[["accuracy_low", "accuracy_high"]])
    label = f"accuracy before the temperature, error {expected_calibration_error(before):.1%}"
    assert label in [text.get_text() for text in ax.get_legend().get_texts()]
    (line,) = (line for line in ax.lines if line.get_label() == label)
    drawn = np.c_[line.get_xdata(), line.get_ydata()]
    np.testing.assert_allclose(drawn, reliability_table(before)[["confidence", "accuracy"]])


def test_shares_stand_beside_what_was_counted_and_the_truth():
    table = {"counted": [0.1, 0.6, 0.3], "corrected": [0.2, 0.5, 0.3], "low": [0.1, 0.4, 0.2], "high": [0.4, 0.6, 0.5]}
    table = pd.DataFrame(table, index=["Audi", "BMW", "Citroën"])
    ax = plot.brand_shares(table)
    assert names(ax.yaxis) == ["Audi", "Citroën", "BMW"]  # from below
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"corrected, 95 % interval", "counted"}
    np.testing.assert_allclose(intervals(ax, 0), [[0.1, 0.4], [0.2, 0.5], [0.4, 0.6]])
    with_truth = plot.brand_shares(table.assign(truth=[0.2, 0.4, 0.4]))
    assert with_truth.lines[-1].get_xdata().tolist() == [0.2, 0.4, 0.4]


def test_brands_are_sorted_by_their_recall():
    predictions = make_predictions(12)
    ax = plot.brand_scores(predictions)
    report = brand_report(predictions).sort_values("recall", kind="stable")
    assert names(ax.yaxis) == [f"{brand} ({photos})" for brand, photos in report["photos"].items()]
    np.testing.assert_allclose(intervals(ax, 0), report[["recall_low", "recall_high"]])
    assert ax.get_title("left") == f"Recall by brand: median {report['recall'].median():.0%}"
