"""Everything about a model but its weights: the JSON file beside them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carclf.files import write_text

CARD = "card.json"
SCHEMA = 2


@dataclass(frozen=True)
class Card:
    """Everything about a model but its weights; the JSON file beside them."""

    backbone: str
    head: str
    classes: tuple[str, ...]  # brands in the order of the logits, sorted
    size: int  # side in pixels of what the network sees
    cache_size: int  # side in pixels of the square to which a photo is squished first
    threshold: float = 0.0  # smallest confidence, 0 to 1, at which a prediction is accepted
    temperature: float = 1.0  # divides the logits before they become probabilities; above 1 lowers the confidence
    promise: dict | None = None  # what the threshold promises, as `thresholds.promise` gives it
    ood: dict | None = None  # facts of the `OodDetector` that decides what is unknown; its arrays have their own file
    training: dict | None = None  # recipe, data and results of the training, for people
    about: dict | None = None  # what the model has seen, and what it is good for or not, as text
    schema: int = SCHEMA

    @property
    def is_kept(self) -> bool:
        """Whether the threshold keeps a promise."""
        return self.promise is not None and self.promise["kept"]

    @property
    def accept_from(self) -> float:
        """The confidence from which an answer is accepted; infinite if nothing is proven and no threshold was set."""
        if self.promise is None:
            return self.threshold or float("inf")
        return self.threshold if self.is_kept else float("inf")

    def save(self, folder: Path) -> None:
        """Write card.json into a model folder."""
        write_text(folder / CARD, json.dumps(asdict(self), indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Card:
        """Read card.json of a model folder; ValueError if this version cannot."""
        path = folder / CARD
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.get("schema") == 1:
                fields |= {"ood": fields.pop("novelty", None), "schema": SCHEMA}
            card = cls(**{**fields, "classes": tuple(fields["classes"])})
            if card.schema != SCHEMA:
                raise ValueError(f"it has schema {card.schema}, this version reads {SCHEMA}")
            if card.promise is not None:
                _check_promise(card.promise)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a model card of this version ({error}); train or download the model again"
            ) from error
        return card


def folder_of(path: str | os.PathLike) -> Path:
    """The folder of a model; of a run, the one in it."""
    folder = Path(path)
    return folder / "model" if (folder / "model").is_dir() and not (folder / CARD).exists() else folder


def _check_promise(promise: dict[str, Any]) -> None:
    """Refuse a promise that `metrics.words.promise_text` could not say in words; KeyError, TypeError or ValueError."""
    shares = ["threshold", "accuracy", "confidence_level", "bound"]
    shares += ["right", "coverage"] if promise.get("vehicles") else []  # cards of version 0.2.0 have none of these
    if not all(0 <= float(promise[name]) <= 1 for name in shares) or not isinstance(promise["kept"], bool):
        raise ValueError(f"promise {promise} has values that are no shares")
    if not isinstance(promise.get("vehicles"), int | None) or not isinstance(promise.get("needed"), int | None):
        raise ValueError(f"promise {promise} has counts that are no whole numbers")
    if not str(promise.get("scope", "")).isprintable():
        raise ValueError(f"the scope of its promise, {promise['scope']!r}, cannot be printed")
