import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import carclf
from carclf.data.cache import to_square
from carclf.model.backbones import normalisation
from carclf.model.classifier import CARD, OLD_OOD, OOD, WEIGHTS, Card, Classifier
from carclf.model.device import Device
from carclf.model.ood import OodDetector

CLASSES = ("Audi", "BMW", "Ford", "Jeep", "Kia", "Volvo")


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = carclf.build_model("efficientnet_lite0", len(CLASSES))
    card = Card("efficientnet_lite0", "linear", CLASSES, size=32, cache_size=48, threshold=0.2)
    return Classifier(model, card, "cpu")


@pytest.fixture
def folder(classifier, tmp_path):
    return classifier.save(tmp_path / "model")


@pytest.fixture(scope="module")
def photos(photo_folder):
    return carclf.scan(photo_folder)


@pytest.fixture(scope="module")
def squares(photos):
    return np.stack([to_square(path, 48) for path in photos.path[:7]])


@pytest.fixture(scope="module")
def detector(classifier, photos):
    scores = classifier.score(photos)
    return OodDetector.choose(scores, scores, known=0.5)


def edit_card(folder, **changes):
    card = json.loads((folder / CARD).read_text("utf-8"))
    (folder / CARD).write_text(json.dumps(card | changes), encoding="utf-8")


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_saving_and_loading_changes_no_bit(classifier, folder, photos):
    loaded = Classifier.load(folder, "cpu")
    assert loaded.card == classifier.card
    assert loaded.classes == sorted(CLASSES)
    assert files(folder) == {WEIGHTS, CARD}
    pd.testing.assert_frame_equal(loaded.predict(photos), classifier.predict(photos), check_exact=True)


def test_half_precision_rounds_matrices_and_keeps_all_else_to_the_bit(classifier, tmp_path):
    whole, half = (classifier.save(tmp_path / name, half=name == "half") for name in ("whole", "half"))
    sizes = [(folder / WEIGHTS).stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.52 * sizes[0]
    for name, found in Classifier.load(half, "cpu").model.state_dict().items():
        own = classifier.model.state_dict()[name]
        assert found.dtype == own.dtype
        # float16 has 11 significant bits and no steps below 2^-24; a variance of 1e-6 would be lost in it
        rtol, atol = (2**-11, 2**-25) if own.ndim > 1 else (0, 0)
        torch.testing.assert_close(found, own, rtol=rtol, atol=atol)


def test_predictions_are_a_table_with_a_row_a_photo(classifier, photos):
    table = classifier.predict(photos.path.tolist())
    assert table[["path", "brand"]].to_numpy().tolist() == photos[["path", "brand"]].to_numpy().tolist()
    assert table.problem.isna().all()
    for row in table.itertuples():
        assert next(iter(row.top5)) == row.predicted
        assert list(row.top5.values()) == sorted(row.top5.values(), reverse=True)
        assert len(row.top5) == 5
        assert row.confidence == max(row.top5.values())
        assert row.accepted == (row.confidence >= 0.2)


def test_probabilities_are_those_of_the_network_on_the_squished_photo(classifier, squares, monkeypatch):
    monkeypatch.setattr(classifier, "device", Device("cpu", torch.float32))
    mean, std = (torch.tensor(v)[:, None, None] for v in normalisation("efficientnet_lite0"))
    x = torch.nn.functional.interpolate(torch.from_numpy(squares).float(), size=32, mode="bilinear")
    with torch.inference_mode():
        reference = classifier.model((x / 255 - mean) / std).softmax(1)
    np.testing.assert_allclose(classifier.softmax(classifier.outputs(squares)[0]), reference, atol=1e-5)


def test_a_photo_has_the_same_answer_alone_and_in_any_batch(classifier, photos, squares, monkeypatch):
    together, by_three = classifier.predict(photos), classifier.predict(photos, batch_size=3)
    np.testing.assert_allclose(together.confidence, by_three.confidence, atol=1e-5)
    assert together.predicted.tolist() == by_three.predicted.tolist()
    monkeypatch.setattr(classifier, "device", Device("cpu", torch.float32))
    outputs = classifier.outputs(squares)
    monkeypatch.setattr("carclf.model.classifier.CPU_PIXELS", 3 * 32**2)  # photos that a CPU is given at once
    for found, expected in zip(classifier.outputs(squares), outputs, strict=True):
        assert len(found) == 7
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_paths_bytes_and_folders_mix(classifier, photos, photo_folder, tmp_path):
    path, data = photos.path[0], Path(photos.path[0]).read_bytes()
    table = classifier.predict([path, data, str(photo_folder)])
    assert table.path.tolist() == [path, "photo 2", *photos.path]
    assert pd.isna(table.brand[1])
    assert table.confidence[0] == pytest.approx(table.confidence[1], abs=1e-6)
    assert classifier.predict(path).predicted[0] == table.predicted[0]
    assert classifier.predict([data], names=["BMW_X5_1.jpg"]).brand[0] == "BMW"
    with pytest.raises(ValueError, match="2 names for 1 photos"):
        classifier.predict([data], names=["a", "b"])
    with pytest.raises(ValueError, match="no photos in"):
        classifier.predict(tmp_path)


def test_photos_that_are_unreadable_or_set_aside_keep_their_row_and_their_reason(classifier, photos, tmp_path):
    (tmp_path / "Audi_A4_1.jpg").write_text("no photo")
    table = classifier.predict([tmp_path / "Audi_A4_1.jpg", photos.path[0], tmp_path / "absent.jpg", b""])
    assert table.problem.str.split(":").str[0].fillna("").tolist() == ["not an image", "", "unreadable", "empty"]
    assert table.predicted.isna().tolist() == [True, False, True, True]
    assert not table.accepted[0]
    assert table.top5[0] is None
    assert table.brand[0] == "Audi"
    problems = photos.problem.where(photos.index > 0, "contradiction: two brands")
    table = classifier.predict(photos.assign(problem=problems))
    assert table.problem[0] == "contradiction: two brands"
    assert table.predicted.isna().tolist() == [True] + [False] * (len(photos) - 1)


def test_the_columns_of_a_manifest_are_kept(classifier, photos):
    manifest = carclf.split(photos, seed=1).rename(index=lambda i: i + 7)
    table = classifier.predict(manifest)
    columns = ["path", "brand", "model", "vehicle", "split"]
    pd.testing.assert_frame_equal(table[columns], manifest[columns].reset_index(drop=True))
    pd.testing.assert_series_equal(table.predicted, classifier.predict(manifest.path.tolist()).predicted)


def test_the_loss_is_of_the_named_brand_if_the_model_knows_it(classifier, photos):
    scores = classifier.score(photos)
    p = classifier.softmax(scores.logits)
    assert scores.features.shape == (len(photos), 1280)
    known = photos.brand.isin(CLASSES)
    assert not known.all()
    expected = -np.log(p[known, [CLASSES.index(brand) for brand in photos.brand[known]]])
    np.testing.assert_allclose(scores.table.loss[known], expected, rtol=1e-6)
    assert scores.table.loss[~known].isna().all()


def test_a_threshold_is_stored_with_the_model(classifier, folder, photos):
    loaded = Classifier.load(folder, "cpu")
    loaded.accept_above(1.0, folder)
    again = Classifier.load(folder, "cpu")
    assert again.card == replace(classifier.card, threshold=1.0)
    assert not again.predict(photos).accepted.any()
    with pytest.raises(ValueError, match="between 0 and 1"):
        loaded.accept_above(95)


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_or_damaged_file_is_named_in_the_error(folder, name):
    (folder / name).write_bytes(b"[]")
    with pytest.raises(ValueError, match={WEIGHTS: "does not fit", CARD: "not a model card"}[name]):
        Classifier.load(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing; give the folder that training wrote"):
        Classifier.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": CLASSES[:-1]}, "does not fit card.json"),
        ({"classes": CLASSES[::-1]}, "must be sorted"),
        ({"schema": 99}, "schema 99"),
        ({"surprise": 1}, "not a model card"),
        ({"backbone": "no_such_net"}, "unknown backbone"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(folder, change, message):
    edit_card(folder, **change)
    with pytest.raises(ValueError, match=message):
        Classifier.load(folder)


def test_an_ood_detector_is_stored_with_the_model(folder, photos, detector):
    plain = Classifier.load(folder, "cpu")
    assert not plain.predict(photos).decision.eq("unknown").any()
    plain.detect_ood(detector, folder)
    again = Classifier.load(folder, "cpu")
    assert again.ood == detector
    assert again.card.ood == detector.facts
    assert files(folder) == {WEIGHTS, CARD, OOD}
    scores = again.score(photos)
    unknown = scores.table.decision.eq("unknown")
    assert unknown.tolist() == detector.unknown(scores.features).tolist()
    assert 0 < unknown.sum() < len(photos)
    assert not scores.table.accepted[unknown].any()
    (folder / OOD).unlink()
    with pytest.raises(FileNotFoundError, match=r"ood\.safetensors is missing; copy all three files of one model"):
        Classifier.load(folder)


@pytest.fixture
def old_folder(folder, detector):
    """As version 0.1 wrote it: schema 1, with `novelty` in the card and in the name of the file."""
    Classifier.load(folder, "cpu").detect_ood(detector, folder)
    (folder / OOD).rename(folder / OLD_OOD)
    card = json.loads((folder / CARD).read_text("utf-8"))
    card |= {"schema": 1, "novelty": card.pop("ood")}
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    return folder


def test_a_folder_of_the_old_schema_loads_and_is_saved_in_the_new_one(classifier, old_folder, detector):
    loaded = Classifier.load(old_folder, "cpu")
    assert loaded.card == replace(classifier.card, ood=detector.facts)
    loaded.accept_above(0.5, old_folder)  # writes the card alone
    assert Classifier.load(old_folder, "cpu").ood == detector
    loaded.save(old_folder)
    assert files(old_folder) == {WEIGHTS, CARD, OOD}
    again = Classifier.load(old_folder, "cpu").ood
    for ood in (loaded.ood, again):
        assert ood == detector
        np.testing.assert_equal(ood.arrays, detector.arrays)


@pytest.mark.parametrize("method", ["energy", "neighbours"])
def test_an_ood_method_that_was_removed_is_dropped_with_a_warning(old_folder, photos, method):
    edit_card(old_folder, novelty={"method": method, "threshold": 0.0, "known": 0.95})
    warning = rf"{method}' is no longer supported, so no photo will be called unknown; run calibrate_on_valid"
    with pytest.warns(UserWarning, match=warning):
        loaded = Classifier.load(old_folder, "cpu")
    assert loaded.ood is None
    assert loaded.card.ood is None
    assert not loaded.predict(photos[:3]).decision.eq("unknown").any()
    loaded.save(old_folder)
    assert files(old_folder) == {WEIGHTS, CARD}
    assert Classifier.load(old_folder, "cpu").card == loaded.card


def test_a_folder_that_cannot_be_written_is_named_in_the_error(classifier, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be written: .*; free some disk or choose another folder"):
        classifier.save(tmp_path / "file" / "model")
