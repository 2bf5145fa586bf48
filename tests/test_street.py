"""Drawn streets and clips: boxes, hidden shares and identities agree with the pixels, and repeat by seed."""

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageChops, ImageDraw

from carclf.demo import street
from carclf.demo.folder import BRANDS
from carclf.demo.picture import Painter
from carclf.demo.street import clip_frames, draw_clip, draw_street

SMALL = (480, 270)


def table(frames) -> pd.DataFrame:
    return pd.DataFrame([row for _, rows in frames for row in rows], columns=list(street.Seen._fields))


@pytest.fixture(scope="module")
def clip():
    return list(clip_frames(size=(320, 180), fps=6, returns=True))


@pytest.fixture
def flat(monkeypatch):
    """Paint each car in one colour, numbered near ones first, those in the set that this returns alone."""

    def fill(painter, points, colour, alpha=255):
        outline = painter.camera(np.asarray(points))
        painter.filled.append(outline)
        number = painted.index(painter.car)
        if number in shown:
            ImageDraw.Draw(painter.draw._image).polygon([*map(tuple, outline)], (number + 1, 255, 255))

    def see(scene, placed):
        painted[:] = [p.car for p in sorted(placed, key=lambda p: np.hypot(p.x, p.y))]
        scene.image.paste(0, (0, 0, *scene.image.size))
        return paint(scene, placed)

    painted, shown, paint = [], set(range(9)), street._paint
    monkeypatch.setattr(Painter, "fill", fill)
    monkeypatch.setattr(Painter, "ground_shadow", lambda painter: None)
    monkeypatch.setattr(ImageDraw.ImageDraw, "line", lambda *_: None)
    monkeypatch.setattr(street, "_paint", see)
    monkeypatch.setattr(Image.Image, "reduce", lambda image, factor: image)
    monkeypatch.setattr(street, "lens", lambda *_: lambda image: image)
    monkeypatch.setattr(street, "sign", lambda image: image)
    return shown


@pytest.mark.parametrize("seed", [0, 1, 9])
def test_boxes_and_hidden_shares_are_those_of_the_pixels(flat, seed):
    """The reference paints every car alone, and all of them in colours of their own."""
    together, rows = draw_street(seed, SMALL)
    numbers = np.asarray(together)[..., 0]
    whole = (rows.x0 > 0) & (rows.y0 > 0) & (rows.x1 < SMALL[0]) & (rows.y1 < SMALL[1])
    assert whole.sum() >= 3 and len(rows) == 5
    for number, row in enumerate(rows.itertuples()):
        flat.clear()
        flat.add(number)
        alone = draw_street(seed, SMALL)[0]
        assert np.array(alone.getbbox()) / 2 == pytest.approx([row.x0, row.y0, row.x1, row.y1], abs=0.5)
        share = (numbers == number + 1).sum() / np.asarray(alone)[..., 0].astype(bool).sum()
        if whole[number]:
            assert row.visible == pytest.approx(share, abs=0.005)
        else:
            assert row.visible < share + 0.005  # the edge of the picture hides too


def test_a_car_changes_the_picture_within_its_box_alone(monkeypatch):
    monkeypatch.setattr(Painter, "ground_shadow", lambda painter: None)
    monkeypatch.setattr(street, "sign", lambda image: image)
    monkeypatch.setattr(street, "lens", lambda *_: lambda image: image)
    photo, rows = draw_street(4, SMALL, cars=1)
    monkeypatch.setattr(Painter, "paint_car", lambda painter, sun: painter.filled.append(np.zeros((3, 2))))
    empty, _ = draw_street(4, SMALL, cars=1)
    found = np.array(ImageChops.difference(photo, empty).getbbox())
    np.testing.assert_allclose(rows.loc[0, ["x0", "y0", "x1", "y1"]].astype(float), found, atol=0.5)


def test_equal_seeds_give_equal_streets_and_others_do_not():
    (a, rows), (b, again), (c, _) = (draw_street(seed, SMALL) for seed in (7, 7, 8))
    assert a.tobytes() == b.tobytes() != c.tobytes()
    pd.testing.assert_frame_equal(rows, again)
    assert (a.size, a.mode) == (SMALL, "RGB")


@pytest.mark.parametrize("size", [(480, 270), (270, 480)])
def test_every_car_is_there_large_enough_partly_visible_and_of_a_known_brand(size):
    for seed in range(6):
        _, rows = draw_street(seed, size, cars=seed + 3)
        assert len(rows) == seed + 3 == rows.vehicle.nunique() == rows.brand.nunique()
        assert all(row.model in BRANDS[row.brand].models for row in rows.itertuples())
        assert rows.visible.between(0.2, 1).all()
        assert (rows.x1 - rows.x0).min() >= 0.04 * size[0]
        assert rows[["x0", "y0"]].to_numpy().min() >= 0
        assert (rows[["x1", "y1"]].max().to_numpy() <= size).all()


def test_an_empty_street_has_no_rows():
    image, rows = draw_street(3, SMALL, cars=0)
    assert image.size == SMALL
    assert list(rows) == street.COLUMNS and rows.empty


def test_too_many_cars_are_refused():
    with pytest.raises(ValueError, match="cars is 9: give 0 to 8, more find no room in one street"):
        draw_street(cars=9)


def test_a_clip_repeats_by_seed(clip):
    again = [next(clip_frames(size=(320, 180), fps=6, seed=seed, returns=True)) for seed in (0, 1)]
    assert clip[0][0].tobytes() == again[0][0].tobytes() != again[1][0].tobytes()
    assert clip[0][1] == again[0][1]


def test_identities_hold_over_a_clip_and_frames_carry_their_times(clip):
    rows = table(clip)
    assert len(clip) == 60
    assert rows.vehicle.nunique() == 4
    assert (rows.groupby("vehicle")[["brand", "model"]].nunique() == 1).all(axis=None)
    assert not rows.duplicated(["frame", "vehicle"]).any()
    np.testing.assert_allclose(rows.time, rows.frame / 6)
    assert (rows[["x1", "y1"]].max() <= [320, 180]).all() and (rows[["x0", "y0"]].min() >= 0).all()


def test_cars_drive_steadily_in_both_directions(clip):
    rows = table(clip)
    rows["middle"] = (rows.x0 + rows.x1) / 2
    rows["step"] = rows.groupby("vehicle").middle.diff()
    steps = rows[rows.groupby("vehicle").frame.diff() == 1].step
    assert (steps > 2).any() and (steps < -2).any()
    assert steps.abs().max() < 0.2 * 320


def test_the_nearer_of_two_that_cross_hides_the_farther_for_a_moment(clip):
    rows = table(clip)
    inside = rows[(rows.x0 > 0) & (rows.x1 < 320) & (rows.y1 < 180)]
    both = inside.pivot(index="frame", columns="vehicle", values="visible")[
        ["street 0 car 0", "street 0 car 1"]
    ].dropna()
    nearer, farther = both.to_numpy().T
    assert farther.min() < 0.25 and nearer[farther.argmin()] == 1
    assert farther[0] > 0.9 or farther[-1] > 0.9
    alone = inside[~inside.duplicated("frame", keep=False)]
    assert (alone.visible > 0.99).sum() > 0.8 * len(alone)  # the edge may hide another car that hides this one


def test_a_car_leaves_and_comes_back_if_asked(clip):
    def gaps(rows):
        frames = rows[rows.vehicle == "street 0 car 0"].frame
        return frames.diff().dropna()

    assert (gaps(table(clip)) > 6).sum() == 1  # away for more than a second, once
    assert (gaps(table(clip_frames(size=(64, 36), fps=3))) == 1).all()
    with pytest.raises(ValueError, match="seconds is 4, cars 4: to leave and come back takes a car and 10 seconds"):
        next(clip_frames(seconds=4, returns=True))


@pytest.mark.parametrize("codecs", [None, {"mpeg4"}])
def test_an_mp4_has_the_promised_frames_rate_and_pictures(tmp_path, monkeypatch, codecs):
    av = pytest.importorskip("av")
    monkeypatch.setattr(av, "codecs_available", codecs or av.codecs_available)
    rows = draw_clip(tmp_path / "clip.mp4", seconds=1.5, fps=8, size=(160, 90), seed=2)
    frames = list(clip_frames(seconds=1.5, fps=8, size=(160, 90), seed=2))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        video = container.streams.video[0]
        assert video.average_rate == 8 and video.frames == 12
        decoded = [frame.to_image() for frame in container.decode(video)]
    assert len(decoded) == len(frames) == 12
    for shown, (drawn, _) in zip(decoded, frames, strict=True):
        assert shown.size == (160, 90)
        assert np.abs(np.asarray(shown, float) - np.asarray(drawn, float)).mean() < 8
    pd.testing.assert_frame_equal(rows, table(frames))


def test_a_clip_without_cars_has_no_rows(tmp_path):
    pytest.importorskip("av")
    rows = draw_clip(tmp_path / "clip.mp4", seconds=0.5, size=(64, 36), cars=0)
    assert list(rows) == list(street.Seen._fields) and rows.empty


def test_what_a_clip_cannot_be_is_refused(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match="seconds is 0, fps 10, cars 4: give seconds and fps above 0, cars of 0 or more"
    ):
        next(clip_frames(seconds=0))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError, match=r'pip install "carclf\[video\]"'):
            draw_clip(tmp_path / "clip.mp4")
    pytest.importorskip("av")
    with pytest.raises(ValueError, match=r"size is \(65, 36\): width and height of a clip must be even"):
        draw_clip(tmp_path / "clip.mp4", size=(65, 36))
    assert not list(tmp_path.iterdir())
