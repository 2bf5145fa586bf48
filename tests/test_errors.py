"""What error messages suggest."""

from carclf.errors import did_you_mean, no_such


def test_the_nearest_name_is_suggested_and_nothing_far_off():
    assert did_you_mean("heads", ["head", "all"]) == "; did you mean 'head'?"
    assert did_you_mean("RESNET5", ["resnet50", "efficientnet_lite0"]) == "; did you mean 'resnet50'?"
    assert did_you_mean("xyz", ["head", "all"]) == ""


def test_a_missing_folder_is_named_with_its_neighbour(tmp_path):
    (tmp_path / "images").mkdir()
    message = no_such(tmp_path / "imagse" / "audi")
    assert message == (
        f"there is no folder {tmp_path / 'imagse' / 'audi'} ({tmp_path / 'imagse'} is missing); did you mean 'images'?"
    )
    assert no_such(tmp_path / "zzz") == f"there is no folder {tmp_path / 'zzz'}"
