"""A scan reads every name and photo of a folder, and a split never divides what belongs together."""

import os
import re
import shutil
import sys
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from carclf.brands import parse_brand
from carclf.manifest import COLUMNS, SPLITS, read_test, scan, set_aside, split, summary, usable

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


# --- split


def table(vehicles: list[tuple[str, str | None, int]]) -> pd.DataFrame:
    """A manifest of vehicles given as (brand, model, number of photos), as a scan would give it."""
    rows = [
        (f"/photos/{brand} {v:04}_{n}.jpg", brand, model, f"/photos/{brand} {v:04}", None)
        for v, (brand, model, photos) in enumerate(vehicles)
        for n in range(photos)
    ]
    columns = ["path", "brand", "model", "vehicle", "problem"]
    return pd.DataFrame(rows, columns=columns, dtype=object).sort_values("path", ignore_index=True)


def quiet_split(*args, **settings) -> pd.DataFrame:
    """`split` without the warning about small brands."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "brands with fewer than 3")
        return split(*args, **settings)


brands, models = st.sampled_from(["Audi", "BMW", "Kia"]), st.sampled_from([None, "a", "b", "c", "d"])
vehicle = st.tuples(brands, models, st.integers(1, 5))
manifests = st.lists(vehicle, min_size=2, max_size=30).filter(lambda v: len({brand for brand, *_ in v}) > 1).map(table)
shares = st.sampled_from([(0.7, 0.15, 0.15), (0.34, 0.33, 0.33), (0.9, 0.05, 0.05), (0.2, 0.2, 0.6)])
often = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def group_of(manifest: pd.DataFrame, whole: str) -> pd.Series:
    return {
        "vehicle": manifest.vehicle,
        "photo": manifest.path,
        "model": (manifest.brand + manifest.model).where(manifest.model.notna()),
    }[whole]


@often
@given(manifests, shares, st.integers(0, 5), st.sampled_from(["vehicle", "model", "photo"]))
def test_split_keeps_groups_whole_and_fractions_near(manifest, fractions, seed, whole):
    result = quiet_split(manifest, fractions, seed, whole)
    pd.testing.assert_frame_equal(result.drop(columns="split"), manifest)
    assert set(result.split) <= set(SPLITS)
    group = group_of(result, whole)
    assert (result.groupby(group).split.nunique() == 1).all()
    assert result.split[group.isna()].eq("train").all()
    for _, of_brand in result[group.notna()].groupby("brand"):
        sizes = group[of_brand.index].value_counts()
        if len(sizes) < 3:
            continue
        photos = of_brand.split.value_counts().reindex(SPLITS, fill_value=0)
        assert photos.min() > 0
        # No split ends more than one group above its share, so none more than two below.
        assert ((photos - np.array(fractions) * len(of_brand)).abs() < 2 * sizes.max()).all()


@often
@given(manifests, st.randoms(use_true_random=False), st.sampled_from(["vehicle", "model", "photo"]))
def test_split_depends_on_seed_and_photos_only(manifest, random, whole):
    first = quiet_split(manifest, whole=whole)
    assert first.split.equals(quiet_split(manifest.copy(), whole=whole).split)
    order = random.sample(range(len(manifest)), len(manifest))
    assert first.split.equals(quiet_split(manifest.iloc[order], whole=whole).split.sort_index())
    other = table([("Volvo", "V70", 2), ("Volvo", "S60", 3), ("Volvo", "S80", 1)])
    more = quiet_split(pd.concat([manifest, other], ignore_index=True), whole=whole)
    assert first.split.tolist() == more.split[: len(manifest)].tolist()


@often
@given(manifests, st.data())
def test_split_passes_over_rows_that_are_not_usable(manifest, data):
    flaw = st.sampled_from(["", "", "brand", "problem"])
    bad = np.array([data.draw(flaw) for _ in range(len(manifest))])
    marked = manifest.copy()
    marked.loc[bad == "brand", "brand"] = None
    marked.loc[bad == "problem", "problem"] = "truncated: half of it"
    if usable(marked).brand.nunique() < 2:
        return
    result = quiet_split(marked)
    assert result.split.isna().tolist() == (bad != "").tolist()
    assert result.split[bad == ""].tolist() == quiet_split(manifest[bad == ""]).split.tolist()


def test_fractions_hold_in_sum():
    rng = np.random.default_rng(0)
    manifest = table([(f"Brand {b}", None, int(rng.integers(1, 20))) for b in range(20) for _ in range(40)])
    photos = split(manifest).split.value_counts(normalize=True)
    np.testing.assert_allclose(photos[list(SPLITS)], (0.7, 0.15, 0.15), atol=0.01)
    assert not split(manifest, seed=1).split.equals(split(manifest).split)


def test_small_brands_are_named():
    manifest = table([("Audi", None, 2)] * 5 + [("BMW", None, 3), ("BMW", None, 1), ("Kia", None, 4)])
    with pytest.warns(UserWarning, match=r"fewer than 3 vehicles: BMW \(2\), Kia \(1\)\. One vehicle is only learned"):
        result = split(manifest)
    assert Counter(zip(result.brand, result.split, strict=True)) == {
        **{("Audi", s): n for s, n in result.split[result.brand == "Audi"].value_counts().items()},
        ("BMW", "train"): 3,
        ("BMW", "test"): 1,
        ("Kia", "train"): 4,
    }


def test_spellings_of_a_model_are_one_model():
    spellings = ["C Class", "C_CLASS", "c-class", "C CLASS"]
    vehicles = [("Audi", m, 2) for m in (*spellings, "A1", "A3", "A4")] + [("BMW", m, 1) for m in "abcC"]
    manifest = table(vehicles)
    for seed in range(10):
        result = quiet_split(manifest, seed=seed, whole="model")
        assert result.split[result.model.isin(spellings)].nunique() == 1
    assert result.split[result.brand == "BMW"].nunique() == 3


def test_copy_ties_two_models_together():
    manifest = table([("Audi", m, 2) for m in ("A1", "A3", "A4", "A5", "A6")] + [("BMW", m, 1) for m in "abc"])
    tied = manifest.model.isin(["A1", "A6"])
    manifest.loc[tied, "vehicle"] = "one vehicle under two names"
    for seed in range(10):
        assert split(manifest, seed=seed, whole="model").split[tied].nunique() == 1


def test_photos_without_a_model_stay_in_train():
    manifest = table([("Audi", None, 2)] * 9 + [("BMW", m, 1) for m in "abc"])
    with pytest.warns(UserWarning, match=r"fewer than 3 models: Audi \(0\)"):
        result = split(manifest, whole="model")
    assert set(result.split[result.brand == "Audi"]) == {"train"}
    assert set(result.split[result.brand == "BMW"]) == set(SPLITS)


def test_split_of_a_scan(photo_folder):
    for whole in ("vehicle", "model", "photo"):
        result = split(scan(photo_folder), whole=whole)
        assert (result.groupby("brand").split.nunique() == 3).all()
        assert (result.groupby("vehicle").split.nunique() == 1).all() == (whole != "photo")


@pytest.mark.parametrize("fractions", [(0.7, 0.3), (0.7, 0.2, 0.2), (1, 0, 0), (1.2, -0.1, -0.1)])
def test_wrong_fractions_are_refused(fractions):
    message = re.escape(f"fractions {fractions} must be three positive shares that sum to 1, such as")
    with pytest.raises(ValueError, match=message):
        split(table([("Audi", None, 1), ("BMW", None, 1)]), fractions)


def test_wrong_settings_are_refused():
    manifest = table([("Audi", None, 1), ("BMW", None, 1)])
    with pytest.raises(ValueError, match="whole='car' must be 'vehicle', 'model' or 'photo'"):
        split(manifest, whole="car")
    with pytest.raises(ValueError, match="all photos are of one brand, Audi; a classifier needs two or more: name"):
        split(manifest[manifest.brand == "Audi"])
    with pytest.raises(ValueError, match=r"none of the 2 photos .* such as 'Audi 0000_0\.jpg': name photos 'Audi_A4_1"):
        split(manifest.assign(brand=None))
    with pytest.raises(ValueError, match="none of the 0 photos is readable and carries a brand: name photos"):
        split(manifest[:0])


def test_split_is_the_same_wherever_the_photos_lie(photo_folder, tmp_path):
    moved = shutil.copytree(photo_folder, tmp_path / "elsewhere")
    assert split(scan(moved)).split.tolist() == split(scan(photo_folder)).split.tolist()
