import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tables import make_predictions

from carclf import calibration, evaluation, evaluation_plots


@pytest.mark.parametrize("n_brands", [1, 2, 12, 49, 60, 61, 120])
def test_every_brand_of_the_confusion_matrix_is_legible_at_notebook_width(n_brands):
    ax = evaluation_plots.confusion_matrix(make_predictions(n_brands, n=20 * n_brands))
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


def known_block():
    """Four brands; A and C are taken for each other, and B and D never."""
    names = ["A", "B", "C", "D"]
    counts = [[6, 0, 4, 0], [1, 9, 0, 0], [2, 0, 7, 1], [0, 0, 0, 5]]
    return pd.DataFrame(counts, index=pd.Index(names, name="brand"), columns=names)


def test_zoom_shows_the_brands_taken_for_each_other():
    ax = evaluation_plots.confusion_zoom(known_block(), k=2)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "C", "all others"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A (10)", "C (10)"]
    assert {text.get_text() for text in ax.texts} == {"60%", "40%", "20%", "70%", "10%"}
    assert ax.get_title("left") == "2 brands taken for each other: 6 of 8 mistakes"


def test_zoom_of_fewer_brands_than_asked_for_shows_all():
    predictions = make_predictions(4)
    ax = evaluation_plots.confusion_zoom(predictions, k=12)
    mistakes = (predictions["brand"] != predictions["predicted"]).sum()
    assert ax.get_title("left") == f"4 brands taken for each other: {mistakes} of {mistakes} mistakes"
    evaluation_plots.confusion_zoom(make_predictions(1)).figure.canvas.draw()


def test_a_brand_of_one_photo_does_not_pale_the_others():
    counts = pd.DataFrame(np.eye(60, dtype=int) * 90 + 1)
    counts.iloc[0] = 0
    counts.iloc[0, 1] = 1  # the only photo of the first brand was mistaken
    scale = evaluation_plots.confusion_matrix(counts).images[1].norm
    assert scale.vmax == pytest.approx(0.1)


def test_confusion_matrix_takes_either_table():
    predictions = make_predictions(6)
    first = evaluation_plots.confusion_matrix(predictions)
    second = evaluation_plots.confusion_matrix(evaluation.confusion(predictions), ax=plt.figure().add_subplot())
    for ax in (first, second):
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert names == [label.get_text() for label in ax.get_xticklabels()]
        diagonal = evaluation.row_shares(evaluation.confusion(predictions)).loc[names, names].to_numpy().diagonal()
        np.testing.assert_allclose(np.diagonal(ax.images[0].get_array()), diagonal)
    assert (first.get_xlabel(), first.get_ylabel()) == ("predicted brand", "true brand, share of its photos")
    right = (predictions["brand"] == predictions["predicted"]).mean()
    assert first.get_title("left") == f"600 photos of 6 brands, {right:.1%} named rightly"


def test_confusion_matrix_greys_brands_without_photos():
    counts = evaluation.confusion(make_predictions(6), [f"Brand Number {i}" for i in range(7)])
    ax = evaluation_plots.confusion_matrix(counts)
    assert len(ax.patches) == 1
    ax.figure.canvas.draw()


@pytest.mark.parametrize("plot", [evaluation_plots.risk_coverage, evaluation_plots.threshold_curve])
def test_thresholds_are_marked(plot):
    predictions = make_predictions(6)
    ax = plot(predictions, ax=plt.figure().add_subplot(), threshold=0.6)
    assert any("threshold 0.60" in label.get_text() for label in ax.get_legend().get_texts())
    assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title("left")
    plot(predictions.head(1)).figure.canvas.draw()


def test_risk_coverage_ends_at_the_accuracy():
    predictions = make_predictions(6)
    line = evaluation_plots.risk_coverage(predictions).lines[0]
    accuracy = evaluation.metrics(predictions)["accuracy"]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (1, pytest.approx(accuracy))


def test_reliability_before_and_after():
    after = make_predictions(6)
    before = after.assign(confidence=after["confidence"] ** 0.3)
    ax = evaluation_plots.reliability(after, before)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    error = calibration.expected_calibration_error(before)
    assert f"accuracy before the temperature, error {error:.1%}" in names
    drawn = {line.get_label(): line for line in ax.lines}
    table = calibration.reliability_table(before)
    line = drawn[f"accuracy before the temperature, error {error:.1%}"]
    np.testing.assert_allclose(np.c_[line.get_xdata(), line.get_ydata()], table[["confidence", "accuracy"]])


def test_shares_stand_beside_what_was_counted_and_the_truth():
    table = {"counted": [0.1, 0.6, 0.3], "corrected": [0.2, 0.5, 0.3], "low": [0.1, 0.4, 0.2], "high": [0.4, 0.6, 0.5]}
    table = pd.DataFrame(table, index=["Audi", "BMW", "Citroën"])
    ax = evaluation_plots.brand_shares(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Audi", "Citroën", "BMW"]  # from below
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"corrected, 95 % interval", "counted"}
    (interval,) = ax.containers[0][2]
    ends = [segment[:, 0].tolist() for segment in interval.get_segments()]
    np.testing.assert_allclose(ends, [[0.1, 0.4], [0.2, 0.5], [0.4, 0.6]])
    with_truth = evaluation_plots.brand_shares(table.assign(truth=[0.2, 0.4, 0.4]))
    assert with_truth.lines[-1].get_xdata().tolist() == [0.2, 0.4, 0.4]


def test_brands_stand_by_the_share_named_rightly():
    predictions = make_predictions(12)
    ax = evaluation_plots.brand_scores(predictions)
    report = evaluation.brand_report(predictions).sort_values("recall", kind="stable")
    assert [label.get_text().split(" (")[0] for label in ax.get_yticklabels()] == report.index.tolist()
    assert ax.get_yticklabels()[0].get_text() == f"{report.index[0]} ({report['photos'].iloc[0]})"
    (interval,) = ax.containers[0][2]
    ends = [segment[:, 0].tolist() for segment in interval.get_segments()]
    np.testing.assert_allclose(ends, report[["recall_low", "recall_high"]])


def test_reliability_shows_how_sure_it_is():
    predictions = make_predictions(6)
    table = calibration.reliability_table(predictions)
    (interval,) = next(c for c in evaluation_plots.reliability(predictions).containers if hasattr(c, "has_yerr"))[2]
    ends = [segment[:, 1].tolist() for segment in interval.get_segments()]
    np.testing.assert_allclose(ends, table[["accuracy_low", "accuracy_high"]])


def test_reliability_says_its_error():
    predictions = make_predictions(6)
    ax = evaluation_plots.reliability(predictions)
    assert (
        ax.get_title("left") == f"Expected calibration error {calibration.expected_calibration_error(predictions):.1%}"
    )
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1)
