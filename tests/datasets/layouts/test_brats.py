"""BraTS and FeTS: years, subjects, labels, and cases that are there twice."""

import shutil

import pytest
from small_layouts import names
from small_sources import image, write_brats_case, write_image

from nnunetv2_missmod.datasets.layouts.recognition import LAYOUTS, read_source

FOUR = ("FLAIR", "T1", "T1c", "T2")
BRATS = [layout for layout in LAYOUTS if layout.startswith(("brats", "fets"))]
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}


@pytest.mark.parametrize("layout", BRATS)
def test_brats_converts_to_the_labels_of_nnunets_own_conversion(originals, layout):
    source = read_source(originals[layout])
    assert source.modalities == FOUR
    enhancing = 3 if "2023" in layout or "2024" in layout else 4
    assert {2: 1, 1: 2, enhancing: 3}.items() <= source.scheme.from_source.items()
    assert REGIONS.items() <= dict(source.scheme.labels).items()
    assert source.scheme.regions_class_order[:3] == (1, 2, 3)


def test_the_resection_cavity_is_no_tumour(originals):
    scheme = read_source(originals["brats2024-gli"]).scheme
    assert scheme.from_source[4] == 4 and scheme.regions_class_order == (1, 2, 3, 4)
    assert scheme.labels == {**REGIONS, "resection cavity": [4]}


@pytest.mark.parametrize(
    ("layout", "case", "subject"),
    [
        ("brats2018", "Brats18_2013_1_1", "Brats18_2013_1"),
        ("brats2019", "BraTS19_TCIA01_131_1", "BraTS19_TCIA01_131"),
        ("brats2020", "BraTS20_Training_354", "BraTS20_Training_354"),
        ("brats2021", "BraTS2021_00001", "BraTS2021_00001"),
        ("fets2022", "FeTS2022_00001", "FeTS2022_00001"),
        ("brats2023-met", "BraTS-MET-00000-001", "BraTS-MET-00000"),
        ("brats2024-gli", "BraTS-GLI-00000-101", "BraTS-GLI-00000"),
    ],
)
def test_subjects_of_brats_are_told_by_their_names(originals, layout, case, subject):
    assert {found.name: found.subject for found in read_source(originals[layout]).cases}[case] == subject


def test_each_modality_is_its_file(originals):
    for layout, ends in (
        ("brats2018", ("_flair", "_t1", "_t1ce", "_t2", "_seg")),
        ("brats2023-gli", ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")),
    ):
        case = read_source(originals[layout]).cases[0]
        files = [case.images[modality].file.name for modality in FOUR] + [case.label.name]
        assert files == [f"{case.name}{end}.nii.gz" for end in ends]
        assert all(image.volume is None for image in case.images.values())


def test_the_labels_that_the_archive_misnames_are_found(originals):
    case = read_source(originals["brats2020"]).cases[2]
    assert case.name == "BraTS20_Training_355" and case.label.name == "W39_1998.09.19_Segm.nii"


def test_a_grade_or_a_case_alone_can_be_read(originals):
    root = originals["brats2018"]
    assert names(read_source(root / "LGG")) == ["Brats18_2013_1_1"]
    assert names(read_source(root / "LGG" / "Brats18_2013_1_1")) == ["Brats18_2013_1_1"]


def test_cases_without_labels_are_not_for_training(tmp_path, originals):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    (root / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz").unlink()
    first, second, _ = read_source(root).cases
    assert first.is_training and first.label
    assert not second.is_training and second.label is None and len(second.images) == 4


def test_a_case_may_lack_modalities(tmp_path, originals):
    root = shutil.copytree(originals["brats2023-gli"], tmp_path / "root")
    for end in ("t2f", "t1c"):
        (root / "BraTS-GLI-00000-001" / f"BraTS-GLI-00000-001-{end}.nii.gz").unlink()
    case = read_source(root).cases[1]
    assert list(case.images) == ["T1", "T2"] and case.is_training


def test_a_case_in_two_places_is_an_error_that_names_both(tmp_path, originals):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    shutil.copytree(root / "BraTS2021_00001", root / "copy" / "BraTS2021_00001")
    with pytest.raises(ValueError, match=r"BraTS2021_00001 once.*root/BraTS2021_00001.*root/copy/BraTS2021_00001"):
        read_source(root)


def test_labels_in_another_folder_are_no_labels_of_the_case(tmp_path, originals):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    (root / "masks").mkdir()
    (root / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz").rename(root / "masks" / "BraTS2021_00001_seg.nii.gz")
    with pytest.raises(ValueError, match="masks"):
        read_source(root)


def test_a_file_packed_and_unpacked_is_an_error_that_names_both(tmp_path, originals):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    write_image(root / "BraTS2021_00001" / "BraTS2021_00001_t1ce.nii", image("twice", 0))
    with pytest.raises(ValueError, match=r"T1c of the case BraTS2021_00001.*_t1ce\.nii and .*_t1ce\.nii\.gz"):
        read_source(root)


def test_gliomas_of_2023_among_those_after_treatment_are_read_with_them(tmp_path, originals):
    for layout in ("brats2023-gli", "brats2024-gli"):
        shutil.copytree(originals[layout], tmp_path / layout)
    source = read_source(tmp_path)
    assert source.layout == "brats2024-gli" and len(source.cases) == 6
    assert {case.subject for case in source.cases} == {"BraTS-GLI-00000", "BraTS-GLI-00001"}
    assert len(read_source(tmp_path, "brats2023-gli").cases) == 3


def test_pediatric_cases_must_say_that_they_are_of_2023(tmp_path, originals):
    unsaid = shutil.copytree(originals["brats2023-ped"], tmp_path / "PED")
    with pytest.raises(ValueError, match=r"2023.*--layout brats2023-ped"):
        read_source(unsaid)
    assert len(read_source(unsaid, "brats2023-ped").cases) == 3


def test_a_brats_case_of_other_modalities_keeps_those_that_are_known(tmp_path):
    write_brats_case(tmp_path / "BraTS2021_00000", ("_flair", "_t1gd", "_seg"), (1, 2, 4), ".nii.gz")
    assert list(read_source(tmp_path).cases[0].images) == ["FLAIR"]
