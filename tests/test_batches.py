import numpy as np
import pytest
import torch

import carclf
from carclf.train.batches import DRAWS, Dataset, evenly


@pytest.fixture(scope="module")
def dataset(photo_folder, tmp_path_factory):
    manifest = carclf.split(carclf.scan(photo_folder), seed=1)
    rare = manifest.index[(manifest.brand == "Audi") & (manifest.split == "train")]
    manifest = manifest.drop(rare[2:]).reset_index(drop=True)  # two photos of Audi are left
    cache = carclf.TensorCache.build(manifest, tmp_path_factory.mktemp("cache"), size=40)
    return Dataset.of(manifest, cache, "inverse")


def recipe(**changes):
    return carclf.Recipe(**{"stages": (("all", 3, 1e-3, 32),), "micro_batch": 4, **changes})


def positions(batches):
    return np.concatenate([batch.positions for batch in batches]).tolist()


def views(batches):
    """Position of each photo -> its random numbers."""
    return dict(zip(positions(batches), torch.cat([batch.draws for batch in batches]), strict=True))


def test_an_epoch_shows_each_photo_once_in_a_new_order(dataset):
    first, second = (positions(dataset.epoch(recipe(), 0, epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(len(dataset.train)))
    assert first != second


def test_an_epoch_depends_on_seed_stage_and_epoch_only(dataset):
    first = positions(dataset.epoch(recipe(), 0, 1))
    assert positions(dataset.epoch(recipe(), 0, 1)) == first
    others = [
        positions(dataset.epoch(recipe(seed=seed), stage, epoch))
        for seed, stage, epoch in ((0, 1, 1), (0, 0, 2), (1, 0, 1))
    ]
    assert len({tuple(p) for p in (first, *others)}) == 4


def test_a_photos_view_does_not_depend_on_the_size_of_the_batch(dataset):
    small, large = views(dataset.epoch(recipe(), 0, 2)), views(dataset.epoch(recipe(micro_batch=7, accumulate=3), 0, 2))
    assert all(torch.equal(draws, large[position]) for position, draws in small.items())
    other = views(dataset.epoch(recipe(), 0, 1))
    assert not any(torch.equal(draws, other[position]) for position, draws in small.items())


def test_random_numbers_are_those_of_version_0_1(dataset):
    # It drew order, dropout seeds and rows of 20 numbers like this; its runs resume only while all of that stays.
    batches, rng = dataset.epoch(recipe(seed=3), 1, 2), np.random.default_rng([3, 1, 2, 0])
    assert positions(batches) == rng.permutation(len(dataset.train)).tolist()
    assert [batch.seed for batch in batches] == [int(rng.integers(2**62)) for _ in batches]
    rows = np.random.default_rng([3, 1, 2, 1]).random((len(dataset.train), 20), np.float32)
    assert DRAWS == 20
    np.testing.assert_array_equal(batches[0].draws, rows[batches[0].positions])


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


def test_every_photo_left_out_has_its_reason(photo_folder, tmp_path):
    manifest = carclf.split(carclf.scan(photo_folder), seed=1)
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
        "neither in train nor in valid nor in test": 1,
    }
    assert table.columns.tolist() == ["path", "brand", "reason"]
