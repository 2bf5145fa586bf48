import base64
import datetime
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf.data.photos import PhotoError, read_photo

pytest.importorskip("ipywidgets")

from carclf.report import widgets
from carclf.report.page import THUMBNAIL

COLUMNS = ["path", "brand", "predicted", "confidence", "top5", "accepted", "problem"]


class AudiEverywhere:
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


@pytest.fixture
def box():
    return widgets.upload(AudiEverywhere())


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


def test_upload_shows_each_photo_with_its_answers_until_the_next_upload(box):
    shown = send(box, ("one.jpg", jpeg()), ("two.jpg", jpeg()))
    assert shown.count("<img ") == 2
    assert "one.jpg" in shown and "two.jpg" in shown
    assert "70%, unsure" in shown and "30%" in shown
    shown = send(box, ("three.jpg", jpeg()))
    assert "three.jpg" in shown and "one.jpg" not in shown


def test_upload_keeps_no_bytes_and_no_metadata(box):
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    shown = send(box, ("one.jpg", jpeg(exif=exif, comment=b"secret place")))
    assert box.children[0].value == ()
    thumbnail = base64.b64decode(shown.split("base64,")[1].split('"')[0])
    assert len(thumbnail) < 15_000
    image = Image.open(io.BytesIO(thumbnail))
    assert max(image.size) == THUMBNAIL
    assert not image.getexif()
    assert b"secret" not in thumbnail


@pytest.mark.parametrize("data", [b"", b"<html><script>alert(1)</script>", jpeg()[:3000], b"\x00" * 5000])
def test_hostile_uploads_give_a_reason(box, data):
    shown = send(box, ("bad.jpg", data), ("good.jpg", jpeg()))
    assert "bad.jpg</b><br>not read: " in shown
    assert shown.count("<img ") == 1
    assert "<script>" not in shown


def test_names_and_brands_are_text_not_html(box):
    shown = send(box, ('<img src=x onerror="alert(1)">.jpg', jpeg()), ("a\udc80.jpg", jpeg()))
    assert "<img src=x" not in shown and "&lt;img src=x" in shown
    assert "<i>" not in shown and "&lt;i&gt;Audi" in shown
    shown.encode("utf-8")


def test_live_curves_show_one_figure_and_leave_none_open(monkeypatch):
    shown, cleared = [], []
    monkeypatch.setattr(widgets, "display", shown.append)
    monkeypatch.setattr(widgets, "clear_output", lambda wait: cleared.append(wait))
    history = pd.DataFrame({"stage": [0, 1], "unfreeze": ["head", "all"], "size": 96})
    names = ["train_loss", "valid_loss", "valid_accuracy", "valid_macro_recall"]
    widgets.live_curves(history.assign(**{name: [0.3, 0.6] for name in names}))
    assert len(shown) == 1
    assert cleared == [True]
    assert not plt.get_fignums()
