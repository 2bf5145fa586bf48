"""How well a network knows what it is shown: scores that fall for unknown brands and for pictures of no car.

A network that has learned 49 brands names one of them for everything, a cat included. Its confidence compares the
brands with each other; these scores ask whether any of them fits. All of them rise with knownness.

=============  =============================================================================================
max_softmax    the largest probability (Hendrycks & Gimpel 2017, arXiv 1610.02136)
energy         log of the sum of exp(logits) (Liu et al. 2020, arXiv 2010.03759)
class_mean     cosine of the angle between the features and the nearest mean of a brand's features in train
mahalanobis    -squared distance to the nearest such mean, by the covariance that brands have in common, of features
               of length 1 (arXiv 1807.03888, 2505.18032)
neighbours     -distance to the tenth nearest photo of train, of features of length 1 (arXiv 2204.06507)
=============  =============================================================================================

`benchmarks/novelty.py` measures them. The default is mahalanobis: of all it tells pictures of no car best from photos
of cars, it tells unknown brands from known ones about as well as any other, and it keeps little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

METHODS = ("max_softmax", "energy", "class_mean", "mahalanobis", "neighbours")
AXES = 64  # along which brands vary most; all others are taken for equal, which costs next to nothing
K = 10  # which neighbour in train counts: one alone may be an odd photo, brands of 20 photos have no more
RECALL = 0.95  # of known photos, at which false positives are counted


def learn(method: str, features: np.ndarray, labels: Sequence) -> dict[str, np.ndarray]:
    """What a score has to keep of the photos of train, as arrays of float; empty for max_softmax and energy.

    For 49 brands and 1,280 features mahalanobis keeps 290 kB, and neighbours 5 kB a photo.

    Parameters
    ----------
    method : a key of the table above
    features : float [N, n_features], finite, as `Scores.features` has them
    labels : [N] brands or their numbers

    Raises
    ------
    ValueError
        For an unknown method, and for too few photos for mahalanobis.
    """
    _check(method)
    if method in ("max_softmax", "energy"):
        return {}
    unit = _unit(np.asarray(features, float))
    if method == "neighbours":
        return {"train": unit.astype(np.float32)}
    brands, numbers = np.unique(labels, return_inverse=True)
    means = np.stack([unit[numbers == i].mean(0) for i in range(len(brands))])
    if method == "class_mean":
        return {"means": _unit(means).astype(np.float32)}
    if len(unit) < len(brands) + 2:
        raise ValueError(
            f"{len(unit)} photos of {len(brands)} brands do not say how photos of one brand differ; "
            "give more photos of train, or method='energy'"
        )
    free = min(len(unit) - len(brands), unit.shape[1])  # axes along which anything varies
    pca = PCA(min(AXES, free // 2), svd_solver="covariance_eigh").fit(unit - means[numbers])
    variance = np.append(pca.explained_variance_, pca.noise_variance_).astype(np.float32)
    return {"means": means.astype(np.float16), "axes": pca.components_.T.astype(np.float16), "variance": variance}


def knownness(
    logits: np.ndarray, features: np.ndarray, method: str, fitted: dict[str, np.ndarray] | None = None
) -> np.ndarray:
    """How known each photo is, float64 [N]; larger is more known, NaN where a photo could not be read.

    Parameters
    ----------
    logits, features : float [N, n_classes] and [N, n_features], as `Scores` has them
    method : a key of the table above
    fitted : what `learn` has returned for this method; not needed for max_softmax and energy

    Raises
    ------
    ValueError
        For an unknown method.
    """
    _check(method)
    score = np.full(len(logits), np.nan)
    readable = ~np.isnan(logits).any(1)
    logits, features = np.asarray(logits, float)[readable], np.asarray(features, float)[readable]
    if not readable.any():
        return score
    if method == "max_softmax":
        score[readable] = softmax(logits, 1).max(1)
    elif method == "energy":
        score[readable] = logsumexp(logits, 1)
    elif method == "class_mean":
        score[readable] = (_unit(features) @ fitted["means"].T).max(1)
    elif method == "mahalanobis":
        score[readable] = -_mahalanobis(_unit(features), fitted).min(1)
    else:
        near = NearestNeighbors(n_neighbors=min(K, len(fitted["train"]))).fit(fitted["train"])
        score[readable] = -near.kneighbors(_unit(features))[0][:, -1]
    return score


@dataclass(frozen=True)
class Novelty:
    """When a model says that it does not know what a photo shows.

    Attributes
    ----------
    method : a key of the table above
    threshold : photos below this knownness are unknown
    known : share of the photos of valid that lie at it or above
    arrays : what the method keeps of train, as `learn` returns it
    """

    method: str
    threshold: float
    known: float
    arrays: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def choose(cls, train, valid, method: str = "mahalanobis", known: float = 0.95) -> Novelty:
        """The largest threshold at which at least a share `known` of the photos of valid counts as known.

        Parameters
        ----------
        train, valid : Scores from `Classifier.score`; photos of brands that the model does not know are left out
        known : above 0 and at most 1

        Raises
        ------
        ValueError
            For another share, or where valid has no photo to choose by.
        """
        if not 0 < known <= 1:
            raise ValueError(f"known={known}: the share of known photos lies above 0 and is at most 1; try 0.95")
        rows, kept = _of_known_brands(train), _of_known_brands(valid)
        if not kept.any():
            raise ValueError("valid has no readable photo of a brand that the model knows; score the split valid")
        arrays = learn(method, train.features[rows], train.table["brand"][rows].to_numpy(str))
        scores = np.sort(knownness(valid.logits[kept], valid.features[kept], method, arrays))
        place = len(scores) - int(np.ceil(known * len(scores) - 1e-9))
        return cls(method, float(scores[place]), float((scores >= scores[place]).mean()), arrays)

    @classmethod
    def of(cls, facts: dict, arrays: dict[str, np.ndarray], n_features: int) -> Novelty:
        """What `facts` and `arrays` of another one say, checked against the width of the features.

        Raises
        ------
        ValueError
            Where they are not those of a Novelty, or of another network.
        """
        try:
            novelty = cls(str(facts["method"]), float(facts["threshold"]), float(facts["known"]), dict(arrays))
            _check(novelty.method)
            shapes = {name: array.shape for name, array in arrays.items()}
            if not _fits(novelty.method, shapes, n_features):
                raise ValueError(f"arrays {shapes} are not those of {novelty.method} for {n_features} features")
            if not np.isfinite(novelty.threshold) or not all(np.isfinite(a).all() for a in arrays.values()):
                raise ValueError("a number in it is not finite")
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"this is not how a model knows what is unknown ({error}); choose it anew") from error
        return novelty

    @property
    def facts(self) -> dict[str, str | float]:
        """All but the arrays, ready for JSON."""
        return {"method": self.method, "threshold": self.threshold, "known": self.known}

    def knownness(self, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
        """How known each photo is, float64 [N], by this method."""
        return knownness(logits, features, self.method, self.arrays)

    def unknown(self, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Which photos are unknown, bool [N]; one that could not be read is not."""
        return self.knownness(logits, features) < self.threshold


def novelty_metrics(
    known: np.ndarray,
    unknown: np.ndarray,
    known_groups: Sequence | None = None,
    unknown_groups: Sequence | None = None,
    seed: int = 0,
    n_boot: int = 1000,
) -> dict[str, float | int]:
    """How well knownness tells known photos from unknown ones, with 95 % bootstrap intervals.

    Parameters
    ----------
    known, unknown : float [N] and [M], knownness; NaN, which is a photo that could not be read, is left out
    known_groups, unknown_groups : [N] and [M], photos drawn together, such as those of a vehicle or of a held-out
        brand; by default each photo is drawn alone

    Returns
    -------
    dict: `known` and `unknown` (photos), `auroc` (0 to 1, the chance that a known photo scores above an unknown one),
    `fpr95` (0 to 1, share of the unknown photos taken for known where 95 % of the known ones are), and for both of
    them the ends of the interval, `…_low` and `…_high`

    Raises
    ------
    ValueError
        Where there is no readable photo on one of the sides.
    """
    sides = [_readable(known, known_groups), _readable(unknown, unknown_groups)]
    for name, (scores, _) in zip(("known", "unknown"), sides, strict=True):
        if not len(scores):
            raise ValueError(f"no {name} photo has a score, so nothing can be compared; give readable {name} photos")
    rng = np.random.default_rng(seed)
    found = {"known": len(sides[0][0]), "unknown": len(sides[1][0])}
    boot = [_auroc_and_fpr(*(_redrawn(*side, rng) for side in sides)) for _ in range(n_boot)]
    ends = np.quantile(boot, [0.025, 0.975], axis=0)
    for i, name in enumerate(("auroc", "fpr95")):
        found[name] = _auroc_and_fpr(sides[0][0], sides[1][0])[i]
        found |= {f"{name}_low": float(ends[0, i]), f"{name}_high": float(ends[1, i])}
    return found


def _auroc_and_fpr(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float]:
    truth, scores = np.repeat([1, 0], [len(known), len(unknown)]), np.concatenate([known, unknown])
    false_positives, recall, _ = roc_curve(truth, scores, drop_intermediate=False)
    return float(roc_auc_score(truth, scores)), float(false_positives[np.argmax(recall >= RECALL)])


def _readable(scores: np.ndarray, groups: Sequence | None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scores without NaN, and which of them are drawn together."""
    scores = np.asarray(scores, float)
    groups = np.arange(len(scores)) if groups is None else np.asarray(groups)
    kept = ~np.isnan(scores)
    numbers = np.unique(groups[kept], return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    return scores[kept], np.split(order, np.cumsum(np.bincount(numbers))[:-1]) if kept.any() else []


def _redrawn(scores: np.ndarray, groups: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return scores[np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])]


def _mahalanobis(features: np.ndarray, fitted: dict[str, np.ndarray]) -> np.ndarray:
    """Squared distances [N, n_brands]: along the axes by the variance of each, across them by the mean of the rest."""
    means, axes = fitted["means"].astype(float), fitted["axes"].astype(float)
    *along, rest = fitted["variance"].astype(float)
    # Scaled so that Euclid's distance between these is the one along the axes, less what the last term counts of it.
    scale = 1 / np.array(along) - 1 / rest  # not above 0, as the axes vary most
    near = cdist(features @ axes * np.sqrt(-scale), means @ axes * np.sqrt(-scale), "sqeuclidean")
    return cdist(features, means, "sqeuclidean") / rest - near


def _of_known_brands(scores) -> np.ndarray:
    """Which photos of Scores were read and show a brand that the model knows: those with a loss."""
    return scores.table["loss"].notna().to_numpy()


def _fits(method: str, shapes: dict[str, tuple[int, ...]], n: int) -> bool:
    """Whether arrays of these shapes are what `learn` keeps of n features."""
    kept = {"class_mean": {"means"}, "mahalanobis": {"means", "axes", "variance"}, "neighbours": {"train"}}
    if shapes.keys() != kept.get(method, set()):
        return False
    if method == "mahalanobis":
        axes = shapes["axes"]
        if len(axes) != 2 or axes[0] != n or shapes["variance"] != (axes[1] + 1,):
            return False
    rows = [shape for name, shape in shapes.items() if name in ("means", "train")]
    return all(len(shape) == 2 and shape[0] > 0 and shape[1] == n for shape in rows)


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of: {', '.join(METHODS)}")
