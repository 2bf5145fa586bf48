"""What `fit` says about a recipe before it trains, and about its stages afterwards; every remedy is tried."""

import ast
import re
import warnings
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import carclf
from carclf.model.device import Device
from carclf.train import checks
from carclf.train.batches import Dataset
from carclf.train.distributed import Processes
from carclf.train.engine import Engine

HEAD = ("head", 2, 1e-2, 32)


def recipe(*stages, **changes):
    return carclf.Recipe(**{"stages": stages, "micro_batch": 8, "device": "cpu", "precision": "float32", **changes})


def checked(data, settings, device="cpu", resumed=False):
    """What `check_plan` warns of."""
    engine = Engine(settings, Dataset.of(*data), Processes(1, 0, Device("cpu", torch.float32)))
    engine.device = Device(device, torch.float32)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        checks.check_plan(engine, resumed)
    return [str(warning.message) for warning in found]


def stages_in(message):
    return ast.literal_eval(message.partition("stages = ")[2])


def test_a_stage_that_enlarges_the_cached_photos_is_told_and_both_remedies_work(data, tmp_path):
    told = checked(data, recipe(HEAD, ("head", 1, 1e-3, 96)))
    assert told == [
        "stage 2 enlarges the cached photos from 40 to 96 pixels, which adds no detail and takes 6 times the time and "
        "memory; choose a size of at most 80, or build the cache with 96 pixels"
    ]
    assert checked(data, recipe(HEAD, ("head", 1, 1e-3, 80))) == []
    larger = carclf.TensorCache.build(data[0], tmp_path, 96)
    assert checked((data[0], larger), recipe(HEAD, ("head", 1, 1e-3, 96))) == []
    assert checked(data, recipe(HEAD, ("head", 1, 1e-3, 96)), resumed=True) == []  # too late to change it


def test_too_few_steps_are_told_with_stages_that_are_enough(data):
    short = recipe(HEAD, ("blocks.6", 1, 1e-3, 32), ("all", 1, 1e-3, 32))
    (told,) = checked(data, short)
    steps = 2 * -(-len(Dataset.of(*data).train) // 8)
    assert (
        f"{len(Dataset.of(*data).train)} photos to train give the stages that train more than the head {steps} " in told
    )
    longer = stages_in(told)
    assert [stage[::3] for stage in longer] == [["head", 32], ["blocks.6", 32], ["all", 32]]
    assert [stage[1] for stage in longer] == [27, 7, 7]  # of three steps each
    assert checked(data, recipe(*longer)) == []
    assert checked(data, recipe(HEAD)) == []  # the head alone needs no more


def free(monkeypatch, amount):
    monkeypatch.setattr(checks.psutil, "virtual_memory", lambda: SimpleNamespace(available=amount))


def test_a_stage_that_does_not_fit_into_the_memory_is_refused_with_remedies_that_work(data, monkeypatch, tmp_path):
    settings = ("all", 200, 1e-3, 64)
    free(monkeypatch, 30_000_000)
    with pytest.raises(
        ValueError, match=r"stage 2 needs about 0.1 GB of memory for 8 photos of 64 pixels, but 0.0 GB"
    ) as e:
        carclf.fit(recipe(HEAD, settings), *data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    size, photos = re.search(
        r"choose a size of (\d+) or micro_batch=(\d+) or close other programs$", str(e.value)
    ).groups()
    assert checked(data, recipe(HEAD, (*settings[:3], int(size)))) == []
    assert checked(data, recipe(HEAD, settings, micro_batch=int(photos))) == []
    with pytest.raises(ValueError, match=r"GB are free; close other programs$"):
        checked(data, recipe(HEAD, settings), resumed=True)
    free(monkeypatch, 10**12)
    assert checked(data, recipe(HEAD, settings)) == []
    free(monkeypatch, 0)
    assert checked(data, recipe(HEAD, settings), device="cuda") == []  # tries smaller micro-batches by itself


def test_the_estimate_of_memory_is_what_training_takes(data):
    """Of Lite0 the process grew by 930 MB with 8 photos of 256 pixels, by 1.2 GB with 16 of 512 for the head alone."""
    engine = Engine(recipe(HEAD), Dataset.of(*data), Processes(1, 0, Device("cpu", torch.float32)))
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    assert checks.bytes_per_pixel(engine, "all") * 8 * 256**2 == pytest.approx(930e6, rel=0.2)
    assert checks.bytes_per_pixel(engine, "all") * 32 * 1024**2 > 10e9
    assert 0.3e9 < checks.bytes_per_pixel(engine, "head") * 4 * 512**2 < 1.2e9
    torch.testing.assert_close(engine.model.state_dict(), before, rtol=0, atol=0)


def history(*rows):
    return pd.DataFrame(rows, columns=["unfreeze", "valid_accuracy"])


@pytest.mark.parametrize(
    ("rows", "valid"),
    [
        ([("head", 0.42), ("all", 0.25)], 20),  # by chance
        ([("head", 0.42), ("all", 0.25), ("all", 0.5)], 300),  # recovered
        ([("all", 0.42), ("all", 0.25)], 300),
        ([("head", 0.42), ("head", 0.25)], 300),
    ],
)
def test_nothing_is_said_of_stages_that_helped_or_lost_by_chance(rows, valid):
    checks.check_outcome(recipe(HEAD), history(*rows), 100, valid)


def test_stages_that_end_below_the_head_alone_are_told_and_the_remedy_works(data, tmp_path):
    settings = recipe(("head", 8, 1e-2, 32), ("all", 1, 0.05, 32))
    with pytest.warns(UserWarning, match=r"ended below what the head alone had reached: \d+\s% of \d+ photos") as told:
        carclf.fit(settings, *data, tmp_path / "run")
    stages = stages_in(str(told[-1].message))
    assert stages == [["head", 27, 0.01, 32], ["all", 14, 0.01, 32]]
    carclf.fit(recipe(*stages), *data, tmp_path / "another")
