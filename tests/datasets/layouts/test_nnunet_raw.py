"""An nnU-Net dataset as a source."""

import json
import shutil

import pytest
from small_layouts import change_description
from small_sources import image, labels, write_image, write_layout

from nnunetv2_missmod.datasets.layouts.recognition import read_source


@pytest.fixture
def dataset(tmp_path):
    return write_layout(tmp_path, "nnunet")


def test_an_nnunet_dataset_keeps_its_labels_and_says_what_is_missing(dataset):
    source = read_source(dataset)
    assert source.name == "Lesions" and source.modalities == ("FLAIR", "T1")
    assert source.scheme.from_source == {0: 0, 1: 1, 2: 2}
    assert source.scheme.labels == {"background": 0, "lesion": 1, "ignore": 2}
    assert [list(case.images) for case in source.cases] == [["FLAIR", "T1"], ["FLAIR"], ["FLAIR", "T1"]]


def test_an_nnunet_dataset_with_regions(dataset):
    change_description(dataset, labels={"background": 0, "all": [1, 2], "core": [2]}, regions_class_order=[1, 2])
    scheme = read_source(dataset).scheme
    assert scheme.labels["all"] == [1, 2] and scheme.regions_class_order == (1, 2)


def test_test_cases_of_an_nnunet_dataset_may_have_labels(dataset):
    for case, channels in (("test_1", (0, 1)), ("test_2", (1,))):
        for channel in channels:
            write_image(dataset / "imagesTs" / f"{case}_{channel:04d}.nii.gz", image(case, channel))
    write_image(dataset / "labelsTs" / "test_1.nii.gz", labels((1,)))
    first, second = read_source(dataset).cases[-2:]
    assert first.label and not first.is_training
    assert second.label is None and list(second.images) == ["T1"] and not second.is_training


@pytest.mark.parametrize("name", ["case_00_0002.nii.gz", "case_00.nii.gz", "case_00_2.nii.gz"])
def test_a_file_that_is_no_channel_is_named(dataset, name):
    write_image(dataset / "imagesTr" / name, image("more", 0))
    with pytest.raises(ValueError, match=rf"_0000 to _0001.*{name}"):
        read_source(dataset)


def test_a_case_of_nnunet_in_both_parts_is_an_error(dataset):
    shutil.copytree(dataset / "imagesTr", dataset / "imagesTs")
    with pytest.raises(ValueError, match=r"case_00 once.*imagesTr.*imagesTs"):
        read_source(dataset)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": {"case_00": {"images": [], "label": ""}}}, NotImplementedError, "imagesTr"),
        ({"file_ending": ".png"}, NotImplementedError, r"\.png"),
        ({"file_ending": ".mha"}, ValueError, r"case_0000\.mha"),
        ({"channel_names": {"0": "MRI", "1": "MRI"}}, ValueError, "MRI twice"),
        ({"channel_names": {"1": "FLAIR", "2": "T1"}}, ValueError, "names of the channels 0 to 1"),
        ({"labels": {"0": "background", "1": "lesion"}}, ValueError, "labels.0 to be a whole number"),
        ({"labels": ["background", "lesion"]}, ValueError, "labels to be keys with values"),
        ({"labels": {"lesion": 1}}, ValueError, "labels.background to be 0, got None"),
        ({"labels": {"background": 0, "all": [1, 2]}}, ValueError, "regions_class_order"),
        ({"labels": {"background": 0, "ignore": [1]}}, ValueError, "ignore to be one label"),
        ({"channel_names": ["FLAIR", "T1"]}, ValueError, "channel_names to be"),
        ({"channel_names": {"zero": "FLAIR"}}, ValueError, "channel_names to be"),
        ({"channel_names": {"0": 1}}, ValueError, "channel_names.0 to be a name"),
        ({"file_ending": 5}, ValueError, "file_ending to be"),
        ({"file_ending": "/../x"}, ValueError, "file_ending to be"),
        ({"regions_class_order": "1"}, ValueError, "regions_class_order to be"),
        ({"overwrite_image_reader_writer": 5}, ValueError, "overwrite_image_reader_writer to be"),
    ],
)
def test_what_a_dataset_json_may_not_say(dataset, changes, error, message):
    change_description(dataset, **changes)
    with pytest.raises(error, match=message):
        read_source(dataset)


@pytest.mark.parametrize("text", ["{", "[]", '{"channel_names": {"0": "FLAIR"}}', '{"labels": {}}'])
def test_a_dataset_json_that_is_none(dataset, text):
    (dataset / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"(?i)expected.*dataset\.json|dataset\.json: expected"):
        read_source(dataset, "nnunet")


def test_labels_may_be_numbers_in_quotes_as_nnunet_takes_them(dataset):
    expected = read_source(dataset).scheme
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    change_description(dataset, labels={name: str(label) for name, label in labels.items()})
    assert read_source(dataset).scheme == expected


def test_two_nnunet_datasets_in_a_folder_are_an_error(dataset):
    shutil.copytree(dataset, dataset.parent / "Dataset043_Others")
    with pytest.raises(ValueError, match=r"Dataset042_Lesions.*Dataset043_Others"):
        read_source(dataset.parent)
