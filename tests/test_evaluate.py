"""What a model may claim is chosen on valid, stored with it, and checked on test."""

import json
import re
import warnings
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import carclf
from carclf.metrics.thresholds import decisions
from carclf.metrics.words import promise_text
from carclf.model.classifier import OOD
from carclf.report.evaluate import calibrate_on_valid

pytestmark = pytest.mark.filterwarnings("ignore:Nothing is promised")  # there are only a few vehicles


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
    classifier, (folder, (scores, metrics)) = calibrated[1].classifier, evaluated
    assert classifier.card.promise["kept"] is False and classifier.card.accept_from == np.inf  # so few vehicles
    assert not scores.table.accepted.any() and not evaluated[1].valid.table.accepted.any()
    assert (metrics["accepted_share"], metrics["accepted_photos"], metrics["accepted_accuracy"]) == (0, 0, None)
    said = promise_text(classifier.card.promise)
    assert said.startswith("Nothing is promised: ") and metrics["promise"] == said
    page = " ".join((folder / "report.html").read_text("utf-8").split())
    assert " ".join(said.split()) in page
    assert not any(
        claim in page for claim in ("% is proven", "proven on valid", "accepted answers are right", "at least 95")
    )


def test_what_is_promised_is_claimed_with_its_words(calibrated, tmp_path):
    manifest, done, *_ = calibrated
    kept = done.classifier.card.promise | {
        "kept": True,
        "accuracy": 0.1,
        "bound": 0.2,
        "threshold": 0.3,
        "scope": "at sea",
    }
    copy = carclf.Classifier.load(done.folder / "model", "cpu")
    copy.accept_above(0.3, None, kept)
    scores, metrics = carclf.evaluate(copy, manifest[manifest.split == "test"], tmp_path)
    assert metrics["accepted_photos"] == scores.table.accepted.sum() > 0
    assert "answers are right, at sea (proven on valid" in metrics["promise"]
    assert " ".join(metrics["promise"].split()) in " ".join((tmp_path / "report.html").read_text("utf-8").split())


def test_photos_that_were_learned_from_are_not_evaluated_silently(calibrated, tmp_path):
    manifest, done, *_ = calibrated
    with pytest.warns(UserWarning, match="21 of 29 photos were used to train or select the model"):
        carclf.evaluate(done.classifier, manifest[manifest.split != "valid"], tmp_path, manifest)


def test_a_smaller_test_needs_to_be_asked_for(calibrated, tmp_path):
    manifest, done, *_ = calibrated
    test = manifest[manifest.split == "test"].reset_index(drop=True)
    moved = test.assign(path=[str(tmp_path / "gone" / "Audi_A4.jpg"), *test.path[1:]])
    with pytest.raises(
        FileNotFoundError, match=r"^1 of \d+ photos are missing, such as .*Audi_A4.jpg.*skip_missing=True"
    ):
        carclf.evaluate(done.classifier, moved, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    metrics = carclf.evaluate(done.classifier, moved, tmp_path / "out", skip_missing=True).metrics
    assert (metrics["missing"], metrics["unreadable"], metrics["n"]) == (1, 0, len(test) - 1)
    with pytest.raises(ValueError, match=r"none was read, such as .*; give the folder where the photos are now"):
        carclf.evaluate(done.classifier, moved[:1], tmp_path / "out", skip_missing=True)
    away = manifest.copy()
    away.loc[away.split == "valid", "path"] += ".gone"
    with pytest.warns(UserWarning, match=r"11 of 11 photos of valid are missing, such as .*without them"):
        assert carclf.evaluate(done.classifier, test, tmp_path / "out", away).valid is None


def test_brands_that_the_model_lacks_are_named_with_their_photos(calibrated, tmp_path):
    manifest, done, *_ = calibrated
    test = manifest[manifest.split == "test"].reset_index(drop=True)
    brands = ["Zeekr", "Zeekr", "Tank", *test.brand[3:]]
    with pytest.warns(
        UserWarning, match=r"does not know Zeekr \(2 photos\), Tank \(1 photo\); these photos are left out"
    ):
        metrics = carclf.evaluate(done.classifier, test.assign(brand=brands), tmp_path).metrics
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8"))["unknown_brands"] == {"Zeekr": 2, "Tank": 1}
    assert metrics["unknown_brand"] == 3


BRANDS = ("Alfa Romeo", "Audi", "BMW", "Volvo")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "valid empty",
            "valid has no photo of a brand .* Valid needs at least 45 cars.*stays 1.*: valid has no photos",
        ),
        (
            "valid gone",
            r"valid has no photo.*no photo of valid can be read, such as .*\(unreadable: there is no such file",
        ),
        ("valid unknown", "valid has no readable photo of a brand that the model knows"),
        ("two brands, three photos", "on 1 car of valid"),
        ("one brand", "Nothing is promised"),
        ("all wrong", "right on 0 % of"),
        ("train too small", "No photo can be called unknown: 1 photos of 1 brands .* give at least 3 photos of train"),
    ],
)
def test_what_valid_is_too_small_for_stays_neutral_and_is_told_once(calibrated, tmp_path, change, told):
    manifest, done, _, after = calibrated
    few = manifest[manifest.split != "test"].copy()
    valid = few.split == "valid"
    if change == "valid empty":
        few = few[~valid]
    elif change == "valid gone":
        few.loc[valid, "path"] += ".gone"
    elif change == "valid unknown":
        few.loc[valid, "brand"] = "Lada"
    elif change == "two brands, three photos":
        few = pd.concat([few[valid][:1], few[~valid & few.brand.isin(BRANDS[:2])].groupby("brand").head(2)])
    elif change == "one brand":
        few = few[few.brand == "Audi"]
    elif change == "all wrong":
        said = after.table.set_index("path").predicted
        wrong = [next(brand for brand in BRANDS if brand != said[path]) for path in few.path[valid]]
        few.loc[valid, "brand"] = wrong
    elif change == "train too small":
        few = few[valid | (few.index == few.index[~valid][0])]
    copy = carclf.Classifier.load(done.folder / "model", "cpu")
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        before, _ = calibrate_on_valid(copy, few, tmp_path)
    assert len(raised) == 1
    text = str(raised[0].message).replace("\xa0", " ")
    assert re.search(told, text) and text.startswith("Nothing is promised") and text.endswith("."), text
    card = copy.card
    assert not card.promise["kept"] and card.accept_from == np.inf
    assert json.loads((tmp_path / "card.json").read_text("utf-8"))["promise"] == card.promise
    if change.startswith("valid"):
        assert (card.temperature, card.threshold, card.ood, copy.ood) == (1, 0, None, None)
    if change == "train too small":
        assert card.ood is None and card.temperature != 1 and not (tmp_path / OOD).exists()
    assert not copy.rescore(after).table.accepted.any()
    assert len(before.table) == (few.split == "valid").sum()
