"""The model folder: weights and a JSON card. Save, load, predict."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
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
from carclf.manifest import list_photos, read_name
from carclf.models import empty_model, features_and_logits, head_of, normalisation
from carclf.photos import PhotoError, Source
from carclf.tensors import read_tensors, write_tensors

WEIGHTS = "model.safetensors"
CARRIED = ("brand", "model", "vehicle", "split")  # columns of a manifest that its predictions keep


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
    """

    def __init__(self, model: nn.Module, card: Card, device: str = "auto"):
        if list(card.classes) != sorted(set(card.classes)):
            raise ValueError(f"the classes of a model must be sorted and without doubles, got {list(card.classes)}")
        self.card = card
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
                f"{folder / WEIGHTS} does not fit {CARD} ({first}); copy both files of one model"
            ) from error
        return cls(model, card, device)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the model folder; each file appears whole or not at all."""
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, self.model.state_dict())
        self.card.save(folder)
        return folder

    def accept_above(self, threshold: float, folder: str | os.PathLike | None = None) -> None:
        """Accept predictions from this confidence on (0 to 1); with a folder, also in the model saved there.

        Raises
        ------
        ValueError
            For a threshold outside 0 to 1.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} must lie between 0 and 1; choose_threshold gives one")
        self.card = replace(self.card, threshold=float(threshold))
        if folder is not None:
            self.card.save(Path(folder))

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
        accepted    bool: confidence is at least the card's threshold
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
        table, photos, problems = _collect(sources, names)
        logits = np.full((len(photos), len(self.classes)), np.nan, np.float32)
        head = head_of(self.model, self.card.backbone)
        n_features = next(m for m in head.modules() if isinstance(m, nn.Linear)).in_features
        features = np.full((len(photos), n_features), np.nan, np.float32)
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
        return Scores(self._tabulate(table, self.softmax(logits), problems), logits, features)

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
        x = x.contiguous(memory_format=self.device.memory_format)
        with torch.inference_mode(), self.device.autocast():
            features, logits = features_and_logits(self.model, self.card.backbone, x)
        return logits.float().cpu().numpy(), features.float().cpu().numpy()

    def _read(self, source: Source) -> np.ndarray | PhotoError:
        try:
            return to_square(source, self.card.cache_size)
        except PhotoError as error:
            return error

    def _loss(self, brands: pd.Series, probabilities: np.ndarray) -> np.ndarray:
        number = brands.map({name: i for i, name in enumerate(self.classes)})
        known = number.notna().to_numpy()
        loss = np.full(len(brands), np.nan)
        loss[known] = -np.log(probabilities[known, number[known].astype(int)].clip(1e-12))
        return loss

    def _tabulate(self, table: pd.DataFrame, probabilities: np.ndarray, problems: list[str | None]) -> pd.DataFrame:
        names = np.array(self.classes, object)
        # A stable sort of the negated values: ties go to the first brand by name, on every machine.
        order = np.argsort(-probabilities, 1, kind="stable")[:, :5]
        readable = ~np.isnan(probabilities[:, 0])
        best = np.take_along_axis(probabilities, order, 1)
        table["predicted"] = np.where(readable, names[order[:, 0]], None)
        table["confidence"] = best[:, 0].astype(float)
        table["loss"] = self._loss(table["brand"], probabilities)
        table["top5"] = [
            dict(zip(names[o], p.astype(float).tolist(), strict=True)) if ok else None
            for o, p, ok in zip(order, best, readable, strict=True)
        ]
        table["accepted"] = (best[:, 0] >= self.card.threshold) & readable
        table["problem"] = pd.Series(problems, table.index, dtype=object)
        return table


def _collect(sources, names: Sequence[str] | None) -> tuple[pd.DataFrame, list[Source], list[str | None]]:
    """The table's first columns, what to decode, and why not, one a row each."""
    if isinstance(sources, pd.DataFrame):
        kept = [c for c in CARRIED if c in sources]
        problems = sources["problem"] if "problem" in sources else [None] * len(sources)
        known = [None if pd.isna(problem) else problem for problem in problems]
        return sources[["path", *kept]].reset_index(drop=True), sources.path.tolist(), known
    if isinstance(sources, (str, os.PathLike, bytes)):
        sources = [sources]
    photos = [photo for source in sources for photo in _expand(source)]
    if names is None:
        names = [str(p) if isinstance(p, (str, os.PathLike)) else f"photo {i}" for i, p in enumerate(photos, 1)]
    if len(names) != len(photos):
        raise ValueError(f"{len(names)} names for {len(photos)} photos; give one name a photo")
    brands = [read_name(name)[0] for name in names]
    table = pd.DataFrame({"path": list(names), "brand": pd.Series(brands, dtype=object)})
    return table, photos, [None] * len(photos)


def _expand(source: Source) -> Iterable[Source]:
    is_folder = isinstance(source, (str, os.PathLike)) and os.path.isdir(source)  # noqa: PTH112 - never raises on NUL
    return list_photos(source) if is_folder else [source]
