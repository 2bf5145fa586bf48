"""The same picture is recognised in another size, quality or crop, and other pictures are not."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from carclf.data.duplicates import COUNT, NEAR, VIEWS, contradicts, duplicates, fingerprint, merge_duplicates


def picture(seed: int) -> Image.Image:
    """Coloured clouds, as different from each other as photos are."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 16, 3), dtype=np.uint8))
    return small.resize((320, 200), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


COPIES = {
    "larger": lambda i: i.resize((640, 400)),
    "smaller": lambda i: i.resize((96, 60)),
    "squeezed": lambda i: i.resize((320, 180)),
    "compressed": compressed,
    "brighter": lambda i: ImageEnhance.Brightness(i).enhance(1.2),
    "paler": lambda i: ImageEnhance.Color(i).enhance(0.3),
    "cropped at the sides": lambda i: i.crop((48, 0, 272, 200)),
    "cropped above and below": lambda i: i.crop((0, 16, 320, 184)),
    "with a mark": lambda i: (i.paste("white", (280, 180, 310, 190)), i)[1],
}


def views(text: str) -> np.ndarray:
    """Fingerprint as uint8 [VIEWS, 32]."""
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(VIEWS, 32)


def bits_apart(one: str, other: str) -> int:
    """Bits in which the most similar views of two fingerprints differ."""
    return int(COUNT[views(one) ^ views(other)].sum(1).min())


def table(prints: np.ndarray | list, **columns) -> pd.DataFrame:
    """A manifest of photos with fingerprints uint8 [n, VIEWS, 32], each an Audi of its own unless a column differs."""
    paths = [f"/photos/Audi_{i:05}.jpg" for i in range(len(prints))]
    texts = [None if one is None else one.tobytes().hex() for one in prints]
    usual = {"path": paths, "brand": "Audi", "vehicle": paths, "sha256": paths, "fingerprint": texts, "problem": None}
    return pd.DataFrame({**usual, "width": 100, **columns}).astype({"fingerprint": object, "problem": object})


def random_prints(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, VIEWS, 32), dtype=np.uint8)


def flipped(view: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """A view's 32 bytes with so many random bits changed."""
    ones = np.unpackbits(view)
    ones[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(ones)


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_near(change):
    for seed in range(10):
        original = picture(seed)
        assert bits_apart(fingerprint(original), fingerprint(COPIES[change](original.copy()))) <= NEAR


def test_other_pictures_are_far():
    prints = [fingerprint(picture(seed)) for seed in range(40)]
    assert min(bits_apart(a, b) for i, a in enumerate(prints) for b in prints[:i]) > 2 * NEAR


def test_a_fingerprint_is_four_views_of_256_bits_half_of_them_set():
    found = fingerprint(picture(0))
    assert len(found) == 256
    assert COUNT[views(found)].sum(1).tolist() == [128] * VIEWS
    assert fingerprint(picture(0)) == found


def test_the_median_is_that_of_the_lowest_frequencies():
    wave = np.cos(np.pi * (2 * np.arange(64) + 1) * 3 / 128)  # only the third frequency along x
    image = Image.fromarray((128 + 100 * wave)[None].repeat(64, 0).astype(np.uint8))
    entire = np.unpackbits(views(fingerprint(image))[0]).reshape(16, 16)
    assert entire[0, 3] == entire[0, 0] == 1


@pytest.mark.parametrize("colour", ["grey", "white"])
def test_a_photo_without_contrast_has_no_fingerprint(colour):
    assert [fingerprint(Image.new("RGB", size, colour)) for size in ((64, 64), (16, 300), (300, 16))] == [None] * 3


def test_pairs_name_both_photos_and_how_far_apart_they_are():
    prints = random_prints(5)
    prints[3, 1] = flipped(prints[1, 1], 9, np.random.default_rng(1))
    manifest = table(prints, brand=["Audi", "BMW", "Audi", "Audi", None])
    manifest.loc[4, "sha256"] = manifest.sha256[0]
    found = duplicates(manifest)
    assert found.astype(object).where(found.notna(), None).to_numpy().tolist() == [
        [manifest.path[1], manifest.path[3], "BMW", "Audi", "near", 9],  # two brands: comes first
        [manifest.path[0], manifest.path[4], "Audi", None, "exact", 0],
    ]
    assert contradicts(found).tolist() == [True, False]


@pytest.mark.parametrize(("bits", "share"), [(8, 1.0), (16, 1.0), (24, 0.99), (32, 0.95)])
def test_nearly_all_planted_pairs_are_found_and_nothing_else(bits, share):
    n, planted = 4_000, 400
    prints, rng = random_prints(n), np.random.default_rng(2)
    assert duplicates(table(prints[:50])).empty
    pairs = np.sort(rng.permutation(n)[: 2 * planted].reshape(-1, 2))
    for number, (a, b) in enumerate(pairs):
        prints[b, number % VIEWS] = flipped(prints[a, number % VIEWS], bits, rng)
    found = duplicates(table(prints))
    names = {(f"/photos/Audi_{a:05}.jpg", f"/photos/Audi_{b:05}.jpg") for a, b in pairs}
    assert set(zip(found.path, found.other_path, strict=True)) <= names
    assert len(found) >= share * planted
    assert set(found.bits) == {bits}


def test_many_photos_of_one_picture_are_connected_without_comparing_all():
    n = 20_000
    prints = random_prints(1).repeat(n, 0)
    manifest = table(prints, sha256="the same")
    assert len(duplicates(manifest)) == n - 1
    rng = np.random.default_rng(3)
    for column in range(5):
        prints[np.arange(n), :, rng.integers(0, 32, n)] ^= np.uint8(1 << column)
    manifest = table(prints)
    assert len(duplicates(manifest)) == n - 1
    assert merge_duplicates(manifest).vehicle.nunique() == 1


def test_vehicles_that_share_a_picture_become_one():
    prints = random_prints(6)
    prints[2] = prints[0]
    prints[5, 2] = prints[3, 2]
    manifest = table(prints, vehicle=["a", "a", "b", "b", "c", "d"])
    found, paths = merge_duplicates(manifest), manifest.path
    assert found.vehicle.tolist() == ["a", "a", "a", "a", "c", "a"]
    assert found.cluster.fillna("").tolist() == [paths[0], "", paths[0], paths[3], "", paths[3]]
    assert found.suspect.isna().all()
    assert found.problem.isna().all()


def test_copies_with_two_brands_are_set_aside_and_near_duplicates_are_suspects():
    prints = random_prints(10)
    prints[1, 0] = prints[0, 0]
    prints[3] = prints[2]
    prints[6, 1] = prints[5, 1]
    prints[8:] = prints[7]
    manifest = table(
        prints,
        brand=["Audi", "BMW", "Kia", "Seat", "Kia", "Kia", None, "Audi", "BMW", "Audi"],
        sha256=["a", "b", "c", "c", "d", "e", "f", "g", "g", "smaller copy of g"],
    )
    found = merge_duplicates(manifest)
    kia, audi = ("contradiction: the same photo is named " + names for names in ("Kia and Seat", "Audi and BMW"))
    assert found.problem.tolist() == [None, None, kia, kia, None, None, None, audi, audi, None]
    suspect = "near-duplicates are named Audi and BMW"
    assert found.suspect.fillna("").tolist() == [suspect, suspect, *[""] * 7, suspect]
    assert found.vehicle[0] == found.vehicle[1]
    assert found.cluster[5] == found.cluster[6] == manifest.path[5]


def test_photos_without_a_fingerprint_and_broken_files_have_no_duplicates():
    assert duplicates(table([None, None])).empty and duplicates(table([])).empty
    manifest = table(random_prints(1).repeat(3, 0), width=[0, 0, 100], sha256="x", problem=["truncated"] * 2 + [None])
    found = merge_duplicates(manifest)
    assert found.cluster.isna().all()
    assert found.problem.equals(manifest.problem)
