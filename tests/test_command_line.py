import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import carclf
from carclf import parser
from carclf.__main__ import main
from carclf.errors import cannot_write
from carclf.model.weights import read_tensors, write_tensors
from carclf.report.tables import short_names

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
    assert main(["evaluate", str(run), str(run / "split.csv"), "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    written = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert all(written[name] == value or value is None for name, value in printed.items())
    assert printed["n"] == len(pd.read_csv(tmp_path / "predictions.csv")) < len(carclf.scan(photo_folder))
    assert main(["evaluate", str(run / "model"), str(photo_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == len(carclf.scan(photo_folder))


def test_evaluate_prints_a_table_for_people_that_ends_with_the_promise(run, photo_folder, capsys):
    assert main(["evaluate", str(run), str(photo_folder)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    card = carclf.Classifier.load(run / "model").card
    assert last == carclf.metrics.promise_text(card.promise, card.threshold)
    assert lines[0].split() == ["photos", "scored", "40,", "of", "16", "vehicles"]
    decisions = {line.split()[0]: int(line.split()[1]) for line in lines[-4:-1]}
    assert set(decisions) == {"accepted", "unsure", "unknown"} and sum(decisions.values()) == 40


@pytest.mark.filterwarnings("always")
def test_a_run_whose_photos_moved_is_tested_where_they_are_now(run, photo_folder, tmp_path, capsys):
    table = pd.read_csv(run / "split.csv")
    table.assign(path=table.path.str.replace(str(photo_folder), "/gone")).to_csv(tmp_path / "split.csv", index=False)
    command = ["evaluate", str(run), str(tmp_path / "split.csv"), "--json"]
    assert main(command) == 1
    assert "test photos of" in (said := capsys.readouterr().err) and "(--photos DIR on the command line)" in said
    assert main([*command, "--photos", str(photo_folder)]) == 0
    n = json.loads(capsys.readouterr().out)["n"]
    gone = Path(table.path[table.split == "test"].iloc[0]).name
    shutil.copytree(photo_folder, tmp_path / "here", ignore=lambda *_: [gone])
    command += ["--photos", str(tmp_path / "here")]
    assert main(command) == 1
    assert "(--skip-missing)" in capsys.readouterr().err
    assert main([*command, "--skip-missing"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == n - 1


def test_shares_need_the_models_folder_alone(run, photo_folder, tmp_path, capsys):
    model = shutil.copytree(run / "model", tmp_path / "run" / "model")
    kept = carclf.Classifier.load(model).valid
    split = pd.read_csv(run / "split.csv")
    valid = split[split.split == "valid"].reset_index(drop=True)
    assert len(kept.logits) == len(valid) and len(set(kept.vehicles)) == valid.vehicle.nunique()
    scores = carclf.Classifier.load(model).score(valid)
    assert [carclf.Classifier.load(model).classes[i] for i in kept.labels] == valid.brand.tolist()
    np.testing.assert_allclose(kept.logits, scores.logits, rtol=2e-3, atol=0.05)  # float16, and bfloat16 in batches
    for folder in (tmp_path / "run", model, SHIPPED):
        assert main(["shares", str(folder), str(photo_folder), "--csv", str(tmp_path / "shares.csv")]) == 0
        table = pd.read_csv(tmp_path / "shares.csv", index_col="brand")
        assert sorted(table.index) == carclf.Classifier.load(parser.model_folder(str(folder))).classes
        assert table.corrected.sum() == pytest.approx(1, abs=1e-3)
        assert "e-" not in (tmp_path / "shares.csv").read_text("utf-8").replace("Mercedes-Benz", "").replace(
            "e-Benz", ""
        )
        said = capsys.readouterr().out
        shown = sum(line.startswith(tuple(f"{brand}  " for brand in table.index)) for line in said.splitlines())
        unseen = said.splitlines()[-1]
        assert shown + (int(unseen.split()[0]) if "were not seen: below" in unseen else 0) == len(table)
    (model / "valid.safetensors").unlink()
    command = ["shares", str(model), str(photo_folder), "--picture", str(tmp_path / "shares.png")]
    assert main(command) == 0
    assert "counted, not corrected for the model's confusions" in capsys.readouterr().out
    assert carclf.read_photo(tmp_path / "shares.png").width > 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"logits": t["logits"][:, 1:]}, "it holds"),
        (lambda t: t | {"logits": t["logits"].bfloat16()}, "it holds"),
        (lambda t: t | {"labels": t["labels"] + 100}, "a logit is not finite, or a label is none of 4 brands"),
        (lambda t: t | {"logits": t["logits"] * torch.inf}, "a logit is not finite"),
        (lambda t: {name: tensor[:0] for name, tensor in t.items()}, "it holds"),
        (lambda t: {"logits": t["logits"]}, "it holds"),
    ],
)
def test_answers_on_valid_that_are_not_the_models_are_refused(run, tmp_path, change, message):
    model = shutil.copytree(run / "model", tmp_path / "model")
    file = model / "valid.safetensors"
    write_tensors(file, change(read_tensors(file)[0]))
    with pytest.raises(ValueError, match=rf"valid.safetensors does not fit card.json \({message}.*; copy all files"):
        carclf.Classifier.load(model)
    file.unlink()  # the other remedy
    assert carclf.Classifier.load(model).valid is None


def test_other_weights_take_the_answers_on_valid_with_them(run, tmp_path):
    model = shutil.copytree(run / "model", tmp_path / "model")
    classifier = carclf.Classifier.load(model)
    classifier.save(tmp_path / "copy")
    assert np.array_equal(carclf.Classifier.load(tmp_path / "copy").valid.logits, classifier.valid.logits)
    classifier.valid = None
    classifier.save(model)
    assert not (model / "valid.safetensors").exists()


def test_predict_prints_a_table_for_people_and_writes_one_for_programs(run, photo_folder, tmp_path, capsys):
    assert main(["predict", str(run), str(photo_folder / "*_aBc.jpg"), "--csv", str(tmp_path / "out.csv")]) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.predicted.notna().all() and len(table) == 16
    classifier = carclf.Classifier.load(run / "model")
    assert set(json.loads(table.top5[0])) <= set(classifier.classes)
    said = capsys.readouterr().out.splitlines()
    assert said[0].split("  ")[0] == "photo" and said[0].split()[1:] == ["brand", "sure", "second", "guess", "decision"]
    assert said[-1] == carclf.metrics.promise_text(classifier.card.promise, classifier.card.threshold)
    for line, row in zip(said[1:], table.itertuples(), strict=False):
        assert line.startswith(Path(row.path).name[:15])
        expected = ("unknown ", f"perhaps {row.predicted} ") if row.decision == "unknown" else (f"{row.predicted} ",)
        assert all(text in line for text in expected)
        assert f"{row.confidence:.0%}".replace("%", "\N{NO-BREAK SPACE}%") in line


def test_names_in_tables_are_short():
    assert short_names(["a/b/1.jpg", "a/c/2.jpg"]) == ["1.jpg", "2.jpg"]
    assert short_names(["/a/b/1.jpg", "/a/c/1.jpg"]) == [str(Path("b/1.jpg")), str(Path("c/1.jpg"))]
    (long,) = short_names([f"/a/first{'x' * 200}last.jpg"])
    assert len(long) == 40 and long.startswith("first") and long.endswith("last.jpg") and "…" in long
    assert short_names(["a\nb\udcff.jpg"]) == ["a?b?.jpg"] and short_names([]) == []


def test_what_cannot_be_read_is_named_and_changes_the_exit_status(run, photo_folder, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_text("no photo")
    good, bad = str(sorted(photo_folder.iterdir())[0]), str(tmp_path / "broken.jpg")
    assert main(["predict", str(run), good]) == 0
    assert capsys.readouterr().err == ""
    assert main(["predict", str(run), good, bad]) == 3
    said = capsys.readouterr()
    assert f"carclf: 1 of 2 photos could not be read: {bad}: not an image" in said.err
    assert "–" in said.out.splitlines()[2] and "not an image" in said.out.splitlines()[2]
    assert main(["predict", str(run), good, str(tmp_path / "brokn.jpg")]) == 3
    assert "brokn.jpg; did you mean 'broken.jpg'?" in capsys.readouterr().err
    assert main(["shares", str(run), good, bad]) == 3
    assert f"1 of 2 photos and cars could not be read: {bad}" in capsys.readouterr().err
    assert main(["predict", str(run), bad]) == 1
    assert f"carclf: none of 1 photos could be read: {bad}: not an image" in capsys.readouterr().err


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
    assert main([*command, "--draw", str(tmp_path / "drawn")]) == 3
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["photo", "car", "brand", "sure", "second", "guess", "decision"]
    assert said.out.count("too small") == 3
    assert "carclf: drew 3 photos into" in said.err
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.x1.dropna().tolist() == [30, 70] * 3
    drawn = sorted((tmp_path / "drawn").iterdir())
    for path, photo in zip(drawn, photos, strict=True):
        difference = np.abs(np.subtract(*(np.asarray(carclf.read_photo(p), int) for p in (path, photo)))).max(2)
        assert difference[25:45, 2].mean() > 20  # the edge of the box


def test_evaluate_judges_the_main_car(run, photo_folder, boxes, tmp_path, capsys):
    command = ["evaluate", str(run / "model"), str(photo_folder), "--boxes", str(boxes), "--json"]
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
        (["scan", "no/such/folder"], "there is no folder no/such/folder (no is missing)"),
        (["scan", "{photos}s"], "; did you mean 'photos0'?"),
        (["scan", "https://a.b/c"], "is an address, which is not read; download it first, and give the folder"),
        (["scan", "{empty}/a.zip"], "a.zip is an archive; unpack it: carclf download"),
        (["download", "no/such.zip"], "must be 'listing' or an archive's path"),
        (["download", "https://a.b/c.zip"], "download it first, and give the file"),
        (["predict", str(SHIPPED), "{photos}", "--boxes", "no.csv"], "no.csv; give a CSV file with"),
        (["predict", str(SHIPPED), "https://a.b/c.jpg"], "download it first, with curl -LO https://a.b/c.jpg"),
        (["predict", str(SHIPPED), "rtsp://camera"], "is a camera; use carclf video"),
        (["predict", str(SHIPPED), "{empty}/clip.mp4"], "clip.mp4 is a clip; use carclf video"),
        (["predict", str(SHIPPED), "{empty}/*.jpeg"], "no file matches"),
        (["predict", str(SHIPPED), "{empty}/clap.mp4"], "clap.mp4; did you mean 'clip.mp4'?"),
        (["predict", "{empty}/a.zip", str(SHIPPED)], "a.zip is a file; the folder of a model comes first"),
        (["predict", f"{{}}{SHIPPED}s", "{photos}"], "; did you mean 'cars-lite0'?"),
        (["predict", "{empty}", "{photos}"], "model.safetensors is missing; give the folder that training wrote"),
        (["train", "{photos}", "--out", "{empty}/run", "--previous-split", "no.csv"], "no.csv; give the split"),
        (["scan", "{empty}"], "no photos in"),
        (["train", "{empty}", "--out", "{empty}/run"], "no photos in"),
    ],
)
def test_errors_are_one_line_with_the_remedy(arguments, message, photo_folder, tmp_path, capsys):
    for name in ("a.zip", "clip.mp4"):
        (tmp_path / name).touch()
    assert main([a.replace("{}", "").format(empty=tmp_path, photos=photo_folder) for a in arguments]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("carclf: ")
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "all,6"], "must be UNFREEZE,EPOCHS,MAX_LR,SIZE, such as all,6,1e-3,128"),
        (["--stage", "alll,6,1e-3,128"], "did you mean 'all'?"),
        (["--stage", "all,0,1e-3,128"], "epochs=0 must be a whole number of at least 1"),
        (["--set", "seed=3"], "there is no setting 'seed'; the settings are label_smoothing"),
        (["--set", "emma=3"], "; did you mean 'ema'?"),
        (["--set", "ema=much"], "'much' is no float, such as 0.0"),
        (["--set", "ema=2"], "ema=2.0 must be"),
        (["--backbone", "resnet5"], "did you mean 'resnet50'?"),
        (["--device", "tpu"], "tpu"),
        (["--accuracy", "95"], "it is a share, above 0 and below 1; try 0.95"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_scan(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(carclf, "scan", lambda _: pytest.fail("the photos were scanned"))
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run"), *arguments]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("carclf: ") and message in error


def test_a_run_with_other_settings_is_named_before_the_scan(run, photo_folder, monkeypatch, capsys):
    monkeypatch.setattr(carclf, "scan", lambda _: pytest.fail("the photos were scanned"))
    assert main(["train", str(photo_folder), "--out", str(run), "--set", "ema=0.25"]) == 1
    assert "ema: was 0.5, now 0.25" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predcit", "x"], "carclf: there is no command 'predcit'; did you mean 'predict'?"),
        (
            ["predict", "model", "a.jpg", "--cvs", "x"],
            "carclf predict: unknown argument '--cvs'; did you mean '--csv'?",
        ),
        (
            ["predict", "model"],
            "carclf predict: the following arguments are required: path (see carclf predict --help)",
        ),
    ],
)
def test_wrong_usage_is_one_line_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    (error,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and error.startswith(message)


@pytest.mark.parametrize("arguments", [[], ["--version"], *([name, "--help"] for name in parser.COMMANDS)])
def test_help_and_version(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().out
    assert end.value.code == 0
    if arguments == ["--version"]:
        assert said == f"carclf {carclf.__version__}\n"
    else:
        (example,) = [line for line in said.splitlines() if line.startswith("example: carclf ")]
        words = example.removeprefix("example: carclf ").split()
        runs = dict.fromkeys(parser.COMMANDS, lambda _: None)
        assert parser.parse(words, runs).command == words[0]  # it can be typed as it stands


def test_help_comes_without_loading_torch():
    code = (
        "import sys, carclf.__main__ as m\ntry: m.main(['predict', '-h'])\nfinally: assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_debug_shows_the_traceback(tmp_path, capsys):
    for command in (["scan", str(tmp_path), "--debug"], ["--debug", "scan", str(tmp_path)]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert said.startswith("Traceback") and said.splitlines()[-1].startswith("carclf: no photos in")


@pytest.mark.parametrize(("command", "word"), [("train", "to resume"), ("predict", "starts over")])
def test_only_training_speaks_of_resuming(command, word, photo_folder, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(carclf, "scan", interrupted)
    monkeypatch.setattr(carclf.Classifier, "load", interrupted)
    others = {
        "train": [str(photo_folder), "--out", str(tmp_path / "run")],
        "predict": [str(SHIPPED), str(photo_folder)],
    }
    assert main([command, *others[command]]) == 130
    assert word in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error there")
def test_a_reader_that_has_seen_enough_ends_it_quietly(run, photo_folder, tmp_path):
    command = [
        sys.executable,
        "-m",
        "carclf",
        "predict",
        str(run),
        str(photo_folder),
        "--csv",
        str(tmp_path / "out.csv"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    assert len(pd.read_csv(tmp_path / "out.csv")) == 40


@pytest.mark.filterwarnings("always")
def test_a_handful_of_photos_train_a_model_that_promises_nothing(photo_folder, tmp_path, capsys):
    for name in ("Audi", "BMW"):
        for i, path in enumerate(sorted(photo_folder.glob(f"{name}*"))[:6:2]):
            (tmp_path / "photos").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "photos" / f"{name} {i}_{i}.jpg")
    command = ["train", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--cache-size", "40", "--stage", "head,1,1e-2,32", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert f"model: {tmp_path / 'run' / 'model'}" in said.out
    assert "Nothing is promised" in said.err and "--" not in said.err
    assert carclf.Classifier.load(tmp_path / "run" / "model").card.accept_from == np.inf


def test_duplicates_are_listed_and_drawn(photo_folder, tmp_path, capsys):
    copied = shutil.copytree(photo_folder, tmp_path / "photos")
    first = sorted(copied.iterdir())[0]
    shutil.copy(first, copied / "Alfa Romeo Giulia_999.jpg")
    files = ["--csv", str(tmp_path / "pairs.csv"), "--page", str(tmp_path / "pairs.png")]
    assert main(["duplicates", str(copied), *files]) == 0
    assert f"Alfa Romeo Giulia_999.jpg  {first.name[:15]}" in capsys.readouterr().out
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


@pytest.mark.filterwarnings("always")
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


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict m photos/a.jpg --csv photos/a.jpg", "its name is not that of a table"),
        ("predict m photos --csv m/card.json", "its name is not that of a table"),
        ("predict m photos --boxes b.csv --csv b.csv", "would replace what this command reads"),
        ("predict m photos --boxes b.csv --csv link.csv", "would replace what this command reads"),
        ("shares m photos/a.jpg --picture photos/a.jpg", "would replace what this command reads"),
        ("shares m photos --picture photos/a.jpg", "lies in the folder that this command reads"),
        ("duplicates photos --page photos/a.jpg", "lies in the folder that this command reads"),
        ("scan photos --csv /dev/null", "is a device or a pipe"),
    ],
)
def test_an_output_replaces_nothing_that_is_no_output(command, message, photo_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "m").mkdir()
    shutil.copy(next(photo_folder.glob("*.jpg")), "photos/a.jpg")
    (tmp_path / "b.csv").write_text("path,x0,y0,x1,y1\n")
    (tmp_path / "m/card.json").write_text("{}")
    (tmp_path / "link.csv").symlink_to("b.csv")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert main(command.split()) == 1
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_table_may_be_written_again_and_through_a_link(photo_folder, tmp_path):
    (tmp_path / "real.csv").touch()
    (tmp_path / "link.csv").symlink_to("real.csv")
    for _ in range(2):
        assert main(["scan", str(photo_folder), "--csv", str(tmp_path / "link.csv")]) == 0
    assert (tmp_path / "link.csv").is_symlink() and len(pd.read_csv(tmp_path / "real.csv")) == 40


OUTPUTS = ["predict --csv", "predict --draw", "video --csv", "video --annotate", "video --timeline", "shares --csv"]
OUTPUTS += ["shares --picture", "evaluate --out"]


@pytest.mark.parametrize("command", OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(command, tmp_path, monkeypatch, capsys):
    name, option = command.split()
    ending = {"--annotate": ".mp4", "--csv": ".csv"}.get(option, ".png")
    (tmp_path / "file").touch()
    (tmp_path / f"folder{ending}").mkdir()
    file, good = option not in ("--draw", "--out"), tmp_path / f"x{ending}"
    wrong = {
        tmp_path / f"folder{ending}": "is a folder; give the name of a file in it",
        tmp_path / "folders" / good.name: f"there is no folder {tmp_path / 'folders'}; did you mean 'folder{ending}'?",
        tmp_path / "p.xyz": "p.xyz: it cannot have this ending; choose one of",
    }
    wrong = wrong if file else {tmp_path / "file": "file is a file; give the name of a folder"}
    if option == "--csv":
        del wrong[tmp_path / "p.xyz"]
    for place, message in wrong.items():
        assert main([name, "no-model", "no-file.mp4", option, str(place)]) == 1
        assert message in capsys.readouterr().err
    for code, remedy in (
        (errno.ENOSPC, "free some disk"),
        (errno.EACCES, "ask for permission"),
        (errno.EROFS, "another"),
    ):
        monkeypatch.setattr(
            tempfile, "TemporaryFile", lambda code=code, **_: (_ for _ in ()).throw(OSError(code, "no"))
        )
        assert main([name, "no-model", "no-file.mp4", option, str(good)]) == 1
        said = capsys.readouterr().err
        assert f"carclf: {good} cannot be written: no; " in said and remedy in said
    monkeypatch.undo()
    assert main([name, "no-model", "no-file.mp4", option, str(good)]) == 1
    assert "cannot be written" not in capsys.readouterr().err and not good.exists()


def test_each_reason_for_not_writing_has_its_own_remedy():
    assert cannot_write("a.csv", OSError(errno.ENAMETOOLONG, "too long")).endswith("too long; choose a shorter name")
    assert "free some disk" in cannot_write("a.csv", RuntimeError("unknown"))
