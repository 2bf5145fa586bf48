"""Compare five out-of-distribution scores: how well each tells known brands from unknown ones and from no car.

python experiments/ood.py path/to/cars [--other folder] [--no-car folder] [--model runs/first/model]

=============  =============================================================================================
max_softmax    the largest probability (Hendrycks & Gimpel 2017, arXiv 1610.02136)
energy         log of the sum of exp(logits) (Liu et al. 2020, arXiv 2010.03759)
class_mean     cosine between the features and the nearest mean of a brand's features in train
mahalanobis    what the package uses, see `carclf/model/ood.py`
neighbours     -distance to the tenth nearest photo of train, of features of length 1 (arXiv 2204.06507)
=============  =============================================================================================

Ten brands, drawn by the seed, are held out, and a short training learns the others. With --model nothing is trained,
and the unknown brands are those that this model does not know. Known are test photos of learned brands. Questions:

unknown brand   photos of the held-out brands from the same collection
no car          the folder --no-car; default: sample pictures of scikit-image (if installed), scikit-learn and
                matplotlib in pieces, and drawn ones: noise, stripes, shapes, landscapes
other source    photos of unknown brands in another collection (--other), against test
fair            the same against known brands in that other collection: here the source tells nothing

Intervals draw vehicles of known and brands of unknown photos, as another ten brands would give other numbers. The last
table shows the share of each set that passes the threshold that 95 % of valid pass. docs/results.md has the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

import carclf
from carclf.data.manifest import usable
from carclf.model.classifier import Classifier, Scores
from carclf.model.ood import OodDetector

METHODS = ("max_softmax", "energy", "class_mean", "mahalanobis", "neighbours")
K = 10  # which neighbour in train counts: a single one may be an odd photo, brands of 20 photos have no more
RECALL = 0.95  # of known photos, at which false positives are counted
RECIPE = carclf.Recipe(stages=(("head", 1, 3e-3, 96), ("all", 4, 1e-3, 96)), class_weight="inverse_sqrt")
SAMPLES = (  # of skimage.data, which are installed with it and show no car
    *("astronaut", "brick", "camera", "cat", "cell", "checkerboard", "chelsea", "clock", "coffee", "coins"),
    *("colorwheel", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina"),
    *("rocket", "text"),
)


def main() -> None:
    """Train or load, score every set, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--other", help="photos of another collection")
    parser.add_argument("--no-car", help="pictures without any car")
    parser.add_argument("--model", type=Path, help="a run's model folder; its split.csv lies beside it")
    parser.add_argument("--hold", type=int, default=10, help="number of brands held out")
    parser.add_argument("--out", type=Path, default=Path("runs/ood"))
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    manifest = usable(carclf.scan(options.photos))
    classifier, split = load(options.model) if options.model else train(options, manifest)
    known = {name: classifier.score(split[split.split == name]) for name in ("train", "valid", "test")}
    print(f"test: {accuracy(known['test'])}")
    unknown = {}
    rest = manifest[~manifest.brand.isin(classifier.classes)]
    if len(rest):
        unknown["unknown brand"] = classifier.score(rest)
    unknown["no car"] = classifier.score(options.no_car or no_car(options.seed))
    if options.other:
        other = classifier.score(usable(carclf.scan(options.other)))
        is_known = other.table.brand.isin(classifier.classes).to_numpy()
        known["other source"], unknown["other source"] = (part(other, rows) for rows in (is_known, ~is_known))
        print(f"other source, known brands: {accuracy(known['other source'])}")
    report(known, unknown, options.seed)


def train(options: argparse.Namespace, manifest: pd.DataFrame) -> tuple[Classifier, pd.DataFrame]:
    """A classifier of all brands but those held out, and its split; a finished run is only read."""
    held = sorted(np.random.default_rng(options.seed).choice(sorted(manifest.brand.unique()), options.hold, False))
    print(f"held out: {', '.join(held)}")
    split = carclf.split(manifest[~manifest.brand.isin(held)].reset_index(drop=True), seed=options.seed)
    cache = carclf.TensorCache.build(split, options.cache, 128)
    return carclf.fit(RECIPE, split, cache, options.out).classifier, split


def load(model: Path) -> tuple[Classifier, pd.DataFrame]:
    """A trained classifier and the split that it was trained on."""
    split = pd.read_csv(model.parent / "split.csv")
    return Classifier.load(model), split[split.split.notna()].reset_index(drop=True)


def report(known: dict[str, Scores], unknown: dict[str, Scores], seed: int) -> None:
    """Print how well every score separates the sets, and what passes its threshold."""
    questions = [(name, "test", name) for name in unknown]
    questions += [("fair", "other source", "other source")] if "other source" in known else []
    apart, passed = [], []
    for method in METHODS:
        of_train = known["train"]
        ins, outs = ({k: ood_score(method, of_train, s) for k, s in group.items()} for group in (known, unknown))
        threshold = -np.nanquantile(-ins["valid"], RECALL, method="inverted_cdf")
        sets = {f"known: {k}": v for k, v in ins.items()} | {f"unknown: {k}": v for k, v in outs.items()}
        passed.append({"score": method} | {k: np.mean(v[~np.isnan(v)] >= threshold) for k, v in sets.items()})
        for question, one, two in questions:
            groups = known[one].table.vehicle, unknown[two].table.get("brand", unknown[two].table.path)
            groups = [g.fillna("").astype(str) if question != "no car" else None for g in groups]
            apart.append({"question": question, "score": method, **ood_metrics(ins[one], outs[two], *groups, seed)})
    apart = pd.DataFrame(apart).sort_values(["question", "score"], kind="stable").set_index("question")
    print(apart.round(3).to_string(), "\n\nshare that passes")
    print(pd.DataFrame(passed).set_index("score").round(3).T.to_string())


def ood_score(method: str, train: Scores, photos: Scores) -> np.ndarray:
    """One of METHODS: float64 [N] for N photos, larger is better known, NaN for a photo that could not be read."""
    rows = train.table["loss"].notna().to_numpy()  # photos that were read, of brands that the model knows
    learned, brands = unit_length(train.features[rows]), train.table["brand"][rows].to_numpy(str)
    readable = ~np.isnan(photos.logits).any(1)
    logits, features = photos.logits[readable].astype(float), unit_length(photos.features[readable])
    found = np.full(len(readable), np.nan)
    if method == "max_softmax":
        found[readable] = softmax(logits, 1).max(1)
    elif method == "energy":
        found[readable] = logsumexp(logits, 1)
    elif method == "class_mean":
        means = unit_length(np.stack([learned[brands == brand].mean(0) for brand in np.unique(brands)]))
        found[readable] = (features @ means.T).max(1)
    elif method == "mahalanobis":
        found[readable] = OodDetector.fit(train.features[rows], brands).score(photos.features[readable])
    else:
        near = NearestNeighbors(n_neighbors=min(K, len(learned))).fit(learned)
        found[readable] = -near.kneighbors(features)[0][:, -1]
    return found


def unit_length(features: np.ndarray) -> np.ndarray:
    """Rows as float64 of length 1; a row of zeros stays as it is."""
    features = features.astype(float)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def ood_metrics(
    known: np.ndarray,
    unknown: np.ndarray,
    known_groups: Sequence | None = None,
    unknown_groups: Sequence | None = None,
    seed: int = 0,
    n_boot: int = 1000,
) -> dict[str, float | int]:
    """How well a score separates known photos from unknown ones, with 95 % bootstrap intervals.

    Parameters
    ----------
    known, unknown : float [N] and [M], scores, larger is better known; NaN is left out
    known_groups, unknown_groups : [N] and [M], photos drawn together, such as those of a vehicle; default: each alone

    Returns
    -------
    dict with `known` and `unknown` (numbers of photos), `auroc` (0 to 1), `fpr95` (0 to 1, share of the unknown photos
    that pass a threshold that 95 % of the known ones pass), and for both the interval, `…_low` and `…_high`
    """
    sides = [readable(known, known_groups), readable(unknown, unknown_groups)]
    for name, (scores, _) in zip(("known", "unknown"), sides, strict=True):
        if not len(scores):
            raise ValueError(f"no {name} photo has a score, so nothing can be compared; give readable {name} photos")
    rng = np.random.default_rng(seed)
    found = {"known": len(sides[0][0]), "unknown": len(sides[1][0])}
    boot = [auroc_and_fpr(*(redrawn(*side, rng) for side in sides)) for _ in range(n_boot)]
    ends = np.quantile(boot, [0.025, 0.975], axis=0)
    for i, name in enumerate(("auroc", "fpr95")):
        found[name] = auroc_and_fpr(sides[0][0], sides[1][0])[i]
        found |= {f"{name}_low": float(ends[0, i]), f"{name}_high": float(ends[1, i])}
    return found


def auroc_and_fpr(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float]:
    truth, scores = np.repeat([1, 0], [len(known), len(unknown)]), np.concatenate([known, unknown])
    false_positives, recall, _ = roc_curve(truth, scores, drop_intermediate=False)
    return float(roc_auc_score(truth, scores)), float(false_positives[np.argmax(recall >= RECALL)])


def readable(scores: np.ndarray, groups: Sequence | None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scores without NaN, and the positions of each group among them."""
    scores = np.asarray(scores, float)
    kept = ~np.isnan(scores)
    groups = (np.arange(len(scores)) if groups is None else np.asarray(groups))[kept]
    return scores[kept], list(pd.Series(groups).groupby(groups).indices.values())


def redrawn(scores: np.ndarray, groups: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return scores[np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])]


def part(scores: Scores, rows: np.ndarray) -> Scores:
    """Some rows of scores."""
    return Scores(scores.table[rows].reset_index(drop=True), scores.logits[rows], scores.features[rows])


def accuracy(scores: Scores) -> str:
    """The accuracy as text."""
    return f"{(scores.table.brand == scores.table.predicted).mean():.1%} of {len(scores.table)} photos correct"


def no_car(seed: int, each: int = 100) -> list[bytes]:
    """Encoded pictures without a car: `each` pieces of samples, and as many drawn ones."""
    rng = np.random.default_rng(seed)
    samples = [*load_sample_images().images, matplotlib.cbook.get_sample_data("grace_hopper.jpg")]
    try:
        from skimage import data

        samples += [getattr(data, name)() for name in SAMPLES]
    except ImportError:
        print("scikit-image is not installed: only three sample pictures are used")
    samples = [Image.open(s) if hasattr(s, "read") else Image.fromarray(s) for s in samples]
    pictures = [piece(samples[i % len(samples)], rng) for i in range(each)]
    pictures += [(noise, stripes, shapes, landscape)[i % 4](rng) for i in range(each)]
    return [encoded(picture) for picture in pictures]


def piece(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random crop of at least half of each side of a picture, mirrored or not."""
    picture = picture.convert("RGB")
    size = np.array(picture.size) * rng.uniform(0.5, 1, 2)
    left, top = rng.uniform(0, 1, 2) * (picture.size - size)
    cut = picture.crop((int(left), int(top), int(left + size[0]), int(top + size[1])))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut


def noise(rng: np.random.Generator) -> Image.Image:
    """Random colours in patches of random size."""
    patch = int(rng.choice([1, 2, 4, 8, 16, 32]))
    small = rng.integers(0, 256, (240 // patch, 320 // patch, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC)


def stripes(rng: np.random.Generator) -> Image.Image:
    """A few waves across each other, in two colours."""
    y, x = np.mgrid[:240, :320]
    waves = sum(np.sin(rng.uniform(-0.3, 0.3) * x + rng.uniform(-0.3, 0.3) * y) for _ in range(rng.integers(1, 5)))
    share = (waves - waves.min()) / np.ptp(waves)
    one, two = rng.integers(0, 256, (2, 3))
    return Image.fromarray((one + share[..., None] * (two - one)).astype(np.uint8))


def shapes(rng: np.random.Generator) -> Image.Image:
    """Ellipses and polygons anywhere."""
    image = Image.new("RGB", (320, 240), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 12)):
        colour, at = tuple(rng.integers(0, 256, 3).tolist()), rng.uniform(-20, 340, 2)
        if rng.random() < 0.5:
            draw.ellipse((*at, *(at + rng.uniform(10, 160, 2))), fill=colour)
        else:
            draw.polygon([tuple(at + rng.uniform(-90, 90, 2)) for _ in range(rng.integers(3, 7))], fill=colour)
    return image


def landscape(rng: np.random.Generator) -> Image.Image:
    """Sky, a sun, hills or houses, a meadow or a road."""
    image = Image.new("RGB", (320, 240), tuple(rng.integers((90, 130, 180), (200, 220, 256)).tolist()))
    draw, horizon = ImageDraw.Draw(image), int(rng.integers(90, 170))
    x, y = rng.integers((0, 0), (320, 80))
    draw.ellipse((x, y, x + 30, y + 30), fill=(250, 240, 190))
    for _ in range(rng.integers(2, 9)):
        left, wide, tall = rng.integers((-60, 30, 15), (300, 180, 100))
        shade = tuple(rng.integers(40, 170, 3).tolist())
        if rng.random() < 0.5:
            draw.ellipse((left, horizon - tall, left + wide, horizon + tall), fill=shade)
        else:
            draw.rectangle((left, horizon - tall, left + wide // 2, horizon), fill=shade)
    draw.rectangle((0, horizon, 320, 240), fill=tuple(rng.integers((50, 80, 40), (150, 170, 110)).tolist()))
    if rng.random() < 0.5:
        draw.polygon([(150, horizon), (170, horizon), (260, 240), (60, 240)], fill=(110, 110, 112))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))
    grain = rng.normal(0, 6, (240, 320, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image) -> bytes:
    """A picture as JPEG bytes."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
