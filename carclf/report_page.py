"""Predictions -> one page that can be sent to a colleague: `report.html`, which holds all that it shows."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from carclf import __version__, evaluation_plots, galleries, mistakes
from carclf.calibration import calibration_error_interval
from carclf.cards import escape, prediction_cards, thumbnail
from carclf.evaluation import brand_report, confused_pairs, metrics_table, scored
from carclf.files import writing
from carclf.html_page import Html, Section, write_page
from carclf.style import plain
from carclf.thresholds import threshold_table

SIDE, PAIR = 180, 146  # pixels: the longer side of a photo on the page; six of a pair side by side
FEW = 10  # test photos of a brand: with fewer, its own score says little


def write_report(
    folder,
    predictions,
    metrics,
    *,
    probabilities=None,
    classes=None,
    threshold=None,
    promise=None,
    before=None,
    facts=None,
    sections=(),
    title="How well the model names brands",
):
    """Write `report.html`, its pictures as PNG files into `pictures/`, and `to_check.csv` for `apply_corrections`.

    Parameters
    ----------
    folder : str or path, made where it is missing
    predictions : DataFrame, the predictions table of the photos tested
    metrics : dict from `carclf.metrics`
    probabilities : float [N, n_classes], of the same photos; with `classes`, label suspects are searched
    classes : the brands that the model knows; photos of others are left out of plots and tables
    threshold : float from 0 to 1, the confidence from which on an answer counts
    promise : table of `carclf.thresholds.promised`: what the threshold promised on valid, and what test got
    before : predictions table of the photos tested, without the temperature
    facts : dict of what else a reader should know, such as the model's name, to anything printable
    sections : Sections to come before the last, which says what the numbers do not say
    title : str

    Returns
    -------
    Path of `report.html`. Raises ValueError where no photo can be scored, and OSError where nothing can be written.
    """
    known = scored(predictions, classes)
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    suspects = known.head(0) if probabilities is None else mistakes.label_suspects(predictions, probabilities, classes)
    to_check = [suspects, mistakes.highest_losses(known, 100)]
    to_check = pd.concat([table for table in to_check if len(table)] or to_check[:1])
    if not mistakes.is_filled_in(folder / "to_check.csv"):
        mistakes.save_suspects(to_check.drop_duplicates("path"), folder / "to_check.csv")
    open_before = plt.get_fignums()
    parts = [
        _tested(predictions, known, metrics, facts),
        _confusions(known),
        _brands(known),
        _confidence(known, before),
        *([_threshold(known, threshold, promise)] if threshold is not None else []),
        *_pages(known, suspects),
        *sections,
        _limits(known, classes),
    ]
    words = f"<small>{date.today().isoformat()}, carclf {__version__}</small>"
    write_page(folder / "report.html", title, Html(words + _headline(known, metrics, threshold)), parts)
    for number in set(plt.get_fignums()) - set(open_before):
        plt.close(number)  # or a notebook would show them all
    return folder / "report.html"


def _headline(known, metrics, threshold):
    low, high = metrics["accuracy_low"], metrics["accuracy_high"]
    numbers = [
        (metrics["accuracy"], f"of the photos are named rightly; 95 % interval {low:.1%} to {high:.1%}"),
        (metrics["macro_recall"], "is the mean over brands, in which a rare brand counts as much as a common one"),
        (metrics["top5_accuracy"], "have the right brand among its five likeliest"),
    ]
    if threshold is not None:
        at = threshold_table(known, [threshold]).iloc[0]
        right = "" if pd.isna(at.accuracy) else f", and {at.accuracy:.1%} of these answers are right"
        numbers.append((at.coverage, f"are answered at the threshold {threshold:.2f}{right}"))
    return f'<div class="numbers">{"".join(f"<div><b>{share:.1%}</b>{words}</div>" for share, words in numbers)}</div>'


def _tested(predictions, known, metrics, facts):
    python = f"Python {platform.python_version()}, numpy {np.__version__}, pandas {pd.__version__}"
    lines = {
        "brands shown": f"{known['brand'].nunique():,}",
        **metrics_table(metrics)["value"],
        **(facts or {}),
        "evaluated with": f"carclf {__version__}, {python}",
    }
    table = pd.Series({key: plain(value, 300) for key, value in lines.items()}, name="").to_frame()
    return Section(
        "What was tested",
        f"{len(predictions):,} photos were given to the model. A photo's brand is what its file name says. Photos of "
        "one vehicle are right or wrong together, so the interval is over vehicles, not over photos.",
        [table],
    )


def _confusions(known):
    pairs = confused_pairs(known, 8)
    words = (
        "Each row is a true brand, and its cells say where its photos went. Brands that are taken for each other stand "
        "together. The second picture shows the brands with the most mistakes among them."
    )
    if pairs.empty:
        return Section("Which brands are taken for which", "No brand was taken for another.")
    photos = "".join(_pair(known, pair) for pair in pairs.head(5).itertuples())
    pictures = [evaluation_plots.confusion_matrix(known), evaluation_plots.confusion_zoom(known)]
    same = pairs.pop("same_owner")
    table = _percent(pairs).assign(owner=np.where(same, "the same", "not the same"))
    return Section("Which brands are taken for which", words, [*pictures, table, Html(photos)])


def _pair(known, pair):
    """A confused pair: photos named wrongly beside photos of the brand that they were taken for."""
    sides = [
        "".join(
            f'<div class="card" style="width:{PAIR}px"><b>{_said(row)}</b> {row.confidence:.0%}<br>'
            f"<small>{escape(plain(Path(row.path).name, 40))}</small>{thumbnail(row.path, PAIR)}</div>"
            for row in table.itertuples()
        )
        for table in galleries.pair_photos(known, pair.brand, pair.predicted)
    ]
    head = f"<h3>{escape(galleries.pair_title(pair))}</h3>"
    return f'{head}<div class="sides">{"".join(f"<div>{side}</div>" for side in sides)}</div>'


def _said(row):
    return f"✓ {escape(row.brand)}" if row.right else f"✗ {escape(row.predicted)}"


def _brands(known):
    words = (
        "Recall is the share of a brand's photos that are named rightly, precision the share of the photos named so "
        "that are of the brand; behind each stands its 95 % interval, over vehicles."
    )
    report = brand_report(known)
    for name in ("recall", "precision"):
        columns = zip(*(report[name + end] for end in ("", "_low", "_high")), strict=True)
        report[name] = [None if pd.isna(score) else f"{score:.0%} ({a:.0%} to {b:.0%})" for score, a, b in columns]
    table = report[["recall", "precision", "photos", "vehicles"]]
    return Section("Brand by brand", words, [evaluation_plots.brand_scores(known), table])


def _confidence(known, before):
    words = (
        "Of the photos that the model names with a confidence of 80 %, 80 % should be right: then the line lies on the "
        "diagonal. Below it the model claims too much, above it too little."
    )
    low, high = calibration_error_interval(known)
    words += (
        f" The mean gap, without what chance alone makes of it, lies between {low:.1%} and {high:.1%} (95 % interval)."
    )
    return Section("Whether its confidence can be believed", words, [evaluation_plots.reliability(known, before)])


def _threshold(known, threshold, promise):
    words = "No threshold was chosen for this model, so every answer counts."
    if threshold > 0:
        words = (
            f"An answer counts where its confidence is at least {threshold:.3f} and the photo is not unknown. This "
            "threshold was chosen before the photos tested were looked at."
        )
    curves = evaluation_plots.threshold_curve, evaluation_plots.risk_coverage
    pictures = [draw(known, threshold=threshold) for draw in curves]
    tables = [] if promise is None else [_promise(promise.iloc[0])]
    return Section("When the model should not answer", words, [*tables, *pictures])


def _promise(row):
    """Promised against got, in words."""
    kept = getattr(row, "kept", True)
    proven = f"; at least {row.valid_bound:.1%} are proven" if kept else ""
    nothing = f"nothing: valid is too small or the model too weak for {row.promised:.1%}; this came nearest"
    lines = {
        "promised": ("", f"at least {row.promised:.1%}" if kept else nothing),
        "valid, where it was chosen": (
            row.valid_coverage,
            f"{row.valid_accuracy:.1%}{proven}",
        ),
        "got on the photos tested": (
            row.test_coverage,
            f"{row.test_accuracy:.1%}, 95 % interval {row.test_low:.1%} to {row.test_high:.1%}",
        ),
    }
    table = pd.DataFrame.from_dict(lines, "index", columns=["photos answered", "answers that are right"])
    return table.map(lambda value: value if isinstance(value, str) else f"{value:.1%}")


def _pages(known, suspects):
    pages = {
        "Photos at random": (known.sample(min(10, len(known)), random_state=0), "What it does on an ordinary photo."),
        "Surest mistakes": (mistakes.confident_mistakes(known, 10), "No threshold keeps these back."),
        "Highest losses": (
            mistakes.highest_losses(known, 10),
            "Photos whose brand the model found least likely: odd views, bad photos and wrong names. to_check.csv has "
            "more of them, with a column to fill in.",
        ),
        "Names that may be wrong": (
            suspects.head(10),
            "Found by confident learning (Northcutt et al. 2021): the model is surer of another brand than it usually "
            f"is of photos of that brand. {len(suspects):,} photos in all, first in to_check.csv.",
        ),
    }
    return [
        Section(title, words, [Html(prediction_cards(table, side=SIDE))])
        for title, (table, words) in pages.items()
        if len(table)
    ]


def _limits(known, classes):
    photos = known.groupby("brand").size()
    few = photos[photos < FEW].index
    unseen = sorted(set(classes or ()) - set(photos.index))
    words = [
        f"These numbers hold for photos like the {len(known):,} tested here. Other cameras, countries, years and "
        "models of a brand may give others.",
        "The model names one of its brands on any picture. Unknown it calls only what is unlike all it has learned "
        "from; most photos of brands that it does not know are named all the same.",
        "Names of files were taken for the truth: a wrong one counts as a mistake of the model.",
    ]
    if len(few):
        words.append(f"Fewer than {FEW} photos were tested of {', '.join(few)}.")
    if unseen:
        words.append(f"No photo was tested of {', '.join(unseen)}.")
    return Section("What these numbers do not say", "\n\n".join(words))


def _percent(table):
    """A table whose floats are shares, as percentages."""
    shares = table.select_dtypes("float").columns
    return table.assign(**{name: table[name].map("{:.1%}".format, na_action="ignore") for name in shares})
