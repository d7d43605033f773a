"""Which file is which channel of which case, by names alone."""

import pytest

from nnunetv2_missmod.files.channels import assign_channels, list_cases, passed_over_by_nnunet, stem_of

ENDING = ".nii.gz"
MODALITIES = ["FLAIR", "T1"]


@pytest.mark.parametrize(
    ("name", "ending", "stem"),
    [
        ("a_0000.nii.gz", ".nii.gz", "a_0000"),
        ("a_0000.NII.GZ", ".nii.gz", "a_0000"),
        ("a_0000.nii", ".nii.gz", "a_0000"),
        ("a_0000.nii.gz", ".nii", "a_0000"),
        ("a_0000.MHA", ".mha", "a_0000"),
        ("a_0000.nii", ".mha", None),
        ("a_0000.nii.gz", ".gz", "a_0000.nii"),
        ("nii.gz", ".nii.gz", None),
    ],
)
def test_endings_match_in_any_case_and_nifti_with_and_without_compression(name, ending, stem):
    assert stem_of(name, ending) == stem


def test_a_name_that_begins_like_another_is_another_case():
    listed = list_cases(["case_1_0000.nii.gz", "case_10_0000.nii.gz", "case_0001.nii.gz"], ENDING)
    assert listed.files_of == {
        "case": ["case_0001.nii.gz"],
        "case_1": ["case_1_0000.nii.gz"],
        "case_10": ["case_10_0000.nii.gz"],
    }
    assert listed.passed_over == []


@pytest.mark.parametrize("name", ["a.nii.gz", "b_T1.nii.gz", "a b.nii"])
def test_an_image_without_a_number_beside_no_case_is_a_case_of_its_own(name):
    listed = list_cases(["c_0000.nii.gz", name], ENDING)
    assert [name] in listed.files_of.values()
    case = next(case for case, names in listed.files_of.items() if names == [name])
    with pytest.raises(ValueError, match=f"Case {case}: expected files that end in one of _0000 = FLAIR"):
        assign_channels([name], MODALITIES, ENDING)


@pytest.mark.parametrize("name", ["c_seg.nii.gz", "c-brainmask.nii", "c.nii.gz.png", "photo.jpg", ".c_0001.nii.gz"])
def test_other_images_are_passed_over_and_named(name):
    assert list_cases(["c_0000.nii.gz", name], ENDING).passed_over == [name]


@pytest.mark.parametrize("name", ["notes.txt", "c_0000.json", "masks.csv", "README"])
def test_what_is_no_image_is_no_matter(name):
    assert list_cases(["c_0000.nii.gz", name], ENDING) == ({"c": ["c_0000.nii.gz"]}, [])


@pytest.mark.parametrize("suffix", ["_001", "_00001", "-0001", "_\u0660\u0660\u0660\u0661", "_\u0967"])
def test_what_looks_like_a_channel_but_is_none_is_its_cases_error(suffix):
    bad = f"c{suffix}.nii.gz"
    assert list_cases(["c_0000.nii.gz", bad], ENDING).files_of == {"c": sorted(["c_0000.nii.gz", bad])}
    with pytest.raises(ValueError, match=f"Case c: expected files that end in one of .*, got {bad}"):
        assign_channels(["c_0000.nii.gz", bad], MODALITIES, ENDING)


def test_the_same_channel_with_another_ending_is_there_twice():
    with pytest.raises(ValueError, match=r"one file for channel 1 \(T1\), got c_0001.nii and c_0001.NII.GZ"):
        assign_channels(["c_0001.nii", "c_0001.NII.GZ"], MODALITIES, ENDING)


@pytest.mark.parametrize("case", ["=1+1", "-1", "a\rb", "a\0b", "..", ".a", "a ", "\u202ea"])
def test_a_case_that_cannot_be_a_files_name_is_refused(case):
    with pytest.raises(ValueError, match=r"Expected a name for a case that can be a file's"):
        assign_channels([f"{case}_0000.nii.gz"], MODALITIES, ENDING)


@pytest.mark.parametrize("case", ["Sub 01.v2", "001", "NA", "患者-1", "a+b", "a=b", "(1)"])
def test_names_as_people_give_them_are_names(case):
    assert assign_channels([f"in/{case}_0001.nii.gz"], MODALITIES, ENDING) == ([1], case)


def test_nnunet_passes_over_what_is_found_beside(tmp_path):
    names = [
        "c_0000.nii.gz",
        "c_0001.nii",
        "c_0002.NII.GZ",
        "c_003.nii.gz",
        "c_0004.nii.gz",
        "c_1_0001.nii",
        "d_0001.nii",
    ]
    for name in names:
        (tmp_path / name).touch()
    found = passed_over_by_nnunet([str(tmp_path / "c_0000.nii.gz")], ENDING)
    assert sorted(found) == [str(tmp_path / name) for name in ("c_0001.nii", "c_0002.NII.GZ", "c_003.nii.gz")]
    assert passed_over_by_nnunet([str(tmp_path / "nowhere" / "c_0000.nii.gz")], ENDING) == []
