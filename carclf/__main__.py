"""The command line: the same calls as the notebooks.

python -m carclf scan DIR                     what is in a folder
python -m carclf demo DIR                     draw the demo photos
python -m carclf train DIR --out RUN          train, or go on
python -m carclf evaluate MODEL DIR           how good a model is
python -m carclf predict MODEL PATH… --csv F  name the brand on photos
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import carclf


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it went well, 1 after an error said in one line."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"carclf: {message}", file=sys.stderr)
            options.run(options)
    except (ValueError, OSError, ArithmeticError) as error:
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

    sub = command(_scan, "what is in a folder of photos")
    sub.add_argument("dir")
    sub.add_argument("--csv", help="write the manifest there")

    sub = command(_demo, "draw the demo photos")
    sub.add_argument("dir")
    sub.add_argument("--seed", type=int, default=0)

    sub = command(_train, "train on a folder of photos, or go on where the run was stopped")
    recipe = carclf.Recipe()
    sub.add_argument("dir")
    sub.add_argument("--out", required=True, help="folder of the run, such as runs/first")
    sub.add_argument("--cache", default="cache", help="folder of the tensor cache (default: %(default)s)")
    sub.add_argument("--cache-size", type=int, default=192, help="side of cached photos (default: %(default)s)")
    sub.add_argument(
        "--whole", default="vehicle", choices=("vehicle", "model", "photo"), help="what the split keeps whole"
    )
    sub.add_argument("--backbone", default=recipe.backbone)
    sub.add_argument(
        "--weights", default=recipe.weights, help="'imagenet', 'none' (random) or the path of a state dict"
    )
    sub.add_argument(
        "--stage",
        action="append",
        metavar="UNFREEZE,EPOCHS,MAX_LR,SIZE",
        help="such as all,6,1e-3,128; give it once for each stage",
    )
    sub.add_argument("--micro-batch", type=int, default=recipe.micro_batch)
    sub.add_argument("--accumulate", type=int, default=recipe.accumulate)
    sub.add_argument("--class-weight", default=recipe.class_weight, choices=("none", "inverse_sqrt", "inverse"))
    sub.add_argument("--device", default=recipe.device)
    sub.add_argument("--seed", type=int, default=recipe.seed)

    sub = command(_evaluate, "compare a model's predictions with the brands in the names of a folder's photos")
    sub.add_argument("model")
    sub.add_argument("dir", help="a folder of photos, or the split.csv of a run for its test photos")
    sub.add_argument("--out", help="write predictions.csv and metrics.json into this folder")

    sub = command(_predict, "name the brand on photos")
    sub.add_argument("model")
    sub.add_argument("path", nargs="+")
    sub.add_argument("--csv", help="write the predictions there")
    return parser


def _scan(options: argparse.Namespace) -> None:
    manifest = carclf.scan(options.dir)
    print(carclf.summary(manifest))
    if options.csv:
        manifest.to_csv(options.csv, index=False, encoding="utf-8")


def _demo(options: argparse.Namespace) -> None:
    print(carclf.draw_demo(options.dir, options.seed))


def _train(options: argparse.Namespace) -> None:
    given = {"stages": tuple(_stage(text) for text in options.stage)} if options.stage else {}
    recipe = carclf.Recipe(
        backbone=options.backbone,
        weights=None if options.weights == "none" else options.weights,
        micro_batch=options.micro_batch,
        accumulate=options.accumulate,
        class_weight=options.class_weight,
        device=options.device,
        seed=options.seed,
        **given,
    )
    manifest = carclf.split(carclf.scan(options.dir), seed=options.seed, whole=options.whole)
    print(carclf.summary(manifest))
    cache = carclf.TensorCache.build(manifest, options.cache, options.cache_size)
    run = carclf.fit(recipe, manifest, cache, options.out)
    valid = run.classifier.predict(manifest[manifest.split == "valid"])
    run.classifier.accept_above(carclf.choose_threshold(valid, accuracy=0.95), run.folder / "model")
    print(run.history.to_string(index=False))
    print(f"model: {run.folder / 'model'}")


def _stage(text: str) -> carclf.Stage:
    try:
        unfreeze, epochs, max_lr, size = text.split(",")
        return carclf.Stage(unfreeze, int(epochs), float(max_lr), int(size))
    except ValueError as error:
        raise ValueError(f"--stage {text!r} must be UNFREEZE,EPOCHS,MAX_LR,SIZE, such as all,6,1e-3,128") from error


def _evaluate(options: argparse.Namespace) -> None:
    classifier = carclf.Classifier.load(options.model)
    predictions = classifier.predict(carclf.read_test(options.dir))
    metrics = carclf.metrics(predictions, classes=classifier.classes)
    print(json.dumps(metrics, indent=1))
    if options.out:
        carclf.save_results(predictions, metrics, options.out)


def _predict(options: argparse.Namespace) -> None:
    classifier = carclf.Classifier.load(options.model)
    predictions = classifier.predict(options.path)
    if options.csv:
        carclf.save_predictions(predictions, options.csv)
    shown = predictions[["path", "predicted", "confidence", "accepted", "problem"]]
    print(shown.assign(path=shown.path.map(lambda p: Path(p).name)).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
