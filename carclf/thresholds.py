"""Answer only when sure: what a threshold on the confidence costs, brings, and can promise.

Choose on valid, then keep the threshold for test. Photos with equal confidence are accepted together.
"""

import warnings

import numpy as np
import pandas as pd

from carclf.evaluation import scored
from carclf.intervals import least_share, share_interval


def answers(predictions):
    """The photos that can be scored, with confidence 0 where the model calls them unknown: these it never accepts."""
    table = scored(predictions)
    if "decision" in table:
        table["confidence"] = table["confidence"].where(table["decision"] != "unknown", 0.0)
    return table


def threshold_table(predictions, thresholds=None):
    """What answering only when ``confidence >= threshold`` costs and brings.

    `thresholds` is a sequence of floats in 0..1; default 0, 0.05, …, 0.95, 0.99. Returns a DataFrame with a
    row for each: ``threshold``, ``coverage`` (share of the photos answered), ``accuracy`` among the answered
    (missing where none is), ``photos`` (int, answered).
    """
    table = answers(predictions).sort_values("confidence")
    thresholds = np.append(np.arange(20) / 20, 0.99) if thresholds is None else np.asarray(thresholds, float)
    first = np.searchsorted(table["confidence"].to_numpy(), thresholds, side="left")
    photos = len(table) - first
    right_from = np.append(table["right"].to_numpy()[::-1].cumsum()[::-1], 0)[first]
    accuracy = np.where(photos > 0, right_from / np.maximum(photos, 1), np.nan)
    return pd.DataFrame(
        {"threshold": thresholds, "coverage": photos / len(table), "accuracy": accuracy, "photos": photos}
    )


def operating_points(predictions, targets=(0, 0.9, 0.95, 0.99)):
    """The smallest threshold from which on the accuracy of these photos reaches each target; 0 accepts everything.

    Returns a DataFrame indexed by ``target``: ``threshold``, ``coverage``, ``accuracy``, ``photos``; the threshold is
    missing and the coverage 0 where no photo's confidence reaches the target. It describes the photos given and
    promises nothing about others, which `choose_threshold` does. Call it on valid, and see what becomes of it with
    ``threshold_table(test, points["threshold"])``.
    """
    tried = np.unique(np.append(0.0, answers(predictions)["confidence"]))
    table = threshold_table(predictions, tried)
    first = [table["threshold"][table["accuracy"] >= target].min() for target in targets]
    return threshold_table(predictions, first).set_index(pd.Index(targets, name="target"))


def risk_coverage_area(predictions):
    """Area under the risk-coverage curve, and how much of it better confidences could take away.

    With the n photos in order of confidence, the surest first, e_i wrong ones among the first i, and a share r of all
    wrong: area = mean of e_i / i; the ideal order has all wrong ones last; excess = area - area of the ideal order
    (Geifman, Uziel and El-Yaniv 2019). Of photos with equal confidence the average order counts.

    Returns a dict of floats in 0..1, 0 best: ``area``, ``ideal``, ``excess``.
    """
    table = answers(predictions)
    groups = (~table["right"]).groupby(-table["confidence"])
    share = groups.transform("mean").to_numpy()[np.argsort(-table["confidence"].to_numpy(), kind="stable")]
    first = np.arange(1, len(table) + 1)
    ideal = np.sort(~table["right"].to_numpy())
    area, best = (float(np.mean(np.cumsum(wrong) / first)) for wrong in (share, ideal))
    return {"area": area, "ideal": best, "excess": area - best}


def choose_threshold(valid_predictions, accuracy=0.95, confidence_level=0.9, seed=0):
    """The smallest threshold that can promise this accuracy among the accepted photos.

    With a probability of `confidence_level` over the choice of valid's vehicles, a photo of a new vehicle of the same
    kind is right with a probability of at least `accuracy` where it is accepted. (It is not promised that every set of
    test photos shows as much: their number is finite, too.)

    How: of each vehicle one photo is drawn (by `seed`), since siblings are no independent witnesses; so vehicles weigh
    alike, however many photos they have. Going from strict to lenient, a threshold passes where the bound of Clopper
    and Pearson on the drawn photos reaches `accuracy`, and the first that fails ends the search, so the many
    thresholds tried cost nothing (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test"). It begins where
    the confidences alone, as if they were true, expect the highest bound: of the very surest photos there are too few
    to prove anything.

    The promise takes for granted that surer photos are not less often right, and that the confidences were fixed before
    the labels of valid were seen. A temperature fitted on valid, or an epoch chosen on it, bends that a little: a
    single number fitted on many photos is far less than a threshold picked among them.

    Where no threshold can promise it, the one whose bound comes nearest is returned with a UserWarning that says how
    near: a weak model is still worth saving, but not in silence.

    Raises ValueError where `accuracy` or `confidence_level` is not within 0 and 1, or no photo can be scored.
    """
    return promise(valid_predictions, accuracy, confidence_level, seed)["threshold"]


def promise(valid_predictions, accuracy=0.95, confidence_level=0.9, seed=0):
    """What `choose_threshold` chooses, as a dict with what it is worth, ready for a model's card.

    ``threshold``, ``accuracy``, ``confidence_level``, ``bound`` (what valid proves for this threshold) and ``kept``:
    whether the accuracy can be promised at all.
    """
    for name, value, usual in ("accuracy", accuracy, 0.95), ("confidence_level", confidence_level, 0.9):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: it is a share, above 0 and below 1; try {usual}")
    facts = {"accuracy": accuracy, "confidence_level": confidence_level}
    groups = _one_photo_a_vehicle(valid_predictions, seed).groupby("confidence")["right"]
    table = groups.agg(photos="size", right="sum").assign(expected=lambda t: t.index * t["photos"])
    table = table[::-1].cumsum()  # the strictest first
    bound = least_share(table["right"], table["photos"], confidence_level)
    begin = least_share(table["expected"], table["photos"], confidence_level).argmax()
    passed = np.logical_and.accumulate(bound[begin:] >= accuracy).sum()
    if passed:
        last = begin + passed - 1
        return {"threshold": float(table.index[last]), **facts, "bound": float(bound[last]), "kept": True}
    best = float(table.index[bound.argmax()])
    at = threshold_table(valid_predictions, [best]).iloc[0]
    needed = int(np.ceil(np.log(1 - confidence_level) / np.log(accuracy)))
    warnings.warn(
        f"no threshold can promise that {accuracy:.1%} of the answers are right; {best:.3f} comes nearest with "
        f"{at['accuracy']:.1%} right of the {at['coverage']:.1%} of photos it answers. Even without a mistake it takes "
        f"{needed} vehicles, here are {table['photos'].iloc[-1]}: add photos of further vehicles to valid, fit a "
        "temperature first, or ask for less",
        stacklevel=3,
    )
    return {"threshold": best, **facts, "bound": float(bound.max()), "kept": False}


def promised(valid_predictions, test_predictions, threshold, accuracy=0.95, confidence_level=0.9, seed=0):
    """Promised against got: what a threshold chosen on valid does on test. Look at it once.

    The settings are those that `choose_threshold` was given. Returns a DataFrame of one row: ``threshold``;
    ``promised``, the accuracy; of valid ``valid_coverage``, ``valid_accuracy`` and ``valid_bound``, the bound for
    this threshold alone; of test ``test_coverage``, ``test_accuracy`` and its 95 % interval ``test_low`` to
    ``test_high`` (`intervals.share_interval`). Missing where nothing is accepted; then the bound is 0.
    """
    on_valid, on_test = (threshold_table(table, [threshold]).iloc[0] for table in (valid_predictions, test_predictions))
    drawn = _one_photo_a_vehicle(valid_predictions, seed)
    sure = drawn["right"][drawn["confidence"] >= threshold]
    test = answers(test_predictions)
    accepted = (test["confidence"] >= threshold).rename("accepted")
    low, high = share_interval(test["right"], test["vehicle"], accepted).reindex([True]).iloc[0]
    row = {
        "threshold": threshold,
        "promised": accuracy,
        "valid_coverage": on_valid["coverage"],
        "valid_accuracy": on_valid["accuracy"],
        "valid_bound": float(least_share(sure.sum(), len(sure), confidence_level)),
        "test_coverage": on_test["coverage"],
        "test_accuracy": on_test["accuracy"],
        "test_low": low,
        "test_high": high,
    }
    return pd.DataFrame([row])


def _one_photo_a_vehicle(predictions, seed):
    """One photo drawn of every vehicle that can be scored; the order of the rows plays no part."""
    table = answers(predictions).sort_values("path", kind="stable")
    return table.sample(frac=1, random_state=np.random.default_rng(seed)).drop_duplicates("vehicle")
