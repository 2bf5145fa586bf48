"""Predictions -> `report.html`: one page to send to a colleague, which holds everything that it shows."""

from __future__ import annotations

import base64
import io
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carclf import __version__
from carclf.data.boxes import NO_CAR
from carclf.files import replacing, write_text, writing
from carclf.metrics import label_errors
from carclf.metrics.calibration import calibration_error_interval
from carclf.metrics.scores import brand_report, confused_pairs, scored
from carclf.metrics.thresholds import DECISIONS
from carclf.metrics.words import least_percent, metrics_table, percent, promise_text
from carclf.plot import evaluation
from carclf.plot.photos import pair_photos, pair_title
from carclf.plot.style import alt_text
from carclf.report.cards import TEMPLATES, clean

SIDE, PAIR = 180, 146  # pixels: the longer side of a photo; and in a confused pair, with six photos side by side
DPI = 144  # of pictures: sharp in print, too
FEW = 10  # test photos of a brand: with fewer, its own score says little
SHARES = ("share", "right")  # columns of tables that are shares; so are those with an interval beside them
VERSIONS = f"carclf {__version__}, Python {platform.python_version()}, numpy {np.__version__}, pandas {pd.__version__}"


class Section(NamedTuple):
    """A part of the page."""

    title: str
    words: str  # empty lines separate paragraphs
    parts: Sequence[Axes | Figure | pd.DataFrame] = ()  # shown as pictures and tables


def write_report(
    folder: str | os.PathLike,
    predictions: pd.DataFrame,
    metrics: dict[str, float],
    *,
    probabilities: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    threshold: float | None = None,
    promise: dict[str, Any] | None = None,
    measured: pd.DataFrame | None = None,
    before: pd.DataFrame | None = None,
    facts: dict[str, object] | None = None,
    sections: Sequence[Section] = (),
    title: str = "How well the model recognises brands",
) -> Path:
    """Write `report.html`, its pictures as PNG files into `pictures/`, and `to_check.csv` for `apply_corrections`.

    Parameters
    ----------
    folder : created if missing
    predictions : predictions table of the photos tested; photos of brands not in `classes` are left out
    metrics : from `compute_metrics`
    probabilities : float [N, n_classes], of the same photos; with `classes`, photos with a suspect label are searched
    threshold, promise : of the model's card
    measured : table from `promised`: what the threshold did on valid, and what on test
    before : predictions of the same photos without the temperature
    facts : what else a reader should know, such as the model's name
    sections : shown before the last section, which says what the numbers do not say

    Returns
    -------
    Path of `report.html`

    Raises
    ------
    OSError, TypeError, ValueError
        If a file cannot be written, a section holds something else than pictures and tables, or no photo can be scored.
    """
    known, folder = scored(predictions, classes), Path(folder)
    with writing(folder):
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
    suspects, of_names = known.head(0), ""
    if probabilities is not None and classes is not None:
        suspects = label_errors.label_suspects(predictions, probabilities, classes)
        of_names = _of_names(len(suspects), known["right"].mean())
    _save_to_check(suspects, known, folder / "to_check.csv")
    already_open = set(plt.get_fignums())
    try:
        html = TEMPLATES.get_template("report.html.j2").render(
            side=SIDE,
            pair_side=PAIR,
            FEW=FEW,
            title=title,
            today=date.today(),
            version=__version__,
            metrics=metrics,
            digits=0 if len(known) < 1000 else 1,
            facts={**metrics_table(metrics)["value"], **(facts or {}), "evaluated with": VERSIONS},
            known=known,
            random=known.sample(min(10, len(known)), random_state=0),
            pictures=_pictures(known, before, threshold, promise, folder / "pictures"),
            brands=_table(brand_report(known).filter(regex="recall|precision|photos|vehicles")),
            gap=calibration_error_interval(known),
            threshold=threshold,
            promise_text=promise_text(promise, threshold or 0.0),
            kept=bool(promise and promise["kept"]),
            accepts=promise["kept"] if promise else bool(threshold),
            measured="" if measured is None else _measured(measured.iloc[0]),
            sections=_parts(sections, folder / "pictures"),
            few=[brand for brand, photos in known.groupby("brand").size().items() if photos < FEW],
            untested=sorted(set(classes or ()) - set(known["brand"])),
            of_names=of_names,
            **_gallery(known, suspects),
            **_confusions(known),
        )
    finally:
        for number in set(plt.get_fignums()) - already_open:
            plt.close(number)  # or a notebook would show them all
    write_text(folder / "report.html", clean(html))
    return folder / "report.html"


def _save_to_check(suspects: pd.DataFrame, known: pd.DataFrame, path: Path) -> None:
    """List suspect labels and the highest losses, unless somebody has filled in the file."""
    if not label_errors.is_filled_in(path):
        tables = [suspects, label_errors.highest_losses(known, 100)]
        to_check = pd.concat([table for table in tables if len(table)] or tables[:1])
        label_errors.save_suspects(to_check.drop_duplicates("path"), path)


def _pictures(
    known: pd.DataFrame, before: pd.DataFrame | None, threshold: float | None, promise: dict | None, folder: Path
) -> dict[str, Markup]:
    """The page's own pictures by name."""
    drawn = {"brand-scores": evaluation.brand_scores(known), "reliability": evaluation.reliability(known, before)}
    if not known["right"].all():
        drawn["confusion-matrix"] = evaluation.confusion_matrix(known)
        drawn["confusion-zoom"] = evaluation.confusion_zoom(known)
    if threshold is not None:
        drawn["threshold-curve"] = evaluation.threshold_curve(known, threshold=threshold, promise=promise)
        drawn["risk-coverage"] = evaluation.risk_coverage(known, threshold=threshold, promise=promise)
    return {name: _picture(ax, name, folder) for name, ax in drawn.items() if ax.axison}  # the others say "none"


def _confusions(known: pd.DataFrame) -> dict[str, Any]:
    """The most frequent mistakes: a table, and photos of the first few."""
    pairs = confused_pairs(known, 8)
    photos = {pair_title(pair): pair_photos(known, pair.brand, pair.predicted) for pair in pairs.head(5).itertuples()}
    owner = np.where(pairs.pop("same_owner"), "the same", "not the same")
    return {"pairs": photos, "pairs_table": _table(pairs.assign(owner=owner))}


def _gallery(known: pd.DataFrame, suspects: pd.DataFrame) -> dict[str, Any]:
    """Mistakes, doubtful names and high losses: each photo once, those with the most reasons first."""
    mistakes, reasons = label_errors.confident_mistakes(known, 10), defaultdict(list)
    for path in mistakes["path"]:
        reasons[path].append("one of the most confident mistakes")
    for row in suspects.head(10).itertuples():
        reasons[row.path].append(f"its name may be wrong: is it {row.suggested}?")
    losses = label_errors.highest_losses(known, 10)
    for row in losses[losses["loss"] > np.log(2)].itertuples():  # the others are none to look at
        chance = np.exp(-row.loss)
        reasons[row.path].append(
            f"{row.brand} had a chance of {percent(chance) if chance >= 0.01 else f'under {percent(0.01)}'}"
        )
    shown = known.drop_duplicates("path").set_index("path", drop=False).loc[list(reasons)]
    gallery = shown.iloc[np.argsort([-len(found) for found in reasons.values()], kind="stable")]
    counts = mistakes["decision"].value_counts() if "decision" in mistakes else {}
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in (*DECISIONS, NO_CAR) if kind in counts)
    words = f"The {len(mistakes):,} most confident mistakes: {kinds}." if kinds else ""
    return {"gallery": gallery, "reasons": reasons, "of_mistakes": words if len(mistakes) else "Mistakes: none."}


def _of_names(suspects: int, accuracy: float) -> str:
    """What confident learning found, or why it was not asked."""
    if accuracy < label_errors.WEAK:
        return (
            f"No name is doubted: the model is right on only {percent(accuracy)} of the photos, and below "
            f"{percent(label_errors.WEAK)} its doubts say more about itself."
        )
    found = f"{suspects:,} names may be wrong, and come first in to_check.csv" if suspects else "No name looks wrong"
    return (
        f"{found}: confident learning (Northcutt et al. 2021) finds photos of which the model is surer of another "
        "brand than it usually is of that brand's own."
    )


def _measured(row: pd.Series) -> Markup:
    """What was promised, what valid showed and what test got."""
    proven = f"; at least {least_percent(row.valid_bound)} is proven" if row.kept else ""
    interval = (
        f", {percent(0.95)} interval {percent(row.test_low)} to {percent(row.test_high)}" if row.test_photos else ""
    )
    rows = [
        ("valid, where it was chosen", percent(row.valid_coverage), _right_of(row, "valid") + proven),
        ("the photos tested", percent(row.test_coverage), _right_of(row, "test") + interval),
    ]
    if row.kept:
        rows.insert(0, ("promised", "–", f"at least {least_percent(row.promised)}"))
    return _table(pd.DataFrame(rows, columns=["", f"answered from {row.threshold:.2f} on", "right of these"]))


def _right_of(row: pd.Series, part: str) -> str:
    photos = row[f"{part}_photos"]
    return f"{percent(row[f'{part}_accuracy'])} of {photos:,}" if photos else "none"


def _parts(sections: Sequence[Section], folder: Path) -> Iterator[tuple[Section, list[Markup]]]:
    """Each section with its parts as HTML."""
    for number, section in enumerate(sections, start=1):
        parts = []
        for place, part in enumerate(section.parts, start=1):
            if not isinstance(part, (pd.DataFrame, Axes, Figure)):
                kind = type(part).__name__
                raise TypeError(
                    f"a part of the section {section.title!r} is a {kind}; give Axes, Figures and DataFrames"
                )
            name = f"section-{number}-{place}"
            parts.append(_table(part) if isinstance(part, pd.DataFrame) else _picture(part, name, folder))
        yield section, parts


def _table(table: pd.DataFrame) -> Markup:
    """A table as HTML; an index that is more than a number comes first, under its own name.

    A share and the interval in its `…_low` and `…_high` become one cell.
    """
    if not isinstance(table.index, pd.RangeIndex):
        table = table.rename_axis(index=table.index.name or "").reset_index()
    cells = table.map(_cell)
    for name in table:
        if f"{name}_low" in table:
            score, low, high = (table[f"{name}{end}"].map(percent) for end in ("", "_low", "_high"))
            cells[name] = (score + " (" + low + " to " + high + ")").where(table[name].notna(), "–")
            cells = cells.drop(columns=[f"{name}_low", f"{name}_high"])
        elif name in SHARES:
            cells[name] = table[name].map(percent)
    names = [str(name).replace("_", " ") for name in cells]
    macros: Any = TEMPLATES.get_template("cards.html.j2").module
    return Markup(macros.table(names, cells.to_numpy().tolist()))


def _cell(value: object) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.3g}" if isinstance(value, Real) else str(value)


def _picture(part: Axes | Figure, name: str, folder: Path) -> Markup:
    """Save a picture as PNG, and return it as an image that holds its own data and opens large, without a script."""
    figure, png = part.figure.canvas.figure, io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    with replacing(folder / f"{name}.png") as file:
        file.write_bytes(png.getvalue())
    image = Markup(
        '<div id="at-{name}"><figure id="{name}"><a href="#{name}"><img width="{width}" alt="{alt}" '
        'src="data:image/png;base64,{data}"></a><a class="close" href="#at-{name}">close</a></figure></div>'
    )
    data, width = base64.b64encode(png.getvalue()).decode(), round(96 * figure.get_size_inches()[0])
    return image.format(name=name, width=width, alt=alt_text(figure) or name, data=data)
