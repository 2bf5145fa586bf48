"""Draw the pictures of README.md and results.md.

python docs/pictures.py              from the run that `make demo` left
python docs/pictures.py runs/ship    from what `experiments/ship.py` left
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import carclf
from carclf.data.manifest import read_test
from carclf.metrics.scores import brand_report
from carclf.plot.evaluation import confusion_matrix, reliability, risk_coverage
from carclf.plot.photos import prediction_page

DOCS = Path(__file__).resolve().parent
DEMO = DOCS.parent / "runs" / "demo" / "run"
QUESTIONS = ("in-domain", "new collections")


def demo() -> None:
    """Predict the test photos of the demo and draw the two pictures of the README."""
    predictions = carclf.Classifier.load(DEMO / "model").predict(read_test(DEMO / "split.csv"))
    confusion_matrix(predictions).figure.savefig(DOCS / "confusion.png", dpi=80)
    prediction_page(predictions, n=9, seed=4).savefig(DOCS / "predictions.png", dpi=80)


def shipped(run: Path) -> None:
    """Draw the shipped model's results on test, both kinds of photos side by side."""
    tables = {name: pd.read_csv(run / name / "predictions.csv") for name in QUESTIONS}
    brands = {name: brand_report(table) for name, table in tables.items()}
    pd.concat(brands, names=["photos"]).round(3).to_csv(DOCS / "shipped-brands.csv", lineterminator="\n")
    promise = json.loads((DOCS.parent / "models" / "cars-lite0" / "card.json").read_text("utf-8"))["promise"]
    figure, axes = plt.subplots(2, 2, figsize=(11, 9), layout="constrained")
    for (name, table), (left, right) in zip(tables.items(), axes, strict=True):
        matrix = confusion_matrix(table)
        matrix.set_title(f"{name}: {matrix.get_title(loc='left')}", loc="left")
        matrix.figure.savefig(DOCS / f"shipped-confusion-{name.replace(' ', '-')}.png", dpi=70)
        threshold = json.loads((run / name / "metrics.json").read_text("utf-8"))["threshold"]
        risk_coverage(table, left, threshold, promise)
        reliability(table, ax=right)
        for ax in (left, right):
            ax.set_ylabel(f"{name}: {ax.get_ylabel()}")
    figure.savefig(DOCS / "shipped-confidence.png", dpi=70)


if __name__ == "__main__":
    shipped(Path(sys.argv[1])) if len(sys.argv) > 1 else demo()
