"""The model folder: weights and a JSON card. Save it, load it, and predict: photos -> a table, one row per photo."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import nn
from tqdm.auto import tqdm

from carclf.data.photos import PhotoError, squish
from carclf.errors import no_such
from carclf.files import writing
from carclf.model import crops
from carclf.model.augment import Augment
from carclf.model.backbones import empty_model, features, head_of, n_features, normalisation
from carclf.model.card import CARD, Card, folder_of
from carclf.model.device import pick
from carclf.model.ood import METHOD, OodDetector
from carclf.model.predictions import Sources, photos_of, tabulate
from carclf.model.valid import FILE as VALID
from carclf.model.valid import Valid
from carclf.model.weights import halved, read_tensors, write_tensors

WEIGHTS, OOD = "model.safetensors", "ood.safetensors"
OLD_OOD = "novelty.safetensors"  # beside cards of schema 1, which called `ood` `novelty`
# Pixels that a CPU is given at once: activations then stay in its caches. Two cores classified photos of 256 pixels
# 1.7 times as fast by eights as by 32.
CPU_PIXELS = 8 * 256**2

Folder: TypeAlias = "str | os.PathLike"


class Scores(NamedTuple):
    """Predictions with the numbers behind them, a row per photo or car; NaN if it could not be read or is too small."""

    table: pd.DataFrame  # as `Classifier.predict` returns it
    logits: np.ndarray  # float32 [N, n_classes], before the temperature
    features: np.ndarray  # float32 [N, n_features], what the head takes


class Classifier:
    """A trained network with everything needed to name the brand on a photo; without `ood`, no photo is unknown."""

    def __init__(self, model: nn.Module, card: Card, device: str = "auto", ood: OodDetector | None = None) -> None:
        if list(card.classes) != sorted(set(card.classes)):
            raise ValueError(f"a model's classes must be sorted and without duplicates, got {list(card.classes)}")
        self.card, self.ood, self.device = card, ood, pick(device)
        self.valid: Valid | None = None  # what it said of its valid photos, if its folder keeps that
        self.model = model.eval().to(self.device.torch).to(memory_format=self.device.memory_format)
        self._augment = Augment(card.size, *normalisation(card.backbone)).plain()

    @property
    def classes(self) -> list[str]:
        """Brands in the order of the probabilities, sorted."""
        return list(self.card.classes)

    @classmethod
    def load(cls, folder: Folder, device: str = "auto") -> Classifier:
        """Read a model folder: `model.safetensors`, `card.json` and, if there, `ood.safetensors`, `valid.safetensors`.

        Nothing in it is executed.

        Raises FileNotFoundError or ValueError if a file is missing, or if they do not fit together.
        """
        folder = folder_of(folder)
        if not folder.is_dir():
            raise FileNotFoundError(no_such(folder))
        for name in (WEIGHTS, CARD):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing; give the folder that training wrote, such as runs/first/model"
                )
        card = Card.load(folder)
        model = empty_model(card.backbone, len(card.classes), card.head)
        try:
            model.load_state_dict(read_tensors(folder / WEIGHTS)[0])
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{folder / WEIGHTS} does not fit {CARD} ({reason}); copy all files of one model"
            ) from error
        ood = None
        if card.ood is not None and card.ood.get("method") != METHOD:
            warnings.warn(
                f"{folder}: OOD method {card.ood.get('method')!r} is no longer supported, so no photo will be "
                "called unknown; run calibrate_on_valid",
                stacklevel=2,
            )
            card = replace(card, ood=None)
        elif card.ood is not None:
            file = folder / (OOD if (folder / OOD).is_file() else OLD_OOD)
            if not file.is_file():
                raise FileNotFoundError(f"{folder / OOD} is missing; copy all three files of one model")
            arrays = {name: array.numpy() for name, array in read_tensors(file)[0].items()}
            ood = OodDetector.of(card.ood, arrays, n_features(model, card.backbone))
        classifier = cls(model, card, device, ood)
        classifier.valid = Valid.load(folder, len(card.classes))
        return classifier

    def save(self, folder: Folder, half: bool = False) -> Path:
        """Write the model folder; each file is replaced atomically.

        With `half`, matrices are stored as float16, for a file half as large; norms and biases, which may be below its
        range, stay float32. Loading gives float32 again, with slightly other numbers: calibrate what was loaded.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        weights = self.model.state_dict()
        (folder / VALID).unlink(missing_ok=True)  # what other weights said must never lie beside these
        write_tensors(folder / WEIGHTS, halved(weights) if half else weights)
        self._save_ood(folder)
        if self.valid is not None:
            self.valid.save(folder)
        return folder

    def keep_valid(self, scores: Scores, folder: Folder | None = None) -> None:
        """Keep what it said of the photos of valid; with a folder, also in the model saved there."""
        self.valid = Valid.of(*scores[:2], self.classes)
        if folder is not None:
            (Path(folder) / VALID).unlink(missing_ok=True)
            if self.valid is not None:
                self.valid.save(Path(folder))

    def detect_ood(self, detector: OodDetector | None, folder: Folder | None = None) -> None:
        """Use this detector, or none, from now on; with a folder, also in the model saved there."""
        self.ood, self.card = detector, replace(self.card, ood=None if detector is None else detector.facts)
        if folder is not None:
            self._save_ood(Path(folder))

    def accept_above(self, threshold: float, folder: Folder | None = None, promise: dict | None = None) -> None:
        """Accept predictions from this confidence on; with a folder, also in the model saved there.

        Parameters
        ----------
        threshold : 0 to 1; 0 without a promise stands for none, and then nothing is accepted
        promise : what `carclf.metrics.promise` found for this threshold; without one it counts as set by hand. If it is
            not kept, nothing is accepted
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} must lie between 0 and 1; choose_threshold gives one")
        self.card = replace(self.card, threshold=float(threshold), promise=promise)
        if folder is not None:
            self.card.save(Path(folder))

    def calibrate(self, temperature: float) -> None:
        """Divide the logits by this temperature from now on."""
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature {temperature} must be positive; fit_temperature gives one")
        self.card = replace(self.card, temperature=float(temperature))

    def predict(
        self,
        sources: Sources,
        names: Sequence[str] | None = None,
        batch_size: int = 64,
        cars: str = "whole",
        boxes: crops.Boxes = None,
        detector: Any = None,
    ) -> pd.DataFrame:
        """Predict the brand in each photo, or of each car in it.

        Parameters
        ----------
        sources : a path, a folder, an encoded photo (bytes or an open file), a PIL image, a uint8 array [h, w],
            [h, w, 3] or [h, w, 4], an iterable of these, or a table with the column `path`, such as a manifest
        names : for the column `path`, one per photo; only those that are no file need one
        batch_size : photos or cars per pass
        cars : "whole", the photo as it is; "main", its largest, most central car; "all", each of its cars (also "find")
        boxes : where the cars are, instead of a detector, see `carclf.model.crops.finder`; `cars` is then "all" unless
            it is "main"
        detector : None for the one that ships, what `Detector.load` takes, or anything with the method `find`

        Returns
        -------
        DataFrame, one row per photo, also if it cannot be read, in the order given, with the columns

        ==========  ========================================================================================
        path        str
        brand       str, or missing: what the file's or folder's name says, or the manifest's brand
        predicted   str, or missing if the photo could not be read
        confidence  float, 0 to 1, of the predicted brand; NaN if unreadable
        loss        float, -log of the probability of `brand`, in nats; NaN if the model does not know it
        top5        dict, brand to probability, best first; None if unreadable
        decision    "accepted"; "unsure": confidence is below `Card.accept_from`; "unknown": unlike all that the
                    model was trained on, so perhaps another brand or no car; missing if unreadable
        accepted    bool: the decision is "accepted"
        problem     str, or missing: why the photo could not be read, or why the manifest sets it aside
        ==========  ========================================================================================

        and `model`, `vehicle`, `split` if a manifest has them. With "main" or "all" it has a row per car, from left
        to right within its photo, and before `predicted` the columns of `carclf.model.crops.score`, which also adds
        the decisions "too small" and "no car found".
        """
        return self.score(sources, names, batch_size, cars, boxes, detector).table

    def score(
        self,
        sources: Sources,
        names: Sequence[str] | None = None,
        batch_size: int = 64,
        cars: str = "whole",
        boxes: crops.Boxes = None,
        detector: Any = None,
    ) -> Scores:
        """As `predict`, with the logits and features of every row beside the table."""
        table, photos, problems = photos_of(sources, names)
        widths = len(self.classes), n_features(self.model, self.card.backbone)
        if (cars := crops.wanted(cars, boxes, detector)) != "whole":
            find = crops.finder(table["path"].tolist(), boxes, detector, self.device.name)
            size = self.card.cache_size
            return self.rescore(
                Scores(*crops.score(table, photos, problems, find, cars, size, batch_size, self.outputs, widths))
            )
        logits, found = (np.full((len(photos), width), np.nan, np.float32) for width in widths)
        for rows, squares in self.squares(photos, problems, batch_size):
            logits[rows], found[rows] = self.outputs(squares)
        table["problem"] = pd.Series(problems, table.index, dtype=object)
        return self.rescore(Scores(table, logits, found))

    def squares(
        self, photos: Sequence[crops.Photo], problems: list[str | None], batch_size: int
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Decode photos in threads: rows of a batch, and its photos as uint8 [len(rows), 3, cache_size, cache_size].

        Photos that have a problem in `problems` are skipped; those that cannot be read get one.
        """
        starts = range(0, len(photos), batch_size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in tqdm(starts, "predict", unit="batch", leave=False, disable=len(starts) < 3):
                rows = [i for i in range(start, min(start + batch_size, len(photos))) if problems[i] is None]
                squares = {}
                for i, square in zip(rows, pool.map(self._square, [photos[i] for i in rows]), strict=True):
                    if isinstance(square, PhotoError):
                        problems[i] = str(square)
                    else:
                        squares[i] = square
                if squares:
                    yield list(squares), np.stack(list(squares.values()))

    def rescore(self, scores: Scores) -> Scores:
        """The same photos with the current temperature, threshold and OOD detector."""
        return self._tabulate(scores, self.card.temperature)

    def untempered(self, scores: Scores) -> Scores:
        """The same photos as if the temperature were 1."""
        return self._tabulate(scores, 1.0)

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities float32 [N, n_classes] of logits, with the card's temperature."""
        return softmax(logits / self.card.temperature, axis=1)

    def outputs(self, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits float32 [N, n_classes] and features float32 [N, n_features] of squished photos.

        `photos` is uint8 [N, 3, cache_size, cache_size], as `TensorCache` holds them.
        """
        x, head = self.prepare(photos), head_of(self.model, self.card.backbone)
        at_once = max(1, CPU_PIXELS // self.card.size**2) if self.device.kind == "cpu" else len(x)
        with torch.inference_mode(), self.device.autocast():
            parts = [features(self.model, part) for part in x.split(at_once)]
            logits = [head(part) for part in parts]
        return torch.cat(logits).float().cpu().numpy(), torch.cat(parts).float().cpu().numpy()

    def prepare(self, photos: np.ndarray) -> torch.Tensor:
        """Squished photos as the network takes them: float32 [N, 3, size, size], normalised, on the device."""
        x = self._augment(torch.from_numpy(photos).to(self.device.torch))
        return x.contiguous(memory_format=self.device.memory_format)

    def _square(self, source: crops.Photo) -> np.ndarray | PhotoError:
        try:
            return squish(crops.opened(source, at_least=2 * self.card.cache_size), self.card.cache_size)
        except PhotoError as error:
            return error

    def _tabulate(self, scores: Scores, temperature: float) -> Scores:
        probabilities = softmax(scores.logits / temperature, axis=1)
        unknown = np.zeros(len(probabilities), bool) if self.ood is None else self.ood.unknown(scores.features)
        table = tabulate(scores.table, probabilities, self.classes, self.card.accept_from, unknown)
        return scores._replace(table=table)

    def _save_ood(self, folder: Path) -> None:
        # A kill in between leaves a folder that loads: arrays that the card does not ask for are ignored.
        if self.ood is not None:
            write_tensors(folder / OOD, {k: torch.from_numpy(v) for k, v in self.ood.arrays.items()})
        self.card.save(folder)
        for name in (OLD_OOD,) if self.ood is not None else (OLD_OOD, OOD):
            (folder / name).unlink(missing_ok=True)
