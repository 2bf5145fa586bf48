import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tables import make_predictions, predictions_of

from carclf import plot
from carclf.metrics.calibration import expected_calibration_error, reliability_table
from carclf.metrics.scores import brand_report, confusion, row_shares
from carclf.metrics.thresholds import threshold_table


@pytest.fixture(scope="module")
def predictions():
    return make_predictions(6)


def names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def words(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def title(ax):
    return words(ax.get_title("left"))


def legend(ax):
    return [words(text.get_text()) for text in ax.get_legend().get_texts()]


def intervals(ax, coordinate, number=0):
    """Both ends of every error bar of a container: along x, 0, or y, 1."""
    (bars,) = [c for c in ax.containers if hasattr(c, "has_yerr")][number][2]
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
    assert {words(text.get_text()) for text in ax.texts} == {"60 %", "40 %", "20 %", "70 %", "10 %"}
    assert title(ax) == "2 brands mistaken for each other: 6 of 8 mistakes"


@pytest.mark.parametrize(
    ("n_brands", "k", "drawn"),
    [(4, None, None), (16, None, None), (17, None, 12), (6, 6, None), (6, 5, 5), (1, 3, None)],
)
def test_the_zoom_is_skipped_where_the_matrix_shows_it_all(n_brands, k, drawn):
    ax = plot.confusion_zoom(make_predictions(n_brands), k)
    if drawn:
        assert title(ax).startswith(f"{drawn} brands mistaken for each other: ")
    else:
        (text,) = (text.get_text() for text in ax.texts)
        reason = f"the confusion matrix shows all {n_brands} brands already"
        assert text == f"none: {reason if n_brands > 1 else 'no brand was mistaken for another'}"


@pytest.mark.parametrize("photos", [1, 90])
def test_a_colour_means_the_same_in_every_matrix(photos):
    counts = pd.DataFrame(np.eye(60, dtype=int) * 83 + 1)
    counts.iloc[0] = 0
    counts.iloc[0, 1] = photos
    counts.iloc[2, 3] = 17
    image = plot.confusion_matrix(counts).images[1]
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    lightness = image.cmap(image.norm([0.01, 0.17, 0.5, 1]))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) < -0.05).all()
    assert 0.75 < lightness[1] < lightness[0] < 0.95  # 17 % is light, and a single per cent is not white


def test_rows_of_fewer_than_five_photos_are_pale():
    counts = pd.DataFrame([[3, 1], [0, 5]], ["A", "B"], ["A", "B"])
    ax = plot.confusion_matrix(counts)
    row = {name: place for place, name in enumerate(names(ax.yaxis))}
    opacity = ax.images[0].get_alpha()
    assert opacity[row["A (4)"]].max() < 0.5 and opacity[row["B (5)"]].min() == 1
    assert "pale: fewer than 5" in ax.get_ylabel()
    assert "pale" not in plot.confusion_matrix(counts * 5).get_ylabel()


def test_confusion_matrix_takes_predictions_or_counts(predictions):
    counts = confusion(predictions)
    axes = plot.confusion_matrix(predictions), plot.confusion_matrix(counts, ax=plt.figure().add_subplot())
    right = (predictions["brand"] == predictions["predicted"]).mean()
    for ax in axes:
        order = names(ax.xaxis)
        assert names(ax.yaxis) == [f"{brand} ({counts.loc[brand].sum()})" for brand in order]
        diagonal = row_shares(counts).loc[order, order].to_numpy().diagonal()
        np.testing.assert_allclose(np.diagonal(ax.images[0].get_array()), diagonal)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted brand", "true brand (its photos), share of them")
        assert title(ax) == f"600 photos of 6 brands, {100 * right:.1f} % correct"
        assert ax.get_label().startswith("Most often mistaken: ")


def test_confusion_matrix_greys_brands_without_photos(predictions):
    ax = plot.confusion_matrix(confusion(predictions, [f"Brand Number {i}" for i in range(7)]))
    assert len(ax.patches) == 1
    ax.figure.canvas.draw()


KEPT = {"kept": True, "threshold": 0.6, "accuracy": 0.8}
PROMISES = [
    (None, "nothing is promised"),
    (KEPT, "at least 80 % promised"),
    (KEPT | {"kept": False}, "nothing is promised"),
    (KEPT | {"threshold": 0.4}, "nothing is promised"),  # set by hand since
]


@pytest.mark.parametrize(("promise", "said"), PROMISES)
@pytest.mark.parametrize("curve", [plot.risk_coverage, plot.threshold_curve])
def test_thresholds_are_marked_with_what_is_promised(curve, promise, said, predictions):
    ax = curve(predictions, ax=plt.figure().add_subplot(), threshold=0.6, promise=promise)
    assert any(label.startswith(f"threshold 0.60: {said}") for label in legend(ax))
    assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title("left")
    curve(predictions.head(1)).figure.canvas.draw()


@pytest.mark.parametrize(("curve", "along"), [(plot.risk_coverage, "coverage"), (plot.threshold_curve, "threshold")])
def test_curves_are_pale_over_few_answers_and_show_their_interval(curve, along, predictions):
    ax = curve(predictions.head(60))
    solid, pale = ax.lines[:2]
    table = threshold_table(predictions.head(60), np.unique(predictions["confidence"].head(60)))
    at = dict(zip(table[along], table["photos"], strict=True))
    shown, faded = (np.asarray(line.get_xdata())[np.isfinite(line.get_ydata())] for line in (solid, pale))
    assert min(at[x] for x in shown) == 10
    assert sorted(at[x] for x in faded) == list(range(1, 11))
    assert pale.get_alpha() < 0.5
    assert "correct answers (pale: fewer than 10)" in legend(ax)
    (band,) = ax.collections
    last = table.iloc[-1]
    ends = [y for x, y in band.get_paths()[0].vertices if x == last[along]]
    assert (min(ends), max(ends)) == pytest.approx((0, 0.975) if last["accuracy"] == 0 else (0.025, 1))


def test_risk_coverage_ends_at_the_accuracy(predictions):
    line = plot.risk_coverage(predictions).lines[0]
    accuracy = (predictions["brand"] == predictions["predicted"]).mean()
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (1, pytest.approx(accuracy))


def test_reliability_shows_its_error_its_intervals_and_the_confidences_before(predictions):
    before = predictions.assign(confidence=predictions["confidence"] ** 0.3)
    ax = plot.reliability(predictions, before)
    assert (
        title(ax) == f"Expected calibration error {100 * expected_calibration_error(predictions):.1f} %, on 600 photos"
    )
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1)
    table = reliability_table(predictions, 10, equally_many=True)
    np.testing.assert_allclose(intervals(ax, 1), table[["accuracy_low", "accuracy_high"]])
    label = f"before the temperature, error {100 * expected_calibration_error(before):.1f} %"
    assert label in legend(ax)
    assert "accuracy, 95 % interval, 60 photos or more each" in legend(ax)
    (line,) = (line for line in ax.lines if words(line.get_label()) == label)
    drawn = np.c_[line.get_xdata(), line.get_ydata()]
    np.testing.assert_allclose(drawn, reliability_table(before, 10, equally_many=True)[["confidence", "accuracy"]])


@pytest.mark.parametrize(
    ("photos", "marks", "opacity"), [(4, 1, 0.35), (9, 1, 1), (20, 2, 1), (35, 3, 1), (600, 10, 1)]
)
def test_ten_photos_or_more_stand_behind_a_mark_of_reliability(photos, marks, opacity, predictions):
    ax = plot.reliability(predictions.head(photos))
    line = ax.containers[-1].lines[0] if hasattr(ax.containers[-1], "has_yerr") else ax.lines[-1]
    assert (len(line.get_xdata()), line.get_alpha()) == (marks, opacity)


def test_photos_of_one_confidence_stay_in_one_range(predictions):
    sure = predictions.assign(confidence=np.where(predictions["confidence"] > 0.5, 1.0, predictions["confidence"]))
    table = reliability_table(sure, 10, equally_many=True)
    assert (table["confidence"] == 1).sum() == 1
    assert table["photos"].sum() == 600


def test_shares_stand_beside_what_was_counted_and_the_truth():
    table = {"counted": [0.1, 0.6, 0.3], "corrected": [0.2, 0.5, 0.3], "low": [0.1, 0.4, 0.2], "high": [0.4, 0.6, 0.5]}
    table = pd.DataFrame(table, index=["Audi", "BMW", "Citroën"])
    ax = plot.brand_shares(table)
    assert names(ax.yaxis) == ["Audi", "Citroën", "BMW"]  # from below
    assert set(legend(ax)) == {"corrected, 95 % interval", "counted"}
    np.testing.assert_allclose(intervals(ax, 0), [[0.1, 0.4], [0.2, 0.5], [0.4, 0.6]])
    with_truth = plot.brand_shares(table.assign(truth=[0.2, 0.4, 0.4]))
    assert with_truth.lines[-1].get_xdata().tolist() == [0.2, 0.4, 0.4]


def test_brands_are_sorted_by_their_recall():
    predictions = make_predictions(12)
    ax = plot.brand_scores(predictions)
    report = brand_report(predictions).sort_values("recall", kind="stable")
    assert names(ax.yaxis) == [f"{brand} ({photos})" for brand, photos in report["photos"].items()]
    np.testing.assert_allclose(intervals(ax, 0), report[["recall_low", "recall_high"]])
    np.testing.assert_allclose(intervals(ax, 0, 2), report[["precision_low", "precision_high"]])
    assert title(ax).endswith(f"median recall {100 * report['recall'].median():.0f} %")
    assert [label.split(":")[0] for label in legend(ax)] == ["recall", "precision"]


def test_scores_of_fewer_than_five_photos_are_pale():
    predictions = predictions_of(["A"] * 5 + ["B"] * 4, ["A"] * 4 + ["B"] * 5, accepted=True)
    ax = plot.brand_scores(predictions)
    marks = [(c.lines[0].get_xdata().tolist(), c.lines[0].get_alpha()) for c in ax.containers]
    assert marks == [([0.8], 1), ([1], 0.35), ([0.8], 1), ([1], 0.35)]  # recall of A and B, precision of B and A
