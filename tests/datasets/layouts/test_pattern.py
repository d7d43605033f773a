import shutil

import pytest
from small_sources import image, labels, write_image, write_layout

from nnunetv2_missmod.datasets.layouts.label_names import parse_labels
from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout, parse_modalities
from nnunetv2_missmod.datasets.layouts.recognition import read_source

TWO = {"FLAIR": "flair", "T1c": "t1ce"}
LESION = parse_labels(["edema=1", "core=2"])
IMAGES, LABEL = "{case}/{case}_{modality}.nii.gz", "{case}/{case}_seg.nii.gz"


@pytest.fixture
def cohort(tmp_path):
    return write_layout(tmp_path, "pattern")


def read(folder, images=IMAGES, label=LABEL, modalities=TWO, labels=LESION):
    return read_source(folder, "pattern", PatternLayout(images, modalities, label, labels if label else {}))


def write_images(folder, *names):
    for name in names:
        write_image(folder / name, image(name, 0))


def test_cases_are_read_by_name(cohort):
    source = read(cohort)
    assert source.layout == "pattern" and source.name == "cohort" and source.modalities == ("FLAIR", "T1c")
    assert [case.name for case in source.cases] == ["patient_00", "patient_01", "patient_02"]
    first = source.cases[0]
    assert {name: found.file.name for name, found in first.images.items()} == {
        "FLAIR": "patient_00_flair.nii.gz",
        "T1c": "patient_00_t1ce.nii.gz",
    }
    assert first.label.name == "patient_00_seg.nii.gz" and first.is_training and first.subject == "patient_00"
    assert source.scheme.labels == {"background": 0, "edema": 1, "core": 2}


def test_the_order_of_the_modalities_is_the_users(cohort):
    source = read(cohort, modalities={"T1c": "t1ce", "FLAIR": "flair"})
    assert source.modalities == ("T1c", "FLAIR") == tuple(source.cases[0].images)


def test_without_a_pattern_of_labels_no_case_is_for_training(cohort):
    assert not any(case.is_training or case.label for case in read(cohort, label=None).cases)


def test_a_case_may_lack_files(cohort):
    (cohort / "patient_01" / "patient_01_flair.nii.gz").unlink()
    (cohort / "patient_02" / "patient_02_seg.nii.gz").unlink()
    _, second, third = read(cohort).cases
    assert list(second.images) == ["T1c"] and second.is_training
    assert list(third.images) == ["FLAIR", "T1c"] and not third.is_training


def test_a_modality_whose_text_begins_with_anothers(tmp_path):
    write_images(tmp_path, "a_t1.nii.gz", "a_t1ce.nii.gz")
    case = read(tmp_path, "{case}_{modality}*.nii.gz", None, {"T1": "t1", "T1c": "t1ce"}).cases[0]
    assert {name: found.file.name for name, found in case.images.items()} == {
        "T1": "a_t1.nii.gz",
        "T1c": "a_t1ce.nii.gz",
    }


def test_files_named_by_modality_alone_and_a_star(tmp_path):
    write_images(tmp_path, "site 1/p1/flair.nii.gz", "site 2/p2/flair.nii.gz", "site 2/p2/deep/flair.nii.gz")
    assert [case.name for case in read(tmp_path, "*/{case}/{modality}.nii.gz", None).cases] == ["p1", "p2"]


def test_the_same_field_is_the_same_text(tmp_path):
    write_images(tmp_path, "p1/p1_flair.nii.gz", "p2/p1_flair.nii.gz")
    assert [case.images["FLAIR"].file.parent.name for case in read(tmp_path, label=None).cases] == ["p1"]


def test_a_subject_of_several_scans(tmp_path):
    write_images(tmp_path, "anna/anna-1_flair.nii.gz", "anna/anna-2_flair.nii.gz", "ben/ben-1_flair.nii.gz")
    write_image(tmp_path / "labels" / "anna-1.nii.gz", labels((1,)))
    source = read(tmp_path, "{subject}/{case}_{modality}.nii.gz", "labels/{case}.nii.gz")
    assert {case.name: case.subject for case in source.cases} == {"anna-1": "anna", "anna-2": "anna", "ben-1": "ben"}


def test_two_files_for_one_part_are_named(tmp_path):
    write_images(tmp_path, "a/p1_flair.nii.gz", "b/p1_flair.nii.gz")
    with pytest.raises(ValueError, match=r"FLAIR of the case p1, found .*a/p1_flair.* and .*b/p1_flair"):
        read(tmp_path, "*/{case}_{modality}.nii.gz", None)


def test_a_case_of_two_subjects_is_an_error(tmp_path):
    write_images(tmp_path, "anna/1_flair.nii.gz", "ben/1_t1ce.nii.gz")
    with pytest.raises(ValueError, match="case 1 to be of one subject, found anna, ben"):
        read(tmp_path, "{subject}/{case}_{modality}.nii.gz", None)


def test_characters_of_a_pattern_stand_for_themselves(tmp_path):
    write_images(tmp_path, "p1+(a)_flair.nii.gz", "p1+a_flairxnii.gz.nii.gz")
    assert [case.name for case in read(tmp_path, "{case}+(a)_{modality}.nii.gz", None).cases] == ["p1"]


def test_hidden_files_are_left_out(cohort):
    shutil.copytree(cohort / "patient_00", cohort / ".patient_03")
    assert len(read(cohort).cases) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "{case}/flair.nii.gz"}, r"\{modality\} in the pattern"),
        ({"images": "{modality}.nii.gz"}, r"\{case\} in the pattern"),
        ({"images": "{case}/{patient}_{modality}.nii.gz"}, r"got \{patient\}"),
        ({"images": "{case}/{}_{modality}.nii.gz"}, r"got \{\}"),
        ({"label": "{case}/{modality}_seg.nii.gz"}, r"got \{modality\}"),
        ({"label": "seg.nii.gz"}, r"\{case\} in the pattern"),
        ({"images": "images/{case}_{modality}.nii.gz"}, r"found none among 9 files such as patient_00/"),
        ({"label": "{case}/{case}_mask.nii.gz"}, r"labels .*_mask.*found none"),
        ({"modalities": {"T2": "t2"}}, "one of t2, found none"),
        ({"modalities": {}}, "modalities of the pattern"),
        ({"labels": {}}, "labels of .*_seg"),
    ],
)
def test_patterns_that_cannot_be(cohort, changes, message):
    with pytest.raises(ValueError, match=message):
        read(cohort, **changes)


def test_labels_need_a_pattern(cohort):
    with pytest.raises(ValueError, match="pattern of the files of the labels"):
        read_source(cohort, "pattern", PatternLayout(IMAGES, TWO, None, LESION))


def test_a_pattern_of_an_absolute_path_is_said_to_be_relative(cohort):
    with pytest.raises(ValueError, match="relative to the folder"):
        read(cohort, images=f"{cohort}/{IMAGES}")


def test_modalities_are_read():
    assert parse_modalities(["FLAIR=flair", "T1c = t1ce", "T2"]) == {"FLAIR": "flair", "T1c": "t1ce", "T2": "T2"}


@pytest.mark.parametrize(
    "texts", [["=flair"], ["FLAIR="], [""], ["FLAIR=a/b"], ["T1=t1", "T1=t1n"], ["T1=t1", "T2=t1"]]
)
def test_what_is_no_modality_is_named(texts):
    with pytest.raises(ValueError, match=f"got {texts[-1]!r}"):
        parse_modalities(texts)
