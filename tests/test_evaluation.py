import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from carclf import evaluation

BRANDS = ["Audi", "BMW", "Citroën", "Ford", "Kia", "Mercedes-Benz"]


def table(rows, **columns):
    """A predictions table from (brand, predicted, confidence); the brand predicted is all of the top five."""
    frame = pd.DataFrame(rows, columns=["brand", "predicted", "confidence"]).astype({"confidence": float})
    frame["path"] = [f"{i}.jpg" for i in range(len(frame))]
    frame["top5"] = [
        None if pd.isna(said) else {said: sure}
        for said, sure in zip(frame["predicted"], frame["confidence"], strict=True)
    ]
    frame["accepted"] = frame["confidence"] >= 0.5
    frame["problem"] = np.where(frame["predicted"].isna(), "empty: the file has no bytes", None)
    return frame.assign(**columns)


@pytest.fixture(params=range(5))
def predictions(request):
    """Random predictions of 400 photos over 6 brands, the last brand never predicted."""
    random = np.random.default_rng(request.param)
    truth = random.integers(0, 6, 400)
    scores = random.random((400, 6)) + np.eye(6)[truth] * 0.4
    scores[:, 5] = 0
    scores /= scores.sum(axis=1, keepdims=True)
    order = np.argsort(-scores, axis=1)[:, :3]  # three of six, so that some photos miss
    frame = table([(BRANDS[t], BRANDS[o[0]], s[o[0]]) for t, o, s in zip(truth, order, scores, strict=True)])
    frame["top5"] = [{BRANDS[i]: float(s[i]) for i in o} for o, s in zip(order, scores, strict=True)]
    return frame


def test_metrics_equal_scikit_learn(predictions):
    found = evaluation.metrics(predictions)
    truth, said = predictions["brand"], predictions["predicted"]
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    assert found["macro_recall"] == pytest.approx(reference.recall_score(truth, said, average="macro"))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(truth, said, average="macro"))
    in_top = [brand in top for brand, top in zip(truth, predictions["top5"], strict=True)]
    assert found["top5_accuracy"] == pytest.approx(np.mean(in_top))
    assert found["mean_confidence"] == pytest.approx(predictions["confidence"].mean())
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_metrics_go_into_json(predictions):
    found = evaluation.metrics(predictions)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_every_photo_is_counted_once():
    scored = [("Audi", "Audi", 0.9), ("BMW", "Audi", 0.8)]
    other = [("Tucker", "Audi", 0.7), (None, "BMW", 0.6)]
    unreadable = [("Audi", None, np.nan), (None, None, np.nan), ("Tucker", None, np.nan)]
    predictions = table([*scored, *other, *unreadable])
    found = evaluation.metrics(predictions, classes=["Audi", "BMW"])
    counts = {name: found[name] for name in ("n", "unreadable", "unlabelled", "unknown_brand")}
    assert counts == {"n": 2, "unreadable": 3, "unlabelled": 1, "unknown_brand": 1}
    assert found["accuracy"] == 0.5
    assert evaluation.metrics(predictions)["accuracy"] == pytest.approx(1 / 3)  # no classes, no brand unknown


def test_a_photo_without_vehicle_is_its_own():
    rows = [("Audi", "Audi", 0.9)] * 4
    assert evaluation.metrics(table(rows))["vehicles"] == 4
    assert evaluation.metrics(table(rows, vehicle=["a", "a", None, None]))["vehicles"] == 3
    assert evaluation.metrics(table(rows, vehicle=np.nan))["vehicles"] == 4
    assert evaluation.brand_report(table(rows, vehicle=["a", "a", "b", "b"]))["vehicles"].tolist() == [2]


def test_interval_is_the_bootstrap_over_vehicles():
    random = np.random.default_rng(0)
    sizes = random.integers(1, 9, 60)
    right = [random.random() < 0.7 for size in sizes for _ in range(size)]
    vehicles = np.repeat(np.arange(60), sizes).astype(str)
    predictions = table([("Audi", "Audi" if hit else "BMW", 0.9) for hit in right], vehicle=vehicles)
    hits = np.array([np.sum(np.array(right)[vehicles == str(v)]) for v in range(60)])
    draws = [random.integers(0, 60, 60) for _ in range(4000)]
    low, high = np.quantile([hits[draw].sum() / sizes[draw].sum() for draw in draws], [0.025, 0.975])
    found = evaluation.metrics(predictions, n_boot=4000)
    assert found["accuracy_low"] == pytest.approx(low, abs=0.01)
    assert found["accuracy_high"] == pytest.approx(high, abs=0.01)


def test_interval_is_wider_where_siblings_agree():
    rows = [("Audi", "Audi" if i % 3 else "BMW", 0.9) for i in range(60) for _ in range(10)]
    alone = evaluation.metrics(table(rows))
    together = evaluation.metrics(table(rows, vehicle=[str(i // 10) for i in range(600)]))
    width = [found["accuracy_high"] - found["accuracy_low"] for found in (alone, together)]
    assert width[1] == pytest.approx(np.sqrt(10) * width[0], rel=0.15)


def test_interval_is_reproducible(predictions):
    assert evaluation.metrics(predictions, seed=1) == evaluation.metrics(predictions, seed=1)
    assert evaluation.metrics(predictions, seed=1) != evaluation.metrics(predictions, seed=2)


@pytest.mark.parametrize("said, low, high", [("Audi", 0.025 ** (1 / 20), 1), ("BMW", 0, 1 - 0.025 ** (1 / 20))])
def test_no_error_seen_is_not_no_error_possible(said, low, high):
    found = evaluation.metrics(table([("Audi", said, 0.9)] * 20))
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx((low, high))


def test_one_vehicle_says_nothing_about_the_next():
    found = evaluation.metrics(table([("Audi", "Audi", 0.9)]))
    assert (found["accuracy"], found["accuracy_low"], found["accuracy_high"]) == (1, 0, 1)


def test_nothing_to_score_is_an_error():
    predictions = table([(None, "BMW", 0.6), ("Audi", None, np.nan)])
    with pytest.raises(ValueError, match=r"none of the 2 predictions can be scored.*its file name says a brand"):
        evaluation.metrics(predictions)
    with pytest.raises(ValueError, match="none of the 0 predictions"):
        evaluation.metrics(predictions.head(0))


def test_classes_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"that classes does not list: Kia, Lada.*Pass the classes"):
        evaluation.metrics(table([("Audi", "Lada", 0.9), ("Audi", "Kia", 0.9)]), classes=["Audi"])


@pytest.mark.parametrize("confidence", [1.5, -0.1, np.nan])
def test_impossible_confidences_are_refused(confidence):
    predictions = table([("Audi", "Audi", 0.9), ("Audi", "Audi", confidence)])
    with pytest.raises(ValueError, match=r"1.jpg: confidence is .*0\.\.1"):
        evaluation.metrics(predictions)


def test_brand_report_equals_scikit_learn(predictions):
    report = evaluation.brand_report(predictions)
    truth, said = predictions["brand"], predictions["predicted"]
    expected = reference.classification_report(truth, said, output_dict=True, zero_division=np.nan)
    assert list(report.index) == BRANDS
    for brand in BRANDS:
        wanted = [expected[brand][name] for name in ("precision", "recall", "f1-score", "support")]
        assert report.loc[brand, ["precision", "recall", "f1", "photos"]].tolist() == pytest.approx(wanted, nan_ok=True)
    assert np.isnan(report.loc["Mercedes-Benz", "precision"])  # never predicted
    assert report.loc["Mercedes-Benz", "f1"] == 0


def test_confusion_counts_pairs(predictions):
    counts = evaluation.confusion(predictions)
    assert (counts.index.name, counts.columns.name) == ("brand", "predicted")
    assert list(counts.index) == list(counts.columns) == BRANDS
    for brand in BRANDS:
        for said in BRANDS:
            pair = (predictions["brand"] == brand) & (predictions["predicted"] == said)
            assert counts.loc[brand, said] == pair.sum()


def test_confusion_keeps_the_order_of_classes():
    counts = evaluation.confusion(table([("Ford", "Audi", 0.9), ("Lada", "Audi", 0.9)]), ["Kia", "Ford", "Audi"])
    assert list(counts.index) == list(counts.columns) == ["Kia", "Ford", "Audi"]
    assert counts.to_numpy().tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_ordered_brings_confused_brands_together():
    brands = [f"{letter}{i}" for i in range(8) for letter in "ab"]  # a0 b0 a1 b1 …
    rows = [(brand, brand, 0.9) for brand in brands for _ in range(6)]
    rows += [(f"a{i}", f"b{(i + 3) % 8}", 0.9) for i in range(8) for _ in range(4)]  # far apart by name
    counts = evaluation.confusion(table(rows))
    moved = evaluation.ordered(counts)
    place = {brand: i for i, brand in enumerate(moved.index)}
    assert all(abs(place[f"a{i}"] - place[f"b{(i + 3) % 8}"]) == 1 for i in range(8))
    assert list(moved.index) == list(moved.columns)
    pd.testing.assert_frame_equal(moved.loc[counts.index, counts.columns], counts)


def test_ordered_needs_one_set_of_brands():
    counts = evaluation.confusion(table([("Ford", "Audi", 0.9)]))
    assert evaluation.ordered(counts).equals(counts)
    with pytest.raises(ValueError, match="the same brands as rows and columns"):
        evaluation.ordered(counts[["Audi"]])


def test_confused_pairs_most_frequent_first(monkeypatch):
    monkeypatch.setattr(evaluation, "owner_of", {"Audi": "VW", "Skoda": "VW"}.get)
    rows = [("Audi", "Skoda", 0.9)] * 2 + [("Audi", "Audi", 0.9)] * 6 + [("Ford", "Kia", 0.9)] * 2
    pairs = evaluation.confused_pairs(table([*rows, ("Audi", "Kia", 0.9), (None, "Kia", 0.9)]))
    assert list(pairs.columns) == ["brand", "predicted", "photos", "share", "same_owner"]
    assert pairs.to_numpy().tolist() == [
        ["Audi", "Skoda", 2, 2 / 9, True],
        ["Ford", "Kia", 2, 1.0, False],  # neither has an owner: that is not the same owner
        ["Audi", "Kia", 1, 1 / 9, False],
    ]
    assert len(evaluation.confused_pairs(table(rows), k=1)) == 1


def test_no_confused_pairs():
    pairs = evaluation.confused_pairs(table([("Audi", "Audi", 0.9)]))
    assert pairs.empty and list(pairs.columns) == ["brand", "predicted", "photos", "share", "same_owner"]


def test_threshold_table_equals_counting(predictions):
    thresholds = [0, *predictions["confidence"].head(20), 1]
    for row in evaluation.threshold_table(predictions, thresholds).itertuples():
        answered = predictions[predictions["confidence"] >= row.threshold]
        assert row.photos == len(answered)
        assert row.coverage == pytest.approx(len(answered) / len(predictions))
        right = (answered["brand"] == answered["predicted"]).mean()
        assert row.accuracy == pytest.approx(right, nan_ok=True)


def test_choose_threshold_is_the_smallest_that_reaches_the_target(predictions):
    target = evaluation.metrics(predictions)["accuracy"] + 0.05
    chosen = evaluation.choose_threshold(predictions, target)
    assert chosen in set(predictions["confidence"])

    def accuracy(threshold):
        answered = predictions[predictions["confidence"] >= threshold]
        return (answered["brand"] == answered["predicted"]).mean()

    assert accuracy(chosen) >= target
    assert all(accuracy(seen) < target for seen in predictions["confidence"] if seen < chosen)


def test_choose_threshold_keeps_ties_together():
    rows = [("Audi", "Audi", 0.9), ("Audi", "Audi", 0.8), ("Audi", "BMW", 0.8), ("Audi", "BMW", 0.1)]
    assert evaluation.choose_threshold(table(rows), 0.6) == 0.8
    assert evaluation.choose_threshold(table(rows), 0.7) == 0.9


def test_choose_threshold_accepts_float32_and_unreadable_photos():
    predictions = table([("Audi", "Audi", 0.7), ("Audi", "BMW", 0.1), ("Audi", None, np.nan)])
    predictions["confidence"] = predictions["confidence"].astype("float32")
    chosen = evaluation.choose_threshold(predictions, 1)
    assert (predictions["confidence"].to_numpy() >= chosen).tolist() == [True, False, False]


def test_choose_threshold_says_what_it_reached():
    rows = [("Audi", "BMW", 0.9), ("Audi", "Audi", 0.8), ("Audi", "BMW", 0.1)]
    with pytest.warns(UserWarning, match=r"no threshold makes 95.0% .* 0.800 comes nearest with 50.0% right .* 66.7%"):
        assert evaluation.choose_threshold(table(rows)) == 0.8


@pytest.mark.parametrize("accuracy", [0, 95])
def test_choose_threshold_wants_a_share(accuracy):
    with pytest.raises(ValueError, match=r"the target is a share.*try 0\.95"):
        evaluation.choose_threshold(table([("Audi", "Audi", 0.9)]), accuracy)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_expected_calibration_error_equals_its_definition(predictions, bins):
    confidence = predictions["confidence"].to_numpy()
    right = (predictions["brand"] == predictions["predicted"]).to_numpy()
    expected = 0
    for low in np.arange(bins) / bins:
        inside = (confidence >= low) & (confidence < low + 1 / bins)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert evaluation.expected_calibration_error(predictions, bins) == pytest.approx(expected)


def test_expected_calibration_error_of_the_sure():
    assert evaluation.expected_calibration_error(table([("Audi", "Audi", 1.0)])) == 0
    assert evaluation.expected_calibration_error(table([("Audi", "BMW", 1.0)])) == 1


def test_nothing_warns_and_nothing_changes(predictions):
    before = predictions.copy(deep=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.metrics(predictions, classes=BRANDS)
        evaluation.confused_pairs(predictions)
        evaluation.threshold_table(predictions)
    pd.testing.assert_frame_equal(predictions, before)


# --- tables and files


def test_metrics_read_as_words(predictions):
    results = evaluation.metrics(predictions)
    words = evaluation.metrics_table(results)["value"]
    assert words["accuracy"].startswith(f"{results['accuracy']:.1%}, 95 % interval {results['accuracy_low']:.1%} to")
    assert words["photos scored"] == "400, of 400 vehicles"
    assert words["not scored"] == "unreadable: 0, unlabelled: 0, unknown brand: 0"
    assert words["macro recall"] == f"{results['macro_recall']:.1%}"


def test_results_are_saved_as_csv_and_json(predictions, tmp_path):
    predictions.loc[0, ["predicted", "confidence", "top5"]] = None
    results = evaluation.metrics(predictions)
    evaluation.save_results(predictions, results, tmp_path / "new" / "folder")
    assert json.loads((tmp_path / "new" / "folder" / "metrics.json").read_text("utf-8")) == results
    saved = pd.read_csv(tmp_path / "new" / "folder" / "predictions.csv")
    assert saved["brand"].tolist() == predictions["brand"].tolist()
    assert pd.isna(saved["top5"][0])
    assert json.loads(saved["top5"][1]) == predictions["top5"][1]
