"""Small sources whose every file is known: built by hand, without a layout."""

import hashlib

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings, convert
from nnunetv2_missmod.datasets.layouts.source import ImageFile, LabelScheme, Source, SourceCase

ALONE = ConversionSettings(processes=1)
MODALITIES = ("FLAIR", "T1c")
SCHEME = LabelScheme(
    {0: 0, 1: 2, 2: 1, 4: 3},
    {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
    (1, 2, 3),
)
SHAPE = (8, 9, 10)  # z, y, x


def volume(seed, shape=SHAPE):
    """Zero at the rim, positive inside; float32."""
    array = np.zeros(shape, np.float32)
    array[1:-1, 1:-1, 1:-1] = np.random.default_rng(seed).uniform(1, 100, [n - 2 for n in shape])
    return array


def label_map(values=(1, 2, 4), shape=SHAPE):
    """Two slices of each value; uint8."""
    array = np.zeros(shape, np.uint8)
    for place, value in enumerate(values, start=2):
        array[place, 2:6, 2:6] = value
    return array


def save(file, array, spacing=(1.0, 1.0, 2.0), orientation="LPS", origin=(0.0, 0.0, 0.0)):
    """Write an array that is in LPS order, with its axes in another orientation if wanted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(file), useCompression=True)
    return file


def write_case(
    folder, name, modalities=MODALITIES, *, values=(1, 2, 4), training=True, seed=0, ending=".nii.gz", **how
):
    """Write a sound case; returns what a layout would say of it."""
    for number, modality in enumerate(modalities):
        save(folder / name / f"{modality}{ending}", volume([seed, number, *name.encode()]), **how)
    label = save(folder / name / f"seg{ending}", label_map(values), **how) if values else None
    images = {modality: ImageFile(folder / name / f"{modality}{ending}") for modality in modalities}
    return SourceCase(name, name, images, label, training and label is not None)


def source_of(*cases, modalities=MODALITIES, scheme=SCHEME, layout="pattern"):
    return Source(layout, "Small", modalities, scheme, tuple(cases))


def read(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def hashes(folder):
    """What every file below a folder holds."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def convert_cases(tmp_path, *cases, settings=ALONE, **source):
    """Convert to tmp_path / "raw"; give the dataset's folder and the outcome of each case."""
    folder, outcomes = convert(source_of(*cases, **source), tmp_path / "raw", 137, settings)
    return folder, {outcome.case: outcome for outcome in outcomes}


def nothing_written(tmp_path, match, *cases, dataset_id=137, settings=ALONE, folders=(), **source):
    before = sorted((tmp_path / "raw").rglob("*"))
    with pytest.raises(ValueError, match=match):
        convert(source_of(*cases, **source), tmp_path / "raw", dataset_id, settings, folders)
    assert sorted((tmp_path / "raw").rglob("*")) == before
