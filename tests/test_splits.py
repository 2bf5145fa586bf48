"""A split keeps together what belongs together and remembers an earlier one, and leaks are counted."""

import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from carclf.data.duplicates import VIEWS
from carclf.data.manifest import scan, usable
from carclf.data.splits import SPLITS, leakage, split


def table(vehicles: list[tuple[str, str | None, int]]) -> pd.DataFrame:
    """A manifest of vehicles given as (brand, model, number of photos), as a scan would give it."""
    rows = [
        (f"/photos/{brand} {v:04}_{n}.jpg", brand, model, f"/photos/{brand} {v:04}", None)
        for v, (brand, model, photos) in enumerate(vehicles)
        for n in range(photos)
    ]
    columns = ["path", "brand", "model", "vehicle", "problem"]
    return pd.DataFrame(rows, columns=columns, dtype=object).sort_values("path", ignore_index=True)


def two_brands(n: int, photos: int = 1) -> pd.DataFrame:
    """A manifest of Audi and BMW, n vehicles each, without models."""
    return table([("Audi", None, photos)] * n + [("BMW", None, photos)] * n)


def quiet_split(*args, **settings) -> pd.DataFrame:
    """`split` without the warnings about small brands and small training sets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "brands with fewer than 3|the previous split leaves")
        return split(*args, **settings)


brands, models = st.sampled_from(["Audi", "BMW", "Kia"]), st.sampled_from([None, "a", "b", "c", "d"])
vehicle = st.tuples(brands, models, st.integers(1, 5))
manifests = st.lists(vehicle, min_size=2, max_size=30).filter(lambda v: len({brand for brand, *_ in v}) > 1).map(table)
shares = st.sampled_from([(0.7, 0.15, 0.15), (0.34, 0.33, 0.33), (0.9, 0.05, 0.05), (0.2, 0.2, 0.6)])
kinds = st.sampled_from(["vehicle", "model", "photo"])
often = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def group_of(manifest: pd.DataFrame, kind: str) -> pd.Series:
    return {"vehicle": manifest.vehicle, "photo": manifest.path, "model": manifest.brand + manifest.model}[kind]


@often
@given(manifests, shares, st.integers(0, 5), kinds)
def test_split_keeps_groups_together_and_fractions_near(manifest, fractions, seed, kind):
    result = quiet_split(manifest, fractions, seed, kind)
    pd.testing.assert_frame_equal(result.drop(columns="split"), manifest)
    assert set(result.split) <= set(SPLITS)
    group = group_of(result, kind)
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
@given(manifests, st.randoms(use_true_random=False), kinds)
def test_split_depends_on_seed_and_photos_only(manifest, random, kind):
    first = quiet_split(manifest, group_by=kind)
    assert first.split.equals(quiet_split(manifest.copy(), group_by=kind).split)
    order = random.sample(range(len(manifest)), len(manifest))
    assert first.split.equals(quiet_split(manifest.iloc[order], group_by=kind).split.sort_index())
    other = table([("Volvo", "V70", 2), ("Volvo", "S60", 3), ("Volvo", "S80", 1)])
    more = quiet_split(pd.concat([manifest, other], ignore_index=True), group_by=kind)
    assert first.split.tolist() == more.split[: len(manifest)].tolist()


@often
@given(manifests, st.data())
def test_rows_that_are_not_usable_have_no_split(manifest, data):
    flaw = st.sampled_from(["", "", "brand", "problem"])
    bad = np.array([data.draw(flaw) for _ in range(len(manifest))])
    marked = manifest.copy()
    marked.loc[bad == "brand", "brand"] = None
    marked.loc[bad == "problem", "problem"] = "truncated: half of it"
    assume(usable(marked).brand.nunique() > 1)
    result = quiet_split(marked)
    assert result.split.isna().tolist() == (bad != "").tolist()
    assert result.split[bad == ""].tolist() == quiet_split(manifest[bad == ""]).split.tolist()


def test_fractions_hold_in_sum_and_new_photos_bring_them_near():
    rng = np.random.default_rng(0)
    manifest = table([(f"Brand {b}", None, int(rng.integers(1, 20))) for b in range(20) for _ in range(40)])
    first = split(manifest)
    before = split(manifest[manifest.vehicle.isin(manifest.vehicle.drop_duplicates().iloc[::4])])
    before["split"] = before.split.replace("valid", "train")  # none is in valid
    for result, near in ((first, 0.01), (split(manifest, previous_split=before), 0.02)):
        photos = result.split.value_counts(normalize=True)
        np.testing.assert_allclose(photos[list(SPLITS)], (0.7, 0.15, 0.15), atol=near)
    assert not split(manifest, seed=1).split.equals(first.split)


def test_small_brands_are_named_and_tested_only_if_there_are_two():
    manifest = table([("Audi", None, 2)] * 5 + [("BMW", None, 3), ("BMW", None, 1), ("Kia", None, 4)])
    message = r"3 vehicles: BMW \(2\), Kia \(1\)\. With one vehicle a brand is never tested, .*; add photos of more"
    with pytest.warns(UserWarning, match=message) as caught:
        result = split(manifest)
    assert caught[0].filename == __file__
    assert set(result.split[result.brand == "Audi"]) == set(SPLITS)
    assert sorted(result.split[result.brand == "BMW"]) == ["test", *["train"] * 3]
    assert result.split[result.brand == "Kia"].tolist() == ["train"] * 4


def test_spellings_of_a_model_and_models_of_one_vehicle_stay_together():
    spellings, tied = ["C Class", "C_CLASS", "c-class", "C CLASS"], ["A1", "A6"]
    names = (*spellings, *tied, "A3", "A4", "A5")
    manifest = table([("Audi", m, 2) for m in names] + [("BMW", m, 1) for m in "abcC"])
    manifest.loc[manifest.model.isin(tied), "vehicle"] = "one vehicle under two names"
    for seed in range(10):
        result = split(manifest, seed=seed, group_by="model")
        assert result.split[result.model.isin(spellings)].nunique() == 1
        assert result.split[result.model.isin(tied)].nunique() == 1
    assert result.split[result.brand == "BMW"].nunique() == 3


def test_photos_without_a_model_stay_in_train_with_a_warning_or_where_they_were_before():
    manifest = table([("Audi", None, 2)] * 9 + [("BMW", m, 1) for m in "abcd"])
    with pytest.warns(UserWarning, match=r"fewer than 3 models: Audi \(0\)"):
        result = split(manifest, group_by="model")
    assert set(result.split[result.brand == "Audi"]) == {"train"}
    assert set(result.split[result.brand == "BMW"]) == set(SPLITS)
    before = split(manifest)
    assert (before.split[manifest.model.isna()] == "test").any()
    after = quiet_split(manifest, group_by="model", previous_split=before)
    assert (after.split[before.split == "test"] == "test").all()


def test_photos_with_two_brands_stay_in_train():
    vehicles = table([("Audi", "a", 2)] * 6 + [("BMW", "b", 2)] * 6)
    twice = vehicles.vehicle.isin(["/photos/Audi 0000", "/photos/BMW 0006"])
    vehicles.loc[twice, "vehicle"] = "one picture under two brands"
    suspects = two_brands(6).assign(suspect=None)
    suspects.loc[2, "suspect"] = "near-duplicates are named Audi and BMW"
    for seed in range(10):
        assert split(suspects, seed=seed).split[2] == "train"
        for kind in ("vehicle", "model"):
            assert set(quiet_split(vehicles, seed=seed, group_by=kind).split[twice]) == {"train"}


def test_split_of_a_scan_is_the_same_in_any_folder(photo_folder, tmp_path):
    moved = shutil.copytree(photo_folder, tmp_path / "elsewhere")
    for kind in ("vehicle", "model", "photo"):
        result = split(scan(photo_folder), group_by=kind)
        assert (result.groupby("brand").split.nunique() == 3).all()
        assert (result.groupby("vehicle").split.nunique() == 1).all() == (kind != "photo")
        assert split(scan(moved), group_by=kind).split.tolist() == result.split.tolist()


TWO = two_brands(1)
WRONG_FRACTIONS = [(0.7, 0.3), (0.7, 0.2, 0.2), (1, 0, 0), (1.2, -0.1, -0.1)]
THREE = "must be three positive shares that sum to 1, such as"


@pytest.mark.parametrize(
    ("manifest", "arguments", "message"),
    [
        *((TWO, {"fractions": wrong}, re.escape(f"fractions {wrong} {THREE}")) for wrong in WRONG_FRACTIONS),
        (TWO, {"group_by": "car"}, "group_by='car' must be 'vehicle', 'model' or 'photo'"),
        (TWO, {"seed": -1}, "seed=-1 must be 0 or more"),
        (pd.concat([TWO, TWO]), {}, r"repeated row numbers; scan several folders in one call: scan\(\[a, b\]\)"),
        (TWO[:1], {}, "all photos are of one brand, Audi; a classifier needs two or more: name"),
        (TWO.assign(brand=None), {}, r"none of the 2 .* such as 'Audi 0000_0\.jpg': name photos 'Audi_A4_1"),
        (TWO[:0], {}, "none of the 0 photos is readable and carries a brand: name photos"),
        (TWO, {"previous_split": TWO}, "the previous split lacks the columns path and split; give a result"),
    ],
)
def test_wrong_settings_and_tables_are_refused(manifest, arguments, message):
    with pytest.raises(ValueError, match=message):
        split(manifest, **arguments)


def test_former_argument_names_work_with_a_warning():
    manifest = two_brands(6)
    before = split(manifest)
    with pytest.warns(DeprecationWarning, match=r"split\(whole=…\) is deprecated, use group_by=…") as caught:
        assert split(manifest, whole="photo").equals(split(manifest, group_by="photo"))
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(DeprecationWarning, match=r"split\(previous=…\) is deprecated, use previous_split=…"):
        assert split(manifest, seed=5, previous=before).equals(before)


@often
@given(manifests, st.data(), kinds)
def test_photos_stay_in_their_previous_split(manifest, data, kind):
    n = data.draw(st.integers(1, len(manifest)))
    assume(manifest.brand[:n].nunique() > 1)
    before = quiet_split(manifest[:n], group_by=kind)
    after = quiet_split(manifest, group_by=kind, previous_split=before)
    assert after.split.notna().all()
    assert (after.groupby(group_of(after, kind)).split.nunique() == 1).all()
    assert after.split[:n].tolist() == before.split.tolist()
    assert quiet_split(manifest, group_by=kind, previous_split=after).split.equals(after.split)


def test_a_tested_photo_is_never_learned_later():
    manifest = two_brands(6)
    before = split(manifest)
    tested, learned = (before.path[(before.split == s) & (before.brand == "Audi")].iloc[0] for s in ("test", "train"))
    one = manifest.path.isin([tested, learned])
    manifest.loc[one, "vehicle"] = learned  # both turn out to show one car
    assert set(split(manifest, previous_split=before).split[one]) == {"test"}


def test_a_tested_photo_that_was_set_aside_once_keeps_its_place():
    manifest = two_brands(8)
    first = split(manifest)
    tested = (first.split == "test") & (first.brand == "Audi")
    problem = pd.Series(None, manifest.index, dtype=object).where(~tested, "unreadable")
    broken = split(manifest.assign(problem=problem), previous_split=first)
    assert set(broken.split[tested]) == {"test"}
    assert split(manifest, seed=3, previous_split=broken).split.equals(first.split)


def test_a_photo_is_recognised_by_path_bytes_vehicle_or_picture(tmp_path):
    prints = np.random.default_rng(0).integers(0, 256, (32, VIEWS * 32), dtype=np.uint8)
    manifest = two_brands(8, photos=2)
    manifest = manifest.assign(sha256=manifest.path, fingerprint=[one.tobytes().hex() for one in prints])
    before = split(manifest)
    path = tmp_path / "split.csv"
    with pytest.raises(FileNotFoundError, match=r"there is no .*split\.csv; give the split\.csv of a run"):
        split(manifest, previous_split=path)
    before.to_csv(path, index=False)
    prints[:, :3] ^= 1  # three bits of the first view: the same picture in another size
    known = manifest.assign(fingerprint=[one.tobytes().hex() for one in prints])
    moved = "/elsewhere" + manifest.path
    for name in ("path", "sha256", "vehicle", "fingerprint"):
        now = manifest.assign(path=moved, sha256=None, vehicle=moved, fingerprint=None).assign(**{name: known[name]})
        assert split(now, seed=5, previous_split=path).split.tolist() == before.split.tolist()
        assert split(now, seed=5).split.tolist() != before.split.tolist()


def test_a_vehicle_merged_under_another_name_is_recognised_by_its_files():
    listing = "/photos/Audi_{}_2015_37_18_250_20_4_70_54_180_16_AWD_5_4_4dr_{}.jpg"
    old = pd.DataFrame({"path": [listing.format("A3", "abc")], "brand": "Audi", "vehicle": "A3", "problem": None})
    before = quiet_split(pd.concat([two_brands(6), old], ignore_index=True)).assign(split="train")
    before.loc[before.path == old.path[0], "split"] = "test"
    new = old.assign(path=listing.format("A3", "xyz"), vehicle="A00")
    other = old.assign(path=listing.format("A00", "abc"), vehicle="A00")
    after = quiet_split(pd.concat([two_brands(6), new, other], ignore_index=True), previous_split=before)
    assert after.split[after.vehicle == "A00"].tolist() == ["test", "test"]


def test_a_new_vehicle_of_a_small_brand_is_tested():
    manifest = table([("Audi", None, 3), ("Audi", None, 1), ("BMW", None, 2)])
    new = manifest.vehicle == "/photos/Audi 0001"
    after = quiet_split(manifest, previous_split=quiet_split(manifest[~new]))
    assert after.split[after.vehicle == "/photos/Audi 0000"].tolist() == ["train"] * 3
    assert after.split[new].tolist() == ["test"]


def test_a_previous_split_that_does_not_fit_is_refused_or_warned_about():
    manifest = table([(brand, "one model", 1) for brand in ("Audi", "BMW") for _ in range(8)])
    before = split(manifest)
    elsewhere = before.assign(path="/elsewhere" + before.path, vehicle="/elsewhere" + before.vehicle)
    with pytest.raises(ValueError, match="none of the 16 photos of the previous split is recognised"):
        split(manifest, previous_split=elsewhere)
    mostly = pd.concat([before[:4], elsewhere[4:]])
    with pytest.warns(UserWarning, match="only 4 of the 16 photos of the previous split are recognised") as caught:
        split(manifest, previous_split=mostly)
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match=r"leaves 0 of 16 photos to train, and none of Audi, BMW; if it was made with"):
        quiet_split(manifest, group_by="model", previous_split=before)


@pytest.mark.parametrize("column", ["split", "naive"])
def test_leakage_counts_test_photos_with_siblings_in_train(column):
    manifest = table([("Audi", "A4", 3), ("Audi", "a4", 1), ("BMW", "X5", 2), ("BMW", None, 1), ("Kia", "Rio", 1)])
    manifest["cluster"] = None
    manifest.loc[[0, 2], "cluster"] = "the same picture"
    with pytest.raises(ValueError, match=rf"no column '{column}'; call carclf\.split"):
        leakage(manifest, column)
    with pytest.raises(ValueError, match=f"no photo is marked test in the column '{column}'"):
        leakage(manifest.assign(**{column: "train"}), column)
    manifest[column] = ["train", "test", "test", "test", "train", "valid", "test", None]
    assert leakage(manifest, column).to_dict("index") == {
        "picture": {"test_photos": 4, "with_sibling_in_train": 1, "share": 0.25},
        "vehicle": {"test_photos": 4, "with_sibling_in_train": 2, "share": 0.5},
        "model": {"test_photos": 4, "with_sibling_in_train": 3, "share": 0.75},
    }


def test_a_table_that_is_no_manifest_is_refused():
    with pytest.raises(ValueError, match=r"this is no manifest, as it lacks brand, problem; carclf\.scan\(folder\)"):
        split(pd.DataFrame({"path": ["a.jpg"]}))
