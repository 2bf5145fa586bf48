"""The card of a model: everything about it but its weights, in one JSON file beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from carclf.files import write_text

CARD = "card.json"
SCHEMA = 1


@dataclass(frozen=True)
class Card:
    """Everything about a model but its weights; the JSON file beside them.

    Attributes
    ----------
    classes : brands in the order of the logits, sorted
    size : side in pixels of what the network sees
    cache_size : side in pixels of the square that a photo is squished to before
    threshold : smallest confidence, 0 to 1, at which a prediction is accepted
    temperature : logits are divided by it before they become probabilities; above 1 makes them less sure
    promise : what the threshold promises, as `thresholds.promise` gives it, or None
    novelty : facts of the `Novelty` that decides what is unknown, or None; its arrays lie in a file of their own
    training : recipe, data and results of the training, for people
    about : what the model has seen, what it is good for and what not, in words, or None
    """

    backbone: str
    head: str
    classes: tuple[str, ...]
    size: int
    cache_size: int
    threshold: float = 0.0
    temperature: float = 1.0
    promise: dict | None = None
    novelty: dict | None = None
    training: dict | None = None
    about: dict | None = None
    schema: int = SCHEMA

    def save(self, folder: Path) -> None:
        """Write card.json into a model folder."""
        write_text(folder / CARD, json.dumps(asdict(self), indent=1, ensure_ascii=False))


def read_card(folder: Path) -> Card:
    """The card of a model folder.

    Raises
    ------
    ValueError
        Where it is none, or of another version.
    """
    path = folder / CARD
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        card = Card(**{**fields, "classes": tuple(fields["classes"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a model card of this version ({error}); train or fetch the model again"
        ) from error
    if card.schema != SCHEMA:
        raise ValueError(
            f"{path} has schema {card.schema}, this version reads {SCHEMA}; train or fetch the model again"
        )
    return card
