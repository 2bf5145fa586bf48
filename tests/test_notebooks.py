import ast
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_in_git_carries_no_outputs(notebook):
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))


def test_nothing_is_left_to_fill_in(notebook):
    assert not re.findall(r"\b[TU]\d\b|\b(?:TRAIN|TEST)_[A-Z]+", "\n".join(cell.source for cell in notebook.cells))


def test_every_cell_has_an_id_of_its_own(notebook):
    names = [cell.id for cell in notebook.cells]
    assert sorted(names) == sorted(set(names))


def test_a_notebook_defines_nothing_and_loops_over_nothing(notebook):
    forbidden = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While)
    for cell in code(notebook):
        assert not any(isinstance(node, forbidden) for node in ast.walk(ast.parse(cell.source))), cell.source


def test_every_call_is_introduced_by_prose_and_settings_stand_in_one_tagged_cell(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1


def test_a_cell_with_a_progress_bar_shows_nothing_else(notebook):
    bars = ("carclf.scan(", ".build(", "carclf.fit(", "score_splits(", "carclf.calibrate_on_valid(", "carclf.evaluate(")
    bars += ("carclf.predict_video(",)
    for cell in code(notebook):
        if any(bar in cell.source for bar in bars):
            assert isinstance(ast.parse(cell.source).body[-1], ast.Assign), cell.source
