"""The command line, `carclf`: the same calls as in the notebooks."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

if os.environ.get("RANK", "0") != "0":  # of several processes only the first draws bars; tqdm reads this at import
    os.environ.setdefault("TQDM_DISABLE", "1")

import pandas as pd

import carclf
from carclf.data.boxes import read_boxes
from carclf.data.manifest import read_table, read_test, summary
from carclf.model.crops import CARS, one_car
from carclf.model.device import pick
from carclf.train.loss import CLASS_WEIGHTS
from carclf.train.recipe import RENAMED

OWN_OPTION = ("backbone", "weights", "micro_batch", "accumulate", "class_weight", "device", "seed")  # of a recipe
EVERY = "seconds from one frame of a clip that is looked at to the next (default: %(default)s)"
OTHERS = [field.name for field in fields(carclf.Recipe) if field.name not in (*OWN_OPTION, "stages")]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 after an error (printed in one line), or 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stdout if _is_first() else io.StringIO()):
            warnings.showwarning = lambda message, *_: print(f"carclf: {message}", file=sys.stderr)
            options.run(options)
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        print(f"carclf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("carclf: stopped; run the same command again to resume", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("carclf", description="Recognise a car's brand in a photo.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(run, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__.strip("_"), help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    sub = command(_download, "fetch a public set of photos, or unpack an archive of your own, into a folder")
    sub.add_argument("source", help="listing (60,000 photos from Kaggle), or the path of a zip, tar, tar.gz or folder")
    sub.add_argument("--to", default="images", help="folder for the photos (default: %(default)s)")

    sub = command(_scan, "what a folder of photos holds")
    sub.add_argument("dir")
    sub.add_argument("--csv", help="write the manifest to this file")

    sub = command(_duplicates, "which pictures a folder holds more than once")
    sub.add_argument("dir")
    sub.add_argument("--csv", help="write the pairs to this file")
    sub.add_argument("--page", help="draw the first pairs into this picture, such as pairs.png")

    cache_help = "folder of the tensor cache (default: %(default)s)"
    sub = command(_cache, "decode a folder's photos into the tensor cache, or check the cache")
    sub.add_argument("dir")
    sub.add_argument("--cache", default="cache", help=cache_help)
    sub.add_argument("--cache-size", type=int, default=192, help="side of cached photos (default: %(default)s)")
    sub.add_argument("--verify", action="store_true", help="decode every photo again and compare")

    sub = command(_demo, "draw the demo photos")
    sub.add_argument("dir")
    sub.add_argument("--seed", type=int, default=0)

    sub = command(_train, "train on a folder of photos, or resume a run that was stopped")
    sub.add_argument("dir")
    sub.add_argument("--out", required=True, help="folder of the run, such as runs/first")
    sub.add_argument("--cache", default="cache", help=cache_help)
    sub.add_argument("--cache-size", type=int, help="side of cached photos (default: 192, or what the stages need)")
    keep = "what the split keeps together (default: %(default)s)"
    groups = ("vehicle", "model", "photo")
    sub.add_argument("--group-by", "--whole", default="vehicle", choices=groups, help=keep)
    earlier = "the split.csv of an earlier run: its test photos stay test photos"
    sub.add_argument("--previous-split", "--previous", help=earlier)
    sub.add_argument("--recipe", default="quick", choices=carclf.RECIPES, help="all settings (default: %(default)s)")
    sub.add_argument("--backbone")
    sub.add_argument("--weights", help="'imagenet', 'none' (random) or the path of a state dict")
    stage = "such as all,6,1e-3,128; repeat it for each stage"
    sub.add_argument("--stage", action="append", metavar="UNFREEZE,EPOCHS,MAX_LR,SIZE", help=stage)
    sub.add_argument("--micro-batch", type=int)
    sub.add_argument("--accumulate", type=int)
    sub.add_argument("--class-weight", choices=CLASS_WEIGHTS)
    sub.add_argument("--device")
    sub.add_argument("--seed", type=int)
    other = f"any other setting of the recipe, such as ema=0.999: {', '.join(OTHERS)}"
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=other)
    promised = "share of the accepted answers that the model promises to be correct (default: %(default)s)"
    sub.add_argument("--accuracy", type=float, default=0.95, help=promised)
    sub.add_argument("--log-with", help="a tracker of Accelerate, such as tensorboard")

    sub = command(_evaluate, "compare a model's predictions with the brands in the file names")
    sub.add_argument("model")
    sub.add_argument("dir", help="a folder of photos, or the split.csv of a run for its test photos")
    sub.add_argument("--out", help="write report.html, metrics, predictions and pictures to this folder")
    _add_cars(sub, ("whole", "main"))

    sub = command(_shares, "the share of each brand among unlabelled photos, corrected for the model's confusions")
    sub.add_argument("folder", help="folder of a run, with model/ and split.csv")
    sub.add_argument("path", nargs="+", help="photos, clips (whose cars count, not frames), or folders of both")
    sub.add_argument("--every", type=float, default=0.2, help=EVERY)
    sub.add_argument("--csv", help="write the shares to this file")
    sub.add_argument("--picture", help="draw them into this picture, such as shares.png")

    sub = command(_predict, "name the brand in photos")
    sub.add_argument("model", help="model folder, such as models/cars-lite0")
    sub.add_argument("path", nargs="+", help="photos or folders of photos")
    sub.add_argument("--csv", help="write the predictions to this file")
    _add_cars(sub, CARS)
    sub.add_argument("--draw", metavar="FOLDER", help="draw boxes and brands onto copies of the photos, in this folder")

    sub = command(_video, "find the cars in a clip, follow them, and name the brand of each")
    sub.add_argument("model", help="model folder, such as models/cars-lite0")
    sub.add_argument("clip", nargs="+", help="clips, folders of clips or of frames, or a camera's rtsp:// address")
    sub.add_argument("--every", type=float, default=0.2, help=EVERY)
    sub.add_argument("--seconds", type=float, help="stop after so much of the clip (default: all; of a camera 60)")
    sub.add_argument("--csv", help="write the table, a row per car, to this file")
    sub.add_argument("--annotate", metavar="MP4", help="write the clip with boxes and brands to this file")
    sub.add_argument("--timeline", metavar="PNG", help="draw when each car was seen into this picture")
    table = "a CSV file of boxes, found by others, with the columns time (seconds),x0,y0,x1,y1 and perhaps score"
    sub.add_argument("--boxes", metavar="CSV", help=table)
    sub.add_argument("--detector", help="what finds the cars: a folder, or coco (default: the one that ships)")
    return parser


def _add_cars(sub: argparse.ArgumentParser, choices: Sequence[str]) -> None:
    kinds = "judge the whole photo, its main car, or all its cars: %(choices)s (default: %(default)s)"
    sub.add_argument("--cars", default="whole", choices=choices, help=kinds)
    table = "a CSV file of boxes, found by others, with the columns path,x0,y0,x1,y1 and perhaps score, in pixels"
    sub.add_argument("--boxes", metavar="CSV", help=table)
    sub.add_argument("--detector", help="what finds the cars: a folder, or coco (default: the one that ships)")


def _cars(options: argparse.Namespace) -> dict[str, Any]:
    """The keywords of `Classifier.predict` that `_add_cars` asks for."""
    boxes = None if options.boxes is None else read_boxes(options.boxes)
    return {"cars": options.cars, "boxes": boxes, "detector": options.detector}


def _is_first() -> bool:
    """Whether this is the one of several processes that prints, and does what is done only once."""
    return os.environ.get("RANK", "0") == "0"


def _download(options: argparse.Namespace) -> None:
    print(carclf.download(options.source, options.to))


def _scan(options: argparse.Namespace) -> None:
    manifest = carclf.scan(options.dir)
    print(summary(manifest))
    if options.csv:
        manifest.to_csv(options.csv, index=False, encoding="utf-8")


def _duplicates(options: argparse.Namespace) -> None:
    pairs = carclf.duplicates(carclf.scan(options.dir))
    root = Path(options.dir).absolute()
    below = {name: pairs[name].map(lambda path: os.path.relpath(path, root)) for name in ("path", "other_path")}
    print(pairs.assign(**below).head(40).to_string(index=False) if len(pairs) else "no picture is there more than once")
    if len(pairs) > 40:
        print(f"and {len(pairs) - 40:,} more pairs; --csv writes all of them")
    if options.csv:
        pairs.to_csv(options.csv, index=False, encoding="utf-8")
    if options.page and len(pairs):
        carclf.plot.duplicates_page(pairs, n=40).savefig(options.page)


def _cache(options: argparse.Namespace) -> None:
    cache = carclf.TensorCache.build(carclf.scan(options.dir), options.cache, options.cache_size)
    print(f"{(cache.slots >= 0).sum():,} of {len(cache):,} photos are in {cache.folder}")
    for path, problem in cache.problems.itertuples(index=False):
        print(f"failed to decode: {path}: {problem}")
    if options.verify:
        wrong = cache.verify(sample=None)
        if len(wrong):
            print(wrong.to_string(index=False))
            raise ValueError(f"{len(wrong)} photos differ from their files; delete {cache.folder} and run this again")
        print("decoded all of them again: all are equal")


def _demo(options: argparse.Namespace) -> None:
    print(carclf.draw_demo(options.dir, options.seed))


def _train(options: argparse.Namespace) -> None:
    recipe = _recipe(options)
    pick(recipe.device, recipe.precision)  # refuses a device before photos are decoded
    manifest = carclf.scan(options.dir)
    manifest = carclf.split(
        manifest, seed=recipe.seed, group_by=options.group_by, previous_split=options.previous_split
    )
    print(summary(manifest))
    # The usual side of cached photos, or more if a stage needs larger ones.
    needed = max(192, 64 * math.ceil(max(stage.size for stage in recipe.stages) / 64))
    cache = carclf.TensorCache.build(manifest, options.cache, options.cache_size or needed)
    run = carclf.fit(recipe, manifest, cache, options.out, log_with=options.log_with)
    if not _is_first():
        return
    carclf.calibrate_on_valid(run.classifier, manifest, run.folder / "model", options.accuracy)
    print(run.history.drop(columns=["first_lr", "last_lr"]).round(3).to_string(index=False))
    print(f"model: {run.folder / 'model'}")


def _recipe(options: argparse.Namespace) -> carclf.Recipe:
    """The named recipe, with the settings of the command line over it."""
    base = carclf.RECIPES[options.recipe]
    given = {name: getattr(options, name) for name in OWN_OPTION if getattr(options, name) is not None}
    if options.weights == "none":
        given["weights"] = None
    if options.stage:
        given["stages"] = tuple(_stage(text) for text in options.stage)
    given |= dict(_setting(text) for text in options.set)
    if "augment" in given:  # single strengths change the recipe's, too
        given["augment"] = base.augment | given["augment"]
    return replace(base, **given)


def _stage(text: str) -> carclf.Stage:
    try:
        unfreeze, epochs, max_lr, size = text.split(",")
        return carclf.Stage(unfreeze, int(epochs), float(max_lr), int(size))
    except ValueError as error:
        raise ValueError(f"--stage {text!r} must be UNFREEZE,EPOCHS,MAX_LR,SIZE, such as all,6,1e-3,128") from error


def _setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    name = RENAMED.get(name, name)
    if name not in OTHERS:
        raise ValueError(f"--set {text!r} must be NAME=VALUE with one of these names: {', '.join(OTHERS)}")
    default = getattr(carclf.Recipe(), name)
    try:
        if isinstance(default, dict):
            return name, json.loads(value)
        return name, value if default is None else type(default)(value)
    except ValueError as error:
        raise ValueError(f"--set {text!r}: {value!r} is no {type(default).__name__}, such as {default!r}") from error


def _evaluate(options: argparse.Namespace) -> None:
    classifier = carclf.Classifier.load(options.model)
    test = read_test(options.dir)
    if options.out:
        split = read_table(options.dir) if Path(options.dir).is_file() else None
        metrics = carclf.evaluate(classifier, test, options.out, split, **_cars(options)).metrics
        print(f"carclf: wrote {Path(options.out) / 'report.html'}", file=sys.stderr)
    else:
        predictions = classifier.predict(test, **one_car(**_cars(options)))
        metrics = carclf.compute_metrics(predictions, classes=classifier.classes)
    print(json.dumps(metrics, indent=1))


def _shares(options: argparse.Namespace) -> None:
    run = Path(options.folder)
    split = read_table(run / "split.csv")
    classifier = carclf.Classifier.load(run / "model")
    scores = carclf.video.score_all(classifier, options.path, options.every)
    shares = carclf.metrics.shares_on(classifier, split[split.split == "valid"], scores)
    counted = "photos, and of the cars in clips," if "track" in scores.table else "photos,"
    print(f"per cent of the {counted} with the 95 % interval from low to high")
    print((shares[shares.high >= 0.001] * 100).round(1).to_string())
    if options.csv:
        shares.to_csv(options.csv, encoding="utf-8")
    if options.picture:
        carclf.plot.brand_shares(shares).figure.savefig(options.picture)


def _check_outputs(*paths: str | None) -> None:
    """Refuse files that cannot be written before there is anything to write."""
    for path in map(Path, filter(None, paths)):
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the name of a file in it")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} for {path.name}; make it, or give another place")


def _predict(options: argparse.Namespace) -> None:
    _check_outputs(options.csv)
    classifier = carclf.Classifier.load(options.model)
    predictions = classifier.predict(options.path, **_cars(options))
    problems = predictions.problem.notna()
    shown = ["path", "predicted", "confidence", "decision", "problem"]
    if "car" in predictions:
        shown = ["path", "car", *shown[1:]] if problems.any() else ["path", "car", *shown[1:-1]]
    print(predictions[shown].to_string(index=False))
    if options.csv:
        carclf.metrics.save_predictions(predictions, options.csv)
    if options.draw:
        drawn = carclf.plot.draw_photos(predictions, options.draw)
        print(f"carclf: drew {len(drawn)} photos into {options.draw}", file=sys.stderr)
    if problems.all():
        raise ValueError(f"none of {len(predictions)} photos could be read; see the column problem")


def _video(options: argparse.Namespace) -> None:
    clips = [clip for path in options.clip for clip in carclf.video.clips_in(path)]
    if len(clips) > 1 and (options.annotate or options.boxes):
        raise ValueError(f"--annotate and --boxes are for one clip, and these are {len(clips)}; give them one by one")
    _check_outputs(options.csv, options.timeline)
    classifier = carclf.Classifier.load(options.model)
    boxes = None if options.boxes is None else read_boxes(options.boxes, "time")
    settings = {"boxes": boxes, "detector": options.detector, "seconds": options.seconds}
    tables = [carclf.predict_video(classifier, clip, options.every, options.annotate, **settings) for clip in clips]
    cars = pd.concat(tables, ignore_index=True)
    shown = ["track", "first_seen", "last_seen", "frames", "sufficed", "predicted", "confidence", "decision"]
    print(cars[[*["path"] * (len(clips) > 1), *shown]].round(2).to_string(index=False) if len(cars) else "no cars")
    if cars.predicted.notna().any():
        shares = carclf.metrics.counted_shares(cars)
        print("\nper cent of the cars, not corrected for confusions, with the 95 % interval from low to high")
        print((shares * [1, 100, 100, 100]).round(1).astype({"cars": int}).to_string())
    if options.csv:
        carclf.metrics.save_predictions(cars, options.csv)
    if options.timeline:
        carclf.plot.timeline(cars).figure.savefig(options.timeline, bbox_inches="tight")


if __name__ == "__main__":
    sys.exit(main())
