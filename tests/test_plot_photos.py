import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf import plot
from carclf.data.photos import PhotoError, read_photo
from carclf.plot.photos import pair_photos
from carclf.plot.style import plain

COLUMNS = ["path", "brand", "predicted", "confidence", "top5", "accepted", "problem"]


@pytest.fixture
def photos(tmp_path):
    """Two photos and a file that is none."""
    Image.new("RGB", (80, 60), "navy").save(tmp_path / "wide.jpg")
    Image.new("RGB", (60, 120), "teal").save(tmp_path / "tall.jpg")
    (tmp_path / "page.jpg").write_text("<html>", encoding="utf-8")
    return [str(tmp_path / name) for name in ("wide.jpg", "tall.jpg", "page.jpg")]


def words(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def texts(figure):
    found = [words(text.get_text()) for text in figure.findobj(plt.Text)]
    return [text for text in found if text]


def titles(figure):
    return [words(ax.get_title("left")) for ax in figure.axes]


def test_photo_grid_of_files_says_what_is_wrong(photos):
    figure = plot.photo_grid(photos, titles=["a", "b", "c"], columns=2)
    with pytest.raises(PhotoError) as problem:
        read_photo(photos[2])
    assert [text.replace("\n", " ") for text in texts(figure) if len(text) > 1] == [str(problem.value)]
    assert titles(figure) == ["a", "b", "c"]
    figure.canvas.draw()
    for ax in figure.axes:
        box = ax.get_window_extent()
        assert box.height / box.width == pytest.approx(0.75, rel=0.02)


@pytest.mark.parametrize("kind", ["pil", "uint8", "float", "normalised"])
def test_photo_grid_of_pixels(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 10), dtype=np.uint8)
    photos = {
        "pil": [Image.fromarray(np.moveaxis(one, 0, -1)) for one in pixels],
        "uint8": pixels,
        "float": pixels / 255,
        "normalised": (pixels / 255 - 0.5) * 4,
    }[kind]
    shown = [np.asarray(ax.images[0].get_array()) for ax in plot.photo_grid(photos).axes]
    scale = 255 if kind in ("float", "normalised") else 1
    np.testing.assert_allclose(shown, np.moveaxis(pixels, 1, -1) / scale, atol=1e-6)


def test_overlay_page_shows_each_photo_beside_its_map(tmp_path):
    photo = Image.new("RGB", (120, 60), (0, 0, 255))
    photo.save(tmp_path / "Audi.png")
    (tmp_path / "broken.jpg").write_text("no photo")
    maps = np.zeros((3, 8, 8), np.float32)
    maps[:, :, :4] = 1
    sources = [tmp_path / "Audi.png", np.moveaxis(np.asarray(photo), -1, 0), tmp_path / "broken.jpg"]
    figure = plot.overlay_page(sources, maps, ["one", "two", "three"])
    assert titles(figure) == ["one", "", "two", "", "three", ""]
    shown = [ax.images[0].get_array() if ax.images else None for ax in figure.axes]
    assert shown[4:] == [None, None]  # grey tiles for what cannot be read
    for plain_photo, overlaid in (shown[:2], shown[2:4]):
        assert plain_photo.shape == overlaid.shape == (60, 120, 3)
        np.testing.assert_array_equal(overlaid[5, 100], plain_photo[5, 100])  # where nothing counts, the photo
        assert overlaid[5, 5, 2] < 200  # where everything counts, a bright warm colour
        assert overlaid[5, 5, 0] > 150
    assert titles(plot.overlay_page(sources, maps)) == [""] * 6
    answers = pd.DataFrame({"path": sources[:1], "brand": ["Audi"], "predicted": ["Land Rover"], "confidence": [0.9]})
    page = plot.overlay_page(answers.assign(accepted=False, decision="unsure"), maps[:1])
    assert titles(page) == ["said Land Rover 90 % (unsure), is Audi", ""]
    with pytest.raises(ValueError, match="3 photos and 2 maps; give one map per photo"):
        plot.overlay_page(sources, maps[:2])


def test_sample_photos_are_readable_and_named(photos):
    manifest = pd.DataFrame({"path": photos, "brand": ["Audi", None, "BMW"], "problem": [None, None, "not an image"]})
    assert sorted(titles(plot.sample_photos(manifest))) == ["Audi", "no brand in its name"]


def test_prediction_page_shows_every_kind_of_answer(photos):
    wide, tall, page = photos
    rows = [
        (wide, "Audi", "Audi", 0.9, {"Audi": 0.9, "BMW": 0.1}, True, None),
        (tall, "Audi", "BMW", 0.4, {"BMW": 0.4, "Audi": 0.3}, False, None),
        (wide, None, "BMW", 0.8, {"BMW": 0.8}, True, None),
        (page, "Audi", None, np.nan, None, False, "not an image: begins with <html>"),
        ("gone/$x_{.jpg", "Audi", "Audi", 0.9, {"Audi": 0.9}, True, None),  # deleted since, and not mathematics
    ]
    figure = plot.prediction_page(pd.DataFrame(rows, columns=COLUMNS))
    figure.canvas.draw()
    found = [text.replace("\n", " ") for text in texts(figure)]
    assert {"✓ Audi 90 %", "said BMW 40 % (unsure), is Audi", "BMW 80 %", "not read"} <= set(found)
    assert {"wide.jpg", "tall.jpg", "page.jpg", "$x_{.jpg"} <= set(found)
    assert any("begins with" in text for text in found)
    assert any("no such" in text for text in found)


def test_a_table_no_longer_than_the_page_keeps_its_order(photos):
    rows = [(photos[0], "Audi", name, 0.5, {name: 0.5}, True, None) for name in ("Volvo", "BMW", "Skoda", "Fiat")]
    predictions = pd.DataFrame(rows, columns=COLUMNS)
    assert [title for title in titles(plot.prediction_page(predictions)) if title] == [
        f"said {row[2]} 50 %, is Audi" for row in rows
    ]


def test_confused_pairs_show_both_sides(photos):
    rows = [
        (photos[0], "Audi", "Porsche", 0.9),
        (photos[1], "Audi", "Porsche", 0.6),
        (photos[1], "Audi", "Audi", 0.6),
        (photos[0], "Porsche", "Porsche", 0.8),
        (photos[1], "Porsche", "BMW", 0.99),
        (photos[2], "BMW", None, np.nan),
    ]
    predictions = pd.DataFrame(rows, columns=COLUMNS[:4]).assign(top5=None, accepted=True, problem=None)
    figure = plot.confused_page(predictions.assign(vehicle=[f"car {i}" for i in range(len(rows))]), k=2)
    figure.canvas.draw()
    first, second = figure.subfigs
    assert first.get_suptitle().startswith(
        "Audi mistaken for Porsche: 2 photos, 67\N{NO-BREAK SPACE}% of Audi; both belong to Volks"
    )
    said = ["said Porsche 90 %, is Audi", "said Porsche 60 %, is Audi", "✓ Porsche 80 %", "said BMW 99 %, is Porsche"]
    assert [title.replace("\n", " ") for title in titles(first)] == said  # the last for lack of a better one
    left, right = (max(ax.get_window_extent().x1 for ax in first.axes[:2]), first.axes[2].get_window_extent().x0)
    assert left < right
    assert words(second.get_suptitle()) == "Porsche mistaken for BMW: 1 photo, 50 % of Porsche; no common owner"
    assert texts(plot.confused_page(predictions[2:4])) == ["none: no brand was mistaken for another"]


def test_a_pair_shows_several_vehicles_before_a_vehicle_twice():
    predictions = pd.DataFrame({"confidence": [0.9, 0.8, 0.7, 0.6], "vehicle": ["one", "one", "two", "two"]})
    mistaken, others = pair_photos(predictions.assign(path="a.jpg", brand="Audi", predicted="BMW"), "Audi", "BMW")
    assert mistaken["confidence"].tolist() == [0.9, 0.7, 0.8]
    assert others.empty


def test_long_and_odd_names_become_one_short_line():
    assert plain("a\nb\udc80c") == "a b c"
    assert plain("x" * 50 + ".jpg", 20) == "x" * 10 + "…" + "x" * 5 + ".jpg"


def test_duplicates_stand_side_by_side_and_contradictions_are_marked(photos):
    rows = [[photos[0], photos[1], "Audi", "BMW", "near", 1], [photos[0], photos[2], "Audi", None, "exact", 0]]
    pairs = pd.DataFrame(rows, columns=["path", "other_path", "brand", "other_brand", "kind", "bits"])
    said = texts(plot.duplicates_page(pairs))
    assert {"✗ Audi", "✗ BMW", "Audi", "no brand in its name"} <= set(said)
    for start in ("1 of 256 bits differs · wide.jpg", "the same file · wide.jpg", "not an"):
        assert any(text.startswith(start) for text in said)
    assert plot.alt_text(plot.duplicates_page(pairs)) == "2 of 2 pairs of duplicates side by side, 1 under two brands"


def test_a_scene_says_how_many_cars_it_has_and_what_they_are():
    rows = pd.DataFrame(
        {"predicted": ["Audi", None], "confidence": [0.98, np.nan], "decision": ["accepted", "too small"]}
        | {"accepted": [True, False], "x0": [10.0, 60], "y0": [10.0, 60], "x1": [50.0, 70], "y1": [50.0, 70]}
    )
    photo = Image.new("RGB", (100, 80), "white")
    figure = plot.scene_page(photo, rows)
    assert plot.alt_text(figure) == "A photo with 2 cars: Audi 98 %; too small"
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), plot.draw_cars(photo, rows))
    empty = rows.head(1).assign(decision="no car found", x0=np.nan)
    assert plot.alt_text(plot.scene_page(photo, empty)) == "none: no car was found"
