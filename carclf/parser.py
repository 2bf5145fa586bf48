"""Arguments of the command line: what each command takes, and which paths are refused before any work begins."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import NoReturn

import carclf
from carclf.errors import cannot_write, did_you_mean, no_such
from carclf.model.card import folder_of

STATUS = """exit status: 0 done; 1 an error, or nothing could be read; 2 wrong usage;
3 some of the photos or clips could not be read, the others are done; 130 stopped by Ctrl-C;
141 whoever read the output closed it"""
EVERY = "seconds from one frame of a clip that is looked at to the next (default: %(default)s)"
MODEL = "folder of a model, such as models/cars-lite0, or of a run"
DETECTOR = "what finds the cars: a folder, or coco (default: the one that ships)"
FILES = ("csv", "page", "picture", "timeline", "annotate")  # options that name a file to be written
FOLDERS = ("out", "to", "draw", "cache")  # and a folder
INPUTS = ("dir", "model", "boxes", "photos", "previous_split", "source")  # and "path", which are several
TABLES = (".csv", ".tsv", ".txt")
PICTURES = ("page", "picture", "timeline")  # which matplotlib writes


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _format(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28)


def parse(arguments: Sequence[str], runs: dict[str, Callable]) -> argparse.Namespace:
    """The options of one command, with its function in `run`; a wrong usage ends with status 2."""
    parser = Parser(
        "carclf",
        description="Recognise a car's brand in a photo.",
        epilog=f"{STATUS}\n\nexample: carclf predict models/cars-lite0 photo.jpg",
        formatter_class=_format,
    )
    parser.add_argument("--version", action="version", version=f"carclf {carclf.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="command", dest="command")
    word = next((word for word in arguments if not word.startswith("-")), None)
    for name, (help, example, add) in COMMANDS.items():
        about, example = f"{help[0].upper()}{help[1:]}.", f"example: carclf {name} {example}"
        sub = commands.add_parser(name, help=help, description=about, epilog=example, formatter_class=_format)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        sub.set_defaults(run=runs[name], parser=sub)
        if name == word:  # the settings of a recipe need torch, which takes seconds to load
            add(sub)
    if word is not None and word not in COMMANDS:
        parser.error(f"there is no command {word!r}{did_you_mean(word, COMMANDS)}")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        near = did_you_mean(unknown[0].partition("=")[0], getattr(options, "parser", parser)._option_string_actions)
        getattr(options, "parser", parser).error(f"unknown argument {unknown[0]!r}{near}")
    if options.command is None:
        parser.print_help()
        parser.exit()
    return options


def _download(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", help="listing (60,000 photos from Kaggle), or the path of a zip, tar, tar.gz or folder")
    sub.add_argument("--to", default="images", help="folder for the photos (default: %(default)s)")


def _scan(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("dir", help="folder of photos")
    sub.add_argument("--csv", help="write the manifest to this file")


def _duplicates(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("dir", help="folder of photos")
    sub.add_argument("--csv", help="write the pairs to this file")
    sub.add_argument("--page", help="draw the first pairs into this picture, such as pairs.png")


def _cache(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("dir", help="folder of photos")
    sub.add_argument("--cache", default="cache", help="folder of the tensor cache (default: %(default)s)")
    sub.add_argument("--cache-size", type=int, default=192, help="side of cached photos (default: %(default)s)")
    sub.add_argument("--verify", action="store_true", help="decode every photo again and compare")


def _demo(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("to", metavar="dir", help="folder for the photos")
    sub.add_argument("--seed", type=int, default=0)


def _train(sub: argparse.ArgumentParser) -> None:
    from carclf.train.loss import CLASS_WEIGHTS

    sub.add_argument("dir", help="folder of photos")
    sub.add_argument("--out", required=True, help="folder of the run, such as runs/first")
    sub.add_argument("--cache", default="cache", help="folder of the tensor cache (default: %(default)s)")
    sub.add_argument("--cache-size", type=int, help="side of cached photos (default: what the stages need, 192 to 512)")
    keep = "what the split keeps together (default: %(default)s)"
    groups = ("vehicle", "model", "photo")
    sub.add_argument("--group-by", "--whole", default="vehicle", choices=groups, help=keep)
    earlier = "the split.csv of an earlier run: its test photos stay test photos"
    sub.add_argument("--previous-split", "--previous", help=earlier)
    sub.add_argument("--recipe", default="quick", choices=carclf.RECIPES, help="all settings (default: %(default)s)")
    sub.add_argument("--backbone", help="efficientnet_lite0, resnet50 or another of timm")
    sub.add_argument("--weights", help="'imagenet', 'none' (random) or the path of a state dict")
    stage = "such as all,6,1e-3,128; repeat it for each stage"
    sub.add_argument("--stage", action="append", metavar="UNFREEZE,EPOCHS,MAX_LR,SIZE", help=stage)
    sub.add_argument("--micro-batch", type=int, help="photos in memory at once")
    sub.add_argument("--accumulate", type=int, help="micro-batches per step")
    sub.add_argument("--class-weight", choices=CLASS_WEIGHTS, help="of the loss")
    sub.add_argument("--device", help="auto, cpu, cuda, …")
    sub.add_argument("--seed", type=int, help="of split and training")
    other = f"any other setting of the recipe, such as ema=0.999: {', '.join(other_settings())}"
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=other)
    promised = "share of the accepted answers that the model promises to be right (default: %(default)s)"
    sub.add_argument("--accuracy", type=float, default=0.95, help=promised)
    sub.add_argument("--log-with", help="a tracker of Accelerate, such as tensorboard")


def _evaluate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help=MODEL)
    sub.add_argument("dir", help="a folder of photos, or the split.csv of a run for its test photos")
    sub.add_argument("--out", help="write report.html, metrics, predictions and pictures to this folder")
    sub.add_argument("--photos", metavar="DIR", help="where the photos of split.csv are now, if they were moved")
    sub.add_argument("--skip-missing", action="store_true", help="test on the photos that are left if some are gone")
    sub.add_argument("--json", action="store_true", help="print the numbers as JSON, for programs")
    _add_cars(sub, ("whole", "main"))


def _shares(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help=MODEL)
    sub.add_argument("path", nargs="+", help="photos, clips (whose cars count, not frames), or folders of both")
    sub.add_argument("--every", type=float, default=0.2, help=EVERY)
    sub.add_argument("--csv", help="write the shares to this file")
    sub.add_argument("--picture", help="draw them into this picture, such as shares.png")


def _predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help=MODEL)
    sub.add_argument("path", nargs="+", help="photos or folders of photos")
    sub.add_argument("--csv", help="write the predictions to this file")
    _add_cars(sub, ("whole", "main", "all"))
    sub.add_argument("--draw", metavar="FOLDER", help="draw boxes and brands onto copies of the photos, in this folder")


def _video(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help=MODEL)
    sub.add_argument("path", nargs="+", help="clips, folders of clips or of frames, or a camera's rtsp:// address")
    sub.add_argument("--every", type=float, default=0.2, help=EVERY)
    sub.add_argument("--seconds", type=float, help="stop after so much of the clip (default: all; of a camera 60)")
    sub.add_argument("--csv", help="write the table, a row per car, to this file")
    sub.add_argument("--annotate", metavar="MP4", help="write the clip with boxes and brands to this file")
    sub.add_argument("--timeline", metavar="PNG", help="draw when each car was seen into this picture")
    table = "a CSV file of boxes, found by others, with the columns time (seconds),x0,y0,x1,y1 and perhaps score"
    sub.add_argument("--boxes", metavar="CSV", help=table)
    sub.add_argument("--detector", help=DETECTOR)


def _add_cars(sub: argparse.ArgumentParser, choices: Sequence[str]) -> None:
    kinds = "judge the whole photo, its main car, or all its cars: %(choices)s (default: %(default)s)"
    kinds = kinds if "all" in choices else kinds.replace(", its main car, or all its cars", " or its main car")
    sub.add_argument("--cars", default="whole", choices=choices, help=kinds)
    table = "a CSV file of boxes, found by others, with the columns path,x0,y0,x1,y1 and perhaps score, in pixels"
    sub.add_argument("--boxes", metavar="CSV", help=table)
    sub.add_argument("--detector", help=DETECTOR)


# Name -> what it does, an example, and what adds its arguments.
COMMANDS: dict[str, tuple[str, str, Callable]] = {
    "predict": ("name the brand in photos", "models/cars-lite0 photo.jpg folder/ --csv brands.csv", _predict),
    "video": (
        "find the cars in a clip, follow them, and name the brand of each",
        "models/cars-lite0 clip.mp4 --annotate cars.mp4",
        _video,
    ),
    "shares": (
        "the share of each brand among unlabelled photos, corrected for the model's confusions",
        "models/cars-lite0 street/ clip.mp4 --picture shares.png",
        _shares,
    ),
    "evaluate": (
        "compare a model's answers with the brands in the file names",
        "runs/first runs/first/split.csv --out runs/first/test",
        _evaluate,
    ),
    "train": (
        "train on a folder of photos, or resume a run that was stopped",
        "images --out runs/first --recipe thorough",
        _train,
    ),
    "scan": ("what a folder of photos holds", "images --csv manifest.csv", _scan),
    "duplicates": ("which pictures a folder holds more than once", "images --page pairs.png", _duplicates),
    "cache": ("decode a folder's photos into the tensor cache, or check the cache", "images --verify", _cache),
    "download": (
        "fetch a public set of photos, or unpack an archive of your own, into a folder",
        "photos.zip --to images",
        _download,
    ),
    "demo": ("draw the demo photos", "runs/demo/photos", _demo),
}
OWN_OPTION = ("backbone", "weights", "micro_batch", "accumulate", "class_weight", "device", "seed")  # of a recipe


def other_settings() -> list[str]:
    """Settings of a recipe that have no option of their own, but --set."""
    return [name for name in carclf.Recipe.__dataclass_fields__ if name not in (*OWN_OPTION, "stages")]


def check_outputs(options: argparse.Namespace) -> None:
    """Refuse files and folders that cannot be written, before there is anything to write."""
    for name in (*FILES, *FOLDERS):
        if path := getattr(options, name, None):
            try:
                if name in FOLDERS:
                    _check_folder(Path(path))
                else:
                    _check_file(Path(path), f"--{name}", _endings(name))
                    _check_inputs(Path(path), f"--{name}", options)
            except OSError as error:
                raise OSError(cannot_write(path, error)) from error


def _endings(name: str) -> list[str]:
    """The endings that a kind of file may have; none if any will do."""
    if name in PICTURES:
        from matplotlib.backend_bases import FigureCanvasBase

        return [f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes()]
    if name == "annotate":
        from carclf.video.write import FORMATS

        return list(FORMATS)
    return []


def _check_file(path: Path, option: str, endings: list[str]) -> None:
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; give the name of a file in it")
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{option} {path}: it cannot have this ending; choose one of {', '.join(endings)}")
    if not path.parent.is_dir():
        raise ValueError(f"{no_such(path.parent)}; make it for {path.name}, or give another place")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(13, "Permission denied")
    _try_to_write(path.parent)


def _check_inputs(path: Path, option: str, options: argparse.Namespace) -> None:
    """Refuse to replace what the command reads, or a file that is no output of this kind."""
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"{option} {path} is a device or a pipe; give the name of a file")
    if option == "--csv" and path.suffix.lower() not in TABLES:
        raise ValueError(f"{option} {path} exists, and its name is not that of a table; choose one that ends in .csv")
    read = [getattr(options, name, None) for name in INPUTS] + list(getattr(options, "path", []))
    for one in (Path(text) for text in read if text):
        if one.is_file() and one.samefile(path):
            raise ValueError(f"{option} {path} would replace what this command reads; choose another name")
        if one.is_dir() and option != "--csv" and path.resolve().is_relative_to(one.resolve()):
            raise ValueError(f"{option} {path} lies in the folder that this command reads; choose another folder")


def _check_folder(path: Path) -> None:
    there = next(part for part in [path, *path.absolute().parents] if part.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file; give the name of a folder")
    _try_to_write(there)


def _try_to_write(folder: Path) -> None:
    """Raise the OSError that writing into this folder will raise: no permission, a full disk, and so on."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
        file.flush()


def check_address(path: str, then: str) -> None:
    """Refuse what is on another machine."""
    if "://" in path:
        raise ValueError(f"{path} is an address, which is not read; download it first, {then}")


def check_folder(path: str) -> str:
    """The path of a folder of photos to read, or an error with what to do instead."""
    check_address(path, "and give the folder")
    if Path(path).is_file() and path.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        raise ValueError(f"{path} is an archive; unpack it: carclf download {path} --to images")
    return path


def given(paths: Sequence[str], clips: bool = False) -> tuple[list[str], list[str]]:
    """Files and folders that are there, with wildcards that the shell left alone replaced, and what is missing.

    ValueError if nothing is there, or for what this command does not read. With `clips`, addresses of cameras count as
    there.
    """
    there: list[str] = []
    missing: list[str] = []
    for path in paths:
        if "://" in path:
            if not path.lower().startswith(("rtsp://", "rtsps://")):
                check_address(path, f"with curl -LO {path}")
            if not clips:
                raise ValueError(f"{path} is a camera; use carclf video")
        if "://" in path or os.path.lexists(path):
            there.append(path)
        elif has_magic(path):
            found = sorted(glob(path, recursive=True))  # noqa: PTH207 - Path's knows no absolute patterns
            there += found
            missing += [] if found else [f"no file matches {path}"]
        else:
            missing.append(no_such(path, "file or folder"))
    if not there:
        raise ValueError("; ".join(missing))
    return there, missing


def model_folder(path: str) -> Path:
    """The folder of a model; of a run, the one in it. An error says what is wrong with another path."""
    folder = Path(path)
    if folder.is_file():
        raise ValueError(f"{path} is a file; the folder of a model comes first, such as models/cars-lite0")
    if not folder.is_dir():
        raise FileNotFoundError(f"{no_such(path)}; the folder of a model comes first, such as models/cars-lite0")
    return folder_of(folder)
