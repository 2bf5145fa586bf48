import numpy as np
import pandas as pd
import pytest
from tables import predictions_of

import carclf
from carclf.data.manifest import summary
from carclf.metrics.label_errors import (
    apply_corrections,
    confident_mistakes,
    highest_losses,
    label_suspects,
    read_corrections,
    save_suspects,
)

BRANDS = [f"Brand {letter}" for letter in "ABCDEFGHIJ"]


def planted(seed, n=2000, noise=0.05):
    """Photos of which a few carry a wrong brand: predictions, probabilities, which are wrong, true brands."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(BRANDS), n)
    logits = random.normal(size=(n, len(BRANDS)))
    logits[np.arange(n), truth] += random.uniform(2, 8, n)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = random.random(n) < noise
    given = np.where(wrong, (truth + random.integers(1, len(BRANDS), n)) % len(BRANDS), truth)
    names = np.array(BRANDS, object)
    table = predictions_of(names[given], names[p.argmax(axis=1)], p.max(axis=1), loss=-np.log(p[np.arange(n), given]))
    return table, p, wrong, names[truth]


@pytest.mark.parametrize("seed", range(3))
def test_planted_wrong_labels_are_found(seed):
    table, p, wrong, truth = planted(seed)
    suspects = label_suspects(table, p, BRANDS)
    assert wrong[suspects.index].mean() > 0.8
    assert wrong[suspects.index].sum() > 0.6 * wrong.sum()
    assert wrong[suspects.index[:20]].all()  # the likeliest first
    assert suspects["margin"].is_monotonic_increasing and suspects["margin"].between(-1, 0).all()
    found = suspects.index[wrong[suspects.index]]
    assert (suspects["suggested"][found] == truth[found]).mean() > 0.95


@pytest.mark.filterwarnings("ignore")  # of cleanlab's own dependencies
@pytest.mark.parametrize("seed", range(3))
def test_suspects_are_those_of_cleanlab(seed):
    cleanlab = pytest.importorskip("cleanlab.filter")
    table, p, _, _ = planted(seed)
    given = table["brand"].map(BRANDS.index).to_numpy()
    how = {"filter_by": "confident_learning", "return_indices_ranked_by": "normalized_margin", "n_jobs": 1}
    theirs = cleanlab.find_label_issues(given, p, **how)
    assert label_suspects(table, p, BRANDS).index.tolist() == theirs.tolist()


def test_suspects_by_hand():
    """Means of the own brand's probability: A 0.6, B 0.7. Only the third photo reaches that of another brand."""
    table = pd.DataFrame({"brand": ["A", "A", "A", "B", "B"], "predicted": ["A", "A", "B", "B", "A"]})
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.5, 0.5]])
    assert label_suspects(table, p, ["A", "B"]).empty  # right on 60 % of the photos: too weak to doubt a name
    suspects = label_suspects(table, p, ["A", "B"], least_accuracy=0.5)
    assert suspects.index.tolist() == [2]
    assert suspects["suggested"].tolist() == ["B"]
    assert suspects["margin"].tolist() == pytest.approx([-0.8])


def test_photos_without_a_known_brand_or_answer_are_no_suspects_and_other_photos_are_refused():
    table = pd.DataFrame({"brand": ["A", None, "C", "A"], "predicted": ["A", "A", "A", None]})
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [np.nan, np.nan]])
    assert label_suspects(table, p, ["A", "B"]).empty
    none = label_suspects(table[1:], p[1:], ["A", "B"])
    assert none.empty and none.columns.tolist() == ["brand", "predicted", "suggested", "margin"]
    with pytest.raises(ValueError, match=r"shape \(3, 2\), but 4 predictions and 2 classes need \(4, 2\)"):
        label_suspects(table, p[1:], ["A", "B"])


def test_the_worst_come_first():
    loss = [1.2, 2.0, 5.0, np.nan, np.nan]
    table = predictions_of(["A", "A", "B", None, "X"], ["A", "B", "A", "A", "A"], [0.3, 0.6, 0.9, 1.0, 0.7], loss=loss)
    assert highest_losses(table).index.tolist() == [2, 1, 0]
    assert highest_losses(table, 1).index.tolist() == [2]
    assert confident_mistakes(table).index.tolist() == [2, 4, 1]
    assert confident_mistakes(table, 2).index.tolist() == [2, 4]


@pytest.fixture
def manifest(photo_folder):
    manifest = carclf.scan(photo_folder)
    manifest.loc[[1, 3], "suspect"] = "near-duplicates are named Audi, BMW"
    manifest.loc[39, "brand"] = "My Own Make"
    return manifest


@pytest.fixture
def path(manifest, tmp_path):
    """to_check.csv of the manifest's first five photos."""
    save_suspects(manifest.head(5).assign(predicted="Volvo", confidence=0.5, loss=2.0), tmp_path / "to_check.csv")
    return tmp_path / "to_check.csv"


def fill_in(path, **brands):
    """What a person does with the CSV: brands by row."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for row, brand in brands.items():
        table.loc[int(row[1:]), "correct_brand"] = brand
    table.to_csv(path, index=False)


def test_corrections_come_back(manifest, path):
    assert apply_corrections(manifest, path).equals(manifest)  # nothing is filled in
    brand = manifest["brand"][0]
    fill_in(path, r0="volvo", r1="remove", r2=" VW ", r3=brand, r4="my own make")
    corrected = apply_corrections(manifest, path)
    assert corrected["brand"][:5].tolist() == ["Volvo", brand, "Volkswagen", brand, "My Own Make"]
    sources = ["corrections", "name", "corrections", "name", "corrections"]
    assert corrected["label_from"][:5].tolist() == sources
    assert corrected["model"][[0, 2, 4]].isna().all() and corrected["model"][3] == manifest["model"][3]
    assert corrected["problem"].dropna().to_dict() == {1: "label: removed by hand"}
    assert corrected["suspect"][[1, 3]].notna().tolist() == [True, False]  # a confirmed label is no suspect any more
    assert corrected[5:].equals(manifest[5:])
    assert manifest["brand"][0] == brand  # the manifest given stays as it was
    said = summary(corrected)
    assert "the corrections: 3" in said and "set aside: label (1)" in said
    with pytest.warns(UserWarning, match=r"My Own Make \(2\), Volkswagen \(1\)"):
        assert carclf.split(corrected)["split"].isna().to_numpy().nonzero()[0].tolist() == [1]


def test_corrections_that_mean_nothing_are_refused(manifest, path):
    fill_in(path, r1="Wolvo")
    with pytest.raises(ValueError, match=r"to_check.csv, row 3: 'Wolvo' is neither a brand of .* correct the spelling"):
        apply_corrections(manifest, path)
    table = pd.DataFrame({"path": manifest["path"][0], "correct_brand": ["Audi", "Audi", "BMW"]})
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"row 4: .* is corrected twice; keep one"):
        apply_corrections(manifest, path)
    table.assign(path=["gone.jpg", "lost.jpg", manifest["path"][0]]).to_csv(path, index=False)
    with pytest.warns(UserWarning, match=r"2 of 3 corrected photos are not in the manifest, such as gone.jpg"):
        assert apply_corrections(manifest, path)["brand"][0] == "BMW"


@pytest.mark.parametrize(
    "name", ["=cmd|' /C calc'!A0.jpg", "+1.jpg", "-1.jpg", "@x.jpg", "'=1.jpg", "\t=1", 'it\'s, "a"', "'"]
)
def test_no_cell_is_a_formula_and_names_come_back(name, tmp_path):
    path = tmp_path / "to_check.csv"
    save_suspects(predictions_of([name], [None], 0.5, loss=np.nan).assign(path=name), path)
    fill_in(path, r0="Audi")
    cells = pd.read_csv(path, dtype=str, keep_default_na=False).iloc[0]
    assert not cells.str.startswith(("=", "+", "-", "@", "\t", "\r")).any()
    assert read_corrections(path)["path"].tolist() == [name]


def test_tables_as_spreadsheets_save_them(tmp_path):
    path = tmp_path / "to_check.csv"
    path.write_text("path;brand;correct_brand\na.jpg;Audi;\nCitroën.jpg;;Citroën\n", encoding="utf-8-sig")
    assert read_corrections(path).to_dict("list") == {"path": ["Citroën.jpg"], "correct_brand": ["Citroën"]}
    assert read_corrections(path).index.tolist() == [3]
    path.write_text("path,correct_brand\nCitroën.jpg,Citroën\n", encoding="cp1252")
    with pytest.raises(ValueError, match=r"is not a table \(.*\); save it as CSV in UTF-8"):
        read_corrections(path)
    path.write_text("path,brand\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the columns correct_brand; save it as CSV"):
        read_corrections(path)
    with pytest.raises(FileNotFoundError, match="write it with save_suspects"):
        read_corrections(tmp_path / "none.csv")
