"""The main plots look as they did: each is compared with a small picture in `tests/pictures`.

Fonts and the space they take differ between machines, so all text is removed and every Axes has a fixed place. After an
intended change, redraw the pictures with ``python tests/test_pictures.py`` and look at them. The comparison is written
out here because no other test needs a library for it.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tables import make_predictions

from carclf import plot

PICTURES = Path(__file__).with_name("pictures")
DOTS, COARSE = 96, 8  # dots per inch as drawn, and how many of them in a row become one
# Root mean squared difference of grey levels, of 255. matplotlib 3.9.4 is up to 2.8 away from 3.11.2, which drew the
# pictures, since edges of cells lie a little elsewhere; the wrong data below are at least 6.3 away.
TOLERANCE = 4


def history(best):
    rows = {"stage": [0, 0, 1, 1], "unfreeze": ["head", "head", "all", "all"], "size": [160, 160, 224, 224]}
    scores = {"valid_accuracy": [0.4, 0.6, best - 0.1, best], "valid_macro_recall": [0.3, 0.5, best - 0.2, best - 0.1]}
    return pd.DataFrame({**rows, "train_loss": [2, 1.2, 0.8, 0.5], "valid_loss": [1.9, 1.4, 1.2, 1.1], **scores})


def swapped(predictions):
    """Truth and answer exchanged, as if rows and columns were mixed up."""
    return predictions.assign(brand=predictions["predicted"], predicted=predictions["brand"])


def shifted(predictions):
    """Each answer given to the next photo."""
    return predictions.assign(predicted=np.roll(predictions["predicted"], 1))


def surer(predictions):
    """Higher confidences, each of another photo."""
    return predictions.assign(confidence=predictions["confidence"].to_numpy()[::-1] ** 0.5)


def steps(highest_at):
    lr = np.interp(np.arange(40), [0, highest_at, 39], [0, 0.01, 0])
    return pd.DataFrame({"stage": [0] * 20 + [1] * 20, "lr": lr, "loss": 3 - np.cumsum(lr)})


def shares(share):
    table = pd.DataFrame({"counted": [0.1, 0.3, 0.6], "corrected": [0.2, 0.3, share]}, index=["Audi", "BMW", "Citroën"])
    return table.assign(low=table["corrected"] * 0.7, high=table["corrected"] * 1.2)


TWELVE, MANY, MOST = make_predictions(12), make_predictions(49, n=1500), make_predictions(120, n=2400)
PLOTS = {  # name: how it is drawn, from which data, and from data that must not look the same
    "confusion-12": (plot.confusion_matrix, TWELVE, swapped(TWELVE)),
    "confusion-49": (plot.confusion_matrix, MANY, swapped(MANY)),
    "confusion-120": (plot.confusion_matrix, MOST, shifted(MOST)),  # swapped, its many pale cells are as pale elsewhere
    "confusion-zoom": (plot.confusion_zoom, MANY, swapped(MANY)),
    "brand-scores": (plot.brand_scores, TWELVE, TWELVE[:200]),
    "brand-shares": (plot.brand_shares, shares(0.5), shares(0.7)),
    "reliability": (plot.reliability, TWELVE, surer(TWELVE)),
    "risk-coverage": (plot.risk_coverage, TWELVE, surer(TWELVE)),
    "threshold-curve": (plot.threshold_curve, TWELVE, surer(TWELVE)),
    "training-curves": (plot.training_curves, history(0.9), history(0.7)),
    "training-steps": (plot.training_steps, steps(12), steps(30)),
}


def drawn(plot, data):
    """What a plot draws without its text: a coarse grey picture."""
    figure = plot(data).figure
    figure.set_layout_engine("none")
    main = [ax for ax in figure.axes if ax.get_axes_locator() is None]  # the others, colour bars, go with them
    for place, ax in enumerate(main):
        ax.set_position([(place + 0.1) / len(main), 0.1, 0.75 / len(main), 0.8])
    for ax in figure.axes:
        ax.tick_params(which="both", labelbottom=False, labeltop=False, labelleft=False, labelright=False)
        if ax.get_legend():
            ax.get_legend().remove()
    for text in figure.findobj(plt.Text):
        text.set_visible(False)
    figure.set_dpi(DOTS)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("L").reduce(COARSE)
    plt.close(figure)
    return picture


def difference(name, data):
    """Root mean squared difference of grey levels between the stored picture and the plot of these data."""
    with Image.open(PICTURES / f"{name}.png") as before:
        now = drawn(PLOTS[name][0], data)
        assert now.size == before.size
        return np.sqrt(np.mean((np.asarray(now, float) - np.asarray(before, float)) ** 2))


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_looks_as_it_did_and_another_does_not(name):
    _, data, other = PLOTS[name]
    assert difference(name, data) < TOLERANCE
    assert difference(name, other) > 1.5 * TOLERANCE


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, (plot, data, _) in PLOTS.items():
        drawn(plot, data).save(PICTURES / f"{name}.png", optimize=True)
