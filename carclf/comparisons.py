"""Predictions side by side: two models on the same photos, models that were learned beside models that were not."""

import pandas as pd

from carclf.evaluation import metrics, plain_scores, resampled_scores, scored, vehicles_behind
from carclf.intervals import percentiles
from carclf.splits import model_key


def compare(a, b, seed=0, n_boot=1000):
    """Two models on the same photos: is `b` better than `a`, or was it chance?

    Both are predictions tables of the same photos, matched by path. Photos that both score are compared one by one, so
    the interval of the difference is far narrower than the intervals of the two scores suggest.

    Returns
    -------
    dict of int and float, ready for JSON: ``n`` photos, ``vehicles``; for ``accuracy``, ``macro_recall`` and
    ``macro_f1`` the scores ``…_a`` and ``…_b`` in 0..1, their difference b - a in ``…_difference``, and its 95 %
    interval over vehicles in ``…_difference_low`` and ``…_difference_high``, in -1..1; the photos ``both_right``,
    ``only_a_right``, ``only_b_right``, ``neither_right``.

    Raises ValueError where the tables do not hold the same photos, brands and vehicles.
    """
    a, b = (scored(table).set_index("path", drop=False).sort_index() for table in (a, b))
    _check_same_photos(a, b)
    # One seed and the same vehicles, so that each resample shows both models the same photos.
    draws = [resampled_scores(table, seed, n_boot) for table in (a, b)]
    scores, behind = [plain_scores(table) for table in (a, b)], vehicles_behind(a)
    found = {"n": len(a), "vehicles": int(a["vehicle"].nunique())}
    for name in scores[0]:
        of_a, of_b = (one[name] for one in scores)
        low, high = percentiles(draws[1][name] - draws[0][name], behind[name], (-1.0, 1.0))
        found |= {f"{name}_a": of_a, f"{name}_b": of_b, f"{name}_difference": of_b - of_a}
        found |= {f"{name}_difference_low": low, f"{name}_difference_high": high}
    by_a, by_b = a["right"], b["right"]
    kinds = {"both": by_a & by_b, "only_a": by_a & ~by_b, "only_b": ~by_a & by_b, "neither": ~by_a & ~by_b}
    return found | {f"{name}_right": int(photos.sum()) for name, photos in kinds.items()}


def by_novelty(predictions, manifest, seed=0, n_boot=1000):
    """Photos of models that were learned beside photos of models never seen.

    Parameters
    ----------
    predictions : DataFrame with the column ``model``, as predictions of a manifest have
    manifest : DataFrame with ``brand`` and ``model``: the photos marked train in its column ``split``, or all of a
        table without that column, are those that were learned. Spellings of a model are compared as `split` does.
    seed, n_boot : as for `metrics`

    Returns
    -------
    DataFrame with a row each for "known model", "unseen model" and "no model in the name", and the columns ``photos``,
    ``vehicles`` (ints), ``accuracy`` and ``macro_recall`` with their intervals in ``…_low`` and ``…_high``; the scores
    are missing where there is no such photo.
    """
    for name, table in ("predictions", predictions), ("manifest", manifest):
        if not {"brand", "model"} <= set(table):
            raise ValueError(f"{name} without the columns brand and model: predict, and pass, what carclf.split gave")
    learned = manifest[manifest["split"] == "train"] if "split" in manifest else manifest
    table = scored(predictions)
    model, of_train = (model_key(rows.astype({"model": object})) for rows in (table, learned))
    known = model.isin(of_train.dropna())
    kinds = {"known model": known, "unseen model": ~known & model.notna(), "no model in the name": model.isna()}
    rows = {name: metrics(table[of], seed=seed, n_boot=n_boot) if of.any() else {} for name, of in kinds.items()}
    ends = ("", "_low", "_high")
    columns = ["n", "vehicles", *(score + end for score in ("accuracy", "macro_recall") for end in ends)]
    found = pd.DataFrame.from_dict(rows, "index").reindex(columns=columns).rename(columns={"n": "photos"})
    return found.fillna({"photos": 0, "vehicles": 0}).astype({"photos": int, "vehicles": int})


def _check_same_photos(a, b):
    """Raise ValueError where two scored tables, indexed and sorted by path, differ in what they show."""
    for name, table in ("a", a), ("b", b):
        if not table.index.is_unique:
            raise ValueError(f"{name} names {table.index[table.index.duplicated()][0]} twice; keep one row a photo")
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
