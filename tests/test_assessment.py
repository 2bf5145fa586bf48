"""What a model may claim is chosen on valid, stored with it, and shown on test."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import carclf
from carclf.classifier import NOVELTY


@pytest.fixture(scope="module")
def run(photo_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("assessment")
    manifest = carclf.split(carclf.scan(photo_folder), (0.4, 0.3, 0.3), seed=1)
    cache = carclf.TensorCache.build(manifest, place / "cache", size=72)
    recipe = carclf.Recipe(stages=(("all", 4, 2e-3, 64),), micro_batch=8, device="cpu")
    return manifest, carclf.fit(recipe, manifest, cache, place / "run")


@pytest.fixture(scope="module")
def settled(run):
    manifest, done = run
    with warnings.catch_warnings():  # so few vehicles promise nothing
        warnings.simplefilter("ignore", UserWarning)
        before, after = carclf.settle(done.classifier, manifest, done.folder / "model")
    return manifest, done, before, after


def test_what_is_chosen_on_valid_is_stored_with_the_model(settled):
    _, done, before, after = settled
    again = carclf.Classifier.load(done.folder / "model", "cpu")
    assert again.card == done.classifier.card
    assert again.card.temperature != 1
    assert again.card.threshold > 0
    assert again.card.novelty["method"] == "mahalanobis"
    assert (done.folder / "model" / NOVELTY).is_file()
    assert np.array_equal(before.logits, after.logits)
    assert before.table.predicted.equals(after.table.predicted)
    assert not before.table.confidence.equals(after.table.confidence)
    same = again.predict(before.table[["path", "brand", "vehicle", "split"]])
    np.testing.assert_allclose(same.confidence, after.table.confidence, atol=1e-4)
    assert same.decision.tolist() == after.table.decision.tolist()


def test_nothing_is_chosen_by_a_test_photo(run, monkeypatch):
    manifest, done = run
    seen, score = [], carclf.Classifier.score

    def scoring(self, sources, *rest):
        seen.extend(sources.split)
        return score(self, sources, *rest)

    monkeypatch.setattr(carclf.Classifier, "score", scoring)
    copy = carclf.Classifier.load(done.folder / "model", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        carclf.settle(copy, manifest)
    assert set(seen) == {"train", "valid"}


def test_a_temperature_changes_confidence_and_no_answer(settled):
    _, done, _, after = settled
    classifier = done.classifier
    plain = classifier.untempered(after).table
    assert plain.predicted.equals(after.table.predicted)
    p = np.exp(after.logits - after.logits.max(1, keepdims=True))
    np.testing.assert_allclose(plain.confidence, (p / p.sum(1, keepdims=True)).max(1), atol=1e-5)
    with pytest.raises(ValueError, match=r"temperature 0 must be positive; carclf\.fit_temperature gives one"):
        classifier.calibrate(0)


def test_the_loss_is_that_of_the_true_brand(settled):
    _, done, _, after = settled
    probabilities = pd.DataFrame(done.classifier.softmax(after.logits), columns=done.classifier.classes)
    expected = [-np.log(probabilities.loc[i, brand]) for i, brand in enumerate(after.table.brand)]
    np.testing.assert_allclose(after.table.loss, expected, atol=1e-5)


def test_noise_is_unknown_whatever_its_confidence(settled, tmp_path):
    _, done, *_ = settled
    rng = np.random.default_rng(0)
    for n in range(5):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(tmp_path / f"noise{n}.png")
    table = done.classifier.predict(tmp_path)
    assert (table.decision == "unknown").all()
    assert not table.accepted.any()
    counts = carclf.decisions(table)
    assert counts.photos.to_dict() == {"accepted": 0, "unsure": 0, "unknown": 5}
    assert counts.right.isna().all()


def test_evaluate_writes_one_folder(settled, tmp_path):
    manifest, done, *_ = settled
    test = manifest[manifest.split == "test"]
    scores, results = carclf.evaluate(done.classifier, test, tmp_path / "out", manifest)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("metrics.json", "predictions.csv", "probabilities.npy"),
        *("report.html", "pictures", "to_check.csv", "brands.csv", "confused_pairs.csv"),
    }
    assert json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8")) == results
    probabilities = np.load(tmp_path / "out" / "probabilities.npy", allow_pickle=False)
    np.testing.assert_allclose(probabilities.max(1), scores.table.confidence, atol=1e-6)
    assert pd.read_csv(tmp_path / "out" / "predictions.csv").decision.tolist() == scores.table.decision.tolist()
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for title in ("Accepted, unsure, unknown", "Known and unseen models", "Brand by brand"):
        assert title in page


def test_a_model_without_novelty_calls_nothing_unknown(settled, tmp_path):
    _, done, _, after = settled
    plain = carclf.Classifier(done.classifier.model, replace(done.classifier.card, novelty=None), "cpu")
    plain.save(tmp_path)
    assert not (tmp_path / NOVELTY).exists()
    assert "unknown" not in set(carclf.Classifier.load(tmp_path, "cpu").rescore(after).table.decision)


def test_a_model_folder_without_its_novelty_file_is_refused(settled, tmp_path):
    _, done, *_ = settled
    done.classifier.save(tmp_path)
    (tmp_path / NOVELTY).unlink()
    with pytest.raises(FileNotFoundError, match=r"novelty\.safetensors is missing; copy all three files of one model"):
        carclf.Classifier.load(tmp_path, "cpu")


def test_a_folder_in_which_somebody_has_filled_in_brands_keeps_them(settled, tmp_path):
    manifest, done, *_ = settled
    test = manifest[manifest.split == "test"]
    carclf.evaluate(done.classifier, test, tmp_path, manifest)
    table = pd.read_csv(tmp_path / "to_check.csv", dtype=str, keep_default_na=False)
    table.loc[0, "correct_brand"] = "Audi"
    table.to_csv(tmp_path / "to_check.csv", index=False)
    carclf.evaluate(done.classifier, test, tmp_path, manifest)
    assert pd.read_csv(tmp_path / "to_check.csv", dtype=str).correct_brand[0] == "Audi"


def test_a_promise_that_could_not_be_made_is_not_claimed(settled, tmp_path):
    manifest, done, *_ = settled
    assert done.classifier.card.promise["kept"] is False  # so few vehicles
    carclf.evaluate(done.classifier, manifest[manifest.split == "test"], tmp_path, manifest)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "nothing: valid is too small or the model too weak for 95.0%; this came nearest" in page
    assert "are proven" not in page


def test_photos_that_were_learned_from_are_not_evaluated_in_silence(settled, tmp_path):
    manifest, done, *_ = settled
    with pytest.warns(UserWarning, match=r"were learned from or chose the model, so these numbers flatter it"):
        carclf.evaluate(done.classifier, manifest[manifest.split != "valid"], tmp_path, manifest)


def test_brands_that_the_model_does_not_know_choose_nothing(settled):
    manifest, done, *_ = settled
    chosen = []
    for brand in ("Kia", None):
        copy = carclf.Classifier.load(done.folder / "model", "cpu")
        rows = manifest.index[manifest.split == "valid"][:3]
        changed = manifest.copy()
        changed.loc[rows, "brand"] = brand
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            carclf.settle(copy, changed)
        chosen.append(copy.card.threshold)
    assert chosen[0] == chosen[1]
