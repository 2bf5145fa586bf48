"""Answer only when sure: what a threshold on the confidence costs and brings, and what accuracy it can promise.

Choose the threshold on valid, then keep it for test. Photos of equal confidence are accepted together, and a photo that
the model calls unknown is never accepted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from carclf.data.boxes import NO_CAR
from carclf.metrics.intervals import least_share, share_interval
from carclf.metrics.scores import is_right, scored
from carclf.metrics.words import promise_text

DECISIONS = "accepted", "unsure", "unknown"
NEVER_ACCEPTED = "unknown", NO_CAR  # whatever the confidence


def threshold_table(predictions: pd.DataFrame, thresholds: Sequence[float] | np.ndarray | None = None) -> pd.DataFrame:
    """What answering only when ``confidence >= threshold`` costs and brings.

    Returns
    -------
    DataFrame, a row for each threshold, by default 0, 0.05, …, 0.95, 0.99
        ``threshold``, ``coverage`` (share of the photos answered), ``accuracy`` among the answered (missing if there
        is none), ``photos`` (int, answered).
    """
    table = _answers(predictions).sort_values("confidence")
    thresholds = np.append(np.arange(20) / 20, 0.99) if thresholds is None else np.asarray(thresholds, float)
    first = np.searchsorted(table["confidence"].to_numpy(), thresholds, side="left")
    photos = len(table) - first
    right_from = np.append(table["right"].to_numpy()[::-1].cumsum()[::-1], 0)[first]
    accuracy = np.where(photos > 0, right_from / np.maximum(photos, 1), np.nan)
    return pd.DataFrame(
        {"threshold": thresholds, "coverage": photos / len(table), "accuracy": accuracy, "photos": photos}
    )


def operating_points(predictions: pd.DataFrame, targets: Sequence[float] = (0, 0.9, 0.95, 0.99)) -> pd.DataFrame:
    """The smallest threshold at which the accuracy of these photos reaches each target; 0 accepts everything.

    It describes the photos given and promises nothing about others; `promise` does. Call it on valid, and see
    what the thresholds do on test with ``threshold_table(test, points["threshold"])``.

    Returns
    -------
    DataFrame indexed by target
        As `threshold_table`. If no threshold reaches the target, the threshold is missing and the coverage is 0.
    """
    tried = np.unique(np.append(0.0, _answers(predictions)["confidence"]))
    table = threshold_table(predictions, tried)
    first = [table["threshold"][table["accuracy"] >= target].min() for target in targets]
    return threshold_table(predictions, first).set_index(pd.Index(targets, name="target"))


def choose_threshold(
    valid_predictions: pd.DataFrame, accuracy: float = 0.95, confidence_level: float = 0.9, seed: int = 0
) -> float:
    """The threshold of `promise`."""
    return promise(valid_predictions, accuracy, confidence_level, seed)["threshold"]


def promise(
    valid_predictions: pd.DataFrame, accuracy: float = 0.95, confidence_level: float = 0.9, seed: int = 0
) -> dict[str, Any]:
    """The smallest threshold that can promise this accuracy among the accepted photos, ready for a model's card.

    With a probability of `confidence_level` over the choice of valid's vehicles, an accepted photo of a new vehicle of
    the same kind is right with a probability of at least `accuracy`. (A finite set of test photos may still show less.)
    It assumes that more confident answers are right at least as often, and that the confidences were fixed before
    the labels of valid were seen; a temperature fitted on valid, or an epoch chosen on it, bends that a little.

    How: one photo of each vehicle is drawn (by `seed`), since siblings are not independent. Going from strict to
    lenient, a threshold passes if the bound of Clopper and Pearson on these photos reaches `accuracy`. The first that
    fails ends the search, so trying many thresholds costs nothing (fixed-sequence testing; Angelopoulos et al. 2021,
    "Learn then Test"). The search starts where the bound would be highest if the confidences were true: the very surest
    photos are too few to prove anything.

    Returns
    -------
    dict
        ``threshold``, ``accuracy``, ``confidence_level``, ``bound`` (what valid proves for this threshold alone),
        ``kept`` (bool), and of the photos drawn: ``vehicles`` (int), ``coverage`` (share answered) and ``right`` (share
        of the answered, None if there is none). If no threshold can promise the accuracy, this is the one whose bound
        comes nearest, ``kept`` is False, and a UserWarning has the `promise_text`; then ``needed`` is how many vehicles
        valid would need if that share stayed right, or None if more would not help.
    """
    for name, value, usual in ("accuracy", accuracy, 0.95), ("confidence_level", confidence_level, 0.9):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: it is a share, above 0 and below 1; try {usual}")
    drawn = _one_photo_a_vehicle(valid_predictions, seed)
    table = (
        drawn.groupby("confidence")["right"]
        .agg(photos="size", right="sum")
        .assign(expected=lambda t: t.index * t["photos"])
    )
    table = table[table.index > 0][::-1].cumsum()  # the strictest first; what is unknown has 0 and is never accepted
    if table.empty:
        warnings.warn(promise_text(no_promise(accuracy, confidence_level)), stacklevel=3)
        return no_promise(accuracy, confidence_level)
    bound = least_share(table["right"], table["photos"], confidence_level)
    start = least_share(table["expected"], table["photos"], confidence_level).argmax()
    passed = np.logical_and.accumulate(bound[start:] >= accuracy).sum()
    # A bound that is high enough elsewhere was found by looking at all of them, and proves nothing.
    at = start + passed - 1 if passed else bound.argmax() if bound.max() < accuracy else start
    (photos, right), vehicles = (int(n) for n in table[["photos", "right"]].iloc[at]), len(drawn)
    found = {
        **no_promise(accuracy, confidence_level),
        "threshold": float(table.index[at]),
        "bound": float(bound[at]),
        "kept": bool(passed),
        "vehicles": vehicles,
        "coverage": photos / vehicles,
        "right": right / photos,
        "needed": None if passed else _needed(right / photos, photos / vehicles, accuracy, confidence_level),
    }
    if not passed:
        warnings.warn(promise_text(found), stacklevel=3)
    return found


def no_promise(accuracy: float = 0.95, confidence_level: float = 0.9) -> dict[str, Any]:
    """The promise of a model without a photo in valid to prove it on; `promise` has the keys."""
    facts = {"threshold": 0.0, "accuracy": accuracy, "confidence_level": confidence_level, "bound": 0.0, "kept": False}
    needed = _needed(1.0, 1.0, accuracy, confidence_level)
    return {**facts, "vehicles": 0, "coverage": 0.0, "right": None, "needed": needed}


def promised(
    valid_predictions: pd.DataFrame,
    test_predictions: pd.DataFrame,
    promise: dict[str, Any] | float,
    accuracy: float | None = None,
    confidence_level: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Promised against measured: what a threshold chosen on valid does on test. Look at it once.

    Parameters
    ----------
    promise : of the model's card; or a threshold
    accuracy, confidence_level : what a threshold of your own, fixed before valid was seen, should promise; kept if
        valid proves it

    Returns
    -------
    DataFrame of one row
        ``threshold``; ``promised``, the accuracy, missing if nothing is promised; ``valid_coverage``,
        ``valid_accuracy``, ``valid_photos`` (int, answered) and ``valid_bound``, the bound for this threshold alone;
        ``test_coverage``, ``test_accuracy``, ``test_photos`` and its 95 % interval ``test_low`` to ``test_high``
        (`intervals.share_interval`). If nothing reaches the threshold, accuracies are missing and the bound is 0.
        ``kept`` (bool) and ``text``, as `promise_text` gives it.
    """
    facts = promise if isinstance(promise, dict) else None
    threshold = float(promise["threshold"] if isinstance(promise, dict) else promise)
    on_valid, on_test = (threshold_table(table, [threshold]).iloc[0] for table in (valid_predictions, test_predictions))
    drawn = _one_photo_a_vehicle(valid_predictions, seed)
    sure = drawn["right"][drawn["confidence"] >= threshold]
    bound = facts["bound"] if facts else float(least_share(sure.sum(), len(sure), confidence_level))
    if facts is None and accuracy is not None:
        facts = {"threshold": threshold, "accuracy": accuracy, "confidence_level": confidence_level, "bound": bound}
        facts |= {"kept": bound >= accuracy}
    kept = bool(facts and facts["kept"])
    test = _answers(test_predictions)
    accepted = (test["confidence"] >= threshold).rename("accepted")
    low, high = share_interval(test["right"], test["vehicle"], accepted).reindex([True]).iloc[0]
    row = {
        "threshold": threshold,
        "promised": facts["accuracy"] if facts and kept else np.nan,
        **on_valid[["coverage", "accuracy", "photos"]].add_prefix("valid_"),
        "valid_bound": bound,
        **on_test[["coverage", "accuracy", "photos"]].add_prefix("test_"),
        "test_low": low,
        "test_high": high,
        "kept": kept,
        "text": promise_text(facts, threshold),
    }
    return pd.DataFrame([row]).astype({"valid_photos": int, "test_photos": int})


def _needed(right: float, coverage: float, accuracy: float, confidence_level: float) -> int | None:
    """How many vehicles prove the accuracy if these shares stay as they are; None if 10,000 answers are not enough."""
    answered = np.arange(1, 10_001)
    enough = least_share(right * answered, answered, confidence_level) >= accuracy
    return int(np.ceil(answered[enough.argmax()] / coverage - 1e-9)) if enough.any() else None


def decisions(predictions: pd.DataFrame, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Photos that are accepted, unsure, unknown and so on, their share, and how many of those with a brand are right.

    Returns
    -------
    DataFrame indexed by decision
        ``photos`` (int), ``share`` of the photos read, ``labelled`` (int, photos with both a brand and an answer), and
        ``right``, the share of these in 0..1, missing if there is none. With `classes`, photos of other brands are not
        counted as labelled but in ``other_brand`` (int): no answer is right for them.
    """
    read = predictions[predictions["decision"].notna()]
    named = read["brand"].notna() & read["predicted"].notna()
    other = named & ~read["brand"].isin(list(classes)) if classes is not None else named & False
    named &= ~other
    groups = is_right(read).where(named).astype(float).groupby(read["decision"])
    share = groups.size() / max(len(read), 1)
    table = pd.DataFrame({"photos": groups.size(), "share": share, "labelled": groups.count(), "right": groups.mean()})
    if classes is not None:
        table["other_brand"] = other.groupby(read["decision"]).sum()
    rest = [decision for decision in table.index if decision not in DECISIONS]  # of cars: too small, no car found
    table = table.reindex(pd.Index([*DECISIONS, *rest], name="decision"))
    counts = [name for name in ("photos", "labelled", "other_brand") if name in table]
    return table.fillna({"share": 0.0, **dict.fromkeys(counts, 0)}).astype(dict.fromkeys(counts, int))


def _answers(predictions: pd.DataFrame) -> pd.DataFrame:
    """The photos that can be scored, with confidence 0 if they are unknown or show no car: these are never accepted."""
    table = scored(predictions)
    if "decision" not in table:
        return table
    return table.assign(confidence=table["confidence"].where(~table["decision"].isin(NEVER_ACCEPTED), 0.0))


def _one_photo_a_vehicle(predictions: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One photo drawn of every vehicle that can be scored; the order of the rows plays no part."""
    table = _answers(predictions).sort_values("path", kind="stable")
    return table.sample(frac=1, random_state=np.random.default_rng(seed)).drop_duplicates("vehicle")
