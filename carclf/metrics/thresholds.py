"""Answer only when sure: what a threshold on the confidence costs and brings, and what accuracy it can promise.

Choose the threshold on valid, then keep it for test. Photos of equal confidence are accepted together, and a photo that
the model calls unknown is never accepted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from carclf.data.boxes import NO_CAR
from carclf.metrics.intervals import least_share, share_interval
from carclf.metrics.scores import scored

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
) -> dict[str, float]:
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
        ``threshold``, ``accuracy``, ``confidence_level``, ``bound`` (the accuracy that valid proves for this threshold)
        and ``kept`` (bool). If no threshold can promise the accuracy, this is the one whose bound comes nearest, with
        ``kept`` False and a UserWarning.
    """
    for name, value, usual in ("accuracy", accuracy, 0.95), ("confidence_level", confidence_level, 0.9):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: it is a share, above 0 and below 1; try {usual}")
    facts = {"accuracy": accuracy, "confidence_level": confidence_level}
    groups = _one_photo_a_vehicle(valid_predictions, seed).groupby("confidence")["right"]
    table = groups.agg(photos="size", right="sum").assign(expected=lambda t: t.index * t["photos"])
    table = table[::-1].cumsum()  # the strictest first
    bound = least_share(table["right"], table["photos"], confidence_level)
    start = least_share(table["expected"], table["photos"], confidence_level).argmax()
    passed = np.logical_and.accumulate(bound[start:] >= accuracy).sum()
    if passed:
        last = start + passed - 1
        return {"threshold": float(table.index[last]), **facts, "bound": float(bound[last]), "kept": True}
    best = float(table.index[bound.argmax()])
    at = threshold_table(valid_predictions, [best]).iloc[0]
    needed = int(np.ceil(np.log(1 - confidence_level) / np.log(accuracy)))
    warnings.warn(
        f"no threshold can promise that {accuracy:.1%} of the answers are right; {best:.3f} comes nearest with "
        f"{at['accuracy']:.1%} right of the {at['coverage']:.1%} of photos it answers. Even without a mistake it takes "
        f"{needed} vehicles, and valid has {table['photos'].iloc[-1]}: add photos of more vehicles, or pass "
        "a lower accuracy",
        stacklevel=3,
    )
    return {"threshold": best, **facts, "bound": float(bound.max()), "kept": False}


def promised(
    valid_predictions: pd.DataFrame,
    test_predictions: pd.DataFrame,
    threshold: float,
    accuracy: float = 0.95,
    confidence_level: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Promised against measured: what a threshold chosen on valid does on test. Look at it once.

    The settings are those given to `promise`.

    Returns
    -------
    DataFrame of one row
        ``threshold``; ``promised``, the accuracy; ``valid_coverage``, ``valid_accuracy`` and ``valid_bound``, the bound
        for this threshold alone; ``test_coverage``, ``test_accuracy`` and its 95 % interval ``test_low`` to
        ``test_high`` (`intervals.share_interval`). If nothing is accepted, accuracies are missing and the bound is 0.
    """
    on_valid, on_test = (threshold_table(table, [threshold]).iloc[0] for table in (valid_predictions, test_predictions))
    drawn = _one_photo_a_vehicle(valid_predictions, seed)
    sure = drawn["right"][drawn["confidence"] >= threshold]
    test = _answers(test_predictions)
    accepted = (test["confidence"] >= threshold).rename("accepted")
    low, high = share_interval(test["right"], test["vehicle"], accepted).reindex([True]).iloc[0]
    row = {
        "threshold": threshold,
        "promised": accuracy,
        **on_valid[["coverage", "accuracy"]].add_prefix("valid_"),
        "valid_bound": float(least_share(sure.sum(), len(sure), confidence_level)),
        **on_test[["coverage", "accuracy"]].add_prefix("test_"),
        "test_low": low,
        "test_high": high,
    }
    return pd.DataFrame([row])


def decisions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Photos that are accepted, unsure, unknown and so on, their share, and how many of those with a brand are right.

    Returns
    -------
    DataFrame indexed by decision
        ``photos`` (int), ``share`` of the photos read, ``right`` (share in 0..1, missing if no photo has both a brand
        and an answer).
    """
    read = predictions[predictions["decision"].notna()]
    named = read["brand"].notna() & read["predicted"].notna()
    right = (read["predicted"] == read["brand"]).where(named).astype(float)
    groups = right.groupby(read["decision"])
    table = pd.DataFrame({"photos": groups.size(), "share": groups.size() / max(len(read), 1), "right": groups.mean()})
    rest = [decision for decision in table.index if decision not in DECISIONS]  # of cars: too small, no car found
    table = table.reindex(pd.Index([*DECISIONS, *rest], name="decision"))
    return table.fillna({"photos": 0, "share": 0.0}).astype({"photos": int})


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
