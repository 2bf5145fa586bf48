import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn import metrics as reference
from tables import make_predictions, predictions_of

from carclf.brands import makes
from carclf.metrics import label_errors, scores, words
from carclf.metrics.calibration import reliability_table
from carclf.metrics.scores import brand_report, compute_metrics, confused_pairs, confusion, ordered
from carclf.metrics.thresholds import decisions, threshold_table
from carclf.metrics.words import metrics_table, percent

BRANDS = ["Audi", "BMW", "Citroën", "Ford", "Kia", "Mercedes-Benz"]


def table(rows, **columns):
    """Predictions from rows of (brand, predicted, confidence)."""
    brand, predicted, confidence = zip(*rows, strict=True)
    return predictions_of(brand, predicted, confidence, **columns)


@pytest.fixture(params=range(5))
def predictions(request):
    """Random predictions of 400 photos over 6 brands, the last brand never predicted."""
    random = np.random.default_rng(request.param)
    truth = random.integers(0, 6, 400)
    p = random.random((400, 6)) + np.eye(6)[truth] * 0.4
    p[:, 5] = 0
    p /= p.sum(axis=1, keepdims=True)
    brands, order = np.array(BRANDS, object), np.argsort(-p, axis=1)[:, :3]  # three of six, so that some photos miss
    top5 = [{BRANDS[i]: float(row[i]) for i in best} for best, row in zip(order, p, strict=True)]
    return predictions_of(brands[truth], brands[order[:, 0]], p.max(axis=1)).assign(top5=top5)


def test_scores_equal_scikit_learn(predictions):
    found = compute_metrics(predictions)
    truth, said = predictions["brand"], predictions["predicted"]
    in_top = [brand in top for brand, top in zip(truth, predictions["top5"], strict=True)]
    expected = {
        "accuracy": reference.accuracy_score(truth, said),
        "macro_recall": reference.recall_score(truth, said, average="macro"),
        "macro_f1": reference.f1_score(truth, said, average="macro"),
        "top5_accuracy": np.mean(in_top),
        "mean_confidence": predictions["confidence"].mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_every_photo_is_counted_once():
    known = [("Audi", "Audi", 0.9), ("BMW", "Audi", 0.8)]
    other = [("Tucker", "Audi", 0.7), (None, "BMW", 0.6)]
    unreadable = [("Audi", None, np.nan), (None, None, np.nan), ("Tucker", None, np.nan)]
    predictions = table([*known, *other, *unreadable])
    found = compute_metrics(predictions, classes=["Audi", "BMW"])
    counts = {"n": 2, "unreadable": 3, "unlabelled": 1, "unknown_brand": 1, "accuracy": 0.5}
    assert {name: found[name] for name in counts} == counts
    assert compute_metrics(predictions)["accuracy"] == pytest.approx(1 / 3)  # without classes no brand is unknown


def test_a_table_is_scored_once(predictions):
    before = predictions.copy(deep=True)
    once = scores.scored(predictions)
    assert scores.scored(once) is once
    assert scores.scored(once, ["Lada"]) is once
    metrics = scores.photo_counts(predictions, once) | scores.photo_scores(once)
    assert list(metrics.items()) == list(compute_metrics(predictions).items())
    for metric in brand_report, confusion, confused_pairs:
        pd.testing.assert_frame_equal(metric(once), metric(predictions))
    compute_metrics(predictions, classes=BRANDS)
    pd.testing.assert_frame_equal(predictions, before)
    pd.testing.assert_frame_equal(once, scores.scored(before))


@pytest.mark.parametrize(
    "vehicle, vehicles", [(np.nan, 4), (["a", "a", None, None], 3), (["a", "a", "b", "b"], 2), (None, 4)]
)
def test_a_photo_without_vehicle_is_its_own(vehicle, vehicles):
    rows = [("Audi", "Audi", 0.9)] * 4
    assert compute_metrics(table(rows, vehicle=vehicle))["vehicles"] == vehicles
    assert brand_report(table(rows, vehicle=vehicle))["vehicles"].tolist() == [vehicles]
    assert compute_metrics(table(rows))["vehicles"] == 4


def test_intervals_are_the_bootstrap_over_vehicles():
    """Against a written-out bootstrap that passes the photos of the vehicles drawn to scikit-learn."""
    random, brands = np.random.default_rng(0), np.array(BRANDS, object)
    sizes = random.integers(1, 9, 60)
    vehicles = np.repeat(np.arange(60), sizes)
    truth = brands[np.repeat(random.integers(0, 3, 60), sizes)]
    said = np.where(random.random(len(truth)) < 0.7, truth, brands[random.integers(0, 4, len(truth))])
    photos = [np.flatnonzero(vehicles == v) for v in range(60)]
    draws = [np.concatenate([photos[v] for v in random.integers(0, 60, 60)]) for _ in range(400)]
    shown = {"labels": BRANDS[:3], "average": "macro"}
    drawn = {
        "accuracy": [np.mean(truth[d] == said[d]) for d in draws],
        "macro_recall": [reference.recall_score(truth[d], said[d], **shown) for d in draws],
        "macro_f1": [reference.f1_score(truth[d], said[d], **shown) for d in draws],
    }
    found = compute_metrics(predictions_of(truth, said, vehicle=vehicles.astype(str)), n_boot=4000)
    for name, values in drawn.items():
        expected = np.quantile(values, [0.025, 0.975])
        assert [found[f"{name}_low"], found[f"{name}_high"]] == pytest.approx(expected, abs=0.025), name


def test_intervals_depend_on_the_seed_and_not_on_the_order_of_rows(predictions):
    predictions = predictions.assign(vehicle=[str(i // 3) for i in range(400)])
    found = compute_metrics(predictions, seed=1)
    assert compute_metrics(predictions, seed=1) == found != compute_metrics(predictions, seed=2)
    assert compute_metrics(predictions.sample(frac=1, random_state=1), seed=1) == pytest.approx(found)


@pytest.mark.parametrize(
    "rows, accuracy, macro",
    [
        ([("Audi", "Audi", 20)], (0.025 ** (1 / 20), 1), (0.025 ** (1 / 20), 1)),
        ([("Audi", "BMW", 20)], (0, 1 - 0.025 ** (1 / 20)), (0, 1 - 0.025 ** (1 / 20))),
        ([("Audi", "Audi", 1)], (0, 1), (0, 1)),
        # A mean over brands is as sure as its rare brands.
        ([("Audi", "Audi", 98), ("BMW", "BMW", 2)], (0.025 ** (1 / 100), 1), (0.025 ** ((1 / 98 + 1 / 2) / 4), 1)),
    ],
)
def test_no_error_seen_is_not_no_error_possible(rows, accuracy, macro):
    found = compute_metrics(table([(brand, said, 0.9) for brand, said, photos in rows for _ in range(photos)]))
    for name, ends in ("accuracy", accuracy), ("macro_recall", macro):
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(ends)


def test_tables_that_cannot_be_scored_are_refused():
    right = table([("Audi", "Audi", 0.9)])
    nothing = table([(None, "BMW", 0.6), ("Audi", None, np.nan)])
    with pytest.raises(ValueError, match=r"none of the 2 predictions can be scored.*its file name gives a brand"):
        compute_metrics(nothing)
    for empty in nothing.head(0), scores.scored(right).head(0):
        with pytest.raises(ValueError, match="none of the 0 predictions"):
            compute_metrics(empty)
    with pytest.raises(ValueError, match=r"that classes does not list: Kia, Lada.*Pass the classes"):
        compute_metrics(table([("Audi", "Lada", 0.9), ("Audi", "Kia", 0.9)]), classes=["Audi"])
    for confidence in 1.5, -0.1, np.nan:
        with pytest.raises(ValueError, match=r"0.jpg: confidence is .*0\.\.1.*Predict these photos again"):
            compute_metrics(right.assign(confidence=confidence))


def test_brand_report_equals_scikit_learn(predictions):
    report = brand_report(predictions)
    truth, said = predictions["brand"], predictions["predicted"]
    expected = reference.classification_report(truth, said, output_dict=True, zero_division=np.nan)
    assert list(report.index) == BRANDS
    for brand in BRANDS:
        wanted = [expected[brand][name] for name in ("precision", "recall", "f1-score", "support")]
        assert report.loc[brand, ["precision", "recall", "f1", "photos"]].tolist() == pytest.approx(wanted, nan_ok=True)
    never = report.loc["Mercedes-Benz"]  # never predicted
    assert never[["precision", "precision_low", "precision_high"]].isna().all()
    assert never["f1"] == 0
    known = report.dropna()
    for name in ("precision", "recall", "f1"):
        assert (known[f"{name}_low"] <= known[name]).all() and (known[name] <= known[f"{name}_high"]).all()


def test_brand_intervals_are_exact_if_photos_stand_alone(predictions):
    report = brand_report(predictions)
    for brand in BRANDS[:5]:
        of, said = predictions["brand"] == brand, predictions["predicted"] == brand
        for name, photos in {"recall": of, "precision": said, "f1": of | said}.items():
            exact = np.array(binomtest(int((of & said).sum()), int(photos.sum())).proportion_ci(method="exact"))
            exact = 2 * exact / (1 + exact) if name == "f1" else exact
            assert report.loc[brand, [f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(exact.tolist())


def test_brand_intervals_count_vehicles():
    alone = brand_report(table([("Audi", "Audi", 0.9)] * 5))
    together = brand_report(table([("Audi", "Audi", 0.9)] * 30, vehicle=[str(i % 5) for i in range(30)]))
    ends = ["recall_low", "recall_high", "precision_low", "precision_high", "f1_low", "f1_high"]
    assert together[ends].to_numpy() == pytest.approx(alone[ends].to_numpy())
    assert together.loc["Audi", ["photos", "vehicles"]].tolist() == [30, 5]


def test_confusion_counts_pairs(predictions):
    counts = confusion(predictions)
    expected = reference.confusion_matrix(predictions["brand"], predictions["predicted"])
    index, columns = pd.Index(BRANDS, name="brand"), pd.Index(BRANDS, name="predicted")
    pd.testing.assert_frame_equal(counts, pd.DataFrame(expected, index, columns), check_dtype=False)
    classes = ["Kia", "Ford", "Audi"]
    counts = confusion(table([("Ford", "Audi", 0.9), ("Lada", "Audi", 0.9)]), classes)
    assert list(counts.index) == list(counts.columns) == classes  # in their order
    assert counts.to_numpy().tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_ordered_brings_confused_brands_together():
    brands = [f"{letter}{i}" for i in range(8) for letter in "ab"]  # a0 b0 a1 b1 …
    rows = [(brand, brand, 0.9) for brand in brands for _ in range(6)]
    rows += [(f"a{i}", f"b{(i + 3) % 8}", 0.9) for i in range(8) for _ in range(4)]  # far apart by name
    counts = confusion(table(rows))
    moved = ordered(counts)
    place = {brand: i for i, brand in enumerate(moved.index)}
    assert all(abs(place[f"a{i}"] - place[f"b{(i + 3) % 8}"]) == 1 for i in range(8))
    assert list(moved.index) == list(moved.columns)
    pd.testing.assert_frame_equal(moved.loc[counts.index, counts.columns], counts)
    two = counts.iloc[:2, :2]
    assert ordered(two).equals(two)
    with pytest.raises(ValueError, match="the same brands as rows and columns"):
        ordered(two[["a0"]])


def test_confused_pairs_most_frequent_first(monkeypatch):
    monkeypatch.setattr(scores, "owner_of", {"Audi": "VW", "Skoda": "VW"}.get)
    rows = [("Audi", "Skoda", 0.9)] * 2 + [("Audi", "Audi", 0.9)] * 6 + [("Ford", "Kia", 0.9)] * 2
    pairs = confused_pairs(table([*rows, ("Audi", "Kia", 0.9), (None, "Kia", 0.9)]))
    assert pairs.to_numpy().tolist() == [
        ["Audi", "Skoda", 2, 2 / 9, True],
        ["Ford", "Kia", 2, 1.0, False],  # neither has an owner: that is not the same owner
        ["Audi", "Kia", 1, 1 / 9, False],
    ]
    assert len(confused_pairs(table(rows), k=1)) == 1
    none = confused_pairs(table([("Audi", "Audi", 0.9)]))
    assert none.empty
    assert list(none.columns) == list(pairs.columns) == ["brand", "predicted", "photos", "share", "same_owner"]


def test_an_answer_may_be_right_under_another_name(monkeypatch):
    """A Hummer H1 is also an AM General; it counts on the diagonal of its own brand, and a later Hummer does not."""
    also = {("Hummer", "H1"): {"AM General"}}
    for module in (makes, scores):
        monkeypatch.setattr(module, "also_right", lambda brand, model: frozenset(also.get((brand, model), ())))
    said = ["AM General", "AM General", "Hummer", "Audi", None, "AM General"]
    brands = ["Hummer"] * 5 + [None]
    models = ["H1", "H3", "H1", "H1", "H1", "H1"]
    predictions = predictions_of(
        brands, said, [0.9, 0.9, 0.9, 0.9, np.nan, 0.9], model=models, loss=[9.0, 8, 0, 7, np.nan, np.nan]
    )
    assert scores.is_right(predictions).tolist() == [True, False, True, False, False, False]
    assert scores.is_right(predictions.drop(columns="model")).tolist() == [False, False, True, False, False, False]
    found = compute_metrics(predictions)
    assert (found["n"], found["accuracy"], found["right_by_another_name"]) == (4, 0.5, 1)
    assert found["top5_accuracy"] == found["macro_recall"] == 0.5
    assert metrics_table(found)["value"]["right under another name"].startswith("1, as")
    counts = confusion(predictions)
    assert counts.loc["Hummer"].to_dict() == {"AM General": 1, "Audi": 1, "Hummer": 2}
    assert brand_report(predictions).loc["Hummer", ["precision", "recall"]].tolist() == [1, 0.5]
    assert confused_pairs(predictions)["predicted"].tolist() == ["AM General", "Audi"]
    assert confused_pairs(predictions)["photos"].tolist() == [1, 1]
    table = predictions.assign(decision="accepted")
    assert decisions(table).loc["accepted", ["labelled", "right"]].tolist() == [4, 0.5]
    assert threshold_table(predictions, [0.5])["accuracy"].tolist() == [0.5]
    assert reliability_table(predictions)["accuracy"].tolist() == [0.5]
    assert label_errors.confident_mistakes(predictions).path.tolist() == ["0001.jpg", "0003.jpg"]
    assert label_errors.highest_losses(predictions).path.tolist() == ["0001.jpg", "0003.jpg", "0002.jpg"]
    classes = ["AM General", "Audi", "Hummer"]
    p = np.array([[0.9, 0, 0.1], [0.9, 0, 0.1], [0, 0, 1], [0, 0.5, 0.5], [np.nan] * 3, [0.9, 0, 0.1]])
    renamed = predictions.assign(brand=[*["Hummer"] * 5, "AM General"])
    suspects = label_errors.label_suspects(renamed, p, classes, least_accuracy=0)
    assert suspects.path.tolist() == ["0001.jpg"]


def test_brands_that_the_model_lacks_are_named():
    predictions = table([("Audi", "Audi", 0.9)] + [("Zeekr", "Audi", 0.8)] * 12 + [("Tank", "Audi", 0.8)])
    found = compute_metrics(predictions, classes=["Audi"])
    assert found["unknown_brands"] == {"Zeekr": 12, "Tank": 1} and found["unknown_brand"] == 13
    assert metrics_table(found)["value"]["brands it does not know"] == "Zeekr (12 photos), Tank (1 photo)"
    with pytest.raises(
        ValueError, match=r"can be scored: the model does not know Zeekr \(12 photos\), Tank \(1 photo\); give"
    ):
        compute_metrics(predictions[1:], classes=["Audi"])
    unread = table([("Audi", None, np.nan)] * 2)
    with pytest.raises(
        ValueError, match=r"none was read, such as 0000.jpg \(empty: .*; give the folder where the photos"
    ):
        compute_metrics(unread, classes=["Audi"])
    many = words.listed({f"Brand {i}": 2 for i in range(12)})
    assert many.endswith("Brand 9 (2 photos) and 2 more")


def test_metrics_read_as_text(predictions):
    results = compute_metrics(predictions)
    text = metrics_table(results)["value"]
    low, high = results["accuracy_low"], results["accuracy_high"]
    assert (
        text["accuracy"] == f"{percent(results['accuracy'], 1)}, 95 % interval {percent(low, 1)} to {percent(high, 1)}"
    )
    assert text["photos scored"] == "400, of 400 vehicles"
    assert text["not scored"] == "none"
    assert metrics_table(results | {"unknown_brand": 2})["value"]["not scored"] == "unknown brand: 2"
    assert text["macro recall"].startswith(f"{percent(results['macro_recall'], 1)}, 95 % interval ")
    assert text["top5 accuracy"] == percent(results["top5_accuracy"], 1)


def test_predictions_are_saved_as_csv(tmp_path):
    predictions = make_predictions(6)
    predictions.loc[0, ["predicted", "confidence", "top5"]] = None
    scores.save_predictions(predictions, tmp_path / "predictions.csv")
    saved = pd.read_csv(tmp_path / "predictions.csv")
    assert saved["brand"].tolist() == predictions["brand"].tolist()
    assert pd.isna(saved["top5"][0])
    assert json.loads(saved["top5"][1]) == predictions["top5"][1]
