"""Which brands drive on this street? Shares among unlabelled photos, corrected for the classifier's confusions.

Counting predictions is biased: a brand that is often mistaken for another is counted too rarely, and brands that were
common (or weighed more) in training are named too often. So the probabilities are first calibrated on valid, whose
shares are known, by one bias per brand; then expectation-maximisation finds the shares that make the new photos most
likely (Saerens et al. 2002; with the bias, Alexandari et al. 2020). This assumes that photos of a brand look the same
on the street as in valid. Brands that the model does not know get no share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from tqdm.auto import tqdm

from carclf.metrics.intervals import TAIL, share_interval
from carclf.metrics.thresholds import NEVER_ACCEPTED

RIDGE = 0.5  # pseudo-photos about each bias: a brand with three photos in valid does not get a wild one
# Pseudo-photos of each brand in valid. With 0.5, a brand that valid lacks took a tenth of a street that had none of it.
# On halves of the shipped model's valid, 2 did no worse, and on its other collections better. Where valid looks like
# the street, but brands' shares are far from those of valid, it costs: in a simulation up to 38 % more error.
PSEUDO = 2.0
STEPS, CLOSE = 2_000, 1e-7  # of expectation-maximisation: at most, and the change of a share at which it stops


def shares_on(
    classifier: Any, valid: pd.DataFrame | None, photos: Any, seed: int = 0, n_boot: int = 200
) -> pd.DataFrame:
    """`brand_shares` of a classifier's answers; it returns, and raises, the same.

    Parameters
    ----------
    classifier : Classifier, or any object with its `score`, `softmax` and `classes`
    valid : rows of the run's split.csv that are marked valid; None: what the model's folder keeps of them, `valid`
    photos : as for `Classifier.predict`, or Scores of them, such as `carclf.video.score_all` gives for clips, a row per
        car; if a manifest names vehicles, each counts as one
    """

    def answers(photos: Any) -> tuple[pd.DataFrame, np.ndarray]:
        scores = photos if hasattr(photos, "logits") else classifier.score(photos)
        read = scores.table.predicted.notna().to_numpy()
        return scores.table[read], classifier.softmax(scores.logits[read])

    if valid is not None:
        known, known_p = answers(valid[valid.brand.isin(classifier.classes) & valid.problem.isna()])
        brands, groups = known.brand.tolist(), _vehicles(known)
    elif (kept := classifier.valid) is not None:
        known_p, groups = classifier.softmax(kept.logits), kept.vehicles.tolist()
        brands = [classifier.classes[label] for label in kept.labels]
    else:
        raise ValueError("the model's folder keeps no answers on valid; calibrate_on_valid writes them, or give valid")
    street, p = answers(photos)
    return brand_shares(known_p, brands, p, classifier.classes, _vehicles(street), seed, n_boot, groups)


def counted_shares(predictions: pd.DataFrame) -> pd.DataFrame:
    """The share of each brand among the answers, one per row: photos, or the cars of a clip; the unknown are left out.

    Nothing is known of the model's confusions here; `shares_on` corrects for them.

    Returns
    -------
    DataFrame indexed by brand, largest share first
        ``cars`` (int), ``share``, and its exact 95 % interval, ``low`` to ``high``; shares in 0..1 of all answers.
    """
    if "decision" in predictions:
        predictions = predictions[~predictions["decision"].isin(NEVER_ACCEPTED)]
    brand = predictions["predicted"].dropna()
    cars, each = brand.value_counts(), pd.Series(np.arange(len(brand)), brand.index)
    found = {name: share_interval(brand == name, each, each * 0).iloc[0] for name in cars.index}
    table = pd.DataFrame(found, ["low", "high"]).T
    table = table.assign(cars=cars, share=cars / len(brand)).rename_axis("brand")[["cars", "share", "low", "high"]]
    return table.sort_index().sort_values("cars", ascending=False, kind="stable").astype({"cars": int})


def brand_shares(
    valid_probabilities: np.ndarray,
    valid_brands: list[str],
    probabilities: np.ndarray,
    classes: list[str],
    vehicles: list[str] | None = None,
    seed: int = 0,
    n_boot: int = 200,
    valid_vehicles: list | None = None,
) -> pd.DataFrame:
    """Shares of the brands among photos of unknown brands. NaN, and brands that are not classes, are refused.

    Parameters
    ----------
    valid_probabilities : float [M, n_classes], rows sum to 1, of photos that the model was not trained on
    valid_brands : list of M str, all of them among `classes`
    probabilities : float [N, n_classes], of the photos in question
    classes : brands in the order of the columns
    vehicles : list of N str; photos of one vehicle are drawn together, and each vehicle counts as one
    n_boot : number of resamples, of the photos and of valid, for the intervals
    valid_vehicles : list of M; photos of one vehicle are drawn together

    Returns
    -------
    DataFrame indexed by brand, largest share first
        ``counted`` (share of the predictions), ``corrected``, and its 95 % percentile interval, ``low`` to ``high``:
        shares in 0..1 of the photos, or of the vehicles if they are given, to a hundredth of one. A resample cannot
        show what was never seen, so ``high`` is at least, and ``low`` at most, what so many photos can exclude.
    """
    strange = sorted(set(valid_brands) - set(classes))
    if strange:
        raise ValueError(f"valid holds brands that the model does not know: {', '.join(strange)}; leave them out")
    log_valid, log_p = _logs(valid_probabilities, "valid"), _logs(probabilities, "the photos in question")
    labels = pd.Index(classes).get_indexer(valid_brands)
    weights, of_vehicle = _vehicle_weights(vehicles, len(log_p))
    _, valid_vehicle = _vehicle_weights(valid_vehicles, len(labels))
    counted = np.bincount(log_p.argmax(1), weights, len(classes))
    bias, prior = _fit_bias(log_valid, labels, np.ones(len(labels)))
    corrected = _shares(log_p, bias, prior, weights)
    rng, draws, n = np.random.default_rng(seed), [], of_vehicle.max() + 1
    for _ in tqdm(range(n_boot), "shares", unit="resample", leave=False):
        valid, street = _resample(valid_vehicle, rng), _resample(of_vehicle, rng)
        drawn = weights * street
        draws.append(_shares(log_p, *_fit_bias(log_valid, labels, valid, bias), drawn / drawn.sum()))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0) if draws else (corrected, corrected)
    if draws:
        low, high = np.minimum(low, 1 - resolution(n)), np.maximum(high, resolution(n))
    table = pd.DataFrame({"counted": counted, "corrected": corrected, "low": low, "high": high})
    table = table.set_index(pd.Index(classes, name="brand")).sort_values("corrected", ascending=False, kind="stable")
    return table.round(2 + int(np.ceil(np.log10(n))))  # 2.4e-292 would be a number of the method, not of the street


def resolution(n: int) -> float:
    """What `n` photos or vehicles can tell apart from nothing: a share this large may go unseen, with 2.5 % chance."""
    return 1 - TAIL ** (1 / n)


def _resample(of_vehicle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each photo is drawn if as many vehicles as there are are drawn with replacement."""
    n = of_vehicle.max() + 1
    return rng.multinomial(n, np.full(n, 1 / n))[of_vehicle]


def _vehicles(table: pd.DataFrame) -> list | None:
    """The vehicle of each photo, if the table says it; a photo without one is its own."""
    return table["vehicle"].astype(object).fillna(table["path"]).tolist() if "vehicle" in table else None


def _logs(probabilities: np.ndarray, whose: str) -> np.ndarray:
    """Logarithms of probabilities; raises ValueError if there are none, or NaN."""
    if not len(probabilities) or not np.isfinite(probabilities).all():
        raise ValueError(f"the probabilities of {whose} are empty or not finite; leave out photos that cannot be read")
    return np.log(np.clip(probabilities, 1e-12, None))


def _vehicle_weights(vehicles: list | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight of each photo, summing to 1, and the number of its vehicle."""
    if vehicles is None:
        return np.full(n, 1 / n), np.arange(n)
    of_vehicle = pd.factorize(np.asarray(vehicles, object))[0]
    each = np.bincount(of_vehicle)
    return 1 / each[of_vehicle] / len(each), of_vehicle


def _fit_bias(
    log_p: np.ndarray, labels: np.ndarray, weights: np.ndarray, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The bias of each brand that makes the labels of valid most likely, and the brands' shares in valid."""
    # At the optimum the mean probability of each brand is its share: what expectation-maximisation starts from.
    n, total = log_p.shape[1], weights.sum()
    counts = np.bincount(labels, weights, n)
    prior = (counts + PSEUDO) / (total + PSEUDO * n)

    def loss(bias: np.ndarray) -> tuple[float, np.ndarray]:
        z = log_p + bias
        likelihood = weights @ (z[np.arange(len(labels)), labels] - logsumexp(z, axis=1))
        gradient = counts - weights @ softmax(z, axis=1)
        return (RIDGE * bias @ bias / 2 - likelihood) / total, (RIDGE * bias - gradient) / total

    found = minimize(loss, np.zeros(n) if start is None else start, jac=True, method="L-BFGS-B")
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
