import numpy as np
import pytest
import torch

import carclf
from carclf.dataset import Dataset, evenly

STAGES = (("all", 3, 1e-3, 32),)


@pytest.fixture(scope="module")
def dataset(photo_folder, tmp_path_factory):
    manifest = carclf.split(carclf.scan(photo_folder), seed=1)
    rare = manifest.index[(manifest.brand == "Audi") & (manifest.split == "train")]
    manifest = manifest.drop(rare[2:]).reset_index(drop=True)  # of Audi two photos are left
    cache = carclf.TensorCache.build(manifest, tmp_path_factory.mktemp("cache"), size=40)
    return Dataset.of(manifest, cache, "inverse")


def recipe(**changes):
    return carclf.Recipe(**{"stages": STAGES, "micro_batch": 4, **changes})


def views(windows):
    """Position of each photo -> its random numbers."""
    positions = np.concatenate([w.positions for w in windows])
    return dict(zip(positions.tolist(), torch.cat([w.draws for w in windows]), strict=True))


def test_an_epoch_shows_each_photo_once_in_another_order_each_time(dataset):
    first, second = (np.concatenate([w.positions for w in dataset.epoch(recipe(), 0, e)]) for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(len(dataset.train)))
    assert first.tolist() != second.tolist()


def test_an_epoch_follows_from_seed_stage_and_epoch(dataset):
    def positions(*arguments, **changes):
        return np.concatenate([w.positions for w in dataset.epoch(recipe(**changes), *arguments)]).tolist()

    assert positions(0, 1) == positions(0, 1)
    assert len({tuple(p) for p in (positions(0, 1), positions(1, 1), positions(0, 2), positions(0, 1, seed=1))}) == 4


def test_a_photos_view_does_not_depend_on_the_windows_size(dataset):
    small, large = views(dataset.epoch(recipe(), 0, 2)), views(dataset.epoch(recipe(micro_batch=7, accumulate=3), 0, 2))
    assert all(torch.equal(draws, large[position]) for position, draws in small.items())
    other = views(dataset.epoch(recipe(), 0, 1))
    assert not any(torch.equal(draws, other[position]) for position, draws in small.items())


def test_the_balanced_sampler_shows_each_brand_as_often_and_repeated_photos_differently(dataset):
    windows = [w for epoch in range(60) for w in dataset.epoch(recipe(sampler="balanced"), 0, epoch)]
    labels = dataset.labels[dataset.train][np.concatenate([w.positions for w in windows])]
    shares = torch.bincount(labels) / len(labels)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.25), rtol=0, atol=0.04)
    one = dataset.epoch(recipe(sampler="balanced"), 0, 0)
    draws = torch.cat([w.draws for w in one])
    assert len({tuple(d) for d in draws.tolist()}) == len(draws)
    assert draws.min() >= 0
    assert draws.max() < 1


def test_weights_and_shares_belong_to_the_photos_of_train(dataset):
    labels = dataset.labels[dataset.train]
    counts = torch.bincount(labels)
    torch.testing.assert_close(dataset.log_share.exp(), counts / counts.sum())
    assert dataset.weights[labels].mean().item() == pytest.approx(1)
    assert dataset.weights.argmax() == counts.argmin()


@pytest.mark.parametrize(
    ("n", "size", "multiple"), [(1, 4, 1), (9, 4, 1), (100, 32, 1), (100, 8, 2), (7, 3, 2), (65, 64, 3)]
)
def test_parts_are_as_even_as_can_be_and_none_is_too_large(n, size, multiple):
    parts = evenly(np.arange(n), size, multiple)
    assert np.concatenate(parts).tolist() == list(range(n))
    lengths = [len(part) for part in parts]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) % multiple == 0
    assert multiple > 1 or len(parts) == -(-n // size)


@pytest.mark.parametrize("n", range(3, 200))
def test_no_photo_is_ever_alone(n):
    for size in (3, 4, 5, 32):
        assert min(len(part) for part in evenly(np.arange(n), size)) >= 2


def test_what_is_left_out_has_its_reason(photo_folder, tmp_path):
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
