"""A classifier and its photos -> what it may claim: chosen on valid, then checked once on test."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carclf.data.moved import missing
from carclf.files import write_csv, write_text, writing
from carclf.metrics.calibration import calibration_error_interval, expected_calibration_error, fit_temperature
from carclf.metrics.scores import (
    brand_report,
    by_seen_model,
    confused_pairs,
    is_right,
    photo_counts,
    photo_scores,
    save_predictions,
    scored,
)
from carclf.metrics.thresholds import decisions, no_promise, promise, promised
from carclf.metrics.words import listed, promise_text
from carclf.model.classifier import Classifier, Scores
from carclf.model.crops import Boxes, one_car
from carclf.model.ood import OodDetector
from carclf.report.page import Section, write_report


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. It unpacks as ``scores, metrics = evaluate(…)``."""

    scores: Scores  # of the photos tested
    metrics: dict[str, Any]  # as in metrics.json
    valid: Scores | None = None  # of the split's valid photos of known brands; None without a split or such photos

    def __iter__(self) -> Iterator:
        return iter((self.scores, self.metrics))


def calibrate_on_valid(
    classifier: Classifier, manifest: pd.DataFrame, folder: str | os.PathLike | None = None, accuracy: float = 0.95
) -> tuple[Scores, Scores]:
    """Choose the temperature, the OOD detector and the threshold on valid, and store them with the model.

    What valid or train is too small for stays neutral: temperature 1, no OOD detector, no promise. One UserWarning then
    says what and why; without a kept promise the model accepts nothing.

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
    table, told = before.table, list[str]()
    known = table.brand.isin(classifier.classes) & table.predicted.notna()
    if known.any():
        with _telling(told):
            classifier.calibrate(1.0)
            counts_as = table.brand.where(~is_right(table), table.predicted)
            labels = np.where(known, pd.Index(classifier.classes).get_indexer(counts_as), -1)
            classifier.calibrate(fit_temperature(before.logits, labels))
        detector = None
        with _telling(told, "no photo can be called unknown"):
            detector = OodDetector.choose(train, before)
        classifier.detect_ood(detector, folder)
        with _telling(told):
            found = promise(classifier.rescore(before).table[known], accuracy)
    else:
        classifier.calibrate(1.0)
        classifier.detect_ood(None, folder)
        found = no_promise(accuracy)
        told += [promise_text(found), f"the temperature stays 1, and no photo can be called unknown: {_lacking(table)}"]
    classifier.accept_above(found["threshold"], folder, found)
    classifier.keep_valid(before, folder)
    if told:
        first = sorted(told, key=lambda text: not text.startswith("Nothing is promised"))
        warnings.warn(" ".join(f"{text[0].upper()}{text[1:].rstrip('.')}." for text in first), stacklevel=2)
    return before, classifier.rescore(before)


@contextmanager
def _telling(told: list[str], otherwise: str = "") -> Iterator[None]:
    """Collect warnings, and errors of photos that are too few, as text."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            yield
        except ValueError as error:
            told.append(f"{otherwise}: {error}" if otherwise else str(error))
    told += [str(warning.message) for warning in raised]


def _lacking(valid: pd.DataFrame) -> str:
    """Why no photo of valid can be used."""
    if valid.empty:
        return "valid has no photos"
    if valid.predicted.isna().all():
        return f"no photo of valid can be read, such as {valid.path.iloc[0]} ({valid.problem.iloc[0]})"
    return "valid has no readable photo of a brand that the model knows"


def evaluate(
    classifier: Classifier,
    test: pd.DataFrame,
    folder: str | os.PathLike,
    split: pd.DataFrame | None = None,
    seed: int = 0,
    cars: str = "whole",
    boxes: Boxes = None,
    detector: Any = None,
    skip_missing: bool = False,
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
    skip_missing : evaluate the rest if files of `test` are missing, instead of a FileNotFoundError

    Returns
    -------
    Evaluation
        Its metrics are those of `compute_metrics`, and ``missing`` (int, photos), ``threshold``, ``promise`` (what the
        card promises, as text), ``accepted_share``, ``accepted_photos``, ``accepted_accuracy`` (None if nothing is
        accepted), ``calibration_error`` with its interval.
    """
    if not isinstance(test, pd.DataFrame):
        raise TypeError(f"test is a manifest, not {test!r}; carclf.scan(folder) makes one")
    given = one_car(cars, boxes, detector)
    folder, card, classes = Path(folder), classifier.card, classifier.classes
    gone = _gone(test)
    if len(gone) and not skip_missing:
        raise FileNotFoundError(
            f"{len(gone):,} of {len(test):,} photos are missing, such as {gone.path.iloc[0]}, and a test of the rest "
            "is another test. If they were moved, say where they are now: carclf.read_test(…, photos=folder), or "
            "--photos folder on the command line; skip_missing=True evaluates the rest"
        )
    if split is not None:
        _warn_if_learned(test, split)
    scores = classifier.score(test, **given)
    known = scored(scores.table, classes)
    accepted = known[known.accepted]
    low, high = calibration_error_interval(known, seed=seed)
    metrics = {"missing": len(gone)} | photo_counts(scores.table, known) | photo_scores(known, seed)
    metrics |= {"unreadable": metrics["unreadable"] - len(gone)}
    metrics |= {"threshold": card.threshold, "promise": promise_text(card.promise, card.threshold)}
    metrics |= {"accepted_share": len(accepted) / len(known), "accepted_photos": len(accepted)}
    metrics |= {"accepted_accuracy": float(accepted.right.mean()) if len(accepted) else None}
    metrics |= {"calibration_error": expected_calibration_error(known)}
    metrics |= {"calibration_error_low": low, "calibration_error_high": high}
    if "unknown_brands" in metrics:
        warnings.warn(
            f"the model does not know {listed(metrics['unknown_brands'])}; these photos are left out of every score",
            stacklevel=2,
        )
    probabilities = classifier.softmax(scores.logits)

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False))
    write_csv(brand_report(known), folder / "brands.csv")
    pairs = confused_pairs(known, len(known))
    write_csv(pairs, folder / "confused_pairs.csv")
    save_predictions(scores.table, folder / "predictions.csv")
    np.save(folder / "probabilities.npy", probabilities, allow_pickle=False)

    words = (
        "An answer that is not accepted is unsure. A photo unlike everything that the model has learned from is "
        "unknown: perhaps not a car, or another brand. But most photos of other brands are still taken for known ones."
    )
    if "car" in scores.table:
        words += (
            "\n\nThe largest, most central car of each photo was judged, and its crop is shown. A photo without a car "
            "was judged as a whole, and is never accepted; a car that is too small got no answer."
        )
    sections = [Section("Accepted, unsure, unknown", words, [decisions(scores.table, classes)])]
    valid, kept = None, None
    if split is not None:
        words = "Photos of car models that are in train, and of car models that the network has never seen."
        sections += [Section("Seen and unseen models", words, [by_seen_model(known, split)])]
        valid = _score_valid(classifier, split, **given)
        if valid is not None and (card.promise or card.threshold):
            kept = promised(valid.table, known, card.promise or card.threshold)
    write_report(
        folder,
        known,
        metrics,
        probabilities=probabilities[known.index],
        classes=classes,
        threshold=card.threshold,
        promise=card.promise,
        measured=kept,
        before=classifier.untempered(scores).table.loc[known.index],
        facts={"network": f"{card.backbone} at {card.size} pixels", "brands it knows": len(classes)},
        sections=sections,
    )
    return Evaluation(scores, metrics, valid)


def _score_valid(classifier: Classifier, split: pd.DataFrame, **cars: Any) -> Scores | None:
    """Scores of valid's photos of known brands, or None if none can be read."""
    valid = split[(split.split == "valid") & split.brand.isin(classifier.classes)]
    gone = _gone(valid)
    if len(gone):
        warnings.warn(
            f"{len(gone):,} of {len(valid):,} photos of valid are missing, such as {gone.path.iloc[0]}; what the "
            "threshold did there is shown without them",
            stacklevel=3,
        )
    scores = classifier.score(valid, **cars)
    return scores if scores.table.predicted.notna().any() else None


def _gone(photos: pd.DataFrame) -> pd.DataFrame:
    """The rows of a manifest whose files are not there; those set aside do not count."""
    return missing(photos.assign(problem=photos.get("problem")))


def _warn_if_learned(test: pd.DataFrame, split: pd.DataFrame) -> None:
    learned = test.path.isin(split.path[split.split.isin(["train", "valid"])]).sum()
    if learned:
        warnings.warn(
            f"{learned:,} of {len(test):,} photos were used to train or select the model, so these numbers are too "
            "good; evaluate photos marked test",
            stacklevel=3,
        )
