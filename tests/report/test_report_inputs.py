import json
import shutil
from itertools import product

import pandas as pd
import pytest
from small_folders import change_provenance, write_data, write_model
from small_scores import REGIONS

from nnunetv2_missmod.report.inputs import load_comparison


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


def test_models_are_compared_on_the_cases_and_subsets_that_both_have(two):
    keep_rows(two[0], lambda table: table["case"] != "001")
    keep_rows(two[1], lambda table: table["subset"] != "T1c")
    comparison = load_comparison(two)
    assert set(comparison.scores["case"]) == {"NA"}
    assert list(comparison.subsets) == ["FLAIR", "FLAIR+T1c"]
    assert comparison.notes == [
        "1 subset that not every model was evaluated on is left out.",
        "1 case that not every model was evaluated on is left out.",
    ]


def test_a_summary_of_each_model_stands_beside_the_others_region_by_region(two):
    comparison = load_comparison(two)
    beside = comparison.side_by_side(lambda table: table.pivot_table("dice", "subset", "region", "max"))
    assert beside.columns.to_list() == comparison.columns == list(product(comparison.regions, ["One", "Two"]))
    for (region, model), values in beside.items():
        rows = comparison.scores[(comparison.scores["region"] == region) & (comparison.scores["model"] == model)]
        for subset in comparison.subsets:
            assert values[subset] == max(rows["dice"][rows["subset"] == subset])


@pytest.mark.parametrize("which", [0, 1])
def test_one_sample_of_subsets_makes_a_sample_of_all(two, which):
    assert not load_comparison(two).sampled
    change_provenance(two[which], sampled=True)
    assert load_comparison(two).sampled


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


@pytest.mark.parametrize("file", ["scores.csv", "provenance.json"])
def test_a_folder_without_one_of_its_files_is_an_error(two, file):
    (two[1] / file).unlink()
    with pytest.raises(ValueError, match=rf"TwoTrainer/{file} is missing. Run missmod evaluate"):
        load_comparison(two)


def test_a_table_without_rows_is_an_error(two):
    keep_rows(two[0], lambda table: table["case"] == "none")
    with pytest.raises(ValueError, match=r"OneTrainer/scores\.csv.*got 0 rows.*missmod evaluate"):
        load_comparison(two)


def test_an_infinite_score_of_any_metric_is_an_error(two):
    table = pd.read_csv(two[0] / "scores.csv", dtype=str, keep_default_na=False)
    table.assign(volume_error="inf").to_csv(two[0] / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"OneTrainer/scores\.csv.*volume_error finite"):
        load_comparison(two)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("dataset", "Dataset137_BraTS2021"),
        ("region_labels", {**REGIONS, "whole": [1]}),
        ("empty_policy", "brats"),
        ("nsd_tolerance_mm", 2.0),
        ("hd95_convention", "medpy"),
    ],
)
def test_models_that_were_not_measured_alike_are_an_error(two, key, other):
    change_provenance(two[1], **{key: other})
    with pytest.raises(ValueError, match=r"OneTrainer/provenance\.json and .*TwoTrainer/provenance\.json") as error:
        load_comparison(two)
    assert str(other) in str(error.value)
    assert str(json.loads((two[0] / "provenance.json").read_text())[key]) in str(error.value)


@pytest.mark.parametrize(
    ("keep_first", "keep_second", "what"),
    [
        (lambda table: table["subset"] == "FLAIR+T1c", lambda table: table["num_present"] == "1", "common subsets"),
        (lambda table: table["case"] == "001", lambda table: table["case"] == "NA", "common cases"),
        (lambda table: table["region"] == "core", lambda table: table["region"] != "core", "same regions"),
        (lambda table: table["subset"] == "T1c", lambda table: table["subset"] != "T1c", "same modalities"),
    ],
    ids=["subsets", "cases", "regions", "modalities"],
)
def test_models_that_have_nothing_in_common_are_an_error(two, keep_first, keep_second, what):
    keep_rows(two[0], keep_first)
    keep_rows(two[1], keep_second)
    with pytest.raises(ValueError, match=rf"{what}, got .*OneTrainer/scores\.csv.*TwoTrainer/scores\.csv"):
        load_comparison(two)
