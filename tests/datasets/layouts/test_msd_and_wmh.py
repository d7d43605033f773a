"""Task01 of the Decathlon, and the WMH challenge."""

import shutil

import numpy as np
import pytest
from small_layouts import change_description, names
from small_sources import image, labels, write_image, write_layout, write_wmh_case

from nnunetv2_missmod.datasets.layouts.recognition import read_source

FOUR = ("FLAIR", "T1", "T1c", "T2")


def test_volumes_and_values_of_the_decathlon_are_found_by_name(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    case = read_source(root).cases[0]
    assert {modality: image.volume for modality, image in case.images.items()} == dict(zip(FOUR, range(4), strict=True))
    change_description(
        root,
        modality={"0": "T2w", "1": "FLAIR", "2": "T1w", "3": "t1gd"},
        labels={"0": "background", "1": "enhancing tumour", "2": "edema", "3": "non-enhancing tumor"},
    )
    source = read_source(root)
    volumes = {modality: image.volume for modality, image in source.cases[0].images.items()}
    assert volumes == {"FLAIR": 1, "T1": 2, "T1c": 3, "T2": 0}
    assert source.scheme.from_source == {0: 0, 2: 1, 3: 2, 1: 3}


@pytest.mark.parametrize("entry", [["FLAIR"], {"zero": "FLAIR"}, 5])
def test_a_decathlon_whose_description_cannot_be(tmp_path, entry):
    root = write_layout(tmp_path, "msd-task01")
    change_description(root, modality=entry)
    with pytest.raises(ValueError, match="Expected modality such as"):
        read_source(root, "msd-task01")


def test_test_images_of_the_decathlon_are_not_for_training(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    write_image(root / "imagesTs" / "BRATS_485.nii.gz", np.stack([image("485", n) for n in range(4)]))
    case = read_source(root).cases[-1]
    assert (case.name, case.is_training, case.label) == ("BRATS_485", False, None)


def test_another_task_of_the_decathlon_is_an_error(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    change_description(root, modality={"0": "T2", "1": "ADC"})
    with pytest.raises(ValueError, match=r"t1gd.*t2, adc.*nnUNetv2_convert_MSD_dataset"):
        read_source(root)


def test_the_decathlon_as_nnunet_v1_has_it_is_an_error(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    write_image(root / "imagesTr" / "BRATS_001_0000.nii.gz", image("v1", 0))
    with pytest.raises(ValueError, match="nnUNetv2_convert_old_nnUNet_dataset"):
        read_source(root)


def test_a_decathlon_without_images_is_an_error(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    shutil.rmtree(root / "imagesTr")
    with pytest.raises(ValueError, match="imagesTr"):
        read_source(root)


def test_wmh_reads_the_aligned_images_and_ignores_other_pathology(originals):
    source = read_source(originals["wmh"])
    assert names(source) == ["GE3T_100", "Singapore_50", "Utrecht_0"]
    assert {image.file.parent.name for case in source.cases for image in case.images.values()} == {"pre"}
    assert source.scheme.labels == {"background": 0, "white matter hyperintensity": 1, "ignore": 2}


def test_the_later_archive_of_wmh_has_the_same_names_and_test_cases(tmp_path):
    for place in (
        "training/Utrecht/0",
        "training/Amsterdam/GE3T/100",
        "test/Amsterdam/GE1T5/150",
        "test/Amsterdam/Philips_VU .PETMR_01./160",
        "test/Singapore/70",
    ):
        write_wmh_case(tmp_path / "WMH" / place)
    write_image(tmp_path / "WMH/additional_annotations/observer_o3/training/Utrecht/0/result.nii.gz", labels((1, 2)))
    source = read_source(tmp_path / "WMH")
    assert {case.name: case.is_training for case in source.cases} == {
        "GE1T5_150": False,
        "GE3T_100": True,
        "Philips_VU_PETMR_01_160": False,
        "Singapore_70": False,
        "Utrecht_0": True,
    }
    assert all(case.label for case in source.cases)
    assert names(read_source(tmp_path / "WMH" / "test" / "Singapore")) == ["Singapore_70"]


def test_folders_that_are_like_those_of_wmh_are_not_taken_for_them(tmp_path):
    for name in ("pre/FLAIR.nii.gz", "pre/T1.nii.gz", "pre/IR.nii.gz", "segm.nii.gz"):  # MRBrainS18
        write_image(tmp_path / "training" / "1" / name, image(name, 0))
    with pytest.raises(ValueError, match="known layout"):
        read_source(tmp_path)


def test_wmh_without_labels_can_be_named(tmp_path):
    write_wmh_case(tmp_path / "Utrecht" / "0")
    (tmp_path / "Utrecht" / "0" / "wmh.nii.gz").unlink()
    case = read_source(tmp_path, "wmh").cases[0]
    assert case.label is None and not case.is_training and list(case.images) == ["FLAIR", "T1"]


def test_a_case_of_both_archives_of_wmh_is_an_error(tmp_path):
    for place in ("old/Utrecht/0", "new/training/Utrecht/0"):
        write_wmh_case(tmp_path / place)
    with pytest.raises(ValueError, match="Utrecht_0 once"):
        read_source(tmp_path)
