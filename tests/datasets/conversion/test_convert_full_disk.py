"""What is left when a disk is full: SimpleITK writes on without a word, and no half file may get a name."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from full_disk import full_disk
from small_cohort import ALONE, label_map, read, save, source_of, write_case

from nnunetv2_missmod.datasets import volumes
from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings, convert
from nnunetv2_missmod.datasets.conversion.fill import fill
from nnunetv2_missmod.datasets.conversion.restore import restore_labels
from nnunetv2_missmod.datasets.layouts.source import LabelScheme
from nnunetv2_missmod.datasets.phantom.cohort import write_phantom_dataset
from nnunetv2_missmod.datasets.volumes import write_volume


def noise(shape=(12, 12, 12)):
    return np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_volume_that_does_not_fit_is_an_error_and_leaves_what_was_there(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    file.write_text("before")
    image = sitk.GetImageFromArray(np.random.default_rng(0).uniform(size=(9, 9, 9)))
    with full_disk(1000), pytest.raises(OSError):
        write_volume(image, file)
    assert file.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
    write_volume(image, file)
    np.testing.assert_array_equal(read(file), sitk.GetArrayFromImage(image))


def test_other_voxels_than_were_given_are_seen(tmp_path, monkeypatch):
    image, other = (sitk.GetImageFromArray(noise() + add) for add in (np.uint8(0), np.uint8(1)))
    whole_write = sitk.WriteImage
    monkeypatch.setattr(volumes.sitk, "WriteImage", lambda _, *how, **named: whole_write(other, *how, **named))
    with pytest.raises(OSError, match="other voxels"):
        write_volume(image, tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_masks_before_the_disk_was_full_stay(tmp_path):
    folder, _ = convert(source_of(write_case(tmp_path / "archive", "a")), tmp_path / "raw", 137, ALONE)
    masks = tmp_path / "masks"
    save(masks / "a.nii.gz", label_map((1,), (12, 12, 12)))
    for name in "bc":
        save(masks / f"{name}.nii.gz", noise())
    with full_disk(300), pytest.raises(OSError, match=r"cannot write .*b\.nii\.gz"):
        restore_labels(masks, tmp_path / "out", folder / "dataset.json")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.nii.gz"]
    assert set(np.unique(read(tmp_path / "out" / "a.nii.gz"))) == {0, 2}


@pytest.mark.parametrize("settings", [ALONE, ConversionSettings(copy=True, processes=1)])
def test_a_conversion_that_does_not_fit_leaves_nothing(tmp_path, settings):
    cases = write_case(tmp_path / "archive", "a", ending=".nii"), write_case(tmp_path / "archive", "b")
    with full_disk(1000), pytest.raises(OSError):
        convert(source_of(*cases), tmp_path / "raw", 137, settings)
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_copy_that_is_cut_short_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", lambda _, file: file.write_bytes(b"short"))
    with pytest.raises(OSError, match=r"5 of .* bytes arrived"):
        settings = ConversionSettings(copy=True, processes=1)
        convert(source_of(write_case(tmp_path / "archive", "a")), tmp_path / "raw", 137, settings)
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_dataset_that_cannot_be_filled_is_as_it_was(tmp_path):
    cases = [
        write_case(tmp_path / "archive", "a", values=(1,)),
        write_case(tmp_path / "archive", "b", ("T1c",), values=(1,)),
    ]
    same = LabelScheme({0: 0, 1: 1}, {"background": 0, "lesion": 1})
    source = source_of(*cases, scheme=same)
    folder, _ = convert(source_of(cases[0], scheme=same), tmp_path / "raw", 137, ALONE)
    before = sorted(folder.rglob("*"))
    with full_disk(20), pytest.raises(OSError):
        fill(source, folder, ".nii.gz", 1)
    assert sorted(folder.rglob("*")) == before


def test_a_phantom_that_does_not_fit_leaves_nothing(tmp_path):
    with full_disk(5000), pytest.raises(OSError):
        write_phantom_dataset(tmp_path, num_training=1, num_test=1, num_modalities=2, shape=(32, 32, 32))
    assert list(tmp_path.iterdir()) == []
