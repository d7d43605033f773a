"""`missmod convert` on real cases, where they are."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from small_cohort import read
from small_conversion import convert, dataset_of

from nnunetv2_missmod.datasets.conversion.restore import restore_labels

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.usefixtures("folders")


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
