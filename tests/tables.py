"""Tables that several test modules draw: predictions and manifests of made-up brands, from a seed."""

import numpy as np
import pandas as pd


def make_predictions(n_brands, n=600):
    """Predictions of which seven in ten are right; no photo of them is on disk."""
    random = np.random.default_rng(n_brands)
    brands = np.array([f"Brand Number {i}" for i in range(n_brands)], object)
    truth, other = random.integers(0, n_brands, (2, n))
    said = np.where(random.random(n) < 0.7, truth, other)
    confidence = random.uniform(0.3, 1, n)
    top5 = [{brands[i]: sure, "another": 1 - sure} for i, sure in zip(said, confidence, strict=True)]
    frame = pd.DataFrame({"brand": brands[truth], "predicted": brands[said], "confidence": confidence, "top5": top5})
    frame["path"] = [f"missing_{i}.jpg" for i in range(n)]
    return frame.assign(accepted=confidence > 0.6, problem=None)


def make_manifest(n_brands, n=600):
    """A manifest with splits, of which one photo was set aside; two photos a vehicle."""
    random = np.random.default_rng(n_brands)
    brands = [f"Brand Number {i}" for i in np.append(np.arange(n_brands), random.integers(0, n_brands, n - n_brands))]
    frame = pd.DataFrame({"path": [f"{i}.jpg" for i in range(n)], "brand": brands})
    frame["vehicle"] = [f"{brand} {i // 2}" for i, brand in enumerate(brands)]
    split = random.choice(["train", "valid", "test"], n)
    frame = frame.assign(problem=None, split=split)
    frame.loc[0, "split"] = None
    return frame
