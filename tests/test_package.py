import ast
import subprocess
import sys
from pathlib import Path

import pytest

import carclf

PACKAGE = Path(carclf.__file__).parent
MUST_NOT_KNOW = {  # ARCHITECTURE.md, the table of rooms
    "brands": {"torch", "PIL"},
    "photos": {"torch", "carclf.brands"},
    "colours": {"torch", "carclf.photos"},
    "fingerprints": {"torch", "carclf.photos"},
    "inspection": {"torch", "carclf.brands"},
    "manifest": {"torch"},
    "splits": {"torch"},
    "archives": {"torch", "carclf.manifest"},
    "unpacking": {"torch", "carclf.manifest"},
    "downloading": {"torch", "carclf.manifest"},
    "cache_files": {"torch", "carclf.photos", "carclf.manifest"},
    "cache": {"carclf.models"},
    "augment": {"carclf.photos", "carclf.manifest", "carclf.cache"},
    "models": {"carclf.manifest", "carclf.cache"},
    "devices": {"carclf.manifest", "carclf.cache"},
    "novelty": {"torch"},
    "predictions": {"torch"},
    "explain": {"carclf.training"},
    "explain_page": {"torch"},
    "card": {"torch"},
    "classifier": {"carclf.training"},
    "shares": {"torch"},
    "intervals": {"torch", "carclf.manifest"},
    "comparisons": {"torch"},
    "calibration": {"torch"},
    "thresholds": {"torch"},
    "mistakes": {"torch", "PIL"},
    "style": {"torch", "carclf.photos"},
    "evaluation_plots": {"torch"},
    "cards": {"torch"},
    "html_page": {"torch"},
    "report_page": {"torch"},
    "assessment": {"carclf.training"},
    "objective": {"carclf.manifest", "carclf.cache", "carclf.models"},
    "recipes": {"torchvision", "carclf.manifest", "carclf.cache", "carclf.models"},
    "mixing": {"carclf.manifest", "carclf.cache", "carclf.models"},
    "dataset": {"carclf.models"},
    "processes": {"carclf.manifest", "carclf.cache"},
    "engine": {"carclf.checkpoints", "carclf.plots"},
    "checkpoints": {"carclf.manifest", "carclf.cache"},
    "records": {"carclf.manifest", "carclf.cache", "carclf.models"},
    "training": {"carclf.plots", "carclf.galleries", "carclf.widgets"},
    "split_scores": {"carclf.plots", "carclf.galleries", "carclf.widgets"},
    "lr_finder": {"carclf.plots", "carclf.galleries", "carclf.widgets"},
    "evaluation": {"torch"},
    "plots": {"torch"},
    "galleries": {"torch"},
    "widgets": {"carclf.training"},
    "demo": {"torch", "carclf.brands", "carclf.photos", "carclf.manifest"},
}


def imports(room):
    """What a room imports, itself or through other rooms."""
    seen, todo = set(), {f"carclf.{room}"}
    while todo:
        name = todo.pop()
        seen.add(name)
        path = PACKAGE / f"{name.removeprefix('carclf.')}.py"
        if not name.startswith("carclf.") or not path.exists():
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                todo |= {alias.name for alias in node.names} - seen
            elif isinstance(node, ast.ImportFrom) and node.module == "carclf":
                todo |= {f"carclf.{alias.name}" for alias in node.names} - seen
            elif isinstance(node, ast.ImportFrom):
                todo |= {node.module} - seen
    return seen - {f"carclf.{room}"}


@pytest.mark.parametrize("room", MUST_NOT_KNOW)
def test_a_room_knows_only_what_the_architecture_lets_it(room):
    known = imports(room) | {name.partition(".")[0] for name in imports(room)}
    assert not known & MUST_NOT_KNOW[room]


def test_imports_go_round_in_no_circle():
    rooms = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    for room in rooms:
        for other in imports(room) & {f"carclf.{r}" for r in rooms}:
            assert f"carclf.{room}" not in imports(other.removeprefix("carclf.")), f"{room} and {other}"


def test_no_public_name_is_hidden_by_a_room_of_that_name():
    assert not {*carclf._HOME_OF} & {path.stem for path in PACKAGE.glob("*.py")}


def test_every_room_stands_in_the_map():
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text("utf-8")
    for path in PACKAGE.iterdir():
        if path.is_file() and path.stem not in ("__init__",):
            assert f"`{path.name}`" in text or f"`carclf/{path.name}`" in text, path.name


def test_every_public_name_is_there_and_documented():
    for name in carclf.__all__:
        assert getattr(carclf, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        carclf.no_such_name  # noqa: B018


def test_reading_names_does_not_load_torch():
    code = "import sys, carclf; carclf.parse_brand('Audi_A4_1.jpg'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
