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

from carclf import plot
from carclf.metrics.scores import brand_report, compute_metrics, confused_pairs
from carclf.metrics.thresholds import promised
from carclf.report.page import Section, write_report

HOSTILE = (
    "<svg onload=alert(1)>.jpg",
    "\"><img src=x onerror='alert(1)'>.jpg",
    "lone \udc80.jpg",
    "turn\u202egpj.jpg",
)


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.said = [], []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.said.append(data)

    def images(self, kind):
        """Bytes of the images of a kind, "png" or "jpeg"; all images are data."""
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        found = [re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", source).groups() for source in sources]
        return [base64.b64decode(data) for which, data in found if which == kind]


def made_predictions(folder, n_brands=49, n=400):
    """Predictions of photos of which some are there, with metadata, and some have hostile names."""
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    predictions = make_predictions(n_brands, n).assign(loss=np.linspace(0, 5, n))
    random = np.random.default_rng(0)
    for i in range(0, n, 3):
        pixels = random.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        path = folder / f"photo_{i}.jpg"
        Image.fromarray(pixels).resize((640, 480)).save(path, exif=exif, comment=b"secret place")
        predictions.loc[i, "path"] = str(path)
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
    metrics = compute_metrics(predictions, classes=classes, n_boot=50)
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
            Section("Not a <car>", "Words & more \udc80.\n\nA second paragraph.", [pd.DataFrame({"a": [1.23456]})])
        ],
    )
    assert plt.get_fignums() == before  # a notebook shows none of them a second time
    return folder / "out", Page(path), predictions, metrics


def page_of(folder, *sections, predictions=None):
    """The page of a few predictions without mistakes, by default, and of these sections."""
    if predictions is None:
        predictions = make_predictions(2, n=20).assign(brand=lambda table: table["predicted"], loss=0.1)
    return Page(write_report(folder, predictions, compute_metrics(predictions, n_boot=20), sections=sections))


def test_a_report_needs_and_runs_nothing_else(report):
    _, page, *_ = report
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/").startswith("data:image/")
    policy = {"http-equiv": "Content-Security-Policy"}
    policy["content"] = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", policy) in page.tags
    assert "url(" not in page.source and "@import" not in page.source
    assert len(page.source) < 3_000_000


def test_hostile_names_are_shown_and_do_nothing(report):
    _, page, *_ = report
    for text in (*HOSTILE[:2], "<b>first</b>", "Not a <car>", "Words & more ?."):
        assert text in page.text
    assert "\u202e" not in page.source  # would turn the text behind it around


def test_a_report_keeps_no_folders_and_no_metadata(report):
    folder, page, *_ = report
    assert str(folder.parent) not in page.source
    photos = page.images("jpeg")
    assert len(photos) > 5
    for data in photos:
        image = Image.open(io.BytesIO(data))
        assert max(image.size) <= 180
        assert not image.getexif() and b"secret" not in data


def test_a_report_says_the_numbers(report):
    _, page, predictions, metrics = report
    for share in ("accuracy", "accuracy_low", "accuracy_high", "macro_recall", "top5_accuracy"):
        assert f"{metrics[share]:.1%}" in page.text
    row = promised(predictions, predictions, 0.6).iloc[0]
    assert f"{row.test_accuracy:.1%}, 95 % interval {row.test_low:.1%} to {row.test_high:.1%}" in page.text
    assert f"{row.valid_accuracy:.1%}; at least {row.valid_bound:.1%} is proven" in page.text
    pair = confused_pairs(predictions, 1).iloc[0]
    assert f"{pair.brand} mistaken for {pair.predicted}: {pair.photos} photo" in page.text
    for brand, row in brand_report(predictions).iterrows():
        assert f"{brand} {row.recall:.0%} ({row.recall_low:.0%} to {row.recall_high:.0%})" in page.text
    assert "No photo was tested of Never Tested" in page.text
    assert "A second paragraph." in page.text and "1.23" in page.text


def test_every_section_is_linked(report):
    _, page, *_ = report
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"]
    assert len(links) == 11


def test_pictures_lie_beside_the_report(report):
    folder, page, *_ = report
    embedded = set(page.images("png"))
    assert embedded == {path.read_bytes() for path in (folder / "pictures").iterdir()}
    assert len(embedded) == 6
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img" and "width" in attributes)


def test_photos_to_check_stand_in_a_table(report):
    folder, _, predictions, _ = report
    table = pd.read_csv(folder / "to_check.csv")
    wrong = predictions[predictions["brand"] != predictions["predicted"]]
    assert table["path"].is_unique
    assert set(table["path"][: len(wrong)]) == set(wrong["path"].str.encode("utf-8", "replace").str.decode("utf-8"))
    assert table["correct_brand"].isna().all()


@pytest.mark.parametrize("rows", [1, 20])
def test_a_report_of_a_model_without_mistakes(tmp_path, rows):
    predictions = make_predictions(2, n=rows).assign(brand=lambda table: table["predicted"], loss=0.1)
    page = page_of(tmp_path, predictions=predictions)
    assert "No brand was mistaken for another." in page.text
    assert "Most confident mistakes" not in page.text and "Labels that may be wrong" not in page.text


def test_a_part_that_cannot_be_shown_is_refused_and_leaves_no_figure_open(tmp_path):
    mine = plt.figure()
    with pytest.raises(TypeError, match="section 'Odd' is a dict; give Axes, Figures and DataFrames"):
        page_of(tmp_path, Section("Odd", "", [{}]))
    assert plt.get_fignums() == [mine.number]


def test_figures_go_into_a_section_even_if_they_show_nothing(tmp_path):
    figure = plot.prediction_page(make_predictions(2)[:0])
    page = page_of(tmp_path, Section("Nothing?", "", [figure]))
    assert plt.get_fignums() == [figure.number]  # the caller's own stays open
    assert (tmp_path / "pictures" / "section-1-1.png").read_bytes() in page.images("png")


def test_tables_show_every_kind_of_value(tmp_path):
    table = pd.DataFrame({"whole_number": [12345, None], "share": [0.25, np.nan], "same": [True, False]}, dtype=object)
    table["text"] = ["long " * 30, "<i>"]
    page = page_of(tmp_path, Section("One", "", [table.set_axis(["<i>a</i>", "b"])]))
    shown = f"One whole number share same text <i>a</i> 12,345 0.25 yes {'long ' * 30}b – – no <i> What"
    assert shown in page.text
