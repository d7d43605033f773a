"""`missmod convert` on an nnU-Net dataset: the files that it lacks, added where it is."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from small_cohort import hashes, label_map, read, save
from small_conversion import convert, dataset_of, failure, nnunet_in_threads

from nnunetv2_missmod.datasets.conversion.restore import restore_labels
from nnunetv2_missmod.datasets.layouts.recognition import read_source

pytestmark = pytest.mark.usefixtures("folders")


# --- in place ---------------------------------------------------------------------------------------------------------


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
    nnunet_in_threads(monkeypatch)
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
    nnunet_in_threads(monkeypatch)
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
