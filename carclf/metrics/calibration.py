"""Does a confidence of 80 % mean that 80 % are right? Measured on a predictions table, corrected by one number.

That number is the temperature: logits are divided by it before they become probabilities. It changes how sure the model
is and never its answer. It is fitted on valid and kept in the model's card; test only shows what it does.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.sparse import hstack
from scipy.special import log_softmax

from carclf.metrics.intervals import TAIL, indicator, resampled_sums, share_interval
from carclf.metrics.scores import scored

RANGE = (0.1, 10.0)  # temperatures that are tried


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that gives the labels the highest probability: the least log loss (Guo et al. 2017).

    Fit it on valid. If every photo is right, the loss falls with the temperature and no best one exists: 1 is returned,
    with a UserWarning. It also warns if the best temperature is at an end of the range.

    Parameters
    ----------
    logits : float [N, n_classes], before any temperature
        Rows that are not finite (photos that could not be read) are left out.
    labels : int [N]
        The column of the true brand; rows with -1 (brand not known, or not among the classes) are left out.

    Returns
    -------
    float in 0.1..10
        Above 1 the model was too sure, below 1 not sure enough.
    """
    logits, labels = np.asarray(logits, "float64"), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] < 2:
        raise ValueError(
            f"logits of shape {logits.shape} and labels of shape {labels.shape} must be [N, n_classes] and [N], "
            "with two classes or more; Classifier.score gives the logits"
        )
    kept = (labels >= 0) & np.isfinite(logits).all(axis=1)
    logits, labels = logits[kept], labels[kept].astype(int)
    if not len(labels) or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"{len(labels)} of {len(kept)} photos have logits and a label, which must be below {logits.shape[1]}: "
            "give photos of brands that the model knows, and the model's own classes"
        )
    of_label = (np.arange(len(labels)), labels)
    if (logits[of_label] == logits.max(axis=1)).all():
        photos = f"all {len(labels)} photos are" if len(labels) > 1 else "the only photo is"
        warnings.warn(
            f"{photos} right, which does not tell how sure the model may be: "
            "the temperature stays 1; fit it on more photos",
            stacklevel=2,
        )
        return 1.0

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[of_label].mean()

    # Convex in 1 / temperature, so there is one minimum only, on any scale.
    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-5})
    if np.abs(found.x - np.log(RANGE)).min() < 1e-3:
        end = "highest" if found.x > 0 else "lowest"
        warnings.warn(
            f"the best temperature is {np.exp(found.x):.3g}, the {end} that is tried: the photos are too few, or the "
            "confidence says little about what is right; look at the accuracy first",
            stacklevel=2,
        )
    return float(np.exp(found.x))


def reliability_table(predictions: pd.DataFrame, bins: int = 15, equally_many: bool = False) -> pd.DataFrame:
    """Confidence against accuracy in `bins` equally wide ranges of confidence; empty ranges are left out.

    With `equally_many`, in ranges that hold equally many photos instead; photos of one confidence stay together.

    Returns
    -------
    DataFrame indexed by the range's number, 0 the lowest
        Mean ``confidence``, ``accuracy`` (in 0..1), ``photos`` (int), and the 95 % interval of the accuracy,
        ``accuracy_low`` to ``accuracy_high``, by `intervals.share_interval`.
    """
    table = scored(predictions)
    number = _range_numbers(table, bins)
    if equally_many:
        number = ((table["confidence"].rank() - 0.5) / len(table) * bins).astype(int).rename("bin")
    grouped = table.groupby(number)
    means = grouped[["confidence", "right"]].mean().rename(columns={"right": "accuracy"})
    interval = share_interval(table["right"], table["vehicle"], number).add_prefix("accuracy_")
    return means.assign(photos=grouped.size()).join(interval)


def expected_calibration_error(predictions: pd.DataFrame, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over `bins` ranges, weighted by photos; 0 best, 1 worst.

    See Guo et al. 2017, "On Calibration of Modern Neural Networks". Chance alone makes gaps, and gaps do not cancel:
    on few photos the error is too large, and above 0 even for a perfect model (Kumar et al. 2019).
    `calibration_error_interval` allows for that.
    """
    table = reliability_table(predictions, bins)
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["photos"]))


def calibration_error_interval(
    predictions: pd.DataFrame, bins: int = 15, seed: int = 0, n_boot: int = 1000
) -> tuple[float, float]:
    """95 % interval (low, high) of the expected calibration error that infinitely many photos would show here.

    Chance adds to the error, so the lower end subtracts what chance alone makes: the sum over the ranges of how far
    their gaps move between resamples of the vehicles. If it is 0, the model may be perfect. The upper end is that of
    the resamples, which chance has enlarged once more. One vehicle gives 0..1.
    """
    table = scored(predictions)
    if table["vehicle"].nunique() == 1:
        return 0.0, 1.0
    excess = (table["confidence"] - table["right"]).to_numpy()
    gaps = indicator(_range_numbers(table, bins), bins).multiply(excess[:, None])
    seen = np.asarray(gaps.sum(axis=0)).ravel() / len(table)
    sums = resampled_sums(hstack([gaps, np.ones((len(table), 1))]), table["vehicle"], seed, n_boot)
    drawn = sums[:, :-1] / sums[:, [-1]]
    chance = np.quantile(np.abs(drawn - seen).sum(axis=1), 1 - TAIL)
    high = np.quantile(np.abs(drawn).sum(axis=1), 1 - TAIL)
    return float(max(np.abs(seen).sum() - chance, 0)), float(high)


def _range_numbers(table: pd.DataFrame, bins: int) -> pd.Series:
    """Number of the range that each confidence is in."""
    return np.minimum((table["confidence"] * bins).astype(int), bins - 1).rename("bin")
