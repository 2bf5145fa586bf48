"""The same short training on several splits, measured on valid alone."""

import pytest

import carclf
from carclf import split_scores


@pytest.fixture(scope="module")
def scores(photo_folder, tmp_path_factory):
    manifest = carclf.split(carclf.scan(photo_folder), seed=1)
    cache = carclf.TensorCache.build(manifest, tmp_path_factory.mktemp("cache"), size=40)
    recipe = carclf.Recipe(stages=(("all", 1, 1e-3, 32),), micro_batch=8, device="cpu", seed=1)
    seen, predict = [], carclf.Classifier.predict

    def predicting(self, sources):
        seen.append(sources)
        return predict(self, sources)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_scores, "EPOCHS", 2)
        patch.setattr(carclf.Classifier, "predict", predicting)
        table = carclf.score_splits(recipe, manifest, cache, ("photo", "vehicle", "model"))
    return table, seen, manifest


def test_a_row_a_split_says_how_many_have_a_sibling_in_train(scores):
    table, _, _ = scores
    assert table.index.tolist() == ["photo by photo", "vehicles whole", "models whole"]
    assert table.with_sibling_in_train.iloc[0] > 0.5
    assert table.with_sibling_in_train.tolist()[1:] == [0, 0]
    assert (table.photos > 0).all()
    assert table.accuracy.between(table.low, table.high).all()


def test_no_test_photo_is_scored(scores):
    _, seen, manifest = scores
    tested = set(manifest.path[manifest.split == "test"])
    assert [set(shown.split) for shown in seen] == [{"valid"}] * 3
    assert not tested & {path for shown in seen for path in shown.path}
