"""The table of makes, ``brands.csv``: spellings, owners, models, and names that overlap on the same vehicles."""

from __future__ import annotations

import csv
import re
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

WORD = re.compile(r"([^\W_]+)")


class Twin(NamedTuple):
    """Another brand that is right, too: for models with one of the words, or for every model if there are none."""

    brand: str
    words: frozenset[str]
    instead: bool  # the name is read as this brand: an AM General Hummer is a Hummer


class Brand(NamedTuple):
    """A row of the table."""

    name: str  # the spelling to show
    aliases: tuple[str, ...]  # other spellings, also misspelt and in other scripts
    owner: str | None  # group of makers
    country: str
    everyday: tuple[str, ...] = ()  # spellings that count only if the words around them show that the brand is meant
    models: frozenset[str] = frozenset()  # words of its models, as `key` writes them
    alone: frozenset[str] = frozenset()  # models that say the brand by themselves; with "?" if a year or so is beside
    twins: tuple[Twin, ...] = ()


@lru_cache(maxsize=1 << 16)
def key(text: str) -> str:
    """Text without case, accents and separators."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(WORD.findall(text.casefold()))


@cache
def brand_table() -> tuple[Brand, ...]:
    """All known brands, sorted by name: the rows of ``brands.csv``."""
    with Path(__file__).with_name("brands.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_row(**row) for row in csv.DictReader(file))


def _row(
    brand: str, aliases: str, everyday: str, owner: str, country: str, models: str, alone: str, also: str
) -> Brand:
    spellings, common = (tuple(filter(None, text.split("|"))) for text in (aliases, everyday))
    twins = []
    for entry in filter(None, also.split("|")):
        other, _, words = entry.partition(":")
        twins.append(Twin(other.lstrip("="), frozenset(words.split()), other.startswith("=")))
    known = frozenset(models.split()).union(*(twin.words for twin in twins if not twin.instead))
    known |= {word.rstrip("?") for word in alone.split()}
    return Brand(brand, spellings, owner or None, country, common, known, frozenset(alone.split()), tuple(twins))


@cache
def rows() -> dict[str, Brand]:
    """Name -> row."""
    return {row.name: row for row in brand_table()}


@cache
def names() -> dict[str, str]:
    """Normalised spelling -> name of the brand."""
    return {key(name): row.name for row in brand_table() for name in (row.name, *row.aliases, *row.everyday)}


@cache
def everyday() -> frozenset[str]:
    """Normalised spellings that are also everyday words, names of people or places, or hardly letters."""
    return frozenset(key(name) for row in brand_table() for name in row.everyday)


@cache
def lone_models() -> dict[str, tuple[str, bool]]:
    """Models that say the brand by themselves -> the brand, and whether a year or a trim must be beside the model."""
    return {word.rstrip("?"): (row.name, word.endswith("?")) for row in brand_table() for word in row.alone}


@cache
def misspelt() -> dict[str, str]:
    """Long names of well-known makes with at most one letter left out -> the whole name."""
    known = {"mercedes", *(key(row.name) for row in brand_table() if row.alone)}
    long = {k for k in known if len(k) > 6 and k not in everyday()}
    return {k[:i] + k[i + 1 :]: k for k in long for i in range(1, len(k))} | {k: k for k in long}


def owner_of(brand: str) -> str | None:
    """Group that owns a brand, given by name or alias; None if the brand is unknown or independent."""
    row = rows().get(names().get(key(brand), ""))
    return row.owner if row else None


@lru_cache(maxsize=1 << 10)
def also_right(brand: str, model: str | None) -> frozenset[str]:
    """Other brands that are right, too, for a vehicle with this label: a Hummer H1 is also an AM General."""
    row = rows().get(brand)
    if row is None or not row.twins:
        return frozenset()
    words = {key(word) for word in WORD.findall(model or "")}
    return frozenset(twin.brand for twin in row.twins if not twin.words or twin.words & words)


def is_right_answer(predicted: object, brand: object, model: object = None) -> bool:
    """Whether an answer is right for a vehicle with this label: the brand itself, or one that is also right."""
    if not isinstance(predicted, str) or not isinstance(brand, str):
        return False
    return predicted == brand or predicted in also_right(brand, model if isinstance(model, str) else None)
