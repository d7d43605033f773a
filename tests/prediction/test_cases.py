import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from small_models import SPACING, small_images, write_case, write_image, write_label
from small_plans import small_dataset_json

from nnunetv2_missmod.evaluation.truth import check_label, read_truth
from nnunetv2_missmod.prediction.cases import CaseFiles, cases_in, held_out_cases
from nnunetv2_missmod.prediction.regions import known_values, regions_of

ENDING = ".nii.gz"
SHAPE = (8, 9, 10)
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed")


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


# --- cases of a folder ------------------------------------------------------------------------------------------------


def test_files_are_one_case_by_the_name_before_the_channel(tmp_path):
    images = touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_0002.nii.gz", "a_1_0000.nii.gz", "a_0001_0000.nii.gz")
    assert cases_in(images, ENDING) == [
        CaseFiles("a_0001", [str(images / "a_0001_0000.nii.gz")]),
        CaseFiles("a", [str(images / "a_0002.nii.gz")]),
        CaseFiles("a_1", [str(images / "a_1_0000.nii.gz")]),
        CaseFiles("b", [str(images / "b_0000.nii.gz"), str(images / "b_0001.nii.gz")]),
    ]


def test_other_files_are_passed_over_and_images_among_them_are_named(tmp_path, capsys):
    images = touch(tmp_path, "a_0000.nii.gz", "dataset.json", "notes.txt", "._d_0000.nii.gz", "a_seg.nii.gz", "p.png")
    assert [case.name for case in cases_in(images, ENDING)] == ["a"]
    said = capsys.readouterr().err
    assert said.startswith(f"Passed over in {images}, ")
    assert "3, '._d_0000.nii.gz', 'a_seg.nii.gz', 'p.png'" in said


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("a_0001.nii", "a"),
        ("a_0001.NII.GZ", "a"),
        ("a_001.nii.gz", "a"),
        ("a-0001.nii.gz", "a"),
        ("a_\u0660\u0660\u0660\u0661.nii.gz", "a"),
        ("a_0001.nrrd", "a"),
        ("patient two.nii.gz", "patient two"),
    ],
)
def test_a_file_that_may_be_a_channel_is_never_passed_over(tmp_path, name, case):
    images = touch(tmp_path, "a_0000.nii.gz", name)
    assert str(images / name) in {found.name: found for found in cases_in(images, ENDING)}[case].images


def test_a_label_may_be_of_the_other_nifti_ending(tmp_path):
    images, labels = touch(tmp_path / "images", "a_0000.nii.gz"), touch(tmp_path / "labels", "a.NII")
    assert cases_in(images, ENDING, labels)[0].label == str(labels / "a.NII")
    touch(labels, "a.nii.gz")
    with pytest.raises(ValueError, match=r"one label for the case a in .*, found a.NII and a.nii.gz"):
        cases_in(images, ENDING, labels)


def test_the_label_is_named_whether_it_is_there_or_not(tmp_path):
    images, labels = touch(tmp_path / "images", "a_0000.nii.gz", "b_0000.nii.gz"), touch(tmp_path / "labels")
    touch(labels, "a.nii.gz", "c.nii.gz")
    found = cases_in(images, ENDING, labels)
    assert [(case.name, case.label) for case in found] == [
        ("a", str(labels / "a.nii.gz")),
        ("b", str(labels / "b.nii.gz")),
    ]


def test_a_folder_that_is_missing_is_named(tmp_path):
    there = touch(tmp_path / "there", "a_0000.nii.gz")
    with pytest.raises(ValueError, match=r"nowhere, which is none\. Check the path"):
        cases_in(tmp_path / "nowhere", ENDING)
    with pytest.raises(ValueError, match=r"nowhere, which is none\. Check the path"):
        cases_in(there, ENDING, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a_0000.nii.gz, which is none"):
        cases_in(there / "a_0000.nii.gz", ENDING)


@pytest.mark.parametrize("names", [[], ["a_0000.nrrd"]])
def test_a_folder_without_images_says_which_ending_it_looked_for(tmp_path, names):
    with pytest.raises(ValueError, match=rf"case_0000.nii.gz in {tmp_path}, found no file that ends in .nii.gz"):
        cases_in(touch(tmp_path, *names), ENDING)


# --- cases that a fold held out ---------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A raw dataset of four cases and its splits."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    raw = tmp_path / "nnUNet_raw" / "Dataset501_Small"
    touch(raw / "imagesTr", *(f"{case}_000{channel}.nii.gz" for case in "abcd" for channel in (0, 1)))
    touch(raw / "labelsTr", *(f"{case}.nii.gz" for case in "abcd"))
    preprocessed = touch(tmp_path / "nnUNet_preprocessed" / "Dataset501_Small")
    splits = [{"train": ["a", "b"], "val": ["d", "c"]}, {"train": ["c", "d"], "val": ["a", "b"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    return raw


@pytest.mark.parametrize(("fold", "cases"), [("0", ["d", "c"]), ("1", ["a", "b"])])
def test_a_folds_validation_cases_are_found_in_the_raw_dataset(dataset, fold, cases):
    held_out = held_out_cases("Dataset501_Small", fold, ENDING)
    assert held_out.images == dataset / "imagesTr"
    assert held_out.labels == dataset / "labelsTr"
    assert [case.name for case in held_out.cases] == cases
    assert held_out.cases[0].images == [
        str(dataset / "imagesTr" / f"{cases[0]}_000{channel}.nii.gz") for channel in (0, 1)
    ]
    assert held_out.cases[0].label == str(dataset / "labelsTr" / f"{cases[0]}.nii.gz")


@pytest.mark.parametrize("fold", ["2", "all", "-1"])
def test_a_fold_that_holds_nothing_out_is_an_error(dataset, fold):
    expected = rf"one of the 2 folds of .*splits_final.json, got {fold}, which .* Give cases with -i and -gt"
    with pytest.raises(ValueError, match=expected):
        held_out_cases("Dataset501_Small", fold, ENDING)


def test_without_splits_no_fold_holds_anything_out(dataset, tmp_path):
    (tmp_path / "nnUNet_preprocessed" / "Dataset501_Small" / "splits_final.json").unlink()
    with pytest.raises(ValueError, match="one of the 0 folds"):
        held_out_cases("Dataset501_Small", "0", ENDING)


def test_validation_cases_without_raw_images_are_named(dataset):
    (dataset / "imagesTr" / "d_0000.nii.gz").unlink()
    assert [case.name for case in held_out_cases("Dataset501_Small", "0", ENDING).cases] == ["d", "c"]
    (dataset / "imagesTr" / "d_0001.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"validation cases of fold 0 in .*imagesTr, found no images of d\. Give"):
        held_out_cases("Dataset501_Small", "0", ENDING)


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_that_is_not_set_is_named(dataset, variable, monkeypatch):
    monkeypatch.delenv(variable)
    with pytest.raises(ValueError, match=rf"{variable}.* Set them, or give cases with -i and -gt"):
        held_out_cases("Dataset501_Small", "0", ENDING)


# --- labels -----------------------------------------------------------------------------------------------------------


def check(folder, label, known=frozenset({0, 1, 2}), reader=SimpleITKIO):
    """Check a label's file against the images of a case that has no direction or origin of its own."""
    files = write_case(folder / "images", "case", small_images(1, SHAPE))
    images, properties = reader().read_images(files)
    case = CaseFiles("case", files, str(label))
    check_label(case, reader(), properties, images.shape[1:], set(known))


def placed(folder, **changes):
    """Write a label as an image with another spacing, origin or direction."""
    image = sitk.GetImageFromArray(np.zeros(SHAPE, dtype=np.uint8))
    image.SetSpacing(SPACING)
    for name, value in changes.items():
        getattr(image, f"Set{name}")(value)
    sitk.WriteImage(image, str(folder / "label.nii.gz"))
    return folder / "label.nii.gz"


def test_a_label_on_the_images_grid_is_right(tmp_path):
    write_label(tmp_path, "case", SHAPE)
    check(tmp_path, tmp_path / "case.nii.gz")
    check(tmp_path, placed(tmp_path, Origin=(0.0005, 0, 0)))
    check(tmp_path, tmp_path / "case.nii.gz", reader=NibabelIO)


def test_a_label_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Case case: expected its label at .*case.nii.gz, found none"):
        check(tmp_path, tmp_path / "case.nii.gz")


def test_a_label_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "case.nii.gz").write_text("nothing")
    with pytest.raises(ValueError, match=r"Case case: expected a whole image, got .*case.nii.gz: .*damaged"):
        check(tmp_path, tmp_path / "case.nii.gz")


def test_a_label_of_another_shape_is_named(tmp_path):
    write_label(tmp_path, "case", (8, 9, 11))
    expected = r"Case case: .* got the shape \[8, 9, 11\] in .*case.nii.gz and \[8, 9, 10\] in its images"
    with pytest.raises(ValueError, match=expected):
        check(tmp_path, tmp_path / "case.nii.gz")


@pytest.mark.parametrize(
    ("name", "value"),
    [("Spacing", (1.0, 1.0, 1.6)), ("Origin", (0.0, 5.0, 0.0)), ("Direction", (-1, 0, 0, 0, 1, 0, 0, 0, 1))],
)
def test_a_label_that_lies_elsewhere_is_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"Case case: .* got the {name.lower()} \[.*\] in .*label.nii.gz and \["):
        check(tmp_path, placed(tmp_path, **{name: value}))


def test_where_a_label_lies_is_read_by_nibabel_too(tmp_path):
    with pytest.raises(ValueError, match=r"Case case: .* got the original_affine"):
        check(tmp_path, placed(tmp_path, Origin=(0.0, 5.0, 0.0)), reader=NibabelIO)


@pytest.mark.parametrize(("value", "dtype"), [(4, np.uint8), (-1, np.int16)])
def test_a_value_that_the_dataset_does_not_know_is_named(tmp_path, value, dtype):
    label = np.zeros(SHAPE, dtype=dtype)
    label[0, 0, 0], label[1, 1, 1] = 2, value
    write_image(tmp_path / "case.nii.gz", label)
    expected = rf"Case case: expected the values \[0, 1, 2\] .* in .*case.nii.gz, got \[{float(value)}\]"
    with pytest.raises(ValueError, match=expected):
        check(tmp_path, tmp_path / "case.nii.gz")


def labelled(folder, value):
    label = np.zeros(SHAPE, dtype=np.float32)
    label[1, 1, 1] = value
    write_image(folder / "case.nii.gz", label)
    return folder / "case.nii.gz"


@pytest.mark.parametrize("value", [1.5, 0.999, 1.0002])
def test_a_fraction_in_a_label_is_printed_in_full(tmp_path, value):
    expected = rf"Case case: expected whole numbers in .*case.nii.gz, got {float(np.float32(value))!r}"
    with pytest.raises(ValueError, match=expected):
        check(tmp_path, labelled(tmp_path, value))


@pytest.mark.parametrize("value", [0.9999999, 1.00005, 1 / 255 * 255])
def test_rounding_alone_makes_no_fraction(tmp_path, value):
    check(tmp_path, labelled(tmp_path, value))
    truth = read_truth(str(tmp_path / "case.nii.gz"), SimpleITKIO, (("edema", (1,)),), None)
    assert truth.regions["edema"].mask.sum() == 1


def test_what_is_ignored_is_a_known_value(tmp_path):
    write_label(tmp_path, "case", SHAPE, values=(1, 3))
    check(tmp_path, tmp_path / "case.nii.gz", known_values(small_dataset_json(ignore=True)))
    with pytest.raises(ValueError, match=r"got \[3\.0\]"):
        check(tmp_path, tmp_path / "case.nii.gz", known_values(small_dataset_json()))


# --- dataset.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "regions", "known"),
    [
        ({"background": 0, "edema": 1, "tumor": 2}, {"edema": [1], "tumor": [2]}, {0, 1, 2}),
        ({"background": 0, "whole": [1, 2], "core": [2]}, {"whole": [1, 2], "core": [2]}, {0, 1, 2}),
        ({"background": [0], "core": [2], "whole": [1, 2]}, {"core": [2], "whole": [1, 2]}, {0, 1, 2}),
        ({"nothing": 0, "edema": 1, "ignore": 2}, {"edema": [1]}, {0, 1, 2}),
        ({"background": 0, "whole": [1, 2], "ignore": 3}, {"whole": [1, 2]}, {0, 1, 2, 3}),
        ({"background": "0", "edema": "1"}, {"edema": [1]}, {0, 1}),
    ],
)
def test_the_regions_are_what_is_scored_and_the_known_values_all_that_a_label_holds(labels, regions, known):
    found = regions_of({"labels": labels})
    assert found == regions
    assert list(found) == list(regions)
    assert known_values({"labels": labels}) == known


# --- the truth --------------------------------------------------------------------------------------------------------


class CountingReader(SimpleITKIO):
    reads = 0

    def read_seg(self, seg_fname):
        type(self).reads += 1
        return super().read_seg(seg_fname)


def test_the_truth_of_a_case_is_read_once_for_all_its_subsets(tmp_path):
    array = write_label(tmp_path, "a", SHAPE)
    write_label(tmp_path, "b", SHAPE)
    regions = (("edema", (1,)), ("tumor", (2,)))
    truths = [read_truth(str(tmp_path / f"{case}.nii.gz"), CountingReader, regions, None) for case in "aaabb"]
    assert CountingReader.reads == 2
    assert truths[0] is truths[2]
    np.testing.assert_array_equal(truths[0].regions["tumor"].mask, array == 2)
    assert truths[0].regions["tumor"].spacing == pytest.approx(SPACING[::-1])


def test_what_is_ignored_takes_no_part_in_the_truth(tmp_path):
    array = write_label(tmp_path, "a", SHAPE, values=(1, 3))
    truth = read_truth(str(tmp_path / "a.nii.gz"), SimpleITKIO, (("edema", (1,)),), 3)
    assert truth.num_voxels == np.count_nonzero(array != 3)
