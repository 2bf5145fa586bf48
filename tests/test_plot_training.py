import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tables import make_manifest

from carclf import plot
from carclf.plot.style import RIGHT, WRONG


def labels(ax):
    """The names of the rows, from below."""
    return [label.get_text() for label in ax.get_yticklabels()]


@pytest.mark.parametrize("n_brands", [1, 2, 12, 49, 120])
@pytest.mark.parametrize("bars", [plot.brand_counts, plot.split_counts])
def test_brands_are_legible_whatever_their_number(bars, n_brands):
    ax = bars(make_manifest(n_brands))
    ax.figure.canvas.draw()
    names = ax.get_yticklabels()
    assert len(names) == n_brands
    size = names[0].get_fontsize()
    assert size >= 5
    row = ax.get_window_extent().height / n_brands * 72 / ax.figure.dpi  # points
    assert row >= size
    assert ax.get_window_extent().x0 > names[0].get_window_extent().width  # not cut off


def test_bars_show_photos_and_vehicles():
    manifest = make_manifest(3, n=30).assign(brand=["Audi"] * 16 + ["BMW"] * 8 + ["Citroën"] * 6)
    manifest.loc[[0, 1], "problem"] = "empty: the file has no bytes"
    manifest.loc[2, "brand"] = None
    ax = plot.brand_counts(manifest)
    assert labels(ax) == ["Citroën", "BMW", "Audi"]
    photos, vehicles = ([bar.get_width() for bar in bars] for bars in ax.containers)
    assert photos == [6, 8, 13]
    assert vehicles == manifest[manifest["problem"].isna()].groupby("brand")["vehicle"].nunique()[::-1].tolist()
    assert ax.get_title("left").startswith("27 photos of ")
    assert ax.get_xlabel() == "photos"


def test_split_bars_stack_to_all_photos():
    manifest = make_manifest(5)
    ax = plot.split_counts(manifest)
    names = [label.get_text() for label in ax.get_legend().get_texts()]
    assert [name.split(":")[0] for name in names] == ["train", "valid", "test", "set aside"]
    assert sum(bar.get_width() for bars in ax.containers for bar in bars) == len(manifest)


def test_bars_of_nothing_are_refused():
    with pytest.raises(
        ValueError, match=r"none of the 9 photos is readable and carries a brand, such as '0\.jpg': name"
    ):
        plot.brand_counts(make_manifest(1, n=9).assign(brand=None))


def test_training_curves_mark_stages():
    history = pd.DataFrame({"stage": [0, 0, 1], "unfreeze": ["head", "head", "all"], "size": [160, 160, 224]})
    for name in ("train_loss", "valid_loss", "valid_accuracy", "valid_macro_recall"):
        history[name] = [0.3, 0.2, 0.7]
    figure = plot.training_curves(history)
    loss, score = figure.axes
    assert {"head, 160 px", "all, 224 px"} <= {text.get_text() for text in figure.findobj(plt.Text)}
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss, nats per photo")
    assert score.get_title("left") == "Scores on valid: best accuracy 70.0%"
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    plot.training_curves(history.head(1)).canvas.draw()


def test_training_steps_show_every_learning_rate_and_loss():
    columns = {"stage": [0, 0, 0, 1, 1], "lr": [1e-4, 1e-3, 1e-6, 5e-4, 1e-7], "loss": [2.0, 1.5, 1.0, 0.9, 0.8]}
    steps = pd.DataFrame(columns)
    for ax, name in zip(plot.training_steps(steps).axes, ("lr", "loss"), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), steps[name])
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [0.5, 3.5]
        assert ax.get_xlabel() == "optimizer step"
    plot.training_steps(steps.head(1)).canvas.draw()


def test_the_house_style_leaves_the_callers_settings_alone():
    before = dict(matplotlib.rcParams)
    ax = plot.brand_counts(make_manifest(3))
    assert dict(matplotlib.rcParams) == before
    assert not ax.spines["top"].get_visible()
    ax.figure.canvas.draw()  # makes ticks, long after the style has ended
    assert ax.xaxis.get_major_ticks()[-1].gridline.get_color() == "#e6e6e6"


def test_photo_sizes_say_how_many_are_below_the_cache():
    manifest = make_manifest(3).assign(width=[100, 300, 500] * 200, height=[400, 200, 60] * 200)
    ax = plot.photo_sizes(manifest, cache_size=150)
    assert ax.get_title("left") == "67% of the photos have a shorter side below 150 pixels"
    assert sum(bar.get_height() for bar in ax.patches) == 600
    assert ax.get_xlabel() == "shorter side in pixels"
    assert "shorter side of 100 pixels" in plot.photo_sizes(manifest).get_title("left")
    assert plot.photo_sizes(manifest.assign(width=64, height=64)).get_xscale() == "log"


def test_split_scores_show_interval_and_siblings():
    rows = {"photos": [98, 99], "with_sibling_in_train": [0.8, 0.0], "accuracy": [0.6, 0.3]}
    table = pd.DataFrame({**rows, "low": [0.5, 0.2], "high": [0.7, 0.4]}, index=["by photo", "by vehicle"])
    ax = plot.split_scores(table)
    assert labels(ax) == ["by photo\n80% with a sibling in train", "by vehicle\n0% with a sibling in train"]
    assert [bar.get_facecolor() for bar in ax.patches] == [matplotlib.colors.to_rgba(c) for c in (WRONG, RIGHT)]
    assert not plot.split_scores(table[:0]).patches
