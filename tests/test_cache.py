"""A cached photo is the decoded photo, and a cache that was interrupted, changed or damaged is never trusted."""

import errno
import io
import os
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL
import pytest
import torch
from numpy.lib import format as npy
from PIL import Image

from carclf.data import cache as module
from carclf.data.cache import HEADER_BYTES, TensorCache, to_square
from carclf.data.manifest import scan

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

    monkeypatch.setattr(module, "to_square", counting)
    return names


@pytest.fixture
def small_steps(monkeypatch):
    """Several commits a build."""
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "COMMIT_SECONDS", -1)


def build(folder: Path, size: int = SIZE, manifest: pd.DataFrame | None = None) -> TensorCache:
    return TensorCache.build(scan(folder) if manifest is None else manifest, folder.parent / "cache", size)


def assert_right(cache: TensorCache, missing: int = 0) -> None:
    """Every photo of the cache is the one that its file holds now, and no others are missing."""
    rows = np.flatnonzero(cache.slots >= 0)
    assert len(rows) == len(cache) - missing
    for photo, path in zip(cache.batch(rows).numpy(), np.array(cache.paths, object)[rows], strict=True):
        np.testing.assert_array_equal(photo, to_square(path, cache.size))


def interrupt(*args, **options):
    raise KeyboardInterrupt


# --- its content


def test_batch_is_the_decoded_photos(folder):
    cache = build(folder)
    assert len(cache) == 10
    rows = [3, 1, 4, 1, 9]
    reference = []
    for row in rows:
        with Image.open(folder / f"Audi_A4_{row}.png") as image:
            reference.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1))
    for _ in range(2):
        batch = cache.batch(rows)
        assert batch.dtype == torch.uint8
        np.testing.assert_array_equal(batch.numpy(), np.stack(reference))
        batch.zero_()  # a batch is a copy
    assert cache.batch(np.array([], int)).shape == (0, 3, SIZE, SIZE)


def test_missing_rows_and_other_things_than_row_numbers_are_refused(folder):
    cache = build(folder)
    for row in (10, -1, -11, 2**40):
        with pytest.raises(KeyError, match=f"row {row} is not in the cache: the manifest has 10 rows, counted from 0"):
            cache.batch([3, row])
    for rows in ([True] + 9 * [False], [1.0], ["1"]):
        with pytest.raises(TypeError, match=r"a batch takes row numbers, not .*; np\.flatnonzero\(mask\)"):
            cache.batch(rows)


def test_numpy_and_a_table_reader_open_the_files_alone(folder):
    cache = build(folder)
    photos = np.load(cache.folder / "photos.npy", allow_pickle=False)
    index = pd.read_csv(cache.folder / "index.csv")
    assert (photos.shape, photos.dtype) == ((10, 3, SIZE, SIZE), np.uint8)
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
    assert (photo.shape, photo.dtype, photo.flags.c_contiguous) == ((3, 20, 20), np.uint8, True)
    first, last = (photo[:, 0], photo[:, -1]) if exif == 6 else (photo[:, :, 0], photo[:, :, -1])
    np.testing.assert_allclose(first, np.repeat([[0], [0], [255]], 20, 1), atol=4)
    np.testing.assert_allclose(last, np.repeat([[255], [0], [0]], 20, 1), atol=4)


# --- what is decoded again, and what is not


def test_only_new_and_changed_photos_are_decoded(folder, decoded):
    build(folder)
    assert len(decoded) == 10
    for name in ("Audi_A3_1.png", "BMW_X5_1.png", "Volvo_V70_1.png"):  # before, between and after the others
        draw(folder / name)
    draw(folder / "Audi_A4_3.png", seed=100)
    image = folder / "Audi_A4_5.png"
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 10**9))  # the same number of bytes, written later
    assert_right(build(folder))
    assert decoded[10:] == [f"{n}.png" for n in ("Audi_A3_1", "Audi_A4_3", "Audi_A4_5", "BMW_X5_1", "Volvo_V70_1")]
    build(folder)
    part = build(folder, manifest=scan(folder).iloc[[7, 2]])
    assert_right(part)
    assert (len(decoded), len(part)) == (15, 2)


def test_other_settings_are_another_cache(folder, monkeypatch):
    build(folder)
    assert build(folder, 24).batch([0]).shape[-1] == 24
    monkeypatch.setattr(PIL, "__version__", "0.0")
    build(folder)
    monkeypatch.setattr(module, "SCHEMA", 99)
    build(folder)
    assert len(list((folder.parent / "cache").iterdir())) == 4


# --- interruptions


def test_interrupted_build_resumes_where_it_stopped(folder, decoded, small_steps, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "to_square", lambda p, s: interrupt() if "_6" in p else to_square(p, s))
        with pytest.raises(KeyboardInterrupt):
            build(folder)
    assert_right(build(folder))
    assert sorted(decoded) == [f"Audi_A4_{i}.png" for i in range(4, 10)]  # in two threads, so in any order


FILES = {
    "short array": lambda array, index: os.truncate(array, array.stat().st_size - 1),
    "no array": lambda array, index: array.unlink(),
    "no index": lambda array, index: index.unlink(),
}
ARRAYS = {
    "empty array": lambda photos: photos[:0],
    "array of another size": lambda photos: photos[:, :, 1:, 1:],
    "array of another order": np.asfortranarray,
    "array of fewer photos": lambda photos: photos[:9],
    "array of text": lambda photos: photos.astype("U1"),
}
INDICES = {  # all lines, and the last one without its slot
    "empty index": lambda lines, last: [],
    "torn index": lambda lines, last: [*lines[:-1], last[:-3], b'x"'],
    "index torn in a number": lambda lines, last: [*lines[:2], lines[2][:-1]],
    "index of zeros": lambda lines, last: [bytes(len(b"".join(lines)))],
    "foreign index": lambda lines, last: [b"path,row\n/a.jpg,1\n"],
    "index beyond the array": lambda lines, last: [*lines[:-1], last, b",10\n"],
    "index below the array": lambda lines, last: [*lines[:-1], last, b",-1\n"],
    "index beyond all numbers": lambda lines, last: [*lines[:-1], last, b"," + b"9" * 30 + b"\n"],
    "one place for two photos": lambda lines, last: [*lines[:-1], last, b",8\n"],
    "two places for one photo": lambda lines, last: [*lines[:-1], lines[-2][:-2], b"9\n"],
}


def harm(place: Path, damage: str) -> None:
    array, index = place / "photos.npy", place / "index.csv"
    if damage in FILES:
        FILES[damage](array, index)
    elif damage in ARRAYS:
        np.save(array, ARRAYS[damage](np.load(array)))
    else:
        lines = index.read_bytes().splitlines(keepends=True)
        index.write_bytes(b"".join(INDICES[damage](lines, lines[-1].rpartition(b",")[0])))


@pytest.mark.parametrize("damage", [*FILES, *ARRAYS, *INDICES])
@pytest.mark.parametrize("killed", [False, True])
def test_damaged_cache_is_built_again_and_not_mixed_with_a_killed_build(folder, decoded, monkeypatch, damage, killed):
    """What is written over a damaged array must not be taken for what the old index says."""
    harm(build(folder).folder, damage)
    if killed:
        draw(folder / "Audi_A3_1.png")  # comes first, so that all others get another place
        with monkeypatch.context() as patch:
            patch.setattr("carclf.data.cache.pd.DataFrame.to_csv", interrupt)
            with pytest.raises(KeyboardInterrupt):
                build(folder)
        (folder / "Audi_A3_1.png").unlink()
    assert_right(build(folder))
    assert killed or len(decoded) == 20


NOT_WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="it refuses such names, and to replace an open file")


@pytest.mark.parametrize("torn", [False, pytest.param(True, marks=NOT_WINDOWS)])
@pytest.mark.parametrize("turns", [1, pytest.param(3, marks=NOT_WINDOWS)])  # the third has more dead than alive
def test_open_cache_stays_right_while_another_build_grows_it_or_starts_over(folder, torn, turns):
    cache = build(folder)
    before = cache.batch(range(10))
    if torn:
        harm(cache.folder, "torn index")
    for turn in range(turns):
        for i in range(10):
            draw(folder / f"Audi_A4_{i}.png", seed=100 * turn + 100 + i)
        draw(folder / "Audi_A3_1.png")
        assert_right(build(folder))
    assert torch.equal(cache.batch(range(10)), before)


@pytest.mark.parametrize("change", ["redrawn", "renamed"])
def test_photos_that_change_again_and_again_do_not_fill_the_disk(folder, change):
    for turn in range(8):
        for i in range(5):
            if change == "redrawn":
                draw(folder / f"Audi_A4_{i}.png", seed=100 * turn + i)
            else:
                next(folder.glob(f"Audi_A4_{i}*")).rename(folder / f"Audi_A4_{i}-{turn}.png")
        cache = build(folder)
        assert len(cache.photos) <= 25  # twice the photos that there are, and those of the last turn
        assert_right(cache)
        del cache  # Windows keeps an array that somebody reads


def test_a_power_failure_leaves_a_cache_that_is_right(folder, decoded, small_steps, monkeypatch):
    """Whenever it strikes, and though the disk then has of each file only what it was last made to write."""
    draw(folder / "Audi_A3_1.png")
    manifest = scan(folder)
    cache, disk = folder.parent / "cache", folder.parent / "disk"
    disk.mkdir()
    after = []  # copies of the disk after each change

    def remember():
        (place,) = cache.iterdir()
        after.append(folder.parent / f"after-{len(after)}")
        shutil.copytree(disk, after[-1] / place.name)

    def fsync(number):
        for file in cache.glob("*/*"):
            if os.path.samestat(file.stat(), os.fstat(number)):
                shutil.copy(file, disk)
        remember()

    def replace(source, target):
        os.replace(source, target)  # noqa: PTH105
        # Without an fsync of the new file, the disk may have its name but none of its content.
        (disk / target.name).write_bytes(b"")
        if (disk / source.name).exists():
            os.replace(disk / source.name, disk / target.name)  # noqa: PTH105
        remember()

    with monkeypatch.context() as patch:
        patch.setattr("carclf.data.cache.os.fsync", fsync)
        patch.setattr(Path, "replace", replace)
        TensorCache.build(manifest, cache, SIZE)
    counts = []
    for state in after:
        del decoded[:]
        assert_right(TensorCache.build(manifest, state, SIZE))
        counts.append(len(decoded))
    assert sorted(counts, reverse=True) == counts  # what was committed is not lost again
    assert {11, 7, 3, 0} == {*counts}


# --- bad photos


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("content", "problem"), [(None, "unreadable: there is"), (b"<html>", "not an image")])
def test_photo_that_went_bad_is_set_aside_until_it_comes_back(folder, cached, content, problem):
    if cached:
        build(folder)
    manifest, bad = scan(folder), folder / "Audi_A4_4.png"
    data = bad.read_bytes()
    bad.unlink()
    if content:
        bad.write_bytes(content)
    cache = build(folder, manifest=manifest)
    assert cache.problems.path.tolist() == [str(bad)]
    assert cache.problems.problem[0].startswith(problem)
    assert np.flatnonzero(cache.slots < 0).tolist() == [4]
    with pytest.raises(KeyError, match=rf"A4_4\.png is not in the cache: it failed to decode: {problem}.*; take rows"):
        cache.batch([3, 4])
    assert_right(cache, missing=1)
    bad.write_bytes(data)
    cache = build(folder, manifest=manifest)
    assert cache.problems.empty
    assert_right(cache)


def test_rows_with_a_problem_are_skipped(folder, decoded):
    (folder / "Audi_A4_4.png").write_bytes(b"<html>")
    cache = build(folder)
    assert "Audi_A4_4.png" not in decoded
    assert cache.problems.empty
    assert cache.slots[4] == -1
    with pytest.raises(KeyError, match=r"Audi_A4_4\.png is not in the cache: it was set aside: not an image: begins"):
        cache.batch([4])
    # Its pixels may be there from an earlier build, but this manifest rules it out.
    draw(folder / "Audi_A4_4.png")
    build(folder)
    manifest = scan(folder)
    manifest.loc[4, "problem"] = "contradiction: the same photo is named Audi and BMW"
    assert build(folder, manifest=manifest).slots[4] == -1


def test_nothing_but_bad_photos_is_an_empty_cache(folder):
    manifest = scan(folder)
    assert len(TensorCache.build(manifest.assign(problem="x"), folder.parent / "other", SIZE).problems) == 0
    shutil.rmtree(folder)
    for _ in range(2):  # the second finds the files of the first
        cache = build(folder, manifest=manifest)
        assert len(cache.problems) == 10
        assert (cache.slots == -1).all()
        assert cache.batch([]).shape == (0, 3, SIZE, SIZE)


@NOT_WINDOWS
def test_strange_names_survive_the_index(folder, decoded):
    for name in ('a, "b"', "new\nline", "Citroën 🚗", "NA", "=1+1", "x" * 251, "'", " "):
        draw(folder / f"{name}.png")
    build(folder)
    cache = build(folder)
    assert len(decoded) == 18
    assert_right(cache)


# --- a full disk


def test_full_disk_is_an_error_before_anything_is_written(folder, decoded, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(OSError, match=r"needs .* GB, only 0\.00 GB are free; choose .* or a smaller size") as caught:
        build(folder)
    assert caught.value.errno == errno.ENOSPC
    assert not decoded
    assert not list(folder.parent.glob("cache/*/photos.npy"))


def test_build_prints_how_much_there_is_to_decode(folder, capsys):
    build(folder, 512)
    line = capsys.readouterr().out
    free = re.fullmatch(r"cache: 10 photos to decode, 7\.9 MB, ([\d,]+\.\d) GB free\n", line)[1]
    assert float(free.replace(",", "")) == pytest.approx(shutil.disk_usage(folder).free / 1e9, rel=0.2)
    build(folder, 512)
    assert capsys.readouterr().out == ""
    draw(folder / "Audi_A3_1.png")
    build(folder, 512)
    assert capsys.readouterr().out.startswith("cache: 1 photo to decode, 0.8 MB, ")


@pytest.mark.parametrize("already", [0, 10])
@pytest.mark.parametrize("file", ["photos.npy", "index.tmp"])
def test_disk_that_fills_up_is_an_error_and_the_next_build_is_right(folder, monkeypatch, file, already):
    if already:
        build(folder)
    for i in range(3, 7):
        draw(folder / f"Audi_A4_{i}.png", seed=100 + i)

    def opened(path, *args, **options):
        return full(path, *args, **options) if Path(path).name == file else open(path, *args, **options)  # noqa: PTH123

    with monkeypatch.context() as patch:
        patch.setattr(module, "open", opened, raising=False)
        with pytest.raises(OSError, match=r"cache.* cannot be written: No space left on .*; choose another") as caught:
            build(folder)
    assert caught.value.errno == errno.ENOSPC
    assert_right(build(folder))


@contextmanager
def full(path, *args, **options):
    """A file on a disk with room for three and a half photos, or for half of an index."""
    room = [3.5 * 3 * SIZE**2 if "b" in args[0] else 200]
    with open(path, *args, **options) as file:  # noqa: PTH123

        def write(data):
            data = data if isinstance(data, str) else bytes(data)
            file.write(data[: int(room[0])])
            room[0] -= len(data)
            if room[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        yield SimpleNamespace(write=write, seek=file.seek, tell=file.tell, flush=file.flush, fileno=file.fileno)


def test_cache_folder_that_is_a_file_is_an_error_with_the_remedy(folder):
    (folder.parent / "cache").touch()
    with pytest.raises(OSError, match=r"cache.* cannot be written: .*; choose another folder"):
        build(folder)


# --- comparing with the files


def test_verify_names_each_photo_that_differs_and_how(folder):
    cache = build(folder)
    photos = np.load(cache.folder / "photos.npy", mmap_mode="r+")
    photos[2, 0, 0, :2] ^= np.array([128, 1], np.uint8)
    photos.flush()
    exchanged = folder / "Audi_A4_5.png"
    with Image.open(exchanged) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(exchanged)
    (folder / "Audi_A4_6.png").write_bytes(b"<html>")
    (folder / "Audi_A4_7.png").unlink()
    found = cache.verify(sample=None).set_index("path").problem.rename(lambda p: Path(p).name)
    assert found.index.tolist() == [f"Audi_A4_{i}.png" for i in (2, 5, 6, 7)]
    assert found["Audi_A4_2.png"] == "2 of 768 values differ, by 128 at most"
    assert re.fullmatch(r"\d\d\d of 768 values differ, by \d+ at most", found["Audi_A4_5.png"])
    assert found["Audi_A4_6.png"].startswith("not an image")
    assert found["Audi_A4_7.png"] == "unreadable: there is no such file"
    place = cache.folder
    del cache, photos  # Windows keeps an array that somebody reads
    shutil.rmtree(place)
    assert build(folder).verify(sample=None).empty


def test_verify_finds_a_changed_file_that_its_times_do_not_show(folder, monkeypatch):
    for i in (1, 2):
        draw(folder / f"Audi_A4_{i}.bmp", seed=i)
    build(folder)
    first, second = folder / "Audi_A4_1.bmp", folder / "Audi_A4_2.bmp"
    time = first.stat().st_mtime_ns
    shutil.copy(second, first)
    os.utime(first, ns=(time, time))
    assert build(folder).verify().empty
    monkeypatch.setattr(module, "file_state", lambda path: (1, 1))  # a disk without times
    build(folder)
    draw(first, seed=3)
    assert build(folder).verify().path.tolist() == [str(first)]


def test_verify_draws_its_sample_by_its_seed(folder, decoded):
    cache = build(folder)
    del decoded[:]
    assert cache.verify().columns.tolist() == ["path", "problem"]
    assert len(decoded) == 10
    samples = []
    for seed in (0, 0, 1, 2, 3):
        del decoded[:]
        assert cache.verify(sample=4, seed=seed).empty
        samples.append(sorted(decoded))
    assert all(len({*sample}) == 4 for sample in samples)
    assert samples[0] == samples[1]
    assert len({tuple(sample) for sample in samples}) > 1
