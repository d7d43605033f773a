"""From a source to an nnU-Net raw dataset: what is written, linked, mapped and reported."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from small_cohort import (
    MODALITIES,
    SCHEME,
    SHAPE,
    convert_cases,
    hashes,
    label_map,
    read,
    save,
    volume,
    write_case,
)
from small_conversion import nnunet_in_threads

from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings
from nnunetv2_missmod.datasets.layouts.source import ImageFile, LabelScheme, SourceCase

# --- what is written --------------------------------------------------------------------------------------------------


def test_a_dataset_has_the_folders_files_and_names_of_nnunet(tmp_path, archive):
    folder, outcomes = convert_cases(tmp_path, write_case(archive, "a"), write_case(archive, "b", values=None))
    assert folder == tmp_path / "raw" / "Dataset137_Small"
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*")) == [
        "conversion.csv",
        "dataset.json",
        "imagesTr/a_0000.nii.gz",
        "imagesTr/a_0001.nii.gz",
        "imagesTs/b_0000.nii.gz",
        "imagesTs/b_0001.nii.gz",
        "labelsTr/a.nii.gz",
    ]
    assert {outcome.status for outcome in outcomes.values()} == {"kept"}
    assert [file.name for file in (tmp_path / "raw").iterdir()] == [folder.name]


def test_folders_without_files_are_not_there(tmp_path, archive):
    folder, _ = convert_cases(tmp_path, write_case(archive, "a"))
    assert {entry.name for entry in folder.iterdir()} == {"imagesTr", "labelsTr", "dataset.json", "conversion.csv"}


def test_labels_of_test_cases_are_kept_beside_them(tmp_path, archive):
    folder, _ = convert_cases(tmp_path, write_case(archive, "a"), write_case(archive, "b", training=False))
    assert read(folder / "labelsTs" / "b.nii.gz").max() == 3
    assert not (folder / "labelsTr" / "b.nii.gz").exists()


def test_the_description_names_channels_labels_and_the_way_back(tmp_path, archive):
    folder, _ = convert_cases(tmp_path, write_case(archive, "a"), write_case(archive, "b"))
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "FLAIR", "1": "T1c"},
        "labels": SCHEME.labels,
        "regions_class_order": [1, 2, 3],
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "missmod": {"layout": "pattern", "source_values": {"0": 0, "1": 2, "2": 1, "3": 4}},
    }


def test_plain_labels_have_no_order_of_regions(tmp_path, archive):
    scheme = LabelScheme({0: 0, 1: 1, 2: 1}, {"background": 0, "lesion": 1})
    folder, _ = convert_cases(tmp_path, write_case(archive, "a", values=(1, 2)), scheme=scheme)
    described = json.loads((folder / "dataset.json").read_text())
    assert "regions_class_order" not in described
    assert described["missmod"]["source_values"] == {"0": 0, "1": 1}
    assert set(np.unique(read(folder / "labelsTr" / "a.nii.gz"))) == {0, 1}


def test_channels_follow_the_names_and_not_the_order_in_which_files_were_found(tmp_path, archive):
    case = write_case(archive, "a", ("T1c", "FLAIR"))
    folder, _ = convert_cases(tmp_path, case)
    for channel, modality in enumerate(MODALITIES):
        source = read(archive / "a" / f"{modality}.nii.gz")
        np.testing.assert_array_equal(read(folder / "imagesTr" / f"a_{channel:04d}.nii.gz"), source)


def test_labels_are_mapped_and_lie_where_they_lay(tmp_path, archive):
    folder, outcomes = convert_cases(tmp_path, write_case(archive, "a", origin=(3.0, -4.0, 5.0)))
    source, converted = archive / "a" / "seg.nii.gz", folder / "labelsTr" / "a.nii.gz"
    np.testing.assert_array_equal(read(converted), np.array([0, 2, 1, 9, 3])[read(source)])
    assert not converted.is_symlink()
    assert outcomes["a"].rewritten == "labels: values mapped"
    images = [sitk.ReadImage(str(file)) for file in (source, converted)]
    assert images[0].GetOrigin() == images[1].GetOrigin()
    assert images[1].GetPixelID() == sitk.sitkUInt8


# --- linking, copying, writing again ----------------------------------------------------------------------------------


def test_files_are_linked_by_absolute_path(tmp_path, archive, monkeypatch):
    case = write_case(archive, "a", values=None)
    monkeypatch.chdir(tmp_path)
    relative = {name: ImageFile(image.file.relative_to(tmp_path)) for name, image in case.images.items()}
    folder, outcomes = convert_cases(tmp_path, SourceCase("a", "a", relative, None, False))
    link = folder / "imagesTs" / "a_0000.nii.gz"
    assert link.readlink() == archive / "a" / "FLAIR.nii.gz"
    assert outcomes["a"].rewritten == ""


def test_labels_that_need_no_change_are_linked(tmp_path, archive):
    scheme = LabelScheme({0: 0, 1: 1, 2: 2}, {"background": 0, "one": 1, "two": 2})
    folder, _ = convert_cases(tmp_path, write_case(archive, "a", values=(1, 2)), scheme=scheme)
    assert (folder / "labelsTr" / "a.nii.gz").is_symlink()


def test_copies_do_not_depend_on_the_source(tmp_path, archive):
    folder, _ = convert_cases(tmp_path, write_case(archive, "a"), settings=ConversionSettings(copy=True, processes=1))
    assert not any(file.is_symlink() for file in folder.rglob("*"))
    copied = folder / "imagesTr" / "a_0000.nii.gz"
    assert copied.read_bytes() == (archive / "a" / "FLAIR.nii.gz").read_bytes()


@pytest.mark.parametrize("copy", [False, True])
def test_the_sources_are_never_altered(tmp_path, archive, copy):
    cases = [
        write_case(archive, "a"),
        write_case(archive, "b", orientation="RAS"),
        write_case(archive, "c", ending=".nii"),
        write_case(archive, "d", ("T1c",)),
        write_case(archive, "e", values=(9,)),
    ]
    before = hashes(archive)
    convert_cases(tmp_path, *cases, settings=ConversionSettings(copy=copy, processes=1))
    assert hashes(archive) == before


def test_float_labels_become_integers(tmp_path, archive):
    case = write_case(archive, "a")
    save(case.label, label_map().astype(np.float32))
    folder, outcomes = convert_cases(tmp_path, case)
    converted = sitk.ReadImage(str(folder / "labelsTr" / "a.nii.gz"))
    assert converted.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayFromImage(converted))) == {0, 1, 2, 3}
    assert outcomes["a"].rewritten == "labels: stored as float; labels: values mapped"


def test_float_labels_become_integers_also_if_their_values_stay(tmp_path, archive):
    case = write_case(archive, "a", values=(1,))
    save(case.label, label_map((1,)).astype(np.float64))
    folder, outcomes = convert_cases(tmp_path, case, scheme=LabelScheme({0: 0, 1: 1}, {"background": 0, "lesion": 1}))
    assert sitk.ReadImage(str(folder / "labelsTr" / "a.nii.gz")).GetPixelID() == sitk.sitkUInt8
    assert outcomes["a"].rewritten == "labels: stored as float"


def test_volumes_of_a_4d_file_are_written_one_by_one(tmp_path, archive):
    case = write_case(archive, "a")
    stacked = np.stack([volume(1), volume(2), volume(3)])
    image = sitk.JoinSeries([sitk.GetImageFromArray(one) for one in stacked])
    image.SetSpacing((1.0, 1.0, 2.0, 1.0))
    sitk.WriteImage(image, str(archive / "all.nii.gz"))
    images = {"FLAIR": ImageFile(archive / "all.nii.gz", 2), "T1c": ImageFile(archive / "all.nii.gz", 0)}
    folder, outcomes = convert_cases(tmp_path, SourceCase("a", "a", images, case.label))
    np.testing.assert_array_equal(read(folder / "imagesTr" / "a_0000.nii.gz"), stacked[2])
    np.testing.assert_array_equal(read(folder / "imagesTr" / "a_0001.nii.gz"), stacked[0])
    assert "FLAIR: one volume of a 4D file" in outcomes["a"].rewritten


def test_several_4d_files_of_a_case_are_told_apart(tmp_path, archive):
    """The second holds a constant, so its modality is absent."""
    case, images = write_case(archive, "a"), {}
    for modality, array in (("FLAIR", volume(1)), ("T1c", np.full(SHAPE, 5, np.float32))):
        image = sitk.JoinSeries([sitk.GetImageFromArray(array), sitk.GetImageFromArray(array)])
        image.SetSpacing((1.0, 1.0, 2.0, 1.0))
        sitk.WriteImage(image, str(archive / f"{modality}.nii.gz"))
        images[modality] = ImageFile(archive / f"{modality}.nii.gz", 1)
    _, outcomes = convert_cases(tmp_path, SourceCase("a", "a", images, case.label), write_case(archive, "b"))
    assert outcomes["a"].why == "T1c is constant"


def test_a_dataset_of_uncompressed_files_stays_uncompressed(tmp_path, archive):
    folder, _ = convert_cases(
        tmp_path, write_case(archive, "a", ending=".nii"), write_case(archive, "b", ("T1c",), ending=".nii")
    )
    assert json.loads((folder / "dataset.json").read_text())["file_ending"] == ".nii"
    assert (folder / "imagesTr" / "a_0000.nii").is_symlink()
    assert (folder / "imagesTr" / "b_0000.nii").is_file()


def test_a_dataset_has_one_file_ending(tmp_path, archive):
    folder, outcomes = convert_cases(tmp_path, write_case(archive, "a"), write_case(archive, "b", ending=".nii"))
    assert outcomes["b"].rewritten.startswith("FLAIR: ending to .nii.gz; T1c: ending to .nii.gz; labels: ")
    np.testing.assert_array_equal(read(folder / "imagesTr" / "b_0000.nii.gz"), read(archive / "b" / "FLAIR.nii"))


def test_cases_take_the_most_common_orientation(tmp_path, archive):
    cases = [write_case(archive, name) for name in "ab"] + [write_case(archive, "c", orientation="RAI")]
    folder, outcomes = convert_cases(tmp_path, *cases)
    assert "FLAIR: orientation RAI to LPS" in outcomes["c"].rewritten
    assert "labels: orientation RAI to LPS" in outcomes["c"].rewritten
    written = sitk.ReadImage(str(folder / "imagesTr" / "c_0000.nii.gz"))
    expected = sitk.DICOMOrient(sitk.ReadImage(str(archive / "c" / "FLAIR.nii.gz")), "LPS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(expected))
    assert written.GetDirection() == expected.GetDirection()
    assert (folder / "imagesTr" / "a_0000.nii.gz").is_symlink()


def test_files_of_a_case_that_agree_but_for_their_orientation_are_brought_together(tmp_path, archive):
    case = write_case(archive, "a")
    save(case.images["T1c"].file, volume(7), orientation="RSA")
    folder, outcomes = convert_cases(tmp_path, case)
    np.testing.assert_array_equal(read(folder / "imagesTr" / "a_0001.nii.gz"), volume(7))
    assert outcomes["a"].rewritten == "T1c: orientation RSA to LPS; labels: values mapped"


# --- nnU-Net and several processes ------------------------------------------------------------------------------------


def test_nnunet_finds_nothing_wrong_with_an_incomplete_cohort(tmp_path, archive, monkeypatch):
    """Converted in two processes."""
    cases = [
        write_case(archive, "a"),
        write_case(archive, "b", ("T1c",)),
        write_case(archive, "c", ("FLAIR",), orientation="RAS"),
        write_case(archive, "d", values=(8,)),
    ]
    folder, outcomes = convert_cases(tmp_path, *cases, settings=ConversionSettings(processes=2))
    assert [outcome.status for outcome in outcomes.values()] == ["kept", "incomplete", "incomplete", "refused"]
    nnunet_in_threads(monkeypatch)
    verify_dataset_integrity(str(folder), 1)
