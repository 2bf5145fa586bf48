"""What several test modules share: no window for plots, and a folder of photos small enough to learn in seconds."""

import os
import sys
import tempfile

os.environ["MPLBACKEND"] = "Agg"  # before anything imports matplotlib
os.environ["CARCLF_CACHE"] = tempfile.mkdtemp()  # no test remembers its scans in the user's own cache

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

# Brand -> its colour, and its models with the number of photos of the one vehicle of each.
CARS = {
    "Alfa Romeo": ((200, 40, 40), {"Giulia": 3, "MiTo": 2, "4C": 3, "Stelvio": 2}),
    "Audi": ((40, 60, 200), {"A4": 3, "A6": 2, "Q5": 3, "TT": 2}),
    "BMW": ((40, 170, 60), {"3 Series": 3, "X5": 2, "i8": 3, "Z4": 2}),
    "Volvo": ((220, 200, 50), {"S60": 3, "V70": 2, "XC60": 3, "XC90": 2}),
}


def pytest_configure(config):
    # The tests' photos are too few for any training to be worth its while, and `fit` says so.
    for message in (".* photos to train give the stages", "the training ended below what the head alone"):
        config.addinivalue_line("filterwarnings", f"ignore:{message}:UserWarning")


@pytest.fixture(autouse=True)
def close_figures():
    """No figure of one test is seen by the next."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """40 JPEGs of about 80 × 60 pixels: four brands, each of its own colour, of four models and vehicles each.

    The names are those of listings: photos of one vehicle differ in the last three letters only.
    """
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for brand, (colour, models) in CARS.items():
        for year, (model, photos) in enumerate(models.items(), start=2012):
            for letters in ("aBc", "dEf", "gHi")[:photos]:
                name = f"{brand}_{model}_{year}_37_18_250_20_4_70_54_180_16_AWD_5_4_4dr_{letters}.jpg"
                draw_car(colour, rng).save(folder / name, quality=90)
    return folder


def draw_car(colour: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """A car in a few strokes, on a patchy ground."""
    width, height = rng.integers((76, 56), (85, 65))
    ground = Image.fromarray(rng.integers(60, 180, (5, 7, 3), dtype=np.uint8))  # large patches tell photos apart
    image = ground.resize((int(width), int(height)), Image.Resampling.BICUBIC)
    left, top = rng.integers(4, 12, 2)
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top + 14, width - left, height - 12), fill=colour)
    draw.rectangle((left + 14, top, width - left - 14, top + 14), fill=colour)
    for x in (left + 14, width - left - 14):
        draw.ellipse((x - 7, height - 19, x + 7, height - 5), fill=(20, 20, 20))
    return image


@pytest.fixture(scope="session")
def data(photo_folder, tmp_path_factory):
    """Those photos as a manifest with a split, and their tensor cache; tests must not change either in place."""
    import carclf

    manifest = carclf.split(carclf.scan(photo_folder), seed=1)
    return manifest, carclf.TensorCache.build(manifest, tmp_path_factory.mktemp("cache"), size=40)


@pytest.fixture
def torch_directml(monkeypatch):
    """A torch_directml as on a machine with DirectX; it computes like the CPU."""
    import torch

    module = SimpleNamespace(is_available=lambda: True, device=lambda number=0: torch.device("cpu", number))
    monkeypatch.setitem(sys.modules, "torch_directml", module)
