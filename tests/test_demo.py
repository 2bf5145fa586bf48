"""The drawn demo is complete and deterministic, names its flaws, and leaves other people's files alone."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from carclf.brands import parse_brand
from carclf.demo import folder as demo
from carclf.demo import picture
from carclf.demo.folder import BRANDS, draw_demo, photos_or_drawn
from carclf.demo.picture import VIEWS, draw_photo

LISTING = re.compile(r"(?P<vehicle>.+_\d{4}(_[^_]+){13})_[A-Za-z]{3}\.jpg")
PATTERNS = [LISTING.pattern, r"Audi car back_Audi_car_back_\d+\.jpg", r"Audi (A4|A6|Q5|TT Coupe) \d{4}_\d{5}\.jpg"]
PATTERNS += [r"Volvo/\d{3}\.jpg", r"[a-z0-9]{12}\.jpg", r"Image_\d{6}\.jpg", r"\d{5}\.jpg"]
FEW = {name: brand._replace(photos=4) for name, brand in BRANDS.items()}  # drawn in two seconds


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(demo, "BRANDS", FEW)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "BRANDS", FEW)
        return folder, draw_demo(folder)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_plan_is_large_uneven_full_of_siblings_and_has_names_in_every_pattern(seed):
    shots = demo._plan(seed)
    sizes = Counter(shot.brand for shot in shots if shot.named)
    listings = [(shot.vehicle, match["vehicle"]) for shot in shots if (match := LISTING.fullmatch(shot.name))]
    siblings = Counter(vehicle for vehicle, _ in listings)
    assert len(shots) >= 600
    assert len(sizes) >= 12
    assert min(sizes.values()) >= 20 and max(sizes.values()) >= 5 * min(sizes.values())
    assert sum(siblings.values()) > len(shots) / 2
    assert min(siblings.values()) >= 1 and max(siblings.values()) <= 8
    assert np.median([*siblings.values()]) in (4, 4.5, 5)
    assert len({shot.name.lower() for shot in shots}) == len(shots)
    # Photos of one listing share all but three letters, and only they do.
    assert len(set(listings)) == len(siblings) == len({name for _, name in listings})
    for pattern in PATTERNS:
        assert any(re.fullmatch(pattern, shot.name) for shot in shots), pattern
    for shot in shots:
        carrier = shot.name.split("/")[0]  # the folder, if there is one
        assert parse_brand(carrier) == (shot.brand if shot.named else None), shot.name


def test_summary_counts_what_is_on_disk_and_a_second_call_draws_nothing(few, drawn, monkeypatch):
    folder, summary = drawn
    assert summary.photos == len(contents(folder)) == 4 * len(BRANDS) + 6 + 12
    assert sum(summary.brands.values()) == summary.photos - 12
    once = ["grey", "cmyk", "png", "rotated", "truncated", "text", "empty"]
    assert {kind: len(names) for kind, names in summary.flaws.items()} == {**dict.fromkeys(once, 1), "duplicate": 3}
    monkeypatch.setattr(demo, "draw_photo", None)  # calling it would fail
    assert draw_demo(folder) == summary


def test_flaws_are_what_they_are_called(drawn):
    folder, summary = drawn
    path = {kind: folder / names[0] for kind, names in summary.flaws.items()}
    with Image.open(path["grey"]) as grey, Image.open(path["cmyk"]) as cmyk, Image.open(path["png"]) as png:
        assert (grey.mode, cmyk.mode, png.format) == ("L", "CMYK", "PNG")
    with Image.open(path["rotated"]) as rotated:
        assert ImageOps.exif_transpose(rotated).size == rotated.size[::-1] != rotated.size
    with Image.open(path["truncated"]) as truncated, pytest.raises(OSError, match="truncated"):
        truncated.load()
    with pytest.raises(UnidentifiedImageError):
        Image.open(path["text"])
    assert path["empty"].stat().st_size == 0
    files = contents(folder)
    for name in summary.flaws["duplicate"]:
        (twin,) = [other for other, content in files.items() if content == files[name] and other != name]
        assert twin.startswith(parse_brand(name))
    for name in files.keys() - {name for names in summary.flaws.values() for name in names}:
        with Image.open(folder / name) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert 280 <= image.width <= 400 and 225 <= image.height <= 300


def test_equal_seeds_give_equal_bytes_and_others_do_not():
    shots = [shot for shot in demo._plan(3) if shot.flaw in ("", "rotated", "truncated")][::90]
    first, again, other = ([demo._file_bytes(shot, seed) for shot in shots] for seed in (3, 3, 4))
    assert first == again
    assert not set(first) & set(other)
    assert demo._plan(3) == demo._plan(3) != demo._plan(4)


@pytest.mark.parametrize("brand", BRANDS)
def test_every_brand_can_be_drawn_in_every_view(brand):
    body = next(iter(BRANDS[brand].models.values()))
    for view in VIEWS:
        streams = {word: demo.stream(0, word) for word in ("model", "vehicle", "photo")}
        assert draw_photo(BRANDS[brand].style, body, view, **streams).mode == "RGB"


def test_an_interrupted_drawing_is_completed_to_the_same_bytes(few, drawn, tmp_path, monkeypatch):
    complete, drawings = contents(drawn[0]), iter(range(20))

    def until_interrupted(*args, **kwargs):
        if next(drawings, None) is None:
            raise KeyboardInterrupt
        return draw_photo(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(demo, "draw_photo", until_interrupted)
        draw_demo(tmp_path)
    assert 0 < len(contents(tmp_path)) < len(complete)
    draw_demo(tmp_path)
    assert contents(tmp_path) == complete


def test_other_files_and_another_seed_are_refused_and_left_alone(few, drawn, tmp_path):
    for name in (".gitignore", "holiday.jpg"):  # dot files are no photos
        (tmp_path / name).write_bytes(b"mine")
    message = rf"{re.escape(str(tmp_path))} holds 1 file\(s\) .* such as 'holiday.jpg': choose a new or empty folder\Z"
    with pytest.raises(ValueError, match=message):
        draw_demo(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", "holiday.jpg"]
    with pytest.raises(ValueError, match="the demo of seed 5, version 1, did not draw"):
        draw_demo(drawn[0], seed=5)


def test_an_empty_folder_is_replaced_by_the_drawn_photos_and_no_other_is(few, drawn, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".gitignore").write_text("*")
    assert photos_or_drawn(tmp_path / "images", drawn[0]) == str(drawn[0])
    assert (
        f"No photos in {tmp_path / 'images'} yet: this runs on {drawn[1].photos} drawn ones" in capsys.readouterr().out
    )
    (tmp_path / "images" / "Audi").mkdir()
    (tmp_path / "images" / "Audi" / "notes.txt").touch()
    assert photos_or_drawn(tmp_path / "images", drawn[0]) == str(tmp_path / "images")
    assert not capsys.readouterr().out
    with pytest.raises(NotADirectoryError, match=r"there is no folder .*imagse; did you mean .images."):
        photos_or_drawn(tmp_path / "imagse", drawn[0])


@pytest.mark.slow
def test_the_complete_demo_can_be_drawn(tmp_path):
    summary = draw_demo(tmp_path / "new" / "demo")
    assert summary.photos == len(contents(tmp_path)) >= 600
    assert len(summary.brands) >= 12


def test_boxes_hold_the_painted_car_and_no_more(monkeypatch):
    """A box is where a photo differs from the same place without the car, ignoring shadow, lens and signature."""
    monkeypatch.setattr(picture.Painter, "ground_shadow", lambda painter: None)
    monkeypatch.setattr(picture.Lens, "__call__", lambda lens, image: image)
    monkeypatch.setattr(picture, "sign", lambda image: image)
    for shot in demo._plan(0)[:40]:
        photo, box = draw_photo(**demo._looks(shot, 0)), picture.car_box(**demo._looks(shot, 0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(picture.Painter, "paint_car", lambda painter, sun: None)
            place = draw_photo(**demo._looks(shot, 0))
        found = np.array(ImageChops.difference(photo, place).getbbox()) / [*photo.size, *photo.size]
        np.testing.assert_allclose(box, found, atol=0.05)


def test_boxes_are_known_by_path(few, drawn):
    folder, _ = drawn
    paths = sorted(folder.rglob("*.jpg"))
    boxes = demo.car_boxes(folder, paths)
    assert boxes.shape == (len(paths), 4)
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    np.testing.assert_array_equal(demo.car_boxes(folder, paths[3:5]), boxes[3:5])
    with pytest.raises(ValueError, match=r"other.jpg is not a photo of the demo in .*: give paths below this folder"):
        demo.car_boxes(folder, [folder / "other.jpg"])
    with pytest.raises(ValueError, match=r"holds no demo photos of version 1: give a folder that draw_demo has drawn"):
        demo.car_boxes(folder.parent, [])
