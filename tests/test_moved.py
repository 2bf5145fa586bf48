"""Photos that were moved are found again, or said to be missing before anything else is."""

import shutil
import warnings

import pandas as pd
import pytest
from test_manifest import cells, windows

from carclf.data.manifest import read_table, read_test, scan
from carclf.data.splits import split
from carclf.files import write_csv


@pytest.fixture
def project(tmp_path, photo_folder):
    """A project with its photos in images/ and a run in runs/first/."""
    root = tmp_path / "project"
    shutil.copytree(photo_folder, root / "images" / "cars")
    (root / "runs" / "first").mkdir(parents=True)
    write_csv(split(scan(root / "images")), root / "runs" / "first" / "split.csv")
    return root


def test_a_table_of_photos_that_are_where_they_were_is_read_silently(project):
    table = read_table(project / "runs/first/split.csv")
    assert cells(table) == cells(split(scan(project / "images")))
    assert cells(read_test(project / "runs/first/split.csv")) == cells(table[table.split == "test"])


@pytest.mark.parametrize("moved", ["elsewhere", "deep/er/elsewhere"])
def test_photos_of_a_project_that_was_moved_as_a_whole_are_found(project, moved):
    before = read_table(project / "runs/first/split.csv")
    root = project.parent / moved
    root.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(project, root)
    shutil.rmtree(project)
    message = rf"40 of 40 photos of .*split\.csv were found in {root / 'images' / 'cars'} instead of {project}"
    with pytest.warns(UserWarning, match=message) as caught:
        table = read_table(root / "runs/first/split.csv")
    assert len(caught) == 1
    assert table.path.tolist() == [path.replace(str(project), str(root)) for path in before.path]
    assert cells(table.drop(columns="path")) == cells(before.drop(columns="path"))
    with pytest.warns(UserWarning, match=message):
        assert cells(read_test(root / "runs/first/split.csv")) == cells(table[table.split == "test"])


@pytest.mark.parametrize("given", ["new/cars", "new"])  # the folder that holds all photos, or the one above it
def test_photos_that_were_moved_are_found_where_the_user_says(project, given):
    split_csv = project / "runs/first/split.csv"
    before = read_table(split_csv)
    (project / "images").rename(project.parent / "new")
    with pytest.warns(UserWarning, match=r"40 of 40 photos of .* were found in .*cars instead of .*images/cars"):
        table = read_table(split_csv, photos=project.parent / given)
    assert table.path.tolist() == [path.replace("project/images", "new") for path in before.path]
    with pytest.warns(UserWarning, match="were found in"):
        test = read_test(split_csv, photos=project.parent / given)
    assert test.path.tolist() == table.path[table.split == "test"].tolist()


def test_a_place_that_does_not_hold_the_photos_is_refused(project):
    split_csv = project / "runs/first/split.csv"
    for read in (read_table, read_test):
        with pytest.raises(
            FileNotFoundError, match=r"no folder .*imagse; did you mean 'images'\?; give the folder that"
        ):
            read(split_csv, photos=project / "imagse")
        message = (
            r"none of the 40 photos of .* is in .*runs, such as .*runs/.*\.jpg; give the folder that stands for .*cars"
        )
        with pytest.raises(FileNotFoundError, match=message):
            read(split_csv, photos=project / "runs")


def test_other_photos_of_the_same_names_are_not_taken_for_the_missing_ones(project):
    shutil.copytree(project / "images", project / "runs" / "first" / "images")
    shutil.rmtree(project / "images")
    for path in (project / "runs" / "first" / "images").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"x")
    with pytest.warns(
        UserWarning, match=r"40 of 40 photos of .*split\.csv are missing, such as /.*; if the folder was"
    ):
        read_table(project / "runs/first/split.csv")


def test_missing_photos_are_said_first_and_a_smaller_test_is_refused_unless_asked_for(project):
    split_csv = project / "runs/first/split.csv"
    table = read_table(split_csv)
    tested = table.path[table.split == "test"].tolist()
    for path in table.path[::3]:
        (project / path).unlink()
    gone, left = len(table.path[::3]), [path for path in tested if path not in set(table.path[::3])]
    assert 0 < len(left) < len(tested)
    with pytest.warns(UserWarning, match=rf"^{gone} of 40 photos of .*split\.csv are missing, such as .*--photos DIR"):
        assert read_table(split_csv).path.tolist() == table.path.tolist()
    text = (
        rf"^{len(tested) - len(left)} of {len(tested)} test photos of .* are missing, such as .*; if the folder was mov"
    )
    with pytest.raises(
        FileNotFoundError, match=text + r"ed, give its new place with photos=.*; or test on the rest with"
    ):
        read_test(split_csv)
    with pytest.warns(UserWarning, match=text + ".*; the test is on the rest"):
        assert read_test(split_csv, skip_missing=True).path.tolist() == left
    for path in left:
        (project / path).unlink()
    with pytest.raises(FileNotFoundError, match=rf"^{len(tested)} of {len(tested)} test photos .* are missing"):
        read_test(split_csv, skip_missing=True)


def test_a_photo_that_was_set_aside_may_be_missing(project):
    split_csv = project / "runs/first/split.csv"
    table = read_table(split_csv)
    (project / table.path[3]).unlink()
    table.loc[3, "problem"] = "empty: the file has no bytes"
    write_csv(table, split_csv)
    assert read_table(split_csv).path.tolist() == table.path.tolist()


@windows
def test_a_table_of_windows_is_read_elsewhere_and_relative_paths_are_those_beside_it(project):
    split_csv = project / "runs/first/split.csv"
    table = read_table(split_csv)
    names = table.path.str.split("/").str[-1]
    for start in ("D:\\cars\\images\\cars\\", "images/cars/"):
        write_csv(table.assign(path=start + names), split_csv)
        with pytest.warns(UserWarning, match="40 of 40 photos of .* were found in .*project/images/cars instead of"):
            assert read_table(split_csv).path.tolist() == table.path.tolist()


def test_previous_splits_may_be_of_photos_that_are_gone(project):
    now = scan(project / "images")
    shutil.move(project / "runs", project.parent / "runs")
    before = pd.read_csv(project.parent / "runs/first/split.csv", encoding="utf-8-sig")
    write_csv(before.assign(path="/gone" + before.path), project.parent / "runs/first/split.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = split(now, seed=5, previous_split=project.parent / "runs/first/split.csv")
    assert after.split.tolist() == before.split.tolist()
