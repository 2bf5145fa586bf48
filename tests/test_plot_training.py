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


def test_bars_of_vehicles_that_show_nothing_new_are_left_out():
    manifest = make_manifest(2, n=9).assign(brand=["Audi"] * 6 + ["BMW"] * 3)
    ax = plot.brand_counts(manifest.assign(vehicle=manifest["path"]))
    assert len(ax.containers) == 1 and not ax.get_legend()
    assert ax.get_title("left") == "9 photos each of another vehicle, 2 brands with 3 to 6 each"


@pytest.mark.parametrize("bars", [plot.brand_counts, plot.split_counts])
def test_no_legend_lies_on_a_bar(bars):
    of = np.arange(40)  # all bars are as long as the picture is wide
    ax = bars(make_manifest(4, n=40).assign(brand=(of % 4).astype(str), vehicle=(of // 8).astype(str)))
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y0 >= max(bar.get_window_extent().y1 for bar in ax.patches)


def test_training_curves_mark_stages():
    history = pd.DataFrame({"stage": [0, 0, 1], "unfreeze": ["head", "head", "all"], "size": [160, 160, 224]})
    for name in ("train_loss", "valid_loss", "valid_accuracy", "valid_macro_recall"):
        history[name] = [0.3, 0.2, 0.7]
    figure = plot.training_curves(history)
    loss, score = figure.axes
    assert {"head, 160 px", "all, 224 px"} <= {text.get_text() for text in figure.findobj(plt.Text)}
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss per photo (0 is perfect)")
    assert score.get_title("left") == "Scores on valid: best accuracy 70.0\N{NO-BREAK SPACE}%"
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    one = plot.training_curves(history.head(1)).axes[0]
    one.figure.canvas.draw()
    assert one.get_title("left") == "Loss after 1 epoch: 0.30 on valid"
    assert [tick for tick in one.get_xticks() if one.get_xlim()[0] <= tick <= one.get_xlim()[1]] == [1]


def test_training_steps_show_every_learning_rate_and_loss():
    columns = {"stage": [0, 0, 0, 1, 1], "lr": [1e-4, 1e-3, 1e-6, 5e-4, 1e-7], "loss": [2.0, 1.5, 1.0, 0.9, 0.8]}
    steps = pd.DataFrame(columns)
    for ax, name in zip(plot.training_steps(steps).axes, ("lr", "loss"), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), steps[name])
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [0.5, 3.5]
        assert ax.get_xlabel() == "optimizer step"
    rate, loss = plot.training_steps(steps.assign(lr=steps["lr"] / 100)).axes
    rate.figure.canvas.draw()
    assert rate.get_title("left") == "Learning rate: one OneCycle per stage, up to 1e-5"
    assert {"0", "2e-6", "1e-5"} <= {text.get_text() for text in rate.get_yticklabels()}
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["of each step"]  # no mean of one step
    many = plot.training_steps(pd.concat([steps] * 16)).axes[1]
    assert [text.get_text() for text in many.get_legend().get_texts()] == ["of each step", "mean of 2 steps"]
    plot.training_steps(steps.head(1)).canvas.draw()


def test_the_range_test_names_its_suggestion():
    table = pd.DataFrame({"lr": [1e-6, 1e-3, 1], "loss": [2.0, 1, 3], "smoothed": [2.0, 1.5, 2]})
    ax = plot.range_test(table, 3e-5)
    assert ax.get_title("left") == "Learning rate range test of 3 steps"
    assert "suggested: 3e-5" in [text.get_text() for text in ax.get_legend().get_texts()]


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
    assert ax.get_title("left") == "67\N{NO-BREAK SPACE}% of 600 photos have a shorter side below 150 pixels"
    assert sum(bar.get_height() for bar in ax.patches) == 600
    assert ax.get_xlabel() == "shorter side in pixels"
    assert "shorter side of 100 pixels" in plot.photo_sizes(manifest).get_title("left")
    assert plot.photo_sizes(manifest.assign(width=64, height=64)).get_xscale() == "log"


def test_split_scores_show_interval_and_siblings():
    rows = {"photos": [98, 99], "with_sibling_in_train": [0.8, 0.0], "accuracy": [0.6, 0.3]}
    table = pd.DataFrame({**rows, "low": [0.5, 0.2], "high": [0.7, 0.4]}, index=["by photo", "by vehicle"])
    ax = plot.split_scores(table)
    assert [name.replace("\N{NO-BREAK SPACE}", " ") for name in labels(ax)] == [
        "by photo\n80 % with a sibling in train",
        "by vehicle\n0 % with a sibling in train",
    ]
    assert [bar.get_facecolor() for bar in ax.patches] == [matplotlib.colors.to_rgba(c) for c in (WRONG, RIGHT)]


@pytest.mark.parametrize(
    ("name", "said"),
    [("by photo or by vehicle", "the ways to split are the same here"), ("by vehicle", "one split")],
)
def test_one_split_is_drawn_once(name, said):
    scores = {"photos": 98, "with_sibling_in_train": 0.0, "accuracy": 0.6, "low": 0.5, "high": 0.7}
    ax = plot.split_scores(pd.DataFrame(scores, index=[name]))
    assert len(ax.patches) == 1
    assert ax.get_title("left") == f"One training: {said}"
    assert labels(ax)[0].startswith(f"{name}\n")
