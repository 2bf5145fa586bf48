"""The command line: the same calls as the notebooks.

python -m carclf download listing             bring the public set of 60,000 photos into images/
python -m carclf scan DIR                     what is in a folder
python -m carclf duplicates DIR --page F      which pictures are there more than once
python -m carclf cache DIR --verify           decode into the tensor cache, and check it
python -m carclf demo DIR                     draw the demo photos
python -m carclf train DIR --out RUN          train, or go on
python -m carclf evaluate MODEL DIR           how good a model is
python -m carclf predict MODEL PATH… --csv F  name the brand on photos
python -m carclf shares RUN PATH…             which brands drive there, and how often
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import fields, replace
from pathlib import Path

import carclf

NAMED = ("backbone", "weights", "micro_batch", "accumulate", "class_weight", "device", "seed")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it went well, 1 after an error said in one line."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stdout if _is_first() else io.StringIO()):
            warnings.showwarning = lambda message, *_: print(f"carclf: {message}", file=sys.stderr)
            options.run(options)
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        print(f"carclf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("carclf: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m carclf", description="Recognise a car's brand in a photo.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(run, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__.strip("_"), help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    sub = command(_download, "bring a public set of photos, or an archive of your own, into a folder")
    sub.add_argument("source", help="listing (60,000 photos from Kaggle), or the path of a zip, tar, tar.gz or folder")
    sub.add_argument("--to", default="images", help="folder for the photos (default: %(default)s)")

    sub = command(_scan, "what is in a folder of photos")
    sub.add_argument("dir")
    sub.add_argument("--csv", help="write the manifest there")

    sub = command(_duplicates, "which pictures are in a folder more than once")
    sub.add_argument("dir")
    sub.add_argument("--csv", help="write the pairs there")
    sub.add_argument("--page", help="draw the first pairs into this picture, such as pairs.png")

    sub = command(_cache, "decode a folder's photos into the tensor cache, or check what is there")
    sub.add_argument("dir")
    sub.add_argument("--cache", default="cache", help="folder of the tensor cache (default: %(default)s)")
    sub.add_argument("--cache-size", type=int, default=192, help="side of cached photos (default: %(default)s)")
    sub.add_argument("--verify", action="store_true", help="decode all of them anew and compare")

    sub = command(_demo, "draw the demo photos")
    sub.add_argument("dir")
    sub.add_argument("--seed", type=int, default=0)

    sub = command(_train, "train on a folder of photos, or go on where the run was stopped")
    sub.add_argument("dir")
    sub.add_argument("--out", required=True, help="folder of the run, such as runs/first")
    sub.add_argument("--cache", default="cache", help="folder of the tensor cache (default: %(default)s)")
    sub.add_argument(
        "--cache-size", type=int, help="side of cached photos (default: 192, or what the largest stage needs)"
    )
    sub.add_argument(
        "--whole", default="vehicle", choices=("vehicle", "model", "photo"), help="what the split keeps whole"
    )
    sub.add_argument("--previous", help="the split.csv of an earlier run: what was tested then is not learned now")
    sub.add_argument(
        "--recipe", default="quick", choices=carclf.RECIPES, help="where all other settings come from (default: quick)"
    )
    sub.add_argument("--backbone")
    sub.add_argument("--weights", help="'imagenet', 'none' (random) or the path of a state dict")
    sub.add_argument(
        "--stage",
        action="append",
        metavar="UNFREEZE,EPOCHS,MAX_LR,SIZE",
        help="such as all,6,1e-3,128; give it once for each stage",
    )
    sub.add_argument("--micro-batch", type=int)
    sub.add_argument("--accumulate", type=int)
    sub.add_argument("--class-weight", choices=carclf.objective.CLASS_WEIGHTS)
    sub.add_argument("--device")
    sub.add_argument("--seed", type=int)
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"any other setting of the recipe, such as ema=0.999: {', '.join(_others())}",
    )
    sub.add_argument("--log-with", help="a tracker of Accelerate, such as tensorboard")

    sub = command(_evaluate, "compare a model's predictions with the brands in the names of a folder's photos")
    sub.add_argument("model")
    sub.add_argument("dir", help="a folder of photos, or the split.csv of a run for its test photos")
    sub.add_argument("--out", help="write everything into this folder: report.html, metrics, predictions, pictures")

    sub = command(_shares, "which share of photos without names each brand has, corrected for the model's confusions")
    sub.add_argument("folder", help="folder of a run, with model/ and split.csv")
    sub.add_argument("path", nargs="+")
    sub.add_argument("--csv", help="write the shares there")
    sub.add_argument("--picture", help="draw them into this picture, such as shares.png")

    sub = command(_predict, "name the brand on photos")
    sub.add_argument("model", help="model folder, such as models/cars-lite0")
    sub.add_argument("path", nargs="+", help="photos or folders of photos")
    sub.add_argument("--csv", help="write the predictions there")
    return parser


def _is_first() -> bool:
    """Whether this is the one of several processes that speaks, and does what need be done once."""
    first = os.environ.get("RANK", "0") == "0"
    os.environ.setdefault("TQDM_DISABLE", "" if first else "1")
    return first


def _download(options: argparse.Namespace) -> None:
    print(carclf.download(options.source, options.to))


def _scan(options: argparse.Namespace) -> None:
    manifest = carclf.scan(options.dir)
    print(carclf.summary(manifest))
    if options.csv:
        manifest.to_csv(options.csv, index=False, encoding="utf-8")


def _duplicates(options: argparse.Namespace) -> None:
    pairs = carclf.duplicates(carclf.scan(options.dir))
    root = Path(options.dir).absolute()
    below = {name: pairs[name].map(lambda path: os.path.relpath(path, root)) for name in ("path", "other_path")}
    print(pairs.assign(**below).head(40).to_string(index=False) if len(pairs) else "no picture is there more than once")
    if len(pairs) > 40:
        print(f"and {len(pairs) - 40:,} more pairs; --csv writes them all")
    if options.csv:
        pairs.to_csv(options.csv, index=False, encoding="utf-8")
    if options.page and len(pairs):
        carclf.galleries.duplicates_page(pairs, n=40).savefig(options.page)


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
        print("all of them were decoded again and are equal")


def _demo(options: argparse.Namespace) -> None:
    print(carclf.draw_demo(options.dir, options.seed))


def _train(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in NAMED if getattr(options, name, None) is not None}
    given |= {"stages": tuple(_stage(text) for text in options.stage)} if options.stage else {}
    given |= {"weights": None} if options.weights == "none" else {}
    given |= dict(_setting(text) for text in options.set)
    base = carclf.RECIPES[options.recipe]
    if "augment" in given:  # single strengths, too, go over the recipe's
        given["augment"] = base.augment | given["augment"]
    recipe = replace(base, **given)
    manifest = carclf.scan(options.dir)
    manifest = carclf.split(manifest, seed=recipe.seed, whole=options.whole, previous=options.previous)
    print(carclf.summary(manifest))
    cache = carclf.TensorCache.build(
        manifest, options.cache, _cache_size(recipe) if options.cache_size is None else options.cache_size
    )
    run = carclf.fit(recipe, manifest, cache, options.out, log_with=options.log_with)
    if not _is_first():
        return
    carclf.settle(run.classifier, manifest, run.folder / "model")
    print(run.history.to_string(index=False))
    print(f"model: {run.folder / 'model'}")


def _stage(text: str) -> carclf.Stage:
    try:
        unfreeze, epochs, max_lr, size = text.split(",")
        return carclf.Stage(unfreeze, int(epochs), float(max_lr), int(size))
    except ValueError as error:
        raise ValueError(f"--stage {text!r} must be UNFREEZE,EPOCHS,MAX_LR,SIZE, such as all,6,1e-3,128") from error


def _cache_size(recipe: carclf.Recipe) -> int:
    """The usual side of cached photos, or more where a stage wants larger ones."""
    return max(192, 64 * math.ceil(max(stage.size for stage in recipe.stages) / 64))


def _others() -> list[str]:
    """Settings of the recipe that have no option of their own."""
    return [field.name for field in fields(carclf.Recipe) if field.name not in (*NAMED, "stages")]


def _setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    if name not in _others():
        raise ValueError(f"--set {text!r} must be NAME=VALUE with one of these names: {', '.join(_others())}")
    usual = getattr(carclf.Recipe(), name)
    try:
        return name, json.loads(value) if isinstance(usual, dict) else str(value) if usual is None else type(usual)(
            value
        )
    except ValueError as error:
        raise ValueError(f"--set {text!r}: {value!r} is no {type(usual).__name__}, such as {usual!r}") from error


def _evaluate(options: argparse.Namespace) -> None:
    classifier = carclf.Classifier.load(options.model)
    test = carclf.read_test(options.dir)
    if options.out:
        split = carclf.read_table(options.dir) if Path(options.dir).is_file() else None
        _, metrics = carclf.evaluate(classifier, test, options.out, split)
    else:
        metrics = carclf.metrics(classifier.predict(test), classes=classifier.classes)
    print(json.dumps(metrics, indent=1))


def _shares(options: argparse.Namespace) -> None:
    run = Path(options.folder)
    split = carclf.read_table(run / "split.csv")
    classifier = carclf.Classifier.load(run / "model")
    shares = carclf.shares_on(classifier, split[split.split == "valid"], options.path)
    print((shares[shares.high >= 0.001] * 100).round(1).to_string())
    if options.csv:
        shares.to_csv(options.csv, encoding="utf-8")
    if options.picture:
        carclf.evaluation_plots.brand_shares(shares).figure.savefig(options.picture)


def _predict(options: argparse.Namespace) -> None:
    classifier = carclf.Classifier.load(options.model)
    predictions = classifier.predict(options.path)
    shown = predictions[["path", "predicted", "confidence", "decision", "problem"]]
    print(shown.to_string(index=False))
    if options.csv:
        carclf.save_predictions(predictions, options.csv)
    if predictions.predicted.isna().all():
        raise ValueError(f"none of {len(predictions)} photos could be read; the column problem says why")


if __name__ == "__main__":
    sys.exit(main())
