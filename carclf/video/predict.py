"""A clip and a classifier -> one row per car: where it was seen, and one answer from all its frames."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from carclf.data.boxes import BOX, XY, checked
from carclf.data.listing import list_photos
from carclf.data.photos import squish
from carclf.model import crops
from carclf.model.backbones import n_features
from carclf.model.classifier import Classifier, Scores
from carclf.model.predictions import listed
from carclf.plot.cars import draw_cars
from carclf.video.frames import Clip, Frame, VideoError, described, is_clip, list_clips
from carclf.video.tracks import Tracker, look
from carclf.video.write import ClipWriter

MOST = 16  # frames of one car that count at a time: more say little, and time and memory stay bounded
AT_ONCE = 4  # frames looked at together; only these are in memory
LEAST = 2  # frames in which a car must be seen: a box that appears once is often no car
POSITION = "{desc}: {n:.1f} s [{elapsed}]"
PROGRESS = "{l_bar}{bar}| {n:.1f} of {total:.1f} s [{elapsed}, {remaining} left]"
COLUMNS = ["track", "first_seen", "last_seen", "frames", "judged", "sufficed", "best_seen", *BOX]


def predict_video(
    classifier: Classifier,
    clip: str | os.PathLike,
    every: float = 0.2,
    annotate: str | os.PathLike | None = None,
    boxes: Any = None,
    detector: Any = None,
    seconds: float | None = None,
    correlation: float = 1.0,
) -> pd.DataFrame:
    """Find the cars in a clip, follow them, and name the brand of each once.

    Parameters
    ----------
    clip : a video file, a camera's address (rtsp://…), or a folder of frames
    every : seconds from one frame that is looked at to the next; in a folder, from one file to the next
    annotate : write the frames that were looked at, with boxes and names, to this .mp4, .mov or .mkv
    boxes : where the cars are, instead of a detector: a function that takes a PIL image and returns boxes (see
        `carclf.model.crops.finder`), or a DataFrame with the columns time (seconds from the start) x0 y0 x1 y1
    detector : None for the one that ships, what `Detector.load` takes, or anything with the method `find`
    seconds : stop after so much of the clip; a camera is watched for 60 seconds unless this says more
    correlation : of what two frames of one car say, 0 to 1. The mean of a car's n logits is multiplied by
        n / (1 + (n - 1) · correlation). At 1, the default, a car's frames together count as one photo, so that its
        confidence means what it means for a photo, and the card's threshold keeps its promise.

    Returns
    -------
    DataFrame, one row per car, by the time it was first seen, with the columns

    ==============  ==========================================================================================
    path            str, the clip; of a camera, its address without the password
    brand           missing; what it truly is, if you fill it in, as metrics expect it
    track           int, number of the car; a car hidden or out of sight for more than 1.4 seconds counts again
    first_seen      float, seconds from the start of the clip
    last_seen       float, as above
    frames          int, in which it was seen; cars seen only once are left out, and counted in `attrs["seen_once"]`
    judged          int, of these, how many were classified
    sufficed        int, after how many frames the answer and the decision no longer changed; 0 if none was judged
    best_seen       float, seconds: when its box was largest
    x0 y0 x1 y1     float, that box, in pixels of the upright frame
    score           float, 0 to 1, how sure the detector was of that box; NaN if it does not say
    ==============  ==========================================================================================

    and `predicted`, `confidence`, `loss`, `top5`, `decision`, `accepted`, `problem` as `Classifier.predict` gives
    them. A car whose box was never as large as `crops.TOO_SMALL` has the decision "too small".

    Raises VideoError (a ValueError) if nothing can be read. What could not be read of the rest is counted in a
    UserWarning and in `attrs["problems"]`.
    """
    return score_video(classifier, clip, every, annotate, boxes, detector, seconds, correlation).table


def score_video(
    classifier: Classifier,
    clip: str | os.PathLike,
    every: float = 0.2,
    annotate: str | os.PathLike | None = None,
    boxes: Any = None,
    detector: Any = None,
    seconds: float | None = None,
    correlation: float = 1.0,
) -> Scores:
    """As `predict_video`, with the pooled logits and features of every car beside the table."""
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation={correlation} must lie between 0 and 1; 1 keeps the promise")
    crops.wanted("all", boxes, detector)
    source = Clip(clip, every, seconds)
    if annotate is not None and os.path.realpath(annotate) == os.path.realpath(source.name):
        raise ValueError(f"{source.label}: the annotated clip would replace the clip itself; choose another name")
    find, tracker = _finder(source, boxes, detector, classifier.device.name), Tracker(every)
    cars: dict[int, _Car] = {}
    done: list[_Car] = []
    looked = 0
    with ExitStack() as stack:
        writer = None if annotate is None else stack.enter_context(ClipWriter(annotate))
        name = Path(source.label).name
        bar = stack.enter_context(tqdm(desc=name, bar_format=POSITION, leave=False, delay=2))
        for batch in _batches(source):
            looked += len(batch)
            here, squares = [], []
            for frame, found in zip(batch, find(batch), strict=True):
                table = checked(found, frame.image.size, f"{source.label} at {frame.time:.2f} s")
                xy = table[XY].to_numpy()
                numbers = tracker.update(frame.time, xy, frame.image.size, look(frame.image, xy)).tolist()
                here.append(dict(zip(numbers, table.to_numpy(), strict=True)))
                for number, box in here[-1].items():
                    car = cars.setdefault(number, _Car(number, frame.time, correlation))
                    if car.see(frame.time, box):
                        square = squish(crops.crop(frame.image, box), classifier.card.cache_size)
                        squares.append((car, car.large - 1, car.frames, square))
            _judge(classifier, squares)
            if writer is not None:
                for frame, boxed in zip(batch, here, strict=True):
                    writer.write(frame.time, _drawn(frame.image, cars, boxed))
            now = batch[-1].time
            done += [cars.pop(car.number).closed() for car in [*cars.values()] if now - car.last > tracker.patience]
            if source.duration:  # known once the first frame is read, if at all
                bar.total, bar.bar_format = max(source.duration, now), PROGRESS
            bar.update(now - bar.n)
        bar.total = bar.n  # the last frame ends before the clip does; a notebook would leave a red bar
    done += [car.closed() for car in cars.values()]
    kept = sorted((car for car in done if car.frames >= min(LEAST, looked)), key=lambda car: (car.first, car.number))
    scores = _scores(classifier, source.label if source.is_camera else source.name, kept)
    scores.table.attrs = {"problems": dict(source.problems), "seen_once": len(done) - len(kept)}
    if source.problems:
        warnings.warn(f"{source.label}: {described(source.problems)}; the rest was read", stacklevel=3)
    return scores


def score_all(classifier: Classifier, sources: Any, every: float = 0.2, detector: Any = None) -> Scores:
    """Answers for photos, clips and folders of them together: a row per photo, and a row per car of a clip."""
    if isinstance(sources, pd.DataFrame):
        return classifier.score(sources)
    photos: list = []
    clips: list[str] = []
    for source in [sources] if isinstance(sources, (str, os.PathLike)) else listed(sources):
        is_path = isinstance(source, (str, os.PathLike))
        is_folder = is_path and os.path.isdir(source)  # noqa: PTH112 - never raises on NUL
        found = list_clips(source) if is_folder else [os.fsdecode(source)] if is_path and is_clip(source) else []
        clips += found
        if not found:
            photos.append(source)
        elif is_folder:
            with suppress(ValueError):  # a folder of clips alone
                photos += list_photos(source)
    parts = [classifier.score(photos)] if photos else []
    parts += [score_video(classifier, clip, every, detector=detector) for clip in clips]
    if not parts:
        raise ValueError("no photos and no clips are given; give files or folders that hold some")
    arrays = [np.concatenate([part[i] for part in parts]) for i in (1, 2)]
    return Scores(pd.concat([part.table for part in parts], ignore_index=True), *arrays)


def best_crops(
    clip: str | os.PathLike, cars: pd.DataFrame, every: float = 0.2, seconds: float | None = None
) -> list[Image.Image]:
    """Each car of `predict_video`, cut from the frame in which its box was largest, with the margin of a judged crop.

    The clip is read again; it must be a file or a folder, and `every` and `seconds` the same.
    """
    found: dict[int, Image.Image] = {}
    for frame in Clip(clip, every, seconds):
        for place in np.flatnonzero(np.isclose(cars["best_seen"], frame.time)):
            found[int(place)] = crops.crop(frame.image, cars.iloc[place][XY])
        if len(found) == len(cars):
            break
    if len(found) < len(cars):
        raise VideoError(f"{clip} could not be read a second time as it was the first; copy it again")
    return [found[place] for place in range(len(cars))]


@dataclass
class _Car:
    """A car that is being followed: what is needed for its row, however long it is in sight."""

    number: int
    first: float
    correlation: float
    last: float = 0.0
    frames: int = 0
    large: int = 0  # frames in which it was large enough
    step: int = 1  # every so many of these count
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # number of the frame: its outputs
    judged: int = 0
    best: float = 0.0
    box: np.ndarray | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    sufficed: int = 0

    def see(self, time: float, box: np.ndarray) -> bool:
        """Note its box x0 y0 x1 y1 score in a frame; whether the crop is to be classified."""
        self.last, self.frames = time, self.frames + 1
        if self.box is None or _size(box) > _size(self.box):
            self.box, self.best = box, time
        if not _size(box)[0]:
            return False
        self.large += 1
        return (self.large - 1) % self.step == 0

    def add(self, number: int, logits: np.ndarray, features: np.ndarray) -> None:
        """Keep the outputs of a frame. If there are too many, those of every second go: the rest are evenly spread."""
        self.judged += 1
        if number % self.step == 0:
            self.kept[number] = logits, features
        if len(self.kept) > MOST:
            self.step *= 2
            self.kept = {i: outputs for i, outputs in self.kept.items() if i % self.step == 0}

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits and features of all its frames together; see `predict_video` for the factor."""
        logits, features = (np.mean(part, axis=0) for part in zip(*self.kept.values(), strict=True))
        n = len(self.kept)
        return logits * (n / (1 + (n - 1) * self.correlation)), features

    def closed(self) -> _Car:
        """The same, once it is gone: of its outputs, only those pooled stay."""
        if self.kept:
            self.kept = {0: self.pooled()}
            self.correlation = 1.0  # pooled again, they are the same
        self.answer = {}
        return self

    def row(self) -> list[float]:
        assert self.box is not None
        seen = [self.number, self.first, self.last, self.frames, self.judged, self.sufficed, self.best]
        return [*seen, *self.box.tolist()]


def _batches(source: Clip) -> Iterator[list[Frame]]:
    frames = iter(source)
    while batch := list(islice(frames, AT_ONCE)):
        yield batch


def _finder(source: Clip, boxes: Any, detector: Any, device: str) -> Callable[[list[Frame]], Sequence]:
    """A function from frames to the boxes of each."""
    if isinstance(boxes, pd.DataFrame):
        missing = [name for name in ("time", *XY) if name not in boxes]
        if missing:
            raise ValueError(f"the boxes of {source.label} have no column {', '.join(missing)}; a clip needs these")
        try:
            boxes = boxes.assign(time=boxes["time"].astype(float))
            times = np.sort(boxes["time"].unique())
        except (TypeError, ValueError) as error:
            raise ValueError(f"the boxes of {source.label} have times that are no numbers ({error})") from error
        if not np.isfinite(times).all():
            raise ValueError(f"the boxes of {source.label} have rows without a time; give seconds from the start")
        if not len(times):
            return lambda frames: [boxes] * len(frames)

        def nearest(frame: Frame) -> pd.DataFrame:
            time = times[np.abs(times - frame.time).argmin()]
            return boxes[(boxes["time"] == time) & (abs(time - frame.time) <= source.every / 2)]

        return lambda frames: [nearest(frame) for frame in frames]
    find = crops.finder([source.name], boxes, detector, device)
    return lambda frames: find([0] * len(frames), [frame.image for frame in frames])


def _judge(classifier: Classifier, squares: list[tuple[_Car, int, int, np.ndarray]]) -> None:
    """Classify crops, and give their cars the answers of all frames so far."""
    if not squares:
        return
    pooled = []
    outputs = classifier.outputs(np.stack([square for *_, square in squares]))
    for (car, number, _, _), logits, features in zip(squares, *outputs, strict=True):
        car.add(number, logits, features)
        pooled.append(car.pooled())
    table = pd.DataFrame({"path": [""] * len(pooled), "brand": None, "problem": None}, dtype=object)
    answers = classifier.rescore(Scores(table, *(np.stack(part) for part in zip(*pooled, strict=True)))).table
    for (car, _, frames, _), answer in zip(squares, answers.to_dict("records"), strict=True):
        if any(car.answer.get(name) != answer[name] for name in ("predicted", "decision")):
            car.sufficed = frames
        car.answer = answer


def _scores(classifier: Classifier, name: str, cars: list[_Car]) -> Scores:
    """Rows, logits and features of cars that were followed to their end."""
    widths = len(classifier.classes), n_features(classifier.model, classifier.card.backbone)
    arrays = [np.full((len(cars), width), np.nan, np.float32) for width in widths]
    for i, car in enumerate(cars):
        if car.kept:
            arrays[0][i], arrays[1][i] = car.pooled()
    table = pd.DataFrame(np.array([car.row() for car in cars]).reshape(-1, len(COLUMNS)), columns=COLUMNS)
    table = table.astype(dict.fromkeys(("track", "frames", "judged", "sufficed"), int))
    first = pd.DataFrame({"path": [name] * len(cars), "brand": None}, dtype=object)
    return classifier.rescore(Scores(pd.concat([first, table], axis=1).assign(problem=None), *arrays))


def _drawn(image: Image.Image, cars: dict[int, _Car], boxes: dict[int, np.ndarray]) -> Image.Image:
    """A frame with the boxes of its cars and their answers so far: names do not flicker."""
    small = {"decision": crops.SMALL, "predicted": None, "confidence": np.nan, "accepted": False}
    rows = [
        {**(cars[number].answer or small), "track": number, **dict(zip(BOX, box, strict=True))}
        for number, box in boxes.items()
    ]
    return draw_cars(image, pd.DataFrame(rows)) if rows else image


def _size(box: np.ndarray) -> tuple[bool, float]:
    """Whether a box is large enough for an answer, and its area: large enough comes first, whatever the shape."""
    width, height = box[2] - box[0], box[3] - box[1]
    return bool(max(width, height) >= crops.TOO_SMALL), float(width * height)
