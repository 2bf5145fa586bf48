"""What the experiments compute themselves; and every script of experiments/ and benchmarks/ starts."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

import carclf
from carclf.model.classifier import WEIGHTS, Scores
from carclf.train import run as runs

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
sys.path.append(str(Path(__file__).parent.parent / "experiments"))
import common
import ship
import training_windows
from detection_scores import average_precision, best_scores, measure
from grad_cam import inside_share
from ood import METHODS, ood_metrics, ood_score

ROOT = Path(__file__).parent.parent
SHARED = ("common", "timing", "training_windows", "detection_scores")
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("experiments/*.py")])
SCRIPTS = [path for path in SCRIPTS if path.stem not in SHARED]  # shared by the scripts of a folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_script_starts_and_its_help_names_its_command(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert f"python {script.parent.name}/{script.name}" in capsys.readouterr().out


# The model that ships


@pytest.fixture(scope="module")
def manifest(photo_folder):
    """As `shipped_split` makes it: Volvos are the photos of two other collections, of which one tests."""
    manifest = carclf.split(carclf.scan(photo_folder), seed=1)
    away = manifest.brand == "Volvo"
    collection = np.where(manifest.split == "test", "08", "05")
    return manifest.assign(collection=pd.Series(collection, manifest.index, dtype=object).where(away, None))


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    cache = carclf.TensorCache.build(manifest, tmp_path_factory.mktemp("cache"), size=40)
    recipe = carclf.Recipe(stages=(("all", 2, 1e-3, 32),), micro_batch=8, device="cpu")
    run = carclf.fit(recipe, manifest, cache, tmp_path_factory.mktemp("runs") / "first")
    shifted = carclf.Classifier.load(run.folder / "model")  # so that the best epoch surely is not the last
    state = shifted.model.state_dict()
    shifted.model.load_state_dict({k: w * 1.01 if w.is_floating_point() else w for k, w in state.items()})
    shifted.save(run.folder / "model")
    return run


def test_ship_trains_the_recipe_in_the_shipped_card():
    card = json.loads((ROOT / "models" / "cars-lite0" / "card.json").read_text("utf-8"))
    with pytest.warns(DeprecationWarning):  # version 0.1 wrote it
        assert carclf.Recipe(**card["training"]["recipe"]) == ship.RECIPE
    assert card["about"].items() >= ship.ABOUT.items()


def test_the_shipped_weights_lie_halfway_between_the_best_epoch_and_the_last(run):
    best, last = load_file(run.folder / "model" / WEIGHTS), load_file(run.folder / runs.FILE)
    for _ in range(2):  # twice gives the same: the run stays as it was
        classifier = ship.average_best_and_last(run)
        for name, weights in classifier.model.state_dict().items():
            middle = (best[name] + last[f"model.{name}"]) / 2 if weights.is_floating_point() else best[name]
            assert torch.equal(weights, middle), name
    assert classifier.card.training["weights"] == ship.AVERAGED
    assert "valid_accuracy" not in classifier.card.training["best_epoch"]


@pytest.mark.filterwarnings("ignore:Nothing is promised", "ignore:the best temperature", "ignore:all .* are right")
@pytest.mark.filterwarnings("ignore:the model does not know Lada")
def test_what_is_published_claims_what_valid_shows_and_is_evaluated_on_test(run, manifest, tmp_path):
    classifier = ship.publish(run, manifest, tmp_path / "model")
    again, card = carclf.Classifier.load(tmp_path / "model"), classifier.card
    assert again.card == card and again.ood == classifier.ood
    assert card.about["good for"] == ship.ABOUT["good for"]
    n = (manifest.split == "train").sum(), ((manifest.split == "train") & manifest.collection.isna()).sum()
    assert card.about["learned from"].startswith(f"{n[0]} photos: {n[1]} of")
    assert card.promise["accuracy"] == (ship.PROMISE if card.promise["kept"] else ship.PROVEN)
    assert card.threshold == card.promise["threshold"] and card.ood["known"] >= ship.KNOWN
    assert load_file(tmp_path / "model" / WEIGHTS)["classifier.weight"].dtype == torch.float16
    assert len(again.valid.labels) == (manifest.split == "valid").sum()
    table = ship.results(classifier, manifest.replace({"brand": {"BMW": "Lada"}}), tmp_path)
    assert table.columns.tolist() == ["in-domain", "new collections", "unknown brands"]
    assert table.loc["n", "new collections"] == ((manifest.split == "test") & (manifest.brand == "Volvo")).sum()
    assert table.loc["n", "unknown brands"] == (manifest.brand == "BMW").sum()
    assert table.loc[["accepted", "unsure", "unknown"]].sum().to_numpy() == pytest.approx(1)
    for name in ("in-domain", "new collections"):  # docs/pictures.py reads these
        assert json.loads((tmp_path / name / "metrics.json").read_text("utf-8"))["threshold"] == card.threshold
        assert (tmp_path / name / "predictions.csv").exists()


def test_the_shipped_split_keeps_collections_and_vehicles_together(photo_folder, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for collection in ("01", "05", "08"):
        for i in range(4):
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            photo = Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC)
            photo.save(tmp_path / f"{('Audi', 'Lada')[i == 3]} some words_{collection}{i:04}.png")
    (tmp_path / "Audi some words_080009.png").write_bytes((tmp_path / "Audi some words_010000.png").read_bytes())
    monkeypatch.setattr(common, "ENOUGH", 2)
    manifest = common.shipped_split(str(photo_folder), str(tmp_path))
    away = manifest[manifest.collection.notna()]
    away = away.set_index(away.path.map(lambda path: Path(path).stem[-6:]))
    audi = away[away.brand == "Audi"].split
    assert audi[["010001", "050001", "080001"]].tolist() == ["train", "valid", "test"]
    assert audi["010000"] == audi["080009"] == "test"  # copies of one picture
    assert away.split[away.brand == "Lada"].isna().all()  # one vehicle in train is too few
    assert set(manifest.split[manifest.collection.isna()]) == {"train", "valid", "test"}
    (tmp_path / "Audi.png").write_bytes((tmp_path / "Audi some words_010001.png").read_bytes())
    with pytest.raises(ValueError, match=r"Audi.png names no collection; call it <Brand> <words>_"):
        common.shipped_split(str(photo_folder), str(tmp_path))


# Arms


def predictions(seed, right):
    """Two photos of each question; the answer to the first is correct or not."""
    rows = [(q, f"{q} {i}", "Audi", "Audi" if i or right else "BMW") for q in common.QUESTIONS for i in (0, 1)]
    table = pd.DataFrame(rows, columns=["question", "vehicle", "brand", "predicted"])
    return table.assign(
        path=f"{seed} " + table.vehicle,
        confidence=0.9,
        top5=[[name] for name in table.predicted],
        problem=None,
        seed=seed,
        minutes=1.0 + seed,
    )


def test_an_arm_of_two_seeds_is_compared_seed_by_seed():
    base = pd.concat([predictions(0, right=False), predictions(1, right=False)])
    arm = pd.concat([predictions(0, right=True), predictions(1, right=False)])
    row = common.compare_arm(base, arm)
    assert row["minutes"] == 1.5
    for question in common.QUESTIONS:
        assert row[question] == 0.75
        assert row[f"{question}, difference"] == 0.25
    assert common.compare_arm(base, base)["known models, difference"] == 0


# Out-of-distribution scores


def three_brands(n, seed, centres=((6, 0, 0, 0), (0, 6, 0, 0), (0, 0, 6, 0)), brands=("Audi", "BMW", "Ford")):
    """Scores of a network that knows three brands, for features around some centres; n photos of each."""
    rng = np.random.default_rng(seed)
    features = np.concatenate([rng.normal(centre, (1, 1, 1, 0.3), (n, 4)) for centre in centres])
    table = pd.DataFrame({"brand": np.repeat(brands, n), "loss": 0.1})
    return Scores(table, (features[:, :3] - 1).astype(np.float32), features.astype(np.float32))


TRAIN, VALID = three_brands(60, 0), three_brands(40, 1)


@pytest.mark.parametrize("method", METHODS)
def test_learned_brands_score_higher_and_unreadable_photos_not_at_all(method):
    known, strange = three_brands(100, 2), three_brands(100, 3, centres=[(1, 1, 1, 2)], brands=["Kia"])
    inside, outside = (ood_score(method, TRAIN, scores) for scores in (known, strange))
    assert ood_metrics(inside, outside, n_boot=20)["auroc"] > 0.95
    known.logits[3], known.features[3] = np.nan, np.nan
    score = ood_score(method, TRAIN, known)
    assert np.flatnonzero(np.isnan(score)).tolist() == [3]
    np.testing.assert_array_equal(np.delete(score, 3), np.delete(inside, 3))


def test_scores_equal_their_formulas():
    unit = [s.features / np.linalg.norm(s.features, axis=1, keepdims=True) for s in (TRAIN, VALID)]
    means = np.stack([unit[0][TRAIN.table.brand == b].mean(0) for b in ("Audi", "BMW", "Ford")])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    apart = np.linalg.norm(unit[1][:, None] - unit[0][None], axis=2)
    exp = np.exp(VALID.logits.astype(float))
    for method, expected in (
        ("max_softmax", (exp / exp.sum(1, keepdims=True)).max(1)),
        ("energy", np.log(exp.sum(1))),
        ("class_mean", (unit[1] @ means.T).max(1)),
        ("neighbours", -np.sort(apart, 1)[:, 9]),
    ):
        np.testing.assert_allclose(ood_score(method, TRAIN, VALID), expected, atol=1e-5)


def test_ood_metrics_equal_sklearns_and_a_count_by_hand():
    known, unknown = np.arange(100.0), np.append(np.arange(-50.0, 0), [4.5, 5.0, 7.0, np.nan])
    found = ood_metrics(known, unknown, n_boot=200)
    assert (found["known"], found["unknown"]) == (100, 53)
    truth, scores = [1] * 100 + [0] * 53, np.append(known, unknown[:-1])
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert found["fpr95"] == pytest.approx(2 / 53)  # 95 of the known are at 5 or above, and two of the unknown
    for name in ("auroc", "fpr95"):
        assert 0 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] <= 1
    assert ood_metrics(known, unknown, n_boot=200) == found
    assert ood_metrics(known, -known - 1, n_boot=5)["auroc"] == 1
    assert ood_metrics(known, known, n_boot=5)["auroc"] == 0.5
    with pytest.raises(ValueError, match="no unknown photo has a score"):
        ood_metrics([1.0, 2.0], [np.nan])


def test_photos_of_a_group_are_drawn_together():
    """Ten equal photos of each vehicle say no more than one: the interval is that of the vehicles."""
    rng = np.random.default_rng(0)
    one = rng.normal(1, 1, 30), rng.normal(0, 1, 30)
    ten, vehicles = [np.repeat(side, 10) for side in one], np.repeat(np.arange(30), 10)
    found = [ood_metrics(*one, n_boot=300), ood_metrics(*ten, vehicles, vehicles, n_boot=300)]
    found.append(ood_metrics(*ten, n_boot=300))
    alone, together, as_if_apart = (row["auroc_high"] - row["auroc_low"] for row in found)
    assert together == pytest.approx(alone, rel=0.2)
    assert as_if_apart < 0.5 * alone


# Share of a Grad-CAM map inside a box


def test_the_share_inside_a_box_equals_a_count_of_pixels():
    maps = np.random.default_rng(0).random((3, 20, 40))
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 1], [0.1, 0.1, 0.2, 0.2]])
    expected = [maps[0].sum(), maps[1, 10:, 10:30].sum(), maps[2, 2:4, 4:8].sum()] / maps.sum((1, 2))
    np.testing.assert_allclose(inside_share(maps, boxes), expected)
    left, right = (inside_share(maps, box) for box in ([0, 0, 0.3, 1], [0.3, 0, 1, 1]))
    np.testing.assert_allclose(left + right, 1)


def test_pixels_on_the_edge_of_a_box_count_in_part():
    """The share of a map of ones is the area of the box, wherever its edges fall."""
    rng = np.random.default_rng(1)
    low, high = rng.uniform(0, 0.45, (50, 2)), rng.uniform(0.55, 1, (50, 2))
    share = inside_share(np.ones((50, 7, 9)), np.hstack([low, high]))
    np.testing.assert_allclose(share, (high - low).prod(1))


def test_a_map_of_zeros_has_no_share():
    maps = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    np.testing.assert_array_equal(inside_share(maps, [0, 0, 0.5, 1]), [np.nan, 0.5])


@pytest.mark.parametrize("box", [[0, 0, 320, 240], [0.5, 0, 0.5, 1], [0, 0.9, 1, 0.1], [-0.1, 0, 1, 1]])
def test_an_invalid_box_is_refused(box):
    with pytest.raises(ValueError, match=r"must be left, top, right, bottom as shares .* divide pixels by width"):
        inside_share(np.ones((1, 8, 8)), box)


# The detector


def test_boxes_move_with_the_pixels_of_a_training_window():
    """A red box in a grey photo is red where the window says so, however the photo was scaled, cut and mirrored."""
    pixels = np.full((180, 240, 3), 127, np.uint8)
    pixels[60:140, 40:100] = (255, 0, 0)
    photo = training_windows.Photo(pixels, np.array([[40, 60, 100, 140]], np.float32), np.zeros(1, int))
    seen = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        canvas = Image.new("RGB", (200, 200), (127, 127, 127))
        cover = (None, (0.8, 1.8), (1.0, 1.15))[seed % 3]
        boxes, labels = training_windows.place(canvas, photo, (20, 10, 180, 190), cover, rng)
        assert len(boxes) == len(labels) <= 1
        red = np.asarray(canvas)[..., 0].astype(int) - np.asarray(canvas)[..., 1] > 128
        if len(boxes):
            seen += 1
            y, x = np.nonzero(red)
            np.testing.assert_allclose(boxes[0], [x.min(), y.min(), x.max() + 1, y.max() + 1], atol=1.5)
        else:  # cut off, or too small to be asked for
            assert red.sum() < 0.4 * 60 * 80 * 4
    assert seen > 30


def test_average_precision_of_an_example_worked_out_by_hand():
    """Scores .9 hit, .8 miss, .7 hit, of three cars: precision 1 up to a recall of 1/3, then 2/3 up to 2/3."""
    boxes = np.array([[0, 0, 100, 80], [200, 0, 300, 80], [400, 0, 500, 80], [0, 200, 20, 210], [200, 200, 300, 280]])
    labels = np.array([0, 0, 0, 0, 1])  # the fourth is too small to count, the fifth a bus
    photo = training_windows.Photo(np.zeros((300, 512, 3), np.uint8), boxes.astype(np.float32), labels)
    found = [[0, 0, 100, 80, 0.9], [100, 100, 180, 190, 0.8], [200, 0, 290, 80, 0.7]]
    beside = [[0, 200, 20, 210, 0.95], [200, 200, 300, 280, 0.85]]  # on the small car and on the bus: count for nothing
    columns = ["x0", "y0", "x1", "y1", "score"]
    table = pd.DataFrame([*found, *beside], columns=columns).sort_values("score", ascending=False)
    expected = (34 * 1 + 33 * 2 / 3) / 101  # COCO's 101 recalls 0, .01, …: 34 up to 1/3, 33 up to 2/3, the rest 0
    assert average_precision([photo], [table], 48) == pytest.approx(expected, abs=1e-6)
    assert best_scores(photo, table, 48).tolist() == [0.9, 0.7, 0.0]
    assert average_precision([photo], [table[:0]], 48) == 0


def test_boxes_in_photos_without_vehicles_are_kept_with_their_scores():
    class Stub:
        def find(self, photos, threshold):
            return [pd.DataFrame([[0, 0, 90, 90, 0.4]], columns=["x0", "y0", "x1", "y1", "score"]) for _ in photos]

    pixels, none = np.zeros((100, 100, 3), np.uint8), np.zeros((0, 4), np.float32)
    empty = training_windows.Photo(pixels, none, np.zeros(0, int))
    car = training_windows.Photo(pixels, np.array([[0, 0, 90, 80]], np.float32), np.zeros(1, int))
    result = measure(Stub(), [empty, car, empty])
    assert result["photos without vehicles"] == 2 and result["false scores"] == [0.4, 0.4]
    assert result["found 96 px"][0.4] == 1 and result["found 96 px"][0.45] == 0


def test_an_interrupted_training_of_the_detector_ends_with_the_same_weights(tmp_path, monkeypatch):
    import detector

    monkeypatch.setattr(detector, "CHECKPOINT", 2)
    monkeypatch.setattr(detector, "SIZES", ((1.0, 64),))
    monkeypatch.setattr(detector, "BATCH", 2)
    monkeypatch.setattr(training_windows, "BATCH", 2)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)
    photo = training_windows.Photo(pixels, np.array([[20, 20, 90, 70]], np.float32), np.zeros(1, int))
    photos, real, calls = {"boxes": [photo]}, detector.batch, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    detector.train(tmp_path / "whole", photos, 5, 0)
    monkeypatch.setattr(detector, "batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        detector.train(tmp_path / "parts", photos, 5, 0)
    calls[:] = [None] * 4
    detector.train(tmp_path / "parts", photos, 5, 0)
    assert len(calls) == 7  # steps 3, 4 and 5: the first two are not done again
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
