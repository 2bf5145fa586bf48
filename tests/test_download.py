"""Whatever an archive says, only photos come out, below the folder, and nothing is overwritten."""

import contextlib
import copy
import gzip
import io
import os
import shutil
import stat
import sys
import tarfile
import tracemalloc
import types
import zipfile
from functools import partial
from pathlib import Path

import pytest

from carclf.data import download as module
from carclf.data.download import OUTSIDE, SETS, download, unpack
from carclf.data.photos import Limits

PHOTO = bytes(range(256)) * 8  # stands for a photo if nothing decodes it
NAME, ENDING, NOT_REGULAR = (
    "a file name that some systems cannot store",
    "not a photo's extension",
    "not a regular file",
)
NOT_INTACT = r"not an intact zip, tar or tar\.gz"


@pytest.fixture
def world(tmp_path):
    """A folder to unpack into; nothing around it may change."""
    (tmp_path / "world" / "images").mkdir(parents=True)
    (tmp_path / "world" / "x.jpg").write_bytes(b"not to be overwritten")
    before = around(tmp_path)
    yield tmp_path / "world" / "images"
    assert around(tmp_path) == before


def around(root: Path) -> dict:
    """Name -> bytes, or None for a folder, of all but the folder to unpack into and the archives of the test."""
    places = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {
        name: path.read_bytes() if path.is_file() else None
        for name, path in places.items()
        if not name.startswith(("world/images", "archive", "pipe"))
    }


def snapshot(root: Path) -> dict:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def entry(name, kind=stat.S_IFREG):
    info = zipfile.ZipInfo("placeholder")
    info.filename = name  # the constructor would cut it at a NUL
    info.external_attr = (kind | 0o644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def a_zip(tmp_path, members) -> Path:
    """A zip of (name or ZipInfo, bytes) pairs."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members:
            file.writestr(entry(name) if isinstance(name, str) else name, data)
    return path


def a_tar(tmp_path, members, mode="w:gz", **options) -> Path:
    """A tar of (name or TarInfo, bytes) pairs."""
    path = tmp_path / "archive.tar"
    with tarfile.open(path, mode, **options) as file:
        for info, data in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def a_folder(tmp_path, members) -> Path:
    for name, data in members:
        (tmp_path / "archive" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "archive" / name).write_bytes(data)
    return tmp_path / "archive"


a_plain_tar = partial(a_tar, mode="w")
ARCHIVES = pytest.mark.parametrize("make", [a_zip, a_tar])


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def reasons(result) -> dict[str, str]:
    return {name: reason for reason, names in result.set_aside.items() for name in names}


def assert_refused(source, world, message) -> None:
    """An archive is refused before anything is written."""
    with pytest.raises(ValueError, match=message):
        unpack(source, world)
    assert snapshot(world) == {}


@pytest.mark.parametrize("make", [a_zip, a_plain_tar, a_tar, a_folder])
def test_photos_of_a_good_source_come_out_unchanged_and_a_second_call_writes_nothing(make, tmp_path, world):
    source = make(tmp_path, [("Audi_A4_1.jpg", PHOTO), ("./BMW/1.JPEG", PHOTO[1:]), ("Škoda//Fabia é.png", b"text")])
    result = unpack(source, world)
    good = {"Audi_A4_1.jpg": PHOTO, "BMW/1.JPEG": PHOTO[1:], "Škoda/Fabia é.png": b"text"}  # scan will see the text
    assert snapshot(world) == good
    assert {*result.written} == {*good}
    assert (result.present, result.set_aside, result.bytes) == ([], {}, sum(map(len, good.values())))
    again = unpack(source, world)
    assert (again.written, sorted(again.present), again.bytes) == ([], sorted(result.written), 0)
    assert "0 photos written" in str(again)


OUT = ["../x.jpg", "a/../../x.jpg", "a/..", "/abs.jpg", "//server/share/x.jpg", "C:\\x.jpg", "c:x.jpg"]
OUT += ["\\\\server\\x.jpg", "..\\x.jpg", "a\\..\\..\\x.jpg"]
UNPORTABLE = ["a.jpg:stream.jpg", "a\nb.jpg", "a?.jpg", "CON.jpg", "lpt1 .x/a.jpg", "folder./a.jpg", "folder /a.jpg"]
UNPORTABLE += ["a" * 250 + ".jpg", "b" * 100 + "/" + "ü" * 120 + ".jpg", "/".join(["deep"] * 1000) + "/a.jpg"]
NAMES = {**dict.fromkeys(OUT, OUTSIDE), **dict.fromkeys(UNPORTABLE, NAME)}
NAMES |= dict.fromkeys([".hidden.jpg", "__MACOSX/._a.jpg"], "hidden")
NAMES |= dict.fromkeys(["notes.txt", "inner.zip", "a.jpg.exe"], ENDING)


@pytest.fixture(params=[module.DATA_FILTER, lambda entry, folder: entry], ids=["this Python", "older"])
def data_filter(request, monkeypatch):
    """Also that of an older Python, whose tarfile has none."""
    monkeypatch.setattr(module, "DATA_FILTER", request.param)


@ARCHIVES
@pytest.mark.usefixtures("data_filter")
def test_hostile_names_are_set_aside_with_their_reason(make, tmp_path, world):
    members = [("good.jpg", PHOTO), *((name, PHOTO) for name in NAMES), ("end.jpg", PHOTO)]
    result = unpack(make(tmp_path, members), world)
    assert snapshot(world) == {"good.jpg": PHOTO, "end.jpg": PHOTO}
    assert reasons(result) == NAMES
    assert "leads out of the folder (10, such as '../x.jpg')" in str(result)


def test_names_of_no_encoding_and_with_a_nul_are_set_aside(tmp_path, world):
    data = a_zip(tmp_path, [("good.jpg", PHOTO), ("evil.jpgQ/x.jpg", PHOTO)]).read_bytes()
    (tmp_path / "archive.zip").write_bytes(data.replace(b"jpgQ", b"jpg\0"))
    assert reasons(unpack(tmp_path / "archive.zip", world)) == {"evil.jpg\0/x.jpg": NAME}
    foreign = a_tar(tmp_path, [("b\udcffd.jpg", PHOTO)], format=tarfile.GNU_FORMAT)
    assert reasons(unpack(foreign, world)) == {"b\udcffd.jpg": NAME}
    assert snapshot(world) == {"good.jpg": PHOTO}


def test_links_and_devices_of_a_zip_are_set_aside(tmp_path, world):
    bad = [entry(f"{kind}.jpg", kind) for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFSOCK)]
    members = [*((info, b"../x.jpg") for info in bad), (entry("link", stat.S_IFLNK), b".."), ("link/x.jpg", PHOTO)]
    expected = dict.fromkeys([*(info.filename for info in bad), "link"], NOT_REGULAR)
    assert reasons(unpack(a_zip(tmp_path, members), world)) == expected
    assert snapshot(world) == {"link/x.jpg": PHOTO}  # a folder of that name, not the way out


def test_links_devices_and_sparse_members_of_a_tar_are_set_aside(tmp_path, world):
    links = {"link": "..", "link.jpg": "../x.jpg", "hard.jpg": "../x.jpg", "own.jpg": "good.jpg"}
    bad = [special(n, tarfile.SYMTYPE if n.startswith("link") else tarfile.LNKTYPE, to) for n, to in links.items()]
    bad += [special(f"{i}.jpg", kind) for i, kind in enumerate([tarfile.FIFOTYPE, tarfile.BLKTYPE, tarfile.CHRTYPE])]
    hole = tarfile.TarInfo("hole.jpg")
    hole.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": str(2**40), "GNU.sparse.name": "hole.jpg"}
    members = [("good.jpg", PHOTO), (special("../made", tarfile.DIRTYPE), b""), ("link/x.jpg", PHOTO), (hole, b"data")]
    path = a_tar(tmp_path, [*members, *((info, b"") for info in bad)], format=tarfile.PAX_FORMAT)
    assert reasons(unpack(path, world)) == {info.name: NOT_REGULAR for info in [*bad, hole]}
    assert snapshot(world) == {"good.jpg": PHOTO, "link/x.jpg": PHOTO}


def link(place, target, **options):
    try:
        place.symlink_to(target, **options)
    except OSError:
        pytest.skip("links need rights here")


def test_links_of_a_folder_are_set_aside(tmp_path, world):
    source = a_folder(tmp_path, [("good.jpg", PHOTO)])
    link(source / "link.jpg", tmp_path / "world" / "x.jpg")
    link(source / "link", tmp_path / "world", target_is_directory=True)
    assert reasons(unpack(source, world)) == dict.fromkeys(["link", "link.jpg"], NOT_REGULAR)
    assert snapshot(world) == {"good.jpg": PHOTO}


@pytest.mark.usefixtures("data_filter")
def test_links_in_the_folder_are_not_followed(tmp_path, world):
    (world / "real").mkdir()
    link(world / "Audi", tmp_path / "world", target_is_directory=True)
    link(world / "inside", world / "real", target_is_directory=True)
    link(world / "dangling.jpg", tmp_path / "world" / "new.jpg")
    link(world / "part.jpg.tmp", tmp_path / "world" / "x.jpg")
    names = ["Audi/new.jpg", "Audi/deep/new.jpg", "inside/new.jpg", "dangling.jpg", "part.jpg"]
    result = unpack(a_zip(tmp_path, [(name, PHOTO) for name in names]), world)
    assert result.written == ["part.jpg"]
    assert sorted(reasons(result)) == sorted(names[:-1])
    assert {*result.set_aside} <= {OUTSIDE, "a link in the folder points elsewhere"}
    assert not (world / "part.jpg").is_symlink()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@ARCHIVES
def test_of_two_members_with_one_name_the_first_comes_out(make, tmp_path, world):
    names = ["a.jpg", "a.jpg", "./a.jpg", "a.jpg/b.jpg", "b.jpg/c.jpg", "b.jpg"]
    result = unpack(make(tmp_path, [(name, b"%d" % i) for i, name in enumerate(names)]), world)
    assert snapshot(world) == {"a.jpg": b"0", "b.jpg/c.jpg": b"4"}
    assert result.set_aside == {
        "another member has its name": ["a.jpg", "./a.jpg"],
        "the folder has another file of this name": ["a.jpg/b.jpg", "b.jpg"],
    }


def test_existing_files_are_not_overwritten(tmp_path, world):
    before = {"mine.jpg": PHOTO[:-1] + b"!", "longer.jpg": PHOTO + b"!", "same.jpg": PHOTO, "file": b""}
    for name, data in before.items():
        (world / name).write_bytes(data)
    (world / "folder.jpg").mkdir()
    names = ["mine.jpg", "longer.jpg", "folder.jpg", "file/a.jpg"]
    result = unpack(a_zip(tmp_path, [(name, PHOTO) for name in [*names, "same.jpg"]]), world)
    assert snapshot(world) == before
    assert (result.written, result.present) == ([], ["same.jpg"])
    assert result.set_aside == {"the folder has another file of this name": names}


def test_damaged_encrypted_and_oddly_compressed_members_are_set_aside_and_the_others_come_out(tmp_path, world):
    odd = entry("odd.jpg")
    odd.compress_type = zipfile.ZIP_BZIP2
    members = [("bad.jpg", os.urandom(5000)), ("good.jpg", PHOTO), (odd, PHOTO), ("secret.jpg", PHOTO)]
    path = a_zip(tmp_path, members)
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    data[data.rindex(b"PK\1\2") + 8] |= 1  # the flag in the directory entry of the last member
    path.write_bytes(data)
    assert unpack(path, world).set_aside == {
        "encrypted, or neither stored nor deflated": ["odd.jpg", "secret.jpg"],
        "damaged or unreadable": ["bad.jpg"],
    }
    assert snapshot(world) == {"good.jpg": PHOTO}


def test_no_more_bytes_are_written_than_were_claimed_whatever_the_reader_gives(tmp_path, world, monkeypatch):
    path = a_zip(tmp_path, [("liar.jpg", PHOTO), ("short.jpg", PHOTO * 2)])
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: io.BytesIO(PHOTO + b"more"))
    result = unpack(path, world)
    assert reasons(result) == dict.fromkeys(["liar.jpg", "short.jpg"], "its size differs from its header")
    assert snapshot(world) == {}


# --- bombs and damage: refused before anything is written


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """The number of bytes of each read from a gzip file."""
    counts, plain = [], gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: counts.append(n) or plain(self, n))
    return counts


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (a_zip, "bomb.jpg", "expands to 67,110,912 bytes"),
        (a_tar, "bomb.jpg", "expands to more than"),
        (a_tar, "readme.txt", "expands to more than"),  # a tar is inflated even to skip a member
    ],
)
def test_a_bomb_of_zeros_is_refused_and_not_decompressed(make, name, message, tmp_path, world, read):
    path = make(tmp_path, [("good.jpg", PHOTO), (name, bytes(64 * 2**20))])
    assert_refused(path, world, rf"archive.* {message}.* if you trust it")
    assert sum(read) < 2**20


def test_a_bomb_of_entries_that_share_their_bytes_is_refused(tmp_path, world):
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(entry("kernel.jpg"), bytes(2**20))
        for i in range(100):
            file.filelist.append(copy.copy(file.filelist[0]))
            file.filelist[-1].filename = f"{i}.jpg"
    assert_refused(path, world, "expands to 105,906,176 bytes")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_header_that_claims_gigabytes_is_not_read_into_memory(kind, tmp_path, world, read):
    good = tarfile.TarInfo("good.jpg")
    good.size = len(PHOTO)
    huge = tarfile.TarInfo("huge")
    huge.type, huge.size = kind, 7 * 2**30
    data = good.tobuf() + PHOTO + huge.tobuf(tarfile.GNU_FORMAT) + bytes(8 * 2**20)
    (tmp_path / "archive.tar").write_bytes(gzip.compress(data))
    assert_refused(tmp_path / "archive.tar", world, rf"{NOT_INTACT} \(a header claims 7,516,192,768 bytes")
    assert max(read) <= 2**16


def test_a_large_photo_comes_out_among_many_members_whose_global_headers_are_not_kept(tmp_path, world):
    headers, large = {f"k{i}": "x" for i in range(3000)}, os.urandom(2**21 + 1)
    members = [("large.jpg", large), *((f"{i}.txt", b"") for i in range(2500))]
    path = a_tar(tmp_path, members, format=tarfile.PAX_FORMAT, pax_headers=headers)
    tracemalloc.start()
    result = unpack(path, world)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20  # a copy for each of 1,000 members took some 90 MB
    assert snapshot(world) == {"large.jpg": large}
    assert len(result.set_aside[ENDING]) == 2500


def test_a_negative_size_does_not_read_a_tar_for_ever(tmp_path, world, monkeypatch):
    monkeypatch.setattr(module, "MAX_MEMBERS", 1000)
    good, back = tarfile.TarInfo("good.jpg"), tarfile.TarInfo("back.jpg")
    good.size, back.size = len(PHOTO), -1024
    (tmp_path / "archive.tar").write_bytes(good.tobuf() + PHOTO + back.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert_refused(tmp_path / "archive.tar", world, "archive")


@ARCHIVES
def test_limits_refuse_the_archive_or_set_aside_the_photo(make, tmp_path, world, monkeypatch):
    folder = "empty/" if make is a_zip else special("empty", tarfile.DIRTYPE)  # counts as a member and is not made
    path = make(tmp_path, [("0.jpg", PHOTO), ("1.jpg", PHOTO[1:]), (folder, b"")])
    for limit, value, message in [("MAX_MEMBERS", 2, "has more than 2 members"), ("MAX_BYTES", 4094, "expands to")]:
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, value)
            assert_refused(path, world, f"{message}.*; unpack it yourself")
    monkeypatch.setattr(module, "LIMITS", Limits(max_bytes=len(PHOTO) - 1))
    assert reasons(unpack(path, world)) == {"0.jpg": "more than 2,047 bytes"}
    assert [place.name for place in world.iterdir()] == ["1.jpg"]


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path, world):
    inner = a_zip(tmp_path, [("inner.jpg", PHOTO)]).read_bytes()
    assert unpack(a_plain_tar(tmp_path, [("good.jpg", PHOTO), ("inner.zip", inner)]), world).written == ["good.jpg"]


@pytest.mark.parametrize("make", [a_zip, a_plain_tar, a_tar])
def test_a_cut_archive_is_refused(make, tmp_path, world):
    path = make(tmp_path, [(f"{i}.jpg", os.urandom(3000)) for i in range(9)])
    whole = path.read_bytes()[: 9 * 3584]  # a header and 3,000 bytes take 3,584; the end mark is cut already
    for kept in (0.95, 8 / 9, 0.7, 0.4):  # 8 / 9: between two members of a tar
        path.write_bytes(whole[: int(len(whole) * kept)])
        assert_refused(path, world, rf"is {NOT_INTACT} .* download it again")


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4 and no more", b"\x1f\x8bxxxxxxxx", b"<html>404</html>" * 99])
def test_other_files_are_refused(data, tmp_path, world):
    (tmp_path / "archive.zip").write_bytes(data)
    assert_refused(tmp_path / "archive.zip", world, rf"is {NOT_INTACT} .* download it again")


@pytest.mark.parametrize("make", [a_zip, a_plain_tar])
def test_fuzzed_archives_write_nothing_outside_and_raise_only_documented_errors(make, tmp_path, world):
    data = make(tmp_path, [("a/good.jpg", PHOTO), ("../x.jpg", PHOTO), ("b.png", PHOTO * 9)]).read_bytes()
    came_out = 0
    for place in range(0, len(data), max(1, len(data) // 150)):
        broken = bytearray(data)
        broken[place] ^= 1 + place % 255
        (tmp_path / "archive").write_bytes(broken)
        with contextlib.suppress(ValueError):
            came_out += len(unpack(tmp_path / "archive", world).written)
            shutil.rmtree(world)
    assert came_out > 150


@pytest.mark.parametrize("name", ["absent.zip", "pipe"])
def test_a_missing_archive_and_a_pipe_are_refused(name, tmp_path, world):
    if name == "pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=rf"there is no file .*{name}; give a zip, tar, tar.gz or folder"):
        unpack(tmp_path / name, world)


def test_an_interrupted_unpacking_leaves_no_half_photo_and_continues(tmp_path, world, monkeypatch):
    photos = {f"{i}.jpg": os.urandom(3 * 2**20 // (i + 1)) for i in range(4)}
    path = a_zip(tmp_path, photos.items())
    plain, calls = zipfile.ZipExtFile.read, []

    def stopping(self, n=-1):
        calls.append(n)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return plain(self, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", stopping)
    with pytest.raises(KeyboardInterrupt):
        unpack(path, world)
    first = snapshot(world)
    assert 0 < len(first) < 4
    assert first.items() <= photos.items()
    (world / "3.jpg.tmp").write_bytes(b"half a photo of a run that was killed")
    assert unpack(path, world).present == [*first]
    assert snapshot(world) == photos


def test_too_small_a_disk_is_an_error_before_anything_is_written(tmp_path, world, monkeypatch):
    path = a_zip(tmp_path, [("a.jpg", PHOTO)])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"needs 0.00 GB, only 0.00 GB are free; free some disk or choose another folder"):
        unpack(path, world)
    assert snapshot(world) == {}


@pytest.mark.parametrize("call", ["open", "mkdir"])
def test_a_disk_that_fills_up_is_an_error_and_leaves_no_half_photo(call, tmp_path, world, monkeypatch):
    path = a_zip(tmp_path, [("a.jpg", PHOTO), ("full/b.jpg", PHOTO)])
    plain = getattr(Path, call)

    def full(self, *rest, **options):
        result = plain(self, *rest, **options)
        if "full" not in self.parts or rest not in ((), ("xb",)):  # xb: a photo is written through no link
            return result
        if call == "open":
            result.close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, call, full)
    with pytest.raises(OSError, match=r"b.jpg cannot be written: No space left on device; free some disk"):
        unpack(path, world)
    assert snapshot(world) == {"a.jpg": PHOTO}


# --- the set from Kaggle, with a kagglehub that has it already or fails as the real one does


@pytest.fixture
def hub(photo_folder, monkeypatch):
    """A kagglehub whose cache holds the photos of `photo_folder`; it records what was asked of it."""
    kagglehub = types.ModuleType("kagglehub")
    kagglehub.asked = []
    kagglehub.dataset_download = lambda handle: kagglehub.asked.append(handle) or str(photo_folder)
    monkeypatch.setitem(sys.modules, "kagglehub", kagglehub)
    monkeypatch.setitem(SETS, "listing", ("owner/set", 40))
    return kagglehub


def test_the_listing_set_comes_into_the_folder(hub, photo_folder, tmp_path):
    found = download("listing", tmp_path / "images")
    assert hub.asked == ["owner/set"]
    assert snapshot(tmp_path / "images") == snapshot(photo_folder)
    assert found[1:] == (40, 40, 40, {}, photo_folder)
    assert "40 photos, 40 with a brand in the name; 40 of 40 sampled photos decode" in str(found)
    assert f"kagglehub keeps its copy in {photo_folder}" in str(found)
    assert len(download("listing", tmp_path / "images").unpacked.present) == 40


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("too few", r"40 photos of this set where about 50 are expected, .* delete .* and retry"),
        ("unnamed", "34 with a brand"),
        ("broken", "40 of 40 sampled ones broken"),
    ],
)
def test_a_set_that_is_not_as_expected_is_refused(hub, photo_folder, tmp_path, monkeypatch, fault, message):
    monkeypatch.setitem(SETS, "listing", ("owner/set", 50 if fault == "too few" else 40))
    for number, (name, data) in enumerate(snapshot(photo_folder).items()):
        name = f"{number}.jpg" if fault == "unnamed" and number < 6 else name
        a_folder(tmp_path, [(name, data[:300] if fault == "broken" else data)])
    hub.dataset_download = lambda _: str(tmp_path / "archive")
    with pytest.raises(ValueError, match=message):
        download("listing", tmp_path / "images")


def test_an_archive_of_ones_own_is_taken_as_it_is(photo_folder, tmp_path, monkeypatch):
    members = [*snapshot(photo_folder).items(), ("broken.jpg", b"no photo"), ("../x.jpg", b"")]
    found = download(a_zip(tmp_path, members), tmp_path / "images")
    assert (found.photos, found.branded, found.sampled, [*found.broken]) == (41, 40, 41, ["broken.jpg"])
    assert found.copy is None
    assert "broken.jpg: not an image" in str(found)
    monkeypatch.setattr(module, "SAMPLE", 15)
    assert download(photo_folder, tmp_path / "images").sampled == 14  # every third of 40


def test_an_unknown_source_and_one_without_photos_are_refused(tmp_path):
    with pytest.raises(ValueError, match="source 'pictures' must be 'listing' or an archive's path"):
        download("pictures", tmp_path)
    with pytest.raises(ValueError, match=r"no photo came out of .* not a photo's extension \(1, such as 'a.txt'\)"):
        download(a_zip(tmp_path, [("a.txt", b"")]), tmp_path / "empty")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Failed to\n\nresolve"), "ConnectionError: Failed to resolve.; check the net"),
        (RuntimeError("403 Client Error"), r"403 Client Error.; .* accept the terms .* ~/\.kaggle/access"),
        (None, r'pip install "carclf\[download\]"'),  # kagglehub is not installed
    ],
)
def test_failures_of_kagglehub_are_one_line_with_the_remedies(error, message, hub, tmp_path, monkeypatch):
    def failing(handle):
        raise error

    hub.dataset_download = failing
    if error is None:
        monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(OSError, match=rf"^owner/set was not downloaded \(.*{message}.*") as caught:
        download("listing", tmp_path / "images")
    assert str(caught.value).endswith("then: carclf download path/to/archive.zip")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "images").exists()


def test_the_real_kagglehub_takes_the_call(monkeypatch, tmp_path):
    kagglehub = pytest.importorskip("kagglehub", reason="an optional package")
    requests = pytest.importorskip("requests")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    kagglehub.handle.parse_dataset_handle(SETS["listing"][0])

    def unreachable(*_, **__):
        raise requests.exceptions.ConnectionError("no route")

    monkeypatch.setattr(requests.Session, "send", unreachable)
    with pytest.raises(OSError, match=r"ConnectionError: no route\); check the network"):
        download("listing", tmp_path / "images")
