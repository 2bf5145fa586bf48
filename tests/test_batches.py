import numpy as np
import pytest
import torch

import carclf
from carclf.train.batches import Dataset, evenly


@pytest.fixture(scope="module")
def dataset(data):
    manifest, cache = data
    audis = manifest.index[(manifest.brand == "Audi") & (manifest.split == "train")]
    rare = manifest.problem.mask(manifest.index.isin(audis[2:]), "set aside")
    return Dataset.of(manifest.assign(problem=rare), cache, "inverse")


def recipe(**changes):
    return carclf.Recipe(**{"stages": (("all", 3, 1e-3, 32),), "micro_batch": 4, **changes})


def positions(batches):
    return np.concatenate([batch.positions for batch in batches]).tolist()


@pytest.mark.parametrize("batch", [{"micro_batch": 4}, {"micro_batch": 7, "accumulate": 3}])
@pytest.mark.parametrize(("seed", "stage", "epoch"), [(3, 1, 2), (0, 2, 1), (0, 0, 0)])
def test_random_numbers_are_those_of_version_0_1_whatever_the_size_of_the_batch(dataset, batch, seed, stage, epoch):
    # It drew order, dropout seeds and rows of 20 numbers like this; its runs resume only while all of that stays.
    batches, rng = (
        dataset.epoch(recipe(seed=seed, **batch), stage, epoch),
        np.random.default_rng([seed, stage, epoch, 0]),
    )
    assert positions(batches) == rng.permutation(len(dataset.train)).tolist()
    assert [batch.seed for batch in batches] == [int(rng.integers(2**62)) for _ in batches]
    rows = np.random.default_rng([seed, stage, epoch, 1]).random((len(dataset.train), 20), np.float32)
    np.testing.assert_array_equal(np.concatenate([batch.draws for batch in batches]), rows[positions(batches)])


def test_weights_belong_to_the_photos_of_train(dataset):
    labels = dataset.labels[dataset.train]
    assert dataset.weights[labels].mean().item() == pytest.approx(1)
    assert dataset.weights.argmax() == torch.bincount(labels).argmin()


@pytest.mark.parametrize(
    ("n", "size", "multiple"), [(1, 4, 1), (9, 4, 1), (100, 32, 1), (100, 8, 2), (7, 3, 2), (65, 64, 3)]
)
def test_parts_are_as_even_and_as_few_as_possible(n, size, multiple):
    parts = evenly(np.arange(n), size, multiple)
    assert np.concatenate(parts).tolist() == list(range(n))
    lengths = [len(part) for part in parts]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) % multiple == 0
    assert multiple > 1 or len(parts) == -(-n // size)


def test_no_photo_is_ever_alone():
    for n in range(3, 200):
        assert min(len(part) for size in (3, 4, 5, 32) for part in evenly(np.arange(n), size)) >= 2


def test_every_photo_left_out_has_its_reason(data, tmp_path):
    manifest = data[0].copy()
    cache = carclf.TensorCache.build(manifest, tmp_path, size=40)
    assert Dataset.of(manifest, cache).left_out(manifest).empty
    volvo = manifest.index[(manifest.brand == "Volvo") & (manifest.split == "train")]
    manifest.loc[volvo, "problem"] = "truncated: half of it"
    manifest.loc[0, "brand"] = None
    manifest.loc[manifest.index[(manifest.brand == "Audi") & (manifest.split == "test")][0], "split"] = "other"
    cache.problems.loc[0] = [manifest.path[1], "unreadable: gone"]
    table = Dataset.of(manifest, cache).left_out(manifest)
    valid = ((manifest.brand == "Volvo") & (manifest.split == "valid")).sum()
    assert table.reason.value_counts().to_dict() == {
        "truncated: half of it": len(volvo),
        "its brand has no photo in train": valid,
        "neither the name nor the folder carries a brand": 1,
        "unreadable: gone": 1,
        "in none of train, valid and test": 1,
    }
    assert table.columns.tolist() == ["path", "brand", "reason"]
