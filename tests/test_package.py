import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import carclf
from carclf import deprecated

PACKAGE = Path(carclf.__file__).parent


def test_every_file_is_in_the_map():
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text("utf-8")
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".csv", ".j2")]
    for path in files:
        if path.name != "__init__.py" and path.parent.name != "demo":
            assert path.name in text, path


def test_every_folder_says_what_is_inside_and_what_it_must_not_know():
    for folder in carclf._FOLDERS:
        first_line = import_module(f"carclf.{folder}").__doc__.splitlines()[0]
        assert "Must not know" in first_line, folder


@pytest.mark.parametrize("name", carclf.__all__)
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(carclf, name))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        carclf.no_such_name  # noqa: B018


def test_names_of_the_first_version_still_work_and_name_the_new_ones():
    moved = {name: module for module, names in deprecated.MOVED.items() for name in names.split()}
    for name, module in moved.items():
        if name in carclf.__all__:
            continue
        with pytest.warns(DeprecationWarning, match=f"carclf.{name} is deprecated, use carclf.{module}.{name}"):
            assert getattr(carclf, name) is getattr(import_module(f"carclf.{module}"), name)
    for old, new in deprecated.RENAMED.items():
        with pytest.warns(DeprecationWarning, match=new):
            assert getattr(carclf, old).__name__ == new
    for old, new in deprecated.MODULES.items():
        with pytest.warns(DeprecationWarning, match=f"carclf.{new}"):
            assert getattr(carclf, old) is import_module(f"carclf.{new}")


def test_packages_that_were_functions_can_still_be_called(photo_folder):
    manifest = carclf.scan(photo_folder)
    with pytest.warns(DeprecationWarning, match=r"use carclf\.describe") as caught:
        assert carclf.report(manifest).imbalance == carclf.describe(manifest).imbalance
    assert caught[0].filename == __file__  # the warning points at the caller


def test_arguments_may_have_their_old_names():
    @deprecated.renamed_arguments(old="new")
    def double(new):
        return 2 * new

    with pytest.warns(DeprecationWarning, match="new=…") as caught:
        assert double(old=2) == 4
    assert caught[0].filename == __file__
    assert double(new=2) == 4


def test_reading_names_does_not_load_torch():
    code = "import sys, carclf; carclf.parse_brand('Audi_A4_1.jpg'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
