import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf import galleries
from carclf.photos import PhotoError, read_photo
from carclf.style import plain

COLUMNS = ["path", "brand", "predicted", "confidence", "top5", "accepted", "problem"]


@pytest.fixture
def photos(tmp_path):
    """Two photos and a file that is none."""
    Image.new("RGB", (80, 60), "navy").save(tmp_path / "wide.jpg")
    Image.new("RGB", (60, 120), "teal").save(tmp_path / "tall.jpg")
    (tmp_path / "page.jpg").write_text("<html>", encoding="utf-8")
    return [str(tmp_path / name) for name in ("wide.jpg", "tall.jpg", "page.jpg")]


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def test_photo_grid_of_files_shows_what_is_wrong(photos):
    figure = galleries.photo_grid(photos, titles=["a", "b", "c"], columns=2)
    assert len(figure.axes) == 3
    with pytest.raises(PhotoError) as problem:
        read_photo(photos[2])
    assert [text.replace("\n", " ") for text in texts(figure) if len(text) > 1] == [str(problem.value)]
    assert [ax.get_title("left") for ax in figure.axes] == ["a", "b", "c"]
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
    shown = [np.asarray(ax.images[0].get_array()) for ax in galleries.photo_grid(photos).axes]
    expected = np.moveaxis(pixels, 1, -1)
    if kind in ("float", "normalised"):
        expected = expected / 255
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_photo_grid_of_nothing():
    with pytest.raises(ValueError, match="the list is empty"):
        galleries.photo_grid([])


def test_sample_photos_are_readable_and_named(photos):
    manifest = pd.DataFrame({"path": photos, "brand": ["Audi", None, "BMW"], "problem": [None, None, "not an image"]})
    figure = galleries.sample_photos(manifest)
    assert sorted(ax.get_title("left") for ax in figure.axes) == ["Audi", "no brand in its name"]


def test_prediction_page_shows_every_kind_of_answer(photos):
    wide, tall, page = photos
    predictions = pd.DataFrame(
        [
            (wide, "Audi", "Audi", 0.9, {"Audi": 0.9, "BMW": 0.1}, True, None),
            (tall, "Audi", "BMW", 0.4, {"BMW": 0.4, "Audi": 0.3}, False, None),
            (wide, None, "BMW", 0.8, {"BMW": 0.8}, True, None),
            (page, "Audi", None, np.nan, None, False, "not an image: begins with <html>"),
            ("gone/$x_{.jpg", "Audi", "Audi", 0.9, {"Audi": 0.9}, True, None),  # deleted since, and not mathematics
        ],
        columns=COLUMNS,
    )
    figure = galleries.prediction_page(predictions)
    figure.canvas.draw()
    found = texts(figure)
    assert {"✓ Audi", "✗ Audi, not BMW", "? BMW", "– Audi"} <= set(found)
    assert {"90% · wide.jpg", "40%, unsure · tall.jpg", "page.jpg", "90% · $x_{.jpg"} <= set(found)
    assert any("begins with" in text.replace("\n", " ") for text in found)
    assert any("no such" in text.replace("\n", " ") for text in found)


def test_a_table_no_longer_than_the_page_keeps_its_order(photos):
    rows = [(photos[0], "Audi", name, 0.5, {name: 0.5}, True, None) for name in ("Volvo", "BMW", "Skoda", "Fiat")]
    predictions = pd.DataFrame(rows, columns=COLUMNS)
    titles = [ax.get_title("left") for ax in galleries.prediction_page(predictions).axes if ax.get_title("left")]
    assert titles == [f"✗ Audi, not {row[2]}" for row in rows]
    assert texts(galleries.prediction_page(predictions[:0])) == ["There is no such photo."]


def test_confused_pairs_show_both_sides(photos):
    rows = [
        (photos[0], "Audi", "Porsche", 0.9),
        (photos[1], "Audi", "Porsche", 0.6),
        (photos[1], "Audi", "Audi", 0.6),
        (photos[0], "Porsche", "Porsche", 0.8),
        (photos[1], "Porsche", "BMW", 0.99),
        (photos[2], "BMW", None, np.nan),
    ]
    predictions = pd.DataFrame(rows, columns=["path", "brand", "predicted", "confidence"])
    predictions["vehicle"] = [f"car {i}" for i in range(len(rows))]
    predictions = predictions.assign(top5=None, accepted=True, problem=None)
    figure = galleries.confused_page(predictions, k=2)
    figure.canvas.draw()
    first, second = figure.subfigs
    assert first.get_suptitle().startswith("Audi taken for Porsche: 2 photos, 67% of Audi; both belong to Volkswagen")
    assert [ax.get_title("left") for ax in first.axes] == [
        "✗ Porsche",
        "✗ Porsche",
        "✓ Porsche",
        "✗ BMW",  # the best there is
    ]
    left, right = (max(ax.get_window_extent().x1 for ax in first.axes[:2]), first.axes[2].get_window_extent().x0)
    assert left < right
    assert second.get_suptitle() == "Porsche taken for BMW: 1 photo, 50% of Porsche; no common owner"
    assert texts(galleries.confused_page(predictions[2:4])) == ["No brand was taken for another."]


def test_a_pair_shows_several_vehicles_before_a_vehicle_twice(photos):
    predictions = pd.DataFrame({"confidence": [0.9, 0.8, 0.7, 0.6], "vehicle": ["one", "one", "two", "two"]})
    predictions = predictions.assign(path=photos[0], brand="Audi", predicted="BMW", top5=None)
    mistaken, others = galleries.pair_photos(predictions, "Audi", "BMW")
    assert mistaken["confidence"].tolist() == [0.9, 0.7, 0.8]
    assert others.empty


def test_long_and_odd_names_become_one_short_line():
    assert plain("a\nb\udc80c") == "a b c"
    assert plain("x" * 50 + ".jpg", 20) == "x" * 9 + "…" + "x" * 6 + ".jpg"


def test_duplicates_stand_side_by_side_and_contradictions_are_marked(photos):
    rows = [[photos[0], photos[1], "Audi", "BMW", "near", 12], [photos[0], photos[2], "Audi", None, "exact", 0]]
    pairs = pd.DataFrame(rows, columns=["path", "other_path", "brand", "other_brand", "kind", "bits"])
    said = texts(galleries.duplicates_page(pairs))
    assert {"✗ Audi", "✗ BMW", "Audi", "no brand in its name"} <= set(said)
    assert any(text.startswith("12 of 256 bits differ · wide.jpg") for text in said)
    assert any(text.startswith("the same file · wide.jpg") for text in said)
    assert any("not an" in text for text in said)
    assert texts(galleries.duplicates_page(pairs[:0])) == ["No picture is there more than once."]
