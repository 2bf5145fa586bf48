import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from clips import GROUND, SIZE, drive, numbered, write_clip
from PIL import Image

import carclf
from carclf.__main__ import main
from carclf.model.backbones import empty_model
from carclf.model.card import Card
from carclf.model.classifier import Classifier
from carclf.model.crops import TOO_SMALL
from carclf.model.ood import OodDetector
from carclf.video import Clip, predict_video, score_all, score_video
from carclf.video.predict import MOST, _Car
from carclf.video.write import ClipWriter

TIMED = ["time", "x0", "y0", "x1", "y1"]
COLOURS = {"Audi": (40, 60, 200), "BMW": (40, 170, 60), "Volvo": (220, 200, 50)}


class ByColour(Classifier):
    """Knows brands by the colour in the middle of a crop; how sure it is grows with `sharpness`."""

    def __init__(self, threshold=0.6, sharpness=4.0):
        model = empty_model("resnet18", len(COLOURS), "linear")
        super().__init__(model, Card("resnet18", "linear", tuple(sorted(COLOURS)), 32, 40, threshold), "cpu")
        self.sharpness, self.seen = sharpness, 0

    def outputs(self, photos):
        self.seen += len(photos)
        middle = photos[:, :, 12:28, 12:28].mean((2, 3))
        far = np.linalg.norm(middle[:, None] - np.array([COLOURS[name] for name in self.classes])[None], axis=2)
        features = np.ones((len(photos), 512), np.float32)
        features[:, :3] = middle
        return (self.sharpness * -far / 50).astype(np.float32), features


@pytest.fixture(scope="module")
def classifier():
    return ByColour()


@pytest.fixture
def street(tmp_path):
    """Four seconds of three cars, of which two cross, and their true boxes."""
    cars = {
        "Audi": (COLOURS["Audi"], 90, lambda t: (80 * t, 120)),
        "BMW": (COLOURS["BMW"], 80, lambda t: (320 - 90 * t, 100)),
        "Volvo": (COLOURS["Volvo"], 70, lambda t: (200, 40)),
    }
    return tmp_path / "street.mp4", drive(tmp_path / "street.mp4", cars)


def test_every_car_is_there_once_with_its_brand(classifier, street):
    clip, boxes = street
    table = predict_video(classifier, clip, boxes=boxes)
    assert sorted(table.predicted) == ["Audi", "BMW", "Volvo"]
    assert table.accepted.all()
    assert table.track.is_unique
    volvo = table.set_index("predicted").loc["Volvo"]
    assert (volvo.first_seen, volvo.last_seen) == (0, pytest.approx(3.8))
    assert volvo.frames == 20
    assert MOST <= volvo.judged <= volvo.frames
    assert [volvo.x0, volvo.y0, volvo.x1, volvo.y1] == [165, 22, 235, 58]
    assert table.attrs == {"problems": {}, "seen_once": 0}


def test_the_table_is_one_of_predictions(classifier, street):
    clip, boxes = street
    table = predict_video(classifier, clip, boxes=boxes)
    ours = ["path", "brand", "track", "first_seen", "last_seen", "frames", "judged", "sufficed", "best_seen"]
    answer = ["predicted", "confidence", "loss", "top5", "decision", "accepted", "problem"]
    assert list(table) == [*ours, "x0", "y0", "x1", "y1", "score", *answer]
    assert table.brand.isna().all()
    labelled = table.assign(brand=table.predicted, vehicle=table.track.astype(str))
    assert carclf.compute_metrics(labelled, classes=classifier.classes)["accuracy"] == 1


def test_boxes_may_be_a_function_or_a_detectors(classifier, street):
    clip, boxes = street
    of_time = [rows for _, rows in boxes[(boxes.time * 10).round() % 2 == 0].groupby("time")]
    frames = iter(of_time)
    asked = predict_video(classifier, clip, boxes=lambda photo: next(frames))
    again = iter(of_time)
    detector = SimpleNamespace(find=lambda photos: [next(again).assign(score=0.5) for _ in photos])
    found = predict_video(classifier, clip, detector=detector)
    pd.testing.assert_frame_equal(asked, predict_video(classifier, clip, boxes=boxes))
    pd.testing.assert_frame_equal(found.assign(score=np.nan), asked)
    assert (found.score == 0.5).all()


def test_a_car_hidden_for_a_second_counts_once_and_one_that_returns_counts_again(classifier, tmp_path):
    hidden = {"Audi": (COLOURS["Audi"], 90, lambda t: None if 1.5 < t < 2.5 else (70 * t, 100))}
    boxes = drive(tmp_path / "a.mp4", hidden)
    assert len(predict_video(classifier, tmp_path / "a.mp4", boxes=boxes)) == 1
    returns = {"Audi": (COLOURS["Audi"], 90, lambda t: (250 * t, 100) if t < 1.5 else (320 - 250 * (t - 4), 100))}
    boxes = drive(tmp_path / "b.mp4", returns, seconds=6)
    table = predict_video(classifier, tmp_path / "b.mp4", boxes=boxes)
    assert table.predicted.tolist() == ["Audi", "Audi"]
    assert table.last_seen[0] < 2 < 3.5 < table.first_seen[1]


def test_a_car_that_is_never_large_enough_is_not_judged(tmp_path):
    classifier = ByColour()
    small = {"Audi": (COLOURS["Audi"], TOO_SMALL - 4, lambda t: (40 + 30 * t, 50))}
    boxes = drive(tmp_path / "a.mp4", small, seconds=2)
    (car,) = predict_video(classifier, tmp_path / "a.mp4", boxes=boxes).itertuples()
    assert (car.decision, car.accepted, car.judged, car.sufficed) == ("too small", False, 0, 0)
    assert pd.isna(car.predicted) and np.isnan(car.confidence)
    assert classifier.seen == 0


def test_a_car_that_becomes_large_enough_is_judged_from_then_on(classifier, tmp_path):
    boxes = drive(tmp_path / "a.mp4", {"BMW": (COLOURS["BMW"], 90, lambda t: (-20 + 60 * t, 80))}, seconds=3)
    (car,) = predict_video(classifier, tmp_path / "a.mp4", boxes=boxes).itertuples()
    assert car.predicted == "BMW"
    assert 0 < car.judged < car.frames
    assert car.x1 - car.x0 == 90  # its best frame


def test_what_is_seen_once_is_left_out_and_counted(classifier, street):
    clip, boxes = street
    false = pd.DataFrame([{"time": 2.0, "x0": 10, "y0": 130, "x1": 100, "y1": 175}])
    table = predict_video(classifier, clip, boxes=pd.concat([boxes, false]))
    assert len(table) == 3
    assert table.attrs["seen_once"] == 1


def test_a_clip_without_cars_has_no_rows(classifier, street):
    table = predict_video(classifier, street[0], boxes=lambda photo: [])
    assert len(table) == 0
    assert "decision" in table
    assert carclf.plot.timeline(table).texts[0].get_text() == "none: no car was found in the clip"


def outputs(*logits):
    return [(np.array(row, np.float32), np.ones(2, np.float32)) for row in logits]


@pytest.mark.parametrize(("correlation", "factor"), [(1.0, 1), (0.0, 4), (0.5, 4 / 2.5)])
def test_logits_are_averaged_and_scaled_by_the_effective_number_of_frames(correlation, factor):
    car = _Car(0, 0.0, correlation)
    for number, out in enumerate(outputs([1, 0], [3, 0], [2, 4], [2, 0])):
        car.add(number, *out)
    np.testing.assert_allclose(car.pooled()[0], np.array([2, 1]) * factor)


def test_the_same_frame_again_and_again_is_as_sure_as_one_photo(tmp_path):
    classifier = ByColour(sharpness=0.5)
    boxes = drive(tmp_path / "a.mp4", {"Audi": ((60, 90, 150), 90, lambda t: (150, 90))})
    table = predict_video(classifier, tmp_path / "a.mp4", boxes=boxes)
    frame = next(iter(Clip(tmp_path / "a.mp4"))).image
    frame.save(tmp_path / "a.png")
    photo = classifier.predict(tmp_path / "a.png", boxes=boxes[["x0", "y0", "x1", "y1"]].head(1))
    assert table.confidence[0] == pytest.approx(photo.confidence[0], abs=0.02)
    surer = predict_video(classifier, tmp_path / "a.mp4", boxes=boxes, correlation=0.2)
    assert surer.confidence[0] > table.confidence[0] + 0.05


def test_the_best_box_of_a_judged_car_is_never_too_small():
    car = _Car(0, 0.0, 1.0)
    assert car.see(0.0, np.array([0, 0, TOO_SMALL, 20, np.nan]))
    assert not car.see(0.2, np.array([0, 0, TOO_SMALL - 4, TOO_SMALL - 4, np.nan]))  # of more pixels
    assert car.row()[-5:-1] == [0, 0, TOO_SMALL, 20]
    assert car.best == 0


def test_frames_that_count_stay_few_and_evenly_spread_however_long_a_car_stays():
    car, judged = _Car(0, 0.0, 1.0), 0
    for frame in range(5000):
        if car.see(frame / 5, np.array([0, 0, 100, 50, np.nan])):
            car.add(car.large - 1, *outputs([1, 0])[0])
            judged += 1
    assert MOST / 2 <= len(car.kept) <= MOST
    assert set(np.diff(list(car.kept))) == {car.step}
    assert max(car.kept) > 4000
    assert judged < 100


def test_sufficed_is_when_the_answer_changed_for_the_last_time(tmp_path, monkeypatch):
    monkeypatch.setattr("carclf.video.tracks.UNLIKE", 0.0)  # this car changes its colour

    def colour(t):  # its first three frames look like another brand
        return COLOURS["Volvo"] if t < 0.55 else COLOURS["BMW"]

    images, rows = [], []
    for time in np.arange(30) / 10:
        image = np.full((SIZE[1], SIZE[0], 3), GROUND, np.uint8)
        image[60:120, 100:200] = colour(time)
        images.append(image)
        rows.append((time, 100, 60, 200, 120))
    write_clip(tmp_path / "a.mp4", images, np.arange(30) / 10)
    boxes = pd.DataFrame(rows, columns=["time", "x0", "y0", "x1", "y1"])
    (car,) = predict_video(ByColour(threshold=0.0), tmp_path / "a.mp4", boxes=boxes).itertuples()
    assert car.predicted == "BMW"
    assert car.frames == 15
    assert 4 < car.sufficed < 8  # three frames of one colour are outvoted by about as many of the other


def test_the_card_decides_what_is_accepted_and_ood_what_is_unknown(street):
    clip, boxes = street
    assert not predict_video(ByColour(threshold=1.0, sharpness=0.5), clip, boxes=boxes).accepted.any()
    rng = np.random.default_rng(0)
    features = np.ones((60, 512), np.float32)
    features[:, :3] = np.repeat([COLOURS["Audi"], COLOURS["BMW"]], 30, axis=0) + rng.normal(0, 5, (60, 3))
    strict = ByColour()
    detector = OodDetector.fit(features, np.repeat(["Audi", "BMW"], 30))
    known = detector.score(features)
    strict.ood = OodDetector(float(known.min()) * 4, 1.0, detector.arrays)
    decisions = predict_video(strict, clip, boxes=boxes).set_index("predicted").decision
    assert decisions.to_dict() == {"Audi": "accepted", "BMW": "accepted", "Volvo": "unknown"}


def test_scores_are_those_of_the_table(classifier, street):
    clip, boxes = street
    scores = score_video(classifier, clip, boxes=boxes)
    pd.testing.assert_frame_equal(classifier.rescore(scores).table, scores.table)
    assert scores.logits.shape == (3, 3)
    np.testing.assert_allclose(classifier.softmax(scores.logits).max(1), scores.table.confidence, rtol=1e-6)


def test_two_runs_agree(classifier, street):
    clip, boxes = street
    jitter = [boxes.assign(x0=boxes.x0 + np.random.default_rng(1).normal(0, 1, len(boxes))) for _ in range(2)]
    pd.testing.assert_frame_equal(*(predict_video(classifier, clip, boxes=b) for b in jitter))


def test_what_could_not_be_read_is_counted_in_a_warning(classifier, tmp_path):
    boxes = drive(tmp_path / "a.mkv", {"Audi": (COLOURS["Audi"], 90, lambda t: (60 + 20 * t, 90))})
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) * 2 // 3])
    with pytest.warns(UserWarning, match=r"a.mkv: .*seconds missing at the end.*; the rest was read") as caught:
        table = predict_video(classifier, tmp_path / "a.mkv", boxes=boxes)
    assert table.predicted.tolist() == ["Audi"]
    assert table.attrs["problems"]["seconds missing at the end"] >= 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boxes": pd.DataFrame({"x0": [1]})}, "have no column time, y0, x1, y1; a clip needs these"),
        ({"correlation": 2}, "correlation=2 must lie between 0 and 1; 1 keeps the promise"),
        ({"boxes": lambda photo: [[5, 5, 1, 9]]}, r"street.mp4 at 0.00 s is inverted or empty"),
        ({"boxes": lambda photo: [], "detector": "coco"}, "boxes and a detector are given; leave one of them out"),
        ({"boxes": pd.DataFrame([["a", 1, 1, 9, 9]], columns=TIMED)}, "street.mp4 have times that are no numbers"),
        ({"boxes": pd.DataFrame([[np.nan, 1, 1, 9, 9]], columns=TIMED)}, "have rows without a time; give seconds"),
        ({"annotate": "a.gif", "boxes": lambda photo: []}, r"a.gif: an annotated clip ends with .mp4, .mov"),
    ],
)
def test_bad_settings_say_what_is_wrong(classifier, street, settings, message):
    with pytest.raises(ValueError, match=message):
        predict_video(classifier, street[0], **settings)


def test_the_annotated_clip_shows_boxes_at_their_times(classifier, street, tmp_path):
    clip, boxes = street
    predict_video(classifier, clip, boxes=boxes, annotate=tmp_path / "new" / "out.mp4")
    before, after = (list(Clip(path)) for path in (clip, tmp_path / "new" / "out.mp4"))
    assert [frame.time for frame in after] == pytest.approx([frame.time for frame in before], abs=0.002)
    pairs = [(np.asarray(a.image, int), np.asarray(b.image, int)) for a, b in zip(before, after, strict=True)]
    changed = [np.abs(a - b).mean() for a, b in pairs]
    assert min(changed) > 1  # boxes and labels in every frame
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.mp4"]


def test_names_in_the_annotated_clip_do_not_flicker(classifier, street, monkeypatch):
    shown = []
    monkeypatch.setattr("carclf.video.predict.draw_cars", lambda image, rows: shown.append(rows) or image)
    monkeypatch.setattr("carclf.video.write.ClipWriter.write", lambda *args: None)
    predict_video(classifier, street[0], boxes=street[1], annotate=street[0].with_name("b.mp4"))
    names = pd.concat(shown).dropna(subset="predicted").groupby("track").predicted.nunique()
    assert names.tolist() == [1, 1, 1]
    assert not street[0].with_name("b.mp4").exists()


def test_a_clip_that_fails_leaves_no_annotated_clip(classifier, street, tmp_path):
    with pytest.raises(ZeroDivisionError):
        predict_video(classifier, street[0], boxes=lambda photo: 1 / 0, annotate=tmp_path / "out.mp4")
    assert not list(tmp_path.glob("out*"))


def test_players_learn_the_duration_and_a_level_that_phones_play(tmp_path):
    import av

    with ClipWriter(tmp_path / "a.mp4") as writer:
        for time in (0, 0.2, 0.4, 5):
            writer.write(time, Image.new("RGB", (1920, 1080)))
    with av.open(str(tmp_path / "a.mp4")) as clip:
        assert 5 < clip.duration / av.time_base < 5.1
        assert clip.streams.video[0].codec_context.extradata[3] <= 42  # in an avcC header, ten times the level


def test_the_annotated_clip_never_replaces_its_source(classifier, street, monkeypatch):
    clip, before = street[0], street[0].read_bytes()
    monkeypatch.chdir(clip.parent)
    for source, target in ((clip, "street.mp4"), ("street.mp4", clip), (clip.name, "./street.mp4")):
        with pytest.raises(ValueError, match="the annotated clip would replace the clip itself; choose"):
            predict_video(classifier, source, boxes=lambda photo: [], annotate=target)
    assert clip.read_bytes() == before


def test_an_annotated_clip_may_have_odd_sides(classifier, tmp_path):
    for i in range(3):
        Image.new("RGB", (101, 77)).save(tmp_path / f"{i}.png")
    predict_video(classifier, tmp_path, boxes=lambda photo: [[5, 5, 90, 60]], annotate=tmp_path / "out.mp4")
    assert next(iter(Clip(tmp_path / "out.mp4"))).image.size == (100, 76)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
    """After the first frames of a clip, the process takes no more memory."""
    for i, image in enumerate(numbered(8)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    for i in range(8, 600):
        os.link(tmp_path / f"{i % 8}.png", tmp_path / f"{i}.png")
    code = """
import sys, psutil
sys.path.insert(0, sys.argv[1])
from test_video import ByColour, predict_video
taken, process = [], psutil.Process()
def boxes(photo):
    taken.append(process.memory_info().rss)
    return [[20, 20, 120, 80]] if len(taken) % 50 < 25 else []
table = predict_video(ByColour(), sys.argv[2], boxes=boxes)
print(len(table), max(taken[:150]), max(taken))
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cars, early, late = map(int, out.split())
    assert cars == 12
    assert late - early < 10 * 2**20


def test_photos_clips_and_folders_are_scored_together(classifier, street, tmp_path, monkeypatch):
    monkeypatch.setattr("carclf.video.predict._finder", given(street[1]))
    Image.new("RGB", (60, 40), COLOURS["BMW"]).save(tmp_path / "BMW_X5_1.jpg")
    Image.new("RGB", (60, 40), COLOURS["Audi"]).save(tmp_path / "sub.png")
    scores = score_all(classifier, tmp_path)
    assert scores.table.predicted.tolist()[:2] == ["BMW", "Audi"]
    assert sorted(scores.table.predicted[2:]) == ["Audi", "BMW", "Volvo"]
    assert scores.logits.shape == (5, 3)
    assert len(score_all(classifier, [street[0], tmp_path / "sub.png"]).table) == 4
    assert len(score_all(classifier, [tmp_path / "sub.png"]).table) == 1
    with pytest.raises(ValueError, match="no photos and no clips are given"):
        score_all(classifier, [])


def given(boxes):
    """A stand-in for the detector: the true boxes."""
    real = carclf.video.predict._finder
    return lambda source, _, detector, device: real(source, boxes, None, device)


@pytest.fixture
def without_detector(monkeypatch, street):
    """The command line with a classifier that knows colours, and the true boxes of the street for a detector."""
    monkeypatch.setattr(Classifier, "load", lambda folder: ByColour())
    monkeypatch.setattr("carclf.video.predict._finder", given(street[1]))
    return street[0]


def test_the_command_line_prints_cars_and_shares_and_writes_what_it_is_told(without_detector, tmp_path, capsys):
    files = {name: str(tmp_path / name) for name in ("cars.csv", "out.mp4", "line.png")}
    arguments = ["--csv", files["cars.csv"], "--annotate", files["out.mp4"], "--timeline", files["line.png"]]
    assert main(["video", str(tmp_path), str(without_detector), "--every", "0.4", *arguments]) == 0
    printed = capsys.readouterr().out
    for word in ("seen", "Audi", "BMW", "Volvo", "accepted", "counted, not corrected for", "33\xa0%"):
        assert word in printed
    table = pd.read_csv(files["cars.csv"])
    assert sorted(table.predicted) == ["Audi", "BMW", "Volvo"]
    assert set(json.loads(table.top5[0])) == set(COLOURS)
    assert table.frames.max() == 10
    assert len(list(Clip(files["out.mp4"], 0.4))) == 10
    assert carclf.read_photo(files["line.png"]).width > 500


def test_the_command_line_takes_several_clips_and_a_folder_of_them(without_detector, tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(without_detector.read_bytes())
    assert main(["video", str(tmp_path), str(folder), str(without_detector), "--csv", str(tmp_path / "cars.csv")]) == 0
    table = pd.read_csv(tmp_path / "cars.csv")
    assert table.groupby("path").size().tolist() == [3, 3, 3]
    assert main(["video", str(tmp_path), str(folder), "--annotate", str(tmp_path / "x.mp4")]) == 1
    assert "--annotate and --boxes are for one clip, and these are 2" in capsys.readouterr().err


def test_the_command_line_takes_boxes_from_a_table(monkeypatch, street, tmp_path, capsys):
    monkeypatch.setattr(Classifier, "load", lambda folder: ByColour())
    street[1].to_csv(tmp_path / "boxes.csv", index=False)
    assert main(["video", str(tmp_path), str(street[0]), "--boxes", str(tmp_path / "boxes.csv"), "--seconds", "2"]) == 0
    assert "Volvo" in capsys.readouterr().out
    for name, message in {"no.csv": "columns time, x0, y0, x1, y1", "street.mp4": "street.mp4 is not a table"}.items():
        assert main(["video", str(tmp_path), str(street[0]), "--boxes", str(street[0].with_name(name))]) == 1
        assert message in capsys.readouterr().err


def test_the_command_line_says_in_one_line_what_is_wrong(without_detector, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"")
    assert main(["video", str(tmp_path), str(tmp_path / "broken.mp4")]) == 1
    assert capsys.readouterr().err.strip().endswith("broken.mp4: the file is empty (0 bytes); copy or record it again")


def test_shares_count_the_cars_of_clips_and_each_photo_once(without_detector, tmp_path, capsys):
    run, photos = tmp_path / "run", tmp_path / "photos"
    photos.mkdir()
    rows = []
    for brand, colour in COLOURS.items():
        for i in range(4):
            path = photos / f"{brand}_{i}.png"
            Image.new("RGB", (60, 40), colour).save(path)
            rows.append({"path": str(path), "brand": brand, "vehicle": path.stem, "split": "valid", "problem": None})
    run.mkdir()
    pd.DataFrame(rows).to_csv(run / "split.csv", index=False)
    paths = [str(without_detector), *sorted(map(str, photos.glob("BMW*")))[:3]]
    assert main(["shares", str(run), *paths, "--csv", str(tmp_path / "shares.csv")]) == 0
    assert "Shares of 6 cars and photos" in capsys.readouterr().out
    shares = pd.read_csv(tmp_path / "shares.csv", index_col="brand")
    assert shares.share["BMW"] == pytest.approx(4 / 6)  # one car of the clip and three photos
    assert shares.share["Audi"] == pytest.approx(1 / 6)


def test_counted_shares_have_exact_intervals():
    from scipy.stats import beta

    table = pd.DataFrame({"predicted": ["Audi"] * 3 + ["BMW"] + [None]})
    shares = carclf.metrics.counted_shares(table)
    assert shares.cars.to_dict() == {"Audi": 3, "BMW": 1}
    assert shares.loc["Audi", ["share", "low", "high"]].tolist() == pytest.approx(
        [0.75, beta.ppf(0.025, 3, 2), beta.ppf(0.975, 4, 1)]
    )


def test_the_timeline_has_a_bar_per_car_of_the_colour_of_its_decision(classifier, street):
    from matplotlib.colors import to_hex

    from carclf.plot.cars import COLOURS as MEANING

    table = predict_video(classifier, street[0], boxes=street[1])
    table.loc[1, ["decision", "accepted"]] = ["unsure", False]
    ax = carclf.plot.timeline(table)
    bars = ax.containers[0]
    assert [bar.get_x() for bar in bars] == table.first_seen.tolist()
    assert [bar.get_x() + bar.get_width() for bar in bars] == pytest.approx(table.last_seen.tolist())
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [MEANING[word] for word in table.decision]
    assert {text.get_text().split()[0] for text in ax.texts} == {"Audi", "BMW", "Volvo"}
    assert ax.get_title("left") == "3 cars, 2 with an accepted answer"


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "returns"), [(0, False), (2, True)])
def test_in_a_drawn_street_every_car_counts_once_for_each_time_it_drives_by(classifier, tmp_path, seed, returns):
    from carclf.demo.street import draw_clip

    cars = draw_clip(tmp_path / "a.mp4", seconds=10, fps=5, seed=seed, returns=returns)
    cars[["x0", "x1"]] = cars[["x0", "x1"]].clip(0, 640)  # as a detector sees them
    cars = cars[cars.visible > 0.3]
    table = predict_video(classifier, tmp_path / "a.mp4", boxes=cars)
    assert len(table) == cars.vehicle.nunique() + returns
    for car in table.itertuples():  # one vehicle alone is where this car was
        here = cars[cars.time.between(car.first_seen - 0.01, car.last_seen + 0.01)]
        assert (here.vehicle.value_counts() >= car.frames).any()
