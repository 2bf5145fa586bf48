"""Predictions -> scores with intervals: of all photos, brand by brand, and of two models side by side.

Metrics take a predictions table, one row per photo, or the photos of it that `scored` returned: score once, use often.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.sparse import hstack
from scipy.spatial.distance import squareform
from sklearn.metrics import precision_recall_fscore_support

from carclf.brands import also_right, is_right_answer, owner_of
from carclf.data.boxes import SMALL
from carclf.data.splits import model_key
from carclf.files import write_csv
from carclf.metrics.intervals import indicator, percentiles, resampled_sums, share_interval
from carclf.metrics.words import listed


def scored(predictions: pd.DataFrame, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """The photos that can be scored: read, with a brand, and that brand among `classes` if given.

    Returns
    -------
    DataFrame
        These rows with ``confidence`` as float64, ``vehicle`` (a photo without one is its own) and ``right`` (bool).
        A table that has the column ``right`` and every ``vehicle`` is scored already and returned unchanged: no copy,
        no check, whatever the `classes`.

    Raises
    ------
    ValueError
        If no photo can be scored, a confidence is not in 0..1, or `classes` lacks a predicted brand.
    """
    if {"right", "vehicle"} <= set(predictions) and len(predictions) and predictions["vehicle"].notna().all():
        return predictions
    kept = predictions["predicted"].notna() & predictions["brand"].notna()
    if classes is not None:
        strange = sorted(set(predictions["predicted"].dropna()) - set(classes))
        if strange:
            raise ValueError(
                f"the predictions name brands that classes does not list: {', '.join(strange)}. "
                "Pass the classes of the model that made these predictions."
            )
        kept &= predictions["brand"].isin(list(classes))
    table = predictions[kept]
    if table.empty:
        raise ValueError(f"none of the {len(predictions)} predictions can be scored: {_why_none(predictions)}")
    confidence = table["confidence"].astype("float64")
    outside = ~confidence.between(0, 1)
    if outside.any():
        raise ValueError(
            f"{table['path'][outside].iloc[0]}: confidence is {confidence[outside].iloc[0]}, but every photo that "
            "was read needs one in 0..1. Predict these photos again."
        )
    vehicle = table["vehicle"].astype(object).fillna(table["path"]) if "vehicle" in table else table["path"]
    return table.assign(confidence=confidence, vehicle=vehicle, right=is_right(table))


def _why_none(predictions: pd.DataFrame) -> str:
    """Why no photo of a table can be scored: the first reason that holds, with the remedy."""
    unread = predictions["predicted"].isna()
    if len(predictions) and unread.all():
        problems = predictions["problem"].dropna() if "problem" in predictions else pd.Series(dtype=object)
        such = f", such as {predictions.at[problems.index[0], 'path']} ({problems.iloc[0]})" if len(problems) else ""
        return f"none was read{such}; give the folder where the photos are now"
    brands = predictions["brand"][~unread].dropna()
    if len(brands):
        return f"the model does not know {listed(brands.value_counts().to_dict())}; give photos of its own brands"
    rule = "a photo counts if it was read and its file name gives a brand that the model knows"
    return rule


def is_right(table: pd.DataFrame) -> pd.Series:
    """Whether each answer is right, bool: the brand itself, or another that the car also is (`brands.also_right`).

    A photo without an answer or without a brand is not. If the table has a `model`, it decides which brands those are.
    """
    rows = zip(table["predicted"], table["brand"], _models(table), strict=True)
    return pd.Series(np.array([is_right_answer(*row) for row in rows], bool), table.index)


def answers(table: pd.DataFrame) -> pd.Series:
    """The brand that each scored photo counts as: the predicted one, or its own if that is right under another name."""
    return table["brand"].where(table["right"], table["predicted"])


def _models(table: pd.DataFrame) -> list[str | None]:
    """The model of each photo, if the table says it."""
    models = table["model"] if "model" in table else [None] * len(table)
    return [model if isinstance(model, str) else None for model in models]


def compute_metrics(
    predictions: pd.DataFrame, *, classes: Sequence[str] | None = None, seed: int = 0, n_boot: int = 1000
) -> dict[str, Any]:
    """Score a predictions table: its `photo_counts` and its `photo_scores`. `scored` says which photos count.

    Parameters
    ----------
    classes : sequence of str, optional
        The brands that the model knows. Photos of any other brand are counted as ``unknown_brand`` and left out
        of every score; without `classes` no brand is unknown and such photos count as wrong.
    n_boot : number of resamples of the vehicles, for all intervals

    Returns
    -------
    dict, ready for JSON
        ``n`` photos scored, ``vehicles`` they show, and photos not scored: ``unreadable``, ``unlabelled``,
        ``unknown_brand``, and of a table with cars ``too_small``; the counts of photos add up to the table. Scores in
        0..1: ``accuracy``, ``macro_recall`` and ``macro_f1``, each with its 95 % interval in ``…_low`` and ``…_high``;
        ``top5_accuracy``; ``mean_confidence``. Macro scores are plain means over the brands shown, so rare brands weigh
        as much as others. ``right_by_another_name`` counts answers that are right without being the label (`is_right`),
        and ``unknown_brands``, if there are any, is a dict with the photos of each.
    """
    table = scored(predictions, classes)
    return photo_counts(predictions, table) | photo_scores(table, seed, n_boot)


def photo_counts(predictions: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """The counts of `compute_metrics`, for a whole table and the photos of it that `scored` returned."""
    unanswered = predictions["predicted"].isna()
    unlabelled = ~unanswered & predictions["brand"].isna()
    unknown = predictions["brand"][~predictions.index.isin(table.index) & ~unanswered & ~unlabelled]
    small = unanswered & (predictions["decision"] == SMALL if "car" in predictions else False)
    return {
        "n": len(table),
        "vehicles": int(table["vehicle"].nunique()),
        "unreadable": int((unanswered & ~small).sum()),
        "unlabelled": int(unlabelled.sum()),
        "unknown_brand": int(len(predictions) - len(table) - unanswered.sum() - unlabelled.sum()),
        **({"unknown_brands": {str(k): int(n) for k, n in unknown.value_counts().items()}} if len(unknown) else {}),
        **({"too_small": int(small.sum())} if "car" in predictions else {}),
    }


def photo_scores(table: pd.DataFrame, seed: int = 0, n_boot: int = 1000) -> dict[str, float]:
    """The scores of `compute_metrics`, for the photos that `scored` returned."""
    found: dict[str, float] = {}
    for name, (score, draws, vehicles) in _bootstrap(table, seed, n_boot).items():
        low, high = percentiles(draws, vehicles)
        found |= {name: score, f"{name}_low": low, f"{name}_high": high}
    rows = zip(*(table[name] for name in ("right", "brand", "top5")), _models(table), strict=True)
    in_top5 = [right or bool({brand, *also_right(brand, model)} & set(top5)) for right, brand, top5, model in rows]
    return found | {
        "top5_accuracy": float(np.mean(in_top5)),
        "mean_confidence": float(table["confidence"].mean()),
        "right_by_another_name": int((table["right"] & (table["predicted"] != table["brand"])).sum()),
    }


def _bootstrap(table: pd.DataFrame, seed: int, n_boot: int) -> dict[str, tuple[float, np.ndarray, float]]:
    """Each score of scored photos, of resamples of their vehicles (float64 [n_boot]), and how many stand behind it."""
    brands = pd.Index(sorted(set(table["brand"])))
    truth, said = (indicator(brands.get_indexer(names), len(brands)) for names in (table["brand"], answers(table)))
    counts = hstack([truth, said, truth.multiply(said)])
    # The first row counts the photos themselves, the others a resample each.
    sums = np.vstack([counts.sum(axis=0), resampled_sums(counts, table["vehicle"], seed, n_boot)])
    shown, named, right = np.split(np.asarray(sums), 3, axis=1)
    seen = np.where(shown > 0, shown, np.nan)  # the macro scores of a resample are over the brands it shows
    of_brands = table.groupby("brand")["vehicle"].nunique()
    macro = len(of_brands) ** 2 / (1 / of_brands).sum()  # (Σw)² / Σw² with a vehicle's weight w (Kish 1965)
    scores = {
        "accuracy": (right.sum(axis=1) / shown.sum(axis=1), table["vehicle"].nunique()),
        "macro_recall": (np.nanmean(right / seen, axis=1), macro),
        "macro_f1": (np.nanmean(2 * right / (seen + named), axis=1), macro),
    }
    return {name: (float(values[0]), values[1:], vehicles) for name, (values, vehicles) in scores.items()}


def save_predictions(predictions: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write a predictions table as CSV, with the top 5 as JSON."""
    top5 = predictions["top5"].map(lambda t: json.dumps(t, ensure_ascii=False), na_action="ignore")
    write_csv(predictions.assign(top5=top5), path)


def brand_report(predictions: pd.DataFrame) -> pd.DataFrame:
    """Scores of every brand the photos show, sorted by brand.

    Most brands have too few vehicles to resample, so the intervals are those of `intervals.share_interval`. F1 is not
    a share, but it follows from one: of the photos that are of the brand or named so, the share J that is both gives
    F1 = 2J / (1 + J) (Hand et al. 2021).

    Returns
    -------
    DataFrame indexed by brand
        ``precision`` (missing for a brand never predicted), ``recall``, ``f1``, floats in 0..1, each followed by its
        95 % interval in ``…_low`` and ``…_high``; ``photos`` and ``vehicles`` (ints).
    """
    table = scored(predictions)
    groups = table.groupby("brand")["vehicle"]
    report = pd.DataFrame(index=pd.Index(sorted(groups.groups), name="brand"))
    truth, said = table["brand"].to_numpy(object), answers(table).to_numpy(object)
    *scores, photos = precision_recall_fscore_support(truth, said, labels=report.index, zero_division=np.nan)
    mistakes = table[~table["right"]]
    either = pd.concat([table, mistakes.assign(brand=mistakes["predicted"])], ignore_index=True)
    intervals = {
        "precision": share_interval(table["right"], table["vehicle"], answers(table)),
        "recall": share_interval(table["right"], table["vehicle"], table["brand"]),
        "f1": share_interval(either["right"], either["vehicle"], either["brand"]).transform(lambda j: 2 * j / (1 + j)),
    }
    for (name, interval), score in zip(intervals.items(), scores, strict=True):
        report[name] = score
        report[[f"{name}_low", f"{name}_high"]] = interval.reindex(report.index)
    return report.assign(photos=photos, vehicles=groups.nunique())


def confusion(predictions: pd.DataFrame, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Count photos by brand (rows) and predicted brand (columns): a square DataFrame of int.

    An answer that is right under another name (`is_right`) counts on the diagonal.

    It covers `classes` in their order, without photos of other brands; by default every brand shown or predicted.
    """
    table = scored(predictions, classes)
    said = answers(table)
    if classes is None:
        classes = sorted({*table["brand"], *said})
    counts = pd.crosstab(table["brand"], said).reindex(index=classes, columns=classes, fill_value=0)
    return counts.rename_axis(index="brand", columns="predicted")


def ordered(counts: pd.DataFrame) -> pd.DataFrame:
    """Reorder a confusion table so that brands taken for each other stand together.

    Brands are near if large shares of either's photos go to the other. The order is that of the leaves of an
    average-linkage tree, turned for the smallest distance between neighbours (Bar-Joseph et al. 2001).
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


def row_shares(counts: pd.DataFrame) -> pd.DataFrame:
    """Each row of a confusion table as shares of its photos, floats in 0..1; missing if it has no photo."""
    return counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)


def confused_pairs(predictions: pd.DataFrame, k: int = 10) -> pd.DataFrame:
    """The `k` most frequent mistakes, most photos first; empty if there is none.

    The columns are ``brand``, ``predicted``, ``photos`` (int), ``share`` of the brand's photos in 0..1, and
    ``same_owner`` (bool: both brands belong to one group of makers).
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


def compare(a: pd.DataFrame, b: pd.DataFrame, seed: int = 0, n_boot: int = 1000) -> dict[str, float]:
    """Two models' predictions of the same photos: is `b` better than `a`, or was it chance?

    Photos are matched by path and compared one by one, so the interval of the difference is far narrower than the
    intervals of the two scores suggest. Tables of other photos, brands or vehicles are refused.

    Returns
    -------
    dict of int and float, ready for JSON
        ``n`` photos, ``vehicles``; for ``accuracy``, ``macro_recall`` and ``macro_f1`` the scores ``…_a`` and ``…_b``
        in 0..1, their difference b - a in ``…_difference``, and its 95 % interval over vehicles in
        ``…_difference_low`` and ``…_difference_high``, in -1..1; the photos ``both_right``, ``only_a_right``,
        ``only_b_right``, ``neither_right``.
    """
    a, b = (scored(table).set_index("path", drop=False).sort_index() for table in (a, b))
    _check_same_photos(a, b)
    # One seed and the same vehicles, so that each resample shows both models the same photos.
    of_a, of_b = (_bootstrap(table, seed, n_boot) for table in (a, b))
    found: dict[str, float] = {"n": len(a), "vehicles": int(a["vehicle"].nunique())}
    for name, (score_a, draws_a, vehicles) in of_a.items():
        score_b, draws_b, _ = of_b[name]
        low, high = percentiles(draws_b - draws_a, vehicles, (-1.0, 1.0))
        found |= {f"{name}_a": score_a, f"{name}_b": score_b, f"{name}_difference": score_b - score_a}
        found |= {f"{name}_difference_low": low, f"{name}_difference_high": high}
    by_a, by_b = a["right"], b["right"]
    kinds = {"both": by_a & by_b, "only_a": by_a & ~by_b, "only_b": ~by_a & by_b, "neither": ~by_a & ~by_b}
    return found | {f"{name}_right": int(photos.sum()) for name, photos in kinds.items()}


def _check_same_photos(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Raise ValueError if two scored tables, indexed and sorted by path, differ in what they show."""
    for name, table in ("a", a), ("b", b):
        if not table.index.is_unique:
            raise ValueError(f"{name} names {table.index[table.index.duplicated()][0]} twice; keep one row per photo")
    only = {"a": a.index.difference(b.index), "b": b.index.difference(a.index)}
    missing = [f"{len(paths)} are in {name} alone, such as {paths[0]}" for name, paths in only.items() if len(paths)]
    if missing:
        raise ValueError(f"the photos scored differ: {'; '.join(missing)}. Let both models predict the same manifest")
    for column in "brand", "vehicle":
        other = a.index[(a[column] != b[column]).to_numpy()]
        if len(other):
            raise ValueError(
                f"{len(other)} photos have another {column} in b than in a, such as {other[0]}: "
                f"{a.at[other[0], column]} and {b.at[other[0], column]}. Let both models predict the same manifest"
            )


def by_seen_model(predictions: pd.DataFrame, manifest: pd.DataFrame, seed: int = 0, n_boot: int = 1000) -> pd.DataFrame:
    """Scores of photos whose car model is in train, beside those of models that train does not hold.

    Train is the rows of `manifest` marked train in its column ``split``, or all rows of a table without that column.
    Both tables need ``brand`` and ``model``, whose spellings are compared as `split` does.

    Returns
    -------
    DataFrame with the rows "seen model", "unseen model" and "no model in the name"
        ``photos``, ``vehicles`` (ints), ``accuracy`` and ``macro_recall`` with their intervals in ``…_low`` and
        ``…_high``; scores are missing if there is no such photo.
    """
    for name, table in ("predictions", predictions), ("manifest", manifest):
        if not {"brand", "model"} <= set(table):
            raise ValueError(f"{name} without the columns brand and model: predict, and pass, what carclf.split gave")
    train = manifest[manifest["split"] == "train"] if "split" in manifest else manifest
    table = scored(predictions)
    model, of_train = (model_key(rows.astype({"model": object})) for rows in (table, train))
    seen = model.isin(of_train.dropna())
    kinds = {"seen model": seen, "unseen model": ~seen & model.notna(), "no model in the name": model.isna()}
    rows = {
        name: compute_metrics(table[of], seed=seed, n_boot=n_boot) if of.any() else {"n": 0, "vehicles": 0}
        for name, of in kinds.items()
    }
    scores = [score + end for score in ("accuracy", "macro_recall") for end in ("", "_low", "_high")]
    return pd.DataFrame.from_dict(rows, "index")[["n", "vehicles", *scores]].rename(columns={"n": "photos"})
