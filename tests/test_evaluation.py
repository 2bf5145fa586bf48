import json
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
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


def test_intervals_are_the_bootstrap_over_vehicles():
    """Against a written-out bootstrap that hands scikit-learn the photos of the vehicles drawn."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 9, 60)
    vehicles = np.repeat(np.arange(60), sizes)
    truth = np.array(BRANDS, object)[np.repeat(random.integers(0, 3, 60), sizes)]
    said = np.where(random.random(len(truth)) < 0.7, truth, np.array(BRANDS, object)[random.integers(0, 4, len(truth))])
    predictions = table(zip(truth, said, [0.9] * len(truth), strict=True), vehicle=vehicles.astype(str))
    photos = [np.flatnonzero(vehicles == v) for v in range(60)]
    draws = [np.concatenate([photos[v] for v in random.integers(0, 60, 60)]) for _ in range(400)]
    shown = {"labels": BRANDS[:3], "average": "macro"}
    scores = {
        "accuracy": [np.mean(truth[d] == said[d]) for d in draws],
        "macro_recall": [reference.recall_score(truth[d], said[d], **shown) for d in draws],
        "macro_f1": [reference.f1_score(truth[d], said[d], **shown) for d in draws],
    }
    found = evaluation.metrics(predictions, n_boot=4000)
    for name, drawn in scores.items():
        expected = np.quantile(drawn, [0.025, 0.975])
        assert [found[f"{name}_low"], found[f"{name}_high"]] == pytest.approx(expected, abs=0.025), name


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
    for name in ("accuracy", "macro_recall"):
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx((low, high))


def test_a_mean_over_brands_is_as_sure_as_its_rare_brands():
    rows = [("Audi", "Audi", 0.9)] * 98 + [("BMW", "BMW", 0.9)] * 2
    found = evaluation.metrics(table(rows))
    assert found["accuracy_low"] == pytest.approx(0.025 ** (1 / 100))
    assert found["macro_recall_low"] == pytest.approx(0.025 ** (1 / (4 / (1 / 98 + 1 / 2))))


def test_the_order_of_rows_plays_no_part(predictions):
    predictions = predictions.assign(vehicle=[str(i // 3) for i in range(400)])
    shuffled = predictions.sample(frac=1, random_state=1)
    assert evaluation.metrics(shuffled) == pytest.approx(evaluation.metrics(predictions))


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
    for name in ("precision", "recall", "f1"):
        known = report.dropna()
        assert (known[f"{name}_low"] <= known[name]).all() and (known[name] <= known[f"{name}_high"]).all()


def test_brand_intervals_are_exact_where_photos_stand_alone(predictions):
    report = evaluation.brand_report(predictions)
    of, said = predictions["brand"], predictions["predicted"]
    for brand in BRANDS[:5]:
        both = int(((of == brand) & (said == brand)).sum())
        counts = {"recall": (of == brand).sum(), "precision": (said == brand).sum()}
        counts["f1"] = ((of == brand) | (said == brand)).sum()
        for name, n in counts.items():
            exact = np.array(binomtest(both, int(n)).proportion_ci(method="exact"))
            exact = 2 * exact / (1 + exact) if name == "f1" else exact
            assert report.loc[brand, [f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(exact.tolist())


def test_brand_intervals_count_vehicles():
    alone = evaluation.brand_report(table([("Audi", "Audi", 0.9)] * 5))
    siblings = table([("Audi", "Audi", 0.9)] * 30, vehicle=[str(i % 5) for i in range(30)])
    ends = ["recall_low", "recall_high", "precision_low", "precision_high", "f1_low", "f1_high"]
    together = evaluation.brand_report(siblings)
    assert together[ends].to_numpy() == pytest.approx(alone[ends].to_numpy())
    assert together.loc["Audi", ["photos", "vehicles"]].tolist() == [30, 5]


def test_a_brand_never_predicted_has_no_precision_and_no_interval_of_it():
    report = evaluation.brand_report(table([("Audi", "BMW", 0.9), ("BMW", "BMW", 0.9)]))
    assert report.loc["Audi", ["precision", "precision_low", "precision_high"]].isna().all()
    assert report.loc["Audi", ["recall_low", "recall_high"]].tolist() == pytest.approx([0, 0.975])  # one photo


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


def test_nothing_warns_and_nothing_changes(predictions):
    before = predictions.copy(deep=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.metrics(predictions, classes=BRANDS)
        evaluation.confused_pairs(predictions)
        evaluation.brand_report(predictions)
    pd.testing.assert_frame_equal(predictions, before)


# --- tables and files


def test_metrics_read_as_words(predictions):
    results = evaluation.metrics(predictions)
    words = evaluation.metrics_table(results)["value"]
    assert words["accuracy"].startswith(f"{results['accuracy']:.1%}, 95 % interval {results['accuracy_low']:.1%} to")
    assert words["photos scored"] == "400, of 400 vehicles"
    assert words["not scored"] == "unreadable: 0, unlabelled: 0, unknown brand: 0"
    assert words["macro recall"].startswith(f"{results['macro_recall']:.1%}, 95 % interval ")
    assert words["top5 accuracy"] == f"{results['top5_accuracy']:.1%}"


def test_results_are_saved_as_csv_and_json(predictions, tmp_path):
    predictions.loc[0, ["predicted", "confidence", "top5"]] = None
    results = evaluation.metrics(predictions)
    evaluation.save_results(predictions, results, tmp_path / "new" / "folder")
    assert json.loads((tmp_path / "new" / "folder" / "metrics.json").read_text("utf-8")) == results
    saved = pd.read_csv(tmp_path / "new" / "folder" / "predictions.csv")
    assert saved["brand"].tolist() == predictions["brand"].tolist()
    assert pd.isna(saved["top5"][0])
    assert json.loads(saved["top5"][1]) == predictions["top5"][1]
