"""Should the classifier see the whole photo or the main car in it, and with which margin? Measured on valid.

python experiments/crops.py path/to/cars path/to/other/collections --out runs/crops

The photos of valid are those of `ship.py`: in-domain ones, cut to the car by whoever made the set, and whole
collections that the model has not seen. Boxes are kept in OUT, so another call
asks the detector for none. With `--scenes`, photos of whole scenes are judged as well, with the margin that the package
has: a look to be counted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from common import ROOT, arguments, shipped_split
from scipy.special import softmax
from tqdm.auto import tqdm

import carclf
from carclf.data.boxes import BOX
from carclf.data.photos import read_photo, squish
from carclf.metrics.scores import compare
from carclf.model.classifier import Classifier
from carclf.model.crops import MARGIN, crop, select
from carclf.model.detector import Detector
from carclf.model.predictions import tabulate

MARGINS = (0.0, 0.03, 0.05, 0.08, 0.12, 0.2)


def main() -> None:
    """Print a table: a row for each way to look at a photo, with its difference from the whole photo."""
    parser = arguments(__doc__, "runs/crops")
    parser.add_argument("--model", default=ROOT / "models" / "cars-lite0")
    parser.add_argument("--scenes", help="photos of whole scenes, brand in the name")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    classifier, detector = Classifier.load(options.model), Detector.load()
    manifest = shipped_split(options.photos, options.others)
    valid = manifest[manifest.split == "valid"].reset_index(drop=True)
    boxes = main_cars(detector, valid, options.out / "valid.csv")
    rows = {}
    away, small = valid.collection.notna(), share(boxes) < 0.5
    kinds = {"tight crops": ~away, "new collections": away, "of these, cars below half of the photo": away & small}
    for kind, part in kinds.items():
        rows |= {(kind, *key): row for key, row in looks(classifier, valid[part], boxes[part], MARGINS).items()}
    if options.scenes:
        scenes = carclf.scan(options.scenes)
        scenes = scenes[scenes.problem.isna() & scenes.brand.isin(classifier.classes)].reset_index(drop=True)
        found = main_cars(detector, scenes, options.out / "scenes.csv")
        rows |= {("scenes", *key): row for key, row in looks(classifier, scenes, found, (MARGIN,)).items()}
    table = pd.DataFrame.from_dict(rows, "index").rename_axis(["photos", "look", "margin"])
    table.to_csv(options.out / "crops.csv")
    print(table.round(3).to_string())


def main_cars(detector: Detector, manifest: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The main car's box of each photo, NaN if none was found, and the photo's `width` and `height` when upright."""
    if not file.exists():
        rows = []
        for path in tqdm(manifest.path, "find cars", leave=False):
            photo = read_photo(path)
            found = select(detector.find([photo])[0], photo.size, "main")
            rows.append([*(found.iloc[0][BOX] if len(found) else [np.nan] * len(BOX)), *photo.size])
        pd.DataFrame(rows, columns=[*BOX, "width", "height"]).assign(path=manifest.path).to_csv(file, index=False)
    boxes = pd.read_csv(file)
    if boxes.path.tolist() != manifest.path.tolist():
        raise ValueError(f"{file} holds boxes of other photos; delete it")
    return boxes


def share(boxes: pd.DataFrame) -> pd.Series:
    """The part of a photo that its box covers, 0 to 1."""
    return (boxes.x1 - boxes.x0) * (boxes.y1 - boxes.y0) / (boxes.width * boxes.height)


def looks(classifier: Classifier, photos: pd.DataFrame, boxes: pd.DataFrame, margins: tuple[float, ...]) -> dict:
    """Scores of the whole photo, of the main car with each margin, and of both together (the mean of their logits)."""
    size = classifier.card.cache_size
    whole = judge(classifier, [squish(read_photo(path, 2 * size), size) for path in photos.path])
    base = table_of(classifier, photos, whole)
    result = {("whole", "–"): summary(base, base, boxes)}
    for margin in margins:
        squares = []
        for path, box in zip(photos.path, boxes[BOX].to_numpy(), strict=True):
            photo = read_photo(path)
            squares.append(squish(photo if np.isnan(box[0]) else crop(photo, box, margin), size))
        logits = judge(classifier, squares)
        result["main", str(margin)] = summary(base, table_of(classifier, photos, logits), boxes)
        result["both", str(margin)] = summary(base, table_of(classifier, photos, (whole + logits) / 2), boxes)
    return result


def judge(classifier: Classifier, squares: list[np.ndarray]) -> np.ndarray:
    """Logits of squished photos."""
    return np.concatenate([classifier.outputs(np.stack(squares[i : i + 64]))[0] for i in range(0, len(squares), 64)])


def table_of(classifier: Classifier, photos: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    """Predictions, with a photo's collection, if it has one, as its vehicle: photos of one source err together."""
    asked = photos[
        ["path", "brand", "vehicle", "collection"] if "collection" in photos else ["path", "brand", "vehicle"]
    ]
    asked = asked.assign(problem=None, vehicle=asked.get("collection", asked.vehicle).fillna(asked.vehicle))
    probabilities = softmax(logits / classifier.card.temperature, axis=1)
    return tabulate(asked, probabilities, classifier.classes, classifier.card.accept_from, np.zeros(len(asked), bool))


def summary(base: pd.DataFrame, table: pd.DataFrame, boxes: pd.DataFrame) -> dict[str, float]:
    """Accuracy, its difference from the whole photos' with a 95 % interval, acceptance, and calibration."""
    found = compare(base, table)
    right = table.predicted == table.brand
    row = {"n": len(table), "car found": boxes.x0.notna().mean(), "share of the photo": share(boxes).median()}
    row |= {"accuracy": found["accuracy_b"], "difference": found["accuracy_difference"]}
    row |= {end: found[f"accuracy_difference_{end}"] for end in ("low", "high")}
    return row | {"accepted": table.accepted.mean(), "of these right": right[table.accepted].mean()}


if __name__ == "__main__":
    main()
