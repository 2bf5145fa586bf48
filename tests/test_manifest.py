"""A scan reads every name and photo of a folder."""

import os
import re
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf.brands import parse_brand
from carclf.manifest import COLUMNS, read_test, report, scan, set_aside, summary, usable
from carclf.splits import split

windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names or links")
LISTING = "Audi_{}_2015_37_18_250_20_4_70_54_180_16_AWD_5_4_4dr_{}.jpg"


def draw(path, seed=None, size=(40, 30)):
    """A photo of its own, or the one of the seed; an ending that Pillow does not know gets a JPEG too."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, "JPEG")


def cells(frame: pd.DataFrame) -> list[list]:
    """All values, None where one is missing, whatever the column types of this pandas."""
    return frame.astype(object).where(frame.notna(), None).to_numpy().tolist()


# --- scan


def test_scan_has_one_row_a_photo_sorted_by_path(tmp_path):
    for name in ("b/Audi_A4_2.jpg", "Audi_A4_1.jpg", "a/BMW_X5_1.PNG", "a b.jpeg", "a/Volvo V70 2008_3.webp"):
        draw(tmp_path / name)
    manifest = scan(tmp_path)
    assert tuple(manifest.columns) == COLUMNS
    assert manifest.path.tolist() == sorted(str(p) for p in tmp_path.rglob("*.*") if p.is_file())
    assert manifest.index.tolist() == list(range(5))
    assert manifest.bytes.tolist() == [os.stat(p).st_size for p in manifest.path]  # noqa: PTH116
    assert set(zip(manifest.width, manifest.height, strict=True)) == {(40, 30)}
    assert manifest.problem.isna().all()


def test_scan_does_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    draw(tmp_path / "photos" / "Audi_A4_1.jpg")
    monkeypatch.chdir(tmp_path)
    assert cells(scan("photos")) == cells(scan(tmp_path / "photos"))


def test_scan_reads_brand_from_name_then_folder_then_not_at_all(tmp_path):
    for name in ("Audi/001.jpg", "Audi/BMW_Isetta_1.jpg", "misc/001.jpg", "Audi/deep/001.jpg"):
        draw(tmp_path / name)
    manifest = scan(tmp_path)
    found = {
        os.path.relpath(path, tmp_path).replace(os.sep, "/"): row
        for path, *row in cells(manifest[["path", "brand", "model", "label_from"]])
    }
    assert found == {
        "Audi/001.jpg": ["Audi", None, "folder"],
        "Audi/BMW_Isetta_1.jpg": ["BMW", "Isetta", "name"],
        "Audi/deep/001.jpg": [None, None, None],
        "misc/001.jpg": [None, None, None],
    }


def test_photos_of_one_listing_are_one_vehicle(photo_folder):
    manifest = scan(photo_folder)
    assert sorted(manifest.vehicle.value_counts()) == [2] * 8 + [3] * 8
    assert (manifest.groupby("vehicle").model.nunique() == 1).all()
    assert manifest.brand.unique().tolist() == ["Alfa Romeo", "Audi", "BMW", "Volvo"]
    assert (manifest.groupby("brand").model.nunique() == 4).all()
    assert set(manifest.label_from) == {"name"}


def test_a_listing_over_two_folders_is_one_vehicle(tmp_path):
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
    (tmp_path / "Audi_A4_5.jpg").mkdir()  # a folder is no photo, whatever its name
    manifest = scan(tmp_path)
    reasons = manifest.problem.fillna("").str.split(":").str[0].tolist()
    assert reasons == ["", "not an image", "empty", "truncated", "too small"]
    assert manifest.bytes.tolist()[1:3] == [15, 0]
    bad = manifest[manifest.problem.notna()]
    assert (bad[["width", "height"]] == 0).all(axis=None)
    assert bad.brand.eq("Audi").all()
    assert usable(manifest).path.tolist() == [str(tmp_path / "Audi_A4_1.jpg")]


def test_other_files_are_ignored(tmp_path):
    draw(tmp_path / "Audi_A4_1.jpg")
    for name in ("notes.txt", "Thumbs.db", "jpg", "Audi_A4_1.jpg.part"):
        draw(tmp_path / name)
    for name in (".Audi_A4_2.jpg", "._Audi_A4_1.jpg", ".trash/Audi_A4_3.jpg"):
        draw(tmp_path / name)
    assert len(scan(tmp_path)) == 1


def test_folder_without_photos_says_what_to_do(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=re.escape(f"no photos in {tmp_path}: put files such as 'Audi_A4_1.jpg'")):
        scan(tmp_path)


@pytest.mark.parametrize("name", ["absent", "file.jpg"])
def test_missing_folder_says_what_to_do(tmp_path, name):
    draw(tmp_path / "file.jpg")
    with pytest.raises(NotADirectoryError, match=r"is not a folder; give the folder that holds the photos"):
        scan(tmp_path / name)


@windows
def test_strange_names_survive_scan_and_table(tmp_path):
    names = [
        "Audi_A4_1\nnew line.jpg",
        'Audi_A4, "quoted"_2.jpg',
        "Citroën_C4_3.jpg",
        "Citroe\u0308n_C4_4.jpg",  # the accent a character of its own
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
def test_name_that_no_table_can_hold_is_left_out_aloud(tmp_path):
    draw(tmp_path / "Audi_A4_1.jpg")
    draw(tmp_path / "Audi_A4\r2.jpg")
    draw(tmp_path / "x.jpg")
    os.rename(tmp_path / "x.jpg", os.fsencode(tmp_path) + b"/Citro\xebn_C4_1.jpg")  # noqa: PTH104
    with pytest.warns(UserWarning, match=r"2 names are not UTF-8 or hold .* such as '.*'; they are left out"):
        assert len(scan(tmp_path)) == 1


@windows
def test_links_neither_loop_nor_stop_the_scan(tmp_path):
    draw(tmp_path / "Audi_A4_1.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "Audi_A4_2.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "Audi_A4_3.jpg").symlink_to("Audi_A4_3.jpg")
    os.mkfifo(tmp_path / "Audi_A4_4.jpg")
    manifest = scan(tmp_path)
    assert manifest.problem.isna().tolist() == [True, False, False, False]
    assert manifest.problem[1:].str.startswith("unreadable").all()


# --- copies


def test_copies_are_one_vehicle(tmp_path):
    for name in ("Audi_A4_1.jpg", "Audi_A4_2.jpg", "unnamed.jpg"):
        draw(tmp_path / name, seed=1)
    draw(tmp_path / "Audi_A4_3.jpg", seed=2)
    manifest = scan(tmp_path)
    assert manifest.problem.isna().all()
    assert manifest.vehicle[[0, 1, 3]].nunique() == 1
    assert manifest.vehicle[2] != manifest.vehicle[0]


def test_copy_merges_whole_vehicles_and_chains(tmp_path):
    for vehicle, seeds in {"A4": (1, 2), "A5": (2, 3), "A6": (3, 4), "A8": (5, 6)}.items():
        for letters, seed in zip(("aaa", "bbb"), seeds, strict=True):
            draw(tmp_path / LISTING.format(vehicle, letters), seed)
    assert sorted(scan(tmp_path).vehicle.value_counts()) == [2, 6]


def test_copies_under_two_brands_are_set_aside(tmp_path):
    for name in ("Audi_A4_1.jpg", "BMW_X5_1.jpg", "unnamed.jpg"):
        draw(tmp_path / name, seed=1)
    draw(tmp_path / "Audi_A4_2.jpg")
    manifest = scan(tmp_path)
    contradiction = "contradiction: the same photo is named Audi and BMW"
    assert cells(manifest[["problem"]]) == [[contradiction], [None], [contradiction], [contradiction]]


def test_equal_size_is_no_copy(tmp_path):
    for name, colour in (("Audi_A4_1.bmp", "red"), ("BMW_X5_1.bmp", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    manifest = scan(tmp_path)
    assert manifest.bytes.nunique() == 1
    assert manifest.vehicle.nunique() == 2
    assert manifest.problem.isna().all()


# --- what a scan says


def test_summary_names_sources_patterns_and_problems(tmp_path):
    for name in ("Audi_A4_1.jpg", "Audi_A4_2.jpg", "BMW/1.jpg", "photo_001.jpg", "photo_0002.jpg"):
        draw(tmp_path / name)
    (tmp_path / "Audi_A4_3.jpg").write_bytes(b"junk")
    (tmp_path / "Audi_A4_4.jpg").touch()
    (tmp_path / "Audi_A4_5.jpg").touch()
    assert summary(scan(tmp_path)).splitlines() == [
        "8 photos, 3 usable: 2 brands, 3 vehicles",
        "brand read from the name: 5, the folder: 1",
        "no brand in 2 names: photo_<digits> (2)",
        "set aside: empty (2), not an image (1)",
    ]


def test_summary_without_any_brand(tmp_path):
    draw(tmp_path / "photo_001.jpg")
    assert "no name carries a brand" in summary(scan(tmp_path))


def test_set_aside_lists_what_is_not_usable(tmp_path):
    for name in ("Audi_A4_1.jpg", "below/photo.jpg"):
        draw(tmp_path / name)
    (tmp_path / "Audi_A4_2.jpg").touch()
    rest = set_aside(scan(tmp_path))
    assert rest.columns.tolist() == ["path", "brand", "reason"]
    assert cells(rest) == [
        ["Audi_A4_2.jpg", "Audi", "empty: the file has no bytes"],
        [os.path.join("below", "photo.jpg"), None, "neither the name nor the folder carries a brand"],  # noqa: PTH118
    ]


# --- read_test


def test_read_test_gives_back_the_rows_marked_test(tmp_path, photo_folder):
    manifest = split(scan(photo_folder))
    manifest.loc[manifest.split.eq("test").idxmax(), "model"] = "NA"  # a Mazda MX-5 is one, and not a missing value
    manifest.to_csv(tmp_path / "split.csv", index=False, encoding="utf-8")
    test = read_test(tmp_path / "split.csv")
    assert test.columns.tolist() == [*COLUMNS, "split"]
    assert cells(test) == cells(manifest[manifest.split == "test"])
    assert [test[c].dtype for c in ("width", "height", "bytes")] == ["int64"] * 3
    assert test.index.tolist() == list(range(len(test)))


def test_read_test_takes_a_folder_as_it_is(tmp_path):
    folder = tmp_path / "photos.csv"
    draw(folder / "Audi_A4_1.jpg")
    assert cells(read_test(folder)) == cells(scan(folder))


def test_read_test_refuses_what_is_no_split(tmp_path):
    path = tmp_path / "split.csv"
    with pytest.raises(FileNotFoundError, match=r"there is no .*split\.csv; give the split\.csv of a run, or a folder"):
        read_test(path)
    path.write_text("path,brand\na.jpg,Audi\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"split\.csv lacks the columns problem, split, vehicle; give"):
        read_test(path)
    path.write_text("path,brand,vehicle,problem,split\na.jpg,Audi,a,,train\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no row of .*split\.csv is marked test; give"):
        read_test(path)
    for junk in (b"", b"\xff\xd8\xff\xe0\0\x10JFIF", b'a,b\n"1'):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match=r"split\.csv .*give the split\.csv of a run"):
            read_test(path)
    with pytest.raises(NotADirectoryError):
        read_test(tmp_path / "absent")


# --- the report


def test_report_counts_what_a_folder_offers(tmp_path):
    for n in range(3):
        draw(tmp_path / f"Audi A4_{n}.jpg", size=(40 + 10 * n, 30))
    draw(tmp_path / "BMW X5_1.jpg", seed=5)
    draw(tmp_path / "BMW X3_2.jpg", seed=5)
    for n in range(2):
        draw(tmp_path / LISTING.format("A6", ("abc", "xyz")[n]), size=(50, 60))
    (tmp_path / "BMW_X5_3.jpg").touch()
    draw(tmp_path / "Kia Rio_1.jpg", seed=6)
    draw(tmp_path / "unnamed.jpg")
    found = report(scan(tmp_path))
    assert found.brands.index.tolist() == ["Audi", "BMW", "Kia"]
    assert found.brands.photos.tolist() == [5, 2, 1]
    assert found.brands.vehicles.tolist() == [4, 1, 1]
    assert found.brands.models.tolist() == [2, 2, 1]
    assert found.brands.share.tolist() == [5 / 8, 2 / 8, 1 / 8]
    assert found.brands.more_than_once.tolist() == [0, 2, 0]
    assert found.brands.suspect.tolist() == [0, 0, 0]
    assert found.brands.set_aside.tolist() == [0, 1, 0]
    assert found.sizes.width.tolist()[0] == 40
    assert found.sizes.shorter_side.tolist()[-1] == 50
    assert found.problems.photos.to_dict() == {"empty": 1, "neither the name nor the folder carries a brand": 1}
    assert found.problems.example["empty"] == "BMW_X5_3.jpg"
    assert found.imbalance == 5


def test_report_of_nothing_usable_says_what_to_do(tmp_path):
    draw(tmp_path / "unnamed.jpg")
    with pytest.raises(ValueError, match="none of the 1 photos is readable and carries a brand: name photos"):
        report(scan(tmp_path))


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


def test_several_folders_are_one_manifest_whose_copies_are_found(tmp_path):
    draw(tmp_path / "a" / "Audi_A4_1.jpg", seed=1)
    draw(tmp_path / "b" / "Audi_A4_1.jpg", seed=1)
    draw(tmp_path / "b" / "c" / "BMW_X5_1.jpg", seed=2)
    manifest = scan([tmp_path / "a", tmp_path / "b", tmp_path / "b" / "c"])
    assert len(manifest) == 3
    assert manifest.vehicle.nunique() == 2
    assert manifest.index.is_unique


def test_a_table_of_an_earlier_version_can_still_be_read(tmp_path, photo_folder):
    old = split(scan(photo_folder)).drop(columns=["sha256", "fingerprint", "cluster", "suspect"])
    old.to_csv(tmp_path / "split.csv", index=False)
    test = read_test(tmp_path / "split.csv")
    assert set(COLUMNS) <= set(test)
    assert "brands" in summary(test)
    assert len(report(test).brands) == 4
    again = split(scan(photo_folder), seed=9, previous=tmp_path / "split.csv")
    assert again.split.tolist() == old.split.tolist()
