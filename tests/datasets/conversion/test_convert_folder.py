"""`missmod convert`: every layout, splits, fingerprint, datasets filled in place, and real cases."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from small_cohort import hashes, label_map, read, save
from small_sources import write_layout

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets.conversion.restore import restore_labels
from nnunetv2_missmod.datasets.layouts.recognition import LAYOUTS, read_source

SMALL_PATTERN = [
    *("--layout", "pattern", "--pattern", "{case}/{case}_{modality}.nii.gz"),
    *("--label_pattern", "{case}/{case}_seg.nii.gz", "--modalities", "FLAIR=flair", "T1c=t1ce"),
    *("--labels", "whole=1,2", "core=2"),
]
REAL = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """nnU-Net's folders; fingerprints, which take seconds, are written where a test asks for them."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnUNet_preprocessed")


@pytest.fixture
def preprocessed(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    return tmp_path / "preprocessed"


def convert(*arguments, code=0):
    assert main(["convert", *map(str, arguments), "-np", "1"]) == code


def dataset_of(tmp_path, dataset_id=137):
    (found,) = (tmp_path / "raw").glob(f"Dataset{dataset_id:03d}_*")
    return found


def failure(capsys, tmp_path, *arguments):
    """What is said when nothing can be converted; nothing may be written then."""
    before = sorted(tmp_path.rglob("*"))
    convert(*arguments, code=2)
    assert sorted(tmp_path.rglob("*")) == before
    error = capsys.readouterr().err
    return error[error.index("missmod: ") :]


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
    pool_of_threads(monkeypatch)
    convert(write_layout(tmp_path / "source", layout), "-d", 137)
    verify_dataset_integrity(str(dataset_of(tmp_path)), 1)


def pool_of_threads(monkeypatch):
    """In place of nnU-Net's spawned processes, which take seconds to start."""
    import multiprocessing
    from multiprocessing.pool import ThreadPool
    from types import SimpleNamespace

    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))


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


@pytest.fixture
def fingerprints(monkeypatch):
    """The datasets whose fingerprint was asked for."""
    asked = []

    def fingerprint(folder, _, added):
        asked.append((folder.name, [file.name for file in added]))
        return {"of": folder.name}

    monkeypatch.setattr("nnunetv2_missmod.datasets.fingerprint.cohort_fingerprint", fingerprint)
    return asked


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


# --- in place ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    """Dataset042_Lesions in nnUNet_raw; its second case lacks T1."""
    return write_layout(tmp_path / "raw", "nnunet")


def test_a_dataset_gets_the_files_it_lacks_and_nothing_else(dataset, tmp_path, capsys):
    before = hashes(dataset)
    convert(dataset, "-d", 42)
    after = hashes(dataset)
    assert after.keys() - before.keys() == {"imagesTr/case_01_0001.nii.gz", "conversion.csv"}
    assert {file: after[file] for file in before} == before
    assert not read(dataset / "imagesTr" / "case_01_0001.nii.gz").any()
    assert f"Files added to {dataset}: 1\n" in capsys.readouterr().out
    verify_labels_and_grid(dataset)
    assert [folder.name for folder in (tmp_path / "raw").iterdir()] == ["Dataset042_Lesions"]


def verify_labels_and_grid(dataset):
    images = [sitk.ReadImage(str(dataset / "imagesTr" / f"case_01_{channel:04d}.nii.gz")) for channel in (0, 1)]
    assert images[0].GetSize() == images[1].GetSize()
    assert images[0].GetSpacing() == images[1].GetSpacing()
    assert images[0].GetDirection() == images[1].GetDirection()


def test_filling_twice_does_nothing_more(dataset, capsys):
    convert(dataset, "-d", 42)
    before = hashes(dataset)
    times = {file: file.stat().st_mtime_ns for file in dataset.rglob("*")}
    capsys.readouterr()
    convert(dataset, "-d", 42)
    assert hashes(dataset) == before
    assert {file: file.stat().st_mtime_ns for file in dataset.rglob("*") if file.is_file()} == {
        file: time for file, time in times.items() if file.is_file()
    }
    assert f"Files added to {dataset}: 0\n" in capsys.readouterr().out


def test_every_orientation_stays_in_a_dataset_that_is_filled(dataset):
    for file in (dataset / "imagesTr" / "case_01_0000.nii.gz", dataset / "labelsTr" / "case_01.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS"), str(file))
    convert(dataset, "-d", 42)
    verify_labels_and_grid(dataset)


def test_a_bad_case_gets_no_file_and_the_others_do(dataset, capsys):
    (dataset / "imagesTr" / "case_02_0001.nii.gz").unlink()
    file = dataset / "imagesTr" / "case_01_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:100])
    convert(dataset, "-d", 42, code=1)
    assert not (dataset / "imagesTr" / "case_01_0001.nii.gz").exists()
    assert (dataset / "imagesTr" / "case_02_0001.nii.gz").exists()
    assert "Refused case_01: expected a whole image" in capsys.readouterr().out


def test_a_dataset_that_is_linked_into_the_raw_folder_is_filled_where_it_is(dataset, tmp_path, monkeypatch):
    elsewhere = dataset.rename(tmp_path / "disk2")
    dataset.symlink_to(elsewhere)
    monkeypatch.chdir(dataset.parent)
    convert(dataset.name, "-d", 42)
    assert (elsewhere / "imagesTr" / "case_01_0001.nii.gz").is_file()


@pytest.mark.parametrize("arguments", [["--name", "Other"], ["--copy"], ["--complete-only"]])
def test_arguments_that_make_no_sense_in_place(dataset, tmp_path, capsys, arguments):
    assert "Expected another -d" in failure(capsys, tmp_path, dataset, "-d", 42, *arguments)


def test_a_channel_that_no_case_has_is_not_filled(dataset, tmp_path, capsys):
    for file in (dataset / "imagesTr").glob("*_0001.nii.gz"):
        file.unlink()
    assert "got none with T1" in failure(capsys, tmp_path, dataset, "-d", 42)


def test_another_id_makes_another_dataset(dataset, tmp_path):
    before = hashes(dataset)
    convert(dataset, "-d", 43)
    assert hashes(dataset) == before
    assert len(list((dataset_of(tmp_path, 43) / "imagesTr").iterdir())) == 6


def test_a_fingerprint_from_before_is_not_trusted(dataset, preprocessed, fingerprints, capsys):
    """nnU-Net keeps it, and it was made from other files."""
    (preprocessed / dataset.name).mkdir(parents=True)
    (preprocessed / dataset.name / "dataset_fingerprint.json").write_text("{}")
    convert(dataset, "-d", 42)
    assert "run missmod fingerprint -d 42 --clean, and plan again" in capsys.readouterr().err
    assert fingerprints == []
    convert(dataset, "-d", 42)
    assert "--clean" not in capsys.readouterr().err


def test_a_dataset_that_is_filled_gets_splits_where_it_has_none(dataset, tmp_path, preprocessed, fingerprints, capsys):
    convert(dataset, "-d", 42)
    file = preprocessed / dataset.name / "splits_final.json"
    assert len(json.loads(file.read_text())) == 3
    file.write_text("[]")
    convert(dataset, "-d", 42)
    assert file.read_text() == "[]"
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["case_00"], "val": ["case_01"]}]))
    capsys.readouterr()
    said = failure(capsys, tmp_path, dataset, "-d", 42, "--splits", tmp_path / "splits.json")
    assert "Expected no splits_final.json of the dataset yet" in said
    file.unlink()
    convert(dataset, "-d", 42, "--splits", tmp_path / "splits.json")
    assert json.loads(file.read_text()) == [{"train": ["case_00"], "val": ["case_01"]}]


def test_labels_that_leave_out_numbers_are_numbered_anew_and_come_back(dataset, tmp_path, monkeypatch, capsys):
    """nnU-Net accepts 0, 1, 2 alone."""
    described = json.loads((dataset / "dataset.json").read_text())
    described["labels"] = {"background": 0, "edema": 1, "core": 4}
    (dataset / "dataset.json").write_text(json.dumps(described))
    for file in (dataset / "labelsTr").iterdir():
        save(file, label_map((1, 4), (8, 8, 8)), (1.0, 1.0, 1.0))
    assert "with another -d they are numbered anew" in failure(capsys, tmp_path, dataset, "-d", 42)
    convert(dataset, "-d", 43)
    converted = dataset_of(tmp_path, 43)
    assert json.loads((converted / "dataset.json").read_text())["labels"] == {"background": 0, "edema": 1, "core": 2}
    pool_of_threads(monkeypatch)
    verify_dataset_integrity(str(converted), 1)
    restore_labels(converted / "labelsTr", tmp_path / "out", converted / "dataset.json")
    np.testing.assert_array_equal(read(tmp_path / "out" / "case_00.nii.gz"), label_map((1, 4), (8, 8, 8)))


def test_regions_and_the_ignore_label_are_numbered_anew_as_well(dataset):
    described = json.loads((dataset / "dataset.json").read_text())
    described |= {"labels": {"background": 0, "all": [2, 4], "core": [4], "ignore": 3}, "regions_class_order": [2, 4]}
    (dataset / "dataset.json").write_text(json.dumps(described))
    scheme = read_source(dataset).scheme
    assert scheme.from_source == {0: 0, 2: 1, 3: 3, 4: 2}
    assert scheme.labels == {"background": 0, "all": [1, 2], "core": [2], "ignore": 3}
    assert scheme.regions_class_order == (1, 2)


# --- nnU-Net's nibabel readers ----------------------------------------------------------------------------------------


@pytest.fixture
def sheared(dataset):
    """The dataset with affines that SimpleITK does not read, and the reader that does."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 1] = 0.2
    described = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps({**described, "overwrite_image_reader_writer": "NibabelIO"}))
    for file in [*dataset.glob("images*/*"), *dataset.glob("labels*/*")]:
        tilted = nib.Nifti1Image(read(file).T, affine)
        tilted.header.set_sform(affine, 1)
        tilted.header["qform_code"] = 0
        nib.save(tilted, file)
    return dataset


@pytest.mark.parametrize("dataset_id", [42, 43])
def test_sheared_volumes_are_converted_where_nnunet_reads_them(sheared, tmp_path, monkeypatch, dataset_id):
    convert(sheared, "-d", dataset_id)
    dataset = dataset_of(tmp_path, dataset_id)
    assert json.loads((dataset / "dataset.json").read_text())["overwrite_image_reader_writer"] == "NibabelIO"
    zeros, there = (nib.load(dataset / "imagesTr" / f"case_01_{channel:04d}.nii.gz") for channel in (1, 0))
    assert not np.asanyarray(zeros.dataobj).any()
    assert zeros.shape == there.shape
    np.testing.assert_allclose(zeros.affine, there.affine, atol=1e-6)
    pool_of_threads(monkeypatch)
    verify_dataset_integrity(str(dataset), 1)


def test_sheared_labels_are_numbered_anew_where_they_lie(sheared, tmp_path):
    described = json.loads((sheared / "dataset.json").read_text())
    described["labels"] = {"background": 0, "lesion": 2, "other": 1, "more": 4}
    (sheared / "dataset.json").write_text(json.dumps(described))
    file = sheared / "labelsTr" / "case_00.nii.gz"
    label = nib.load(file)
    nib.save(nib.Nifti1Image(np.asanyarray(label.dataobj) * 2, label.affine, label.header), file)
    convert(sheared, "-d", 43)
    converted = nib.load(dataset_of(tmp_path, 43) / "labelsTr" / "case_00.nii.gz")
    np.testing.assert_allclose(converted.affine, label.affine, atol=1e-6)
    assert set(np.unique(converted.dataobj)) == {0, 2, 3}


def test_affines_that_differ_are_refused(sheared, capsys):
    file = sheared / "imagesTr" / "case_00_0001.nii.gz"
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), np.eye(4)), file)
    convert(sheared, "-d", 42, code=1)
    assert f"in {file} and" in capsys.readouterr().out


# --- what is left of processes that were ended ------------------------------------------------------------------------


def test_what_a_dead_conversion_left_is_cleared_away(tmp_path, preprocessed, dataset):
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


# --- real cases -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real cases at {REAL}")
def test_cases_of_multiple_sclerosis(tmp_path):
    """Negative intensities; one case lacks two sequences."""
    source = tmp_path / "ms"
    for patient in ("patient07", "patient19"):
        (source / patient).mkdir(parents=True)
        for name in ("flair", "t1", "t1ce", "t2", "seg") if patient == "patient07" else ("t1", "t1ce", "seg"):
            (source / patient / f"{name}.nii.gz").symlink_to(REAL / "ms_ljubljana" / patient / f"{name}.nii.gz")
    convert(
        *(source, "-d", 137, "--layout", "pattern", "--pattern", "{case}/{modality}.nii.gz"),
        *("--label_pattern", "{case}/seg.nii.gz", "--labels", "lesion=1"),
        *("--modalities", "FLAIR=flair", "T1=t1", "T1c=t1ce", "T2=t2"),
    )
    dataset = dataset_of(tmp_path)
    table = pd.read_csv(dataset / "conversion.csv", index_col="case", keep_default_na=False)
    assert table["subset"].to_dict() == {"patient07": "FLAIR+T1+T1c+T2", "patient19": "T1+T1c"}
    assert table["rewritten"].tolist() == ["", ""]
    zeros = sitk.ReadImage(str(dataset / "imagesTr" / "patient19_0003.nii.gz"))
    assert zeros.GetSize() == (182, 218, 182)
    assert zeros.GetDirection()[4] == -1
    assert (dataset / "imagesTr" / "patient19_0003.nii.gz").stat().st_size < 20_000


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real cases at {REAL}")
def test_cases_of_glioma_with_the_labels_of_2015(tmp_path):
    """Labels 0-4 stored as float, air that is a negative constant, and a brain mask that is no modality."""
    source = tmp_path / "brats"
    (source / "pat1").mkdir(parents=True)
    for file in (REAL / "deepmedic_brats2015" / "brats_2013_pat0001_1").iterdir():
        (source / "pat1" / file.name).symlink_to(file)
    arguments = [
        *(source, "-d", 137, "--layout", "pattern", "--pattern", "{case}/{modality}.nii.gz"),
        *("--label_pattern", "{case}/seg.nii.gz", "--modalities", "FLAIR=flair", "T1c=t1ce", "--labels"),
        *("whole tumor=1,2,3,4", "tumor core=1,3,4", "enhancing tumor=4"),
    ]
    convert(*arguments)
    dataset = dataset_of(tmp_path)
    table = pd.read_csv(dataset / "conversion.csv")
    assert table["subset"].tolist() == ["FLAIR+T1c"]
    assert table["rewritten"].str.contains("stored as float").all()
    converted = read(dataset / "labelsTr" / "pat1.nii.gz")
    assert converted.dtype == np.uint8
    described = json.loads((dataset / "dataset.json").read_text())
    original = read(source / "pat1" / "seg.nii.gz")
    for name, values in (("whole tumor", [1, 2, 3, 4]), ("tumor core", [1, 3, 4]), ("enhancing tumor", [4])):
        np.testing.assert_array_equal(np.isin(converted, described["labels"][name]), np.isin(original, values))
    restore_labels(dataset / "labelsTr", tmp_path / "out", dataset / "dataset.json")
    np.testing.assert_array_equal(read(tmp_path / "out" / "pat1.nii.gz"), original)
