import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf import evaluation, galleries, plots
from carclf.photos import PhotoError, read_photo

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def make_predictions(n_brands, n=600):
    random = np.random.default_rng(n_brands)
    brands = np.array([f"Brand Number {i}" for i in range(n_brands)], object)
    truth, other = random.integers(0, n_brands, (2, n))
    said = np.where(random.random(n) < 0.7, truth, other)
    confidence = random.uniform(0.3, 1, n)
    top5 = [{brands[i]: sure, "another": 1 - sure} for i, sure in zip(said, confidence, strict=True)]
    frame = pd.DataFrame({"brand": brands[truth], "predicted": brands[said], "confidence": confidence, "top5": top5})
    frame["path"] = [f"missing_{i}.jpg" for i in range(n)]
    return frame.assign(accepted=confidence > 0.6, problem=None)


def make_manifest(n_brands, n=600):
    random = np.random.default_rng(n_brands)
    brands = [f"Brand Number {i}" for i in np.append(np.arange(n_brands), random.integers(0, n_brands, n - n_brands))]
    frame = pd.DataFrame({"path": [f"{i}.jpg" for i in range(n)], "brand": brands})
    frame["vehicle"] = [f"{brand} {i // 2}" for i, brand in enumerate(brands)]
    split = random.choice(["train", "valid", "test"], n)
    frame = frame.assign(problem=None, split=split)
    frame.loc[0, "split"] = None
    return frame


@pytest.fixture
def photos(tmp_path):
    """Two photos and a file that is none."""
    Image.new("RGB", (80, 60), "navy").save(tmp_path / "wide.jpg")
    Image.new("RGB", (60, 120), "teal").save(tmp_path / "tall.jpg")
    (tmp_path / "page.jpg").write_text("<html>", encoding="utf-8")
    return [str(tmp_path / name) for name in ("wide.jpg", "tall.jpg", "page.jpg")]


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


@pytest.mark.parametrize("n_brands", [1, 2, 12, 49, 120])
def test_brands_are_legible_whatever_their_number(n_brands):
    manifest, predictions = make_manifest(n_brands), make_predictions(n_brands)
    bars = [plots.brand_counts(manifest), plots.split_counts(manifest)]
    for ax in [*bars, plots.confusion_matrix(predictions)]:
        ax.figure.canvas.draw()
        labels = ax.get_yticklabels()
        assert len(labels) == n_brands
        size = labels[0].get_fontsize()
        assert size >= 5
        row = ax.get_window_extent().height / n_brands * 72 / ax.figure.dpi  # points
        assert row >= size
        assert ax.get_window_extent().x0 > labels[0].get_window_extent().width  # not cut off


def test_bars_say_photos_and_vehicles():
    manifest = make_manifest(3, n=30).assign(brand=["Audi"] * 16 + ["BMW"] * 8 + ["Citroën"] * 6)
    manifest.loc[[0, 1], "problem"] = "empty: the file has no bytes"
    manifest.loc[2, "brand"] = None
    ax = plots.brand_counts(manifest)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Citroën", "BMW", "Audi"]  # from below
    photos, vehicles = ([bar.get_width() for bar in bars] for bars in ax.containers)
    assert photos == [6, 8, 13]
    assert vehicles == manifest[manifest["problem"].isna()].groupby("brand")["vehicle"].nunique()[::-1].tolist()
    assert ax.get_title("left").startswith("27 photos of ")
    assert ax.get_xlabel() == "photos"


def test_split_bars_stack_to_all_photos():
    manifest = make_manifest(5)
    ax = plots.split_counts(manifest)
    names = [label.get_text() for label in ax.get_legend().get_texts()]
    assert [name.split(":")[0] for name in names] == ["train", "valid", "test", "set aside"]
    total = sum(bar.get_width() for bars in ax.containers for bar in bars)
    assert total == len(manifest)


def test_bars_of_nothing():
    with pytest.raises(ValueError, match="none of the 9 photos is readable and carries a brand: name photos"):
        plots.brand_counts(make_manifest(1, n=9).assign(brand=None))


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


def test_training_curves_mark_stages():
    history = pd.DataFrame({"stage": [0, 0, 1], "unfreeze": ["head", "head", "all"], "size": [160, 160, 224]})
    for name in ("train_loss", "valid_loss", "valid_accuracy", "valid_macro_recall"):
        history[name] = [0.3, 0.2, 0.7]
    figure = plots.training_curves(history)
    loss, score = figure.axes
    assert {"head, 160 px", "all, 224 px"} <= set(texts(figure))
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss, nats a photo")
    assert score.get_title("left") == "Scores on valid: best accuracy 70.0%"
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    plots.training_curves(history.head(1)).canvas.draw()


def test_training_steps_show_every_rate_and_loss():
    steps = pd.DataFrame(
        {"stage": [0, 0, 0, 1, 1], "rate": [1e-4, 1e-3, 1e-6, 5e-4, 1e-7], "loss": [2.0, 1.5, 1.0, 0.9, 0.8]}
    )
    rate, loss = plots.training_steps(steps).axes
    np.testing.assert_allclose(rate.lines[0].get_ydata(), steps.rate)
    np.testing.assert_allclose(loss.lines[0].get_ydata(), steps.loss)
    for ax in (rate, loss):
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [0.5, 3.5]
        assert ax.get_xlabel() == "optimizer step"
    plots.training_steps(steps.head(1)).canvas.draw()


def test_confusion_matrix_takes_either_table():
    predictions = make_predictions(6)
    first = plots.confusion_matrix(predictions)
    second = plots.confusion_matrix(evaluation.confusion(predictions), ax=plt.figure().add_subplot())
    for ax in (first, second):
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert names == [label.get_text() for label in ax.get_xticklabels()]
        diagonal = evaluation.row_shares(evaluation.confusion(predictions)).loc[names, names].to_numpy().diagonal()
        np.testing.assert_allclose(np.diagonal(ax.images[0].get_array()), diagonal)
    assert (first.get_xlabel(), first.get_ylabel()) == ("predicted brand", "true brand, share of its photos")
    right = (predictions["brand"] == predictions["predicted"]).mean()
    assert first.get_title("left") == f"600 photos of 6 brands, {right:.1%} named rightly"


def test_confusion_matrix_greys_brands_without_photos():
    counts = evaluation.confusion(make_predictions(6), [f"Brand Number {i}" for i in range(7)])
    ax = plots.confusion_matrix(counts)
    assert len(ax.patches) == 1
    ax.figure.canvas.draw()


@pytest.mark.parametrize("plot", [plots.risk_coverage, plots.threshold_curve])
def test_thresholds_are_marked(plot):
    predictions = make_predictions(6)
    ax = plot(predictions, ax=plt.figure().add_subplot(), threshold=0.6)
    assert any("threshold 0.60" in label.get_text() for label in ax.get_legend().get_texts())
    assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title("left")
    plot(predictions.head(1)).figure.canvas.draw()


def test_risk_coverage_ends_at_the_accuracy():
    predictions = make_predictions(6)
    line = plots.risk_coverage(predictions).lines[0]
    accuracy = evaluation.metrics(predictions)["accuracy"]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (1, pytest.approx(accuracy))


def test_reliability_says_its_error():
    predictions = make_predictions(6)
    ax = plots.reliability(predictions)
    assert (
        ax.get_title("left") == f"Expected calibration error {evaluation.expected_calibration_error(predictions):.1%}"
    )
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1)


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
        columns=["path", "brand", "predicted", "confidence", "top5", "accepted", "problem"],
    )
    figure = galleries.prediction_page(predictions)
    figure.canvas.draw()
    found = texts(figure)
    assert {"✓ Audi", "✗ Audi, not BMW", "? BMW", "– Audi"} <= set(found)
    assert {"90% · wide.jpg", "40%, unsure · tall.jpg", "page.jpg", "90% · $x_{.jpg"} <= set(found)
    assert any("begins with" in text.replace("\n", " ") for text in found)
    assert any("no such" in text.replace("\n", " ") for text in found)


def test_house_style_stays_at_home():
    before = dict(matplotlib.rcParams)
    ax = plots.brand_counts(make_manifest(3))
    assert dict(matplotlib.rcParams) == before
    assert not ax.spines["top"].get_visible()
    ax.figure.canvas.draw()  # makes ticks, long after the style has gone
    assert ax.xaxis.get_major_ticks()[-1].gridline.get_color() == "#e6e6e6"


def test_long_and_odd_names_become_one_short_line():
    assert galleries._plain("a\nb\udc80c") == "a b c"
    assert galleries._plain("x" * 50 + ".jpg", 20) == "x" * 9 + "…" + "x" * 6 + ".jpg"


def test_photo_sizes_say_how_many_are_below_the_cache():
    manifest = make_manifest(3).assign(width=[100, 300, 500] * 200, height=[400, 200, 60] * 200)
    ax = plots.photo_sizes(manifest, cache_size=150)
    assert ax.get_title("left") == "67% of the photos have a shorter side below 150 pixels"
    assert sum(bar.get_height() for bar in ax.patches) == 600
    assert ax.get_xlabel() == "shorter side in pixels"
    assert "shorter side of 100 pixels" in plots.photo_sizes(manifest).get_title("left")
    one_size = manifest.assign(width=64, height=64)
    assert plots.photo_sizes(one_size).get_xscale() == "log"


def test_split_scores_show_interval_and_siblings():
    rows = {"photos": [98, 99], "with_sibling_in_train": [0.8, 0.0], "accuracy": [0.6, 0.3]}
    table = pd.DataFrame({**rows, "low": [0.5, 0.2], "high": [0.7, 0.4]}, index=["photo by photo", "vehicles whole"])
    ax = plots.split_scores(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "photo by photo\n80% with a sibling in train",
        "vehicles whole\n0% with a sibling in train",
    ]
    colours = [bar.get_facecolor() for bar in ax.patches]
    assert colours[0] == matplotlib.colors.to_rgba(plots.WRONG)
    assert colours[1] == matplotlib.colors.to_rgba(plots.RIGHT)
    assert not plots.split_scores(table[:0]).patches


def test_duplicates_stand_side_by_side_and_contradictions_are_marked(photos):
    rows = [[photos[0], photos[1], "Audi", "BMW", "near", 12], [photos[0], photos[2], "Audi", None, "exact", 0]]
    pairs = pd.DataFrame(rows, columns=["path", "other_path", "brand", "other_brand", "kind", "bits"])
    said = texts(galleries.duplicates_page(pairs))
    assert {"✗ Audi", "✗ BMW", "Audi", "no brand in its name"} <= set(said)
    assert any(text.startswith("12 of 256 bits differ · wide.jpg") for text in said)
    assert any(text.startswith("the same file · wide.jpg") for text in said)
    assert any("not an" in text for text in said)
    assert texts(galleries.duplicates_page(pairs[:0])) == ["No picture is there more than once."]
