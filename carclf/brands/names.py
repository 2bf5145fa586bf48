"""File name or folder -> brand, model, vehicle. What cannot be read is None, counted and shown, not guessed."""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from carclf.brands.makes import WORD, everyday, key, lone_models, names, rows
from carclf.brands.spelling import (
    BODY,
    CODE,
    COMPANY,
    FILLER,
    NOT_BEFORE,
    OPENER,
    PEOPLE,
    RUN,
    find,
    is_random,
    is_year,
    longest,
    start_of,
    words,
)

YEAR_LIKE_MODELS = {("BMW", "2002"), ("Peugeot", "2008")}  # models, if right after the brand
# Names of folders that say nothing about the car; with the brand above them, they do not hide it.
_VIEW = words(
    """
    all angle angled back bad close closeup data dataset detail details dev eval exterior exteriors front full
    gallery good inside interior interiors left misc original originals other others outside processed profile
    raw rear right rotated samples selected side sides test testing thumbs top train training upload uploads
    val valid validation view views
    """
)
_TRIM = BODY | words("amg awd cdi dci fwd gt gtd gte gti gtr hdi hybrid rs rwd st sti tdi tfsi touring tsi vtec xdrive")
# Extensions, also doubled, also as data set hosts rewrite them: name_jpg.rf.<hash>.jpg
_SUFFIX = re.compile(r"(?i:[._](?:jpe?g?|jfif|png|webp|gif|bmp|tiff?|hei[cf]|avif)(?:\.rf\.[0-9a-z]+)?)+\Z")
_NOISE = re.compile(r"0\w\w+\Z|\d{5,}\Z|\d\d+x\d\d+\Z")  # collection numbers, pixel sizes
_NUMBERING = re.compile(r"\A\d{1,4}[\W_]+(?=[^\W\d])")  # 01_Audi, 001.BMW
_GENERATION = re.compile(r"mk\d|gen\d|\dg\Z|[ivx]{2,4}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class ParsedName(NamedTuple):
    """What a file name says, None for what it does not say. Without a vehicle, each photo is its own vehicle."""

    brand: str | None
    model: str | None
    vehicle: str | None


def parse_brand(name: str | os.PathLike) -> str | None:
    """Brand in the last component of a path, in its canonical spelling, or None."""
    return _read(_stem(name))[0]


def parse_name(name: str | os.PathLike) -> ParsedName:
    """Brand, model and vehicle in the last component of a path.

    The model keeps the spelling of the name, without year, counter, collection number and specifications. The
    vehicle of a listing ``Make_Model_Year_<13 specifications>_<3 letters>`` is all but the three letters.
    """
    stem = _stem(name)
    vehicle = stem.rpartition("_")[0] if stem.count("_") > 15 and _is_listing(stem.split("_")) else None
    return ParsedName(*_read(stem), vehicle)


def parse_model(name: str | os.PathLike) -> tuple[str | None, str | None]:
    """Brand and model of a name that begins with a model and says no brand: corvette-c8, "golf mk7", but not "golf"."""
    parts = WORD.split(_stem(name))
    start = start_of(parts)
    keys = [key(word) for word in parts[start::2]]
    for n in (2, 1):
        whole = "".join(keys[:n])
        for word in dict.fromkeys((whole, whole.rstrip("0123456789"))):
            brand, doubtful = lone_models().get(word, ("", False))
            follows, comes = keys[n] if len(keys) > n else "", parts[start - 2] if start > 2 else ""
            shown = is_year(follows) or is_year(comes) or follows in _TRIM or _GENERATION.match(follows)
            if brand and len(keys) >= n and follows not in NOT_BEFORE and (shown or not doubtful):
                return brand, _model(brand, ["", brand, parts[start + 1] or " ", *parts[start:]], 1)
    return None, None


def parse_path(path: str, root: str | None = None) -> tuple[str | None, str | None, str, str | None]:
    """Brand, model, vehicle and where the brand was read: "name", "folder", "model" (only a model is said) or None.

    Any folder from `root` on may say the brand, the nearest first; without `root` only the three nearest. A name that
    begins with a brand counts before them, but not one that ends with another: ``Perodua/1423_Kia_white.jpg``, or that
    is a model and also a brand: ``GMC/Hummer.jpg``.
    """
    brand, model, vehicle = parse_name(path)
    vehicle = vehicle or path  # photos of one listing belong together even in different folders
    around, below, source = _folders(path.replace("\\", "/").rpartition("/")[0], root)
    if brand and (around is None or source != "folder" or brand == around or _begins(path, brand, around)):
        return brand, model, vehicle, "name"
    if around and source == "folder":
        return around, below or _model_of(path, around), vehicle, source
    named = parse_model(path)
    return (*named, vehicle, "model") if named[0] else (around, below, vehicle, source)


def folder_brand(folder_name: str | os.PathLike) -> str | None:
    """Brand whose name or alias is the entire name of a folder, ignoring case, accents and separators."""
    return names().get(key(_last_component(folder_name)))


def name_pattern(name: str | os.PathLike) -> str:
    """Shape of a name, to group unread names: ``Image_001891.jpg`` is ``Image_<digits>``, random letters ``<id>``."""
    parts = WORD.split(_UUID.sub("<id>", _stem(name)))
    for i in range(1, len(parts), 2):
        word, runs = parts[i], len(RUN.findall(parts[i]))
        is_id = (len(word) >= 8 and runs > 2) or (len(word) >= 10 and runs == 1 and word.isupper())
        parts[i] = "<id>" if is_id else re.sub(r"\d+", "<digits>", word)
    return "".join(parts)


def _last_component(name: str | os.PathLike) -> str:
    text = os.fsdecode(name).replace("\\", "/").rstrip("/").rpartition("/")[2]
    text = unquote(text) if "%" in text else text
    # Some systems store an accent as a separate character, which would end a word.
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _stem(name: str | os.PathLike) -> str:
    text = _last_component(name)
    suffix = _SUFFIX.search(text, max(0, text.find(".") - 5, len(text) - 120))
    return text[: suffix.start()] if suffix else text


@lru_cache(maxsize=1 << 12)
def _folders(path: str, root: str | None) -> tuple[str | None, str | None, str | None]:
    """Brand, model and "folder" or "model", as the folders of a path say."""
    parts = path.split("/")
    first = 0 if root is None else root.replace("\\", "/").rstrip("/").count("/")
    if not parts[0] or parts[0].endswith(":"):  # what lies in /home or C:\Users is named after a person
        first = max([first, *(i + 2 for i, name in enumerate(parts[:4]) if name.casefold() in ("home", "users"))])
    nearest = parts[first:][::-1]
    for i, folder in enumerate(nearest if root else nearest[:3]):
        brand, model = _folder(folder)
        # The folder given to scan may be called anything: "ds" for a data set, "mini" for a small one.
        if brand is None or (root and i == len(nearest) - 1 and key(folder) in everyday()):
            continue
        below = [_NUMBERING.sub("", name) for name in nearest[:i]]
        models = [name for name in reversed(below) if _is_model(brand, name)]
        # Without a root, a folder above the nearest must be named like a brand alone, and if two or more are between,
        # they must say no more than models, years and views.
        named = folder_brand(folder) and key(folder) not in PEOPLE
        plain = i < 2 or all(name in models or _says_nothing(name) for name in below)
        if i and not root and not (named and plain):
            break
        return brand, model or (models[0] if models else None), "folder"
    brand, model = parse_model(nearest[0]) if nearest else (None, None)
    return brand, model, "model" if brand else None


def _folder(folder: str) -> tuple[str | None, str | None]:
    """Brand and model in the name of one folder: 01_Audi, Audi_A4, "BMW photos"."""
    text = _NUMBERING.sub("", _last_component(folder))
    words = [word for word in WORD.findall(text) if key(word) not in FILLER and key(word) not in _VIEW]
    whole = names().get(key("".join(words)))
    return (whole, None) if whole else _read(text)


def _begins(name: str, brand: str, folder: str) -> bool:
    """Whether the brand of a name counts more than that of its folder.

    Not if the name begins with something else, nor if the folder's brand has a model of this name.
    """
    parts = WORD.split(_stem(name))
    start = start_of(parts)
    found = longest(parts, start)
    first = (found and names()[found[0]] == brand) or key(parts[start]).startswith(key(brand)[:4])
    return bool(first) and not any(
        twin.brand == brand and twin.words and not twin.instead for twin in rows()[folder].twins
    )


def _model_of(name: str, brand: str) -> str | None:
    """Model of a photo whose brand is known, if its name begins with a word of one."""
    parts = WORD.split(_stem(name))
    start = start_of(parts)
    words = [key(word) for word in parts[start : start + 4 : 2]]
    known = rows()[brand].models
    if not words or not known.intersection((words[0], words[0].rstrip("0123456789"), "".join(words))):
        return None
    return _model(brand, ["", brand, parts[start + 1] or " ", *parts[start:]], 1)


def _is_model(brand: str, folder: str) -> bool:
    """Whether a folder below the one of a brand is named after a model of it."""
    words = [key(word) for word in WORD.findall(folder)]
    known = rows()[brand].models
    named = bool(words) and (words[0] in known or "".join(words[:2]) in known)
    return named or any(CODE.match(word) for word in words[:1] if not is_year(word))


def _says_nothing(folder: str) -> bool:
    said = (key(word) for word in WORD.findall(folder))
    return all(word.isdecimal() or word in _VIEW or word in OPENER or word in FILLER for word in said)


def _read(stem: str) -> tuple[str | None, str | None]:
    """Brand and model of a name."""
    if stem.count("_") > 15 and _is_listing(fields := stem.split("_")):
        known = names().get(key(fields[0]))
        return known, (" ".join(fields[1:-15]).strip() or None) if known else None
    brand, parts, end = find(stem)
    if brand is None:
        return None, None
    model = _model(brand, parts, end)
    if parts[end].casefold().endswith("amg"):  # part of the brand's spelling and of the model's name
        model = f"{parts[end]} {model}" if model else parts[end]
    for twin in rows()[brand].twins:
        if twin.instead and not twin.words.isdisjoint(map(key, parts[end + 2 :: 2])):
            return twin.brand, model
    return brand, model


def _model(brand: str, parts: list[str], end: int) -> str | None:
    """The parts after ``end`` without years, counters, identifiers and words about the picture."""
    model, taken, hyphens = "", end, set(parts[2:-1:2]) == {"-"}
    for i in range(end + 2, len(parts), 2):
        separator, word, spelling = parts[i - 1], parts[i], key(parts[i])
        following = key(parts[i + 2]) if i + 2 < len(parts) else ""
        if spelling == "car" and (
            following in ("back", "front", "rear", "side") or following.startswith(key(parts[1]))
        ):
            break  # an image search: "Brand Model car back_Brand_Model_car_back_10"
        if spelling == "s" and separator in ("'", "’"):  # Audi's
            continue
        year = is_year(word) and (model or (brand, word) not in YEAR_LIKE_MODELS)
        noise = _NOISE.match(spelling) or is_random(word) or spelling.rstrip("0123456789") in FILLER
        company = not model and (spelling in COMPANY or spelling == "car")
        counter = i == len(parts) - 2 and _is_counter(separator, word, parts, taken if model else 0)
        if year or noise or company or counter or (spelling == "present" and is_year(parts[i - 2])):
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
    shaped = len(fields) >= 17 and len(fields[-1]) == 3 and fields[-1].isalpha() and is_year(fields[-15])
    return shaped and all(field == "nan" or field.isdecimal() for field in fields[-14:-5])
