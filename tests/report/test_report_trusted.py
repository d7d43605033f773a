"""A folder of scores from elsewhere leads the report to no other file than those that it was asked about."""

import json
import shutil

import pandas as pd
import pytest
from small_folders import change_provenance, write_data, write_model

from nnunetv2_missmod.report.models import load_model
from nnunetv2_missmod.report.trusted import is_part_of_a_path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("trusted")
    truths = write_data(root, num_modalities=2, cases=("001", "NA"))
    write_model(root / "model", root, truths, modalities=("FLAIR", "T1c"))
    return root / "model"


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written, tmp_path / "model")
    return tmp_path / "model"


def rename(folder, column, old, new):
    table = pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)
    table[column] = table[column].replace(old, new)
    table.to_csv(folder / "scores.csv", index=False)


def test_what_evaluate_writes_is_trusted(folder):
    for changes in (
        {},
        {"predictions": None},
        {"predictions": "masks/all"},
        {"images": "../imagesTs"},
        {"folds": ["all"]},
    ):
        change_provenance(folder, **changes)
        load_model(folder)


@pytest.mark.parametrize("place", ["..", "../..", "masks/../..", "/etc", "", " ", "a\0b", ".", "..\\..", "x" * 300])
def test_predictions_stay_within_the_folder_of_the_scores(folder, place):
    change_provenance(folder, predictions=place)
    with pytest.raises(
        ValueError, match=rf"^{folder}/provenance.json: expected predictions to be a folder within that"
    ):
        load_model(folder)


@pytest.mark.parametrize("case", ["../../secret", "a/b", "/etc/passwd", "a\\b", "..", "a\x7fb", "x" * 300])
def test_a_case_is_no_path(folder, case):
    rename(folder, "case", "001", case)
    with pytest.raises(ValueError, match=rf"^{folder}/scores.csv: expected case to be a name without a path"):
        load_model(folder)


@pytest.mark.parametrize("subset", ["..", "../../masks", "/etc", "a\\b"])
def test_a_subset_is_no_path_where_its_masks_are_looked_for(folder, subset):
    provenance = json.loads((folder / "provenance.json").read_text())
    subsets = {subset if name == "FLAIR" else name: members for name, members in provenance["subsets"].items()}
    change_provenance(folder, subsets=subsets)
    rename(folder, "subset", "FLAIR", subset)
    with pytest.raises(ValueError, match=rf"^{folder}/provenance.json: expected subsets to be names without a path"):
        load_model(folder)
    shutil.rmtree(folder / "predictions")
    load_model(folder)  # there it is a name in a table, as any


@pytest.mark.parametrize("ending", ["nii.gz", "", "/../../x.nii", ".nii/", "..", ".n\0", "*"])
def test_the_file_ending_is_one(folder, ending):
    change_provenance(folder, file_ending=ending)
    with pytest.raises(ValueError, match=rf"^{folder}/provenance.json: expected file_ending to be a dot and letters"):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("images", 5),
        ("images", ""),
        ("labels", "a\nb"),
        ("labels", None),
        ("predictions", ["predictions"]),
        ("file_ending", None),
        ("modalities", "FLAIR"),
        ("modalities", [1, 2]),
        ("subsets", ["FLAIR"]),
        ("subsets", {"FLAIR": "FLAIR"}),
        ("subsets", {"FLAIR": []}),
        ("subsets", {"FLAIR": ["T9"]}),
        ("regions", {"whole": 1}),
        ("region_labels", {}),
        ("region_labels", {"whole": [1.5]}),
        ("sampled", 1),
        ("step_size", "0.5"),
        ("step_size", float("nan")),
        ("min_voxels", {"whole": "5"}),
        ("folds", [None]),
        ("trainer", 5),
        ("versions", [1]),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_file_and_entry(folder, key, value):
    change_provenance(folder, **{key: value})
    with pytest.raises(ValueError, match=rf"^{folder}/provenance.json: expected {key}[^\n]*$"):
        load_model(folder)


@pytest.mark.parametrize("content", ["[]", "5", "null", "{", "", "[" * 10**5])
def test_what_is_no_object_is_named(folder, content):
    (folder / "provenance.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{folder}/provenance.json: expected "):
        load_model(folder)


@pytest.mark.parametrize("name", ["001", "NA", "Sub 01.v2", "größer", "a_b&c%", "-1", "=1", ".hidden"])
def test_the_names_that_cases_have_are_parts_of_a_path(name):
    assert is_part_of_a_path(name)
