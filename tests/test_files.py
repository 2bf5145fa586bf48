"""Tables for people: spreadsheets open them as UTF-8 and evaluate nothing, and what was written is read again."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carclf.data.boxes import read_boxes
from carclf.data.manifest import read_table
from carclf.files import read_csv, write_csv

NASTY = [
    "=1+1",
    "+49",
    "-Audi",
    "@x",
    "\t=1",
    "\n=1",
    "'=1",
    "''=1",
    "'quoted'",
    "-0.5",
    "Škoda",
    "a;b,c",
    'a "b"',
    "1e5",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("csv") / "table.csv"


@given(st.lists(st.one_of(st.none(), st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"])))))
def test_texts_come_back_exactly_and_no_cell_is_a_formula(place, texts):
    texts = [text for text in texts if text != "" and "\r" not in (text or "")]  # a scan leaves such names out
    table = pd.DataFrame({"path": texts, "n": range(len(texts))}).astype({"path": object})
    write_csv(table, place)
    cells = [row[0] for row in csv.reader(io.StringIO(place.read_text("utf-8-sig"), newline=""))][1:]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r\n"))]
    again = read_csv(place, keep_default_na=False, na_values={"path": ""}, dtype={"path": object})
    assert again.path.astype(object).where(again.path.notna(), None).tolist() == texts


def test_numbers_are_not_quoted_and_an_index_with_a_name_is_a_column(place):
    table = pd.DataFrame({"x": [-0.5, 2], "y": [-1, 1], "ok": [True, False]}, pd.Index(["-Audi", "BMW"], name="brand"))
    write_csv(table, place)
    assert place.read_bytes().startswith(b"brand,x,y,ok\n'-Audi,-0.5,-1,True\n")
    pd.testing.assert_frame_equal(
        read_csv(place, dtype={"brand": object}).set_index("brand"), table, check_index_type=False
    )
    write_csv(table.rename({"BMW": "Citroën"}), place)
    assert place.read_bytes().startswith(b"\xef\xbb\xbfbrand")  # only then spreadsheets need the mark
    assert pd.read_csv(place).columns.tolist() == ["brand", "x", "y", "ok"]  # other readers skip it


@pytest.mark.parametrize(
    "text",
    [
        "path,x0,y0,x1,y1,score\na.jpg,1,2.5,30,40,0.25\n",
        "path;x0;y0;x1;y1;score\na.jpg;1;2,5;30;40;0,25\n",
        "path;x0;y0;x1;y1;score\na.jpg;1;2.5;30;40;0.25\n",
        "path\tx0\ty0\tx1\ty1\tscore\na.jpg\t1\t2,5\t30\t40\t0,25\n",
        "path;x0;y0;x1;y1;score\na.jpg;1;25e-1;30;40;2.5e-1\n",
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_of_spreadsheets_of_other_countries_are_read(tmp_path, text, mark):
    (tmp_path / "boxes.csv").write_text(mark + text, encoding="utf-8")
    assert read_boxes(tmp_path / "boxes.csv").to_numpy().tolist() == [["a.jpg", 1, 2.5, 30, 40, 0.25]]


def test_a_decimal_point_may_stand_in_any_cell(tmp_path):
    for text in ("time;x0\n0.5;10\n1;20\n", "time;x0\n1;10\n0.5;20\n", "x0;time\n10;1\n20;0.5\n"):
        (tmp_path / "boxes.csv").write_text(text)
        assert sorted(read_csv(tmp_path / "boxes.csv")["time"]) == [0.5, 1]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_split_that_a_spreadsheet_saved_is_read(tmp_path, separator):
    (tmp_path / "a.jpg").touch()
    row = {"path": str(tmp_path / "a.jpg"), "brand": "Audi", "vehicle": "'=a", "problem": "", "split": "test"}
    text = separator.join(row) + "\n" + separator.join(row.values()) + "\n"
    (tmp_path / "split.csv").write_text(text, encoding="utf-8-sig")
    table = read_table(tmp_path / "split.csv")
    assert table[["brand", "vehicle", "split"]].to_numpy().tolist() == [["Audi", "=a", "test"]]
    for encoding in ("utf-16", "cp1252"):
        (tmp_path / "split.csv").write_text(text + "Škoda", encoding=encoding)
        with pytest.raises(ValueError, match=r"split\.csv is not a table .*; give the split\.csv of a run"):
            read_table(tmp_path / "split.csv")
