import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import carclf
from carclf.__main__ import main

SHIPPED = Path(__file__).parent.parent / "models" / "cars-lite0"
CACHE = ["--cache", "{empty}/cache"]


@pytest.fixture(scope="module")
def run(photo_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("cli")
    arguments = ["train", photo_folder, "--out", place / "run", "--cache", place / "cache", "--cache-size", 40]
    arguments += ["--stage", "head,1,1e-2,32", "--stage", "all,1,1e-3,32", "--micro-batch", 8, "--device", "cpu"]
    arguments += ["--set", "ema=0.5", "--set", 'augment={"flip": 0}', "--set", "head=mlp"]
    with warnings.catch_warnings():  # a network of two epochs can promise nothing, and says so
        warnings.simplefilter("ignore", UserWarning)
        assert main([str(a) for a in arguments]) == 0
    return place / "run"


def test_scan_says_what_is_in_a_folder(photo_folder, tmp_path, capsys):
    assert main(["scan", str(photo_folder), "--csv", str(tmp_path / "manifest.csv")]) == 0
    assert "4 brands" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "manifest.csv")) == len(carclf.scan(photo_folder))


def test_train_writes_a_model_that_the_package_loads(run):
    assert carclf.Classifier.load(run / "model").card.size == 32
    assert carclf.Classifier.load(run / "model").card.threshold > 0


def test_any_setting_of_the_recipe_can_be_given(run):
    recipe = carclf.Recipe.load(run)
    assert (recipe.ema, recipe.augment, recipe.head, recipe.micro_batch) == (0.5, {"flip": 0}, "mlp", 8)


def test_a_named_recipe_can_be_overridden_setting_by_setting(photo_folder, tmp_path, monkeypatch):
    seen = {}

    def fit(recipe, manifest, cache, out, log_with):
        seen.update(recipe=recipe, cache=cache.size)
        raise ValueError("seen")

    monkeypatch.setattr(carclf, "fit", fit)
    arguments = ["train", str(photo_folder), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--recipe", "thorough", "--seed", "3", "--set", 'augment={"blur": 0}']) == 1
    thorough = carclf.RECIPES["thorough"]
    assert seen == {"recipe": replace(thorough, seed=3, augment={**thorough.augment, "blur": 0}), "cache": 256}
    assert main(arguments) == 1
    assert seen == {"recipe": carclf.Recipe(), "cache": 192}


def test_evaluate_takes_the_runs_test_photos_or_any_folder(run, photo_folder, tmp_path, capsys):
    assert main(["evaluate", str(run / "model"), str(run / "split.csv"), "--out", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert printed["n"] == len(pd.read_csv(tmp_path / "predictions.csv")) < len(carclf.scan(photo_folder))
    assert main(["evaluate", str(run / "model"), str(photo_folder)]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == len(carclf.scan(photo_folder))


def test_predict_writes_a_table(run, photo_folder, tmp_path, capsys):
    assert main(["predict", str(run / "model"), str(photo_folder), "--csv", str(tmp_path / "out.csv")]) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.predicted.notna().all()
    assert set(json.loads(table.top5[0])) <= set(carclf.Classifier.load(run / "model").classes)
    assert table.path.map(lambda p: p.rpartition("/")[2].rpartition("\\")[2])[0] in capsys.readouterr().out


@pytest.fixture
def boxes(photo_folder, tmp_path):
    """A CSV file with two boxes in each photo, one of them too small."""
    paths = [path for path in sorted(photo_folder.iterdir()) for _ in range(2)]
    table = pd.DataFrame({"path": paths, "x0": 1.5, "y0": 2, "x1": [70, 30] * (len(paths) // 2), "y1": 50})
    table.to_csv(tmp_path / "boxes.csv", index=False)
    return tmp_path / "boxes.csv"


def test_predict_draws_the_cars_of_a_table(run, photo_folder, boxes, tmp_path, capsys):
    photos = [str(path) for path in sorted(photo_folder.iterdir())[:3]]
    (tmp_path / "broken.jpg").write_text("no photo")
    command = ["predict", str(run / "model"), *photos, str(tmp_path / "broken.jpg"), "--cars", "all"]
    command += ["--boxes", str(boxes), "--csv", str(tmp_path / "out.csv")]
    assert main([*command, "--draw", str(tmp_path / "drawn")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["path", "car", "predicted", "confidence", "decision", "problem"]
    assert said.out.count("too small") == 3
    assert "carclf: drew 3 photos into" in said.err
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.x1.dropna().tolist() == [30, 70] * 3
    drawn = sorted((tmp_path / "drawn").iterdir())
    for path, photo in zip(drawn, photos, strict=True):
        difference = np.abs(np.subtract(*(np.asarray(carclf.read_photo(p), int) for p in (path, photo)))).max(2)
        assert difference[25:45, 2].mean() > 20  # the edge of the box


def test_evaluate_judges_the_main_car(run, photo_folder, boxes, tmp_path, capsys):
    command = ["evaluate", str(run / "model"), str(photo_folder), "--boxes", str(boxes)]
    assert main([*command, "--cars", "main"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*command, "--cars", "main", "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out).items() >= plain.items()
    assert plain["too_small"] == 0 and plain["n"] == len(list(photo_folder.iterdir()))
    assert "its crop is shown" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert pd.read_csv(tmp_path / "out" / "predictions.csv").x1.eq(70).all()
    for more in ([], ["--out", str(tmp_path / "all")]):
        assert main([*command, *more]) == 1
        assert "the name of a file tells the brand of one car; pass cars='main'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan", "no/such/folder"], "is not a folder"),
        (["download", "no/such.zip"], "must be 'listing' or an archive's path"),
        (["predict", str(SHIPPED), "{photos}", "--boxes", "no.csv"], "there is no no.csv; give a CSV file with"),
        (
            ["train", "{photos}", "--out", "{empty}/run", "--previous-split", "no.csv"],
            "there is no no.csv; give the split",
        ),
        (["scan", "{empty}"], "no photos in"),
        (["train", "{empty}", "--out", "{empty}/run"], "no photos in"),
        (["predict", "{empty}", "a.jpg"], "model.safetensors is missing; give the folder that training wrote"),
        (["train", "{photos}", "--out", "{empty}/run", "--stage", "all,6"], "must be UNFREEZE,EPOCHS,MAX_LR,SIZE"),
        (["train", "{photos}", "--out", "{empty}/run", "--set", "seed=3"], "with one of these names: label_smoothing"),
        (["train", "{photos}", "--out", "{empty}/run", "--set", "ema=much"], "'much' is no float, such as 0.0"),
        (["train", "{photos}", "--out", "{empty}/run", *CACHE, "--set", "ema=2"], "ema=2.0 must lie between 0 and"),
        (["train", "{photos}", "--out", "{empty}/run", *CACHE, "--backbone", "nonet"], "unknown backbone"),
        (
            ["train", "{photos}", "--out", "{empty}/run", *CACHE, "--device", "tpu"],
            "device 'tpu' is not available; choose",
        ),
    ],
)
def test_errors_are_one_line_with_the_remedy(arguments, message, photo_folder, tmp_path, capsys):
    assert main([a.format(empty=tmp_path, photos=photo_folder) for a in arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("carclf: ")
    assert message in error


def test_duplicates_are_listed_and_drawn(photo_folder, tmp_path, capsys):
    copied = shutil.copytree(photo_folder, tmp_path / "photos")
    first = sorted(copied.iterdir())[0]
    shutil.copy(first, copied / "Alfa Romeo Giulia_999.jpg")
    files = ["--csv", str(tmp_path / "pairs.csv"), "--page", str(tmp_path / "pairs.png")]
    assert main(["duplicates", str(copied), *files]) == 0
    assert first.name in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "pairs.csv").kind.tolist() == ["exact"]
    assert carclf.read_photo(tmp_path / "pairs.png").width > 500
    assert main(["duplicates", str(photo_folder)]) == 0
    assert capsys.readouterr().out == "no picture is there more than once\n"


def test_cache_is_built_and_a_changed_pixel_is_found(photo_folder, tmp_path, capsys):
    command = ["cache", str(photo_folder), "--cache", str(tmp_path), "--cache-size", "40", "--verify"]
    assert main(command) == 0
    assert "40 of 40 photos are in" in (said := capsys.readouterr().out)
    assert said.endswith("decoded all of them again: all are equal\n")
    (array,) = tmp_path.rglob("photos.npy")
    content = bytearray(array.read_bytes())
    content[-1] ^= 255
    array.write_bytes(content)
    assert main(command) == 1
    assert f"1 photos differ from their files; delete {array.parent} and run" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:no threshold", "ignore:the best temperature")
def test_train_keeps_the_test_photos_of_an_earlier_split(run, photo_folder, tmp_path):
    arguments = ["train", str(photo_folder), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    arguments += ["--cache-size", "40", "--stage", "head,1,1e-2,32", "--seed", "5", "--device", "cpu"]
    assert main([*arguments, "--previous-split", str(run / "split.csv")]) == 0
    splits = [pd.read_csv(folder / "split.csv").split.tolist() for folder in (run, tmp_path / "run")]
    assert splits[0] == splits[1]


def test_download_unpacks_your_own_archive(photo_folder, tmp_path, capsys):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photo_folder)
    assert main(["download", archive, "--to", str(tmp_path / "images")]) == 0
    assert "40 photos written" in (said := capsys.readouterr().out)
    assert "40 with a brand in the name" in said
    assert len(carclf.scan(tmp_path / "images")) == 40


@pytest.mark.parametrize("command", [["predict"], ["video"], ["video", "--timeline"]])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(command, tmp_path, capsys):
    name, option = command[0], command[1] if command[1:] else "--csv"
    for place, message in ((tmp_path, "is a folder; give the name"), (tmp_path / "no" / "x.csv", "there is no folder")):
        assert main([name, "no-model", "no-file.mp4", option, str(place)]) == 1
        assert message in capsys.readouterr().err
