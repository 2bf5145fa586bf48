import copy
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

import carclf
from carclf.plot import training as plots
from carclf.train.engine import Engine
from carclf.train.lr_finder import suggest

RECIPE = carclf.Recipe(stages=(("head", 1, 1e-2, 32), ("all", 1, 1e-3, 32)), micro_batch=8, device="cpu")


def test_the_lr_grows_evenly_in_its_logarithm_and_the_loss_is_that_of_the_stage(data):
    found = carclf.find_lr(RECIPE, *data, low=1e-5, high=1e-2, steps=10)
    assert found.table.lr.tolist() == pytest.approx(np.geomspace(1e-5, 1e-2, 10).tolist())
    assert found.table.loss.iloc[0] == pytest.approx(np.log(4), rel=0.3)  # four brands, nothing learned yet
    head = carclf.find_lr(RECIPE, *data, stage=0, low=1e-5, high=1e-2, steps=10)
    assert head.table.loss.tolist() != found.table.loss.tolist()


def test_model_and_random_numbers_are_left_as_they_were(data):
    model = carclf.build_model("efficientnet_lite0", 4)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    one, again = (carclf.find_lr(RECIPE, *data, model=model, steps=10) for _ in range(2))
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    pd.testing.assert_frame_equal(one.table, again.table)
    assert model.training


def test_a_wrong_range_or_stage_is_refused(data):
    with pytest.raises(ValueError, match=r"low=1, high=0.1.*give 0 < low < high and at least 10 steps"):
        carclf.find_lr(RECIPE, *data, low=1, high=0.1)
    with pytest.raises(ValueError, match="stage=2: the recipe has the stages 0 to 1"):
        carclf.find_lr(RECIPE, *data, stage=2)


@pytest.mark.parametrize(
    ("losses", "steps"),
    [([1.0] * 12 + [0.5] * 3 + [50.0] * 85, range(16, 20)), ([1.0, 0.9, 0.8, 0.7, ArithmeticError("nan")], [4])],
)
def test_a_loss_that_explodes_or_is_not_finite_ends_the_test(data, monkeypatch, losses, steps):
    monkeypatch.setattr(Engine, "step", Mock(side_effect=losses))
    assert len(carclf.find_lr(RECIPE, *data).table) in steps


def test_the_suggestion_is_where_the_loss_falls_fastest():
    lr = np.geomspace(1e-5, 1, 101)
    smoothed = 2 - 1 / (1 + (1e-3 / lr) ** 2) + 5 / (1 + (0.3 / lr) ** 4)  # falls around 1e-3, explodes at 0.3
    found = suggest(pd.DataFrame({"lr": lr, "smoothed": smoothed}))
    assert found == pytest.approx(1e-3, rel=0.2)


def test_the_suggestion_for_a_new_head_is_an_lr_that_learns(data):
    found = carclf.find_lr(RECIPE, *data, stage=0, low=1e-5, high=10, steps=60)
    assert 1e-4 < found.suggestion < 1


def test_a_loss_that_never_falls_gives_no_suggestion():
    assert suggest(pd.DataFrame({"lr": [1.0, 2.0, 3.0], "smoothed": [1.0, 2.0, 3.0]})) is None
    assert suggest(pd.DataFrame(columns=["lr", "loss", "smoothed"])) is None


def test_the_range_test_is_drawn_with_its_suggestion(data):
    found = carclf.find_lr(RECIPE, *data, steps=10)
    ax = plots.range_test(found.table, 1e-3)
    assert ax.get_xscale() == "log"
    np.testing.assert_allclose(ax.lines[0].get_xdata(), found.table.lr)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), found.table.smoothed)
    assert any(line.get_xdata()[0] == 1e-3 for line in ax.lines[2:])
