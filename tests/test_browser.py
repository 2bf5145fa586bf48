"""What people see: both notebooks in a real JupyterLab on a fresh clone, the report, and the pages that are kept."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest
from browser import COMPLAINTS, browser, chromium, fresh_clone, jupyterlab, resize, run_all, set_theme
from filelock import FileLock
from PIL import Image

pytestmark = pytest.mark.slow

# Seconds instead of minutes; everything else stays as a new user finds it.
SMALL = {"train": {"cache_size": 64, "stages": [["head", 2, 3e-3, 64]]}, "test-model": {}}
WIDTHS = (1280, 390)
# How a notebook is looked at: JupyterLab's theme, and whether the system forces its own colours.
LOOKS = {
    "light": ("JupyterLab Light", "none"),
    "dark": ("JupyterLab Dark", "none"),
    "high contrast": ("JupyterLab Dark High Contrast", "none"),
    "light, forced": ("JupyterLab Light", "active"),
    "dark, forced": ("JupyterLab Dark", "active"),
}
OUTPUTS = ".jp-OutputArea-output"
# Each page, and what of it is ours: how a notebook's code is coloured is nbconvert's.
PAGES = {"report.html": "body"} | {f"{name}.html": f"{OUTPUTS}, .jp-RenderedMarkdown" for name in SMALL}


@pytest.fixture(scope="session")
def seen(tmp_path_factory) -> dict:
    """What was seen. It takes a minute, so one worker looks, and others wait for its record."""
    path = chromium()
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    record = folder / "seen.json"
    with FileLock(folder / "seen.lock"):
        if not record.exists():
            seen = look(path, tmp_path_factory.mktemp("browser"))
            record.write_text(json.dumps(seen), encoding="utf-8")
    return json.loads(record.read_text("utf-8"))


def look(path: str, folder: Path) -> dict:
    """Run both notebooks in this order on a fresh clone, upload photos, and look at everything in each way."""
    clone, home = fresh_clone(folder / "clone"), folder / "home"
    home.mkdir()
    for name, settings in SMALL.items():
        notebook = clone / "notebooks" / f"{name}.ipynb"
        papermill.execute_notebook(notebook, notebook, settings, prepare_only=True, progress_bar=False)
    seen: dict = {"errors": {}, "outputs": {}, "requests": [], "looks": {}}
    with browser(path) as chrome:
        with jupyterlab(clone, home) as url:
            for name in SMALL:
                page = _page(chrome, seen["requests"])
                page.goto(url.format(f"notebooks/{name}.ipynb"))
                finished = run_all(page)
                cells = [cell for cell in _notebook(clone, name).cells if cell.cell_type == "code"]
                seen["errors"][name] = [text for cell in cells for text in _errors(cell)]
                seen["outputs"][name] = sum(len(cell.outputs) for cell in cells)
                if not finished:
                    return seen
                if name == "test-model":
                    seen["upload"] = _upload(page, clone, folder)
                for look, (theme, forced) in LOOKS.items():
                    set_theme(page, theme)
                    page.emulate_media(forced_colors=forced)
                    _look(page, f"{name}, {look}", OUTPUTS, seen["looks"])
                page.context.close()
            seen["requests"] = [asked for asked in seen["requests"] if not asked.startswith(url.partition("/doc")[0])]
        pages = {"report.html": next(clone.glob("runs/*/test/report.html"))}
        kept_page = runpy.run_path(str(clone / "notebooks" / "execute.py"))["kept_page"]
        for name in SMALL:
            pages[f"{name}.html"] = folder / f"{name}.html"
            pages[f"{name}.html"].write_text(kept_page(_notebook(clone, name)), encoding="utf-8")
        for file, place in pages.items():
            for colours in ("light", "dark"):
                page = _page(chrome, seen["requests"], color_scheme=colours)
                page.goto(place.as_uri())
                _look(page, f"{file}, {colours}", PAGES[file], seen["looks"])
                page.context.close()
        own = {place.as_uri() for place in pages.values()}
    seen["requests"] = [asked for asked in seen["requests"] if asked not in own]
    return seen


def _page(chrome, requests: list[str], **options):
    """A page of a new context, whose requests are noted."""
    page = chrome.new_context(**options).new_page()
    page.on("request", lambda request: requests.append(request.url))
    return page


def _look(page, name: str, selector: str, looks: dict) -> None:
    """Note what is wrong with the page, at each width."""
    for width in WIDTHS:
        resize(page, width)
        looks[f"{name}, {width} px"] = page.evaluate(COMPLAINTS, selector)


def _notebook(clone: Path, name: str) -> nbformat.NotebookNode:
    return nbformat.read(clone / "notebooks" / f"{name}.ipynb", as_version=4)


def _errors(cell: nbformat.NotebookNode) -> list[str]:
    """What failed in a cell, or that it did not run."""
    errors = [f"{output.ename}: {output.evalue}" for output in cell.outputs if output.output_type == "error"]
    return errors or ([] if cell.execution_count else [f"not run: {cell.source[:80]}"])


def _upload(page, clone: Path, folder: Path) -> dict:
    """Upload a good, a turned and a broken photo to the first button, with the keyboard; what is then shown."""
    photo = min(clone.glob("runs/demo/photos/Audi_A4_*.jpg"))
    files = [folder / name for name in ("good.jpg", "turned.jpg", "broken.jpg")]
    shutil.copy(photo, files[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter when shown
    with Image.open(photo) as image:
        image.rotate(90, expand=True).save(files[1], exif=exif, quality=95)
    files[2].write_bytes(photo.read_bytes()[:400])

    cell = page.locator(".jp-CodeCell", has=page.locator("button.widget-upload")).first
    cell.locator(".jp-InputPrompt").first.click()
    button, presses = cell.locator("button.widget-upload"), 0
    while presses < 5 and not button.evaluate("button => button === document.activeElement"):
        page.keyboard.press("Tab")
        presses += 1
    with page.expect_file_chooser(timeout=10_000) as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(files)
    shown = cell.locator(".widget-html-content", has_text="not read")
    shown.wait_for(timeout=60_000)
    sizes = shown.locator("img").evaluate_all("all => all.map(image => [image.naturalWidth, image.naturalHeight])")
    return {"text": shown.inner_text(), "sizes": sizes}


def complaints(seen: dict, kind: str, name: str) -> dict[str, list[str]]:
    """What there is to complain about a notebook or page, by look and width."""
    looks = {place: look for place, look in seen["looks"].items() if place.startswith(f"{name}, ")}
    assert all(look["texts"] > 20 for look in looks.values()) and looks, "there was something to look at"
    return {place: look[kind] for place, look in looks.items() if look[kind]}


@pytest.mark.parametrize("name", SMALL)
def test_run_all_on_a_fresh_clone_ends_with_results(seen, name):
    assert seen["errors"][name] == []
    assert seen["outputs"][name] > 10


def test_uploads_are_answered_each_and_the_keyboard_reaches_the_button(seen):
    good, turned = seen["upload"]["sizes"]
    assert good == turned and good[0] > good[1]
    good, turned, broken = (seen["upload"]["text"].index(name) for name in ("good.jpg", "turned.jpg", "broken.jpg"))
    assert good < turned < broken
    assert "not read: " in seen["upload"]["text"][broken:]


@pytest.mark.parametrize("name", [*SMALL, *PAGES])
def test_every_text_is_legible(seen, name):
    assert complaints(seen, "faint", name) == {}


@pytest.mark.parametrize("name", [*SMALL, *PAGES])
def test_every_picture_says_in_words_what_it_shows(seen, name):
    assert complaints(seen, "nameless", name) == {}
    assert all(look["pictures"] for place, look in seen["looks"].items() if place.startswith(f"{name}, "))


@pytest.mark.parametrize("name", [*SMALL, *PAGES])
def test_nothing_widens_a_page_and_no_word_is_broken(seen, name):
    assert complaints(seen, "wide", name) == {}
    assert complaints(seen, "broken", name) == {}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_title(seen, name):
    titles = {look["title"] for place, look in seen["looks"].items() if place.startswith(f"{name}, ")}
    assert len(titles) == 1 and min(titles) not in ("", "Notebook", name, name.removesuffix(".html"))


def test_nothing_is_asked_for_elsewhere(seen):
    assert seen["requests"] == []


FLAWED = """<title>Flaws</title><body style="background: white; width: 300px">
<p style="color: #777777">almost</p><p style="color: #767676">enough</p>
<p style="background: linear-gradient(90deg, black 1%, transparent 1%)">bar</p>
<div style="opacity: .5"><p style="color: #444">veiled</p></div><p style="display: none; color: white">hidden</p>
<p style="width: 3em; overflow-wrap: anywhere">Mercedes</p><img alt=""><img alt="a car">
<table style="width: 9000px"><td>long</table>"""


def test_each_flaw_is_complained_about_and_nothing_else():
    """Of the greys, #767676 is the first with 4.5:1 on white."""
    with browser(chromium()) as chrome:
        page = chrome.new_page()
        page.set_content(FLAWED)
        found = page.evaluate(COMPLAINTS, "body")
    assert [said.split(" (")[0].split(": ")[1] for said in found["faint"]] == ["almost", "bar", "veiled"]
    assert [said.split(": ")[1] for said in found["broken"]] == ["Mercedes"]
    assert (len(found["nameless"]), found["pictures"], found["texts"]) == (1, 2, 6)
    assert any("a table is cut off" in said for said in found["wide"]) and len(found["wide"]) > 1
