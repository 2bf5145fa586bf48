"""A folder's photos are found whatever their names, each once, and everything else is counted."""

import os
import sys

import pytest
from test_manifest import draw, windows

from carclf.data.listing import describe_endings, list_files, list_photos
from carclf.data.manifest import scan, summary


def names(folder):
    """What `list_files` gives, below the folder: photos and others."""
    photos, others = list_files(folder)
    return (
        [os.path.relpath(path, folder).replace(os.sep, "/") for path in paths] for paths in (photos, sorted(others))
    )


def test_files_whose_ending_says_nothing_are_photos_by_their_first_bytes(tmp_path):
    photos = ["Audi_1", "Audi_2.jpg_large", "Audi_3.jfif", "Audi_4.jpg?w=300", "Audi_5.cr2", "Audi_6.7", "Audi_7.ppm"]
    for name in photos:
        draw(tmp_path / name)
    for name in ("half.part", "list.txt", "cache.tmp", "a.jxl"):  # not opened: the ending says it all
        draw(tmp_path / name)
    contents = {
        "BMW": b"BMW X5\nBMW X3\n",
        "raw.nef": b"MM\0*" + bytes(99),
        "raw.dng": b"II*\0" + bytes(99),
        "empty": b"",
        "page.aspx": b"<!DOCTYPE html>",
        "x.svg": b"<svg/>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert [*names(tmp_path)] == [photos, sorted([*contents, "half.part", "list.txt", "cache.tmp", "a.jxl"])]
    assert scan(tmp_path).problem.isna().all()


@pytest.mark.parametrize(
    "start", [b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a", b"BM\x36\0\0\0\0\0\0\0\x36", b"\0\0\0\x1cftypheic"]
)
def test_other_formats_are_known_by_their_first_bytes(tmp_path, start):
    draw(tmp_path / "a.jpg")
    (tmp_path / "b").write_bytes(start + bytes(50))
    assert [*names(tmp_path)] == [["a.jpg", "b"], []]


def test_what_is_no_photo_is_counted_by_its_ending_in_the_summary_and_in_errors(tmp_path):
    for name in ("Audi/a.txt", "Audi/b.TXT", "c.cr2", "d.zip", "e.jp2", "Makefile", ".hidden.txt", ".git/x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    said = "2 .txt, 1 .cr2 (raw: convert them to JPEG), 1 .jp2 (convert them to JPEG), 1 .zip"
    with pytest.raises(
        ValueError, match=r"no photos in .*, only 2 \.txt, .*: put files such as 'Audi_A4_1\.jpg'"
    ) as caught:
        scan(tmp_path)
    draw(tmp_path / "Audi_A4_1.jpg")
    draw(tmp_path / "Audi" / "Audi_A4_2.jpg")
    manifest = scan([tmp_path, tmp_path / "Audi"])  # some of the same files again
    assert manifest.attrs["not_photos"] == {".txt": 2, ".cr2": 1, ".zip": 1, ".jp2": 1, "": 1}
    for part in said.split(", "):
        assert part in summary(manifest) and part in str(caught.value)
    assert "not photos: 2 .txt," in summary(manifest) and "1 without ending" in summary(manifest)
    with pytest.warns(
        UserWarning, match=r"of other formats are left out: 1 \.cr2 \(raw: convert them to JPEG\), 1 \.jp2"
    ):
        assert list_photos(tmp_path) == manifest.path.tolist()


def test_many_endings_and_long_ones_stay_one_line():
    said = describe_endings({f".{i:03}" + "x" * 300 * (i == 0): 1000 - i for i in range(50)})
    assert said.startswith("1,000 .000xxxxxx…xxxxxxxxx, 999 .001, ")
    assert said.endswith("993 .007 and 40,803 of 42 other endings")


@windows
def test_links_to_folders_are_followed_without_loops_and_each_photo_is_found_once(tmp_path):
    draw(tmp_path / "photos" / "b" / "Audi_A4_1.jpg")
    draw(tmp_path / "elsewhere" / "deep" / "BMW_X5_1.jpg")
    draw(tmp_path / "beside" / "Kia_1.jpg")
    for place, target in {
        "a": "b",  # sorts before the folder itself, which keeps its name
        "b/back": "..",
        "b/self": "self",
        "far": "../elsewhere",
        "far_again": "../elsewhere/deep",
        "up": "..",  # would take in everything beside the photos
        "gone": "nowhere",
    }.items():
        (tmp_path / "photos" / place).symlink_to(target)
    (tmp_path / "elsewhere" / "round").symlink_to("../photos")
    photos, others = names(tmp_path / "photos")
    assert photos == ["b/Audi_A4_1.jpg", "far/deep/BMW_X5_1.jpg"]
    assert others == ["b/self", "gone"]
    assert scan(tmp_path / "photos").problem.isna().all()


@windows
def test_pipes_are_not_opened(tmp_path):
    draw(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    assert [*names(tmp_path)] == [["a.jpg"], ["pipe"]]


def test_files_with_usual_endings_are_not_opened(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.PNG", "c.txt", "d.json"):
        draw(tmp_path / name)

    def fail(*arguments):
        raise AssertionError(arguments)

    monkeypatch.setattr("carclf.data.listing.open", fail, raising=False)
    assert [*names(tmp_path)] == [["a.jpg", "b.PNG"], ["c.txt", "d.json"]]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_of_no_encoding_that_are_no_photos_are_counted(tmp_path):
    draw(tmp_path / "a.jpg")
    (tmp_path / os.fsdecode(b"\xeb.\xeb")).touch()
    assert summary(scan(tmp_path)).encode("utf-8")
