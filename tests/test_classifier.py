import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import carclf
from carclf.data.cache import to_square
from carclf.model.backbones import normalisation
from carclf.model.card import CARD, Card
from carclf.model.classifier import OLD_OOD, OOD, WEIGHTS, Classifier
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


@pytest.fixture(scope="module")
def pixels(photos):
    return np.asarray(carclf.read_photo(photos.path[0]))


def test_anything_that_holds_a_photo_is_taken_alone_or_in_a_list(classifier, photos, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "Audi_A4.png")  # without loss, so that all kinds give the same pixels
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels).rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    data = (tmp_path / "Audi_A4.png").read_bytes()
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    expected = classifier.predict([tmp_path / "Audi_A4.png"])
    with (tmp_path / "Audi_A4.png").open("rb") as file, Image.open(tmp_path / "turned.png") as turned:
        named = {"path": tmp_path / "Audi_A4.png", "file": file}
        nameless = {"bytes": data, "view": memoryview(data), "memory": io.BytesIO(data), "array": pixels}
        nameless |= {"rgba": opaque, "image": Image.fromarray(pixels), "turned": turned}
        for given in named | nameless, nameless:
            for name, photo in given.items():
                table = classifier.predict(photo)
                assert len(table) == 1 and table.problem.isna().all(), (name, table.problem[0])
                np.testing.assert_array_equal(table.confidence, expected.confidence, err_msg=name)
                assert (table.path[0], table.brand[0]) == (
                    (str(tmp_path / "Audi_A4.png"), "Audi") if name in named else ("photo 1", None)
                )
                file.seek(0)
                nameless["memory"].seek(0)
        grey = classifier.predict([pixels[..., 0], pixels[..., :1], Image.fromarray(pixels[..., 0])])
        assert grey.path.tolist() == ["photo 1", "photo 2", "photo 3"] and grey.confidence.nunique() == 1
        assert turned.size == pixels.shape[:2]  # it stays as it was
    clear = classifier.predict(np.dstack([pixels, np.zeros(pixels.shape[:2], np.uint8)]))  # lies on white
    assert clear.confidence[0] == classifier.predict(np.full_like(pixels, 255)).confidence[0]
    boxed = classifier.predict(pixels, boxes=[[0, 0, 70, 50]])
    assert boxed.path.tolist() == ["photo 1"] and boxed.predicted.notna().all()


def test_many_photos_come_in_any_iterable(classifier, photos, pixels):
    paths = photos.path[:3].tolist()
    expected = classifier.predict(paths)
    for given in (path for path in paths), tuple(paths), np.array(paths), photos.path[:3], photos[["path"]][:3]:
        pd.testing.assert_frame_equal(classifier.predict(given), expected, check_dtype=False)
    stack = classifier.predict(np.stack([pixels] * 2))
    assert stack.path.tolist() == ["photo 1", "photo 2"] and stack.confidence.nunique() == 1
    row = classifier.predict(photos.iloc[2])
    assert row.path.tolist() == paths[2:] and row.brand.tolist() == [photos.brand[2]]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (None, TypeError, "photos of the type NoneType are not taken; give a path, a folder, bytes"),
        (7, TypeError, "photos of the type int are not taken"),
        ({"a.jpg": b""}, TypeError, "photos of the type dict are not taken"),
        ([], ValueError, "no photos are given; give a path"),
        (iter([]), ValueError, "no photos are given"),
        ([b"", None], TypeError, "photo 2 is of the type NoneType; give a path"),
        ([["a.jpg"]], TypeError, "photo 1 is of the type list"),
        (np.arange(3), TypeError, "photo 1 is of the type int64"),
        (pd.DataFrame({"file": ["a.jpg"]}), ValueError, "the table has no column path, only file; give a path"),
        (pd.DataFrame({"path": ["a.jpg", None]}), ValueError, "row 1 of the table has no path but nan"),
        ("images/*.jpg", FileNotFoundError, r"no file images/\*.jpg: patterns are not expanded; give the folder"),
        ("https://a.org/car.jpg", FileNotFoundError, "https://a.org/car.jpg is an address, not a file: download"),
        ("Audi_A4.jgp", FileNotFoundError, r"there is no file Audi_A4.jgp; did you mean 'Audi_A4.jpg'\?"),
        ("a\0.jpg", FileNotFoundError, "there is no file a"),
    ],
)
def test_what_holds_no_photo_is_refused_in_a_sentence(classifier, tmp_path, monkeypatch, wrong, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Audi_A4.jpg").touch()
    with pytest.raises(error, match=message):
        classifier.predict(wrong)


def test_one_bad_photo_of_several_has_its_reason_in_its_row(classifier, photos, pixels):
    bad = [
        "images/*.jpg",
        "https://a.org/1.jpg",
        "nowhere.jpg",
        pixels / 255,
        pixels.T,
        pixels[:0],
        pixels[:9],
        Image.new("1", (0, 0)),
    ]
    table = classifier.predict([*bad, photos.path[0]])
    reasons = ["there is no file images", "https://a.org/1.jpg is an address", "unreadable: there is no such file"]
    reasons += ["unsupported: an array of float64 ", "unsupported: an array of uint8 [3, ", "empty: an array of [0, "]
    reasons += ["too small: ", "too small: 0 × 0"]
    assert [problem.startswith(reason) for problem, reason in zip(table.problem[:-1], reasons, strict=True)] == [
        True
    ] * 8
    assert table.predicted.notna().tolist() == [False] * 8 + [True]


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


PROMISE = {"threshold": 0.2, "accuracy": 0.9, "confidence_level": 0.9, "bound": 0.91, "kept": True}


@pytest.mark.parametrize(
    ("threshold", "promise", "accept_from"),
    [
        (0.2, PROMISE, 0.2),
        (0.2, PROMISE | {"kept": False}, np.inf),
        (0.2, None, 0.2),
        (0.0, None, np.inf),
        (0, PROMISE, 0),
    ],
)
def test_where_nothing_is_proven_nothing_is_accepted(classifier, folder, photos, threshold, promise, accept_from):
    loaded = Classifier.load(folder, "cpu")
    loaded.accept_above(threshold, folder, promise)
    again = Classifier.load(folder, "cpu")
    assert again.card.accept_from == loaded.card.accept_from == accept_from
    table = again.predict(photos[:6])
    assert table.accepted.tolist() == (table.confidence >= accept_from).tolist()
    assert set(table.decision) <= ({"accepted", "unsure"} if accept_from < np.inf else {"unsure"})


@pytest.mark.parametrize(
    "wrong",
    [
        *({}, [], {"kept": 1}, {"bound": None}, {"accuracy": 95}, {"threshold": "high"}),
        *({"scope": "\x1b[31m"}, {"vehicles": 5}, {"vehicles": "5"}, {"needed": 0.5}),
    ],
)
def test_a_card_whose_promise_says_nothing_is_refused(folder, wrong):
    edit_card(folder, promise=PROMISE | wrong if wrong else wrong)
    with pytest.raises(ValueError, match="not a model card of this version"):
        Classifier.load(folder)


def test_a_mistyped_folder_is_named_with_the_nearest(folder):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*modle; did you mean 'model'\?"):
        Classifier.load(folder.with_name("modle"))


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
