"""A classifier and its photos -> what it may claim: chosen on valid, then checked once on test."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carclf.files import write_text, writing
from carclf.metrics.calibration import calibration_error_interval, expected_calibration_error, fit_temperature
from carclf.metrics.scores import (
    brand_report,
    by_seen_model,
    confused_pairs,
    photo_counts,
    photo_scores,
    save_predictions,
    scored,
)
from carclf.metrics.thresholds import decisions, promise, promised, threshold_table
from carclf.model.classifier import Classifier, Scores
from carclf.model.crops import Boxes, one_car
from carclf.model.ood import OodDetector
from carclf.report.page import Section, write_report


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. It unpacks as ``scores, metrics = evaluate(…)``."""

    scores: Scores  # of the photos tested
    metrics: dict[str, float]  # as in metrics.json
    valid: Scores | None = None  # of the split's valid photos of known brands; None without a split or such photos

    def __iter__(self) -> Iterator:
        return iter((self.scores, self.metrics))


def calibrate_on_valid(
    classifier: Classifier, manifest: pd.DataFrame, folder: str | os.PathLike | None = None, accuracy: float = 0.95
) -> tuple[Scores, Scores]:
    """Choose the temperature, the OOD detector and the threshold on valid, and store them with the model.

    Parameters
    ----------
    manifest : with a column split; the OOD detector learns from train what is known, all else is chosen on valid
    folder : of the model, whose card.json is rewritten; None changes only the classifier
    accuracy : of the accepted answers, see `carclf.metrics.thresholds.promise`

    Returns
    -------
    Scores of valid before and after, with the same logits; the tables differ in confidence, loss, top5 and decision
    """
    train, before = (classifier.score(manifest[manifest.split == name]) for name in ("train", "valid"))
    labels = pd.Index(classifier.classes).get_indexer(before.table.brand)
    labels = np.where(before.table.predicted.notna(), labels, -1)
    classifier.calibrate(fit_temperature(before.logits, labels))
    classifier.detect_ood(OodDetector.choose(train, before), folder)
    known = classifier.rescore(before).table
    found = promise(known[known.brand.isin(classifier.classes)], accuracy)
    classifier.accept_above(found["threshold"], folder, found)
    return before, classifier.rescore(before)


def evaluate(
    classifier: Classifier,
    test: pd.DataFrame,
    folder: str | os.PathLike,
    split: pd.DataFrame | None = None,
    seed: int = 0,
    cars: str = "whole",
    boxes: Boxes = None,
    detector: Any = None,
) -> Evaluation:
    """Test a classifier on photos that it has not learned from, and write the results into one folder.

    The numbers are in metrics.json, brands.csv, confused_pairs.csv, predictions.csv and probabilities.npy (float32
    [N, n_classes], in the order of predictions.csv). report.html is a page to send to somebody, pictures/ holds its
    pictures. to_check.csv lists photos whose labels may be wrong, for `apply_corrections`; once it is filled in, it is
    not overwritten.

    Parameters
    ----------
    test : manifest of the photos to test
    folder : created if missing
    split : the whole split of the run (its split.csv); its valid photos show what the threshold promised, its train
        photos which car models the classifier has seen
    seed : of the bootstrap intervals
    cars, boxes, detector : as in `Classifier.predict`, for test and valid; not "all", as a file's name tells one brand
    """
    given = one_car(cars, boxes, detector)
    folder, card, classes = Path(folder), classifier.card, classifier.classes
    if split is not None:
        _warn_if_learned(test, split)
    scores = classifier.score(test, **given)
    known = scored(scores.table, classes)
    at = threshold_table(known, [card.threshold]).iloc[0]
    low, high = calibration_error_interval(known, seed=seed)
    metrics = photo_counts(scores.table, known) | photo_scores(known, seed)
    metrics |= {"threshold": card.threshold, "accepted_share": at.coverage, "accepted_accuracy": at.accuracy}
    metrics |= {"calibration_error": expected_calibration_error(known)}
    metrics |= {"calibration_error_low": low, "calibration_error_high": high}
    probabilities = classifier.softmax(scores.logits)

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False))
    write_text(folder / "brands.csv", brand_report(known).to_csv(lineterminator="\n"))
    pairs = confused_pairs(known, len(known))
    write_text(folder / "confused_pairs.csv", pairs.to_csv(index=False, lineterminator="\n"))
    save_predictions(scores.table, folder / "predictions.csv")
    np.save(folder / "probabilities.npy", probabilities, allow_pickle=False)

    words = (
        "An answer below the threshold is unsure. A photo unlike everything that the model has learned from is "
        "unknown: perhaps not a car, or another brand. But most photos of other brands are still taken for known ones."
    )
    if "car" in scores.table:
        words += (
            "\n\nThe largest, most central car of each photo was judged, and its crop is shown. A photo without a car "
            "was judged as a whole, and is never accepted; a car that is too small got no answer."
        )
    sections = [Section("Accepted, unsure, unknown", words, [decisions(scores.table)])]
    valid, kept = None, None
    if split is not None:
        words = "Photos of car models that are in train, and of car models that the network has never seen."
        sections += [Section("Seen and unseen models", words, [by_seen_model(known, split)])]
        valid = _score_valid(classifier, split, **given)
        if valid is not None and card.promise is not None:
            kept = promised(
                valid.table, known, card.threshold, card.promise["accuracy"], card.promise["confidence_level"]
            ).assign(valid_bound=card.promise["bound"], kept=card.promise["kept"])
    write_report(
        folder,
        known,
        metrics,
        probabilities=probabilities[known.index],
        classes=classes,
        threshold=card.threshold,
        promise=kept,
        before=classifier.untempered(scores).table.loc[known.index],
        facts={"network": f"{card.backbone} at {card.size} pixels", "brands it knows": len(classes)},
        sections=sections,
    )
    return Evaluation(scores, metrics, valid)


def _score_valid(classifier: Classifier, split: pd.DataFrame, **cars: Any) -> Scores | None:
    """Scores of valid's photos of known brands, or None if none can be read."""
    scores = classifier.score(split[(split.split == "valid") & split.brand.isin(classifier.classes)], **cars)
    return scores if scores.table.predicted.notna().any() else None


def _warn_if_learned(test: pd.DataFrame, split: pd.DataFrame) -> None:
    learned = test.path.isin(split.path[split.split.isin(["train", "valid"])]).sum()
    if learned:
        warnings.warn(
            f"{learned:,} of {len(test):,} photos were used to train or select the model, so these numbers are too "
            "good; evaluate photos marked test",
            stacklevel=3,
        )
