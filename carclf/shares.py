"""What drives on this street? Shares of brands among unlabelled photos, corrected for the classifier's confusions.

Counting predictions answers another question: a brand that is often mistaken for a second one is counted too rarely,
and brands that were common (or weighed more) in training are named too readily. Here the probabilities are first made
right on valid, whose shares are known, by one bias a brand; then expectation-maximisation finds the shares that make
the new photos most likely (Saerens et al. 2002; with the bias, Alexandari et al. 2020). It rests on one assumption: a
photo of a brand looks alike on the street and in valid. Brands that the model does not know get no share.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from tqdm.auto import tqdm

RIDGE = 0.5  # photos' worth of doubt about each bias: a brand with three photos in valid does not get a wild one
STEPS, CLOSE = 2_000, 1e-7  # of expectation-maximisation: at most, and the change of a share at which it ends


def shares_on(classifier, valid: pd.DataFrame, photos, seed: int = 0, n_boot: int = 200) -> pd.DataFrame:
    """`brand_shares` of what a classifier says about photos.

    Parameters
    ----------
    classifier : Classifier, or anything with its `score`, `softmax` and `classes`
    valid : rows of the run's split.csv that are marked valid
    photos : as for `Classifier.predict`; where a manifest names vehicles, each counts as one

    Raises
    ------
    ValueError
        Where no photo of either can be read.
    """
    known = classifier.score(valid[valid.brand.isin(classifier.classes) & valid.problem.isna()])
    street = classifier.score(photos)
    (valid_table, valid_p), (table, p) = (
        (scores.table[readable], classifier.softmax(scores.logits[readable]))
        for scores in (known, street)
        for readable in [scores.table.predicted.notna().to_numpy()]
    )
    vehicles = table.vehicle.tolist() if "vehicle" in table else None
    return brand_shares(valid_p, valid_table.brand.tolist(), p, classifier.classes, vehicles, seed, n_boot)


def brand_shares(
    valid_probabilities: np.ndarray,
    valid_brands: list[str],
    probabilities: np.ndarray,
    classes: list[str],
    vehicles: list[str] | None = None,
    seed: int = 0,
    n_boot: int = 200,
) -> pd.DataFrame:
    """Shares of the brands among photos whose brands nobody knows.

    Parameters
    ----------
    valid_probabilities : float [M, n_classes], rows sum to 1, of photos that the model has not learned from
    valid_brands : M brands, all of them among `classes`
    probabilities : float [N, n_classes], of the photos in question
    classes : brands in the order of the columns
    vehicles : N names, optional: photos of one vehicle are drawn together, and each vehicle counts as one
    seed, n_boot : random seed and number of resamples, of the photos and of valid, behind the intervals

    Returns
    -------
    DataFrame indexed by brand, largest share first, with the columns counted (share of the predictions), corrected, low
    and high (its 95 % percentile interval); shares from 0 to 1, of photos, or of vehicles where these are given

    Raises
    ------
    ValueError
        For no photos, NaN, or brands that are not among the classes.
    """
    number = {brand: i for i, brand in enumerate(classes)}
    strange = sorted(set(valid_brands) - set(classes))
    if strange:
        raise ValueError(f"valid holds brands that the model does not know: {', '.join(strange)}; leave them out")
    log_valid, log_p = _logs(valid_probabilities, "valid"), _logs(probabilities, "the photos in question")
    labels = np.array([number[brand] for brand in valid_brands])
    weights, of_vehicle = _vehicle_weights(vehicles, len(log_p))
    counted = np.bincount(log_p.argmax(1), weights, len(classes))
    bias, prior = _fit_bias(log_valid, labels, np.ones(len(labels)))
    corrected = _shares(log_p, bias, prior, weights)
    rng, draws = np.random.default_rng(seed), []
    for _ in tqdm(range(n_boot), "shares", unit="resample", leave=False):
        valid = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)))
        street = rng.multinomial(of_vehicle.max() + 1, np.full(of_vehicle.max() + 1, 1 / (of_vehicle.max() + 1)))
        drawn = weights * street[of_vehicle]
        draws.append(_shares(log_p, *_fit_bias(log_valid, labels, valid, bias), drawn / drawn.sum()))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0) if draws else (corrected, corrected)
    table = pd.DataFrame({"counted": counted, "corrected": corrected, "low": low, "high": high})
    return table.set_index(pd.Index(classes, name="brand")).sort_values("corrected", ascending=False, kind="stable")


def _logs(probabilities: np.ndarray, whose: str) -> np.ndarray:
    if not len(probabilities) or not np.isfinite(probabilities).all():
        raise ValueError(f"the probabilities of {whose} are empty or not finite; leave out photos that cannot be read")
    return np.log(np.clip(probabilities, 1e-12, None))


def _vehicle_weights(vehicles: list[str] | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight of each photo, summing to 1, and the number of its vehicle."""
    if vehicles is None:
        return np.full(n, 1 / n), np.arange(n)
    of_vehicle = pd.factorize(np.asarray(vehicles, object))[0]
    each = np.bincount(of_vehicle)
    return 1 / each[of_vehicle] / len(each), of_vehicle


def _fit_bias(
    log_p: np.ndarray, labels: np.ndarray, weights: np.ndarray, begin: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Bias a brand that makes the labels of valid most likely, and the brands' shares there.

    At its optimum the mean probability of each brand is its share, so the corrected probabilities are those of a
    world with these shares: what expectation-maximisation begins with.
    """
    n, total = log_p.shape[1], weights.sum()
    counts = np.bincount(labels, weights, n)
    prior = (counts + RIDGE) / (total + RIDGE * n)

    def loss(bias: np.ndarray) -> tuple[float, np.ndarray]:
        z = log_p + bias
        likelihood = weights @ (z[np.arange(len(labels)), labels] - logsumexp(z, axis=1))
        gradient = counts - weights @ softmax(z, axis=1)
        return (RIDGE * bias @ bias / 2 - likelihood) / total, (RIDGE * bias - gradient) / total

    found = minimize(loss, np.zeros(n) if begin is None else begin, jac=True, method="L-BFGS-B")
    return found.x, prior


def _shares(log_p: np.ndarray, bias: np.ndarray, prior: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Shares [n_classes] under which the photos are most likely."""
    used = weights > 0
    likelihood = softmax(log_p[used] + bias, axis=1) / prior  # of the photo under each brand, up to a factor a photo
    shares = prior.copy()
    for _ in range(STEPS):
        joint = likelihood * shares
        new = weights[used] @ (joint / joint.sum(1, keepdims=True))
        if np.abs(new - shares).max() < CLOSE:
            break
        shares = new
    return new
