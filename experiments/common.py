"""What the experiments share: the split behind the shipped model, and arms that answer the same three questions.

An arm is a training, or another use of a trained network, with one setting changed. It lives in its own folder and
keeps the logits of all photos that are asked about, so that a table of all arms needs no network.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

import carclf
from carclf.data.listing import list_photos
from carclf.metrics.scores import compare
from carclf.model.classifier import Classifier, tabulate
from carclf.train.run import digest

ROOT = Path(__file__).resolve().parent.parent
FRACTIONS = (0.86, 0.07, 0.07)
COLLECTION = r"_(\d\d)\d{4}\.\w+$"
# Small collections, so that train keeps most photos, of many brands and a photo or two per model, as users bring them.
VALID, TEST = ("05", "07", "17"), ("08", "11", "12", "18", "19", "20", "21", "27")
HELD = dict.fromkeys(VALID, "valid") | dict.fromkeys(TEST, "test")
ENOUGH = 20  # vehicles in train that a brand needs to be learned
# The defaults of version 0.1, with class weights, against which every arm was measured.
BASE = carclf.Recipe(stages=(("head", 1, 3e-3, 112), ("all", 6, 1e-3, 112)), class_weight="inverse_sqrt")
QUESTIONS = ("known models", "unseen models", "other collections")
WHOLE = (..., slice(None))  # the part of a cached photo that is shown


def arguments(description: str, out: str) -> argparse.ArgumentParser:
    """The command-line arguments of every experiment on the two folders."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("others", help="photos of other collections: <Brand> <words>_<2 digits: collection><4 digits>")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seed", type=int, default=0, help="of the training; the split does not depend on it")
    return parser


def shipped_split(photos: str, others: str) -> pd.DataFrame:
    """Manifest of both folders with the columns split and collection (missing for the first folder).

    The first folder is split by vehicle. Of the second, whole collections go to valid and test. Brands with too few
    vehicles in train have no split.
    """
    manifest = carclf.split(carclf.scan([photos, others]), FRACTIONS)
    away = manifest.path.where(manifest.path.isin(list_photos(others)))
    collection = away.str.extract(COLLECTION)[0]
    if (unnamed := away[away.notna() & collection.isna()]).size:
        raise ValueError(
            f"{unnamed.iloc[0]} names no collection; call it <Brand> <words>_<two digits><four digits>.jpg"
        )
    place = collection.map(HELD).fillna("train").where(collection.notna(), manifest.split)
    rank = place.map({"train": 0, "valid": 1, "test": 2})
    rank = rank.groupby(manifest.vehicle).transform("max")  # a vehicle of two collections stays in one part
    place = rank.map({0: "train", 1: "valid", 2: "test"}).where(manifest.split.notna())
    learned = manifest[place == "train"].groupby("brand").vehicle.nunique()
    enough = manifest.brand.isin(learned.index[learned >= ENOUGH])
    return manifest.assign(split=place.astype(object).where(enough, None), collection=collection)


def question_split(photos: str, others: str) -> pd.DataFrame:
    """Manifest with a split for short trainings on the first folder, and the column `question` (missing: not asked).

    "known models" asks with the photos of valid, which also choose the best epoch; so far that was always the last.
    The test photos of the shipped model take no part.
    """
    manifest = shipped_split(photos, others)
    spare, in_domain = manifest.split.isin(["train", "valid"]), manifest.collection.isna()
    by_model = carclf.split(manifest[spare & in_domain], (0.7, 0.1, 0.2), group_by="model")
    unseen = by_model.index[by_model.split == "test"]
    known = carclf.split(manifest[spare & in_domain].drop(unseen), (0.8, 0.1, 0.1))
    taught = manifest.brand.isin(known.brand[known.split == "train"])
    manifest = manifest.assign(split=None, question=None)
    manifest.loc[known.index, "split"] = known.split.replace("test", "valid")
    manifest.loc[manifest.split == "valid", "question"] = QUESTIONS[0]
    manifest.loc[unseen, "question"] = QUESTIONS[1]
    manifest.loc[spare & ~in_domain & taught, "question"] = QUESTIONS[2]
    return manifest


@dataclass(frozen=True)
class Arms:
    """The arms below one folder.

    Attributes
    ----------
    manifest : DataFrame from `question_split`
    cache : TensorCache of this manifest, 256 px
    out : Path with one folder per arm and seed
    seed : of new arms
    """

    manifest: pd.DataFrame
    cache: carclf.TensorCache
    out: Path
    seed: int

    @classmethod
    def of(cls, options: argparse.Namespace) -> Arms:
        """The arms that the command line asks for."""
        manifest = question_split(options.photos, options.others)
        return cls(manifest, carclf.TensorCache.build(manifest, ROOT / "cache", 256), options.out, options.seed)

    def folder(self, arm: str) -> Path:
        """Where an arm of this seed lives."""
        return self.out / f"{re.sub(r'[^a-zA-Z0-9.]+', '-', arm)}-{self.seed}"

    def train(self, arm: str, recipe: carclf.Recipe, cache: carclf.TensorCache | None = None) -> None:
        """Train an arm, or resume it, and keep its answers; `cache` holds other pixels of the same photos."""
        cache = self.cache if cache is None else cache
        run = carclf.fit(recipe, self.manifest, cache, self.folder(arm))
        minutes = run.history.seconds.sum() / 60
        self.keep(arm, minutes, run.classifier, lambda: self.logits(run.classifier, cache=cache))

    def keep(self, arm: str, minutes: float, classifier: Classifier, look: Callable[[], np.ndarray]) -> None:
        """Write the logits that `look` returns, unless they are there already for the photos asked about today."""
        place, asked = self.folder(arm), self._asked()
        facts = {"arm": arm, "seed": self.seed, "minutes": minutes, "classes": classifier.classes, "asked": asked}
        file = place / "arm.json"
        if not file.exists() or json.loads(file.read_text("utf-8")).get("asked") != asked:
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / "logits.npy", look())
            file.write_text(json.dumps(facts), "utf-8")

    def logits(
        self, classifier: Classifier, views: tuple[tuple, ...] = (WHOLE,), cache: carclf.TensorCache | None = None
    ) -> np.ndarray:
        """Logits float32 [n, n_classes] of the photos asked about, the mean over some views of each."""
        rows = np.flatnonzero(self.manifest.question.notna())
        found = []
        for part in np.array_split(rows, max(1, len(rows) // 64)):
            photos = (self.cache if cache is None else cache).batch(part).numpy()
            found.append(np.mean([classifier.outputs(np.ascontiguousarray(photos[view]))[0] for view in views], 0))
        return np.concatenate(found)

    def table(self) -> pd.DataFrame:
        """One row per arm and seed, and one for all seeds of an arm that has several; in per cent.

        The 95 % intervals are over vehicles, and for other collections over the collections, since photos of one source
        are right or wrong together. They say nothing about other seeds, and with thirty arms one or two miss by chance.
        Compare rows of the same seeds only.
        """
        asked = self.manifest[self.manifest.question.notna()].drop(columns="split")  # not the shipped model's split
        asked = asked.assign(vehicle=asked.collection.fillna(asked.vehicle))
        found: dict[str, dict[int, pd.DataFrame]] = {}
        for file in sorted(self.out.glob("*/arm.json")):
            facts = json.loads(file.read_text("utf-8"))
            if facts.get("asked") != self._asked():
                continue
            probabilities = softmax(np.load(file.parent / "logits.npy"), axis=1)
            table = tabulate(asked, probabilities, facts["classes"], 0.0, np.zeros(len(asked), bool))
            table = table.assign(path=f"{facts['seed']} " + table.path, minutes=facts["minutes"], seed=facts["seed"])
            found.setdefault(facts["arm"], {})[facts["seed"]] = table
        rows = {}
        for arm, by_seed in found.items():
            seeds = sorted(by_seed.keys() & found.get("baseline", {}))
            for chosen in [[seed] for seed in seeds] + ([seeds] if len(seeds) > 1 else []):
                base, table = (pd.concat([tables[s] for s in chosen]) for tables in (found["baseline"], by_seed))
                rows[arm, " and ".join(map(str, chosen))] = compare_arm(base, table)
        result = pd.DataFrame.from_dict(rows, "index").rename_axis(["arm", "seed"])
        result.loc["baseline", result.columns.str.contains(r", (?:difference|low|high)$")] = np.nan  # from itself
        return result.mul(100).assign(minutes=result.minutes)

    def _asked(self) -> str:
        """Fingerprint of the photos asked about."""
        return digest("\n".join(self.manifest.path[self.manifest.question.notna()]))


def compare_arm(base: pd.DataFrame, table: pd.DataFrame) -> dict[str, float]:
    """Scores 0 to 1 of an arm's predictions and their differences from the baseline's; mean minutes of a seed."""
    row = {"minutes": table.minutes.mean()}
    for question in QUESTIONS:
        found = compare(base[base.question == question], table[table.question == question])
        row |= {question: found["accuracy_b"], f"{question}, macro recall": found["macro_recall_b"]}
        ends = {"difference": "", "low": "_low", "high": "_high"}
        row |= {f"{question}, {name}": found[f"accuracy_difference{end}"] for name, end in ends.items()}
    return row
