"""File name -> brand, read from the structure of the name, never from substrings.

After counters, years and words that say nothing ("img", "used", "photo of a"), whole words must make up a brand or
alias of ``brands.csv``; the longest wins. What cannot be read is None, counted and shown (`name_pattern`), not guessed.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


YEAR_LIKE_MODELS = {("BMW", "2002"), ("Peugeot", "2008")}  # models, if right after the brand

_COMPANY = _words("automobile automobiles automobili automotive cars company group motor motors")
_CAR = _COMPANY | _words("cab car convertible coupe hatchback minivan pickup roadster sedan suv truck van wagon")
_SPACER = _words("an and at by from in is of on or the to with")
_PICTURE = _words("hd image images img jpeg jpg photo photos pic picture png wallpaper wallpapers webp")
_OPENER = _SPACER | _PICTURE | _words("a auto car cars classic my new old used black blue gray green grey red")
_FILLER = _PICTURE | _words("cars copy models scaled")

_WORD = re.compile(r"([^\W_]+)")
# Extensions, also doubled, also as data set hosts rewrite them: name_jpg.rf.<hash>.jpg
_SUFFIX = re.compile(r"(?i:[._](?:jpe?g?|jfif|png|webp|gif|bmp|tiff?|hei[cf]|avif)(?:\.rf\.[0-9a-z]+)?)+\Z")
_LOST_PERCENT = re.compile(r"(?<=[a-z])20(?=[A-Z])")  # Alfa20Romeo: %20 without its percent sign
_SEAM = re.compile(r"(?<=[^\W\d_])(?=[A-Z\d])|(?<=[A-Z])(?=[a-z]\d)")  # where glued words may meet
_GLUED = re.compile(r"(?:(?:[A-Z][a-z]{2,})(?:[A-Z][a-z]+)*\d*|[A-Za-z]{1,2}\d{1,3})\Z")  # Golf, X5, i8
_NOISE = re.compile(r"0\w\w+\Z|\d{5,}\Z|\d\d+x\d\d+\Z")  # collection numbers, pixel sizes
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RUN = re.compile(r"\d+|\D+")


class Brand(NamedTuple):
    """A row of the table."""

    name: str  # the spelling to show
    aliases: tuple[str, ...]
    owner: str | None  # group of makers
    country: str
    models: frozenset[str] = frozenset()  # first words of models' names, if the shortest spelling is an everyday word


class ParsedName(NamedTuple):
    """What a file name says, None for what it does not say. Without a vehicle, each photo is its own vehicle."""

    brand: str | None
    model: str | None
    vehicle: str | None


def parse_brand(name: str | os.PathLike) -> str | None:
    """Brand in the last component of a path, in its canonical spelling, or None."""
    return _find(_stem(name))[0]


def parse_name(name: str | os.PathLike) -> ParsedName:
    """Brand, model and vehicle in the last component of a path.

    The model keeps the spelling of the name, without year, counter, collection number and specifications. The
    vehicle of a listing ``Make_Model_Year_<13 specifications>_<3 letters>`` is all but the three letters.
    """
    stem = _stem(name)
    brand, parts, end = _find(stem)
    fields = stem.split("_")
    if _is_listing(fields):
        model = " ".join(fields[1:-15]).strip() if brand else None
        return ParsedName(brand, model or None, "_".join(fields[:-1]))
    return ParsedName(brand, _model(brand, parts, end) if brand else None, None)


def folder_brand(folder_name: str | os.PathLike) -> str | None:
    """Brand whose name or alias is the entire name of a folder, ignoring case, accents and separators."""
    return _names().get(_key(_last_component(folder_name)))


def owner_of(brand: str) -> str | None:
    """Group that owns a brand, given by name or alias; None if the brand is unknown or independent."""
    return {row.name: row.owner for row in brand_table()}.get(_names().get(_key(brand), ""))


def name_pattern(name: str | os.PathLike) -> str:
    """Shape of a name, to group unread names: ``Image_001891.jpg`` is ``Image_<digits>``, random letters ``<id>``."""
    parts = _WORD.split(_UUID.sub("<id>", _stem(name)))
    for i in range(1, len(parts), 2):
        word, runs = parts[i], len(_RUN.findall(parts[i]))
        is_id = (len(word) >= 8 and runs > 2) or (len(word) >= 10 and runs == 1 and word.isupper())
        parts[i] = "<id>" if is_id else re.sub(r"\d+", "<digits>", word)
    return "".join(parts)


@cache
def brand_table() -> tuple[Brand, ...]:
    """All known brands, sorted by name: the rows of ``brands.csv``."""
    with Path(__file__).with_name("brands.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return tuple(
        Brand(name, tuple(filter(None, aliases.split("|"))), owner or None, country, _words(models))
        for name, aliases, owner, country, models in rows
    )


@cache
def _names() -> dict[str, str]:
    """Normalised name or alias -> name of the brand."""
    return {_key(name): brand.name for brand in brand_table() for name in (brand.name, *brand.aliases)}


@cache
def _everyday() -> dict[str, frozenset[str]]:
    """Normalised brands that are also everyday words, or only two letters, with words that their models begin with.

    They count only if the name shows that a car is meant: see `_is_meant`.
    """
    return {_key(min((row.name, *row.aliases), key=len)): row.models for row in brand_table() if row.models}


@lru_cache(maxsize=1 << 16)
def _key(text: str) -> str:
    """Text without case, accents and separators."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(_WORD.findall(text.casefold()))


def _last_component(name: str | os.PathLike) -> str:
    text = os.fsdecode(name).replace("\\", "/").rstrip("/").rpartition("/")[2]
    text = unquote(text) if "%" in text else text
    # Some systems store an accent as a separate character, which would end a word.
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _stem(name: str | os.PathLike) -> str:
    text = _last_component(name)
    suffix = _SUFFIX.search(text, max(0, text.find(".") - 5, len(text) - 120))
    return text[: suffix.start()] if suffix else text


def _find(stem: str) -> tuple[str | None, list[str], int]:
    """Brand, the parts of the name from the brand on (words at odd indices), and the index of the brand's last word."""
    parts = _WORD.split(stem)
    start = 1
    while start < len(parts) and (parts[start].isdecimal() or _key(parts[start]) in _OPENER):
        start += 2
    found = _longest(parts, start)
    if not found and start < len(parts):
        parts[start : start + 1] = _unglued(parts[start])
        found = _longest(parts, start)
    if found and (found[0] not in _everyday() or _is_meant(parts, start, *found)):
        return _names()[found[0]], parts[start - 1 :], found[1] - start + 1
    return None, parts, 0


def _longest(parts: list[str], start: int) -> tuple[str, int] | None:
    """Longest spelling made of whole words from ``start`` on, normalised, and the index of its last word."""
    found, key = None, ""
    for end in range(start, min(len(parts), start + 8), 2):
        key += _key(parts[end])
        # A spelling of two or three letters must be a single word: "m_g" is no brand.
        if key in _names() and (end == start or len(key) > 3):
            found = key, end
    return found


def _unglued(word: str) -> list[str]:
    """Parts of a word that starts with a brand and goes on: OpelCorsa, audi2, Alfa20Romeo20Giulia."""
    if len(pieces := _LOST_PERCENT.split(word)) > 1:
        return _WORD.split(" ".join(pieces))[1:-1]
    for cut in reversed([seam.start() for seam in _SEAM.finditer(word, 0, 20)]):
        if _key(word[:cut]) in _names() and _is_boundary(word[:cut], word[cut:]) and not _is_random(word):
            return [word[:cut], "", word[cut:]]
    return [word]


def _is_boundary(head: str, tail: str) -> bool:
    """Whether a brand ends here and the rest is glued to it; random letters must not pass."""
    if tail.isdecimal():  # audi2, bmw320; but jaguar2, not ram1234
        return len(head) > 2 and len(tail) <= (2 if _key(head) in _everyday() else 4)
    if head[-1].islower() and tail[0].isupper() and len(head) > 3:  # OpelCorsa, AudiA4
        return True
    return (head.isupper() or tail[0].isupper()) and bool(_GLUED.match(tail))  # VWGolf, KiaRio, BMWi8


def _is_meant(parts: list[str], start: int, key: str, end: int) -> bool:
    """Whether the words around an everyday word show that it is the brand: a year, a model, "car" ..."""
    before = [_key(word) for word in parts[1:start:2]]
    after = [_key(word) for word in parts[end + 2 :: 2]]
    if all(word.isdecimal() for word in after):
        # Cameras write two letters and four digits (_MG_1234.JPG), programs small letters (ds_001).
        counted = len(key) > 2 or not after or (parts[start].isupper() and len(after[0]) != 4)
        return any(map(_is_year, before)) or (counted and not before)
    first, last = after[0], after[-1]
    if first in _SPACER or (len(key) == 2 and first.isdecimal() and len(first) == 4):
        return False
    if first in _everyday()[key] or any(_is_year(w) or w in _CAR or w.startswith(key) for w in before + after):
        return True
    # A model that the table does not list: GV90, W12.
    if len(key) > 2 and len(first) <= 5 and not first.isalpha() and not first.isdecimal():
        return True
    # The number of a data set, and a capital: "Force Toofan_020114", but not "force field_0001".
    return not before and not parts[start].islower() and last.isdecimal() and len(last) >= 4


def _model(brand: str, parts: list[str], end: int) -> str | None:
    """The parts after ``end`` without years, counters, identifiers and words about the picture."""
    model, taken, hyphens = "", end, set(parts[2:-1:2]) == {"-"}
    for i in range(end + 2, len(parts), 2):
        separator, word, key = parts[i - 1], parts[i], _key(parts[i])
        following = _key(parts[i + 2]) if i + 2 < len(parts) else ""
        if key == "car" and (following in ("back", "front", "rear", "side") or following.startswith(_key(parts[1]))):
            break  # an image search: "Brand Model car back_Brand_Model_car_back_10"
        year = _is_year(word) and (model or (brand, word) not in YEAR_LIKE_MODELS)
        noise = _NOISE.match(key) or _is_random(word) or key.rstrip("0123456789") in _FILLER
        company = not model and (key in _COMPANY or key == "car")
        counter = i == len(parts) - 2 and _is_counter(separator, word, parts, taken if model else 0)
        if year or noise or company or counter or (key == "present" and _is_year(parts[i - 2])):
            continue
        # Hyphens join the words of "BMW 3-Series", but separate those of "bmw-3-series".
        glue = separator if separator in ("-", ".", "'") and taken == i - 2 and not hyphens else " "
        model, taken = f"{model}{' & ' if '&' in separator else glue}{word}" if model else word, i
    return model or None


def _is_counter(separator: str, number: str, parts: list[str], previous: int) -> bool:
    """Whether the last number counts photos: "bmw_2", "Civic (2)", "Golf GTI_17", but not "mazda_cx_5"."""
    if not number.isdecimal() or not previous:
        return number.isdecimal() and " " not in separator and len(number) < 3
    word, spaced = parts[previous], any(" " in part for part in parts[2::2])
    return "(" in separator or ("_" in separator and (spaced or len(word) > 2) and word.casefold() != "model")


def _is_listing(fields: list[str]) -> bool:
    """Whether fields are make, model, year, 13 specifications (the first nine numbers or nan), three letters."""
    shaped = len(fields) >= 17 and len(fields[-1]) == 3 and fields[-1].isalpha() and _is_year(fields[-15])
    return shaped and all(field == "nan" or field.isdecimal() for field in fields[-14:-5])


def _is_year(word: str) -> bool:
    return len(word) == 4 and word.isdecimal() and "1886" <= word <= "2039"


def _is_random(word: str) -> bool:
    """Whether digits and short runs of letters alternate, as in an identifier."""
    runs = _RUN.findall(word)
    return len(word) >= 10 and len(runs) > 2 and max(map(len, runs)) < 7
