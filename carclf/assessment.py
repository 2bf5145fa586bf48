"""A classifier and its photos -> what it may claim: settled on valid, then looked at once on test."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from carclf.calibration import calibration_error_interval, expected_calibration_error, fit_temperature
from carclf.classifier import Classifier, Scores
from carclf.comparisons import by_novelty
from carclf.evaluation import brand_report, confused_pairs, metrics, save_results
from carclf.files import write_text
from carclf.html_page import Section
from carclf.novelty import Novelty
from carclf.report_page import write_report
from carclf.thresholds import promise, promised, threshold_table


def settle(
    classifier: Classifier, manifest: pd.DataFrame, folder: str | os.PathLike | None = None, accuracy: float = 0.95
) -> tuple[Scores, Scores]:
    """Choose temperature, threshold and what is unknown on valid, and store them with the model.

    Parameters
    ----------
    manifest : with a column split; what train looks like is what is known, all else is chosen on valid
    folder : of the model, whose card.json is written anew; None changes the classifier alone
    accuracy : share of the accepted answers that shall be right, see `choose_threshold`

    Returns
    -------
    Scores of valid before and after, with the same logits; the tables differ in confidence, loss, top5 and accepted
    """
    train, before = (classifier.score(manifest[manifest.split == name]) for name in ("train", "valid"))
    labels = pd.Index(classifier.classes).get_indexer(before.table.brand)
    labels = np.where(before.table.predicted.notna(), labels, -1)
    classifier.calibrate(fit_temperature(before.logits, labels))
    classifier.know(Novelty.choose(train, before), folder)
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
) -> tuple[Scores, dict]:
    """Look at a classifier on photos that it has not learned from, and write what is seen into one folder.

    metrics.json, brands.csv, confused_pairs.csv, predictions.csv and probabilities.npy (float32 [N, n_classes], in the
    order of predictions.csv) hold the numbers; report.html is a page to send to somebody, pictures/ has its pictures;
    to_check.csv lists photos whose names may be wrong, for `apply_corrections`, and is left alone once it is filled in.

    Parameters
    ----------
    test : manifest of the photos to look at
    folder : made where it is missing
    split : the whole split of the run (its split.csv), where there is one: its valid photos show what the threshold
        promised, its train photos which models are known

    Returns
    -------
    Scores of the photos, and the metrics as a dict
    """
    folder, classes = Path(folder), classifier.classes
    scores = classifier.score(test)
    card, known = classifier.card, scores.table[scores.table.brand.isin(classes)]
    results = metrics(scores.table, classes=classes, seed=seed)
    at = threshold_table(known, [card.threshold]).iloc[0]
    low, high = calibration_error_interval(known, seed=seed)
    results |= {"threshold": card.threshold, "accepted_share": at.coverage, "accepted_accuracy": at.accuracy}
    results |= {"calibration_error": expected_calibration_error(known)}
    results |= {"calibration_error_low": low, "calibration_error_high": high}
    save_results(scores.table, results, folder)
    for name, table in (("brands", brand_report(known)), ("confused_pairs", confused_pairs(known, len(known)))):
        write_text(folder / f"{name}.csv", table.to_csv(index=name == "brands", lineterminator="\n"))
    probabilities = classifier.softmax(scores.logits)
    np.save(folder / "probabilities.npy", probabilities, allow_pickle=False)
    words = (
        "An answer below the threshold is unsure. A photo unlike all that the model has learned from is unknown: "
        "perhaps no car, or another brand; but most photos of brands never learned are still taken for known ones."
    )
    table, sections = None, [Section("Accepted, unsure, unknown", words, [decisions(scores.table)])]
    if split is not None:
        _warn_of_learned(test, split)
        valid = classifier.predict(split[(split.split == "valid") & split.brand.isin(classes)])
        if card.promise is not None and valid.predicted.notna().any():
            table = promised(valid, known, card.threshold, card.promise["accuracy"], card.promise["confidence_level"])
            table = table.assign(valid_bound=card.promise["bound"], kept=card.promise["kept"])
        words = "Photos of models that train holds, and of models that the network has never seen."
        sections += [Section("Known and unseen models", words, [by_novelty(known, split)])]
    write_report(
        folder,
        scores.table,
        results,
        probabilities=probabilities,
        classes=classes,
        threshold=card.threshold,
        promise=table,
        before=classifier.untempered(scores).table,
        facts={"network": f"{card.backbone} at {card.size} pixels", "brands it knows": len(classes)},
        sections=sections,
    )
    return scores, results


def _warn_of_learned(test: pd.DataFrame, split: pd.DataFrame) -> None:
    learned = test.path.isin(split.path[split.split.isin(["train", "valid"])]).sum()
    if learned:
        warnings.warn(
            f"{learned:,} of {len(test):,} photos were learned from or chose the model, so these numbers flatter it; "
            "look at photos marked test",
            stacklevel=3,
        )


def decisions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Photos of each decision, their share, and how many of those with a brand in the name were named rightly."""
    read = predictions[predictions.decision.notna()]
    right = (read.predicted == read.brand).where(read.brand.notna())
    table = (
        read.assign(right=right.astype(float)).groupby("decision").agg(photos=("path", "size"), right=("right", "mean"))
    )
    table = table.reindex(["accepted", "unsure", "unknown"])
    table["photos"] = table.photos.fillna(0).astype(int)
    table.insert(1, "share", table.photos / max(len(read), 1))
    return table
