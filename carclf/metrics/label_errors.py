"""Predictions -> the photos worth a look, and the corrections made there -> the manifest.

The photos with the highest losses are wrong labels, bad photos and real mistakes of the model. They are written to a
CSV with an empty column; what a person fills in comes back as brands of the manifest.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from carclf.brands import folder_brand
from carclf.files import read_csv, write_csv
from carclf.metrics.scores import is_right

REMOVE = "remove"  # instead of a brand: the photo shows no car, or several
REMOVED = "label: removed by hand"
WEAK = 2 / 3  # accuracy: below it, a doubted name is more often the model's mistake than a wrong name
COLUMNS = ["path", "brand", "suggested", "loss", "confidence", "correct_brand"]


def highest_losses(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The `n` photos whose brand the model found least likely, worst first: rows of `predictions`.

    Only photos that were read, with a brand that the model knows, have a loss. Answers that are right under another
    name are left out.
    """
    table = predictions[(predictions.predicted == predictions.brand) | ~is_right(predictions)]
    return table.sort_values("loss", ascending=False, kind="stable").dropna(subset="loss").head(n)


def confident_mistakes(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The `n` mistakes with the highest confidence, surest first: rows of `predictions`."""
    wrong = predictions[predictions.predicted.notna() & predictions.brand.notna() & ~is_right(predictions)]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(n)


def label_suspects(
    predictions: pd.DataFrame, probabilities: np.ndarray, classes: Sequence[str], least_accuracy: float = WEAK
) -> pd.DataFrame:
    """The photos that probably have a wrong label, by confident learning (Northcutt et al. 2021), likeliest first.

    A photo counts as a brand if its probability reaches the mean of the photos labelled so; of several such brands the
    likeliest counts. If that is what the model predicts and not right (`is_right`), the photo is a suspect. Photos not
    read, or whose brand is not among the classes, are left out.

    Parameters
    ----------
    probabilities : float [N, n_classes]
        Of the same photos. The model must not have learned from them, or it repeats the wrong labels.
    classes : brands in the order of the columns
    least_accuracy : of the model, 0 to 1; one that is right less often doubts no name

    Returns
    -------
    DataFrame
        Rows of `predictions` with ``suggested`` (str), the brand it seems to be, and ``margin`` (float in -1..0), the
        probability of its brand minus that of the suggested one.
    """
    if probabilities.shape != (len(predictions), len(classes)):
        raise ValueError(
            f"the probabilities have shape {probabilities.shape}, but {len(predictions)} predictions and "
            f"{len(classes)} classes need ({len(predictions)}, {len(classes)}); give those of the same photos"
        )
    known = (predictions.brand.isin(list(classes)) & predictions.predicted.notna()).to_numpy()
    table, p = predictions[known], probabilities[known].astype("float64")
    given, row = pd.Index(classes).get_indexer(table.brand), np.arange(len(table))
    photos = np.bincount(given, minlength=len(classes))
    own = np.bincount(given, p[row, given], minlength=len(classes))
    expected = np.where(photos > 0, own / np.maximum(photos, 1), np.inf)  # a brand without photos is never suggested
    confident = np.where(p >= expected - 1e-6, p, 0)  # the mean of equal numbers may be rounded up
    likeliest = p.argmax(axis=1)
    suspect = (confident.max(axis=1) > 0) & (confident.argmax(axis=1) == likeliest) & (likeliest != given)
    table = table.assign(suggested=np.array(classes, object)[likeliest], margin=p[row, given] - p[row, likeliest])
    suspect &= ~is_right(table.assign(predicted=table["suggested"])).to_numpy()
    suspect &= is_right(table).mean() >= least_accuracy
    return table[suspect].sort_values("margin", kind="stable")


def save_suspects(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write photos as a CSV to check by hand: path, brand, suggested brand, loss, confidence, correct_brand.

    Fill in a brand under correct_brand, or "remove"; rows left empty change nothing. The suggested brand is the
    predicted one if `table` has no other. Cells that a spreadsheet would take for a formula start with an apostrophe.
    """
    suggested = table.suggested.fillna(table.predicted) if "suggested" in table else table.predicted
    table = table.assign(suggested=suggested, correct_brand=None)[COLUMNS].round({"loss": 3, "confidence": 3})
    write_csv(table, path)


def read_corrections(path: str | os.PathLike) -> pd.DataFrame:
    """What was filled in: the columns path and correct_brand (any text), indexed by the row in the file.

    Raises
    ------
    OSError, ValueError
        If the file is missing, or is not a table with these columns in UTF-8.
    """
    path, remedy = Path(path), "save it as CSV in UTF-8, as save_suspects wrote it"
    try:
        table = read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}; write it with save_suspects and fill it in") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a table ({error}); {remedy}") from error
    absent = {"path", "correct_brand"} - set(table)
    if absent:
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(absent))}; {remedy}")
    table.index = pd.RangeIndex(2, len(table) + 2, name="row")
    found = pd.DataFrame({"path": table.path, "correct_brand": table.correct_brand.str.strip()})
    return found[found.correct_brand != ""]


def is_filled_in(path: str | os.PathLike) -> bool:
    """Whether somebody has edited this file, so that it must not be overwritten; one that is not ours counts, too."""
    try:
        return len(read_corrections(path)) > 0
    except FileNotFoundError:
        return False
    except ValueError:
        return True


def apply_corrections(manifest: pd.DataFrame, path: str | os.PathLike) -> pd.DataFrame:
    """The manifest with the brands that people filled in; call it between `scan` and `split`.

    Corrected photos have "corrections" as `label_from`, and no model and no `suspect` any more; those marked "remove"
    are set aside. `carclf.data.manifest.summary` counts both. A brand may be any of `carclf.brand_table`, by name or
    alias, or one of the manifest's; others are refused, and so are two different corrections of one photo.
    """
    found = read_corrections(path)
    own = {brand.casefold(): brand for brand in manifest.brand.dropna().unique()}
    lower = found.correct_brand.str.casefold()
    known = lower.map(lambda name: REMOVE if name == REMOVE else own.get(name) or folder_brand(name))
    for row in found.index[known.isna()]:
        raise ValueError(
            f"{path}, row {row}: {found.correct_brand[row]!r} is neither a brand of carclf.brand_table() or of the "
            f"manifest nor {REMOVE!r}; correct the spelling"
        )
    corrections = pd.DataFrame({"path": found.path, "to": known}).drop_duplicates()
    for row in corrections.index[corrections.path.duplicated()]:
        raise ValueError(f"{path}, row {row}: {found.path[row]} is corrected twice; keep one of the rows")
    to = manifest.path.map(corrections.set_index("path").to)
    absent = corrections[~corrections.path.isin(manifest.path)]
    if len(absent):
        warnings.warn(
            f"{len(absent)} of {len(corrections)} corrected photos are not in the manifest, such as "
            f"{absent.path.iloc[0]}; scan the folder that holds them",
            stacklevel=2,
        )
    manifest = manifest.copy()
    manifest.loc[to == REMOVE, "problem"] = REMOVED
    corrected = to.notna() & (to != REMOVE) & (to != manifest.brand)
    manifest.loc[corrected, "brand"] = to[corrected]
    manifest.loc[corrected, "label_from"] = "corrections"
    manifest.loc[corrected, "model"] = None  # it was read from the name together with the old brand
    manifest.loc[to.notna() & (to != REMOVE), "suspect"] = None
    return manifest
