"""The command line, `carclf`: the same calls as in the notebooks."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import traceback
import warnings
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

if os.environ.get("RANK", "0") != "0":  # of several processes only the first draws bars; tqdm reads this at import
    os.environ.setdefault("TQDM_DISABLE", "1")

# What a command needs it imports itself: help and refusals then come at once, without torch.
import carclf
from carclf import parser
from carclf.errors import counted, did_you_mean

UNREAD = 3  # exit status if some photos or clips could not be read


def main(arguments: list[str] | None = None) -> int:
    """Run one command; `parser.STATUS` says what the exit statuses mean. Errors are one line on standard error."""
    with suppress(AttributeError, ValueError):  # a terminal that lacks a letter shows "?"
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    runs = {name: globals()[f"_{name}"] for name in parser.COMMANDS}
    options = parser.parse(sys.argv[1:] if arguments is None else arguments, runs)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stdout if _is_first() else io.StringIO()):
            warnings.showwarning = lambda message, *_: _say(message)
            parser.check_outputs(options)
            status = options.run(options) or 0
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has seen enough, as in `carclf predict … | head`
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to print goes nowhere
        return 141
    except KeyboardInterrupt:
        resumes = options.command == "train"
        _say(f"stopped; {'run the same command again to resume' if resumes else 'it starts over when run again'}")
        return 130
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        known = isinstance(error, (ValueError, OSError, ArithmeticError, ImportError))
        kind = type(error).__name__ + " (--debug shows where)"
        kind = "not enough memory" if isinstance(error, MemoryError) else kind
        _say(str(error) if known else f"{kind}: {error}")
        return 1


def _say(text: object) -> None:
    """One line on standard error."""
    print(f"carclf: {' '.join(str(text).splitlines())}", file=sys.stderr)


def _is_first() -> bool:
    """Whether this is the one of several processes that prints, and does what is done only once."""
    return os.environ.get("RANK", "0") == "0"


def _save(figure: Any, path: str) -> None:
    from carclf.files import writing

    with writing(path):
        figure.savefig(path, bbox_inches="tight")


def _given(options: argparse.Namespace, clips: bool = False) -> tuple[list[str], bool]:
    """The paths that are there, and whether others are missing, which are named."""
    paths, missing = parser.given(options.path, clips)
    for text in missing:
        _say(text)
    return paths, bool(missing)


def _unread(problems: list[str], total: int, missing: bool, what: str = "photos") -> int:
    """Name what could not be read; the exit status. ValueError if that is everything."""
    named = "; ".join(problems[:3]) + (f"; and {len(problems) - 3:,} more" if len(problems) > 3 else "")
    if problems and len(problems) >= total:
        raise ValueError(f"none of {total:,} {what} could be read: {named}")
    if problems:
        _say(f"{len(problems):,} of {total:,} {what} could not be read: {named}")
    return UNREAD if problems or missing else 0


def _cars(options: argparse.Namespace) -> dict[str, Any]:
    """The keywords of `Classifier.predict` about cars."""
    from carclf.data.boxes import read_boxes

    boxes = None if options.boxes is None else read_boxes(options.boxes)
    return {"cars": options.cars, "boxes": boxes, "detector": options.detector}


def _promise(classifier: Any) -> str:
    """What its accepted answers are worth."""
    return carclf.metrics.promise_text(classifier.card.promise, classifier.card.threshold)


def _download(options: argparse.Namespace) -> None:
    parser.check_address(options.source, "and give the file")
    print(carclf.download(options.source, options.to))


def _scan(options: argparse.Namespace) -> None:
    from carclf.data.manifest import summary
    from carclf.files import write_csv

    manifest = carclf.scan(parser.check_folder(options.dir))
    if options.csv:
        write_csv(manifest, options.csv)
    print(summary(manifest))


def _duplicates(options: argparse.Namespace) -> None:
    from carclf.files import write_csv
    from carclf.report.tables import pairs_table

    pairs = carclf.duplicates(carclf.scan(parser.check_folder(options.dir)))
    if options.csv:
        write_csv(pairs, options.csv)
    if options.page and len(pairs):
        _save(carclf.plot.duplicates_page(pairs, n=40), options.page)
    print(pairs_table(pairs))


def _cache(options: argparse.Namespace) -> None:
    cache = carclf.TensorCache.build(carclf.scan(parser.check_folder(options.dir)), options.cache, options.cache_size)
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
    print(carclf.draw_demo(options.to, options.seed))


def _train(options: argparse.Namespace) -> None:
    from carclf.data.manifest import parse_table, summary
    from carclf.model.device import pick
    from carclf.train.run import check_run

    # What can be refused is refused before photos are decoded.
    recipe = _recipe(options)
    pick(recipe.device, recipe.precision)
    check_run(recipe, options.out)
    if not 0 < options.accuracy < 1:
        raise ValueError(f"--accuracy {options.accuracy}: it is a share, above 0 and below 1; try 0.95")
    previous = None if options.previous_split is None else parse_table(options.previous_split)
    manifest = carclf.scan(parser.check_folder(options.dir))
    manifest = carclf.split(manifest, seed=recipe.seed, group_by=options.group_by, previous_split=previous)
    print(summary(manifest))
    # The usual side of cached photos, or more if a stage needs larger ones; above 512 px only if asked to, as the cache
    # grows with the square.
    needed = min(512, max(192, 64 * math.ceil(max(stage.size for stage in recipe.stages) / 64)))
    cache = carclf.TensorCache.build(manifest, options.cache, options.cache_size or needed)
    run = carclf.fit(recipe, manifest, cache, options.out, log_with=options.log_with)
    if not _is_first():
        return
    shown = ["stage", "epoch", "unfreeze", "size", "seconds", "train_loss", "valid_loss", "valid_accuracy"]
    print(run.history[shown].round(3).to_string(index=False))
    print(f"model: {run.folder / 'model'}", flush=True)
    carclf.calibrate_on_valid(run.classifier, manifest, run.folder / "model", options.accuracy)
    if run.classifier.card.is_kept:  # else the warning has just said so
        print(_promise(run.classifier))


def _recipe(options: argparse.Namespace) -> carclf.Recipe:
    """The named recipe, with the settings of the command line over it."""
    base = carclf.RECIPES[options.recipe]
    given = {name: getattr(options, name) for name in parser.OWN_OPTION if getattr(options, name) is not None}
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
        values = unfreeze, int(epochs), float(max_lr), int(size)
    except ValueError as error:
        raise ValueError(f"--stage {text!r} must be UNFREEZE,EPOCHS,MAX_LR,SIZE, such as all,6,1e-3,128") from error
    return carclf.Stage(*values)


def _setting(text: str) -> tuple[str, object]:
    from carclf.train.recipe import RENAMED

    others = parser.other_settings()
    name, _, value = text.partition("=")
    name = RENAMED.get(name, name)
    if name not in others:
        near = did_you_mean(name, others) or f"; the settings are {', '.join(others)}"
        raise ValueError(f"--set {text!r}: it must be NAME=VALUE, and there is no setting {name!r}{near}")
    default = getattr(carclf.Recipe(), name)
    try:
        if isinstance(default, dict):
            return name, json.loads(value)
        return name, value if default is None else type(default)(value)
    except ValueError as error:
        raise ValueError(f"--set {text!r}: {value!r} is no {type(default).__name__}, such as {default!r}") from error


def _evaluate(options: argparse.Namespace) -> None:
    from carclf.data.manifest import read_table, read_test
    from carclf.model.crops import one_car
    from carclf.report.tables import evaluation_table

    model, given = parser.model_folder(options.model), one_car(**_cars(options))
    source = parser.check_folder(options.dir)
    test = read_test(source, options.photos, options.skip_missing)
    classifier = carclf.Classifier.load(model)
    if options.out:
        with warnings.catch_warnings():  # read_test has said what has moved or is missing
            warnings.simplefilter("ignore")
            split = read_table(source, options.photos) if Path(source).is_file() else None
        found = carclf.evaluate(classifier, test, options.out, split, **given, skip_missing=options.skip_missing)
        metrics, predictions = found.metrics, found.scores.table
        print(f"carclf: wrote {Path(options.out) / 'report.html'}", file=sys.stderr)
    else:
        predictions = classifier.predict(test, **given)
        metrics = carclf.compute_metrics(predictions, classes=classifier.classes)
    if options.json:
        print(json.dumps(_without_nan(metrics), indent=1, allow_nan=False))
    else:
        print(f"{evaluation_table(metrics, predictions, classifier.classes)}\n\n{_promise(classifier)}")


def _without_nan(value: Any) -> Any:
    """Numbers that JSON does not know become null."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shares(options: argparse.Namespace) -> int:
    from carclf.files import write_csv
    from carclf.report.tables import shares_table, unread

    paths, missing = _given(options, clips=True)
    folder = parser.model_folder(options.model)
    classifier = carclf.Classifier.load(folder)
    scores = carclf.video.score_all(classifier, paths, options.every)
    status = _unread(unread(scores.table), len(scores.table), missing, "photos and cars")
    n = int(scores.table.predicted.notna().sum())
    if not n:
        print("no cars")
        return status
    if classifier.valid is None:
        shares = carclf.metrics.counted_shares(scores.table)
        n = int(shares.cars.sum())
        words = (
            f"They are counted, not corrected for the model's confusions: {folder} has no valid.safetensors, which "
            "the same carclf train command writes, also for a finished run."
        )
    else:
        shares = carclf.metrics.shares_on(classifier, None, scores)
        words = (
            "They are corrected for what the model confused in its own valid photos. Where yours are of another kind, "
            "it confuses other brands: compare with what was counted."
        )
    if options.csv:
        write_csv(shares, options.csv)
    if options.picture:
        both = shares if "counted" in shares else shares.assign(corrected=shares["share"], counted=shares["share"])
        _save(carclf.plot.brand_shares(both).figure, options.picture)
    of = "cars and photos" if "track" in scores.table else "photo" if n == 1 else "photos"
    print(f"Shares of {n:,} {of}, with 95 % intervals. {words}\n\n{shares_table(shares, n, of)}")
    if not classifier.card.is_kept:
        print(f"\n{_promise(classifier)}")
    return status


def _predict(options: argparse.Namespace) -> int:
    from carclf.report.tables import photos_table, unread
    from carclf.video import is_clip

    paths, missing = _given(options)
    folder = parser.model_folder(options.model)
    if clips := [path for path in paths if is_clip(path) and Path(path).is_file()]:
        raise ValueError(f"{clips[0]} is a clip; use carclf video {options.model} {clips[0]}")
    cars = _cars(options)
    classifier = carclf.Classifier.load(folder)
    predictions = classifier.predict(paths, **cars)
    if options.csv:
        carclf.metrics.save_predictions(predictions, options.csv)
    if options.draw:
        drawn = carclf.plot.draw_photos(predictions, options.draw)
        _say(f"drew {counted(len(drawn), 'photo')} into {options.draw}")
    print(f"{photos_table(predictions)}\n\n{_promise(classifier)}")
    sys.stdout.flush()
    return _unread(unread(predictions), predictions.path.nunique(), missing)


def _video(options: argparse.Namespace) -> int:
    import pandas as pd

    from carclf.data.boxes import read_boxes
    from carclf.report.tables import cars_table, shares_table

    paths, missing = _given(options, clips=True)
    clips = [clip for path in paths for clip in carclf.video.clips_in(path)]
    if len(clips) > 1 and (options.annotate or options.boxes):
        raise ValueError(f"--annotate and --boxes are for one clip, and these are {len(clips)}; give them one by one")
    folder = parser.model_folder(options.model)
    boxes = None if options.boxes is None else read_boxes(options.boxes, "time")
    classifier = carclf.Classifier.load(folder)
    settings = {"boxes": boxes, "detector": options.detector, "seconds": options.seconds}
    tables, problems = [], []
    for clip in clips:
        try:
            tables.append(carclf.predict_video(classifier, clip, options.every, options.annotate, **settings))
        except carclf.video.VideoError as error:
            problems.append(str(error))
    if not tables:
        raise ValueError("; ".join(problems))
    cars = pd.concat(tables, ignore_index=True)
    if options.csv:
        carclf.metrics.save_predictions(cars, options.csv)
    if options.timeline:
        _save(carclf.plot.timeline(cars).figure, options.timeline)
    print(cars_table(cars))
    shares = carclf.metrics.counted_shares(cars)
    if n := int(shares.cars.sum()):
        unknown = int(cars.predicted.notna().sum()) - n
        rest = f"; {unknown:,} unknown left out" if unknown else ""
        print(f"\nShares of {counted(n, 'car')}{rest}, counted, not corrected for confusions, with 95 % intervals")
        print(f"{shares_table(shares, n, 'cars')}\n\n{_promise(classifier)}")
    sys.stdout.flush()
    return _unread(problems, len(clips), missing, "clips")


if __name__ == "__main__":
    sys.exit(main())
