"""A cached photo is the decoded photo, and what was interrupted, changed or broken is never read as whole."""

import errno
import io
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL
import pytest
import torch
from numpy.lib import format as npy
from PIL import Image

import carclf.cache
from carclf.cache import HEADER_BYTES, TensorCache, to_square
from carclf.manifest import scan

SIZE = 16


def draw(path: Path, seed: int | None = None) -> None:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten photos."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(10):
        draw(photos / f"Audi_A4_{i}.png", seed=i)
    return photos


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the photos decoded so far, in order."""
    names = []

    def counting(path, size):
        names.append(Path(path).name)
        return to_square(path, size)

    monkeypatch.setattr(carclf.cache, "to_square", counting)
    return names


def build(folder: Path, size: int = SIZE) -> TensorCache:
    return TensorCache.build(scan(folder), folder.parent / "cache", size)


def place_of(folder: Path) -> Path:
    (place,) = (folder.parent / "cache").iterdir()
    return place


def assert_right(cache: TensorCache) -> None:
    """Every photo of the cache is the one that its file holds now."""
    rows = np.flatnonzero(cache.slots >= 0)
    for photo, path in zip(cache.batch(rows).numpy(), np.array(cache.paths, object)[rows], strict=True):
        np.testing.assert_array_equal(photo, to_square(path, cache.size))


def interrupt(*args, **options):
    raise KeyboardInterrupt


# --- what is in it


def test_batch_is_the_decoded_photos(folder):
    cache = build(folder)
    assert len(cache) == 10
    rows = [3, 1, 4, 1, 9]
    batch = cache.batch(rows)
    assert batch.dtype == torch.uint8
    assert batch.shape == (5, 3, SIZE, SIZE)
    for photo, row in zip(batch.numpy(), rows, strict=True):
        with Image.open(folder / f"Audi_A4_{row}.png") as image:
            reference = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(photo.transpose(1, 2, 0), np.asarray(reference))
    assert cache.batch(np.array([], int)).shape == (0, 3, SIZE, SIZE)


def test_batch_is_a_copy(folder):
    cache = build(folder)
    before = cache.batch([0]).clone()
    cache.batch([0]).zero_()
    assert torch.equal(cache.batch([0]), before)


def test_numpy_and_a_table_reader_open_the_files_alone(folder):
    cache = build(folder)
    photos = np.load(place_of(folder) / "photos.npy", allow_pickle=False)
    index = pd.read_csv(place_of(folder) / "index.csv")
    assert photos.shape == (10, 3, SIZE, SIZE)
    assert photos.dtype == np.uint8
    assert index.path.tolist() == cache.paths
    np.testing.assert_array_equal(photos[index.slot], cache.batch(range(10)))


def test_header_has_room_to_grow():
    for n in (0, 1, 10**5, 10**9):
        file = io.BytesIO()
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, 3, 1024, 1024)})
        assert file.tell() == HEADER_BYTES


@pytest.mark.parametrize("exif", [1, 6])
def test_to_square_squishes_the_upright_photo(exif):
    tags = Image.Exif()
    tags[0x0112] = exif
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (0, 0, 200, 200))
    file = io.BytesIO()
    image.save(file, "JPEG", exif=tags, quality=95)
    photo = to_square(file.getvalue(), 20)
    assert photo.shape == (3, 20, 20)
    assert photo.dtype == np.uint8
    assert photo.flags.c_contiguous
    first, last = (photo[:, 0], photo[:, -1]) if exif == 6 else (photo[:, :, 0], photo[:, :, -1])
    np.testing.assert_allclose(first, np.repeat([[0], [0], [255]], 20, 1), atol=4)
    np.testing.assert_allclose(last, np.repeat([[255], [0], [0]], 20, 1), atol=4)


# --- what is decoded again, and what is not


def test_only_new_photos_are_decoded(folder, decoded):
    build(folder)
    assert len(decoded) == 10
    build(folder)
    assert len(decoded) == 10
    for name in ("Audi_A3_1.png", "BMW_X5_1.png", "Volvo_V70_1.png"):  # before, between and after the others
        draw(folder / name)
    cache = build(folder)
    assert decoded[10:] == ["Audi_A3_1.png", "BMW_X5_1.png", "Volvo_V70_1.png"]
    assert_right(cache)


def test_part_of_the_photos_reads_part_of_the_cache(folder, decoded):
    build(folder)
    manifest = scan(folder).iloc[[7, 2]]
    cache = TensorCache.build(manifest, folder.parent / "cache", SIZE)
    assert len(decoded) == 10
    assert len(cache) == 2
    assert_right(cache)


def test_changed_photo_is_decoded_again(folder, decoded):
    build(folder)
    draw(folder / "Audi_A4_3.png", seed=100)
    image = folder / "Audi_A4_5.png"
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 10**9))  # the same number of bytes, written later
    del decoded[:]
    assert_right(build(folder))
    assert decoded == ["Audi_A4_3.png", "Audi_A4_5.png"]
    build(folder)
    assert len(decoded) == 2


def test_open_cache_stays_right_while_another_grows_it(folder):
    cache = build(folder)
    before = cache.batch(range(10))
    draw(folder / "Audi_A4_0.png", seed=100)
    draw(folder / "BMW_X5_1.png")
    build(folder)
    assert torch.equal(cache.batch(range(10)), before)


def test_other_settings_are_another_cache(folder, monkeypatch):
    build(folder)
    assert build(folder, 24).batch([0]).shape[-1] == 24
    monkeypatch.setattr(PIL, "__version__", "0.0")
    build(folder)
    monkeypatch.setattr(carclf.cache, "SCHEMA", 99)
    build(folder)
    assert len(list((folder.parent / "cache").iterdir())) == 4


# --- interruptions


def test_interrupted_build_goes_on_where_it_stopped(folder, decoded, monkeypatch):
    monkeypatch.setattr(carclf.cache, "CHUNK", 4)
    monkeypatch.setattr(carclf.cache, "COMMIT_SECONDS", -1)
    with monkeypatch.context() as patch:
        patch.setattr(carclf.cache, "to_square", lambda p, s: interrupt() if "_6" in p else to_square(p, s))
        with pytest.raises(KeyboardInterrupt):
            build(folder)
    assert_right(build(folder))
    assert decoded == [f"Audi_A4_{i}.png" for i in range(4, 10)]


@pytest.mark.parametrize("broken", ["_commit", "npy.write_array_header_1_0", "os.fsync", "pd.DataFrame.to_csv"])
@pytest.mark.parametrize("already", [0, 10])
def test_pixels_without_their_index_do_not_exist(folder, monkeypatch, broken, already):
    """Killed at any step between the pixels and the index, in a new cache and in one that grows."""
    if already:
        build(folder)
        draw(folder / "Audi_A3_1.png")
        draw(folder / "Audi_A4_4.png", seed=100)
    manifest = scan(folder)
    with monkeypatch.context() as patch:
        patch.setattr(f"carclf.cache.{broken}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            TensorCache.build(manifest, folder.parent / "cache", SIZE)
    draw(folder / "Audi_A4_1.png", seed=101)  # what was written no longer fits
    cache = build(folder)
    assert (cache.slots >= 0).all()
    assert_right(cache)


@pytest.mark.parametrize(
    "damage", ["short array", "no array", "no index", "empty index", "torn index", "foreign index"]
)
def test_cache_that_does_not_fit_is_made_anew(folder, decoded, damage):
    build(folder)
    array, index = place_of(folder) / "photos.npy", place_of(folder) / "index.csv"
    if damage == "short array":
        array.write_bytes(array.read_bytes()[:-1])
    elif damage == "no array":
        array.unlink()
    elif damage == "no index":
        index.unlink()
    elif damage == "empty index":
        index.write_bytes(b"")
    elif damage == "torn index":
        index.write_bytes(index.read_bytes()[:-3] + b'x"')
    else:
        index.write_text("path,row\n/a.jpg,1\n", encoding="utf-8")
    assert_right(build(folder))
    assert len(decoded) == 20


def test_two_builders_at_once_agree(folder, decoded):
    manifest = scan(folder)
    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(TensorCache.build, manifest, folder.parent / "cache", SIZE) for _ in range(3)]
    for future in work:
        assert_right(future.result())
    assert len(decoded) == 10


# --- bad photos


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("harm", ["broken", "gone"])
def test_photo_that_went_bad_is_set_aside(folder, cached, harm):
    if cached:
        build(folder)
    manifest = scan(folder)
    bad = folder / "Audi_A4_4.png"
    if harm == "gone":
        bad.unlink()
    else:
        bad.write_bytes(b"<html>")
    cache = TensorCache.build(manifest, folder.parent / "cache", SIZE)
    assert cache.problems.path.tolist() == [str(bad)]
    assert cache.problems.problem[0].startswith({"gone": "unreadable: there is", "broken": "not an image"}[harm])
    assert np.flatnonzero(cache.slots < 0).tolist() == [4]
    with pytest.raises(KeyError, match=r"Audi_A4_4\.png is not in the cache: it was set aside; leave out rows with"):
        cache.batch([3, 4])
    assert_right(cache)


def test_photo_that_came_back_is_decoded(folder):
    data = (folder / "Audi_A4_4.png").read_bytes()
    manifest = scan(folder)
    (folder / "Audi_A4_4.png").unlink()
    TensorCache.build(manifest, folder.parent / "cache", SIZE)
    (folder / "Audi_A4_4.png").write_bytes(data)
    cache = TensorCache.build(manifest, folder.parent / "cache", SIZE)
    assert cache.problems.empty
    assert_right(cache)


def test_rows_with_a_problem_are_passed_over(folder, decoded):
    (folder / "Audi_A4_4.png").write_bytes(b"<html>")
    cache = build(folder)
    assert "Audi_A4_4.png" not in decoded
    assert cache.problems.empty
    assert cache.slots[4] == -1
    with pytest.raises(KeyError, match=r"Audi_A4_4\.png is not in the cache"):
        cache.batch([4])
    # Its pixels may be there from better days, but this manifest rules it out.
    draw(folder / "Audi_A4_4.png")
    build(folder)
    manifest = scan(folder)
    manifest.loc[4, "problem"] = "contradiction: the same photo is named Audi and BMW"
    assert TensorCache.build(manifest, folder.parent / "cache", SIZE).slots[4] == -1


def test_nothing_but_bad_photos_is_an_empty_cache(folder):
    manifest = scan(folder)
    assert len(TensorCache.build(manifest.assign(problem="x"), folder.parent / "other", SIZE).problems) == 0
    shutil.rmtree(folder)
    for _ in range(2):  # the second finds the files of the first
        cache = TensorCache.build(manifest, folder.parent / "cache", SIZE)
        assert len(cache.problems) == 10
        assert (cache.slots == -1).all()
        assert cache.batch([]).shape == (0, 3, SIZE, SIZE)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_strange_names_survive_the_index(folder, decoded):
    for name in ('a, "b"', "new\nline", "Citroën 🚗", "NA", "=1+1", "x" * 251, "'", " "):
        draw(folder / f"{name}.png")
    build(folder)
    cache = build(folder)
    assert len(decoded) == 18
    assert (cache.slots >= 0).all()
    assert_right(cache)


# --- no room


def test_full_disk_is_told_before_anything_is_written(folder, decoded, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(
        OSError, match=r"needs .* GB, and 0\.00 GB are free; choose another folder or a smaller size"
    ) as caught:
        build(folder)
    assert caught.value.errno == errno.ENOSPC
    assert not decoded
    assert not list(place_of(folder).glob("photos.npy"))


def test_cache_folder_that_is_a_file_says_what_to_do(folder):
    (folder.parent / "cache").touch()
    with pytest.raises(OSError, match=r"cache.* cannot be written: .*; choose another folder"):
        build(folder)
