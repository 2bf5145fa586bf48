"""The same short training on several splits, scored on valid only."""

import pytest

import carclf
from carclf.train.fit import score_splits


@pytest.fixture(scope="module")
def scores(data):
    recipe = carclf.Recipe(stages=(("all", 1, 1e-3, 32),), micro_batch=8, device="cpu", seed=1)
    seen, predict = [], carclf.Classifier.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carclf.train.fit.EPOCHS", 2)
        patch.setattr(carclf.Classifier, "predict", lambda self, photos: seen.append(photos) or predict(self, photos))
        return score_splits(recipe, *data, ("photo", "vehicle", "model")), seen


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
