import base64
import datetime
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf.photos import PhotoError, read_photo

pytest.importorskip("ipywidgets")

from carclf import widgets
from carclf.cards import THUMBNAIL  # below: only where ipywidgets is installed

COLUMNS = ["path", "brand", "predicted", "confidence", "top5", "accepted", "problem"]


class Looker:
    """Answers like a classifier: reads every photo and calls it an Audi."""

    def predict(self, sources, names):
        rows = []
        for source, name in zip(sources, names, strict=True):
            try:
                read_photo(source)
                rows.append((name, None, "<i>Audi</i>", 0.7, {"<i>Audi</i>": 0.7, "BMW": 0.3}, False, None))
            except PhotoError as error:
                rows.append((name, None, None, np.nan, None, False, str(error)))
        return pd.DataFrame(rows, columns=COLUMNS)


def jpeg(**options):
    file = io.BytesIO()
    Image.new("RGB", (900, 600), "navy").save(file, "JPEG", **options)
    return file.getvalue()


def send(box, *files):
    """Upload (name, bytes) the way a browser does, and return the HTML that is shown."""
    button, result = box.children
    now = datetime.datetime.now(datetime.timezone.utc)
    button.value = tuple(
        {"name": name, "type": "image/jpeg", "size": len(data), "content": memoryview(data), "last_modified": now}
        for name, data in files
    )
    return result.value


def test_upload_shows_each_photo_with_its_answers():
    shown = send(widgets.upload(Looker()), ("one.jpg", jpeg()), ("two.jpg", jpeg()))
    assert shown.count("<img ") == 2
    assert "one.jpg" in shown and "two.jpg" in shown
    assert "70%, unsure" in shown and "30%" in shown


def test_upload_keeps_no_bytes():
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    box = widgets.upload(Looker())
    shown = send(box, ("one.jpg", jpeg(exif=exif)))
    assert box.children[0].value == ()
    thumbnail = shown.split("base64,")[1].split('"')[0]
    assert len(thumbnail) < 20_000
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail)))
    assert max(image.size) == THUMBNAIL
    assert not image.getexif()


@pytest.mark.parametrize("data", [b"", b"<html><script>alert(1)</script>", jpeg()[:3000], b"\x00" * 5000])
def test_hostile_uploads_give_a_reason(data):
    shown = send(widgets.upload(Looker()), ("bad.jpg", data), ("good.jpg", jpeg()))
    assert "bad.jpg</b><br>not read: " in shown
    assert shown.count("<img ") == 1
    assert "<script>" not in shown


def test_names_and_brands_are_text_not_html():
    shown = send(widgets.upload(Looker()), ('<img src=x onerror="alert(1)">.jpg', jpeg()), ("a\udc80.jpg", jpeg()))
    assert "<img src=x" not in shown and "&lt;img src=x" in shown
    assert "<i>" not in shown and "&lt;i&gt;Audi" in shown
    shown.encode("utf-8")


def test_a_second_upload_replaces_the_first():
    box = widgets.upload(Looker())
    send(box, ("one.jpg", jpeg()))
    shown = send(box, ("two.jpg", jpeg()))
    assert "two.jpg" in shown and "one.jpg" not in shown


def test_gallery_filters_and_leafs():
    rows = [
        (f"{i:02}.jpg", "Audi", "Audi" if i < 20 else "BMW", 0.9, {"Audi": 0.9}, i % 2 == 0, None) for i in range(30)
    ]
    rows.append(("bad.jpg", "Audi", None, np.nan, None, False, "empty: the file has no bytes"))
    bar, result = widgets.gallery(pd.DataFrame(rows, columns=COLUMNS)).children
    which, page = bar.children
    assert [label for label, _ in which.options] == ["all (31)", "wrong (10)", "unsure (15)"]
    assert page.max == 3 and "00.jpg" in result.value and "12.jpg" not in result.value
    page.value = 3
    assert "bad.jpg" in result.value and "not read: empty" in result.value
    which.value = "wrong"
    assert (page.max, page.value) == (1, 1)
    assert "29.jpg" in result.value and "✗ Audi" in result.value and "00.jpg" not in result.value


def test_live_curves_show_one_figure_and_leave_none_open(monkeypatch):
    shown, cleared = [], []
    monkeypatch.setattr(widgets, "display", shown.append)
    monkeypatch.setattr(widgets, "clear_output", lambda wait: cleared.append(wait))
    rows = {
        "stage": [0, 1],
        "unfreeze": ["head", "all"],
        "size": [96, 96],
        "train_loss": [2.0, 1.0],
        "valid_loss": [2.0, 1.5],
    }
    history = pd.DataFrame(rows | {"valid_accuracy": [0.3, 0.6], "valid_macro_recall": [0.2, 0.5]})
    widgets.live_curves(history)
    assert len(shown) == 1
    assert cleared == [True]
    assert not plt.get_fignums()
