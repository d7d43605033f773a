"""`missmod convert`: every layout, what is said, splits, fingerprint, and what dead runs left."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from small_cohort import hashes, label_map, read, save
from small_conversion import convert, dataset_of, failure, nnunet_in_threads
from small_sources import write_layout

from nnunetv2_missmod.datasets.conversion.restore import restore_labels
from nnunetv2_missmod.datasets.layouts.recognition import LAYOUTS

SMALL_PATTERN = [
    *("--layout", "pattern", "--pattern", "{case}/{case}_{modality}.nii.gz"),
    *("--label_pattern", "{case}/{case}_seg.nii.gz", "--modalities", "FLAIR=flair", "T1c=t1ce"),
    *("--labels", "whole=1,2", "core=2"),
]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("folders")]


# --- every layout -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "auto"])
def test_every_layout_becomes_a_dataset_and_its_labels_come_back(layout, tmp_path):
    source = write_layout(tmp_path / "source", layout)
    before = hashes(source)
    convert(source, "-d", 137, *(SMALL_PATTERN if layout == "pattern" else ["--layout", layout]))
    dataset = dataset_of(tmp_path)
    described = json.loads((dataset / "dataset.json").read_text())
    assert described["missmod"]["layout"] == layout
    assert described["numTraining"] == 3
    labels = sorted((dataset / "labelsTr").iterdir())
    assert len(labels) == 3
    assert len(list((dataset / "imagesTr").iterdir())) == 3 * len(described["channel_names"])
    restore_labels(dataset / "labelsTr", tmp_path / "out", dataset / "dataset.json")
    table = pd.read_csv(dataset / "conversion.csv", index_col="case")
    assert set(table["status"]) <= {"kept", "incomplete"}
    for label in labels:
        sources = dict(pair.split("=", 1) for pair in table["sources"][label.name.split(".")[0]].split("; "))
        np.testing.assert_array_equal(read(tmp_path / "out" / label.name), read(sources["labels"]))
    assert hashes(source) == before


@pytest.mark.parametrize("layout", ["brats2020", "brats2024-gli", "msd-task01", "wmh"])
def test_layouts_are_recognised_and_nnunet_finds_nothing_wrong(layout, tmp_path, monkeypatch):
    """One that is uncompressed, one of four labels, one of 4D files, one with an ignore label."""
    nnunet_in_threads(monkeypatch)
    convert(write_layout(tmp_path / "source", layout), "-d", 137)
    verify_dataset_integrity(str(dataset_of(tmp_path)), 1)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_summary_counts_subsets_and_names_refused_cases(tmp_path, capsys):
    source = write_layout(tmp_path / "source", "pattern", cases=4)
    (source / "patient_01" / "patient_01_flair.nii.gz").unlink()
    (source / "patient_02" / "patient_02_seg.nii.gz").unlink()
    save(source / "patient_03" / "patient_03_seg.nii.gz", label_map((7,), (8, 8, 8)), (1.0, 1.0, 1.0))
    convert(source, "-d", 137, *SMALL_PATTERN, code=1)
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    assert ["│", "FLAIR+T1c", "│", "1", "│", "1", "│"] in rows
    assert ["│", "T1c", "│", "1", "│", "0", "│"] in rows
    assert "Refused patient_03: expected the values [0, 1, 2] in " in printed.out
    assert "got 7" in printed.out
    assert "no FLAIR" not in printed.out
    assert "missmod: 1 case failed" in printed.err


def test_constant_images_are_said(tmp_path, capsys):
    source = write_layout(tmp_path / "source", "pattern")
    save(source / "patient_01" / "patient_01_flair.nii.gz", np.zeros((8, 8, 8), np.int16), (1.0, 1.0, 1.0))
    convert(source, "-d", 137, *SMALL_PATTERN)
    assert "1 case: FLAIR is constant" in capsys.readouterr().out


# --- arguments that cannot be right -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-d", 0], "dataset id from 1 to 999"),
        (["-d", 5, "--name", "a b"], "Expected a name"),
        (["-d", 5, "--splits", "splits.json"], "nnUNet_preprocessed"),
        (["-d", 5, "--labels", "lesion=1"], "Expected --pattern"),
        (["-d", 5, "--layout", "brats2017"], "Expected a layout among"),
        (["-d", 5, "--layout", "pattern"], "Expected a pattern"),
    ],
)
def test_arguments_that_cannot_be_right(arguments, said, tmp_path, capsys):
    source = write_layout(tmp_path / "source", "brats2021")
    assert said in failure(capsys, tmp_path, source, *arguments)


def test_a_dataset_that_is_there_is_not_converted_again(tmp_path, preprocessed, capsys):
    source = write_layout(tmp_path / "source", "brats2021")
    convert(source, "-d", 5)
    capsys.readouterr()
    assert "Expected dataset id 5 to be free" in failure(capsys, tmp_path, source, "-d", 5)


def test_a_raw_folder_that_is_not_set(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw")
    source = write_layout(tmp_path / "source", "brats2021")
    assert "Expected the variable nnUNet_raw" in failure(capsys, tmp_path, source, "-d", 5)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_scans_of_a_patient_never_straddle(tmp_path, preprocessed):
    convert(write_layout(tmp_path / "source", "brats2023-gli", cases=8), "-d", 137)
    (file,) = preprocessed.glob("Dataset137_*/splits_final.json")
    splits = json.loads(file.read_text())
    assert len(splits) == 4
    for fold in splits:
        assert len(fold["train"]) == 6
        assert {case[:-4] for case in fold["train"]}.isdisjoint(case[:-4] for case in fold["val"])


def test_published_splits_lose_refused_cases_alone(tmp_path, preprocessed):
    source = write_layout(tmp_path / "source", "pattern", cases=4)
    save(source / "patient_03" / "patient_03_seg.nii.gz", label_map((7,), (8, 8, 8)), (1.0, 1.0, 1.0))
    published = [{"train": ["patient_00", "patient_03"], "val": ["patient_01"]}]
    (tmp_path / "splits.json").write_text(json.dumps(published))
    convert(source, "-d", 137, *SMALL_PATTERN, "--splits", tmp_path / "splits.json", code=1)
    (file,) = preprocessed.glob("*/splits_final.json")
    assert json.loads(file.read_text()) == [{"train": ["patient_00"], "val": ["patient_01"]}]


def test_nothing_is_written_where_refused_cases_leave_a_fold_empty(tmp_path, preprocessed, capsys):
    source = write_layout(tmp_path / "source", "pattern")
    save(source / "patient_01" / "patient_01_seg.nii.gz", label_map((7,), (8, 8, 8)), (1.0, 1.0, 1.0))
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["patient_00"], "val": ["patient_01"]}]))
    (tmp_path / "raw").mkdir()
    said = failure(capsys, tmp_path, source, "-d", 137, *SMALL_PATTERN, "--splits", tmp_path / "splits.json")
    assert "Expected cases to val" in said


def test_splits_of_another_dataset(tmp_path, preprocessed, capsys):
    source = write_layout(tmp_path / "source", "pattern")
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["patient_00"], "val": ["patient_99"]}]))
    said = failure(capsys, tmp_path, source, "-d", 137, *SMALL_PATTERN, "--splits", tmp_path / "splits.json")
    assert "patient_99" in said


@pytest.mark.parametrize("existing", ["splits_final.json", "dataset_fingerprint.json"])
def test_what_an_earlier_dataset_left_is_not_taken_for_this_one(tmp_path, preprocessed, capsys, existing):
    source = write_layout(tmp_path / "source", "pattern")
    (preprocessed / "Dataset137_cohort").mkdir(parents=True)
    (preprocessed / "Dataset137_cohort" / existing).write_text("[]")
    said = failure(capsys, tmp_path, source, "-d", 137, *SMALL_PATTERN)
    assert f"Expected no {existing} of the dataset yet" in said


def test_nnunet_draws_its_own_splits_where_none_can_be_written(tmp_path, capsys):
    convert(write_layout(tmp_path / "source", "brats2021"), "-d", 137)
    assert "nnU-Net will draw splits of its own" in capsys.readouterr().out


def test_one_patient_is_not_split(tmp_path, preprocessed, capsys):
    convert(write_layout(tmp_path / "source", "brats2023-gli", cases=2), "-d", 137)
    assert "Too few subjects" in capsys.readouterr().out
    assert not preprocessed.exists()


def test_a_cohort_without_a_training_case_is_said_to_be_one(tmp_path, preprocessed, capsys):
    source = write_layout(tmp_path / "source", "pattern")
    for file in source.rglob("*_seg.nii.gz"):
        file.unlink()
    convert(source, "-d", 137, *SMALL_PATTERN[:4], *SMALL_PATTERN[6:9])
    assert "There is no training case" in capsys.readouterr().out


# --- the fingerprint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "expected"), [("nnunet", [("Dataset137_Lesions", [])]), ("brats2021", [])])
def test_incomplete_cohorts_get_a_fingerprint(tmp_path, preprocessed, fingerprints, layout, expected):
    convert(write_layout(tmp_path / "source", layout), "-d", 137)
    assert fingerprints == expected
    written = [json.loads(file.read_text()) for file in preprocessed.glob("*/dataset_fingerprint.json")]
    assert written == [{"of": name} for name, _ in expected]


def test_a_dataset_that_is_filled_gets_a_fingerprint_of_all_its_files(dataset, preprocessed, fingerprints):
    convert(dataset, "-d", 42)
    assert fingerprints == [(dataset.name, ["case_01_0001.nii.gz"])]
    assert (preprocessed / dataset.name / "dataset_fingerprint.json").is_file()


def test_where_it_cannot_be_written_the_way_is_said(tmp_path, fingerprints, capsys):
    convert(write_layout(tmp_path / "source", "nnunet"), "-d", 137)
    assert fingerprints == []
    assert "run missmod fingerprint -d 137 before planning" in capsys.readouterr().out


# --- what is left of processes that were ended ------------------------------------------------------------------------


def test_what_a_dead_conversion_left_is_cleared_away(tmp_path, preprocessed, dataset, fingerprints):
    """As after a SIGKILL between the splits and the dataset's name."""
    left = tmp_path / "raw" / ".converting_dead"
    place = preprocessed / "Dataset137_cohort" / "splits_final.json"
    for folder in (left / "Dataset137_cohort", place.parent, dataset / ".filling_dead"):
        folder.mkdir(parents=True)
    place.write_text("[]")
    digest = hashlib.sha256(b"[]").hexdigest()
    record = {"done": str(tmp_path / "raw" / "Dataset137_cohort"), "files": {str(place): digest}}
    (left / "placed.json").write_text(json.dumps(record))
    (tmp_path / "raw" / ".new_converting_dead").mkdir()
    (tmp_path / "raw" / ".new_converting_dead" / ".lock").touch()
    convert(write_layout(tmp_path / "source", "pattern"), "-d", 137, *SMALL_PATTERN)
    assert len(json.loads(place.read_text())) == 3
    convert(dataset, "-d", 42)
    assert not [*(tmp_path / "raw").rglob(".*")]
