"""Try the model in a notebook: upload photos, or leaf through a predictions table.

Photos and their names come from anywhere, so every text is escaped before it becomes HTML. What a notebook can
keep of an upload is a small thumbnail, encoded anew and without the photo's metadata (place, time, camera).
"""

import base64
import html
import io

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import clear_output, display

from carclf import plots
from carclf.photos import PhotoError, read_photo

THUMBNAIL = 240  # pixels: the longer side
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
        result.value = _cards(predictions, photos)

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
        result.value = _cards(shown, shown["path"])

    which.observe(show, "value")
    page.observe(show, "value")
    show(None)
    return ipywidgets.VBox([ipywidgets.HBox([which, page]), result])


def _cards(predictions, photos):
    """HTML of one card a prediction; `photos` are paths or bytes, in the same order."""
    cards = [_card(row, photo) for row, photo in zip(predictions.itertuples(), photos, strict=True)]
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px">{"".join(cards)}</div>'


def _card(row, photo):
    name = _escape(row.path)
    if pd.isna(row.predicted):
        return f'<div style="width:{THUMBNAIL}px"><b>{name}</b><br>not read: {_escape(row.problem)}</div>'
    answer = f"{_escape(row.predicted)} {row.confidence:.0%}{'' if row.accepted else ', unsure'}"
    truth = "" if pd.isna(row.brand) else f" {'✓' if row.brand == row.predicted else '✗ ' + _escape(row.brand)}"
    bars = "".join(
        f'<div style="background:linear-gradient(90deg,#0072B255 {share:.1%},transparent {share:.1%});padding:0 4px">'
        f'{_escape(brand)}<span style="float:right">{share:.0%}</span></div>'
        for brand, share in row.top5.items()
    )
    return (
        f'<div style="width:{THUMBNAIL}px;overflow-wrap:anywhere"><b>{answer}</b>{truth}<br>'
        f'<small>{name}</small>{_thumbnail(photo)}<div style="line-height:1.6">{bars}</div></div>'
    )


def _thumbnail(photo):
    try:
        image = read_photo(photo, at_least=THUMBNAIL)
    except PhotoError as error:
        return f"<div>{_escape(error)}</div>"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _escape(text):
    """Any text as HTML that shows it and does nothing else; lone surrogates, which no notebook can save, as '?'."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))


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
