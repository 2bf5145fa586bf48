"""What a model may claim is chosen on valid, stored with it, and checked on test."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import carclf
from carclf.metrics.thresholds import decisions
from carclf.model.classifier import OOD
from carclf.report.evaluate import calibrate_on_valid

pytestmark = pytest.mark.filterwarnings("ignore:no threshold can promise")  # there are only a few vehicles


@pytest.fixture(scope="module")
def run(photo_folder, tmp_path_factory):
    """A manifest with splits, and a short training on it."""
    place = tmp_path_factory.mktemp("evaluate")
    manifest = carclf.split(carclf.scan(photo_folder), (0.4, 0.3, 0.3), seed=1)
    # A wrong name in valid: whatever the processor's rounding makes of the network, there is a mistake to calibrate on.
    wrong = manifest.index[manifest.split == "valid"][0]
    manifest.loc[wrong, "brand"] = next(
        brand for brand in sorted(set(manifest.brand)) if brand != manifest.brand[wrong]
    )
    cache = carclf.TensorCache.build(manifest, place / "cache", size=72)
    recipe = carclf.Recipe(stages=(("all", 8, 3e-3, 64),), micro_batch=8, device="cpu")
    return manifest, carclf.fit(recipe, manifest, cache, place / "run")


@pytest.fixture(scope="module")
def calibrated(run):
    """The manifest, the run, and the Scores of valid before and after its calibration."""
    manifest, done = run
    return manifest, done, *calibrate_on_valid(done.classifier, manifest, done.folder / "model")


@pytest.fixture(scope="module")
def evaluated(calibrated, tmp_path_factory):
    """The folder of an evaluation, and what it returned."""
    manifest, done, *_ = calibrated
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    return folder, carclf.evaluate(done.classifier, manifest[manifest.split == "test"], folder, manifest)


@pytest.fixture
def scored_paths(monkeypatch):
    """A list of the paths that any classifier scores, in order."""
    seen, score = [], carclf.Classifier.score

    def scoring(self, sources, *rest, **cars):
        seen.extend(sources.path)
        return score(self, sources, *rest, **cars)

    monkeypatch.setattr(carclf.Classifier, "score", scoring)
    return seen


def test_what_is_chosen_on_valid_is_stored_with_the_model(calibrated):
    _, done, before, after = calibrated
    again = carclf.Classifier.load(done.folder / "model", "cpu")
    assert again.card == done.classifier.card
    assert again.card.temperature != 1
    assert again.card.threshold > 0
    assert again.card.ood["method"] == "mahalanobis"
    assert (done.folder / "model" / OOD).is_file()
    assert np.array_equal(before.logits, after.logits)
    assert before.table.predicted.equals(after.table.predicted)
    assert not before.table.confidence.equals(after.table.confidence)
    same = again.predict(before.table[["path", "brand", "vehicle", "split"]])
    np.testing.assert_allclose(same.confidence, after.table.confidence, atol=1e-4)
    assert same.decision.tolist() == after.table.decision.tolist()


def test_nothing_is_chosen_by_a_test_photo(run, scored_paths):
    manifest, done = run
    calibrate_on_valid(carclf.Classifier.load(done.folder / "model", "cpu"), manifest)
    assert sorted(scored_paths) == sorted(manifest.path[manifest.split != "test"])


def test_a_temperature_changes_confidence_and_no_answer(calibrated):
    _, done, _, after = calibrated
    classifier = done.classifier
    plain = classifier.untempered(after).table
    assert plain.predicted.equals(after.table.predicted)
    p = np.exp(after.logits - after.logits.max(1, keepdims=True))
    np.testing.assert_allclose(plain.confidence, (p / p.sum(1, keepdims=True)).max(1), atol=1e-5)
    with pytest.raises(ValueError, match=r"temperature 0 must be positive; .*fit_temperature"):
        classifier.calibrate(0)


def test_the_loss_is_that_of_the_true_brand(calibrated):
    _, done, _, after = calibrated
    probabilities = pd.DataFrame(done.classifier.softmax(after.logits), columns=done.classifier.classes)
    expected = [-np.log(probabilities.loc[i, brand]) for i, brand in enumerate(after.table.brand)]
    np.testing.assert_allclose(after.table.loss, expected, atol=1e-5)


def test_noise_is_unknown_whatever_its_confidence(calibrated, tmp_path):
    rng = np.random.default_rng(0)
    for n in range(5):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(tmp_path / f"noise{n}.png")
    table = calibrated[1].classifier.predict(tmp_path)
    assert (table.decision == "unknown").all()
    assert not table.accepted.any()
    counts = decisions(table)
    assert counts.photos.to_dict() == {"accepted": 0, "unsure": 0, "unknown": 5}
    assert counts.right.isna().all()


def test_a_model_without_ood_detector_calls_nothing_unknown(calibrated, tmp_path):
    _, done, _, after = calibrated
    plain = carclf.Classifier(done.classifier.model, replace(done.classifier.card, ood=None), "cpu")
    plain.save(tmp_path)
    assert not (tmp_path / OOD).exists()
    assert "unknown" not in set(carclf.Classifier.load(tmp_path, "cpu").rescore(after).table.decision)


def test_a_model_folder_without_its_ood_file_is_refused(calibrated, tmp_path):
    calibrated[1].classifier.save(tmp_path)
    (tmp_path / OOD).unlink()
    with pytest.raises(FileNotFoundError, match=r"ood\.safetensors is missing; copy all three files of one model"):
        carclf.Classifier.load(tmp_path, "cpu")


@pytest.mark.parametrize("brand", ["Kia", None])
def test_photos_of_brands_that_the_model_does_not_know_choose_nothing(calibrated, brand):
    manifest, done, *_ = calibrated
    unknown, without = manifest.copy(), manifest.copy()
    rows = manifest.index[manifest.split == "valid"][-3:]
    unknown.loc[rows, "brand"] = brand
    without.loc[rows, "brand"] = "Lada"
    copies = [carclf.Classifier.load(done.folder / "model", "cpu") for _ in range(2)]
    for copy, table in zip(copies, (unknown, without), strict=True):
        calibrate_on_valid(copy, table)
    assert copies[0].card.threshold == copies[1].card.threshold


def test_evaluate_writes_one_folder(evaluated):
    folder, evaluation = evaluated
    scores, metrics = evaluation  # as in version 0.1
    assert {path.name for path in folder.iterdir()} == {
        *("metrics.json", "predictions.csv", "probabilities.npy"),
        *("report.html", "pictures", "to_check.csv", "brands.csv", "confused_pairs.csv"),
    }
    assert json.loads((folder / "metrics.json").read_text("utf-8")) == metrics
    probabilities = np.load(folder / "probabilities.npy", allow_pickle=False)
    np.testing.assert_allclose(probabilities.max(1), scores.table.confidence, atol=1e-6)
    assert pd.read_csv(folder / "predictions.csv").decision.tolist() == scores.table.decision.tolist()
    page = (folder / "report.html").read_text("utf-8")
    for title in ("Accepted, unsure, unknown", "Seen and unseen models", "Brand by brand"):
        assert title in page


def test_evaluate_scores_test_and_valid_once_and_returns_both(calibrated, scored_paths, tmp_path):
    manifest, done, *_ = calibrated
    test, valid = (manifest[manifest.split == name] for name in ("test", "valid"))
    found = carclf.evaluate(done.classifier, test, tmp_path / "with", manifest)
    assert scored_paths == [*test.path, *valid.path]
    assert found.scores.table.path.tolist() == test.path.tolist()
    assert found.valid.table.path.tolist() == valid.path.tolist()
    assert len(found.valid.logits) == len(valid)
    with pytest.raises(FrozenInstanceError):
        found.metrics = {}
    assert carclf.evaluate(done.classifier, test, tmp_path / "without").valid is None


def test_brands_that_somebody_has_filled_in_are_kept(calibrated, tmp_path):
    manifest, done, *_ = calibrated
    test = manifest[manifest.split == "test"]
    carclf.evaluate(done.classifier, test, tmp_path)
    table = pd.read_csv(tmp_path / "to_check.csv", dtype=str, keep_default_na=False)
    table.loc[0, "correct_brand"] = "Audi"
    table.to_csv(tmp_path / "to_check.csv", index=False)
    carclf.evaluate(done.classifier, test, tmp_path)
    assert pd.read_csv(tmp_path / "to_check.csv", dtype=str).correct_brand[0] == "Audi"


def test_a_promise_that_could_not_be_made_is_not_claimed(calibrated, evaluated):
    assert calibrated[1].classifier.card.promise["kept"] is False  # so few vehicles
    page = " ".join((evaluated[0] / "report.html").read_text("utf-8").split())
    assert "nothing: valid is too small or the model too weak for 95.0%; this threshold comes closest" in page
    assert "is proven" not in page


def test_photos_that_were_learned_from_are_not_evaluated_silently(calibrated, tmp_path):
    manifest, done, *_ = calibrated
    with pytest.warns(UserWarning, match="21 of 29 photos were used to train or select the model"):
        carclf.evaluate(done.classifier, manifest[manifest.split != "valid"], tmp_path, manifest)
