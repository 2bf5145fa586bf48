"""Words of a name -> the brand that they spell, from the structure of the name, never from substrings.

Whole words must make up a spelling of ``brands.csv``; the first brand of a name counts, of spellings that begin alike
the longest. Spellings that are everyday words count only beside a model, a year or the like. Words that hold more than
a brand are cut where it ends, and a long name may have one slip.
"""

from __future__ import annotations

import re

from carclf.brands.makes import WORD, everyday, key, misspelt, names, rows


def words(text: str) -> frozenset[str]:
    """The words of a text, such as a list in this module."""
    return frozenset(text.split())


COMPANY = words("automobile automobiles automobili automotive cars company group motor motors")
BODY = words("cabriolet convertible coupe estate hatchback minivan pickup roadster sedan suv wagon")
_CAR = COMPANY | BODY | words("cab car model truck van")
_SPACER = words("an and at by from in is of on or the to with")
_COLOUR = words(
    """
    beige black blue bronze brown dark gold golden gray green grey light maroon matte metallic orange pink
    purple red silver violet white yellow
    """
)
_PICTURE = words("hd image images img jpeg jpg photo photos pic pics picture pictures png wallpaper wallpapers webp")
OPENER = _SPACER | _PICTURE | _COLOUR | words("a auto car cars classic default my new old our used vintage")
FILLER = _PICTURE | words("cars copy models scaled")

# What makes of a brand something else: people before it, things and places after it.
_NOT_AFTER = words(
    """
    abraham adam bertha betty bruce calvin cannon carl carroll clint dr elon ettore ferdinand ferruccio
    franklin gerald glenn harrison henry horacio ichiro jp karl lita logo logos louis maria nikola soichiro
    tom walter
    """
)
NOT_BEFORE = words(
    """
    airport arena avenue beach bridge building cat cathedral center centre church city coil coils college
    county flower flowers foundation freeman harbour herd horse horses hospital hotel island lake library memorial
    monument park planet powers reservation river rock skyline square stadium statue street texas theater
    theatre toilet navy ship tower towers tunnel university valley
    """
)
# What shows anywhere after a brand that a person, a pet or a thing has this name, unless a model stands beside it.
_NO_CAR = words(
    """
    actor actress boarding bulldog birthday computer concert dog feeder headshot movie party portrait printer
    puppy singer tutorial
    """
)
_NOT_WITH = {
    "seat": words("belt belts back cover"),
    "chevy": words("chase"),
    "smart": words("home phone tv watch"),
    "mini": words("bus buses dress pickup skirt suv truck trucks van vans"),
    "genesis": words("band"),
    "ram": words("2gb 4gb 8gb 16gb 32gb 64gb memory"),
}
# Names of people and places, and abbreviations: a year somewhere in the name is not enough.
PEOPLE = words(
    """
    aion apollo ariel aro auburn austin bac baw bedford bitter bristol checker cord daimler glas hillman
    hudson humber international iso jensen jmc kaiser king leyland lincoln lister lloyd mack man marcos maz
    morgan morris nash noble ora paz pegaso plymouth praga radar raf reliant riley samsung santana scout
    singer slate ssc standard sunbeam tank tenet tucker ultima venturi wartburg westfield zagato
    """
)
_NOT_ALONE = PEOPLE - words("lincoln plymouth daimler hillman bristol auburn humber reliant wartburg")
_NOT_GLUED = words("chevychase hondas lincolnshire paganism pontiacs teslameter volvox volvulus")
# Words that are one slip away from a brand.
_NOT_MISSPELT = words("chandan citron citrons ferrara infinite infinity landcover mahendra porches revault")

_PHOTOGRAPHER = re.compile(r"(?i:pexels)-[a-zA-Z-]+-\d{4,}|.+-(?=[\w-]*[A-Z])[\w-]{11}-(?i:unsplash)")
_LOST_PERCENT = re.compile(r"(?<=[a-z])20(?=[A-Z])")  # Alfa20Romeo: %20 without its percent sign
_SEAM = re.compile(r"(?<=\d)(?=[^\W\d_])|(?<=[a-z])(?=[A-Z])")  # where a brand may begin within a word: 2007Chevrolet
_GLUED = re.compile(r"(?:(?:[A-Z][a-z]{2,})(?:[A-Z][a-z]+)*\d*|[A-Za-z]{1,2}\d{1,3})\Z")  # Golf, X5, i8
# wallpaperhd70, 450slc
_LOOSE = re.compile(r"s\Z|[a-z]{2,14}\d{0,4}\Z|\d{1,4}[a-z]{1,5}\d?\Z|[a-z]{1,4}\d{1,4}[a-z]{0,8}\d?\Z")
_CODE = re.compile(r"[a-z]\d{1,3}[a-z]{0,2}\Z|\d{2,3}[a-z]{1,3}\Z")  # x5, w140, 450slc
CODE = re.compile(r"[a-z]{1,3}\d{1,3}[a-z]{0,2}\Z|\d{3}[a-z]{0,2}\Z")
RUN = re.compile(r"\d+|\D+")


def find(stem: str) -> tuple[str | None, list[str], int]:
    """Brand, the parts of the name from the brand on (words at odd indices), and the index of the brand's last word."""
    parts = WORD.split(stem)
    start = i = start_of(parts)
    if start >= len(parts) or ("-" in stem and _PHOTOGRAPHER.match(stem)):
        return None, parts, 0
    perhaps = None
    while i < len(parts):
        found = longest(parts, i)
        if not found and (pieces := _unglued(parts[i])):
            parts[i : i + 1] = pieces
            i += 2 * (key(pieces[0]) not in names() and len(pieces) > 3)
            found = longest(parts, i)
        if found:
            certain = _certainty(parts, start, i, *found)
            if certain == 2:
                return names()[found[0]], parts[i - 1 :], found[1] - i + 1
            if certain and not perhaps:
                perhaps = names()[found[0]], parts[i - 1 :], found[1] - i + 1
        i += 2
    return perhaps or _misspelt(parts, start)


def start_of(parts: list[str]) -> int:
    """Index of the first word that may say something."""
    start = 1
    while start < len(parts) and (parts[start].isdecimal() or key(parts[start]) in OPENER):
        if key("".join(parts[start : start + 3 : 2])) in names():  # Auto Union
            break
        start += 2
    return start


def longest(parts: list[str], start: int) -> tuple[str, int] | None:
    """Longest spelling made of whole words from ``start`` on, normalised, and the index of its last word."""
    found, spelling = None, ""
    for end in range(start, min(len(parts), start + 8), 2):
        spelling += key(parts[end])
        # A short spelling must be a single word: "m_g" is no brand.
        if spelling in names() and (end == start or len(spelling) > 4):
            found = spelling, end
        elif end > start and spelling[-1:].isdecimal():  # rolls_royce2
            word = parts[end].rstrip("0123456789")
            whole = spelling[: len(word) - len(parts[end])]
            if word and whole in names():
                parts[end : end + 1] = [word, "", parts[end][len(word) :]]
                return whole, end
    return found


def _unglued(word: str) -> list[str] | None:
    """Parts of a word that holds a brand and more: OpelCorsa, audi2, bmwx5, 2007ChevroletHHR, Alfa20Romeo20Giulia."""
    if len(word) < 3 or word.isdecimal():
        return None
    if len(pieces := _LOST_PERCENT.split(word)) > 1:
        return WORD.split(" ".join(pieces))[1:-1]
    spellings, common = names(), everyday()
    seams = range(1, len(word)) if _is_ideogram(max(word)) else (s.start() for s in _SEAM.finditer(word, 0, 24))
    for at in (0, *seams):
        rest = word[at:]
        text = key(rest)
        if len(text) != len(rest):  # letters that lose an accent or become two
            text = rest.casefold()
        for cut in range(min(len(text), 16), 1, -1):
            head = text[:cut]
            if head not in spellings or (at and head in common):
                continue
            begins = not at or cut > 4 or (cut > 2 and word[:at].isdecimal()) or _is_ideogram(head[0])
            if begins and ((at and cut == len(rest)) or _is_boundary(rest, cut, head)):
                pieces = [rest[:cut], "", rest[cut:]] if cut < len(rest) else [rest]
                return [word[:at], "", *pieces] if at else pieces
    return None


def _is_boundary(word: str, cut: int, head: str) -> bool:
    """Whether a brand ends here and the rest is glued to it; random letters must not pass."""
    first, tail = word[:cut], word[cut:]
    if not tail or _is_ideogram(head[0]) or _is_ideogram(tail[0]):
        return bool(tail)
    if not head.isascii():
        return tail[0].isascii()
    low, models = tail.casefold(), rows()[names()[head]].models
    common = head in everyday()
    low = next((low[: -len(c)] for c in _COLOUR if low.endswith(c) and len(low) > len(c)), low)  # X5Black
    bare = low.rstrip("0123456789")
    if low in models and (cut > 2 or len(low) > 2 or low.isdecimal() or not common):  # MG4, seatibiza, vwid3
        return len(low) > 1 or low.isdecimal()
    if tail.isdecimal():  # audi2, bmw320; but jaguar2, not ram1234
        return cut > 2 and len(tail) <= (2 if common else 4)
    if is_random(first + low) and len(RUN.findall(first + low)) > 3:
        return False
    if len(bare) > 2 and (bare in models or (cut > 2 and any(bare.startswith(m) for m in models if len(m) > 3))):
        return True
    if first[-1].islower() and tail[0].isupper() and cut > 3:  # OpelCorsa, AudiA4
        return True
    if (first.isupper() or tail[0].isupper()) and _GLUED.match(tail):  # VWGolf, KiaRio, BMWi8
        return True
    if common or word.casefold() in _NOT_GLUED:
        return False
    own = head in ("mercedes", "rangerover", key(names()[head])) and rows()[names()[head]].alone
    if head == "bmw" and re.fullmatch(r"[a-z]+\d{0,3}", low):  # bmwrent, but not bmwkfj2k
        return True
    return bool(_LOOSE.match(low) if cut > 4 and own else cut > 2 and _CODE.match(low))


def _is_ideogram(letter: str) -> bool:
    """Whether a letter is of a script that writes words without spaces."""
    return letter > "\u2fff"


def _certainty(parts: list[str], start: int, at: int, spelling: str, end: int) -> int:
    """2 if the words around a spelling let it be the brand, 1 if it is unless another brand follows, 0 if it is not."""
    following = key(parts[end + 2]) if end + 2 < len(parts) else ""
    if spelling == "seat" and at > 1 and key(parts[at - 2]) in ("baby", "car", "child"):
        return 0
    if following in _NOT_WITH.get(spelling, ()) or (at > 1 and key(parts[at - 2]) in _NOT_AFTER):
        return 0
    common = spelling in everyday()
    after = [key(word) for word in parts[end + 2 :: 2]]
    doubtful = following in NOT_BEFORE or not _NO_CAR.isdisjoint(after)
    if not common and (at == start or len(spelling) > 3) and not doubtful:
        return 2
    before = [key(word) for word in parts[1:at:2]]
    models = rows()[names()[spelling]].models
    beside = _is_beside(after, models) or _is_beside([w for w in after[:3] if not is_year(w)], models)
    if doubtful and not beside:
        return 0
    if not common:
        known = at == start or len(spelling) > 3 or spelling in ("bmw", "byd", "gmc", "kia", "gaz", "vaz", "uaz")
        return 2 if known or beside or CODE.match(following) or not spelling.isascii() else 0
    return _everyday_certainty(parts, before, after, start == at, spelling, beside)


def _is_beside(after: list[str], models: frozenset[str]) -> bool:
    """Whether words begin with a model, perhaps with a number or another script glued to it."""
    if not after:
        return False
    first = after[0]
    if first in models or "".join(after[:2]) in models or first.rstrip("0123456789") in models:
        return True
    return any(first.startswith(m) and not first[len(m)].isalpha() for m in models if len(m) > 3)


def _everyday_certainty(
    parts: list[str], before: list[str], after: list[str], first: bool, spelling: str, beside: bool
) -> int:
    """`_certainty` of a spelling that is an everyday word."""
    short, person, own = len(spelling) == 2, spelling in PEOPLE, spelling == key(names()[spelling])
    word = parts[2 * len(before) + 1]
    if all(w.isdecimal() or w in _COLOUR for w in after):
        if not first:  # child_seat_2019
            return 0
        numbers = [w for w in after if w.isdecimal()]
        if any(w in _COLOUR for w in after) and not beside:
            return 0
        # Cameras write two letters and four digits (_MG_1234.JPG), programs small letters (ds_001).
        counted = not short or not after or (word.isupper() and len(after[0]) != 4)
        named = not before and own and spelling not in _NOT_ALONE
        year = any(map(is_year, before)) or (not short and any(map(is_year, numbers)))
        model = beside and numbers and (len(numbers[0]) > 2 or not person) and len(numbers[0]) < 5 and not short
        return 2 * bool((counted and named) or year or model or (short and beside))
    if after[0] in _COLOUR and after[0] in rows()[names()[spelling]].models:
        beside = False
    if beside and not (short and after[0].isdecimal() and len(after[0]) == 4):
        return 2
    code = not after[0].isalpha() and not after[0].isdecimal()  # a model that the table does not list: GV90, W12
    if person:
        return 2 * (after[0] in _CAR or (code and is_year(after[-1] if len(after) < 2 else after[1])))
    if after[0] in _SPACER or (short and after[0].isdecimal() and len(after[0]) == 4) or not first or not own:
        return 0
    if any(is_year(w) or w in _CAR or w == spelling or (not short and w.startswith(spelling)) for w in before + after):
        return 1
    if not short and len(after[0]) <= 5 and code:
        return 1
    # The number of a data set, and a capital: "Force Toofan_020114", but not "force field_0001".
    return int(not before and not word.islower() and after[-1].isdecimal() and len(after[-1]) >= 4)


def _misspelt(parts: list[str], start: int) -> tuple[str | None, list[str], int]:
    """As `find`, for a long name with one letter too many, too few, wrong or misplaced."""
    for i in range(start, len(parts), 2):
        word = parts[i].casefold().rstrip("0123456789")
        candidate = len(word) > 5 and word.isascii() and word.isalpha() and word not in _NOT_MISSPELT
        if candidate and key(parts[i]) not in names():
            for near in (word, *(word[:n] + word[n + 1 :] for n in range(1, len(word)))):
                if _is_one_slip(word, misspelt().get(near, "")):
                    return names()[misspelt()[near]], parts[i - 1 :], 1
    return None, parts, 0


def _is_one_slip(word: str, right: str) -> bool:
    """Whether words differ in one letter, or in two that have changed places."""
    for _ in range(2):  # without what begins alike, then without what ends alike
        same = next(
            (i for i, (a, b) in enumerate(zip(word, right, strict=False)) if a != b), min(len(word), len(right))
        )
        word, right = word[same:][::-1], right[same:][::-1]
    return max(len(word), len(right)) < 2 or (len(word) == 2 and word == right[::-1])


def is_year(word: str) -> bool:
    """Whether a word is a year in which cars were built, or nearly so: 1886 to 2039."""
    return len(word) == 4 and word.isdecimal() and "1886" <= word <= "2039"


def is_random(word: str) -> bool:
    """Whether digits and short runs of letters alternate, as in an identifier."""
    runs = RUN.findall(word)
    return len(word) >= 10 and len(runs) > 2 and max(map(len, runs)) < 7
