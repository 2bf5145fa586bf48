"""A split never divides what belongs together, remembers an earlier one, and what leaks is counted."""

import re
import shutil
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carclf.fingerprints import VIEWS
from carclf.manifest import scan, usable
from carclf.splits import SPLITS, leakage, split


def table(vehicles: list[tuple[str, str | None, int]]) -> pd.DataFrame:
    """A manifest of vehicles given as (brand, model, number of photos), as a scan would give it."""
    rows = [
        (f"/photos/{brand} {v:04}_{n}.jpg", brand, model, f"/photos/{brand} {v:04}", None)
        for v, (brand, model, photos) in enumerate(vehicles)
        for n in range(photos)
    ]
    columns = ["path", "brand", "model", "vehicle", "problem"]
    return pd.DataFrame(rows, columns=columns, dtype=object).sort_values("path", ignore_index=True)


def quiet_split(*args, **settings) -> pd.DataFrame:
    """`split` without the warning about small brands."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "brands with fewer than 3")
        return split(*args, **settings)


brands, models = st.sampled_from(["Audi", "BMW", "Kia"]), st.sampled_from([None, "a", "b", "c", "d"])
vehicle = st.tuples(brands, models, st.integers(1, 5))
manifests = st.lists(vehicle, min_size=2, max_size=30).filter(lambda v: len({brand for brand, *_ in v}) > 1).map(table)
shares = st.sampled_from([(0.7, 0.15, 0.15), (0.34, 0.33, 0.33), (0.9, 0.05, 0.05), (0.2, 0.2, 0.6)])
often = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def group_of(manifest: pd.DataFrame, whole: str) -> pd.Series:
    return {
        "vehicle": manifest.vehicle,
        "photo": manifest.path,
        "model": (manifest.brand + manifest.model).where(manifest.model.notna()),
    }[whole]


@often
@given(manifests, shares, st.integers(0, 5), st.sampled_from(["vehicle", "model", "photo"]))
def test_split_keeps_groups_whole_and_fractions_near(manifest, fractions, seed, whole):
    result = quiet_split(manifest, fractions, seed, whole)
    pd.testing.assert_frame_equal(result.drop(columns="split"), manifest)
    assert set(result.split) <= set(SPLITS)
    group = group_of(result, whole)
    assert (result.groupby(group).split.nunique() == 1).all()
    assert result.split[group.isna()].eq("train").all()
    for _, of_brand in result[group.notna()].groupby("brand"):
        sizes = group[of_brand.index].value_counts()
        if len(sizes) < 3:
            continue
        photos = of_brand.split.value_counts().reindex(SPLITS, fill_value=0)
        assert photos.min() > 0
        # No split ends more than one group above its share, so none more than two below.
        assert ((photos - np.array(fractions) * len(of_brand)).abs() < 2 * sizes.max()).all()


@often
@given(manifests, st.randoms(use_true_random=False), st.sampled_from(["vehicle", "model", "photo"]))
def test_split_depends_on_seed_and_photos_only(manifest, random, whole):
    first = quiet_split(manifest, whole=whole)
    assert first.split.equals(quiet_split(manifest.copy(), whole=whole).split)
    order = random.sample(range(len(manifest)), len(manifest))
    assert first.split.equals(quiet_split(manifest.iloc[order], whole=whole).split.sort_index())
    other = table([("Volvo", "V70", 2), ("Volvo", "S60", 3), ("Volvo", "S80", 1)])
    more = quiet_split(pd.concat([manifest, other], ignore_index=True), whole=whole)
    assert first.split.tolist() == more.split[: len(manifest)].tolist()


@often
@given(manifests, st.data())
def test_split_passes_over_rows_that_are_not_usable(manifest, data):
    flaw = st.sampled_from(["", "", "brand", "problem"])
    bad = np.array([data.draw(flaw) for _ in range(len(manifest))])
    marked = manifest.copy()
    marked.loc[bad == "brand", "brand"] = None
    marked.loc[bad == "problem", "problem"] = "truncated: half of it"
    if usable(marked).brand.nunique() < 2:
        return
    result = quiet_split(marked)
    assert result.split.isna().tolist() == (bad != "").tolist()
    assert result.split[bad == ""].tolist() == quiet_split(manifest[bad == ""]).split.tolist()


def test_fractions_hold_in_sum():
    rng = np.random.default_rng(0)
    manifest = table([(f"Brand {b}", None, int(rng.integers(1, 20))) for b in range(20) for _ in range(40)])
    photos = split(manifest).split.value_counts(normalize=True)
    np.testing.assert_allclose(photos[list(SPLITS)], (0.7, 0.15, 0.15), atol=0.01)
    assert not split(manifest, seed=1).split.equals(split(manifest).split)


def test_small_brands_are_named():
    manifest = table([("Audi", None, 2)] * 5 + [("BMW", None, 3), ("BMW", None, 1), ("Kia", None, 4)])
    with pytest.warns(UserWarning, match=r"fewer than 3 vehicles: BMW \(2\), Kia \(1\)\. One vehicle is only learned"):
        result = split(manifest)
    assert Counter(zip(result.brand, result.split, strict=True)) == {
        **{("Audi", s): n for s, n in result.split[result.brand == "Audi"].value_counts().items()},
        ("BMW", "train"): 3,
        ("BMW", "test"): 1,
        ("Kia", "train"): 4,
    }


def test_spellings_of_a_model_are_one_model():
    spellings = ["C Class", "C_CLASS", "c-class", "C CLASS"]
    vehicles = [("Audi", m, 2) for m in (*spellings, "A1", "A3", "A4")] + [("BMW", m, 1) for m in "abcC"]
    manifest = table(vehicles)
    for seed in range(10):
        result = quiet_split(manifest, seed=seed, whole="model")
        assert result.split[result.model.isin(spellings)].nunique() == 1
    assert result.split[result.brand == "BMW"].nunique() == 3


def test_copy_ties_two_models_together():
    manifest = table([("Audi", m, 2) for m in ("A1", "A3", "A4", "A5", "A6")] + [("BMW", m, 1) for m in "abc"])
    tied = manifest.model.isin(["A1", "A6"])
    manifest.loc[tied, "vehicle"] = "one vehicle under two names"
    for seed in range(10):
        assert split(manifest, seed=seed, whole="model").split[tied].nunique() == 1


def test_photos_without_a_model_stay_in_train():
    manifest = table([("Audi", None, 2)] * 9 + [("BMW", m, 1) for m in "abc"])
    with pytest.warns(UserWarning, match=r"fewer than 3 models: Audi \(0\)"):
        result = split(manifest, whole="model")
    assert set(result.split[result.brand == "Audi"]) == {"train"}
    assert set(result.split[result.brand == "BMW"]) == set(SPLITS)


def test_split_of_a_scan(photo_folder):
    for whole in ("vehicle", "model", "photo"):
        result = split(scan(photo_folder), whole=whole)
        assert (result.groupby("brand").split.nunique() == 3).all()
        assert (result.groupby("vehicle").split.nunique() == 1).all() == (whole != "photo")


@pytest.mark.parametrize("fractions", [(0.7, 0.3), (0.7, 0.2, 0.2), (1, 0, 0), (1.2, -0.1, -0.1)])
def test_wrong_fractions_are_refused(fractions):
    message = re.escape(f"fractions {fractions} must be three positive shares that sum to 1, such as")
    with pytest.raises(ValueError, match=message):
        split(table([("Audi", None, 1), ("BMW", None, 1)]), fractions)


def test_wrong_settings_are_refused():
    manifest = table([("Audi", None, 1), ("BMW", None, 1)])
    with pytest.raises(ValueError, match="whole='car' must be 'vehicle', 'model' or 'photo'"):
        split(manifest, whole="car")
    with pytest.raises(ValueError, match="all photos are of one brand, Audi; a classifier needs two or more: name"):
        split(manifest[manifest.brand == "Audi"])
    with pytest.raises(ValueError, match=r"none of the 2 photos .* such as 'Audi 0000_0\.jpg': name photos 'Audi_A4_1"):
        split(manifest.assign(brand=None))
    with pytest.raises(ValueError, match="none of the 0 photos is readable and carries a brand: name photos"):
        split(manifest[:0])


def test_split_is_the_same_wherever_the_photos_lie(photo_folder, tmp_path):
    moved = shutil.copytree(photo_folder, tmp_path / "elsewhere")
    assert split(scan(moved)).split.tolist() == split(scan(photo_folder)).split.tolist()


# --- what carries two brands


def test_a_vehicle_under_two_brands_stays_in_train():
    manifest = table([("Audi", "a", 2)] * 6 + [("BMW", "b", 2)] * 6)
    twice = manifest.vehicle.isin(["/photos/Audi 0000", "/photos/BMW 0006"])
    manifest.loc[twice, "vehicle"] = "one picture under two brands"
    for seed in range(10):
        for whole in ("vehicle", "model"):
            assert set(quiet_split(manifest, seed=seed, whole=whole).split[twice]) == {"train"}


# --- an earlier split


@often
@given(manifests, vehicle, st.data(), st.sampled_from(["vehicle", "model", "photo"]))
def test_what_was_in_a_split_stays_there(manifest, another, data, whole):
    n = data.draw(st.integers(1, len(manifest)))
    earlier = manifest[:n]
    if earlier.brand.nunique() < 2:
        return
    before = quiet_split(earlier, whole=whole)
    after = quiet_split(manifest, whole=whole, previous=before)
    assert after.split.notna().all()
    group = group_of(after, whole)
    assert (after.groupby(group).split.nunique() == 1).all()
    # Photos of one vehicle that came later go where its first ones are, so nothing moves at all.
    cut = whole == "vehicle" and manifest.vehicle[n - 1] in set(manifest.vehicle[n:])
    assert after.split[:n].tolist() == before.split.tolist() or (cut and whole != "vehicle")
    assert quiet_split(manifest, whole=whole, previous=after).split.equals(after.split)


def test_new_photos_bring_the_fractions_near():
    manifest = table([("Audi", None, 2)] * 100 + [("BMW", None, 2)] * 100)
    of_few = manifest.vehicle.isin(manifest.vehicle.drop_duplicates().iloc[::4])
    before = split(manifest[of_few])
    before.loc[:, "split"] = before.split.where(before.split != "valid", "train")  # none is in valid
    after = split(manifest, previous=before)
    shares = after.split.value_counts(normalize=True)
    np.testing.assert_allclose(shares[list(SPLITS)], (0.7, 0.15, 0.15), atol=0.02)


def test_a_tested_photo_is_never_learned_later():
    manifest = table([("Audi", None, 1)] * 6 + [("BMW", None, 1)] * 6)
    before = split(manifest)
    tested, learned = (before.path[(before.split == s) & (before.brand == "Audi")].iloc[0] for s in ("test", "train"))
    one = manifest.path.isin([tested, learned])
    manifest.loc[one, "vehicle"] = learned  # it turned out that both show one car
    assert set(split(manifest, previous=before).split[one]) == {"test"}


def test_a_photo_is_known_again_by_path_bytes_or_vehicle(tmp_path):
    manifest = table([("Audi", None, 2)] * 8 + [("BMW", None, 2)] * 8).assign(sha256=lambda t: t.path)
    before = split(manifest)
    before.to_csv(tmp_path / "split.csv", index=False)
    moved = manifest.assign(path=manifest.path.str.replace("/photos", "/elsewhere"))
    changed = moved.assign(sha256=None)
    renamed = moved.assign(vehicle=moved.path)
    for table_now in (moved, changed, renamed):
        assert split(table_now, seed=5, previous=tmp_path / "split.csv").split.tolist() == before.split.tolist()
        assert split(table_now, seed=5, whole="vehicle").split.tolist() != before.split.tolist()


def test_a_new_vehicle_of_a_small_brand_is_tested():
    manifest = table([("Audi", None, 3), ("Audi", None, 1), ("BMW", None, 2)])
    before = quiet_split(manifest[manifest.vehicle != "/photos/Audi 0001"])
    after = quiet_split(manifest, previous=before)
    assert after.split[after.vehicle == "/photos/Audi 0000"].tolist() == ["train"] * 3
    assert after.split[after.vehicle == "/photos/Audi 0001"].tolist() == ["test"]


def test_a_table_that_is_no_split_is_refused(tmp_path):
    manifest = table([("Audi", None, 1), ("BMW", None, 1)])
    with pytest.raises(ValueError, match=r"the previous split lacks the columns path and split; give what"):
        split(manifest, previous=manifest)
    with pytest.raises(FileNotFoundError, match=r"there is no .*split\.csv; give the split\.csv of a run"):
        split(manifest, previous=tmp_path / "split.csv")


def test_an_earlier_split_holds_for_photos_without_a_model_as_well():
    manifest = table([("Audi", None, 1)] * 9 + [("Audi", m, 1) for m in "abc"] + [("BMW", m, 1) for m in "abcd"])
    before = quiet_split(manifest)
    assert (before.split[manifest.model.isna()] == "test").any()
    after = quiet_split(manifest, whole="model", previous=before)
    assert (after.split[before.split == "test"] == "test").all()


def test_a_tested_photo_that_was_set_aside_once_is_still_remembered():
    manifest = table([("Audi", None, 1)] * 8 + [("BMW", None, 1)] * 8)
    first = split(manifest)
    tested = (first.split == "test") & (first.brand == "Audi")
    broken = split(
        manifest.assign(problem=first.split.where(~tested, "unreadable").where(tested, None)), previous=first
    )
    assert set(broken.split[tested]) == {"test"}
    assert split(manifest, seed=3, previous=broken).split.equals(first.split)


def test_a_vehicle_merged_under_another_name_is_known_by_its_files():
    listing = "/photos/Audi_{}_2015_37_18_250_20_4_70_54_180_16_AWD_5_4_4dr_{}.jpg"
    manifest = table([("Audi", None, 1)] * 6 + [("BMW", None, 1)] * 6)
    old = pd.DataFrame({"path": [listing.format("A3", "abc")], "brand": "Audi", "vehicle": "A3", "problem": None})
    before = quiet_split(pd.concat([manifest, old], ignore_index=True)).assign(split="train")
    before.loc[before.path == old.path[0], "split"] = "test"
    new = old.assign(path=listing.format("A3", "xyz"), vehicle="A00")
    other = old.assign(path=listing.format("A00", "abc"), vehicle="A00")
    after = quiet_split(pd.concat([manifest, new, other], ignore_index=True), previous=before)
    assert after.split[after.vehicle == "A00"].tolist() == ["test", "test"]


def test_a_picture_is_known_again_in_another_size_and_place():
    prints = np.random.default_rng(0).integers(0, 256, (12, VIEWS * 32), dtype=np.uint8)
    manifest = table([("Audi", None, 1)] * 6 + [("BMW", None, 1)] * 6)
    manifest["fingerprint"] = [one.tobytes().hex() for one in prints]
    before = split(manifest)
    prints[:, :3] ^= 1  # three bits of the first view
    moved = [one.tobytes().hex() for one in prints]
    now = manifest.assign(path="/new" + manifest.path, vehicle="/new" + manifest.vehicle, fingerprint=moved)
    assert split(now, seed=4, previous=before).split.tolist() == before.split.tolist()


def test_an_earlier_split_of_other_photos_is_refused_and_of_half_of_them_named():
    manifest = table([("Audi", None, 1)] * 8 + [("BMW", None, 1)] * 8)
    before = split(manifest)
    elsewhere = before.assign(path="/elsewhere" + before.path, vehicle="/elsewhere" + before.vehicle)
    with pytest.raises(ValueError, match="none of the 16 photos of the previous split is recognised"):
        split(manifest, previous=elsewhere)
    mostly = pd.concat([before[:4], elsewhere[4:]])
    with pytest.warns(UserWarning, match="only 4 photos are recognised of the 16 of the previous split"):
        split(manifest, previous=mostly)


def test_an_earlier_split_that_leaves_nothing_to_learn_is_refused():
    manifest = table([(brand, "one model", 1) for brand in ("Audi", "BMW") for _ in range(10)])
    with pytest.raises(ValueError, match=r"leaves 0 of 20 photos to train, and none of Audi, BMW; if it was made with"):
        quiet_split(manifest, whole="model", previous=split(manifest))


def test_a_photo_whose_name_is_disputed_stays_in_train_also_where_its_other_was_set_aside():
    manifest = table([("Audi", None, 1)] * 6 + [("BMW", None, 1)] * 6).assign(suspect=None)
    manifest.loc[2, "suspect"] = "near-duplicates are named Audi and BMW"
    assert {split(manifest, seed=seed).split[2] for seed in range(10)} == {"train"}


def test_rows_of_one_number_are_refused_with_the_remedy():
    manifest = table([("Audi", None, 1)] * 3 + [("BMW", None, 1)] * 3)
    with pytest.raises(ValueError, match=r"scan several folders in one call: scan\(\[a, b\]\)"):
        split(pd.concat([manifest, manifest]))
    with pytest.raises(ValueError, match="seed=-1 must be 0 or more"):
        split(manifest, seed=-1)


# --- leaks


def test_leakage_counts_test_photos_with_siblings_in_train():
    manifest = table([("Audi", "A4", 3), ("Audi", "a4", 1), ("BMW", "X5", 2), ("BMW", None, 1), ("Kia", "Rio", 1)])
    manifest["cluster"] = None
    manifest["split"] = ["train", "test", "test", "test", "train", "valid", "test", None]
    manifest.loc[[0, 2], "cluster"] = "the same picture"
    assert leakage(manifest).to_dict("index") == {
        "picture": {"test_photos": 4, "with_sibling_in_train": 1, "share": 0.25},
        "vehicle": {"test_photos": 4, "with_sibling_in_train": 2, "share": 0.5},
        "model": {"test_photos": 4, "with_sibling_in_train": 3, "share": 0.75},
    }


@often
@given(manifests, st.integers(0, 5))
def test_an_honest_split_leaks_no_vehicle_and_the_naive_one_all(manifest, seed):
    manifest = manifest.assign(cluster=None)
    honest = quiet_split(manifest, seed=seed)
    if not (honest.split == "test").any():
        return
    assert leakage(honest).share["vehicle"] == 0
    honest["naive"] = quiet_split(manifest, seed=seed, whole="photo").split
    expected = [v in set(honest.vehicle[honest.naive == "train"]) for v in honest.vehicle[honest.naive == "test"]]
    assert leakage(honest, "naive").with_sibling_in_train["vehicle"] == sum(expected)


def test_leakage_refuses_what_it_cannot_look_at():
    manifest = table([("Audi", None, 2), ("BMW", None, 2)]).assign(cluster=None, split="train")
    with pytest.raises(ValueError, match=r"no column 'naive'; call carclf\.split"):
        leakage(manifest, "naive")
    with pytest.raises(ValueError, match="no photo is marked test in the column 'split'"):
        leakage(manifest)
