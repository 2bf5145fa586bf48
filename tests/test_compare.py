import json

import numpy as np
import pandas as pd
import pytest
from tables import predictions_of

from carclf.metrics.scores import by_seen_model, compare, compute_metrics

BRANDS = np.array(["Audi", "BMW", "Ford", "Kia"], object)
SCORES = ("accuracy", "macro_recall", "macro_f1")


def two_models(n=600, better=0.05, seed=0):
    """Two models that are mostly right and wrong on the same photos; the second repairs a share of them."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 4, n)
    first = np.where(random.random(n) < 0.7, truth, (truth + 1) % 4)
    second = np.where(random.random(n) < better, truth, first)
    vehicle = [f"v{i // 3}" for i in range(n)]
    return [predictions_of(BRANDS[truth], BRANDS[said], vehicle=vehicle) for said in (first, second)]


def test_compare_counts_and_scores():
    a, b = two_models()
    found = compare(a, b.sample(frac=1, random_state=0))  # the order of rows plays no part
    right = [(one["brand"] == one["predicted"]).to_numpy() for one in (a, b)]
    counts = [found[f"{kind}_right"] for kind in ("both", "only_a", "only_b", "neither")]
    assert counts == [(right[0] == x)[right[1] == y].sum() for x, y in ((1, 1), (1, 0), (0, 1), (0, 0))]
    metrics = [compute_metrics(one) for one in (a, b)]
    for name in SCORES:
        assert [found[f"{name}_a"], found[f"{name}_b"]] == pytest.approx([one[name] for one in metrics])
        assert found[f"{name}_difference"] == pytest.approx(metrics[1][name] - metrics[0][name])
        assert found[f"{name}_difference_low"] < found[f"{name}_difference"] < found[f"{name}_difference_high"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_difference_is_the_paired_bootstrap_over_vehicles():
    a, b = two_models()
    gain = (b["brand"] == b["predicted"]).to_numpy(float) - (a["brand"] == a["predicted"]).to_numpy(float)
    random, of_vehicle = np.random.default_rng(3), gain.reshape(-1, 3).sum(axis=1)
    draws = [of_vehicle[random.integers(0, 200, 200)].sum() / 600 for _ in range(4000)]
    found = compare(a, b, n_boot=4000)
    ends = [found["accuracy_difference_low"], found["accuracy_difference_high"]]
    assert ends == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.004)
    assert ends[0] > 0  # while the intervals of the two scores overlap:
    assert compute_metrics(a)["accuracy_high"] > compute_metrics(b)["accuracy_low"]


def test_the_interval_of_the_difference_holds():
    """Of 200 pairs of models that truly differ by 2.25 points, at most a few intervals miss that."""
    held = 0
    for seed in range(200):
        found = compare(*two_models(450, 0.075, seed), n_boot=200)
        held += found["accuracy_difference_low"] <= 0.3 * 0.075 <= found["accuracy_difference_high"]
    assert held >= 180  # 95 % of 200 less three standard deviations and a bit for the percentiles


def test_a_model_equals_itself_within_what_the_photos_can_tell():
    a = two_models(60)[0]
    found = compare(a, a)
    assert found["accuracy_difference"] == 0
    assert found["accuracy_difference_high"] == pytest.approx(1 - 0.025 ** (1 / 20))  # 20 vehicles agree
    one = compare(a.head(1), a.head(1))
    assert (one["accuracy_difference_low"], one["accuracy_difference_high"]) == (-1, 1)


def test_other_photos_are_refused_by_name():
    a, b = two_models(30)
    other_photos = b.replace({"path": {"0000.jpg": "new.jpg"}}).drop(index=5)
    alone = r"2 are in a alone, such as 0000.jpg; 1 are in b alone, such as new.jpg\. Let"
    unread = b.assign(predicted=b["predicted"].where(b.index != 7))
    for one, other, message in (
        (a, other_photos, alone),
        (a, unread, r"1 are in a alone, such as 0007.jpg\. Let both"),
        (a, b.drop(columns="vehicle"), "30 photos have another vehicle in b than in a, such as 0000.jpg: v0 and 0000"),
        (a, b.assign(brand="Lada"), "30 photos have another brand in b"),
        (pd.concat([a, a.iloc[[3]]]), b, r"a names 0003.jpg twice; keep one row per photo"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(one, other)


def test_seen_and_unseen_models_side_by_side():
    rows = [
        ("Audi", "C Class", "train"),
        ("BMW", "X5", "train"),
        ("BMW", "i8", "valid"),
        ("Audi", "c-class", "test"),  # another spelling
        ("BMW", "C Class", "test"),  # of another brand
        ("BMW", "i8", "test"),  # valid teaches nothing
        ("BMW", None, "test"),
    ]
    manifest = pd.DataFrame(rows, columns=["brand", "model", "split"])
    test = manifest[manifest["split"] == "test"].reset_index()
    predictions = predictions_of(test["brand"], ["Audi", "Audi", "BMW", "BMW"], model=test["model"])
    found = by_seen_model(predictions, manifest)
    assert list(found.index) == ["seen model", "unseen model", "no model in the name"]
    assert found["photos"].tolist() == found["vehicles"].tolist() == [1, 2, 1]
    assert found["accuracy"].tolist() == found["macro_recall"].tolist() == [1, 0.5, 1]
    assert found.loc["seen model", ["accuracy_low", "accuracy_high"]].tolist() == [0, 1]  # one vehicle
    only_train = manifest[manifest["split"] == "train"].drop(columns="split")
    pd.testing.assert_frame_equal(by_seen_model(predictions, only_train), found)
    none_named = by_seen_model(predictions.assign(model=np.nan), manifest)
    assert none_named["photos"].tolist() == [0, 0, 4]
    assert none_named["accuracy"].isna().tolist() == [True, True, False]
    with pytest.raises(ValueError, match="predictions without the columns brand and model"):
        by_seen_model(predictions.drop(columns="model"), manifest)
    with pytest.raises(ValueError, match="manifest without the columns brand and model"):
        by_seen_model(predictions, manifest[["brand"]])
