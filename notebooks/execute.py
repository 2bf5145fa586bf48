"""Run both notebooks from top to bottom and save them as .ipynb and HTML.

python notebooks/execute.py --demo                                     on the drawn demo photos
python notebooks/execute.py --out runs/mine -p folder path/to/photos   on your own; -p sets any setting

An up-to-date demo is not run again. With your own photos the notebooks always run, and resume where they stopped.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import shutil
import sys
from pathlib import Path

import nbformat
import papermill
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from traitlets.config import Config

import carclf

# Of a page that stays when the notebook is closed: it loads nothing from elsewhere, and breaks lines between words.
KEPT = """
{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
.jp-OutputArea-output pre, .jp-RenderedText pre { white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere }
.jp-RenderedHTMLCommon { overflow-x: auto } img, video { max-width: 100%; height: auto }
</style>
{%- endblock -%}
"""
WIDGET = "application/vnd.jupyter.widget-view+json"  # progress bars and the upload: dead once the notebook is closed
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# On two cores without bfloat16 units this trains in a third of the time that 8 epochs of the whole network take, and on
# valid it is no worse (two seeds each): micro-batches of 16 make twice as many optimizer steps of the 450 photos.
DEMO = {
    "cache_size": 160,
    "micro_batch": 16,
    "stages": [["head", 1, 3e-3, 128], ["blocks.4", 4, 1.5e-3, 128]],
}


def main() -> None:
    """Read the command line and run both notebooks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="on drawn photos, into runs/demo")
    parser.add_argument("--out", type=Path, help="folder for the notebooks and the run")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a setting")
    options = parser.parse_args()
    if not options.demo and options.out is None:
        parser.error("give --demo, or --out FOLDER and -p folder PHOTOS")

    out = (options.out or ROOT / "runs" / "demo").absolute()
    settings = {name: _value(name, value) for name, value in options.p}
    if options.demo:
        print(carclf.draw_demo(out / "photos"))
        settings = {**DEMO, "folder": str(out / "photos"), "cache_folder": str(out / "cache"), **settings}
    known = {name: set(papermill.inspect_notebook(HERE / f"{name}.ipynb")) for name in ("train", "test-model")}
    strange = sorted(settings.keys() - known["train"] - known["test-model"])
    if strange:
        parser.error(f"no notebook has the setting {', '.join(strange)}")
    train, test = ({n: v for n, v in settings.items() if n in names} for names in known.values())
    train = {"folder": str(ROOT / "images"), "cache_folder": str(ROOT / "cache"), **train}
    split = str(out / "run" / "split.csv")
    test = {"model_folder": str(out / "run" / "model"), "test_photos": split, "run_split": split, **test}
    test = {"shipped_folder": str(ROOT / "models" / "cars-lite0"), **test}
    train["run_folder"], test["results_folder"] = str(out / "run"), str(out / "test")  # where _report looks
    fingerprint = _fingerprint(train, test)
    try:
        if not (options.demo and _is_up_to_date(out, fingerprint)):
            if options.demo:  # other code makes another run; your own runs are never deleted
                shutil.rmtree(out / "run", ignore_errors=True)
            _execute("train", train, out, fingerprint)
            _execute("test-model", test, out, fingerprint)
    except papermill.PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue} (cell {error.exec_count}; the notebook as far as it ran is in {out})")
    _report(out)


def _value(name: str, text: str):
    """A setting from the command line: a path, made absolute, where the name says so; else JSON or plain text."""
    if name.endswith(("folder", "photos", "split", "street", "clip")):
        return str(Path(text).absolute())
    try:
        return json.loads(text)
    except ValueError:
        return text


def _fingerprint(*settings: dict) -> str:
    """Changes with the settings, the notebooks and the package."""
    sources = [*sorted(HERE.glob("*.ipynb")), *sorted(p for p in (ROOT / "carclf").rglob("*.*") if p.suffix != ".pyc")]
    sources += sorted((ROOT / "models").rglob("card.json"))
    content = json.dumps(settings, sort_keys=True).encode() + b"".join(path.read_bytes() for path in sources)
    return hashlib.sha256(content).hexdigest()


def _is_up_to_date(out: Path, fingerprint: str) -> bool:
    """Whether everything this script makes exists and came from the same settings and code."""
    made = ("train.html", "test-model.html", "test-model.ipynb", "run/model/card.json", "test/metrics.json")
    if not all((out / path).exists() for path in made):
        return False
    return json.loads((out / "test-model.ipynb").read_text("utf-8"))["metadata"].get("source") == fingerprint


def _execute(name: str, settings: dict, out: Path, fingerprint: str) -> None:
    """Run one notebook and save it as .ipynb and HTML."""
    out.mkdir(parents=True, exist_ok=True)
    print(f"running {name}.ipynb")
    result = out / f"{name}.ipynb"
    # Kernels that could encrypt but were not asked to print a warning.
    private = Config({"KernelManager": {"transport_encryption": "auto"}})
    papermill.execute_notebook(HERE / f"{name}.ipynb", result, settings, cwd=out, log_output=False, config=private)
    notebook = nbformat.read(result, as_version=4)
    notebook.metadata["source"] = fingerprint
    nbformat.write(notebook, result)
    (out / f"{name}.html").write_text(kept_page(notebook), encoding="utf-8")


def kept_page(notebook: nbformat.NotebookNode) -> str:
    """HTML of a notebook that ran, in one file; its title is the notebook's first heading."""
    page = copy.deepcopy(notebook)
    page.metadata["title"] = page.cells[0].source.splitlines()[0].lstrip("# ")
    page.metadata.pop("widgets", None)
    for cell in page.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    exporter = HTMLExporter(extra_loaders=[DictLoader({"kept.html.j2": KEPT})], template_file="kept.html.j2")
    return exporter.from_notebook_node(page)[0]


def _report(out: Path) -> None:
    """Print the test's accuracy and where to look."""
    m = json.loads((out / "test" / "metrics.json").read_text("utf-8"))
    low, high = m["accuracy_low"], m["accuracy_high"]
    print(f"accuracy on {m['n']} test photos: {m['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})")
    print(f"look at {out / 'train.html'}\n    and {out / 'test-model.html'}")


if __name__ == "__main__":
    main()
