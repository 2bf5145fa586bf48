"""Make the README's pictures from the run that `make demo` left: python docs/pictures.py"""

from pathlib import Path

import carclf
from carclf import evaluation_plots, galleries

DOCS = Path(__file__).resolve().parent
RUN = DOCS.parent / "runs" / "demo" / "run"


def main() -> None:
    """Predict the test photos of the demo and draw the two pictures."""
    predictions = carclf.Classifier.load(RUN / "model").predict(carclf.read_test(RUN / "split.csv"))
    evaluation_plots.confusion_matrix(predictions).figure.savefig(DOCS / "confusion.png", dpi=80)
    galleries.prediction_page(predictions, n=9, seed=4).savefig(DOCS / "predictions.png", dpi=80)


if __name__ == "__main__":
    main()
