import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tables import make_predictions

from carclf import evaluation, galleries
from carclf.html_page import Section, write_page
from carclf.report_page import write_report
from carclf.thresholds import promised

HOSTILE = (
    "<svg onload=alert(1)>.jpg",
    "\"><img src=x onerror='alert(1)'>.jpg",
    "lone \udc80.jpg",
    "turn\u202egpj.jpg",
)


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.said = [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.said.append(data)

    def images(self):
        """Bytes of the images, by kind: "png" or "jpeg"."""
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        found = [re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", source).groups() for source in sources]
        return [(kind, base64.b64decode(data)) for kind, data in found]


def made_predictions(folder, n_brands=49, n=400):
    """Predictions of photos of which some are there, with metadata, and some have hostile names."""
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    predictions = make_predictions(n_brands, n).assign(loss=np.linspace(0, 5, n))
    random = np.random.default_rng(0)
    for i in range(0, n, 3):
        pixels = random.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(folder / f"photo_{i}.jpg", exif=exif)
        predictions.loc[i, "path"] = str(folder / f"photo_{i}.jpg")
    predictions.loc[predictions.index[-4:], "path"] = HOSTILE  # with the highest losses, so that they are shown
    return predictions


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with all it can hold: its folder, the page, and what it was made from."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "photos").mkdir()
    predictions = made_predictions(folder / "photos")
    classes = sorted({*predictions["brand"], *predictions["predicted"], "Never Tested"})
    probabilities = np.full((len(predictions), len(classes)), 0.001)
    probabilities[np.arange(len(predictions)), predictions["predicted"].map(classes.index)] = 0.95
    metrics = evaluation.metrics(predictions, classes=classes, n_boot=50)
    before = plt.get_fignums()
    path = write_report(
        folder / "out",
        predictions,
        metrics,
        probabilities=probabilities,
        classes=classes,
        threshold=0.6,
        promise=promised(predictions, predictions, 0.6),
        before=predictions.assign(confidence=predictions["confidence"] ** 0.5),
        facts={"model": "<b>first</b>"},
        sections=[
            Section("Pictures of no car", "Words & more.\n\nA second paragraph.", [pd.DataFrame({"a": [1.23456]})])
        ],
    )
    assert plt.get_fignums() == before  # a notebook shows none of them a second time
    text = path.read_text("utf-8")
    return folder / "out", text, Page(text), predictions, metrics


def test_report_needs_nothing_else(report):
    _, text, page, *_ = report
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/").startswith("data:image/")
    assert "url(" not in text and "@import" not in text
    assert len(text) < 3_000_000


def test_hostile_names_are_shown_and_do_nothing(report):
    _, text, page, *_ = report
    assert "<svg onload=alert(1)>.jpg" in page.text
    assert "\"><img src=x onerror='alert(1)'>.jpg" in page.text
    assert "\u202e" not in text  # would turn the text behind it around
    assert "<b>first</b>" in page.text


def test_report_keeps_no_folders_and_no_metadata(report):
    folder, text, page, *_ = report
    assert str(folder.parent) not in text and "secret camera" not in text
    photos = [data for kind, data in page.images() if kind == "jpeg"]
    assert len(photos) > 5
    for data in photos:
        image = Image.open(io.BytesIO(data))
        assert max(image.size) <= 180
        assert not image.getexif() and b"secret camera" not in data


def test_report_says_the_numbers(report):
    _, _, page, predictions, metrics = report
    for share in ("accuracy", "accuracy_low", "accuracy_high", "macro_recall", "top5_accuracy"):
        assert f"{metrics[share]:.1%}" in page.text
    row = promised(predictions, predictions, 0.6).iloc[0]
    assert f"{row.test_accuracy:.1%}, 95 % interval {row.test_low:.1%} to {row.test_high:.1%}" in page.text
    assert f"{row.valid_accuracy:.1%}; at least {row.valid_bound:.1%} are proven" in page.text
    pair = evaluation.confused_pairs(predictions, 1).iloc[0]
    assert f"{pair.brand} taken for {pair.predicted}: {pair.photos} photo" in page.text
    for brand, row in evaluation.brand_report(predictions).iterrows():
        assert f"{brand} {row.recall:.0%} ({row.recall_low:.0%} to {row.recall_high:.0%})" in page.text
    assert "No photo was tested of Never Tested" in page.text
    assert "Words & more." in page.text and "1.23" in page.text


def test_pictures_lie_beside_the_report(report):
    folder, _, page, *_ = report
    embedded = {data for kind, data in page.images() if kind == "png"}
    assert embedded == {path.read_bytes() for path in (folder / "pictures").iterdir()}
    assert len(embedded) == 6
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img" and "width" in attributes)


def test_photos_to_check_stand_in_a_table(report):
    folder, _, _, predictions, _ = report
    table = pd.read_csv(folder / "to_check.csv")
    wrong = predictions[predictions["brand"] != predictions["predicted"]]
    assert table["path"].is_unique
    assert set(table["path"][: len(wrong)]) == set(wrong["path"].str.encode("utf-8", "replace").str.decode("utf-8"))
    assert table["correct_brand"].isna().all()


@pytest.mark.parametrize("rows", [1, 20])
def test_report_of_a_model_without_mistakes(tmp_path, rows):
    predictions = make_predictions(2, n=rows).assign(brand=lambda table: table["predicted"], loss=0.1)
    page = Page(write_report(tmp_path, predictions, evaluation.metrics(predictions, n_boot=20)).read_text("utf-8"))
    assert "No brand was taken for another." in page.text
    assert "Surest mistakes" not in page.text and "Names that may be wrong" not in page.text


def test_a_part_that_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(TypeError, match="section 'Odd' is a dict; give Axes, Figures and DataFrames"):
        write_page(tmp_path / "page.html", "title", "", [Section("Odd", "", [{}])])


def test_galleries_go_into_a_page_even_where_they_show_nothing(tmp_path):
    figure = galleries.prediction_page(make_predictions(2)[:0])
    write_page(tmp_path / "page.html", "title", "", [Section("Nothing?", "", [figure])])
    plt.close(figure)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["1-1-nothing.png"]


def test_tables_show_every_kind_of_value(tmp_path):
    table = pd.DataFrame({"whole_number": [12345, None], "share": [0.25, np.nan], "same": [True, False]}, dtype=object)
    write_page(tmp_path / "page.html", "title", "", [Section("One", "", [table.set_axis(["<i>a</i>", "b"])])])
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    assert page.text.endswith("whole number share same <i>a</i> 12,345 0.25 yes b – – no")
