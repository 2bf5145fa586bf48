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
vehicle look alike, so they are right or wrong together: intervals are over vehicles (`carclf.intervals`).
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.sparse import hstack
from scipy.spatial.distance import squareform
from sklearn.metrics import precision_recall_fscore_support

from carclf.brands import owner_of
from carclf.files import write_text, writing
from carclf.intervals import indicator, percentiles, resampled_sums, share_interval


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
        Random seed and number of resamples of the vehicles, which are behind all intervals alike.

    Returns
    -------
    dict of int and float, ready for JSON. Counts: ``n`` photos scored, ``vehicles`` they show, and the photos
    not scored: ``unreadable``, ``unlabelled``, ``unknown_brand``; the four photo counts add up to the table.
    Scores in 0..1: ``accuracy``, ``macro_recall`` and ``macro_f1``, each with its 95 % interval in ``…_low`` and
    ``…_high``; ``top5_accuracy``; ``mean_confidence``. The macro scores are plain means over the brands the photos
    show, so a rare brand weighs as much as a common one.

    Raises ValueError where no photo can be scored.
    """
    table = scored(predictions, classes)
    unreadable = predictions["predicted"].isna()
    unlabelled = ~unreadable & predictions["brand"].isna()
    in_top5 = [top5.get(brand) is not None for brand, top5 in zip(table["brand"], table["top5"], strict=True)]
    draws, behind = resampled_scores(table, seed, n_boot), vehicles_behind(table)
    found = {}
    for name, score in plain_scores(table).items():
        low, high = percentiles(draws[name], behind[name])
        found |= {name: score, f"{name}_low": low, f"{name}_high": high}
    return {
        "n": len(table),
        "vehicles": int(table["vehicle"].nunique()),
        "unreadable": int(unreadable.sum()),
        "unlabelled": int(unlabelled.sum()),
        "unknown_brand": int(len(predictions) - len(table) - unreadable.sum() - unlabelled.sum()),
        **found,
        "top5_accuracy": float(np.mean(in_top5)),
        "mean_confidence": float(table["confidence"].mean()),
    }


def metrics_table(results):
    """The dict of `metrics` in words: a DataFrame of str with the column ``value``, for people."""
    not_scored = ("unreadable", "unlabelled", "unknown_brand")
    rows = {
        "photos scored": f"{results['n']:,}, of {results['vehicles']:,} vehicles",
        "not scored": ", ".join(f"{k.replace('_', ' ')}: {results[k]:,}" for k in not_scored),
    }
    for name in ("accuracy", "top5_accuracy", "macro_recall", "macro_f1", "mean_confidence"):
        low, high = results.get(f"{name}_low"), results.get(f"{name}_high")
        interval = "" if low is None else f", 95 % interval {low:.1%} to {high:.1%}"
        rows[name.replace("_", " ")] = f"{results[name]:.1%}{interval}"
    return pd.Series(rows, name="value").to_frame()


def brand_report(predictions):
    """Scores of every brand the photos show, sorted by brand.

    Returns a DataFrame indexed by ``brand``: ``precision``, ``recall``, ``f1`` (floats in 0..1), each followed by its
    95 % interval in ``…_low`` and ``…_high``; ``photos`` and ``vehicles`` (ints). The precision is missing for a brand
    never predicted. Most brands have too few vehicles to resample, so the intervals are `intervals.share_interval`'s.
    F1 is no share, but the photos that are of the brand and named so, as a share J of those that are either, tell it:
    F1 = 2J / (1 + J) (Hand et al. 2021).
    """
    table = scored(predictions)
    report, right, vehicle = _report(table), table["right"], table["vehicle"]
    wrong = table[~right]
    named = pd.concat([table["brand"], wrong["predicted"]], ignore_index=True)  # a mistake concerns two brands
    of_either = [
        pd.concat([one[column] for one in (table, wrong)], ignore_index=True) for column in ("right", "vehicle")
    ]
    reach = {
        "precision": share_interval(right, vehicle, table["predicted"]),
        "recall": share_interval(right, vehicle, table["brand"]),
        "f1": share_interval(*of_either, named).transform(lambda share: 2 * share / (1 + share)),
    }
    for name, interval in reach.items():
        report[[f"{name}_low", f"{name}_high"]] = interval.reindex(report.index)
    ends = ("", "_low", "_high")
    return report[[*(name + end for name in reach for end in ends), "photos", "vehicles"]]


def _report(table):
    groups = table.groupby("brand")["vehicle"]
    brands = sorted(groups.groups)
    truth, said = table["brand"].to_numpy(object), table["predicted"].to_numpy(object)
    precision, recall, f1, photos = precision_recall_fscore_support(truth, said, labels=brands, zero_division=np.nan)
    columns = {"precision": precision, "recall": recall, "f1": f1, "photos": photos}
    return pd.DataFrame(columns, index=pd.Index(brands, name="brand")).assign(vehicles=groups.nunique())


def plain_scores(table):
    """``accuracy``, ``macro_recall`` and ``macro_f1`` of a table from `scored`: a dict of floats in 0..1."""
    report = _report(table)
    shares = {"accuracy": table["right"], "macro_recall": report["recall"], "macro_f1": report["f1"]}
    return {name: float(share.mean()) for name, share in shares.items()}


def resampled_scores(table, seed, n_boot):
    """The `plain_scores` of resamples of the vehicles, each float64 [n_boot]; a resample has the brands it shows."""
    brands = pd.Index(sorted(set(table["brand"])))
    truth, said = (indicator(brands.get_indexer(table[column]), len(brands)) for column in ("brand", "predicted"))
    sums = resampled_sums(hstack([truth, said, truth.multiply(said)]), table["vehicle"], seed, n_boot)
    shown, named, right = np.split(sums, 3, axis=1)
    seen = np.where(shown > 0, shown, np.nan)
    return {
        "accuracy": right.sum(axis=1) / shown.sum(axis=1),
        "macro_recall": np.nanmean(right / seen, axis=1),
        "macro_f1": np.nanmean(2 * right / (seen + named), axis=1),
    }


def vehicles_behind(table):
    """How many vehicles stand behind each score; a mean over brands is as sure as the brands with few let it be."""
    of_brands = table.groupby("brand")["vehicle"].nunique()
    macro = len(of_brands) ** 2 / (1 / of_brands).sum()  # (Σw)² / Σw² with a vehicle's weight w (Kish 1965)
    return {"accuracy": table["vehicle"].nunique(), "macro_recall": macro, "macro_f1": macro}


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
