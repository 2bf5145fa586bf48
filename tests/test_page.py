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
from carclf.metrics import label_errors
from carclf.metrics.scores import brand_report, compute_metrics, confused_pairs
from carclf.metrics.thresholds import promised
from carclf.metrics.words import percent
from carclf.plot.style import verdict
from carclf.report.page import Section, write_report

PROMISE = {"threshold": 0.6, "accuracy": 0.5, "confidence_level": 0.9, "bound": 0.55, "kept": True}

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
        self.shown = re.sub(r"[ \n]+", " ", " ".join(self.said))  # no-break spaces stay
        self.text = " ".join(self.shown.split())

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
        promise=PROMISE,
        measured=promised(predictions, predictions, PROMISE),
        before=predictions.assign(confidence=predictions["confidence"] ** 0.5),
        facts={"model": "<b>first</b>"},
        sections=[
            Section("Not a <car>", "Words & more \udc80.\n\nA second paragraph.", [pd.DataFrame({"a": [1.23456]})])
        ],
    )
    assert plt.get_fignums() == before  # a notebook shows none of them a second time
    return folder / "out", Page(path), predictions, metrics


def page_of(folder, *sections, predictions=None, **given):
    """The page of a few predictions without mistakes, by default, and of these sections."""
    if predictions is None:
        predictions = make_predictions(2, n=20).assign(brand=lambda table: table["predicted"], loss=0.1)
    metrics = compute_metrics(predictions, n_boot=20)
    return Page(write_report(folder, predictions, metrics, sections=sections, **given))


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
        assert percent(metrics[share]) in page.shown
    row = promised(predictions, predictions, PROMISE).iloc[0]
    low, high = percent(row.test_low), percent(row.test_high)
    assert f"{percent(row.test_accuracy)} of {row.test_photos}, 95\xa0% interval {low} to {high}" in page.shown
    assert f"{percent(row.valid_accuracy)} of {row.valid_photos}; at least 55\xa0% is proven" in page.shown
    accepted = predictions[predictions.accepted]
    n, right = len(accepted), (accepted.brand == accepted.predicted).sum()
    assert f"are accepted ({n}), and {right} of these {n} answers are right ({percent(right / n)})" in page.shown
    pair = confused_pairs(predictions, 1).iloc[0]
    assert f"{pair.brand} mistaken for {pair.predicted}: {pair.photos} photo" in page.text
    for brand, row in brand_report(predictions).iterrows():
        scores = [[percent(row[f"{name}{end}"]) for end in ("", "_low", "_high")] for name in ("precision", "recall")]
        cells = " ".join(f"{share} ({low} to {high})" for share, low, high in scores)
        assert f"{brand} {cells} {row.photos:.0f} {row.vehicles:.0f}" in page.shown
    assert "No photo was tested of Never Tested" in page.text
    assert "A second paragraph." in page.text and "1.23" in page.text


def test_every_section_is_linked(report):
    _, page, *_ = report
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    sections = [f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"]
    assert links[: len(sections)] == sections and len(sections) == 9
    figures = [attributes["id"] for tag, attributes in page.tags if tag == "figure"]
    places = [f"#{where}{name}" for name in figures for where in ("", "at-")]  # opens large, and closes
    assert links[len(sections) :] == places and len(figures) == 6
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links} <= set(ids)


def test_pictures_lie_beside_the_report(report):
    folder, page, *_ = report
    embedded = set(page.images("png"))
    assert embedded == {path.read_bytes() for path in (folder / "pictures").iterdir()}
    assert len(embedded) == 6


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
    assert "Mistakes: none." in page.text and "Photos: none." in page.text


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
    shown = f"One whole number share same text <i>a</i> 12,345 25 % yes {'long ' * 30}b – – no <i> What"
    assert shown in page.text
    labels = [attributes.get("data-label") for tag, attributes in page.tags if tag == "td"]
    assert labels[-5:] == ["", "whole number", "share", "same", "text"]  # a phone shows them beside the cells
    assert "Empty none What" in page_of(tmp_path, Section("Empty", "", [table[:0]])).text


def test_every_picture_says_what_it_shows(report):
    _, page, predictions, _ = report
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    photos = [alt for alt in alts if alt.startswith("photo ")]
    assert len(photos) == len(page.images("jpeg"))
    said = {f"photo {row.path.split('/')[-1]}: {verdict(row)}" for row in predictions.itertuples()}
    assert set(photos) <= said
    charts = [alt for alt in alts if not alt.startswith("photo ")]
    assert len(charts) == 6 and all(re.search(r"\d", alt) and len(alt) > 20 for alt in charts)


def test_a_photo_worth_a_look_is_shown_once_with_all_its_reasons(tmp_path):
    table = make_predictions(2, n=60).assign(loss=0.1, decision="accepted")
    table["brand"] = table["predicted"]
    table.loc[:2, ["brand", "decision"]] = [["Opel", "accepted"], ["Opel", "unknown"], ["Kia", "unsure"]]
    table.loc[:3, "loss"] = [5.0, 0.8, 0.2, 0.6]  # only those that the model found less likely than not are shown
    classes = ["Brand Number 0", "Brand Number 1", "Kia", "Opel"]
    probabilities = np.full((60, 4), 0.01)
    probabilities[np.arange(60), table["predicted"].map(classes.index)] = 0.97
    page = page_of(tmp_path, predictions=table, probabilities=probabilities, classes=classes)
    part = page.text.split("Photos worth a look")[-1]
    assert part.count("missing_0.jpg") == 1 and part.count("one of the most confident mistakes") == 3
    assert f"one of the most confident mistakes its name may be wrong: is it {table.predicted[0]}?" in part
    assert "Opel had a chance of under 1 %" in part and "Opel had a chance of 45 %" in part
    assert part.count("had a chance of") == 2 and "missing_3.jpg" not in part
    assert "The 3 most confident mistakes: 1 accepted, 1 unsure, 1 unknown." in part
    assert "3 names may be wrong" in part
    assert "unlike all that the model learned from: perhaps no car, or another brand" in part


def test_a_weak_model_doubts_no_names(tmp_path):
    table = make_predictions(3, n=90).assign(loss=3.0)
    table.loc[table.index % 3 == 0, "brand"] = "Opel"
    classes = ["Brand Number 0", "Brand Number 1", "Brand Number 2", "Opel"]
    probabilities = np.full((90, 4), 0.01)
    probabilities[np.arange(90), table["predicted"].map(classes.index)] = 0.97
    accuracy = (table["brand"] == table["predicted"]).mean()
    assert accuracy < 2 / 3
    page = page_of(tmp_path, predictions=table, probabilities=probabilities, classes=classes)
    assert f"No name is doubted: the model is right on only {percent(accuracy)} of the photos" in page.shown
    assert "may be wrong" not in page.text
    losses = label_errors.highest_losses(table, 100)
    assert set(pd.read_csv(tmp_path / "to_check.csv")["path"]) == set(losses["path"])


@pytest.mark.parametrize(
    ("promise", "threshold", "first"),
    [
        (
            {**PROMISE, "accuracy": 0.95, "kept": False},
            0.6,
            "Nothing is promised: no threshold is proven",
        ),
        (None, 0.0, "No threshold was chosen, so nothing is promised"),
    ],
)
def test_where_nothing_is_promised_that_comes_first_and_nothing_is_accepted(tmp_path, promise, threshold, first):
    table = make_predictions(3, n=60).assign(loss=3.0, accepted=False, decision="unsure")
    page = page_of(tmp_path, predictions=table, threshold=threshold, promise=promise)
    body = page.text.split("carclf ", 1)[1]
    assert first in body[:200] and "none of the answers is accepted" in body
    assert "So no answer is accepted." in body and "is accepted if" not in body
    assert "at least" not in body.split("What was tested")[-2]


def luminance(colour):
    """Relative luminance of an RGB in 0..255, as WCAG 2 defines it."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.asarray(colour) / 255]
    return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def test_letters_can_be_read_in_light_and_in_dark(report):
    """WCAG 2 asks for 4.5 for letters; lines that repeat what words say need 3."""
    _, page, *_ = report
    light, dark = (
        dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", rules))
        for rules in re.search(r":root (\{.+?\}).+?dark\) \{ :root (\{.+?\}) \}", page.source, re.DOTALL).groups()
    )
    assert set(light) == set(dark) >= {"--paper", "--ink", "--muted", "--link", "--carclf-right", "--carclf-wrong"}
    for colours in light, dark:
        for name in set(colours) - {"--paper", "--line"}:
            assert contrast(rgb(colours[name]), rgb(colours["--paper"])) >= 4.5, name
    assert not re.search(r"[; \"]color: ?#", page.source)  # letters have no colour of their own
    # JupyterLab's light, dark and high-contrast themes, and the page itself: ground and letters.
    themes = [("#ffffff", "#212121"), ("#111111", "#dfdfdf"), ("#000000", "#ffffff")]
    themes += [(colours["--paper"], colours["--ink"]) for colours in (light, dark)]
    bars = set(re.findall(r"linear-gradient\(90deg,(#[0-9A-Fa-f]{6})55 ", page.source))
    lines = set(re.findall(r"border-left:4px solid (#[0-9A-Fa-f]{6})", page.source))
    assert len(bars) == 3 and len(lines) == 2
    for ground, letters in themes:
        for bar in bars:
            mixed = rgb(bar) * 0x55 / 255 + rgb(ground) * (1 - 0x55 / 255)
            assert contrast(rgb(letters), mixed) >= 4.5, (bar, ground)
        for line in lines:
            assert contrast(rgb(line), rgb(ground)) >= 3, (line, ground)
