"""Out-of-distribution detection: does a photo look like anything that the model was trained on?

A network that has learned 49 brands answers with one of them for everything, a cat included. Its confidence compares
the brands with each other; this score asks whether any of them fits: the negative squared Mahalanobis distance of the
features, scaled to length 1, to the nearest brand's mean, with the covariance that all brands share (arXiv 1807.03888,
2505.18032). `experiments/ood.py` compares it with four other scores: it separates pictures without a car from photos
of cars best, unknown brands from known ones about as well as any other, and it stores little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

METHOD = "mahalanobis"  # how cards name it
AXES = 64  # along which brands vary most; the variance along all others is taken as equal, which costs next to nothing


@dataclass(frozen=True)
class OodDetector:
    """Which photos are unknown to a model. Make one with `choose`, or with `fit` for the score alone.

    Attributes
    ----------
    threshold : float
        Photos with a lower score are unknown.
    known : float
        Share of the valid photos that score at least that.
    arrays : dict
        `means` float16 [n_brands, n_features], `axes` float16 [n_features, n_axes], `variance` float32 [n_axes + 1]:
        along each axis, and the mean of all other directions. 290 kB for 49 brands and 1,280 features.
    """

    threshold: float
    known: float
    arrays: dict[str, np.ndarray] = field(compare=False, repr=False)

    @classmethod
    def fit(cls, features: np.ndarray, labels: Sequence | np.ndarray) -> OodDetector:
        """Means and covariance of training photos, with a threshold that every photo passes.

        Parameters
        ----------
        features : float [N, n_features], finite
        labels : [N] brands or their numbers
        """
        unit = _unit(np.asarray(features, float))
        brands, numbers = np.unique(labels, return_inverse=True)
        if len(unit) < len(brands) + 2:
            raise ValueError(
                f"{len(unit)} photos of {len(brands)} brands do not show how much photos of one brand differ; "
                f"give at least {len(brands) + 2} photos of train"
            )
        means = np.stack([unit[numbers == i].mean(0) for i in range(len(brands))])
        free = min(len(unit) - len(brands), unit.shape[1])  # directions along which anything varies
        pca = PCA(min(AXES, free // 2), svd_solver="covariance_eigh").fit(unit - means[numbers])
        variance = np.append(pca.explained_variance_, pca.noise_variance_).astype(np.float32)
        if not variance.min() > 0:
            raise ValueError("the photos of each brand of train are all the same; give photos that differ")
        arrays = {"means": means.astype(np.float16), "axes": pca.components_.T.astype(np.float16), "variance": variance}
        return cls(-np.inf, 1.0, arrays)

    @classmethod
    def choose(cls, train: Any, valid: Any, known: float = 0.95) -> OodDetector:
        """Fit on train, with the largest threshold at which at least a share `known` of the valid photos is known.

        Photos that could not be read, or whose brand the model does not know, are left out.

        `train` and `valid` are Scores from `Classifier.score`, and `known` is above 0 and at most 1.
        """
        if not 0 < known <= 1:
            raise ValueError(f"known={known}: the share of known photos must be above 0 and at most 1; try 0.95")
        rows, kept = (scores.table["loss"].notna().to_numpy() for scores in (train, valid))
        if not kept.any():
            raise ValueError("valid has no readable photo of a brand that the model knows; score the split valid")
        detector = cls.fit(train.features[rows], train.table["brand"][rows].to_numpy(str))
        scores = np.sort(detector.score(valid.features[kept]))
        threshold = scores[len(scores) - int(np.ceil(known * len(scores) - 1e-9))]
        return replace(detector, threshold=float(threshold), known=float((scores >= threshold).mean()))

    @classmethod
    def of(cls, facts: dict, arrays: dict[str, np.ndarray], n_features: int) -> OodDetector:
        """The detector that `facts` and `arrays` describe; ValueError if they do not, or for another network."""
        try:
            found = cls(float(facts["threshold"]), float(facts["known"]), dict(arrays))
            if facts["method"] != METHOD:
                raise ValueError(f"its method is {facts['method']!r}, not {METHOD!r}")
            shapes = {name: array.shape for name, array in arrays.items()}
            brands, axes = len(arrays["means"]), len(arrays["variance"]) - 1
            expected = {"means": (brands, n_features), "axes": (n_features, axes), "variance": (axes + 1,)}
            if not brands or shapes != expected:
                raise ValueError(f"arrays of shapes {shapes} do not fit {n_features} features")
            if not np.isfinite(found.threshold) or not all(np.isfinite(a).all() for a in arrays.values()):
                raise ValueError("a number in it is not finite")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these are not the facts of an OOD detector ({error}); choose it again") from error
        return found

    @property
    def facts(self) -> dict[str, str | float]:
        """Everything but the arrays, ready for JSON."""
        return {"method": METHOD, "threshold": self.threshold, "known": self.known}

    def score(self, features: np.ndarray) -> np.ndarray:
        """How well each photo is known, float64 [N], from features float [N, n_features] as in `Scores`.

        Larger is better known; NaN if the photo could not be read, so that its features are NaN.
        """
        features = np.asarray(features, float)
        score = np.full(len(features), np.nan)
        readable = ~np.isnan(features).any(1)
        if readable.any():
            score[readable] = -self._distances(_unit(features[readable])).min(1)
        return score

    def unknown(self, features: np.ndarray) -> np.ndarray:
        """Which photos are unknown, bool [N]; a photo that could not be read is not."""
        return self.score(features) < self.threshold

    def _distances(self, unit: np.ndarray) -> np.ndarray:
        """Squared distances [N, n_brands]: by the variance of each axis, and by the common one of all others."""
        means, axes = self.arrays["means"].astype(float), self.arrays["axes"].astype(float)
        *along, rest = self.arrays["variance"].astype(float)
        # What `rest` counts too much along the axes is itself a squared Euclidean distance, of coordinates scaled so.
        scale = 1 / np.array(along) - 1 / rest  # not above 0, as the axes vary most
        near = cdist(unit @ axes * np.sqrt(-scale), means @ axes * np.sqrt(-scale), "sqeuclidean")
        return cdist(unit, means, "sqeuclidean") / rest - near


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
