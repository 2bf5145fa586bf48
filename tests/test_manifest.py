"""A scan reads every name and photo of a folder, and its table says what was found."""

import os
import re
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf.brands import parse_brand
from carclf.data.manifest import COLUMNS, describe, read_test, scan, set_aside, summary, usable
from carclf.data.splits import split

windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names or links")
LISTING = "Audi_{}_2015_37_18_250_20_4_70_54_180_16_AWD_5_4_4dr_{}.jpg"


def draw(path, seed=None, size=(40, 30)):
    """A unique photo, or the one of the seed; a suffix that Pillow does not know gets a JPEG too."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, "JPEG")


def cells(frame: pd.DataFrame) -> list[list]:
    """All values, None for missing ones, whatever the column types of this pandas."""
    return frame.astype(object).where(frame.notna(), None).to_numpy().tolist()


def test_scan_has_one_row_per_photo_sorted_by_path_and_ignores_other_files(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    photos = ["b/Audi_A4_2.jpg", "Audi_A4_1.jpg", "a/BMW_X5_1.PNG", "a b.jpeg", "a/Volvo V70 2008_3.webp"]
    others = ["notes.txt", "Thumbs.db", "Audi_A4_1.jpg.part"]
    hidden = [".Audi_A4_2.jpg", "._Audi_A4_1.jpg", ".trash/Audi_A4_3.jpg"]
    for name in (*photos, *others, *hidden):
        draw(folder / name)
    manifest = scan(folder)
    assert tuple(manifest.columns) == COLUMNS
    assert manifest.path.tolist() == sorted(str(folder / name) for name in photos)
    assert manifest.index.tolist() == list(range(5))
    assert manifest.bytes.tolist() == [os.stat(p).st_size for p in manifest.path]  # noqa: PTH116
    assert set(zip(manifest.width, manifest.height, strict=True)) == {(40, 30)}
    assert manifest.problem.isna().all()
    monkeypatch.chdir(tmp_path)
    assert cells(scan("photos")) == cells(manifest)


def test_brand_is_read_from_the_name_else_from_the_folder(tmp_path):
    for name in ("Audi/001.jpg", "Audi/BMW_Isetta_1.jpg", "misc/001.jpg", "Audi/deep/001.jpg", "misc/Mustang_2.jpg"):
        draw(tmp_path / name)
    manifest = scan(tmp_path)
    assert "the folder: 2, the name: 1, only a model, such as 'Mustang': 1" in summary(manifest)
    found = manifest[["path", "brand", "model", "label_from"]]
    assert {os.path.relpath(path, tmp_path).replace(os.sep, "/"): row for path, *row in cells(found)} == {
        "Audi/001.jpg": ["Audi", None, "folder"],
        "Audi/BMW_Isetta_1.jpg": ["BMW", "Isetta", "name"],
        "Audi/deep/001.jpg": ["Audi", None, "folder"],
        "misc/001.jpg": [None, None, None],
        "misc/Mustang_2.jpg": ["Ford", "Mustang", "model"],
    }


def test_photos_of_one_listing_are_one_vehicle(photo_folder, tmp_path):
    manifest = scan(photo_folder)
    assert sorted(manifest.vehicle.value_counts()) == [2] * 8 + [3] * 8
    assert (manifest.groupby("vehicle").model.nunique() == 1).all()
    assert manifest.brand.unique().tolist() == ["Alfa Romeo", "Audi", "BMW", "Volvo"]
    assert (manifest.groupby("brand").model.nunique() == 4).all()
    assert set(manifest.label_from) == {"name"}
    for folder, letters in (("front", "aBc"), ("rear", "xYz")):
        draw(tmp_path / folder / LISTING.format("A4", letters))
    assert scan(tmp_path).vehicle.nunique() == 1


def test_bad_photos_are_set_aside_with_their_reason(tmp_path):
    draw(tmp_path / "Audi_A4_1.jpg")
    draw(tmp_path / "Audi_A4_6.jpg", size=(100, 8))
    (tmp_path / "Audi_A4_2.jpg").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "Audi_A4_3.jpg").touch()
    data = (tmp_path / "Audi_A4_1.jpg").read_bytes()
    (tmp_path / "Audi_A4_4.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "Audi_A4_5.jpg").mkdir()  # a folder is not a photo, whatever its name
    manifest = scan(tmp_path)
    reasons = manifest.problem.fillna("").str.split(":").str[0].tolist()
    assert reasons == ["", "not an image", "empty", "truncated", "too small"]
    assert manifest.bytes.tolist()[1:3] == [15, 0]
    bad = manifest[manifest.problem.notna()]
    assert (bad[["width", "height"]] == 0).all(axis=None)
    assert bad.brand.eq("Audi").all()
    assert usable(manifest).path.tolist() == [str(tmp_path / "Audi_A4_1.jpg")]


def test_a_folder_without_photos_and_a_missing_one_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"no photos in {tmp_path}: put files such as 'Audi_A4_1.jpg'")):
        scan(tmp_path)
    draw(tmp_path / "file.jpg")
    with pytest.raises(NotADirectoryError, match=r"file\.jpg is not a folder; give the folder that holds the photos"):
        scan(tmp_path / "file.jpg")
    (tmp_path / "images").mkdir()
    message = r"there is no folder .*imagse; did you mean 'images'\?; give the folder that holds the photos"
    with pytest.raises(NotADirectoryError, match=message):
        scan(tmp_path / "imagse")


@windows
def test_strange_names_survive_scan_and_table(tmp_path):
    names = [
        "Audi_A4_1\nnew line.jpg",
        'Audi_A4, "quoted"_2.jpg',
        "Citroën_C4_3.jpg",
        "Citroe\u0308n_C4_4.jpg",  # the accent is a separate character
        "Audi_奥迪_🚗_5.jpg",
        "Audi_A4_" + "x" * 243 + ".jpg",
        " Audi_A4_7 .jpg",
        "-Audi_A4_8.jpg",
        "NA.jpg",
    ]
    for name in names:
        draw(tmp_path / name)
    manifest = scan(tmp_path)
    assert manifest.path.tolist() == sorted(str(tmp_path / name) for name in names)
    assert cells(manifest[["brand"]]) == [[parse_brand(path)] for path in manifest.path]
    assert {"Audi", "Citroën"} <= set(manifest.brand.dropna())
    assert manifest.problem.isna().all()
    manifest.assign(split="test").to_csv(tmp_path / "split.csv", index=False, encoding="utf-8")
    assert cells(read_test(tmp_path / "split.csv")[list(COLUMNS)]) == cells(manifest)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_no_table_can_hold_are_left_out_with_a_warning(tmp_path):
    for name in ("Audi_A4_1.jpg", "Audi_A4\r2.jpg", os.fsdecode(b"Citro\xebn_C4_1.jpg")):
        draw(tmp_path / name)
    with pytest.warns(UserWarning, match=r"2 names are not UTF-8 or hold .* such as '.*'; they are left out"):
        assert len(scan(tmp_path)) == 1


@windows
def test_links_and_pipes_do_not_stop_the_scan(tmp_path):
    draw(tmp_path / "Audi_A4_1.jpg")
    (tmp_path / "Audi_A4_2.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "Audi_A4_3.jpg").symlink_to("Audi_A4_3.jpg")
    os.mkfifo(tmp_path / "Audi_A4_4.jpg")
    manifest = scan(tmp_path)
    assert manifest.problem.isna().tolist() == [True, False, False, False]
    assert manifest.problem[1:].str.startswith("unreadable").all()


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    draw(tmp_path / "Audi_A4_1.jpg")
    draw(tmp_path / "locked" / "Audi_A4_2.jpg")
    listing = os.scandir

    def locked(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.warns(UserWarning, match=r"1 folders cannot be read, such as '.*locked' \(Permission denied\); their"):
        assert len(scan(tmp_path)) == 1


def test_copies_are_one_vehicle_across_folders_and_set_aside_if_they_have_two_brands(tmp_path):
    same, contradictory = ("a/Audi_A4_1.jpg", "b/Audi_A4_2.jpg", "b/u.jpg"), ("b/Kia.jpg", "b/c/Seat.jpg", "b/v.jpg")
    for name in (*same, *contradictory):
        draw(tmp_path / name, seed=int(name in same))
    for name, colour in (("b/Audi_A4_3.bmp", "red"), ("b/BMW_X5_1.bmp", "blue")):  # files of equal size
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    manifest = scan([tmp_path / "a", tmp_path / "b", tmp_path / "b" / "c"])
    assert manifest.index.is_unique and manifest.path.is_unique
    one, two = (manifest.path.isin([str(tmp_path / name) for name in names]) for names in (same, contradictory))
    assert (manifest.vehicle[one].nunique(), manifest.vehicle[two].nunique(), manifest.vehicle.nunique()) == (1, 1, 4)
    assert manifest.problem[two].tolist() == ["contradiction: the same photo is named Kia and SEAT"] * 3
    assert manifest.problem[~two].isna().all()
    assert manifest.bytes[~one & ~two].nunique() == 1


def test_summary_and_set_aside_tell_what_is_not_usable_and_why(tmp_path):
    for name in ("Audi_A4_1.jpg", "Audi_A4_2.jpg", "BMW/1.jpg", "below/photo_001.jpg", "photo_0002.jpg"):
        draw(tmp_path / name)
    (tmp_path / "Audi_A4_3.jpg").write_bytes(b"junk")
    (tmp_path / "Audi_A4_4.jpg").touch()
    (tmp_path / "Audi_A4_5.jpg").touch()
    manifest = scan(tmp_path)
    assert summary(manifest).splitlines() == [
        "8 photos, 3 usable: 2 brands, 3 vehicles",
        "brand read from the name: 5, the folder: 1",
        "no brand in 2 names: photo_<digits> (2)",
        "set aside: empty (2), not an image (1)",
    ]
    nameless = manifest[manifest.brand.isna()]
    assert "no name carries a brand" in summary(nameless)
    rest, unread = set_aside(manifest), "neither the name nor the folder carries a brand"
    assert rest.reason.iloc[0].startswith("not an image")
    assert cells(rest[1:]) == [
        *([f"Audi_A4_{n}.jpg", "Audi", "empty: the file has no bytes"] for n in (4, 5)),
        [os.path.join("below", "photo_001.jpg"), None, unread],  # noqa: PTH118
        ["photo_0002.jpg", None, unread],
    ]
    assert set_aside(manifest[:0]).columns.tolist() == rest.columns.tolist() == ["path", "brand", "reason"]
    with pytest.raises(ValueError, match=r"none of the 2 photos is readable .*, such as 'photo_001\.jpg': name photos"):
        describe(nameless)


def test_photos_that_cannot_be_used_are_not_said_to_be_without_a_name(tmp_path):
    for n in (1, 2):
        draw(tmp_path / f"Audi_A4_{n}.jpg", size=(1, 1))
    (tmp_path / "BMW_1.jpg").touch()
    reasons = r"too small \(2\), empty \(1\); such as 'Audi_A4_1\.jpg': too small: 1 × 1 pixels"
    with pytest.raises(ValueError, match=rf"none of the 3 photos can be used: {reasons}"):
        describe(scan(tmp_path))
    draw(tmp_path / "unnamed.jpg")
    with pytest.raises(ValueError, match=r"none of the 4 photos can be used: .*, without a brand \(1\); such as"):
        describe(scan(tmp_path))


def test_one_long_name_does_not_widen_tables_and_lines(tmp_path):
    for name in ("x" * 200 + "_12.jpg", "Audi" + "y" * 200 + ".jpg"):
        draw(tmp_path / name)
    manifest = scan(tmp_path)
    assert set_aside(manifest).path.iloc[-1] == "x" * 40 + "…" + "x" * 32 + "_12.jpg"
    assert max(map(len, summary(manifest).splitlines())) < 250


def test_a_photo_with_a_whole_picture_in_a_broken_file_is_used_and_said(tmp_path):
    for n in range(3):
        draw(tmp_path / f"Audi_A4_{n}.jpg")
    for n in (1, 2):
        data = (tmp_path / f"Audi_A4_{n}.jpg").read_bytes()
        (tmp_path / f"Audi_A4_{n}.jpg").write_bytes(data[:-n])
    note = "the file breaks off, but all pixels are there"
    for _ in range(2):  # the second time it is remembered
        manifest = scan(tmp_path)
        assert cells(manifest[["problem", "note"]]) == [[None, None], [None, note], [None, note]]
        assert f"used although not whole: {note} (2)" in summary(manifest)


def test_describe_counts_what_a_folder_offers(tmp_path):
    for n in range(3):
        draw(tmp_path / f"Audi A4_{n}.jpg", size=(40 + 10 * n, 30))
    for name in ("BMW X5_1.jpg", "BMW X3_2.jpg"):
        draw(tmp_path / name, seed=5)
    for letters in ("abc", "xyz"):
        draw(tmp_path / LISTING.format("A6", letters), size=(50, 60))
    (tmp_path / "BMW_X5_3.jpg").touch()
    draw(tmp_path / "Kia Rio_1.jpg", seed=6)
    draw(tmp_path / "unnamed.jpg")
    found = describe(scan(tmp_path))
    columns = ["brand", "photos", "vehicles", "models", "share", "more_than_once", "suspect", "set_aside"]
    expected = {"Audi": [5, 4, 2, 5 / 8, 0, 0, 0], "BMW": [2, 1, 2, 2 / 8, 2, 0, 1], "Kia": [1, 1, 1, 1 / 8, 0, 0, 0]}
    assert found.brands.reset_index().columns.tolist() == columns
    assert found.brands.T.to_dict("list") == expected
    assert found.sizes.width.tolist()[0] == 40
    assert found.sizes.shorter_side.tolist()[-1] == 50
    assert found.problems.photos.to_dict() == {"empty": 1, "neither the name nor the folder carries a brand": 1}
    assert found.problems.example["empty"] == "BMW_X5_3.jpg"
    assert found.imbalance == 5


def test_read_test_gives_the_rows_marked_test_or_scans_a_folder(tmp_path, photo_folder):
    manifest = split(scan(photo_folder))
    manifest.loc[manifest.split.eq("test").idxmax(), "model"] = "NA"  # a Mazda MX-5, not a missing value
    manifest.to_csv(tmp_path / "split.csv", index=False, encoding="utf-8")
    test = read_test(tmp_path / "split.csv")
    assert test.columns.tolist() == [*COLUMNS, "split"]
    assert cells(test) == cells(manifest[manifest.split == "test"])
    assert [test[c].dtype for c in ("width", "height", "bytes")] == ["int64"] * 3
    assert test.index.tolist() == list(range(len(test)))
    folder = tmp_path / "photos.csv"
    draw(folder / "Audi_A4_1.jpg")
    assert cells(read_test(folder)) == cells(scan(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"path,brand\na.jpg,Audi\n", r"split\.csv lacks the columns problem, split, vehicle; give"),
        (b"path,brand,vehicle,problem,split\na.jpg,Audi,a,,test\n,Audi,b,,test\n", r"has no path in row 3; give"),
        (b"path,brand,vehicle,problem,split\na.jpg,Audi,a,,train\n", r"no row of .*split\.csv is marked test; give"),
        (b"", r"split\.csv .*give the split\.csv of a run"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", r"split\.csv .*give the split\.csv of a run"),
        (b'a,b\n"1', r"split\.csv .*give the split\.csv of a run"),
    ],
)
def test_read_test_refuses_what_is_not_a_split(tmp_path, text, message):
    path = tmp_path / "split.csv"
    with pytest.raises(FileNotFoundError, match=r"there is no .*split\.csv; give the split\.csv of a run, or a folder"):
        read_test(path)
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_test(path)
    with pytest.raises(NotADirectoryError):
        read_test(tmp_path / "absent")


def test_a_table_of_an_earlier_version_can_still_be_read(tmp_path, photo_folder):
    old = split(scan(photo_folder)).drop(columns=["sha256", "fingerprint", "cluster", "suspect"])
    old.to_csv(tmp_path / "split.csv", index=False)
    test = read_test(tmp_path / "split.csv")
    assert set(COLUMNS) <= set(test)
    assert "brands" in summary(test)
    assert len(describe(test).brands) == 4
    again = split(scan(photo_folder), seed=9, previous_split=tmp_path / "split.csv")
    assert again.split.tolist() == old.split.tolist()
