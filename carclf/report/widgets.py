"""Try the model in a notebook: upload photos and clips, or watch the training curves.

Photos and their names are untrusted, so every text is escaped before it becomes HTML. A notebook keeps nothing of an
upload but a small thumbnail, re-encoded without the photo's metadata (place, time, camera).
"""

from __future__ import annotations

import io
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import clear_output, display
from PIL import Image

from carclf.data.boxes import BOX
from carclf.model.classifier import Classifier
from carclf.model.crops import Boxes
from carclf.plot.training import training_curves
from carclf.report.page import prediction_cards
from carclf.video.frames import SUFFIXES
from carclf.video.predict import best_crops, predict_video

TOOLTIP = "JupyterLab takes some 10 MB at once; give larger clips by their path"


def upload(classifier: Classifier, cars: str = "whole", boxes: Boxes = None, detector: Any = None) -> ipywidgets.VBox:
    """A button to upload photos or clips; below it, each photo or car with its likeliest brands, or the problem.

    The rest is as in `Classifier.predict`: with "main" or "all" cars, each photo has its cars drawn and listed. Clips
    are told by the ending of their names.
    """
    button = ipywidgets.FileUpload(accept="image/*,video/*", multiple=True, description="Upload", tooltip=TOOLTIP)
    result = ipywidgets.HTML()

    def show(change: dict) -> None:
        if not change["new"]:
            return
        files = [(file["name"], bytes(file["content"])) for file in change["new"]]
        button.value = ()  # so that the bytes are not saved with the notebook
        result.value = f"Looking at {len(files)} files …"
        clips = [file for file in files if Path(file[0]).suffix.lower() in SUFFIXES]
        shown = [clip_cards(classifier, name, content, boxes, detector) for name, content in clips]
        if others := [file for file in files if file not in clips]:
            names, photos = [name for name, _ in others], [content for _, content in others]
            found = classifier.predict(photos, names=names, cars=cars, boxes=boxes, detector=detector)
            shown.insert(0, prediction_cards(found, photos))
        result.value = "".join(shown)

    button.observe(show, "value")
    return ipywidgets.VBox([button, result])


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
