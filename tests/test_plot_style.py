import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tables import make_manifest, make_predictions

from carclf import plot
from carclf.errors import counted
from carclf.plot.style import Shares, legend_above

RIGHT = {"brand": "Toyota", "predicted": "Toyota", "confidence": 0.98, "decision": "accepted", "accepted": True}
WRONG = RIGHT | {"brand": "Ford"}
UNSURE = {"decision": "unsure", "accepted": False, "confidence": 0.48}
UNKNOWN = {"decision": "unknown", "accepted": False, "confidence": 0.97}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (RIGHT, "✓ Toyota 98 %"),
        (WRONG, "said Toyota 98 %, is Ford"),
        (RIGHT | {"brand": None}, "Toyota 98 %"),
        (RIGHT | UNSURE, "✓ Toyota 48 % (unsure)"),
        (WRONG | UNSURE, "said Toyota 48 % (unsure), is Ford"),
        (RIGHT | UNSURE | {"brand": None}, "Toyota 48 % (unsure)"),
        (RIGHT | UNKNOWN, "✓ unknown, perhaps Toyota 97 %"),
        (WRONG | UNKNOWN, "unknown, perhaps Toyota 97 %, is Ford"),
        (WRONG | UNKNOWN | {"brand": None}, "unknown, perhaps Toyota 97 %"),
        (WRONG | UNKNOWN | {"decision": "no car found"}, "no car found, perhaps Toyota 97 %, is Ford"),
        (WRONG | {"right": True}, "✓ Toyota 98 %"),  # both names are right for this vehicle
        ({"brand": "Ford", "predicted": "Toyota", "confidence": 0.98}, "said Toyota 98 %, is Ford"),
        ({"brand": "Ford", "predicted": None, "decision": "too small"}, "too small"),
        ({"brand": "Ford", "predicted": None, "problem": "not an image"}, "not an image"),
        ({"brand": "Ford", "predicted": None}, "no answer"),
    ],
)
def test_a_verdict_has_one_form(row, said):
    said = re.sub(r"(\d) %", "\\1\N{NO-BREAK SPACE}%", said)
    assert plot.verdict(pd.Series(row, dtype=object)) == said
    assert [plot.verdict(one) for one in pd.DataFrame([row]).itertuples()] == [said]


@pytest.mark.parametrize(
    ("ticks", "words"),
    [
        ([0, 0.2, 1], ["0 %", "20 %", "100 %"]),
        ([0.24, 0.242, 0.244], ["24.0 %", "24.2 %", "24.4 %"]),  # not three times 24 %
        ([0.2425, 0.245], ["24.25 %", "24.50 %"]),
    ],
)
def test_ticks_have_the_digits_they_need(ticks, words):
    axis = plt.figure().add_subplot().xaxis
    axis.set_major_formatter(Shares())
    axis.set_ticks(ticks)
    assert [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in axis.get_ticklabels()] == words


def test_rates_and_counts_are_words_for_people():
    assert [plot.rate(x) for x in (3e-4, 1.25e-5, 0, 0.01)] == ["3e-4", "1.25e-5", "0", "1e-2"]
    assert [counted(n, "photo") for n in (0, 1, 1234)] == ["0 photos", "1 photo", "1,234 photos"]


@pytest.mark.parametrize("entries", [1, 4, 5])
def test_a_legend_lies_between_the_axes_and_the_title(entries):
    ax = plt.figure(layout="constrained").add_subplot()
    for number in range(entries):
        ax.plot([0, 1], label=f"line {number}" + "\nand more" * (number == 0))
    legend_above(ax, "a title")
    ax.figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert ax.get_window_extent().y1 <= legend.y0
    assert legend.y1 <= ax._left_title.get_window_extent().y0


HISTORY = ["stage", "unfreeze", "size", "train_loss", "valid_loss", "valid_accuracy", "valid_macro_recall"]
SCORES = ["photos", "with_sibling_in_train", "accuracy", "low", "high"]
NO_CARS = pd.DataFrame(columns=["x0", "y0", "x1", "y1", "predicted"])
NOTHING = make_predictions(3, n=9).assign(predicted=None)
EMPTY = {  # name: a picture of nothing, and what it says
    "brand_counts": (lambda: plot.brand_counts(make_manifest(2, n=9)[:0]), "no photo is readable and carries a brand"),
    "split_counts": (lambda: plot.split_counts(make_manifest(2, n=9).assign(brand=None)), "no photo is readable"),
    "photo_sizes": (lambda: plot.photo_sizes(make_manifest(2, n=9).assign(problem="empty")), "no photo is readable"),
    "split_scores": (lambda: plot.split_scores(pd.DataFrame(columns=SCORES)), "the comparison of splits was skipped"),
    "training_curves": (lambda: plot.training_curves(pd.DataFrame(columns=HISTORY)), "no epoch has ended yet"),
    "training_steps": (lambda: plot.training_steps(pd.DataFrame(columns=["stage", "lr", "loss"])), "no step was taken"),
    "range_test": (lambda: plot.range_test(pd.DataFrame(columns=["lr", "loss", "smoothed"])), "no step was taken"),
    "confusion_matrix": (lambda: plot.confusion_matrix(NOTHING), "no photo has both"),
    "confusion_matrix of counts": (
        lambda: plot.confusion_matrix(pd.DataFrame([[0]], ["A"], ["A"])),
        "no photo has both",
    ),
    "confusion_zoom": (lambda: plot.confusion_zoom(NOTHING[:0]), "no photo has both"),
    "brand_scores": (lambda: plot.brand_scores(NOTHING), "no photo has both"),
    "risk_coverage": (lambda: plot.risk_coverage(NOTHING, threshold=0.5), "no photo has both"),
    "threshold_curve": (lambda: plot.threshold_curve(NOTHING[:0], threshold=0.5), "no photo has both"),
    "reliability": (lambda: plot.reliability(NOTHING, before=NOTHING), "no photo has both"),
    "brand_shares": (
        lambda: plot.brand_shares(pd.DataFrame(columns=["counted", "corrected", "low", "high"])),
        "no brand",
    ),
    "scene_page": (lambda: plot.scene_page(Image.new("RGB", (64, 48)), NO_CARS), "no car was found"),
    "photo_grid": (lambda: plot.photo_grid([]), "there is no photo to show"),
    "sample_photos": (lambda: plot.sample_photos(make_manifest(2, n=9)[:0]), "there is no photo to show"),
    "overlay_page": (lambda: plot.overlay_page([], np.zeros((0, 4, 4))), "there is no photo to show"),
    "prediction_page": (lambda: plot.prediction_page(NOTHING[:0]), "there is no such photo"),
    "confused_page": (lambda: plot.confused_page(NOTHING), "no photo has both"),
    "duplicates_page": (lambda: plot.duplicates_page(pd.DataFrame(columns=["path"])), "no two photos show the same"),
    "timeline": (lambda: plot.timeline(pd.DataFrame(columns=["track", "decision"])), "no car was found in the clip"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_picture_of_nothing_says_so_in_words(name):
    draw, words = EMPTY[name]
    figure = draw().figure
    figure.canvas.draw()
    assert figure.axes  # a notebook shows no figure without
    assert plot.alt_text(figure).startswith(f"none: {words}")


def test_every_plot_has_a_picture_of_nothing():
    assert {name.split()[0] for name in EMPTY} == {
        name
        for name, function in vars(plot).items()
        if callable(function) and str(function.__annotations__.get("return")) in ("Axes", "Figure")
    }


ONE = make_predictions(1, n=1).assign(predicted="Brand Number 0", accepted=True)
FEW = {
    "matrix": (lambda: plot.confusion_matrix(ONE), "1 photo of 1 brand, 100.0 % correct"),
    "scores": (lambda: plot.brand_scores(ONE), "median recall 100 %"),
    "risk": (lambda: plot.risk_coverage(ONE, threshold=1.0), "1 photo"),
    "threshold": (lambda: plot.threshold_curve(ONE, threshold=1.0), "on 1 photo"),
    "reliability": (lambda: plot.reliability(ONE), "on 1 photo. "),
    "brands": (lambda: plot.brand_counts(make_manifest(1, n=1)), "1 photo of 1 vehicle, 1 brand"),
    "splits": (lambda: plot.split_counts(make_manifest(1, n=1)), "1 photo of 1 brand by split"),
    "page": (lambda: plot.prediction_page(ONE), "1 photo with the likeliest brands: ✓ Brand Number 0"),
}


@pytest.mark.parametrize("name", FEW)
def test_a_picture_of_one_photo_speaks_of_one(name):
    draw, words = FEW[name]
    figure = draw().figure
    figure.canvas.draw()
    said = plot.alt_text(figure).replace("\N{NO-BREAK SPACE}", " ")
    assert words in said
    assert not re.search(r"\b1 (photos|brands|vehicles|mistakes|steps)\b", said)


def test_a_notebook_shows_the_alt_text_and_a_smaller_picture():
    figure = plot.brand_counts(make_manifest(2, n=9).assign(brand='"A" & B')).figure
    data, metadata = figure._repr_mimebundle_()
    said = data["text/plain"]
    assert said.startswith("9 photos of 8 vehicles, 1 brand. ")
    assert metadata == {"image/png": {"alt": said}}
    assert re.fullmatch(
        r'<img alt="9 photos of 8 [^"<>]*" width="\d+" [^<>]*src="data:image/webp;base64,[^"]+">', data["text/html"]
    )
    figure.set_label('two "brands" & more')
    assert 'alt="two &quot;brands&quot; &amp; more"' in figure._repr_mimebundle_()[0]["text/html"]
    figure.set_label("word " * 200)
    assert len(plot.alt_text(figure)) <= 500
