"""Cases that lack modalities, and the table of what became of each."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from small_cohort import (
    SHAPE,
    convert_cases,
    read,
    save,
    write_case,
)

from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings

# --- cases that lack modalities ---------------------------------------------------------------------------------------


def test_absent_channels_of_training_cases_are_zeros_on_the_cases_grid(tmp_path, archive):
    folder, outcomes = convert_cases(
        tmp_path, write_case(archive, "a"), write_case(archive, "b", ("T1c",), spacing=(1.0, 2.0, 3.0))
    )
    empty = sitk.ReadImage(str(folder / "imagesTr" / "b_0000.nii.gz"))
    there = sitk.ReadImage(str(folder / "imagesTr" / "b_0001.nii.gz"))
    assert not sitk.GetArrayFromImage(empty).any()
    assert empty.GetPixelID() == sitk.sitkUInt8
    assert empty.GetSize() == there.GetSize() and empty.GetSpacing() == there.GetSpacing()
    assert empty.GetOrigin() == there.GetOrigin() and empty.GetDirection() == there.GetDirection()
    assert (outcomes["b"].status, outcomes["b"].subset, outcomes["b"].why) == ("incomplete", "T1c", "no FLAIR")


def test_absent_channels_of_test_cases_are_not_written(tmp_path, archive):
    folder, outcomes = convert_cases(
        tmp_path, write_case(archive, "a"), write_case(archive, "b", ("T1c",), values=None)
    )
    assert sorted(file.name for file in folder.rglob("b_*")) == ["b_0001.nii.gz"]
    assert outcomes["b"].status == "incomplete"


def test_absent_channels_take_the_orientation_of_the_dataset(tmp_path, archive):
    cases = [write_case(archive, name) for name in "ab"] + [write_case(archive, "c", ("T1c",), orientation="SAR")]
    folder, _ = convert_cases(tmp_path, *cases)
    empty, there = (sitk.ReadImage(str(folder / "imagesTr" / f"c_000{channel}.nii.gz")) for channel in (0, 1))
    assert empty.GetSize() == there.GetSize() == SHAPE[::-1]
    assert empty.GetDirection() == there.GetDirection()
    assert empty.GetOrigin() == pytest.approx(there.GetOrigin())


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image_is_an_absent_modality(tmp_path, archive, value):
    case = write_case(archive, "b")
    save(case.images["FLAIR"].file, np.full(SHAPE, value, np.float32))
    folder, outcomes = convert_cases(tmp_path, write_case(archive, "a"), case)
    assert (outcomes["b"].status, outcomes["b"].why) == ("incomplete", "FLAIR is constant")
    assert not read(folder / "imagesTr" / "b_0000.nii.gz").any()


def test_incomplete_cases_are_left_out_on_demand(tmp_path, archive):
    cases = write_case(archive, "a"), write_case(archive, "b", ("T1c",))
    folder, outcomes = convert_cases(tmp_path, *cases, settings=ConversionSettings(complete_only=True, processes=1))
    assert sorted(file.name for file in (folder / "labelsTr").iterdir()) == ["a.nii.gz"]
    assert (outcomes["b"].status, outcomes["b"].why) == ("left out", "no FLAIR")
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 1


def test_a_label_without_foreground_is_kept_and_said(tmp_path, archive):
    """Patients without lesions belong to cohorts such as those of metastases and white matter."""
    _, outcomes = convert_cases(tmp_path, write_case(archive, "a"), write_case(archive, "b", values=(0,)))
    assert (outcomes["b"].status, outcomes["b"].why) == ("kept", "only background in the labels")


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_case(tmp_path, archive):
    cases = [
        write_case(archive, "a"),
        write_case(archive, "b", ("T1c",)),
        write_case(archive, "c", values=(9,)),
        write_case(archive, "d", values=None),
    ]
    folder, _ = convert_cases(tmp_path, *cases)
    table = pd.read_csv(folder / "conversion.csv", keep_default_na=False)
    assert table["case"].tolist() == list("abcd")
    assert table["part"].tolist() == ["training"] * 3 + ["test"]
    assert table["status"].tolist() == ["kept", "incomplete", "refused", "kept"]
    assert table["subset"].tolist() == ["FLAIR+T1c", "T1c", "", "FLAIR+T1c"]
    assert table["sources"][1] == f"T1c={archive / 'b' / 'T1c.nii.gz'}; labels={archive / 'b' / 'seg.nii.gz'}"
