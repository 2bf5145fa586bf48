"""A JupyterLab and a headless Chromium for test_browser.py, and what a reader of a page would complain about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Nothing outside this machine is reached, whatever a page asks for.
ALONE = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-background-networking"]
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update", "--disable-sync"]
IDLE = "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"

# What is wrong with the page as it is shown now, below the elements that a selector names.
COMPLAINTS = r"""(selector) => {
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const remembered = (function_, known = new Map()) => (key) => {
    if (!known.has(key)) known.set(key, function_(key));
    return known.get(key);
  };
  const rgba = remembered((colour) => {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = pixel.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  });
  const over = (colour, alpha, behind) => behind.map((value, i) => alpha * colour[i] + (1 - alpha) * value);
  const linear = (value) => (value <= 0.04045 * 255 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05); // WCAG 2.2
  };
  const probe = document.body.appendChild(document.createElement("div"));
  probe.style.backgroundColor = "Canvas";
  const canvas = rgba(getComputedStyle(probe).backgroundColor).slice(0, 3);
  probe.remove();

  // Every colour that may lie behind an element's text: of a gradient, each of its stops.
  const backgrounds = remembered((element) => {
    const style = getComputedStyle(element);
    const below = element.parentElement ? backgrounds(element.parentElement) : [canvas];
    const plain = rgba(style.backgroundColor);
    const own = below.map((behind) => over(plain, plain[3], behind));
    const stops = style.backgroundImage.includes("gradient") ? style.backgroundImage.match(/[a-z]+\([^()]*\)/g) : null;
    return stops ? own.flatMap((behind) => stops.map(rgba).map((stop) => over(stop, stop[3], behind))) : own;
  });
  const opacity = remembered((element) =>
    getComputedStyle(element).opacity * (element.parentElement ? opacity(element.parentElement) : 1));

  const roots = [...document.querySelectorAll(selector)];
  const cells = [...document.querySelectorAll(".jp-Cell")];
  const where = (element) => `cell ${cells.indexOf(element.closest(".jp-Cell"))}`;
  const live = document.querySelector(".jp-WindowedPanel-outer");
  const faint = [], broken = [], nameless = [], wide = [], range = document.createRange();
  let texts = 0, pictures = 0;
  for (const root of roots) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode, element = text.parentElement;
      range.selectNodeContents(text);
      const shown = element.checkVisibility({ visibilityProperty: true }) && range.getClientRects().length;
      if (!text.data.trim() || !shown || element.closest("script, style")) continue;
      texts += 1;
      const colour = rgba(getComputedStyle(element).color), alpha = colour[3] * opacity(element);
      const least = Math.min(...backgrounds(element).map((behind) => contrast(over(colour, alpha, behind), behind)));
      const [what, said] = [where(element), text.data.trim().slice(0, 60)];
      if (least < 4.5) faint.push(`${what}: ${said} (${getComputedStyle(element).color}, ${least.toFixed(1)}:1)`);
      if (live && element.closest("pre")) continue; // JupyterLab breaks printed lines anywhere
      for (const word of text.data.matchAll(/(?<!\S)\p{L}{2,20}[.,;:!?]?(?!\S)/gu)) {
        range.setStart(text, word.index);
        range.setEnd(text, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
        if (lines.size > 1) broken.push(`${what}: ${word[0]}`);
      }
    }
    for (const table of root.querySelectorAll("table")) {
      let box = table;
      while (box && !["auto", "scroll"].includes(getComputedStyle(box).overflowX)) box = box.parentElement;
      if (!box && table.getBoundingClientRect().right > innerWidth) wide.push(`${where(table)}: a table is cut off`);
    }
    for (const picture of root.querySelectorAll("img")) {
      pictures += 1;
      const alt = picture.alt.trim();
      if (!alt || alt.startsWith("No description")) nameless.push(`${where(picture)}: ${picture.src.slice(0, 30)}`);
    }
  }
  const panel = live ?? document.documentElement;
  if (panel.scrollWidth > panel.clientWidth) wide.push(`${panel.scrollWidth} of ${panel.clientWidth} px`);
  if (document.documentElement.scrollWidth > innerWidth) wide.push(`${document.documentElement.scrollWidth} px`);
  const title = document.title.trim();
  return { texts, pictures, title, faint, broken, nameless, wide };
}"""


def chromium() -> str:
    """Path of a Chromium; without one, or without playwright, the test is skipped, or fails where it must run."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    try:
        import playwright  # noqa: F401
    except ImportError:
        found = None
    if found:
        return found
    missing = "needs a browser: apt-get install chromium; pip install -r requirements.txt"
    if os.environ.get("CARCLF_BROWSER") == "required":
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def browser(path: str) -> Iterator:
    """A headless Chromium without a way out."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=[*ALONE, *QUIET])
        yield opened
        opened.close()


def fresh_clone(folder: Path) -> Path:
    """A copy of the files that git knows, and of new ones that it does not ignore."""
    root = Path(__file__).parent.parent
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a fresh clone needs git and a checkout")
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():  # a deleted file is still listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return folder


@contextmanager
def jupyterlab(root: Path, home: Path) -> Iterator[str]:
    """A JupyterLab in the folder `root`, with a port, a token and settings of its own; yields an address with `{}`."""
    settings = {
        "notebook-extension/tracker": {"windowingMode": "none"},  # or cells out of sight are no part of the page
        "apputils-extension/notification": {"fetchNews": "false"},
        "docmanager-extension/plugin": {"autosave": False},  # one that meets our saving opens a dialogue
    }
    for name, content in settings.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    folders |= {"IPYTHONDIR": "ipython", "CARCLF_CACHE": "scans", "HOME": "."}
    # MPLBACKEND is the tests' own; a proxy that is not there keeps Python off the network, too.
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "TQDM_DISABLE")}
    environment |= {name: str(home / place) for name, place in folders.items()}
    environment |= {"PYTHONPATH": str(root), "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--expose-app-in-browser"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={root}"]
    with (home / "log").open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        try:
            yield _address(server, home)
        finally:
            server.terminate()


def _address(server: subprocess.Popen, home: Path) -> str:
    """Wait until the server has written its address."""
    for _ in range(600):
        for file in (home / "runtime").glob("jpserver-*.json"):
            try:
                info = json.loads(file.read_text("utf-8"))
            except ValueError:  # half written
                break
            return f"http://127.0.0.1:{info['port']}/doc/tree/{{}}?token={info['token']}"
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start: {(home / 'log').read_text()[-2000:]}")


def run_all(page) -> bool:
    """Run all cells of the open notebook and save it; False if a cell failed."""
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    page.wait_for_function(IDLE, timeout=60_000)
    page.evaluate("{ jupyterapp.commands.execute('notebook:run-all-cells').then(done => { window.ran = done }) }")
    page.wait_for_function("window.ran !== undefined", timeout=600_000)
    page.evaluate("{ jupyterapp.commands.execute('docmanager:save') }")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty", timeout=60_000)
    return page.evaluate("window.ran")


def set_theme(page, theme: str) -> None:
    """Switch the open JupyterLab to a theme."""
    page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
    page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)


def resize(page, width: int) -> None:
    """Make the window so wide, and wait until it is drawn."""
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")
