"""A file is decoded once, and again only after it has changed; what is remembered never changes what is found."""

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image

from carclf.data import manifest as module
from carclf.data.duplicates import fingerprint
from carclf.data.manifest import FOLDER, inspect, scan


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """A separate memory for each test."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "memory"))
    return tmp_path / "memory"


@pytest.fixture
def folder(tmp_path):
    """Ten photos and a file that is not one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(10):
        draw(folder / f"Audi_A4_{seed}.png", seed)
    (folder / "Audi_A4_x.jpg").write_text("no photo")
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """A list with an item for each file decoded so far."""
    calls, probe = [], module.probe

    def counting(*arguments):
        calls.append(1)
        return probe(*arguments)

    monkeypatch.setattr(module, "probe", counting)
    return calls


def draw(path, seed, size=(90, 70)):
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


def test_facts_are_those_of_each_file(folder):
    paths = sorted(str(path) for path in [*folder.iterdir(), folder / "gone.jpg"])
    facts = inspect(paths)
    assert facts.index.tolist() == paths
    assert facts.bytes.tolist() == [*(os.stat(path).st_size for path in paths[:11]), 0]  # noqa: PTH116
    assert facts.width.tolist() == [90] * 10 + [0, 0]
    assert facts.height.tolist() == [70] * 10 + [0, 0]
    assert facts.fingerprint.tolist()[:10] == [fingerprint(Image.open(path)) for path in paths[:10]]
    assert facts.sha256.nunique() == 11
    assert facts.problem.isna().tolist() == [True] * 10 + [False, False]
    assert facts.problem.iloc[10].startswith("not an image")
    assert facts.problem.iloc[11] == "unreadable: there is no such file"


def test_a_file_is_decoded_again_only_after_its_size_or_time_has_changed(folder, decoded):
    first = scan(folder)
    assert len(decoded) == 11
    decoded.clear()
    assert scan(folder).equals(first)
    assert len(decoded) == 1  # another decoder may be able to read the file that is not a photo
    draw(folder / "Audi_A4_3.png", 77, (91, 70))
    draw(folder / "Audi_A4_new.png", 78)
    before = (folder / "Audi_A4_2.png").stat()
    os.utime(folder / "Audi_A4_2.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    decoded.clear()
    again = scan(folder)
    assert len(decoded) == 4
    assert again.width[again.path == str(folder / "Audi_A4_3.png")].tolist() == [91]
    assert len(again) == 12


def test_a_deleted_file_is_not_remembered(folder):
    scan(folder)
    (folder / "Audi_A4_1.png").unlink()
    assert len(scan(folder)) == 10
    assert inspect([str(folder / "Audi_A4_1.png")]).problem.tolist() == ["unreadable: there is no such file"]


def test_an_interrupted_scan_remembers_what_it_read(folder, decoded, monkeypatch):
    counting = module.probe

    def stop(*arguments):
        if len(decoded) == 9:
            raise KeyboardInterrupt
        return counting(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "CHUNK", 4)
        patch.setattr(module, "probe", stop)
        scan(folder)
    decoded.clear()
    assert len(scan(folder)) == 11
    assert len(decoded) == 3


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + bytes(500), "no folder", "full disk"])
def test_a_scan_does_without_a_memory_that_cannot_be_used(folder, memory, damage, monkeypatch):
    class Full(sqlite3.Connection):
        def executemany(self, *arguments):
            raise sqlite3.OperationalError("database or disk is full")

    expected = scan(folder)
    (file,) = memory.glob("*.sqlite")
    if damage == "no folder":
        memory.rename(memory.with_name("away"))
        memory.touch()
    elif damage == "full disk":
        file.unlink()
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Full))
    else:
        file.write_bytes(damage)
    message = r"scans are not remembered, because .*sqlite cannot be used .*; delete it, or set"
    with pytest.warns(UserWarning, match=message) as caught:
        assert scan(folder).equals(expected)
    assert [warning.filename for warning in caught] == [__file__]
    assert damage != "full disk" or "database or disk is full" in str(caught[0].message)


def test_simultaneous_scans_find_the_same(folder):
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: scan(folder), range(4)))
    assert all(table.equals(tables[0]) for table in tables)
    code = f"import carclf; print(len(carclf.scan({str(folder)!r})))"
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [child.communicate(timeout=60)[0].strip() for child in children] == ["11", "11"]


def test_folders_do_not_disturb_each_other(tmp_path, folder, decoded):
    other = tmp_path / "photos2"
    other.mkdir()
    draw(other / "BMW_X5_1.png", 99)
    for _ in range(2):
        assert len(scan(folder)) == 11
        assert len(scan(other)) == 1
    assert len(decoded) == 11 + 1 + 1  # the file that is not a photo is decoded again
