"""Try the model in a notebook: upload photos, or watch the training curves.

Photos and their names are untrusted, so every text is escaped before it becomes HTML. A notebook keeps nothing of an
upload but a small thumbnail, re-encoded without the photo's metadata (place, time, camera).
"""

from __future__ import annotations

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import clear_output, display

from carclf.model.classifier import Classifier
from carclf.plot.training import training_curves
from carclf.report.page import prediction_cards


def upload(classifier: Classifier) -> ipywidgets.VBox:
    """A button to upload photos and, below it, each photo with its five likeliest brands or its problem."""
    button = ipywidgets.FileUpload(accept="image/*", multiple=True, description="Upload photos")
    result = ipywidgets.HTML()

    def show(change: dict) -> None:
        if not change["new"]:
            return
        names = [file["name"] for file in change["new"]]
        photos = [bytes(file["content"]) for file in change["new"]]
        button.value = ()  # so that the bytes are not saved with the notebook
        result.value = f"Looking at {len(photos)} photos …"
        result.value = prediction_cards(classifier.predict(photos, names=names), photos)

    button.observe(show, "value")
    return ipywidgets.VBox([button, result])


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
