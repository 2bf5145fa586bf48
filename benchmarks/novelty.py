"""How well each score tells known brands from unknown ones and from pictures of no car.

python benchmarks/novelty.py path/to/photos [--other folder] [--no-car folder] [--model runs/first/model]

Ten brands are held out, drawn by the seed, and the other ones trained on for a few minutes; with --model nothing is
trained, and the brands that this model does not know are the unknown ones. Known are test photos of the others. Four
questions, a row a score each:

unknown brand   photos of the held-out brands from the same collection
no car          a folder of your own, else sample pictures of scikit-image (where installed), scikit-learn and
                matplotlib in pieces, and drawn ones: noise, stripes, shapes, landscapes
other source    photos of unknown brands in another collection (--other), against test
fair            the same against known brands in that other collection: here the source says nothing

Intervals draw vehicles of known and whole brands of unknown photos, as another ten brands would be other numbers.
The last table says which share of each set the threshold takes for known that 95 % of valid pass.

AUROC and false positives at 95 % recall, measured on 6,519 photos of 49 brands, seed 0, once each:

               39 brands trained on, 10 held out     49 brands, a longer training, accuracy 84 %
               unknown brand    no car               no car          other source
max_softmax    .733  .876       .887  .460           .947   .270     .911  .469
energy         .721  .875       .531  .945           .546  1.000     .757  .920
class_mean     .680  .943       .914  .305           .950   .220     .838  .745
mahalanobis    .692  .897       .983  .085           .996   .015     .920  .379
neighbours     .714  .864       .959  .235           .984   .075     .913  .413

For an unknown brand the intervals of max_softmax, energy, mahalanobis and neighbours overlap, and all are weak; for no
car mahalanobis leads beyond them. The fair question is close to a coin (.51 to .57): on another collection most brands
are named wrongly, and known and unknown ones look equally strange.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_sample_images

import carclf
from carclf.classifier import Classifier, Scores
from carclf.novelty import METHODS, Novelty, novelty_metrics

RECIPE = carclf.Recipe(stages=(("head", 1, 3e-3, 96), ("all", 4, 1e-3, 96)))
SAMPLES = (  # of skimage.data, which come with the installation and show no car
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
    parser.add_argument("--hold", type=int, default=10, help="how many brands are held out")
    parser.add_argument("--out", type=Path, default=Path("runs/novelty"))
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    manifest = carclf.usable(carclf.scan(options.photos))
    classifier, divided = loaded(options) if options.model else trained(options, manifest)
    known = {name: classifier.score(divided[divided.split == name]) for name in ("train", "valid", "test")}
    print(f"test: {accuracy(known['test'])}")
    strange = {}
    rest = manifest[~manifest.brand.isin(classifier.classes)]
    if len(rest):
        strange["unknown brand"] = classifier.score(rest)
    strange["no car"] = classifier.score(options.no_car or no_car(options.seed))
    if options.other:
        other = classifier.score(carclf.usable(carclf.scan(options.other)))
        is_known = other.table.brand.isin(classifier.classes).to_numpy()
        known["other source"], strange["other source"] = part(other, is_known), part(other, ~is_known)
        print(f"other source, known brands: {accuracy(known['other source'])}")
    report(known, strange, options)


def trained(options: argparse.Namespace, manifest: pd.DataFrame) -> tuple[Classifier, pd.DataFrame]:
    """A classifier of all brands but those held out, and its split; a finished run is only read."""
    brands = sorted(manifest.brand.unique())
    held = sorted(np.random.default_rng(options.seed).choice(brands, options.hold, replace=False))
    print(f"held out: {', '.join(held)}")
    divided = carclf.split(manifest[~manifest.brand.isin(held)].reset_index(drop=True), seed=options.seed)
    cache = carclf.TensorCache.build(divided, options.cache, 128)
    return carclf.fit(RECIPE, divided, cache, options.out).classifier, divided


def loaded(options: argparse.Namespace) -> tuple[Classifier, pd.DataFrame]:
    """A trained classifier and the split it was trained on."""
    divided = pd.read_csv(options.model.parent / "split.csv")
    return Classifier.load(options.model), divided[divided.split.notna()].reset_index(drop=True)


def report(known: dict[str, Scores], strange: dict[str, Scores], options: argparse.Namespace) -> None:
    """Print how well every score tells the sets apart, and what its threshold makes of each."""
    questions = [(name, "test", name) for name in strange]
    questions += [("fair", "other source", "other source")] if "other source" in known else []
    apart, shares = [], []
    for method in METHODS:
        novelty = Novelty.choose(known["train"], known["valid"], method)
        values = {key: novelty.knownness(s.logits, s.features) for key, s in keyed(known, strange)}
        passed = {f"{a}: {b}": np.mean(v[~np.isnan(v)] >= novelty.threshold) for (a, b), v in values.items()}
        shares.append({"score": method, **passed})
        for question, one, two in questions:
            groups = known[one].table.vehicle, strange[two].table.get("brand", strange[two].table.path)
            groups = [g.fillna("").astype(str) if question != "no car" else None for g in groups]
            found = novelty_metrics(values["known", one], values["unknown", two], *groups, seed=options.seed)
            apart.append({"question": question, "score": method, **found})
    apart, shares = pd.DataFrame(apart), pd.DataFrame(shares).set_index("score")
    for name in ("auroc", "fpr95"):
        ends = [apart[name + end].map("{:.3f}".format) for end in ("", "_low", "_high")]
        apart[name] = ends[0] + " (" + ends[1] + "–" + ends[2] + ")"
    columns = ["question", "score", "known", "unknown", "auroc", "fpr95"]
    print(apart.sort_values(["question", "score"], kind="stable")[columns].to_string(index=False))
    print("\nshare taken for known")
    print(shares.round(3).T.to_string())


def keyed(known: dict[str, Scores], strange: dict[str, Scores]):
    """All sets of scores with ("known" or "unknown", name)."""
    yield from ((("known", name), scores) for name, scores in known.items())
    yield from ((("unknown", name), scores) for name, scores in strange.items())


def part(scores: Scores, rows: np.ndarray) -> Scores:
    """Some rows of scores."""
    return Scores(scores.table[rows].reset_index(drop=True), scores.logits[rows], scores.features[rows])


def accuracy(scores: Scores) -> str:
    """The accuracy in words."""
    table = scores.table
    return f"{(table.brand == table.predicted).mean():.1%} of {len(table)} photos right"


def no_car(seed: int, each: int = 100) -> list[bytes]:
    """Pictures of no car as encoded files: `each` pieces of samples, and as many drawn ones."""
    rng = np.random.default_rng(seed)
    samples = [*load_sample_images().images, matplotlib.cbook.get_sample_data("grace_hopper.jpg")]
    try:
        from skimage import data

        samples += [getattr(data, name)() for name in SAMPLES]
    except ImportError:
        print("scikit-image is not installed: only three sample pictures")
    samples = [Image.open(s) if hasattr(s, "read") else Image.fromarray(s) for s in samples]
    pictures = [piece(samples[i % len(samples)], rng) for i in range(each)]
    pictures += [(noise, stripes, shapes, landscape)[i % 4](rng) for i in range(each)]
    return [encoded(picture) for picture in pictures]


def piece(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random half or more of each side of a picture, mirrored or not."""
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
    """A picture as JPEG, as a photo would come."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
