import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import carclf
from carclf.cache import to_square
from carclf.classifier import CARD, WEIGHTS, Card, Classifier
from carclf.devices import Device
from carclf.models import normalisation

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


def test_saving_and_loading_changes_no_bit(classifier, folder, photos):
    loaded = Classifier.load(folder, "cpu")
    assert loaded.card == classifier.card
    assert loaded.classes == sorted(CLASSES)
    assert {p.name for p in folder.iterdir()} == {WEIGHTS, CARD}
    pd.testing.assert_frame_equal(loaded.predict(photos), classifier.predict(photos), check_exact=True)


def test_answers_do_not_depend_on_how_many_photos_pass_at_once(classifier, photos, monkeypatch):
    single = Classifier(classifier.model, classifier.card, "cpu")
    single.device = replace(single.device, dtype=torch.float32)
    squares = np.stack([to_square(path, 48) for path in photos.path[:7]])
    together = single.outputs(squares)
    monkeypatch.setattr("carclf.classifier.CPU_PIXELS", 3 * 32**2)
    for found, expected in zip(single.outputs(squares), together, strict=True):
        assert len(found) == 7
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_half_the_bytes_keep_matrices_to_float16_and_all_else_to_the_bit(classifier, tmp_path):
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
    assert {"path", "brand", "predicted", "confidence", "top5", "accepted", "problem"} <= set(table)
    assert table.path.tolist() == photos.path.tolist()
    assert table.brand.tolist() == photos.brand.tolist()
    assert table.problem.isna().all()
    for row in table.itertuples():
        assert next(iter(row.top5)) == row.predicted
        assert list(row.top5.values()) == sorted(row.top5.values(), reverse=True)
        assert len(row.top5) == 5
        assert row.confidence == max(row.top5.values())
        assert row.accepted == (row.confidence >= 0.2)


def test_probabilities_are_those_of_the_network_on_the_squished_photo(classifier, photos, monkeypatch):
    monkeypatch.setattr(classifier, "device", Device("cpu", torch.float32))
    squares = np.stack([to_square(p, 48) for p in photos.path[:5]])
    p = classifier.probabilities(squares)
    mean, std = (torch.tensor(v)[:, None, None] for v in normalisation("efficientnet_lite0"))
    x = torch.nn.functional.interpolate(torch.from_numpy(squares).float(), size=32, mode="bilinear")
    with torch.inference_mode():
        reference = classifier.model((x / 255 - mean) / std).softmax(1)
    np.testing.assert_allclose(p, reference, atol=1e-5)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)


def test_a_photo_has_the_same_answer_alone_and_in_any_batch(classifier, photos):
    together = classifier.predict(photos)
    by_three = classifier.predict(photos, batch_size=3)
    np.testing.assert_allclose(together.confidence, by_three.confidence, atol=1e-5)
    assert together.predicted.tolist() == by_three.predicted.tolist()


def test_paths_bytes_and_folders_mix(classifier, photos, photo_folder):
    path = photos.path[0]
    data = Path(path).read_bytes()
    table = classifier.predict([path, data, str(photo_folder)])
    assert len(table) == 2 + len(photos)
    assert table.path[1] == "photo 2"
    assert pd.isna(table.brand[1])
    assert table.confidence[0] == pytest.approx(table.confidence[1], abs=1e-6)
    assert classifier.predict(path).predicted[0] == table.predicted[0]
    assert classifier.predict([data], names=["BMW_X5_1.jpg"]).brand[0] == "BMW"
    with pytest.raises(ValueError, match="2 names for 1 photos"):
        classifier.predict([data], names=["a", "b"])


def test_what_cannot_be_read_keeps_its_row_and_its_reason(classifier, photos, tmp_path):
    (tmp_path / "Audi_A4_1.jpg").write_text("no photo")
    table = classifier.predict([tmp_path / "Audi_A4_1.jpg", photos.path[0], tmp_path / "absent.jpg", b""])
    assert table.problem.str.split(":").str[0].fillna("").tolist() == ["not an image", "", "unreadable", "empty"]
    assert table.predicted.isna().tolist() == [True, False, True, True]
    assert table.accepted.tolist()[0] is False
    assert table.top5[0] is None
    assert table.brand[0] == "Audi"


def test_an_empty_folder_is_named(classifier, tmp_path):
    with pytest.raises(ValueError, match="no photos in"):
        classifier.predict(tmp_path)


def test_a_manifests_columns_are_kept(classifier, photos):
    table = classifier.predict(carclf.split(photos, seed=1))
    assert {"brand", "model", "vehicle", "split"} <= set(table)


def test_a_threshold_is_stored_with_the_model(classifier, folder, photos):
    loaded = Classifier.load(folder, "cpu")
    loaded.accept_above(1.0, folder)
    again = Classifier.load(folder, "cpu")
    assert again.card == replace(classifier.card, threshold=1.0)
    assert not again.predict(photos).accepted.any()
    with pytest.raises(ValueError, match="between 0 and 1"):
        loaded.accept_above(95)


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing; give the folder that training wrote"):
        Classifier.load(folder)


def test_files_that_do_not_fit_together_are_refused(folder, tmp_path):
    card = json.loads((folder / CARD).read_text("utf-8"))
    for change, message in [
        ({"classes": card["classes"][:-1]}, "does not fit card.json"),
        ({"classes": card["classes"][::-1]}, "must be sorted"),
        ({"schema": 99}, "schema 99"),
        ({"surprise": 1}, "not a model card"),
        ({"backbone": "no_such_net"}, "unknown backbone"),
    ]:
        broken = tmp_path / "broken"
        shutil.copytree(folder, broken, dirs_exist_ok=True)
        (broken / CARD).write_text(json.dumps({**card, **change}), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            Classifier.load(broken)
    (folder / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="does not fit"):
        Classifier.load(folder)


def test_what_the_manifest_sets_aside_is_not_scored(classifier, photos):
    doubtful = photos.assign(problem=photos.problem.where(photos.index > 0, "contradiction: two brands"))
    table = classifier.predict(doubtful)
    assert table.problem[0] == "contradiction: two brands"
    assert pd.isna(table.predicted[0])
    assert table.predicted[1:].notna().all()


def test_a_folder_that_cannot_be_written_is_named(classifier, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be written: .*; free some disk or choose another folder"):
        classifier.save(tmp_path / "file" / "model")
