"""The same picture is found again in another size, quality or crop, and another picture is not."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from carclf import fingerprints as module
from carclf.fingerprints import COUNT, NEAR, VIEWS, duplicates, fingerprint, merge_duplicates


def picture(seed: int, width: int = 320, height: int = 200) -> Image.Image:
    """Coloured clouds, as unlike each other as photos are."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (10, 16, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def cropped(image: Image.Image, left=0.0, top=0.0, right=0.0, bottom=0.0) -> Image.Image:
    w, h = image.size
    return image.crop((int(left * w), int(top * h), int((1 - right) * w), int((1 - bottom) * h)))


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
    "sides cropped": lambda i: cropped(i, left=0.15, right=0.15),
    "cropped above and below": lambda i: cropped(i, top=0.08, bottom=0.08),
    "with a mark": lambda i: (i.paste("white", (280, 180, 310, 190)), i)[1],
}


def bits_apart(one: str, other: str) -> int:
    """Bits in which the nearest views of two fingerprints differ."""
    a, b = (np.frombuffer(bytes.fromhex(text), np.uint8).reshape(VIEWS, 32) for text in (one, other))
    return int(COUNT[a ^ b].sum(1).min())


def table(prints: list[str | None], **columns) -> pd.DataFrame:
    """A manifest of photos with these fingerprints, each an Audi of its own unless a column says otherwise."""
    paths = [f"/photos/Audi_{i:05}.jpg" for i in range(len(prints))]
    usual = {"path": paths, "brand": "Audi", "vehicle": paths, "sha256": paths, "fingerprint": prints, "problem": None}
    return pd.DataFrame({**usual, "width": 100, **columns}).astype({"fingerprint": object, "problem": object})


def random_prints(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, VIEWS, 32), dtype=np.uint8)


def flipped(view: np.ndarray, bits: int, rng) -> np.ndarray:
    """A view's 32 bytes with so many random bits changed."""
    ones = np.unpackbits(view)
    ones[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(ones)


def text(prints: np.ndarray) -> list[str]:
    return [one.tobytes().hex() for one in prints]


# --- fingerprints


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_near(change):
    for seed in range(10):
        original = picture(seed)
        assert bits_apart(fingerprint(original), fingerprint(COPIES[change](original.copy()))) <= NEAR


def test_other_pictures_are_far():
    prints = [fingerprint(picture(seed)) for seed in range(40)]
    nearest = min(bits_apart(a, b) for i, a in enumerate(prints) for b in prints[:i])
    assert nearest > 2 * NEAR


def test_a_fingerprint_is_four_views_of_256_bits_half_of_them_set():
    found = fingerprint(picture(0))
    views = np.frombuffer(bytes.fromhex(found), np.uint8).reshape(VIEWS, 32)
    assert len(found) == 256
    assert COUNT[views].sum(1).tolist() == [128] * VIEWS
    assert fingerprint(picture(0)) == found


def test_the_median_is_that_of_the_lowest_frequencies():
    wave = np.cos(np.pi * (2 * np.arange(64) + 1) * 3 / 128)  # the third frequency along x alone
    image = Image.fromarray((128 + 100 * wave)[None].repeat(64, 0).astype(np.uint8))
    whole = np.unpackbits(np.frombuffer(bytes.fromhex(fingerprint(image)), np.uint8)[:32]).reshape(16, 16)
    assert whole[0, 3] == whole[0, 0] == 1


@pytest.mark.parametrize("size", [(64, 64), (16, 300), (300, 16)])
def test_a_photo_without_contrast_has_none(size):
    assert fingerprint(Image.new("RGB", size, "grey")) is None
    assert fingerprint(Image.new("RGB", size, "white")) is None


# --- pairs


def test_pairs_name_both_photos_and_how_far_apart_they_are():
    prints = random_prints(5)
    rng = np.random.default_rng(1)
    prints[3, 1] = flipped(prints[1, 1], 9, rng)
    manifest = table(text(prints), brand=["Audi", "BMW", "Audi", "Audi", None])
    manifest.loc[4, "sha256"] = manifest.sha256[0]
    found = duplicates(manifest)
    rows = found.astype(object).where(found.notna(), None).to_numpy().tolist()
    assert rows == [
        [manifest.path[1], manifest.path[3], "BMW", "Audi", "near", 9],  # two brands: first of all
        [manifest.path[0], manifest.path[4], "Audi", None, "exact", 0],
    ]
    assert module.contradicts(found).tolist() == [True, False]


def test_nothing_is_a_duplicate_of_itself_and_empty_tables_have_none():
    assert duplicates(table(text(random_prints(50)))).empty
    assert duplicates(table([None, None])).empty
    assert duplicates(table([])).empty


@pytest.mark.parametrize(("bits", "share"), [(8, 1.0), (16, 1.0), (24, 0.99), (32, 0.95)])
def test_of_planted_pairs_nearly_all_are_found_and_nothing_else(bits, share):
    n, planted = 4_000, 400
    prints, rng = random_prints(n), np.random.default_rng(2)
    pairs = rng.permutation(n)[: 2 * planted].reshape(-1, 2)
    for number, (a, b) in enumerate(pairs):
        prints[b, number % VIEWS] = flipped(prints[a, number % VIEWS], bits, rng)
    found = duplicates(table(text(prints)))
    names = {(f"/photos/Audi_{min(p):05}.jpg", f"/photos/Audi_{max(p):05}.jpg") for p in pairs}
    assert set(zip(found.path, found.other_path, strict=True)) <= names
    assert len(found) >= share * planted
    assert set(found.bits) == {bits}


def test_many_of_one_picture_are_connected_without_comparing_all():
    n = 20_000
    prints = random_prints(1).repeat(n, 0)
    rng = np.random.default_rng(3)
    for column in range(5):
        prints[np.arange(n), :, rng.integers(0, 32, n)] ^= np.uint8(1 << column)
    found = duplicates(table(text(prints)))
    assert len(found) == n - 1
    assert merge_duplicates(table(text(prints))).vehicle.nunique() == 1
    copies = table(text(prints[:1].repeat(n, 0)), sha256="the same")
    assert len(duplicates(copies)) == n - 1


# --- what a scan makes of them


def test_vehicles_that_share_a_picture_become_one():
    prints = random_prints(6)
    prints[2] = prints[0]
    prints[5, 2] = prints[3, 2]
    manifest = table(text(prints), vehicle=["a", "a", "b", "b", "c", "d"])
    found = merge_duplicates(manifest)
    assert found.vehicle.tolist() == ["a", "a", "a", "a", "c", "a"]
    paths = manifest.path
    assert found.cluster.fillna("").tolist() == [paths[0], "", paths[0], paths[3], "", paths[3]]
    assert found.suspect.isna().all()
    assert found.problem.isna().all()


def test_near_duplicates_under_two_brands_are_suspects_and_copies_are_set_aside():
    prints = random_prints(7)
    prints[1, 0] = prints[0, 0]
    prints[3] = prints[2]
    brands = ["Audi", "BMW", "Kia", "Seat", "Kia", "Kia", None]
    manifest = table(text(prints), brand=brands, sha256=["a", "b", "c", "c", "d", "e", "f"])
    prints[6, 1] = prints[5, 1]
    manifest["fingerprint"] = text(prints)
    found = merge_duplicates(manifest)
    contradiction = "contradiction: the same photo is named Kia and Seat"
    assert found.problem.tolist() == [None, None, contradiction, contradiction, None, None, None]
    assert found.suspect.fillna("").tolist() == ["near-duplicates are named Audi and BMW"] * 2 + [""] * 5
    assert found.vehicle[0] == found.vehicle[1]
    assert found.cluster[5] == found.cluster[6] == manifest.path[5]


def test_broken_files_are_nobodys_duplicates():
    prints = text(random_prints(1)) * 3
    manifest = table(prints, width=[0, 0, 100], sha256="x", problem=["truncated: half", "truncated: half", None])
    found = merge_duplicates(manifest)
    assert found.cluster.isna().all()
    assert found.problem.tolist() == manifest.problem.tolist()


def test_a_third_copy_of_a_disputed_picture_is_a_suspect():
    prints = random_prints(1).repeat(3, 0)
    manifest = table(text(prints), brand=["Audi", "BMW", "Audi"], sha256=["same", "same", "smaller"])
    found = merge_duplicates(manifest)
    assert found.problem.notna().tolist() == [True, True, False]
    assert found.suspect.fillna("").tolist() == ["", "", "near-duplicates are named Audi and BMW"]
