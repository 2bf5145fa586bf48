import contextlib
import gzip
import io
import os
import shutil
import stat
import struct
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import pytest

import carclf.downloading
from carclf.archives import ArchiveLimits
from carclf.downloading import SETS, KaggleSet, download
from carclf.unpacking import unpack

PHOTO = bytes(range(256)) * 8  # what stands for a photo where nobody decodes it


@pytest.fixture
def world(tmp_path):
    """A folder to unpack into, in a world in which nothing else may change."""
    (tmp_path / "world" / "images").mkdir(parents=True)
    (tmp_path / "world" / "x.jpg").write_bytes(b"not to be overwritten")
    before = around(tmp_path)
    yield tmp_path / "world" / "images"
    assert around(tmp_path) == before


def around(root: Path) -> tuple[dict, set]:
    """All files and folders, but for the one to unpack into and the archives of the test."""
    names = {path.relative_to(root).as_posix() for path in root.rglob("*")}
    names = {name for name in names if not name.startswith(("world/images", "archive", "pipe"))}
    return {name: data for name, data in snapshot(root).items() if name in names}, names


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


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def reasons(result) -> dict[str, str]:
    return {name: reason for reason, names in result.set_aside.items() for name in names}


GOOD = [("Audi_A4_1.jpg", PHOTO), ("./BMW/1.JPEG", PHOTO[::-1]), ("Škoda//Fabia é.png", b"text passes: scan sees it")]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "folder"])
def test_photos_of_a_good_source_come_out_as_they_are(kind, tmp_path, world):
    if kind == "zip":
        source = a_zip(tmp_path, GOOD)
    elif kind == "folder":
        source = tmp_path / "archive"
        for name, data in GOOD:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    else:
        source = a_tar(tmp_path, GOOD, "w:gz" if kind == "tar.gz" else "w")
    result = unpack(source, world)
    assert snapshot(world) == {"Audi_A4_1.jpg": PHOTO, "BMW/1.JPEG": PHOTO[::-1], "Škoda/Fabia é.png": GOOD[2][1]}
    assert sorted(result.written) == sorted(snapshot(world))
    assert (result.present, result.set_aside) == ([], {})
    assert result.bytes == sum(len(data) for _, data in GOOD)
    again = unpack(source, world)
    assert (again.written, sorted(again.present), again.bytes) == ([], sorted(result.written), 0)
    assert "0 photos written" in str(again)


@pytest.mark.parametrize("make", [a_zip, a_tar])
def test_large_photos_and_many_members_are_no_matter(make, tmp_path, world):
    large = os.urandom(2**21 + 1)
    result = unpack(make(tmp_path, [("large.jpg", large), *((f"{i}.txt", b"") for i in range(2500))]), world)
    assert snapshot(world) == {"large.jpg": large}
    assert len(result.set_aside["no photo's ending"]) == 2500


OUT, NAME = "leads out of the folder", "a name that not every system can hold"
NAMES = {
    "../x.jpg": OUT,
    "a/../../x.jpg": OUT,
    "a/..": OUT,
    "/abs.jpg": OUT,
    "//server/share/x.jpg": OUT,
    "C:\\x.jpg": OUT,
    "c:x.jpg": OUT,
    "\\\\server\\x.jpg": OUT,
    "..\\x.jpg": OUT,
    "a\\..\\..\\x.jpg": OUT,
    "a.jpg:stream.jpg": NAME,
    "a\nb.jpg": NAME,
    "a?.jpg": NAME,
    "CON.jpg": NAME,
    "lpt1 .x/a.jpg": NAME,
    "folder./a.jpg": NAME,
    "folder /a.jpg": NAME,
    ".hidden.jpg": "hidden",
    "__MACOSX/._a.jpg": "hidden",
    "notes.txt": "no photo's ending",
    "inner.zip": "no photo's ending",
    "a.jpg.exe": "no photo's ending",
    "a" * 250 + ".jpg": "too long a name",
    "b" * 100 + "/" + "ü" * 120 + ".jpg": "too long a name",
    "/".join(["deep"] * 1000) + "/a.jpg": "too long a name",
}


@pytest.mark.parametrize("make", [a_zip, a_tar])
def test_hostile_names_are_set_aside_with_their_reason(make, tmp_path, world):
    result = unpack(
        make(tmp_path, [("good.jpg", PHOTO), *((name, PHOTO) for name in NAMES), ("end.jpg", PHOTO)]), world
    )
    assert snapshot(world) == {"good.jpg": PHOTO, "end.jpg": PHOTO}
    assert reasons(result) == NAMES
    assert "leads out of the folder (10, such as '../x.jpg')" in str(result)


def test_names_of_no_encoding_and_with_a_nul_are_set_aside(tmp_path, world):
    data = a_zip(tmp_path, [("good.jpg", PHOTO), ("evil.jpgQ/x.jpg", PHOTO)]).read_bytes()
    (tmp_path / "archive.zip").write_bytes(data.replace(b"jpgQ", b"jpg\0"))
    assert reasons(unpack(tmp_path / "archive.zip", world)) == {"evil.jpg\0/x.jpg": NAME}
    foreign = a_tar(tmp_path, [("b\udcffd.jpg", PHOTO)], format=tarfile.GNU_FORMAT)
    assert reasons(unpack(foreign, world)) == {"b\udcffd.jpg": "a name that is not UTF-8"}
    assert snapshot(world) == {"good.jpg": PHOTO}


def test_links_and_devices_of_a_zip_are_set_aside(tmp_path, world):
    kinds = {
        "link.jpg": stat.S_IFLNK,
        "pipe.jpg": stat.S_IFIFO,
        "device.jpg": stat.S_IFBLK,
        "socket.jpg": stat.S_IFSOCK,
    }
    members = [(entry(name, kind), b"../x.jpg") for name, kind in kinds.items()]
    members += [(entry("link", stat.S_IFLNK), b".."), ("link/x.jpg", PHOTO)]
    result = unpack(a_zip(tmp_path, members), world)
    assert reasons(result) == dict.fromkeys([*kinds, "link"], "a link, device or pipe")
    assert snapshot(world) == {"link/x.jpg": PHOTO}  # a folder of that name, not the way out


def test_links_and_devices_of_a_tar_are_set_aside(tmp_path, world):
    bad = [
        special("link", tarfile.SYMTYPE, ".."),
        special("link.jpg", tarfile.SYMTYPE, "../x.jpg"),
        special("hard.jpg", tarfile.LNKTYPE, "../x.jpg"),
        special("own.jpg", tarfile.LNKTYPE, "good.jpg"),
        special("pipe.jpg", tarfile.FIFOTYPE),
        special("block.jpg", tarfile.BLKTYPE),
        special("character.jpg", tarfile.CHRTYPE),
    ]
    folder = special("../made", tarfile.DIRTYPE)
    members = [("good.jpg", PHOTO), (folder, b""), *((info, b"") for info in bad), ("link/x.jpg", PHOTO)]
    result = unpack(a_tar(tmp_path, members), world)
    assert reasons(result) == {info.name: "a link, device or pipe" for info in bad}
    assert snapshot(world) == {"good.jpg": PHOTO, "link/x.jpg": PHOTO}


def test_links_of_a_folder_are_set_aside(tmp_path, world):
    source = tmp_path / "archive"
    source.mkdir()
    (source / "good.jpg").write_bytes(PHOTO)
    try:
        (source / "link.jpg").symlink_to(tmp_path / "world" / "x.jpg")
        (source / "link").symlink_to(tmp_path / "world", target_is_directory=True)
    except OSError:
        pytest.skip("links need rights here")
    assert reasons(unpack(source, world)) == dict.fromkeys(["link", "link.jpg"], "a link, device or pipe")
    assert snapshot(world) == {"good.jpg": PHOTO}


def test_links_in_the_folder_lead_nothing_outside(tmp_path, world):
    try:
        (world / "Audi").symlink_to(tmp_path / "world", target_is_directory=True)
        (world / "dangling.jpg").symlink_to(tmp_path / "world" / "new.jpg")
        (world / "part.jpg.tmp").symlink_to(tmp_path / "world" / "x.jpg")
    except OSError:
        pytest.skip("links need rights here")
    names = ["Audi/new.jpg", "Audi/deep/new.jpg", "dangling.jpg", "part.jpg"]
    result = unpack(a_zip(tmp_path, [(name, PHOTO) for name in names]), world)
    assert result.written == ["part.jpg"]
    assert "link" in reasons(result)["Audi/new.jpg"]
    assert "link" in reasons(result)["Audi/deep/new.jpg"]
    assert "link" in reasons(result)["dangling.jpg"]
    assert not (world / "part.jpg").is_symlink()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [a_zip, a_tar])
def test_of_two_members_with_one_name_the_first_comes_out(make, tmp_path, world):
    names = ["a.jpg", "a.jpg", "A.JPG", "./a.jpg", "a.jpg/b.jpg", "stra\u00dfe.jpg", "STRASSE.jpg"]
    names += ["caf\u00e9.jpg", "cafe\u0301.jpg", "b.jpg/c.jpg", "B.jpg"]
    result = unpack(make(tmp_path, [(name, b"%d" % i) for i, name in enumerate(names)]), world)
    assert result.written == ["a.jpg", "straße.jpg", "café.jpg", "b.jpg/c.jpg"]
    assert (world / "a.jpg").read_bytes() == b"0"
    assert sum(len(n) for n in result.set_aside.values()) == 7
    assert [*result.set_aside] == ["another member has its name"]


def test_what_stands_in_the_folder_is_not_overwritten(tmp_path, world):
    (world / "mine.jpg").write_bytes(PHOTO[:-1] + b"!")
    (world / "longer.jpg").write_bytes(PHOTO + b"!")
    (world / "same.jpg").write_bytes(PHOTO)
    (world / "folder.jpg").mkdir()
    (world / "file").write_bytes(b"")
    before = snapshot(world)
    names = ["mine.jpg", "longer.jpg", "same.jpg", "folder.jpg", "file/a.jpg"]
    result = unpack(a_zip(tmp_path, [(name, PHOTO) for name in names]), world)
    assert snapshot(world) == before
    assert (result.written, result.present) == ([], ["same.jpg"])
    assert reasons(result) == {
        "mine.jpg": "another file in the folder has its name",
        "longer.jpg": "another file in the folder has its name",
        "folder.jpg": "a link or folder has its name",
        "file/a.jpg": "a file stands where its folder should be",
    }


def test_encrypted_and_oddly_compressed_members_are_set_aside(tmp_path, world):
    odd = entry("odd.jpg")
    odd.compress_type = zipfile.ZIP_BZIP2
    path = a_zip(tmp_path, [("good.jpg", PHOTO), (odd, PHOTO), ("secret.jpg", PHOTO)])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1  # the flag in the directory entry of the last member
    path.write_bytes(data)
    result = unpack(path, world)
    assert reasons(result) == {"odd.jpg": "neither stored nor deflated", "secret.jpg": "encrypted"}
    assert snapshot(world) == {"good.jpg": PHOTO}


@pytest.mark.parametrize("claim", [10, 100_000])
def test_a_header_that_lies_about_the_size_gives_no_photo(claim, tmp_path, world):
    path = a_zip(tmp_path, [("liar.jpg", PHOTO), ("good.jpg", PHOTO)])
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, claim)
    path.write_bytes(data)
    result = unpack(path, world)
    assert [*reasons(result)] == ["liar.jpg"]
    assert snapshot(world) == {"good.jpg": PHOTO}


def test_no_more_bytes_are_written_than_were_claimed(tmp_path, world, monkeypatch):
    """Whatever the reader of the archive gives."""
    path = a_zip(tmp_path, [("liar.jpg", PHOTO), ("short.jpg", PHOTO * 2)])
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: io.BytesIO(PHOTO + b"more"))
    result = unpack(path, world)
    assert reasons(result) == dict.fromkeys(["liar.jpg", "short.jpg"], "not of the size that its header claims")
    assert snapshot(world) == {}


@pytest.mark.parametrize("make", [a_zip, a_tar])
def test_a_bomb_of_zeros_is_refused_before_anything_is_written(make, tmp_path, world):
    path = make(tmp_path, [("good.jpg", PHOTO), ("bomb.jpg", bytes(8 * 2**20))])
    with pytest.raises(ValueError, match=r"expands to .* if you trust it"):
        unpack(path, world)
    assert snapshot(world) == {}


def record_reads(monkeypatch) -> list[int]:
    """The number of bytes of each read from a gzip file from now on."""
    read, plain = [], gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: read.append(n) or plain(self, n))
    return read


def test_a_bomb_that_a_tar_hides_in_what_is_passed_over_is_not_decompressed(tmp_path, world, monkeypatch):
    path = a_tar(tmp_path, [("readme.txt", bytes(64 * 2**20)), ("good.jpg", PHOTO)])
    read = record_reads(monkeypatch)
    with pytest.raises(ValueError, match="expands to more than"):
        unpack(path, world)
    assert 0 < sum(read) < 2**20


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_header_that_claims_gigabytes_is_not_read_into_memory(kind, tmp_path, world, monkeypatch):
    good = tarfile.TarInfo("good.jpg")
    good.size = len(PHOTO)
    huge = tarfile.TarInfo("huge")
    huge.type, huge.size = kind, 7 * 2**30
    data = good.tobuf() + PHOTO + huge.tobuf(tarfile.GNU_FORMAT) + bytes(8 * 2**20)
    (tmp_path / "archive.tar").write_bytes(gzip.compress(data))
    read = record_reads(monkeypatch)
    result = unpack(tmp_path / "archive.tar", world)
    assert max(read) < 2**20
    assert snapshot(world) == {"good.jpg": PHOTO}
    assert reasons(result)["all after 1 files"].startswith("the archive is damaged")


def test_a_negative_size_in_a_tar_ends_it(tmp_path, world):
    good, back = tarfile.TarInfo("good.jpg"), tarfile.TarInfo("back.jpg")
    good.size, back.size = len(PHOTO), 0
    header = bytearray(back.tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024 in base 256
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(b" " * 8) + sum(header[156:512]))
    (tmp_path / "archive.tar").write_bytes(good.tobuf() + PHOTO + bytes(header) + bytes(4096))
    result = unpack(tmp_path / "archive.tar", world)
    assert snapshot(world) == {"good.jpg": PHOTO}
    assert "all after 1 files" in reasons(result)


def test_sparse_members_are_set_aside(tmp_path, world):
    hole = tarfile.TarInfo("hole.jpg")
    hole.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": str(2**40), "GNU.sparse.name": "hole.jpg"}
    result = unpack(a_tar(tmp_path, [(hole, b"data"), ("good.jpg", PHOTO)], format=tarfile.PAX_FORMAT), world)
    assert reasons(result) == {"hole.jpg": "sparse"}
    assert snapshot(world) == {"good.jpg": PHOTO}


@pytest.mark.parametrize("start", ["same", "inside"])
def test_entries_that_share_bytes_are_set_aside(start, tmp_path, world):
    """A kernel of one file that many entries name, as in the bombs that need no nesting."""
    path = a_zip(tmp_path, [("good.jpg", PHOTO), ("kernel.jpg", PHOTO * 40), ("other.jpg", PHOTO)])
    data = bytearray(path.read_bytes())
    directory = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]
    offsets = [struct.unpack_from("<I", data, place + 42)[0] for place in directory]
    if start == "same":
        struct.pack_into("<I", data, directory[2] + 42, offsets[1])
    else:
        struct.pack_into("<I", data, directory[1] + 20, offsets[2] - offsets[1])  # reaches over the next header
    path.write_bytes(data)
    try:
        result = unpack(path, world)
    except ValueError as error:  # newer versions of zipfile refuse some of these themselves
        assert "is no whole zip" in str(error)
    else:
        assert not {"kernel.jpg", "other.jpg"} & set(result.written)
        assert reasons(result)["kernel.jpg"] == "shares its bytes with another entry"
    assert set(snapshot(world)) <= {"good.jpg"}


def test_archives_in_an_archive_stay_packed(tmp_path, world):
    inner = a_zip(tmp_path, [("a.jpg", PHOTO)]).read_bytes()
    for _ in range(5):
        inner = a_zip(tmp_path, [("inner.zip", inner), ("inner.jpg", inner)]).read_bytes()
    result = unpack(tmp_path / "archive.zip", world)
    assert (result.written, reasons(result)) == (["inner.jpg"], {"inner.zip": "no photo's ending"})


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path, world):
    inner = a_zip(tmp_path, [("inner.jpg", PHOTO)]).read_bytes()
    assert unpack(a_tar(tmp_path, [("good.jpg", PHOTO), ("inner.zip", inner)], "w"), world).written == ["good.jpg"]


@pytest.mark.parametrize("make", [a_zip, a_tar])
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ArchiveLimits(members=2), "has more than 2 members; unpack it yourself"),
        (ArchiveLimits(total=3 * len(PHOTO) - 1), "expands to"),
    ],
)
def test_limits_of_the_archive_refuse_it(make, limits, message, tmp_path, world):
    with pytest.raises(ValueError, match=message):
        unpack(make(tmp_path, [(f"{i}.jpg", PHOTO) for i in range(3)]), world, limits)
    assert snapshot(world) == {}


def test_folders_in_an_archive_count_as_members_too(tmp_path, world):
    folders = [special(f"{i}", tarfile.DIRTYPE) for i in range(3)]
    for path in (a_zip(tmp_path, [(f"{i}/", b"") for i in range(3)]), a_tar(tmp_path, [(f, b"") for f in folders])):
        assert unpack(path, world).set_aside == {}
        with pytest.raises(ValueError, match="has more than 2 members"):
            unpack(path, world, ArchiveLimits(members=2))
    assert [*world.iterdir()] == []


def test_a_photo_above_its_limit_is_set_aside(tmp_path, world):
    result = unpack(
        a_zip(tmp_path, [("big.jpg", PHOTO), ("good.jpg", b"1")]), world, ArchiveLimits(photo=len(PHOTO) - 1)
    )
    assert reasons(result) == {"big.jpg": "more than 2,047 bytes"}
    assert snapshot(world) == {"good.jpg": b"1"}


def test_damaged_members_are_set_aside_and_the_others_come_out(tmp_path, world):
    path = a_zip(tmp_path, [("bad.jpg", os.urandom(5000)), ("good.jpg", PHOTO)])
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(data)
    assert reasons(unpack(path, world)) == {"bad.jpg": "damaged or unreadable"}
    assert snapshot(world) == {"good.jpg": PHOTO}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_of_a_cut_tar_what_is_whole_comes_out_and_the_rest_is_named(mode, tmp_path, world):
    photos = {f"{i}.jpg": os.urandom(3000) for i in range(9)}
    path = a_tar(tmp_path, photos.items(), mode)
    whole = path.read_bytes()[: 9 * 3584]  # a header and 3,000 bytes take 3,584; the end mark is cut already
    for kept in (0.95, 8 / 9, 0.7, 0.4):  # 8 / 9: between two members
        shutil.rmtree(world)
        path.write_bytes(whole[: int(len(whole) * kept)])
        result = unpack(path, world)
        assert 0 < len(result.written) < len(photos)
        assert snapshot(world) == {name: photos[name] for name in result.written}
        assert any(reason.startswith("the archive is damaged") for reason in result.set_aside)


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4 and no more", b"\x1f\x8bxxxxxxxx", b"<html>404</html>" * 99])
def test_what_is_no_archive_is_refused(data, tmp_path, world):
    (tmp_path / "archive.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"is no whole zip, tar or tar.gz .* download it again"):
        unpack(tmp_path / "archive.zip", world)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_fuzzed_archives_write_nothing_outside_and_raise_only_what_they_say(kind, tmp_path, world):
    make = a_zip if kind == "zip" else a_tar
    members = [("a/good.jpg", PHOTO), ("../x.jpg", PHOTO), ("b.png", PHOTO * 9)]
    data = make(tmp_path, members, **({} if kind == "zip" else {"mode": "w"})).read_bytes()
    came_out = 0
    for place in range(0, len(data), max(1, len(data) // 150)):
        broken = bytearray(data)
        broken[place] ^= 1 + place % 255
        (tmp_path / "archive").write_bytes(broken)
        with contextlib.suppress(ValueError):
            came_out += len(unpack(tmp_path / "archive", world).written)
            shutil.rmtree(world)
    assert came_out > 150


def test_a_missing_archive_and_a_pipe_are_refused(tmp_path, world):
    with pytest.raises(FileNotFoundError, match=r"there is no file .* give a zip, tar, tar.gz or folder"):
        unpack(tmp_path / "absent.zip", world)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileNotFoundError, match="there is no file"):
            unpack(tmp_path / "pipe", world)


class Stopped(BaseException):
    """As a Ctrl-C."""


def test_an_interrupted_unpacking_leaves_whole_photos_and_goes_on(tmp_path, world, monkeypatch):
    photos = {f"{i}.jpg": os.urandom(3 * 2**20 // (i + 1)) for i in range(4)}
    path = a_zip(tmp_path, photos.items())
    plain, calls = zipfile.ZipExtFile.read, []

    def stopping(self, n=-1):
        calls.append(n)
        if len(calls) == 7:
            raise Stopped
        return plain(self, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", stopping)
    with pytest.raises(Stopped):
        unpack(path, world)
    first = snapshot(world)
    assert 0 < len(first) < 4
    assert first.items() <= photos.items()
    (world / "3.jpg.tmp").write_bytes(b"half a photo of a run that was killed")
    result = unpack(path, world)
    assert result.present == [*first]
    assert snapshot(world) == photos


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path, world, monkeypatch):
    path = a_zip(tmp_path, [("a.jpg", PHOTO)])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"needs 0.00 GB, and 0.00 GB are free; free some disk or choose another folder"):
        unpack(path, world)
    assert snapshot(world) == {}


@pytest.mark.parametrize("call", ["open", "mkdir"])
def test_a_disk_that_fills_up_is_said_and_leaves_no_half_photo(call, tmp_path, world, monkeypatch):
    path = a_zip(tmp_path, [("a.jpg", PHOTO), ("full/b.jpg", PHOTO)])
    plain = getattr(Path, call)

    def full(self, *rest, **options):
        result = plain(self, *rest, **options)
        if "full" in self.parts and rest in ((), ("xb",)):
            if result:
                result.close()
            raise OSError(28, "No space left on device")
        return result

    monkeypatch.setattr(Path, call, full)
    with pytest.raises(OSError, match=r"b.jpg cannot be written: No space left on device; free some disk"):
        unpack(path, world)
    assert snapshot(world) == {"a.jpg": PHOTO}


# The set from Kaggle, with a kagglehub that has it already or fails as the real one does.


@pytest.fixture
def hub(photo_folder, monkeypatch):
    """A kagglehub whose cache holds the photos of the `photo_folder`; it records what was asked of it."""
    asked = []
    module = types.ModuleType("kagglehub")
    module.dataset_download = lambda handle: asked.append(handle) or str(photo_folder)
    module.asked = asked
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    monkeypatch.setitem(SETS, "listing", KaggleSet("owner/set", 40))
    return module


def test_the_listing_set_comes_into_the_folder(hub, photo_folder, tmp_path):
    found = download("listing", tmp_path / "images")
    assert hub.asked == ["owner/set"]
    assert snapshot(tmp_path / "images") == snapshot(photo_folder)
    assert (found.photos, found.branded, found.sampled, found.broken) == (40, 40, 40, {})
    assert "40 photos, 40 with a brand in the name; 40 of 40 sampled photos decode" in str(found)
    assert f"kagglehub keeps its copy in {photo_folder}" in str(found)
    assert len(download("listing", tmp_path / "images").unpacked.present) == 40


def test_a_set_that_is_not_as_it_should_be_is_refused(hub, photo_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "listing", KaggleSet("owner/set", 50))
    with pytest.raises(ValueError, match=r"40 photos of this set where about 50 are expected, .* delete .* and retry"):
        download("listing", tmp_path / "images")
    monkeypatch.setitem(SETS, "listing", KaggleSet("owner/set", 40))
    for number, (name, data) in enumerate(snapshot(photo_folder).items()):
        for copy, content in (("unnamed", data), ("broken", data[:300])):
            (tmp_path / copy).mkdir(exist_ok=True)
            (tmp_path / copy / (name if number > 5 or copy == "broken" else f"{number}.jpg")).write_bytes(content)
    for copy, message in (("unnamed", "34 with a brand"), ("broken", "40 of 40 sampled ones broken")):
        hub.dataset_download = lambda _, copy=copy: str(tmp_path / copy)
        with pytest.raises(ValueError, match=message):
            download("listing", tmp_path / f"images of {copy}")


def test_an_archive_of_ones_own_is_taken_as_it_is(photo_folder, tmp_path):
    members = [*snapshot(photo_folder).items(), ("broken.jpg", b"no photo"), ("../x.jpg", b"")]
    found = download(a_zip(tmp_path, members), tmp_path / "images")
    assert (found.photos, found.branded, [*found.broken], found.copy) == (41, 40, ["broken.jpg"], None)
    assert "broken.jpg: not an image" in str(found)
    with pytest.raises(ValueError, match=r"no photo came out of .* no photo's ending \(1, such as 'a.txt'\)"):
        download(a_zip(tmp_path, [("a.txt", b"")]), tmp_path / "empty")


def test_the_sample_spreads_over_all_photos(photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(carclf.downloading, "SAMPLE", 15)
    assert download(photo_folder, tmp_path / "images").sampled == 14  # every third of 40


def test_an_unknown_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="source 'pictures' must be 'listing' or an archive's path"):
        download("pictures", tmp_path)


def failure(kind, message, status=None, *bases):
    error = type(kind, bases or (Exception,), {})(message)
    if status:
        error.response = types.SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (failure("ConnectionError", "Failed to resolve 'api.kaggle.com'", None, OSError), "no network to Kaggle"),
        (failure("ReadTimeout", "timed out", None, failure("Timeout", "").__class__), "no network to Kaggle"),
        (failure("UnauthenticatedError", "User is not authenticated"), r"wants to know .* save it as ~/\.kaggle"),
        (failure("KaggleApiHTTPError", "401 Client Error.", 401, OSError), r"kaggle\.json as ~/\.kaggle/kaggle\.json"),
        (
            failure("KaggleApiHTTPError", "403 Client Error.\n\nconsent", 403, OSError),
            r"answers 403\); .* accept the terms if it asks",
        ),
        (ValueError("Invalid Kaggle credentials file at /home/me/.kaggle/kaggle.json"), r"settings/api"),
        (failure("DataCorruptionError", "MD5"), "what came is damaged"),
        (failure("KaggleApiHTTPError", "404 Client Error.", 404, OSError), "KaggleApiHTTPError 404: 404 Client Error"),
    ],
)
def test_what_kagglehub_cannot_do_is_said_in_one_line_with_the_way_out(error, message, hub, tmp_path):
    def failing(handle):
        raise error

    hub.dataset_download = failing
    with pytest.raises(OSError, match=message) as caught:
        download("listing", tmp_path / "images")
    assert "python -m carclf download path/to/archive.zip" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "images").exists()


def test_without_kagglehub_the_error_names_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(OSError, match=r'pip install "carclf\[download\]"'):
        download("listing", tmp_path)


def test_the_real_kagglehub_takes_the_call(monkeypatch, tmp_path):
    """What it raises where no server is, with the classes it really has."""
    kagglehub = pytest.importorskip("kagglehub", reason="an optional package")
    requests = pytest.importorskip("requests")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    kagglehub.handle.parse_dataset_handle(SETS["listing"].handle)

    def unreachable(*_, **__):
        raise requests.exceptions.ConnectionError("no route")

    monkeypatch.setattr(requests.Session, "send", unreachable)
    with pytest.raises(OSError, match="no network to Kaggle, or it broke off; with network the same call goes on"):
        download("listing", tmp_path / "images")
