"""The model folder: weights and a JSON card. Save, load, predict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import nn
from tqdm.auto import tqdm

from carclf import devices
from carclf.augment import Augment
from carclf.cache import to_square
from carclf.card import CARD, Card, read_card
from carclf.files import writing
from carclf.models import empty_model, features_and_logits, n_features, normalisation
from carclf.novelty import Novelty
from carclf.photos import PhotoError, Source
from carclf.predictions import photos_of, tabulate
from carclf.tensors import read_tensors, write_tensors

# What a CPU is given at once: what lies between two layers then stays in its caches. Two cores named photos of 256
# pixels 1.7 times as fast by eights as by 32.
CPU_PIXELS = 8 * 256**2
WEIGHTS, NOVELTY = "model.safetensors", "novelty.safetensors"


class Scores(NamedTuple):
    """Predictions with the numbers that they come from, a row a photo; NaN where it could not be read.

    Attributes
    ----------
    table : DataFrame as `Classifier.predict` gives it
    logits : float32 [N, n_classes], before the temperature
    features : float32 [N, n_features], what the head is given
    """

    table: pd.DataFrame
    logits: np.ndarray
    features: np.ndarray


class Classifier:
    """A trained network together with everything needed to name the brand on a photo.

    Attributes
    ----------
    model : nn.Module in eval mode
    card : Card
    classes : list of str, sorted
    novelty : Novelty, when a photo is unknown; None where that was not chosen, and no photo is
    """

    def __init__(self, model: nn.Module, card: Card, device: str = "auto", novelty: Novelty | None = None):
        if list(card.classes) != sorted(set(card.classes)):
            raise ValueError(f"the classes of a model must be sorted and without doubles, got {list(card.classes)}")
        self.card, self.novelty = card, novelty
        self.device = devices.pick(device)
        self.model = model.eval().to(self.device.torch, memory_format=self.device.memory_format)
        mean, std = normalisation(card.backbone)
        self._prepare = Augment(card.size, mean, std).plain()

    @property
    def classes(self) -> list[str]:
        """Brands in the order of the probabilities, sorted."""
        return list(self.card.classes)

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str = "auto") -> Classifier:
        """Read a model folder: `model.safetensors` and `card.json`; nothing in it is executed.

        Raises
        ------
        FileNotFoundError, ValueError
            Where a file is missing, or the two do not fit together.
        """
        folder = Path(folder)
        for name in (WEIGHTS, CARD):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} is no model folder: {name} is missing; give the folder that training wrote, "
                    "such as runs/first/model"
                )
        card = read_card(folder)
        model = empty_model(card.backbone, len(card.classes), card.head)
        try:
            model.load_state_dict(read_tensors(folder / WEIGHTS)[0])
        except (RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{folder / WEIGHTS} does not fit {CARD} ({first}); copy all files of one model"
            ) from error
        novelty = None
        if card.novelty is not None:
            arrays = read_tensors(folder / NOVELTY)[0] if (folder / NOVELTY).is_file() else {}
            if not arrays and card.novelty.get("method") not in ("max_softmax", "energy"):
                raise FileNotFoundError(f"{folder / NOVELTY} is missing; copy all three files of one model")
            arrays = {name: array.numpy() for name, array in arrays.items()}
            novelty = Novelty.of(card.novelty, arrays, n_features(model, card.backbone))
        return cls(model, card, device, novelty)

    def save(self, folder: str | os.PathLike, half: bool = False) -> Path:
        """Write the model folder; each file appears whole or not at all.

        Parameters
        ----------
        half : matrices as float16, for a file half as large; norms and biases, which are small and may hold numbers
            below float16's range, stay float32. Loading gives a float32 network either way; `settle` what was loaded,
            as its numbers differ a little from those of this object.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        weights = self.model.state_dict()
        if half:
            weights = {name: w.half() if w.ndim > 1 else w for name, w in weights.items()}
        write_tensors(folder / WEIGHTS, weights)
        self._save_novelty(folder)
        return folder

    def _save_novelty(self, folder: Path) -> None:
        # A kill in between leaves a folder that loads: arrays that no card asks for do no harm.
        arrays = self.novelty.arrays if self.novelty is not None else {}
        if arrays:
            write_tensors(folder / NOVELTY, {k: torch.from_numpy(v) for k, v in arrays.items()})
        self.card.save(folder)
        if not arrays:
            (folder / NOVELTY).unlink(missing_ok=True)

    def know(self, novelty: Novelty, folder: str | os.PathLike | None = None) -> None:
        """Decide by this from now on which photos are unknown; with a folder, also in the model saved there."""
        self.novelty, self.card = novelty, replace(self.card, novelty=novelty.facts)
        if folder is not None:
            self._save_novelty(Path(folder))

    def accept_above(
        self, threshold: float, folder: str | os.PathLike | None = None, promise: dict | None = None
    ) -> None:
        """Accept predictions from this confidence on (0 to 1); with a folder, also in the model saved there.

        Raises
        ------
        ValueError
            For a threshold outside 0 to 1.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} must lie between 0 and 1; choose_threshold gives one")
        self.card = replace(self.card, threshold=float(threshold), promise=promise)
        if folder is not None:
            self.card.save(Path(folder))

    def calibrate(self, temperature: float) -> None:
        """Divide the logits by this from now on; `carclf.fit_temperature` finds it.

        Raises
        ------
        ValueError
            For a temperature that is not positive and finite.
        """
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature {temperature} must be positive; carclf.fit_temperature gives one")
        self.card = replace(self.card, temperature=float(temperature))

    def predict(
        self,
        sources: str | os.PathLike | Sequence[Source] | pd.DataFrame,
        names: Sequence[str] | None = None,
        batch_size: int = 64,
    ) -> pd.DataFrame:
        """Name the brand on photos.

        Parameters
        ----------
        sources : a path, a folder, a sequence of paths, folders and encoded photos (bytes), or a manifest
        names : for the column `path`, one a source; needed for nothing but bytes
        batch_size : photos a pass

        Returns
        -------
        DataFrame, one row a photo, in the order given, with the columns

        ==========  ========================================================================================
        path        str
        brand       str, or missing: what the file's or folder's name says, or the manifest's brand
        predicted   str, or missing where the photo could not be read
        confidence  float, 0 to 1, of the predicted brand; NaN where unreadable
        loss        float, -log of the probability of `brand`, in nats; NaN where the model does not know it
        top5        dict, brand to probability, best first; None where unreadable
        decision    "accepted"; "unsure", confidence is below the card's threshold; "unknown", unlike all that
                    the model has learned from, so perhaps another brand or no car; missing where unreadable
        accepted    bool: the decision is "accepted"
        problem     str, or missing: why the photo could not be read, or why the manifest sets it aside
        ==========  ========================================================================================

        and `model`, `vehicle`, `split` where a manifest has them. Photos that are not to be read get a row too.
        """
        return self.score(sources, names, batch_size).table

    def score(
        self,
        sources: str | os.PathLike | Sequence[Source] | pd.DataFrame,
        names: Sequence[str] | None = None,
        batch_size: int = 64,
    ) -> Scores:
        """As `predict`, with the logits and features of every photo beside the table."""
        table, photos, problems = photos_of(sources, names)
        logits = np.full((len(photos), len(self.classes)), np.nan, np.float32)
        features = np.full((len(photos), n_features(self.model, self.card.backbone)), np.nan, np.float32)
        starts = range(0, len(photos), batch_size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in tqdm(starts, "predict", unit="batch", leave=False, disable=len(starts) < 3):
                rows = [i for i in range(start, min(start + batch_size, len(photos))) if problems[i] is None]
                decoded = dict(zip(rows, pool.map(self._read, [photos[i] for i in rows]), strict=True))
                good = {i: photo for i, photo in decoded.items() if not isinstance(photo, PhotoError)}
                for i in decoded.keys() - good.keys():
                    problems[i] = str(decoded[i])
                if good:
                    logits[list(good)], features[list(good)] = self.outputs(np.stack(list(good.values())))
        table["problem"] = pd.Series(problems, table.index, dtype=object)
        return self.rescore(Scores(table, logits, features))

    def rescore(self, scores: Scores) -> Scores:
        """The same photos by today's temperature, threshold and novelty, from their logits and features."""
        return scores._replace(table=self._tabulate(scores, self.softmax(scores.logits)))

    def untempered(self, scores: Scores) -> Scores:
        """The same photos as if the temperature were 1."""
        return scores._replace(table=self._tabulate(scores, softmax(scores.logits, axis=1)))

    def _tabulate(self, scores: Scores, probabilities: np.ndarray) -> pd.DataFrame:
        logits, features = scores.logits, scores.features
        unknown = np.zeros(len(logits), bool) if self.novelty is None else self.novelty.unknown(logits, features)
        return tabulate(scores.table, probabilities, self.classes, self.card.threshold, unknown)

    def probabilities(self, photos: np.ndarray) -> np.ndarray:
        """Probabilities of squished photos.

        Parameters
        ----------
        photos : uint8 [N, 3, cache_size, cache_size], as `TensorCache` holds them

        Returns
        -------
        float32 [N, n_classes], each row sums to 1
        """
        return self.softmax(self.outputs(photos)[0])

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities float32 [N, n_classes] of logits, by the card's temperature."""
        return softmax(logits / self.card.temperature, axis=1)

    def outputs(self, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits float32 [N, n_classes] and features float32 [N, n_features] of squished photos, as `probabilities`."""
        x = self._prepare(torch.from_numpy(photos).to(self.device.torch))
        at_once = max(1, CPU_PIXELS // self.card.size**2) if self.device.kind == "cpu" else len(x)
        found = []
        with torch.inference_mode(), self.device.autocast():
            for part in x.split(at_once):
                part = part.contiguous(memory_format=self.device.memory_format)
                found.append(features_and_logits(self.model, self.card.backbone, part))
        features, logits = (torch.cat(parts).float().cpu().numpy() for parts in zip(*found, strict=True))
        return logits, features

    def _read(self, source: Source) -> np.ndarray | PhotoError:
        try:
            return to_square(source, self.card.cache_size)
        except PhotoError as error:
            return error
