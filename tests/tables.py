"""Tables that several test modules draw: predictions and manifests of made-up brands, from a seed."""

import numpy as np
import pandas as pd


def predictions_of(brand, predicted, confidence=0.9, **columns):
    """Predictions of the photos 0000.jpg, 0001.jpg, …; the brand predicted is all of the top five."""
    frame = pd.DataFrame({"brand": brand, "predicted": predicted, "confidence": confidence})
    answers = zip(frame["predicted"], frame["confidence"], strict=True)
    frame["top5"] = [None if pd.isna(said) else {said: sure} for said, sure in answers]
    frame["problem"] = np.where(frame["predicted"].isna(), "empty: the file has no bytes", None)
    return frame.assign(path=[f"{i:04}.jpg" for i in range(len(frame))], **columns)


def audis(confidence, right, **columns):
    """Predictions of Audis, `right` or taken for BMWs."""
    return predictions_of("Audi", np.where(right, "Audi", "BMW"), confidence, **columns)


def make_predictions(n_brands, n=600):
    """Predictions of which seven in ten are right; no photo of them is on disk."""
    random = np.random.default_rng(n_brands)
    brands = np.array([f"Brand Number {i}" for i in range(n_brands)], object)
    truth, other = random.integers(0, n_brands, (2, n))
    said = np.where(random.random(n) < 0.7, truth, other)
    confidence = random.uniform(0.3, 1, n)
    frame = predictions_of(brands[truth], brands[said], confidence, accepted=confidence > 0.6)
    top5 = [{brands[i]: sure, "another": 1 - sure} for i, sure in zip(said, confidence, strict=True)]
    return frame.assign(top5=top5, path=[f"missing_{i}.jpg" for i in range(n)])


def make_manifest(n_brands, n=600):
    """A manifest with splits, of which one photo was set aside; two photos per vehicle."""
    random = np.random.default_rng(n_brands)
    brands = [f"Brand Number {i}" for i in np.append(np.arange(n_brands), random.integers(0, n_brands, n - n_brands))]
    frame = pd.DataFrame({"path": [f"{i}.jpg" for i in range(n)], "brand": brands})
    frame["vehicle"] = [f"{brand} {i // 2}" for i, brand in enumerate(brands)]
    split = random.choice(["train", "valid", "test"], n)
    frame = frame.assign(problem=None, split=split)
    frame.loc[0, "split"] = None
    return frame
