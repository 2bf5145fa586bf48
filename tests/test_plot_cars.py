"""Boxes and labels drawn onto photos."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor, ImageDraw

from carclf.data.photos import read_photo
from carclf.plot import cars
from carclf.plot.cars import COLOURS, draw_cars, draw_photos

DECISIONS = ["accepted", "unsure", "unknown", "too small"]


def table(boxes, **columns):
    rows = pd.DataFrame(boxes, columns=["x0", "y0", "x1", "y1"], dtype=float)
    rows = rows.assign(predicted="Citroën", confidence=0.87, accepted=True, decision="accepted", problem=None)
    return rows.assign(**columns)


@pytest.fixture
def written(monkeypatch):
    """The labels of what is drawn, as (text, place of its first letter)."""
    seen, text = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, xy, said, **style: seen.append((said, xy)) or text(self, xy, said, **style),
    )
    return seen


@pytest.fixture
def places(monkeypatch):
    """Where labels are put."""
    seen, place = [], cars._place
    monkeypatch.setattr(cars, "_place", lambda *given: seen.append(found := place(*given)) or found)
    return seen


@pytest.mark.parametrize("ground", ["black", "white", "grey"])
def test_a_box_has_the_colour_of_its_decision_and_is_seen_on_any_ground(ground):
    photo = Image.new("RGB", (640, 400), ground)
    boxes = [[x, y, x + 100, y + 120] for y in (50, 230) for x in (20, 340)]
    drawn = np.asarray(draw_cars(photo, table(boxes, decision=DECISIONS)))
    assert (np.asarray(photo) == ImageColor.getrgb(ground)).all()  # a copy was drawn on
    for (x0, y0, x1, y1), decision in zip(boxes, DECISIONS, strict=True):
        colour, y = ImageColor.getrgb(COLOURS[decision]), y0 + 60
        assert tuple(drawn[y, x0]) == tuple(drawn[y, x1]) == tuple(drawn[y1, x0 + 50]) == colour
        assert tuple(drawn[y, x0 - 1]) == (0, 0, 0)
        assert tuple(drawn[y, x0 + 50]) == ImageColor.getrgb(ground)  # the car itself is not hidden


@pytest.mark.parametrize("size", [(80, 60), (320, 240), (1920, 1080), (4000, 300), (64, 900)])
def test_labels_stay_inside_the_picture_and_apart(size, places):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-0.1, 0.9, (8, 2))
    boxes = np.hstack([corners, corners + rng.uniform(0.1, 0.4, (8, 2))]) * np.tile(size, 2)
    draw_cars(Image.new("RGB", size), table([*boxes, [np.nan] * 4]))
    for (x0, y0, x1, y1), _ in places:
        assert 0 <= x0 < x1 < size[0]
        assert 0 <= y0 < y1 < size[1]
    if min(size) > 1000:
        assert not any(covered for _, covered in places)


def test_letters_grow_with_the_picture():
    heights = []
    for width in (300, 960, 3840):
        drawn = draw_cars(Image.new("RGB", (width, width // 2)), table([[np.nan] * 4]))
        heights.append(np.asarray(drawn).any(axis=(1, 2)).sum())
    assert heights[0] >= cars.SMALLEST
    assert heights[2] / heights[1] == pytest.approx(4, rel=0.15)


def test_a_label_says_the_track_the_brand_and_what_is_in_doubt(written):
    rows = table([[100, 100, 200, 200]] * 5, track=[3, 4, 5, 6, None], decision=["accepted", *DECISIONS])
    rows["accepted"] = rows.decision == "accepted"
    rows.loc[4, ["predicted", "confidence"]] = None, np.nan
    photo = Image.new("RGB", (1600, 1200))
    draw_cars(photo, rows)
    said = [
        "#3 Citroën 87 %", "#4 Citroën 87 %", "#5 Citroën 87 % (unsure)", "#6 unknown, perhaps Citroën 87 %",
        "too small",
    ]  # fmt: skip
    assert [text.replace("\xa0", " ") for text, _ in written] == said
    written.clear()
    draw_cars(photo, rows.head(1).assign(brand="Kia"))  # that of the photo's name, which may be of another car
    assert [text.replace("\xa0", " ") for text, _ in written] == said[:1]
    written.clear()
    draw_cars(photo, rows[["x0", "y0", "x1", "y1"]].head(2).assign(score=[0.91, np.nan]))
    draw_cars(photo, rows.head(1), label=lambda row: f"car\n{row.track:.0f}")
    assert [text for text, _ in written] == ["91\xa0%", "car 3"]


def test_a_crowd_of_small_cars_hides_no_answer(written):
    boxes = [[300 + i, 200 + i, 330 + i, 220 + i] for i in range(60)]
    rows = table([*boxes, [290, 190, 400, 300]])
    rows.loc[:59, ["predicted", "confidence", "decision", "accepted"]] = None, np.nan, "too small", False
    draw_cars(Image.new("RGB", (640, 400)), rows)
    assert written[0][0] == "Citroën 87\xa0%"
    assert 1 < len(written) < 40


def test_no_cars_draw_nothing():
    photo = Image.new("RGB", (100, 80), "teal")
    assert draw_cars(photo, table([])).tobytes() == photo.tobytes()
    assert draw_cars(photo.convert("L"), table([])).mode == "RGB"
    draw_cars(photo, table([[500, 500, 600, 600], [-np.inf, 0, np.inf, 10]]))  # boxes out of sight


def test_photos_are_drawn_under_new_and_safe_names(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    names = ["a.jpg", "sub/a.png", "con.jpg", "x:y<z>\u202e.png", "é" * 120 + ".jpg", " .jpg"]
    (tmp_path / "sub").mkdir()
    for name in names:
        Image.new("RGB", (64, 48), "teal").save(
            tmp_path / name, exif=exif, **({"comment": b"secret"} if "jpg" in name else {})
        )
    paths = [str(tmp_path / name) for name in names]
    rows = pd.concat([table([[5, 5, 50, 40], [9, 9, 60, 45]], path=path, car=[0, 1]) for path in [*paths, paths[0]]])
    rows = pd.concat([rows, table([[np.nan] * 4], path="gone.jpg", car=0, problem="unreadable: there is no such file")])
    before = {path: (tmp_path / path).read_bytes() for path in names}
    written = draw_photos(rows, tmp_path)  # into the folder of the photos themselves
    assert [path.name for path in written] == [
        "a_cars.jpg", "a_cars-2.jpg", "con_cars.jpg", "x_y_z___cars.jpg", "é" * 80 + "_cars.jpg", "photo_cars.jpg",
        "a_cars-3.jpg",
    ]  # fmt: skip
    assert before == {path: (tmp_path / path).read_bytes() for path in names}
    for path in written:
        assert b"secret" not in path.read_bytes()
        assert np.asarray(read_photo(path)).std() > 10
    assert draw_photos(rows.head(2), tmp_path)[0].name == "a_cars-4.jpg"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be written: .*; free some disk or choose another folder"):
        draw_photos(rows.head(2), tmp_path / "file")
