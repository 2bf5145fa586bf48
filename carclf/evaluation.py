"""Predictions to numbers: every figure the project reports is a view of one table.

The predictions table has one row a photo. These columns are read here:

=============  ===========================================================================
``path``       str, the photo
``brand``      str or missing: the truth, which is what the file name says
``predicted``  str, missing where the photo could not be read
``confidence`` float in 0..1, the probability of ``predicted``; missing where unreadable
``top5``       dict of brand to probability, largest first; None where unreadable
``vehicle``    str; where the column or the value is missing, a photo is its own vehicle
=============  ===========================================================================

Only photos that were read and have a brand can be scored; `metrics` counts the others. Photos of one
vehicle look alike, so they are right or wrong together: the interval of the accuracy resamples vehicles.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import precision_recall_fscore_support

from carclf.brands import owner_of
from carclf.files import write_text, writing


def scored(predictions, classes=None):
    """The photos that can be scored: read, with a brand, and that brand among `classes` where given.

    Returns a copy of those rows with ``confidence`` as float64, ``vehicle`` filled in and a bool column
    ``right`` added. Raises ValueError where no row is left, where a confidence is not in 0..1, or where
    `classes` lacks a predicted brand.
    """
    table = predictions[predictions["predicted"].notna() & predictions["brand"].notna()].copy()
    if classes is not None:
        strange = sorted(set(predictions["predicted"].dropna()) - set(classes))
        if strange:
            raise ValueError(
                f"the predictions name brands that classes does not list: {', '.join(strange)}. "
                "Pass the classes of the model that made these predictions."
            )
        table = table[table["brand"].isin(list(classes))].copy()
    if table.empty:
        raise ValueError(
            f"none of the {len(predictions)} predictions can be scored: a photo counts where it was read and "
            "its file name says a brand that the model knows. See the columns brand, predicted and problem."
        )
    table["confidence"] = table["confidence"].astype("float64")
    outside = table[~table["confidence"].between(0, 1)]
    if len(outside):
        raise ValueError(
            f"{outside['path'].iloc[0]}: confidence is {outside['confidence'].iloc[0]}, but every photo that "
            "was read needs one in 0..1. Predict these photos again."
        )
    known = table["vehicle"].astype(object) if "vehicle" in table else table["path"]
    table["vehicle"] = known.fillna(table["path"])
    table["right"] = (table["brand"] == table["predicted"]).astype(bool)
    return table


def metrics(predictions, *, classes=None, seed=0, n_boot=1000):
    """Score a predictions table.

    Parameters
    ----------
    predictions : DataFrame, one row a photo
    classes : sequence of str, optional
        The brands the model knows. Photos of any other brand are counted as ``unknown_brand`` and left out
        of every score; without `classes` no brand is unknown and such photos count as wrong.
    seed, n_boot : int
        Random seed and number of resamples behind the interval of the accuracy.

    Returns
    -------
    dict of int and float, ready for JSON. Counts: ``n`` photos scored, ``vehicles`` they show, and the photos
    not scored: ``unreadable``, ``unlabelled``, ``unknown_brand``; the four photo counts add up to the table.
    Scores in 0..1: ``accuracy`` with its 95 % interval ``accuracy_low`` to ``accuracy_high``,
    ``top5_accuracy``, ``macro_recall`` and ``macro_f1`` (plain means over the brands the photos show, so a
    rare brand weighs as much as a common one), ``mean_confidence``.

    Raises ValueError where no photo can be scored.
    """
    table = scored(predictions, classes)
    unreadable = predictions["predicted"].isna()
    unlabelled = ~unreadable & predictions["brand"].isna()
    in_top5 = [top5.get(brand) is not None for brand, top5 in zip(table["brand"], table["top5"], strict=True)]
    low, high = _accuracy_interval(table, seed, n_boot)
    report = brand_report(table)
    return {
        "n": len(table),
        "vehicles": int(table["vehicle"].nunique()),
        "unreadable": int(unreadable.sum()),
        "unlabelled": int(unlabelled.sum()),
        "unknown_brand": int(len(predictions) - len(table) - unreadable.sum() - unlabelled.sum()),
        "accuracy": float(table["right"].mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "top5_accuracy": float(np.mean(in_top5)),
        "macro_recall": float(report["recall"].mean()),
        "macro_f1": float(report["f1"].mean()),
        "mean_confidence": float(table["confidence"].mean()),
    }


def metrics_table(results):
    """The dict of `metrics` in words: a DataFrame of str with the column ``value``, for people."""
    low, high = results["accuracy_low"], results["accuracy_high"]
    not_scored = ("unreadable", "unlabelled", "unknown_brand")
    rows = {
        "photos scored": f"{results['n']:,}, of {results['vehicles']:,} vehicles",
        "not scored": ", ".join(f"{k.replace('_', ' ')}: {results[k]:,}" for k in not_scored),
        "accuracy": f"{results['accuracy']:.1%}, 95 % interval {low:.1%} to {high:.1%}",
    }
    shares = ("top5_accuracy", "macro_recall", "macro_f1", "mean_confidence")
    rows |= {k.replace("_", " "): f"{results[k]:.1%}" for k in shares}
    return pd.Series(rows, name="value").to_frame()


def _accuracy_interval(table, seed, n_boot):
    """95 % percentile interval of the accuracy by a bootstrap over vehicles (Field and Welsh 2007)."""
    vehicles = table.groupby("vehicle")["right"].agg(["sum", "size"]).to_numpy()
    if len(vehicles) == 1:
        return 0.0, 1.0  # one vehicle says nothing about the next
    # Vehicles with as many photos and as many right ones are interchangeable, so a resample is one draw from
    # a multinomial over the few kinds of vehicle, not over 100,000 vehicles.
    kinds, counts = np.unique(vehicles, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    right, photos = (random.multinomial(len(vehicles), counts / len(vehicles), size=n_boot) @ kinds).T
    low, high = np.quantile(right / photos, [0.025, 0.975])
    # Resampling cannot invent an error (or a success) that was never seen; the exact binomial bound can.
    certain = 0.025 ** (1 / len(vehicles))
    return float(certain if low == 1 else low), float(1 - certain if high == 0 else high)


def brand_report(predictions):
    """Scores of every brand the photos show, sorted by brand.

    Returns a DataFrame indexed by ``brand``: ``precision``, ``recall``, ``f1`` (floats in 0..1; precision is
    missing for a brand never predicted), ``photos`` and ``vehicles`` (ints).
    """
    table = scored(predictions)
    groups = table.groupby("brand")["vehicle"]
    brands = sorted(groups.groups)
    truth, said = table["brand"].to_numpy(object), table["predicted"].to_numpy(object)
    precision, recall, f1, photos = precision_recall_fscore_support(truth, said, labels=brands, zero_division=np.nan)
    columns = {"precision": precision, "recall": recall, "f1": f1, "photos": photos}
    return pd.DataFrame(columns, index=pd.Index(brands, name="brand")).assign(vehicles=groups.nunique())


def confusion(predictions, classes=None):
    """Count photos by brand (rows) and predicted brand (columns).

    Returns a square DataFrame of int over `classes` in their order, or over every brand shown or predicted,
    sorted. With `classes`, photos of other brands are left out.
    """
    table = scored(predictions, classes)
    if classes is None:
        classes = sorted({*table["brand"], *table["predicted"]})
    counts = pd.crosstab(table["brand"], table["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    return counts.rename_axis(index="brand", columns="predicted")


def ordered(counts):
    """Reorder a confusion table so that brands taken for each other stand together.

    Brands are near where large shares of either's photos go to the other; the order is that of the leaves of
    an average-linkage tree, turned for the smallest distance between neighbours (Bar-Joseph et al. 2001).
    """
    if list(counts.index) != list(counts.columns):
        raise ValueError("a confusion table needs the same brands as rows and columns; see confusion()")
    if len(counts) < 3:
        return counts
    shares = row_shares(counts).fillna(0).to_numpy()
    distance = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0)
    order = leaves_list(linkage(squareform(distance), "average", optimal_ordering=True))
    return counts.iloc[order, order]


def row_shares(counts):
    """Each row of a confusion table as shares of its photos, floats in 0..1; missing where there is none."""
    return counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)


def confused_pairs(predictions, k=10):
    """The `k` most frequent mistakes, most photos first.

    Returns a DataFrame: ``brand``, ``predicted``, ``photos`` (int), ``share`` of the brand's photos in 0..1,
    ``same_owner`` (bool: both brands belong to one group of makers). Empty where nothing was mistaken.
    """
    table = scored(predictions)
    photos = table.groupby("brand").size()
    pairs = table[~table["right"]].groupby(["brand", "predicted"]).size().rename("photos").reset_index()
    pairs = pairs.sort_values(["photos", "brand", "predicted"], ascending=[False, True, True])
    pairs = pairs.head(k).reset_index(drop=True)
    pairs["share"] = pairs["photos"] / pairs["brand"].map(photos).astype("float64")
    owners = [pairs[column].map(owner_of) for column in ("brand", "predicted")]
    pairs["same_owner"] = (owners[0] == owners[1]) & owners[0].notna()
    return pairs


def threshold_table(predictions, thresholds=None):
    """What answering only when ``confidence >= threshold`` costs and brings.

    `thresholds` is a sequence of floats in 0..1; default 0, 0.05, …, 0.95, 0.99. Returns a DataFrame with a
    row for each: ``threshold``, ``coverage`` (share of the photos answered), ``accuracy`` among the answered
    (missing where none is), ``photos`` (int, answered).
    """
    table = scored(predictions).sort_values("confidence")
    thresholds = np.append(np.arange(20) / 20, 0.99) if thresholds is None else np.asarray(thresholds, float)
    first = np.searchsorted(table["confidence"].to_numpy(), thresholds, side="left")
    photos = len(table) - first
    right_from = np.append(table["right"].to_numpy()[::-1].cumsum()[::-1], 0)[first]
    accuracy = np.where(photos > 0, right_from / np.maximum(photos, 1), np.nan)
    return pd.DataFrame(
        {"threshold": thresholds, "coverage": photos / len(table), "accuracy": accuracy, "photos": photos}
    )


def choose_threshold(valid_predictions, accuracy=0.95):
    """The smallest confidence seen on valid from which on `accuracy` of the answers are right.

    Every confidence seen is tried, photos with equal confidence are accepted together, and the smallest that
    reaches the target answers the most photos. Where none reaches it, the one that comes nearest is returned
    with a UserWarning that says how near: a weak model is still worth saving, but not in silence.
    Choose on valid, then keep the threshold for test.
    """
    if not 0 < accuracy <= 1:
        raise ValueError(f"accuracy={accuracy}: the target is a share, above 0 and at most 1; try 0.95")
    candidates = np.unique(valid_predictions["confidence"].dropna().to_numpy("float64"))
    table = threshold_table(valid_predictions, candidates).dropna()
    reached = table[table["accuracy"] >= accuracy]
    if len(reached):
        return float(reached["threshold"].iloc[0])
    best = table.loc[table["accuracy"].idxmax()]
    warnings.warn(
        f"no threshold makes {accuracy:.1%} of the answers right; {best['threshold']:.3f} comes nearest with "
        f"{best['accuracy']:.1%} right of the {best['coverage']:.1%} of photos it answers",
        stacklevel=2,
    )
    return float(best["threshold"])


def reliability_table(predictions, bins=15):
    """Confidence against accuracy in `bins` equally wide ranges of confidence; empty ranges are left out.

    Returns a DataFrame indexed by the range's number, 0 the lowest: mean ``confidence``, ``accuracy``
    (floats in 0..1), ``photos`` (int).
    """
    table = scored(predictions)
    place = np.minimum((table["confidence"] * bins).astype(int), bins - 1).rename("bin")
    grouped = table.groupby(place)
    means = grouped[["confidence", "right"]].mean().rename(columns={"right": "accuracy"})
    return means.assign(photos=grouped.size())


def expected_calibration_error(predictions, bins=15):
    """Mean gap between confidence and accuracy over `bins` ranges, weighted by photos; 0 best, 1 worst.

    See Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    table = reliability_table(predictions, bins)
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["photos"]))


def save_results(predictions, results, folder):
    """Write `predictions.csv`, with the top 5 as JSON, and `metrics.json` into a folder.

    Parameters
    ----------
    predictions : DataFrame, the predictions table
    results : dict from `metrics`
    folder : str or path, made where it is missing
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(results, indent=1, ensure_ascii=False))
    save_predictions(predictions, folder / "predictions.csv")


def save_predictions(predictions, path):
    """Write the predictions table as CSV, with the top 5 as JSON."""
    top5 = predictions["top5"].map(lambda t: json.dumps(t, ensure_ascii=False), na_action="ignore")
    write_text(Path(path), predictions.assign(top5=top5).to_csv(index=False, lineterminator="\n"))
