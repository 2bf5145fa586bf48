"""The demo folder: what each photo shows, what it is called, and which files are broken.

It is hard in the ways that real collections are: several photos show one vehicle, models of one brand differ, Skoda
shares body and lamps with Volkswagen and Lexus with Toyota, classes are uneven, side views say little, names come in
every pattern, and some files are broken. How a car looks is in `car`, how a photo is taken in `picture`.
"""

from __future__ import annotations

import json
import os
import string
import zlib
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from carclf.demo.car import Style
from carclf.demo.picture import car_box, draw_photo
from carclf.errors import no_such

VERSION = 1  # raise it with every change to the drawings: a folder of another version is refused
MARKER = ".demo.json"  # says who drew these photos; a dot file, so nothing takes it for a photo
VIEW_ODDS = {"quarter": 0.46, "front": 0.32, "side": 0.06, "rear quarter": 0.08, "rear": 0.08}
REPAIRABLE = ("grey", "cmyk", "png", "rotated")  # flaws of ordinary photos that a reader can correct
EXTRA = ("truncated", "text", "empty", "duplicate", "duplicate", "duplicate")  # flaws of one additional file each


class DemoSummary(NamedTuple):
    """What a demo folder holds."""

    photos: int  # files, including broken ones
    brands: dict[str, int]  # brand -> files whose name or folder carries it
    vehicles: int  # different cars
    flaws: dict[str, list[str]]  # kind of flaw -> names of the files that have it

    def __str__(self) -> str:
        flaws = ", ".join(f"{kind} ({len(names)})" for kind, names in self.flaws.items())
        return f"{self.photos} drawn photos of {len(self.brands)} brands, {self.vehicles} vehicles; flaws: {flaws}"


class Shot(NamedTuple):
    """One file to make; together with the seed, these fields decide every byte of it."""

    name: str  # path below the folder, with forward slashes
    brand: str
    model: str
    vehicle: str
    photo: str
    view: str
    named: bool = True  # whether the name carries the brand
    flaw: str = ""


class Brand(NamedTuple):
    """How many photos, which models with which body, and the look they share."""

    photos: int
    models: dict[str, str]
    style: Style


_WOLFSBURG: dict[str, Any] = dict(lamps="swept", tail="block", spokes=5)  # shared by Volkswagen and Skoda
_AICHI: dict[str, Any] = dict(
    lamps="slant", tail="wedge", spokes=7, stance=0.98, rake=0.02
)  # shared by Toyota and Lexus

# fmt: off
BRANDS = {
    "Alfa Romeo": Brand(24, {"Giulia": "sedan", "MiTo": "hatch", "Stelvio": "suv"},
                        Style(("shield", .17, .23, .56), "--", "slit", "round", "ring", 3, .95, .02)),
    "Audi": Brand(55, {"A4": "sedan", "A6": "wagon", "Q5": "suv", "TT Coupe": "coupe"},
                  Style(("hexagon", .37, .22, .56), "----", "slant", "slit", "rings", 10, .97, .03)),
    "BMW": Brand(65, {"3 Series": "sedan", "5 Series": "sedan", "X3": "suv", "1 Series": "hatch", "Z4": "coupe"},
                 Style(("kidneys", .30, .12, .70), "||||||||", "twin", "hook", "quarters", 9, .96, .04)),
    "Ford": Brand(45, {"Fiesta": "hatch", "Focus": "hatch", "Mustang": "coupe", "Explorer": "suv"},
                  Style(("mouth", .46, .13, .46), "---", "wedge", "wedge", "oval", 6, 1.02, -.01)),
    "Jeep": Brand(26, {"Wrangler": "suv", "Compass": "suv", "Renegade": "hatch"},
                  Style(("box", .40, .13, .68), "|||||||", "round", "block", "plain", 5, 1.12, -.04)),
    "Land Rover": Brand(28, {"Discovery": "suv", "Range Rover Evoque": "suv", "Defender": "suv"},
                        Style(("box", .42, .09, .74), "x", "square", "column", "oval", 8, 1.10, -.03)),
    "Lexus": Brand(35, {"IS": "sedan", "RX": "suv", "CT": "hatch"},
                   Style(("trapeze", .40, .20, .52), "x", badge="hook", **_AICHI)),
    "Mercedes-Benz": Brand(50, {"C-Class": "sedan", "E-Class": "wagon", "GLC-Class": "suv", "SLK-Class": "coupe"},
                           Style(("crown", .36, .17, .62), "--", "oval", "oval", "star", 5, .98, .03)),
    "Porsche": Brand(20, {"911": "coupe", "Cayenne": "suv", "Panamera": "sedan"},
                     Style(("mouth", .55, .06, .22), "-", "egg", "slit", "crest", 5, .92, .06)),
    "Skoda": Brand(55, {"Fabia": "hatch", "Octavia": "wagon", "Superb": "sedan", "Kodiaq": "suv"},
                   Style(("mouth", .42, .11, .70), "||||||||||||", badge="ring", **_WOLFSBURG)),
    "Tesla": Brand(22, {"Model 3": "sedan", "Model S": "coupe", "Model Y": "suv"},
                   Style(("mouth", .50, .03, .25), "", "slit", "hook", "tee", 4, .97, .08)),
    "Toyota": Brand(80, {"Corolla": "sedan", "Yaris": "hatch", "Camry": "sedan", "RAV4": "suv"},
                    Style(("trapeze", .40, .18, .48), "-----", badge="oval", **_AICHI)),
    "Volkswagen": Brand(105, {"Golf": "hatch", "Passat": "sedan", "Tiguan": "suv", "Polo": "hatch"},
                        Style(("mouth", .42, .09, .72), "---", badge="roundel", **_WOLFSBURG)),
    "Volvo": Brand(32, {"S60": "sedan", "V70": "wagon", "XC60": "suv"},
                   Style(("box", .36, .15, .64), "|||||||/", "hammer", "column", "arrow", 6, 1.03, -.02)),
}
# fmt: on


def draw_demo(folder: str | Path, seed: int = 0) -> DemoSummary:
    """Draw the demo photos into a new or empty folder, or complete a drawing that was interrupted.

    Equal seeds give equal bytes on one machine. A complete folder is left as it is.

    Raises
    ------
    ValueError
        If the folder holds files that the demo of this seed did not draw.
    """
    folder, shots = Path(folder), _plan(seed)
    facts = json.dumps({"drawn_by": "carclf demo", "version": VERSION, "seed": seed})
    _refuse_foreign(folder, shots, facts)
    _write(folder / MARKER, facts.encode())
    missing = [shot for shot in shots if not (folder / shot.name).exists()]
    for shot in tqdm(missing, desc="drawing demo photos", unit="photo", delay=2):
        _write(folder / shot.name, _file_bytes(shot, seed))
    flaws: dict[str, list[str]] = {}
    for shot in shots:
        if shot.flaw:
            flaws.setdefault(shot.flaw, []).append(shot.name)
    brands = dict(Counter(shot.brand for shot in shots if shot.named))
    return DemoSummary(len(shots), brands, len({shot.vehicle for shot in shots}), flaws)


def photos_or_drawn(folder: str | Path, drawn: str | Path) -> str:
    """`folder` if it holds any file; if it is empty, the demo photos in the folder `drawn`, drawn if need be.

    Prints which of them it is. A folder that does not exist is refused.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{no_such(folder)}; set it to the folder of your photos")
    if any(not name.startswith(".") for _, _, names in os.walk(folder) for name in names):
        return str(folder)
    summary = draw_demo(drawn)
    print(f"No photos in {folder} yet: this runs on {summary.photos} drawn ones, in {drawn}.")
    print(f"For your own, put them into {folder} and choose another run_folder.")
    return str(drawn)


def car_boxes(folder: str | Path, paths: Sequence[str | Path]) -> np.ndarray:
    """Boxes of the cars on photos of a folder that `draw_demo` has drawn, known without looking at a pixel.

    Returns
    -------
    ndarray of shape (len(paths), 4)
        Left, top, right and bottom as shares of each photo's width and height, 0 to 1.

    Raises
    ------
    ValueError
        If the folder holds no demo of this version, or a path is not one of its photos.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        facts = {}
    if facts.get("version") != VERSION:
        raise ValueError(f"{folder} holds no demo photos of version {VERSION}: give a folder that draw_demo has drawn")
    shots = {(folder / shot.name).resolve(): shot for shot in _plan(facts["seed"])}
    strange = [str(path) for path in paths if Path(path).resolve() not in shots]
    if strange:
        raise ValueError(f"{strange[0]} is not a photo of the demo in {folder}: give paths below this folder")
    looks = (_looks(shots[Path(path).resolve()], facts["seed"]) for path in paths)
    return np.array([car_box(**each) for each in looks]).reshape(-1, 4)


def _refuse_foreign(folder: Path, shots: list[Shot], facts: str) -> None:
    marker = folder / MARKER
    ours = {s.name for s in shots} if marker.exists() and marker.read_text(encoding="utf-8") == facts else set()
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    foreign = sorted({path.as_posix() for path in found if not path.name.startswith(".")} - ours)
    if foreign:
        seed, n = json.loads(facts)["seed"], len(foreign)
        rule = f"the demo of seed {seed}, version {VERSION}, did not draw"
        raise ValueError(
            f"{folder} holds {n} file(s) that {rule}, such as {foreign[0]!r}: choose a new or empty folder"
        )


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def stream(seed: int, *words: str) -> np.random.Generator:
    """A separate random stream for each thing drawn; the same in every process, unlike one from `hash`."""
    return np.random.default_rng([seed, zlib.crc32("|".join(words).encode())])


def _plan(seed: int) -> list[Shot]:
    """Decide every file of the folder, sorted by name."""
    rng = stream(seed, "plan")
    shots: list[Shot] = []
    for brand, (photos, models, _) in BRANDS.items():
        wanted = len(shots) + photos
        while len(shots) < wanted:
            model = str(rng.choice(list(models)))
            shots += _vehicle(rng, brand, model, serial=len(shots))[: wanted - len(shots)]
    picks = iter(rng.permutation(len(shots)))
    for flaw in REPAIRABLE:
        i = next(picks)
        shots[i] = shots[i]._replace(flaw=flaw)
    for flaw in EXTRA:
        shot = shots[next(picks)]
        shots.append(shot._replace(name=_data_set_name(rng, shot.brand, shot.model, len(shots)), flaw=flaw))
    for pattern in ("id", "image", "number") * 4:
        brand = str(rng.choice(list(BRANDS)))
        name = _anonymous_name(rng, pattern)
        model = str(rng.choice(list(BRANDS[brand].models)))
        shots.append(Shot(name, brand, model, name, name, _view(rng), named=False))
    return sorted(shots)


def _vehicle(rng: np.random.Generator, brand: str, model: str, serial: int) -> list[Shot]:
    """The photos of one vehicle: two to eight if it is a listing, else one."""
    car = f"{brand} {serial}"
    if brand == "Volvo" and rng.random() < 0.6:
        return [Shot(f"{brand}/{serial:03d}.jpg", brand, model, car, car, _view(rng))]
    pattern = rng.choice(["listing", "search", "data set"], p=[0.5, 0.2, 0.3])
    if pattern == "search":
        words = f"{brand} car back"
        return [Shot(f"{words}_{words.replace(' ', '_')}_{serial}.jpg", brand, model, car, car, "rear")]
    if pattern == "data set":
        return [Shot(_data_set_name(rng, brand, model, serial), brand, model, car, car, _view(rng))]
    listing, usual, shots = _listing_name(rng, brand, model), _view(rng), {}
    for k in range(2 + rng.binomial(6, 0.4)):
        view = usual if rng.random() < 0.5 else _view(rng)
        letters = "".join(rng.choice(list(string.ascii_letters), 3))
        shots[letters.lower()] = Shot(f"{listing}_{letters}.jpg", brand, model, car, f"{car} {k}", view)
    return list(shots.values())  # keyed by lower case: for some file systems aBc and AbC are one name


def _view(rng: np.random.Generator) -> str:
    return str(rng.choice(list(VIEW_ODDS), p=list(VIEW_ODDS.values())))


def _listing_name(rng: np.random.Generator, brand: str, model: str) -> str:
    """`Make_Model_Year_` and 13 specifications: price, rim, power, litres, cylinders, width, height, length ..."""
    low = [15, 15, 90, 12, 3, 68, 52, 150, 15]
    high = [95, 22, 450, 50, 8, 80, 72, 210, 45]
    drive, doors = rng.choice(["FWD", "RWD", "AWD", "4WD"]), rng.choice([2, 4])
    specs = [*rng.integers(low, high), drive, rng.integers(4, 8), doors, f"{doors}dr"]
    return "_".join(map(str, [brand, model, rng.integers(2008, 2021), *specs]))


def _data_set_name(rng: np.random.Generator, brand: str, model: str, serial: int) -> str:
    return f"{brand} {model} {rng.integers(2005, 2021)}_{serial:05d}.jpg"


def _anonymous_name(rng: np.random.Generator, pattern: str) -> str:
    if pattern == "id":
        return "".join(rng.choice(list(string.ascii_lowercase + string.digits), 12)) + ".jpg"
    number = rng.integers(1000, 9999)
    return f"Image_{number:06d}.jpg" if pattern == "image" else f"{number:05d}.jpg"


def _looks(shot: Shot, seed: int) -> dict[str, Any]:
    """The arguments of `draw_photo` and `car_box`, with fresh random streams."""
    brand = BRANDS[shot.brand]
    streams = {"model": (shot.brand, shot.model), "vehicle": ("vehicle", shot.vehicle), "photo": ("photo", shot.photo)}
    looks = {"style": brand.style, "body": brand.models[shot.model], "view": shot.view}
    return looks | {name: stream(seed, *words) for name, words in streams.items()}


def _file_bytes(shot: Shot, seed: int) -> bytes:
    """The content of one file."""
    if shot.flaw == "empty":
        return b""
    if shot.flaw == "text":
        return b"<html><body>404: this photo has been sold together with its car.</body></html>\n"
    looks = _looks(shot, seed)
    image, photo = draw_photo(**looks), looks["photo"]
    options: dict[str, Any] = {"format": "JPEG", "quality": int(photo.integers(70, 94))}
    if shot.flaw == "grey":
        image = image.convert("L")
    elif shot.flaw == "cmyk":
        image = image.convert("CMYK")
    elif shot.flaw == "png":
        options = {"format": "PNG"}
    elif shot.flaw == "rotated":
        options["exif"] = exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turn clockwise to see it upright
        image = image.transpose(Image.Transpose.ROTATE_90)
    buffer = BytesIO()
    image.save(buffer, **options)
    content = buffer.getvalue()
    return content[: len(content) * 6 // 10] if shot.flaw == "truncated" else content
