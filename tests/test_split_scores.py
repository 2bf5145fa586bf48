"""The same short training on several splits, scored on valid only."""

import pandas as pd
import pytest

import carclf
from carclf import plot
from carclf.train.fit import score_splits

RECIPE = carclf.Recipe(stages=(("all", 1, 1e-3, 32),), micro_batch=8, device="cpu", seed=1)


@pytest.fixture(scope="module")
def scores(data):
    manifest = data[0].replace({"model": {"MiTo": "Giulia", "A6": "A4", "X5": "3 Series", "V70": "S60"}})
    seen, predict = [], carclf.Classifier.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carclf.train.fit.EPOCHS", 2)
        patch.setattr(carclf.Classifier, "predict", lambda self, photos: seen.append(photos) or predict(self, photos))
        return score_splits(RECIPE, manifest, data[1], ("photo", "vehicle", "model")), seen


def test_a_row_per_split_says_how_many_photos_have_a_sibling_in_train(scores):
    table = scores[0]
    assert table.index.tolist() == ["by photo", "by vehicle", "by model"]
    assert table.columns.tolist() == ["photos", "with_sibling_in_train", "accuracy", "low", "high"]
    assert table.with_sibling_in_train.iloc[0] > 0.5
    assert table.with_sibling_in_train.tolist()[1:] == [0, 0]
    assert (table.photos > 0).all()
    assert table.accuracy.between(table.low, table.high).all()


def test_no_test_photo_is_scored(scores, data):
    manifest, (_, seen) = data[0], scores
    tested = set(manifest.path[manifest.split == "test"])
    assert [set(shown.split) for shown in seen] == [{"valid"}] * 3
    assert not tested & {path for shown in seen for path in shown.path}


def test_what_was_trained_is_said(scores):
    assert scores[0].attrs["note"] == "only the head is trained, 2 epochs at 32 pixels, whatever the recipe's stages"


def test_ways_that_keep_the_same_photos_together_are_trained_once(data, monkeypatch):
    monkeypatch.setattr("carclf.train.fit.EPOCHS", 1)
    alone = data[0].assign(vehicle=[f"car {i}" for i in range(len(data[0]))])
    table = score_splits(RECIPE, alone, data[1])
    assert table.index.tolist() == ["by photo or by vehicle"]
    assert table.attrs["note"].endswith("the same here, as every photo is another vehicle, and is trained once")
    pd.testing.assert_frame_equal(table, score_splits(RECIPE, alone, data[1], ["vehicle"]).set_axis(table.index))
    assert plot.split_scores(table).patches


def test_nothing_to_compare_and_ways_that_do_not_exist(data, scores):
    assert score_splits(RECIPE, *data, []).columns.equals(scores[0].columns)
    with pytest.raises(
        ValueError, match="group_by='vehicles' must be one of: photo, vehicle, model; did you mean 'veh"
    ):
        score_splits(RECIPE, *data, ["vehicles"])


def test_an_interrupted_comparison_says_that_it_starts_over(data, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("carclf.train.fit._train_epoch", stop)
    with pytest.raises(KeyboardInterrupt, match="the comparison of splits starts over when it is called again"):
        score_splits(RECIPE, *data)
