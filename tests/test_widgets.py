import base64
import datetime
import io
import re
import warnings
from html import escape, unescape
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf.data.photos import PhotoError, read_photo

pytest.importorskip("ipywidgets")

from IPython.core.interactiveshell import InteractiveShell

from carclf.report import widgets
from carclf.report.cards import SCENE, THUMBNAIL

COLUMNS = ["path", "brand", "predicted", "confidence", "top5", "accepted", "problem"]


class AudiEverywhere:
    """Answers like a classifier: reads every photo and calls it an Audi."""

    device = SimpleNamespace(name="cpu")
    card = SimpleNamespace(promise=None, threshold=0.9)

    def predict(self, sources, names, **_):
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
    button, _, result = box.children
    now = datetime.datetime.now(datetime.timezone.utc)
    button.value = tuple(
        {"name": name, "type": "image/jpeg", "size": len(data), "content": memoryview(data), "last_modified": now}
        for name, data in files
    )
    return result.value.replace("\xa0", " ")


def test_upload_shows_each_photo_with_its_answers_until_the_next_upload(box):
    shown = send(box, ("one.jpg", jpeg()), ("two.jpg", jpeg()))
    assert shown.count("<img ") == 2
    assert "one.jpg" in shown and "two.jpg" in shown
    assert "&lt;i&gt;Audi&lt;/i&gt; 70 % (unsure)</b>" in shown and ">30 %</span>" in shown
    assert 'alt="photo one.jpg: &lt;i&gt;Audi&lt;/i&gt; 70 % (unsure)"' in shown
    assert shown.count("The threshold of 0.90 was set by hand, so nothing is promised.") == 1
    shown = send(box, ("three.jpg", jpeg()))
    assert "three.jpg" in shown and "one.jpg" not in shown


class CarsEverywhere:
    """Answers like a classifier that finds two cars in every photo: one it names, one too small."""

    card = SimpleNamespace(promise=None, threshold=0.9)

    def predict(self, sources, names, cars, **_):
        assert cars == "all"
        columns = [
            "path",
            "brand",
            "car",
            "x0",
            "y0",
            "x1",
            "y1",
            "predicted",
            "confidence",
            "top5",
            "decision",
            "problem",
        ]
        rows = []
        for source, name in zip(sources, names, strict=True):
            try:
                read_photo(source)
                top5 = {"<i>Audi</i>": 0.7, "BMW": 0.2, "Kia": 0.1}
                rows.append((name, None, 0, 90, 90, 600, 500, "<i>Audi</i>", 0.7, top5, "unsure", None))
                rows.append((name, None, 1, 700, 300, 740, 330, None, np.nan, None, "too small", None))
            except PhotoError as error:
                rows.append((name, None, 0, *[np.nan] * 4, None, np.nan, None, None, str(error)))
        return pd.DataFrame(rows, columns=columns).assign(accepted=False, score=np.nan)


def test_upload_draws_and_lists_the_cars_of_each_photo():
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    box = widgets.upload(CarsEverywhere(), cars="all")
    shown = send(
        box, ("bad.jpg", b"no photo"), ("one.jpg", jpeg(exif=exif, comment=b"secret place")), ("one.jpg", jpeg())
    )
    assert shown.count("<img ") == 2
    assert "bad.jpg</b><br>\nnot read: not an image" in shown
    assert shown.count("1 <b>&lt;i&gt;Audi&lt;/i&gt; 70 % (unsure)</b>; or BMW 20 %, Kia 10 %") == 2
    assert 'alt="photo one.jpg with its cars: &lt;i&gt;Audi&lt;/i&gt; 70 % (unsure); too small"' in shown
    assert shown.count("2 <b>too small</b>") == 2
    data = base64.b64decode(shown.split("base64,")[1].split('"')[0])
    image = Image.open(io.BytesIO(data))
    assert image.size == (SCENE, SCENE * 2 // 3)
    assert b"secret" not in data and not image.getexif()
    red, _, blue = (int(value) for value in np.asarray(image.convert("RGB"))[150, 48])
    assert red > 150 and blue < 120  # the edge of the box, orange on a navy photo


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


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        ("unknown", ["unknown, perhaps <i>Audi</i> 70 %", "perhaps no car, or another brand"]),
        ("no car found", ["no car found, perhaps <i>Audi</i> 70 %", "so the whole photo was judged"]),
    ],
)
def test_what_is_not_known_comes_first_with_its_reason(monkeypatch, decision, words):
    found = AudiEverywhere.predict
    monkeypatch.setattr(AudiEverywhere, "predict", lambda *a, **k: found(*a, **k).assign(decision=decision))
    shown = send(widgets.upload(AudiEverywhere()), ("one.jpg", jpeg()))
    for text in words:
        assert escape(text) in shown


def test_letters_have_the_colour_of_the_notebooks_theme(box):
    shown = send(box, ("Audi_A4.jpg", jpeg()))
    colours = re.findall(r"[; \"]color:([^;\"]+)", shown)
    assert colours and all(colour.endswith(",inherit)") for colour in colours)
    assert "background:#" not in shown and "<style" not in shown


def test_an_upload_that_fails_says_so_and_the_next_one_works(box, monkeypatch):
    seen = []

    def fail(*_, **__):
        button, _, result = box.children
        seen.append((button.disabled, result.value))
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr(widgets, "prediction_cards", fail)
    with pytest.raises(RuntimeError, match="memory"):
        send(box, ("<a>.jpg", jpeg()))
    assert seen == [(True, "Looking at &lt;a&gt;.jpg … a moment.")]
    button, _, result = box.children
    assert result.value == "<b>Failed</b>, with RuntimeError: out of &lt;memory&gt;" and not button.disabled
    monkeypatch.undo()
    assert "one.jpg" in send(box, ("one.jpg", jpeg()))


def test_a_connection_lost_by_a_large_upload_is_told_and_leaves_a_button_that_works(box):
    button, hint, result = box.children
    assert "at most 10 MB at once" in hint.value
    shown = send(box, ("one.jpg", jpeg()))
    button.get_state()  # what the browser asks for when it is back
    renewed, hint, result = box.children
    assert renewed is not button and not button.renew
    assert "more than JupyterLab's 10 MB" in hint.value and "none arrived" in hint.value
    assert result.value.replace("\xa0", " ") == shown  # what was there stays
    assert "two.jpg" in send(box, ("two.jpg", jpeg()))
    assert "at most 10 MB at once" in hint.value
    renewed.get_state()
    assert box.children[0] is not renewed


def test_the_paths_that_the_hint_recommends_work(tmp_path):
    calls = re.findall(r"<code>(.*?)</code>", widgets.HINT)
    assert [unescape(call) for call in calls] == ['classifier.predict("folder")', "carclf.predict_video"]
    import carclf

    assert callable(carclf.predict_video) and callable(carclf.Classifier.predict)


def test_errors_of_ours_are_one_line_and_others_are_whole(tmp_path, monkeypatch):
    shell = InteractiveShell()
    shown = []
    monkeypatch.setattr(widgets, "get_ipython", lambda: shell)
    monkeypatch.setattr(warnings, "formatwarning", plain := warnings.formatwarning)  # restored at the end
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, error, lines: shown.append("\n".join(lines)))
    widgets.short_errors()
    found = shell.run_cell("import carclf\ncarclf.Classifier.load('nowhere')")
    assert isinstance(found.error_in_exec, FileNotFoundError)  # so Run All stops
    first, last = shown.pop().splitlines()
    assert "FileNotFoundError" in first and "nowhere" in first and "%tb" in last
    shell.run_line_magic("tb", "")
    assert "classifier.py" in shown.pop()
    shell.run_cell("import json\njson.loads('{')")
    assert "decoder.py" in shown.pop()  # a ValueError of somebody else
    ours = warnings.formatwarning("nothing is promised", UserWarning, "/tmp/1.py", 1)
    theirs = (RuntimeWarning("overflow"), RuntimeWarning, "/tmp/1.py", 1)
    assert ours == "Warning: nothing is promised\n" and warnings.formatwarning(*theirs) == plain(*theirs)
    monkeypatch.setattr(widgets, "get_ipython", lambda: None)
    widgets.short_errors()


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


def test_an_uploaded_clip_has_a_card_for_each_car(tmp_path, monkeypatch):
    pytest.importorskip("av")
    from carclf.demo.street import draw_clip
    from carclf.video import predict as video

    truth = draw_clip(tmp_path / "street.mp4", seconds=3, fps=5, cars=1, seed=1)
    table = truth[truth.visible > 0.5].groupby("vehicle").first().reset_index()
    table = table.assign(track=0, best_seen=table.time, first_seen=0.0, last_seen=2.0, frames=9, score=0.9, brand=None)
    table = table.assign(predicted="Audi", confidence=0.7, accepted=False, decision="unsure", problem=None)
    table["top5"] = [{"Audi": 0.7}]
    monkeypatch.setattr(widgets, "predict_video", lambda *_, **__: table)
    shown = send(
        widgets.upload(AudiEverywhere()), ("<b>.mp4", (tmp_path / "street.mp4").read_bytes()), ("a.jpg", jpeg())
    )
    assert shown.count("<img ") == 2 and "&lt;b&gt;.mp4, car 0: 0.0 to 2.0 s, 9 frames" in shown
    crop = video.best_crops(tmp_path / "street.mp4", table)[0]
    assert 1 <= crop.width / (table.x1 - table.x0)[0] <= 1.13  # the margin, clipped to the frame
    monkeypatch.undo()
    shown = send(widgets.upload(AudiEverywhere(), boxes=lambda photo: []), ("bad.mp4", b"no clip"))
    assert shown.count("bad.mp4") == 1 and str(tmp_path.parent) not in shown and "<img " not in shown
