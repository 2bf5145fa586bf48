"""For notebooks: upload photos and clips, watch the training curves, and see errors in one line.

Photos and their names are untrusted, so every text is escaped before it becomes HTML. A notebook keeps nothing of an
upload but a small thumbnail, re-encoded without the photo's metadata (place, time, camera).
"""

from __future__ import annotations

import io
import tempfile
import traceback
import warnings
from collections.abc import Callable
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.display import clear_output, display
from PIL import Image

from carclf.data.boxes import BOX
from carclf.metrics.words import promise_text
from carclf.model.classifier import Classifier
from carclf.model.crops import Boxes
from carclf.plot.style import plain
from carclf.plot.training import training_curves
from carclf.report.cards import prediction_cards
from carclf.video.frames import SUFFIXES
from carclf.video.predict import best_crops, predict_video

_FORMAT = warnings.formatwarning
PACKAGE = Path(__file__).parents[1]
PATHS = "For more, give paths: <code>classifier.predict(&quot;folder&quot;)</code> or a clip to \
<code>carclf.predict_video</code>."
HINT = f"Photos and clips, at most 10 MB at once: JupyterLab takes no more. {PATHS}"
LOST = (
    f"<b>The connection was lost for a moment.</b> If you had chosen files, they were more than JupyterLab's 10 MB at \
once, and none arrived. Choose fewer or smaller ones. {PATHS}"
)


class _Button(ipywidgets.FileUpload):
    """A button that calls `renew` when the browser asks for its whole state again.

    JupyterLab's server answers a message above its limit by closing the connection. The kernel gets nothing, the
    browser connects again and asks for all states; this button waits for an answer for ever, so it needs a successor.
    """

    renew: Callable[[], None] | None = None

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
        if key is None and (renew := self.renew) is not None:
            self.renew = None
            renew()
        return super().get_state(key, drop_defaults)


def upload(classifier: Classifier, cars: str = "whole", boxes: Boxes = None, detector: Any = None) -> ipywidgets.VBox:
    """A button to upload photos or clips; below it, each photo or car with its likeliest brands, or the problem.

    The rest is as in `Classifier.predict`: with "main" or "all" cars, each photo has its cars drawn and listed. Clips
    are told by the ending of their names.
    """
    hint, result = ipywidgets.HTML(HINT), ipywidgets.HTML()
    box = ipywidgets.VBox([hint, result])

    def add_button(words: str) -> None:
        button = _Button(accept="image/*,video/*,.heic,.heif", multiple=True, description="Upload")
        button.observe(show, "value")
        button.renew = lambda: add_button(LOST)
        hint.value, box.children = words, (button, hint, result)

    def show(change: dict) -> None:
        if not change["new"]:
            return
        button, files = change["owner"], [(file["name"], bytes(file["content"])) for file in change["new"]]
        button.value = ()  # so that the bytes are not saved with the notebook
        button.disabled, hint.value = True, HINT
        names = ", ".join(plain(name) for name, _ in files[:3]) + (" and others" if len(files) > 3 else "")
        result.value = f"Looking at {escape(names)} … a moment."
        try:
            result.value = _answers(classifier, files, cars, boxes, detector)
        except Exception as error:
            result.value = f"<b>Failed</b>, with {type(error).__name__}: {escape(str(error))}"
            raise
        finally:
            button.disabled = False

    add_button(HINT)
    return box


def _answers(classifier: Classifier, files: list[tuple[str, bytes]], cars: str, boxes: Boxes, detector: Any) -> str:
    """HTML of all cards, and of what the accepted answers are worth."""
    clips = [file for file in files if Path(file[0]).suffix.lower() in SUFFIXES]
    shown = [clip_cards(classifier, name, content, boxes, detector) for name, content in clips]
    if others := [file for file in files if file not in clips]:
        names, photos = [name for name, _ in others], [content for _, content in others]
        found = classifier.predict(photos, names=names, cars=cars, boxes=boxes, detector=detector)
        shown.insert(0, prediction_cards(found, photos))
    return "".join([*shown, f"<p>{escape(promise_text(classifier.card.promise, classifier.card.threshold))}</p>"])


def clip_cards(classifier: Classifier, name: str, content: bytes, boxes: Boxes = None, detector: Any = None) -> str:
    """HTML of a card per car of an encoded clip, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / f"clip{Path(name).suffix}"
        clip.write_bytes(content)
        try:
            found = predict_video(classifier, clip, boxes=boxes, detector=detector)
            photos = [_png(crop) for crop in best_crops(clip, found)]
        except (ValueError, ImportError) as error:
            return f"<p>{escape(str(error).replace(str(clip), name))}</p>"
    if not len(found):
        return f"<p>{escape(name)}: no cars</p>"
    seconds = [f"{car.first_seen:.1f} to {car.last_seen:.1f} s, {car.frames} frames" for car in found.itertuples()]
    titles = [f"{name}, car {track}: {when}" for track, when in zip(found.track, seconds, strict=True)]
    return prediction_cards(found.drop(columns=BOX).assign(path=titles), photos)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def live_curves(history: pd.DataFrame) -> None:
    """Draw the learning curves in place of those of the epoch before; for `fit(..., on_epoch=live_curves)`.

    Parameters
    ----------
    history : one row per epoch, as `carclf.fit` keeps it
    """
    figure = training_curves(history)
    clear_output(wait=True)
    display(figure)
    plt.close(figure)  # or the notebook would show it a second time


def short_errors() -> None:
    """Show errors and warnings that carclf raises as one line, as they say what to do; `%tb` shows the whole error.

    The cell still fails, and what comes from elsewhere looks as always. Outside a notebook it does nothing.
    """
    if (shell := get_ipython()) is not None:
        shell.set_custom_exc((ValueError, OSError, ArithmeticError, TypeError), _show_error)
        warnings.formatwarning = _warning


def _warning(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
    """A warning for people as its text alone: the place of a cell's code, in a temporary file, tells them nothing."""
    return f"Warning: {message}\n" if category is UserWarning else _FORMAT(message, category, *place, **line)


def _show_error(shell: Any, kind: type, error: Any, trace: TracebackType, tb_offset: int | None = None) -> None:
    *_, (frame, _) = traceback.walk_tb(trace)
    if ours := Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
        line = shell.InteractiveTB.get_exception_only(kind, error)[-1].strip()
        error._render_traceback_ = lambda: [line, "(%tb shows where this came from)"]
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    if ours:
        del error._render_traceback_  # so that %tb shows the whole
