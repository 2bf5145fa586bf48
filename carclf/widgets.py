"""Try the model in a notebook: upload photos, or leaf through a predictions table.

Photos and their names come from anywhere, so every text is escaped before it becomes HTML. What a notebook can
keep of an upload is a small thumbnail, encoded anew and without the photo's metadata (place, time, camera).
"""

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import clear_output, display

from carclf import plots
from carclf.cards import prediction_cards

PAGE = 12  # photos a page of the gallery


def upload(classifier):
    """A button to upload photos and, below it, each photo with its five likeliest brands or its problem.

    `classifier` is a `Classifier`, or anything whose ``predict(list of bytes, names=list of str)`` returns a
    predictions table in that order. Returns an ipywidgets VBox.
    """
    button = ipywidgets.FileUpload(accept="image/*", multiple=True, description="Upload photos")
    result = ipywidgets.HTML()

    def show(change):
        if not change["new"]:
            return
        names = [file["name"] for file in change["new"]]
        photos = [bytes(file["content"]) for file in change["new"]]
        button.value = ()  # so that the bytes are not saved with the notebook
        result.value = f"Looking at {len(photos)} photos …"
        predictions = classifier.predict(photos, names=names)
        result.value = prediction_cards(predictions, photos)

    button.observe(show, "value")
    return ipywidgets.VBox([button, result])


def gallery(predictions):
    """Leaf through a predictions table: all photos, only the wrong ones, or only the unsure ones.

    Returns an ipywidgets VBox.
    """
    read = predictions["predicted"].notna()
    wrong = read & predictions["brand"].notna() & (predictions["brand"] != predictions["predicted"])
    unsure = read & ~predictions["accepted"].astype(bool)
    rows = {"all": predictions, "wrong": predictions[wrong], "unsure": predictions[unsure]}
    options = [(f"{name} ({len(table)})", name) for name, table in rows.items()]
    which = ipywidgets.ToggleButtons(options=options, value="all")
    page = ipywidgets.BoundedIntText(min=1, max=1, description="page")
    result = ipywidgets.HTML()

    def show(_):
        table = rows[which.value]
        page.max = max(1, -(-len(table) // PAGE))
        shown = table.iloc[(page.value - 1) * PAGE : page.value * PAGE]
        result.value = prediction_cards(shown)

    which.observe(show, "value")
    page.observe(show, "value")
    show(None)
    return ipywidgets.VBox([ipywidgets.HBox([which, page]), result])


def live_curves(history):
    """Draw the learning curves in place of those of the epoch before; for `fit(..., on_epoch=live_curves)`.

    Parameters
    ----------
    history : DataFrame, one row an epoch, as `carclf.fit` keeps it
    """
    figure = plots.training_curves(history)
    clear_output(wait=True)
    display(figure)
    plt.close(figure)  # or the notebook would show it a second time
