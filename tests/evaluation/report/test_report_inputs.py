import json
import shutil

import pandas as pd
import pytest
from small_folders import change_provenance, write_data, write_model

from nnunetv2_missmod.evaluation.report.inputs import load_comparison


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    truths = write_data(root, num_modalities=2, cases=("001", "NA"))
    for trainer in ("OneTrainer", "TwoTrainer"):
        write_model(root / trainer, root, truths, trainer=trainer, modalities=("FLAIR", "T1c"), save=False)
    return root


@pytest.fixture
def two(folders, tmp_path):
    """Copies of two models' folders, to be changed."""
    copies = [tmp_path / name for name in ("OneTrainer", "TwoTrainer")]
    for copy in copies:
        shutil.copytree(folders / copy.name, copy)
    return copies


def keep_rows(folder, keep):
    table = pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)
    table[keep(table)].to_csv(folder / "scores.csv", index=False)


def test_what_two_models_share(two):
    comparison = load_comparison(two)
    assert list(comparison.models) == ["One", "Two"]
    assert comparison.subsets == {"FLAIR": ["FLAIR"], "T1c": ["T1c"], "FLAIR+T1c": ["FLAIR", "T1c"]}
    assert comparison.regions == ["whole", "core", "enhancing"]
    assert len(comparison.scores) == 2 * 2 * 3 * 3
    assert comparison.notes == []


def test_names_of_cases_stay_text(two):
    assert set(load_comparison(two).scores["case"]) == {"001", "NA"}


def test_parquet_is_read_where_there_is_no_csv(two):
    pytest.importorskip("pyarrow")
    from_csv = load_comparison(two).scores
    for folder in two:
        pd.read_csv(folder / "scores.csv", dtype={"case": str}, keep_default_na=False, na_values={"dice": [""]}).assign(
            hd95=lambda t: pd.to_numeric(t["hd95"], errors="coerce")
        ).to_parquet(folder / "scores.parquet")
        (folder / "scores.csv").unlink()
    assert set(load_comparison(two).scores["case"]) == set(from_csv["case"])


def test_infinite_scores_are_undefined(two):
    table = pd.read_csv(two[0] / "scores.csv", dtype={"case": str}, keep_default_na=False)
    table.assign(volume_error="inf").to_csv(two[0] / "scores.csv", index=False)
    assert load_comparison(two[:1]).scores["volume_error"].isna().all()


def test_models_are_compared_on_the_cases_and_subsets_that_both_have(two):
    keep_rows(two[0], lambda table: table["case"] != "001")
    keep_rows(two[1], lambda table: table["subset"] != "T1c")
    comparison = load_comparison(two)
    assert set(comparison.scores["case"]) == {"NA"}
    assert list(comparison.subsets) == ["FLAIR", "FLAIR+T1c"]
    assert len(comparison.notes) == 2


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{}, {"trainer": "TwoTrainer"}], ["One", "Two"]),
        ([{}, {"trainer": "OneTrainer", "model": "OneTrainer__other"}],
         ["OneTrainer__nnUNetPlans__3d_fullres", "OneTrainer__other"]),
        ([{}, {"trainer": "OneTrainer", "model": "OneTrainer__nnUNetPlans__3d_fullres"}], ["OneTrainer", "TwoTrainer"]),
    ],
)  # fmt: skip
def test_models_get_the_shortest_names_that_tell_them_apart(two, changes, names):
    for folder, change in zip(two, changes, strict=True):
        change_provenance(folder, **change)
    assert list(load_comparison(two).models) == names


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_no_folder_is_an_error():
    with pytest.raises(ValueError, match="at least one folder"):
        load_comparison([])


def test_a_folder_named_twice_is_an_error(two):
    with pytest.raises(ValueError, match=r"OneTrainer 2 times"):
        load_comparison([two[0], two[0] / ".." / "OneTrainer"])


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"missmod evaluate.*missing"):
        load_comparison([tmp_path / "missing"])


@pytest.mark.parametrize("file", ["scores.csv", "provenance.json"])
def test_a_folder_without_one_of_its_files_is_an_error(two, file):
    (two[1] / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}.*TwoTrainer|TwoTrainer/{file}") as error:
        load_comparison(two)
    assert "missmod evaluate" in str(error.value)


@pytest.mark.parametrize("text", ["", "case,subset\n", "case,subset,region\n1,FLAIR,whole\n", "\0\0"])
def test_a_damaged_table_is_an_error(two, text):
    (two[0] / "scores.csv").write_text(text)
    with pytest.raises(ValueError, match=r"OneTrainer/scores\.csv"):
        load_comparison(two)


def test_a_table_with_text_for_a_number_is_an_error(two):
    table = pd.read_csv(two[0] / "scores.csv", dtype=str, keep_default_na=False)
    table.assign(dice="good").to_csv(two[0] / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"OneTrainer/scores\.csv.*good"):
        load_comparison(two)


def test_a_table_without_rows_is_an_error(two):
    keep_rows(two[0], lambda table: table["case"] == "none")
    with pytest.raises(ValueError, match=r"OneTrainer/scores\.csv.*without rows"):
        load_comparison(two)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": 1}'])
def test_a_damaged_provenance_is_an_error(two, text):
    (two[0] / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match=r"OneTrainer/provenance\.json"):
        load_comparison(two)


def test_rows_twice_are_an_error(two):
    file = two[0] / "scores.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(ValueError, match=r"OneTrainer: expected one row.*'subset': 'FLAIR'"):
        load_comparison(two)


@pytest.mark.parametrize("column", ["subset", "region"])
def test_a_name_that_provenance_does_not_know_is_an_error(two, column):
    table = pd.read_csv(two[0] / "scores.csv", dtype=str, keep_default_na=False)
    table.assign(**{column: "unknown"}).to_csv(two[0] / "scores.csv", index=False)
    with pytest.raises(ValueError, match=rf"OneTrainer: expected the {column}s.*unknown"):
        load_comparison(two)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("dataset", "Dataset137_BraTS2021"),
        ("modalities", ["T1c", "FLAIR"]),
        ("regions", ["enhancing", "core", "whole"]),
        ("region_labels", {"whole": [1]}),
        ("empty_policy", "brats"),
        ("nsd_tolerance_mm", 2.0),
    ],
)
def test_models_that_do_not_belong_together_are_an_error(two, key, other):
    change_provenance(two[1], **{key: other})
    with pytest.raises(ValueError, match=r"OneTrainer.*TwoTrainer") as error:
        load_comparison(two)
    assert str(other) in str(error.value)
    assert str(json.loads((two[0] / "provenance.json").read_text())[key]) in str(error.value)


def test_models_without_a_common_subset_are_an_error(two):
    keep_rows(two[0], lambda table: table["subset"] == "FLAIR")
    keep_rows(two[1], lambda table: table["subset"] == "T1c")
    with pytest.raises(ValueError, match=r"subsets of modalities in common.*OneTrainer.*TwoTrainer"):
        load_comparison(two)


def test_models_without_a_common_case_are_an_error(two):
    keep_rows(two[0], lambda table: table["case"] == "001")
    keep_rows(two[1], lambda table: table["case"] == "NA")
    with pytest.raises(ValueError, match=r"cases in common.*OneTrainer.*TwoTrainer"):
        load_comparison(two)
