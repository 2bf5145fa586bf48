"""Cars in a photo: which boxes are taken, what is judged of them, and what stands in the table."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_car
from PIL import Image

import carclf
from carclf import plot
from carclf.data.boxes import BOX, XY, checked, read_boxes
from carclf.metrics.scores import compute_metrics, save_predictions
from carclf.metrics.thresholds import decisions, threshold_table
from carclf.metrics.words import metrics_table
from carclf.model import crops
from carclf.model.card import Card
from carclf.model.classifier import Classifier
from carclf.model.crops import MARGIN, crop, select
from carclf.model.gradcam import grad_cam

CLASSES = ("Audi", "BMW", "Ford", "Jeep", "Kia", "Volvo")
SIZE = 480, 320
BOXES = [[10.0, 20.0, 110.0, 100.0], [180.5, 100.0, 330.0, 230.5], [350.0, 20.0, 470.0, 120.0]]  # from left to right
TINY = [100.0, 250.0, 130.0, 270.0]


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = carclf.build_model("efficientnet_lite0", len(CLASSES))
    card = Card("efficientnet_lite0", "linear", CLASSES, size=64, cache_size=48, threshold=0.2)
    return Classifier(model, card, "cpu")


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Paths of two streets with a car in each of `BOXES`, of a photo without a car, and of a file that is no photo."""
    folder, rng = tmp_path_factory.mktemp("street"), np.random.default_rng(0)
    for name, colours in {"one": ["red", "blue", "green"], "two": ["gold", "white", "navy"], "empty": []}.items():
        photo = Image.new("RGB", SIZE, "grey")
        for colour, (x0, y0, x1, y1) in zip(colours, BOXES, strict=False):
            car = draw_car(colour, rng).resize((int(x1 - x0), int(y1 - y0)))
            photo.paste(car, (int(x0), int(y0)))
        photo.save(folder / f"{name}.png")
    (folder / "broken.png").write_text("no photo")
    return {name: str(folder / f"{name}.png") for name in ("one", "two", "empty", "broken")}


def boxes_of(street, **of):
    """A table of boxes with the column path."""
    rows = [(street[name], *box) for name, boxes in of.items() for box in boxes]
    return pd.DataFrame(rows, columns=["path", *XY])


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.features, expected.features)


def test_the_whole_photo_is_judged_unless_cars_are_asked_for(classifier, street):
    photos = list(street.values())
    plain = classifier.score(photos)
    assert_same(classifier.score(photos, cars="whole"), plain)
    assert not set(BOX) & set(plain.table) and "car" not in plain.table
    none = classifier.score(photos, boxes=lambda photo: [])
    assert_same(
        none._replace(table=none.table[list(plain.table)]),
        none._replace(table=plain.table.assign(decision=["no car found"] * 3 + [None], accepted=False)),
    )
    np.testing.assert_array_equal(none.logits, plain.logits)


def test_a_car_is_judged_like_a_photo_of_its_crop(classifier, street, tmp_path):
    scores = classifier.score(street["one"], boxes=BOXES)
    photo, paths = carclf.read_photo(street["one"]), []
    for i, box in enumerate(BOXES):
        crop(photo, box).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    alone = classifier.score(paths)
    np.testing.assert_array_equal(scores.logits, alone.logits)
    np.testing.assert_array_equal(scores.features, alone.features)
    assert scores.table.car.tolist() == [0, 1, 2]
    assert scores.table[XY].to_numpy().tolist() == BOXES
    assert scores.table.columns.tolist() == ["path", "brand", "car", *BOX, *alone.table.columns[2:]]
    assert scores.table.score.isna().all()
    assert scores.table.decision.isin(["accepted", "unsure"]).all()


def test_a_crop_has_its_margin_and_ends_with_the_photo():
    photo = Image.fromarray(np.arange(100 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(100, 200, 3))
    assert MARGIN == 0.08
    pixels = np.asarray(photo)
    np.testing.assert_array_equal(crop(photo, [40, 20, 80, 60]), pixels[16:64, 36:84])
    np.testing.assert_array_equal(crop(photo, [40.4, 20.4, 80.6, 60.6], margin=0), pixels[20:61, 40:81])
    np.testing.assert_array_equal(crop(photo, [150, 0, 200, 100], margin=0.5), pixels[:, 125:])
    with pytest.raises(ValueError, match="holds no pixel of a photo"):
        crop(photo, [300, 0, 400, 50])


def test_the_order_of_the_boxes_plays_no_part(classifier, street):
    boxes = [*BOXES, [10.0, 5.0, 60.0, 80.0], TINY]
    expected = {cars: classifier.score(street["one"], cars=cars, boxes=boxes) for cars in ("all", "main")}
    assert expected["all"].table[XY].to_numpy().tolist() == sorted(boxes)
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(boxes)
        for cars, scores in expected.items():
            assert_same(classifier.score(street["one"], cars=cars, boxes=shuffled), scores)


def test_the_main_car_is_large_and_central(classifier, street):
    table = classifier.predict(street["one"], cars="main", boxes=BOXES)
    assert table[XY].to_numpy().tolist() == [BOXES[1]]
    assert table.car.tolist() == [0]

    def main(*boxes):
        return select(checked(boxes), (200, 100), "main")[XY].to_numpy().tolist()[0]

    centre, corner = [90, 45, 110, 55], [0, 0, 20, 20]
    # In the corner 400 pixels weigh 1 - d / 2 with d² = (0.45² + 0.4²) / 0.5, so 230; in the centre 200 weigh 200.
    assert main(centre, corner) == corner
    assert main([90, 44, 110, 56], corner) == [90, 44, 110, 56]  # 240
    assert select(checked([]), (200, 100), "main").empty


def test_rows_without_an_answer_keep_their_reason_whatever_is_calibrated(classifier, street):
    boxes = boxes_of(street, one=[BOXES[1], TINY], two=BOXES)
    photos = [street[name] for name in ("broken", "one", "empty", "two", "broken")]
    scores = classifier.score(photos, boxes=boxes)
    table = scores.table
    assert table.path.tolist() == [photos[i] for i in (0, 1, 1, 2, 3, 3, 3, 4)]
    assert table.car.tolist() == [0, 0, 1, 0, 0, 1, 2, 0]
    reasons = [None, "too small", None, "no car found", None, None, None, None]
    answers = [None, None, "", "", "", "", "", None]
    assert table[XY].iloc[1].tolist() == TINY
    assert table.problem.notna().tolist() == [True, *[False] * 6, True]
    strict = Classifier(classifier.model, classifier.card, "cpu")
    strict.accept_above(1e-9)  # 0 would be none
    strict.calibrate(3.0)
    for again in (scores, classifier.rescore(scores), strict.rescore(scores), strict.untempered(scores)):
        found = again.table
        assert [d if d in ("too small", "no car found") else None for d in found.decision] == reasons
        assert found.predicted.isna().tolist() == [answer is None for answer in answers]
        assert found.confidence.isna().tolist() == [answer is None for answer in answers]
        assert not found.accepted[[0, 1, 3, 7]].any()
    assert strict.rescore(scores).table.accepted.tolist() == [False, False, True, False, True, True, True, False]
    assert_same(classifier.rescore(strict.rescore(scores)), scores)


def test_boxes_of_several_photos_are_found_by_their_path(classifier, street, monkeypatch):
    boxes = boxes_of(street, two=BOXES[:2], one=BOXES[2:]).sample(frac=1, random_state=0)
    table = classifier.predict([street["one"], street["two"]], boxes=boxes)
    assert table.groupby("path")[XY].apply(lambda t: t.to_numpy().tolist()).to_dict() == {
        street["one"]: BOXES[2:],
        street["two"]: BOXES[:2],
    }
    monkeypatch.chdir(Path(street["one"]).parent)
    assert len(classifier.predict(["two.png"], boxes=boxes)) == 2
    assert classifier.predict("one.png", boxes=boxes.assign(path=boxes.path.map(os.path.relpath))).x0.tolist() == [350]
    with pytest.raises(ValueError, match=r"no path of the boxes, such as .*elsewhere.png, is that of a photo"):
        classifier.predict([street["one"]], boxes=boxes.assign(path="elsewhere.png"))
    with pytest.raises(ValueError, match=r"do not say which of the 2 photos they belong to; .* the column path"):
        classifier.predict([street["one"], street["two"]], boxes=boxes.drop(columns="path"))


def test_anybodys_finder_gives_boxes_and_scores(classifier, street):
    seen = []

    def yolo(photo):
        """As many detectors answer: corners, score, class."""
        seen.append(photo.size)
        return np.array([[*box, 0.9 - 0.1 * i, 2.0] for i, box in enumerate(BOXES)], np.float32)[::-1]

    class Finder:
        def find(self, photos):
            assert len(photos) <= crops.PHOTOS
            return [pd.DataFrame(yolo(photo)[:, :5], columns=BOX) for photo in photos]

    photos = [street["one"], street["broken"], street["two"]]
    for given in {"boxes": yolo}, {"boxes": lambda photo: torch.tensor(yolo(photo).copy())}, {"detector": Finder()}:
        seen.clear()
        table = classifier.predict(photos, **given)
        assert seen == [SIZE, SIZE]
        assert len(table) == 7
        np.testing.assert_allclose(table.score[:3], [0.9, 0.8, 0.7], rtol=1e-6)
        assert table.dtypes[BOX].eq(float).all() and table.dtypes["car"] == "int64"
    assert len(classifier.predict([*photos] * 7, detector=Finder())) == 49


def test_a_detector_may_be_given_by_its_folder_as_text(classifier, street):
    shipped = str(Path(carclf.__file__).parents[1] / "models" / "find-cars")
    expected = classifier.predict(street["one"], cars="all")
    pd.testing.assert_frame_equal(classifier.predict(street["one"], cars="all", detector=shipped), expected)
    with pytest.raises(FileNotFoundError, match=r"nowhere.*is missing; give a detector's folder"):
        classifier.predict(street["one"], cars="all", detector="nowhere")


def test_each_photo_is_decoded_once_and_crops_go_through_in_batches(classifier, street, monkeypatch):
    read, sizes = [], []
    read_photo, outputs = crops.read_photo, classifier.outputs
    monkeypatch.setattr(crops, "read_photo", lambda *source: read.append(source[0]) or read_photo(*source))
    monkeypatch.setattr(classifier, "outputs", lambda squares: sizes.append(len(squares)) or outputs(squares))
    many = [[x, y, x + 70, y + 70] for x in range(0, 400, 80) for y in range(0, 240, 80)]
    photos = [street["one"], street["two"]]
    table = classifier.predict(photos, boxes=lambda photo: many, batch_size=8)
    assert sorted(read) == photos
    assert sizes == [8, 8, 8, 6]
    monkeypatch.undo()
    together = classifier.predict(photos, boxes=lambda photo: many)
    np.testing.assert_allclose(table.confidence, together.confidence, atol=1e-5)


def test_boxes_are_those_of_the_upright_photo(classifier, street, tmp_path):
    photo, exif = carclf.read_photo(street["one"]), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected, found = (classifier.score(path, boxes=BOXES) for path in (street["one"], tmp_path / "turned.png"))
    np.testing.assert_array_equal(found.logits, expected.logits)


def test_boxes_are_clipped_and_rows_of_nan_are_no_cars():
    boxes = checked([[-20, 5, 90, 70], [np.nan] * 4, [10, 10, 500, 400]], (100, 80))
    assert boxes[XY].to_numpy().tolist() == [[0, 5, 90, 70], [10, 10, 100, 80]]
    assert boxes.index.tolist() == [0, 2]
    assert checked(np.empty((0, 6)), (100, 80)).columns.tolist() == BOX


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[1, 2, 3, 4], [5, np.inf, 70, 80]], r"box 1 of a\.jpg is not finite \(x0=5, y0=inf.*correct or drop"),
        ([[5, np.nan, 70, 80]], "box 0 of a.jpg is not finite"),
        ([[0.1, 0.2, 0.5, 0.9]], "seems to be in fractions of the photo .*multiply x by the photo's width"),
        ([[0.5, 0.5, 0.2, 0.3]], "seems to be in fractions of the photo .*and give corners"),
        (
            [[60, 50, 30, 20]],
            r"is inverted or empty .*x0 < x1 .*pixels of the upright photo of 100 × 80: .*x1 = x \+ w",
        ),
        ([[10, 50, 30, 50]], "is inverted or empty"),
        ([[200, 10, 300, 50]], r"lies outside the photo \(x0=200.*of 100 × 80: was it found on a resized photo"),
        ([[1, 2, 30, 40, 87]], "box 0 of a.jpg has the score 87, which must be 0 to 1: divide per cents"),
        ([["a", 2, 30, 40]], "the boxes of a.jpg are not all numbers .*correct or drop"),
        ([[1, 2, 30]], r"a list \(of shape \(1, 3\)\); give an array \[n, 4\] or more of x0, y0, x1, y1"),
        ([[1, 2, 30], [1]], "a list .*; give an array"),
        (None, "a NoneType"),
        (pd.DataFrame({"x": [1], "y0": 2}), "have no column x0, x1, y1; name them x0, y0, x1, y1"),
        (pd.DataFrame([[9, 9, 4, 4]], index=["seven"], columns=XY), "box seven of a.jpg is inverted"),
    ],
)
def test_what_cannot_be_a_box_is_refused_by_its_row(boxes, message):
    with pytest.raises(ValueError, match=message):
        checked(boxes, (100, 80), "a.jpg")


def test_a_table_is_checked_before_the_first_photo_is_read(classifier, street, monkeypatch):
    monkeypatch.setattr(crops, "read_photo", lambda source: pytest.fail("read"))
    boxes = boxes_of(street, one=BOXES, two=[[60, 50, 30, 20]])
    with pytest.raises(ValueError, match=r"box 3 of .*two\.png is inverted"):
        classifier.predict([street["one"], street["two"]], boxes=boxes)


def test_settings_that_contradict_each_other_are_refused(classifier, street):
    with pytest.raises(ValueError, match="cars='each' must be one of 'whole', 'main', 'all'"):
        classifier.predict(street["one"], cars="each")
    with pytest.raises(ValueError, match="boxes and a detector are given; leave one of them out"):
        classifier.predict(street["one"], boxes=BOXES, detector="coco")
    with pytest.raises(ValueError, match="batch_size=0 must be 1 or more"):
        classifier.predict(street["one"], boxes=BOXES, batch_size=0)
    assert len(classifier.predict(street["one"], cars="find", boxes=BOXES)) == 3


def test_a_manifest_keeps_its_columns_and_no_photo_gives_an_empty_table(classifier, street):
    manifest = pd.DataFrame({"path": [street["one"], street["two"]], "brand": ["Audi", None], "split": "test"})
    manifest["problem"] = [None, "contradiction: two brands"]
    table = classifier.predict(manifest, boxes=lambda photo: BOXES)
    assert table.split.tolist() == ["test"] * 4 and table.brand.isna().tolist() == [False] * 3 + [True]
    assert table.loss.notna().tolist() == [True] * 3 + [False]
    assert table.problem[3] == "contradiction: two brands" and pd.isna(table.decision[3])
    nothing = classifier.score(manifest[:0], boxes=lambda photo: BOXES)
    assert nothing.table.columns.tolist() == table.columns.tolist()
    assert nothing.logits.shape == (0, 6) and nothing.features.shape == (0, 1280)


def test_predictions_with_boxes_survive_a_csv_file(classifier, street, tmp_path):
    photos = list(street.values())
    table = classifier.predict(photos, boxes=boxes_of(street, one=[*BOXES, TINY]).assign(score=0.1 + 0.2))
    save_predictions(table, tmp_path / "out.csv")
    again = pd.read_csv(tmp_path / "out.csv")
    pd.testing.assert_frame_equal(again[["path", "car", *BOX]], table[["path", "car", *BOX]], check_exact=True)
    boxes = read_boxes(tmp_path / "out.csv")  # also as boxes: rows without a car are none
    pd.testing.assert_frame_equal(classifier.predict(photos, boxes=boxes), table, check_exact=True)


def test_files_that_are_no_boxes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*no\.csv; give a CSV file with the columns path, x0"):
        read_boxes(tmp_path / "no.csv")
    for text, message in {"": "is not a table", "path,x0,y0\na,1,2\n": "lacks the columns x1, y1; name them"}.items():
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_boxes(tmp_path / "bad.csv")


def test_pictures_show_the_crop_that_was_judged(classifier, street):
    table = classifier.predict(
        [street["one"], street["empty"], street["broken"]], boxes=boxes_of(street, one=[*BOXES, TINY])
    )
    photo = carclf.read_photo(street["one"])
    shown = [crop(photo, box) for box in sorted([*BOXES, TINY])]
    maps = grad_cam(classifier, table)
    squares = np.stack([np.asarray(one.resize((48, 48), 2)).transpose(2, 0, 1) for one in shown])
    answered = [0, 2, 3]
    np.testing.assert_allclose(maps[answered], grad_cam(classifier, squares[answered]), atol=1e-3)
    assert maps[4].any() and not maps[[1, 5]].any()
    figure = plot.overlay_page(table, maps)
    for ax, one in zip(figure.axes[0:8:2], shown, strict=True):
        one.thumbnail((320, 320))
        np.testing.assert_array_equal(ax.images[0].get_array(), np.asarray(one))
    figure = plot.prediction_page(table[:4])
    tiles = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert [tile.shape[1::-1] for tile in tiles] == [one.size for one in shown]
    assert "too small" in [ax.get_title(place) for ax in figure.axes for place in ("left", "center")]


def test_numbers_count_a_car_that_is_too_small_apart_and_accept_no_photo_without_one(classifier, street):
    photos = pd.DataFrame({"path": list(street.values()), "brand": "Audi", "problem": None})
    table = classifier.predict(photos, cars="main", boxes=boxes_of(street, one=[TINY], two=BOXES))
    counts = compute_metrics(table, classes=CLASSES, n_boot=20)
    assert {name: counts[name] for name in ("n", "unreadable", "unlabelled", "unknown_brand", "too_small")} == {
        "n": 2, "unreadable": 1, "unlabelled": 0, "unknown_brand": 0, "too_small": 1
    }  # fmt: skip
    assert "too small: 1" in metrics_table(counts)["value"]["not scored"]
    assert threshold_table(table, [1e-6]).photos[0] == 1
    found = decisions(table)
    assert found.photos[["too small", "no car found"]].tolist() == [1, 1]
    assert found.photos.sum() == 3 and np.isnan(found.right["too small"])
