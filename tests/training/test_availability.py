import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from small_models import small_images, write_case
from small_plans import CONFIGURATION, small_dataset_json, small_plans, write_preprocessed

from nnunetv2_missmod.training.availability import check_absent, describe_incomplete, find_available

NAMES = ["FLAIR", "T1", "T1c", "T2"]
ALL = (True, True, True, True)


# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")


def open_dataset(folder):
    return infer_dataset_class(str(folder))(str(folder))


def small_dataset(folder, cases, absent):
    plans = small_plans()
    write_preprocessed(folder, plans, small_dataset_json(), cases, absent)
    identifier = plans["configurations"][CONFIGURATION]["data_identifier"]
    return open_dataset(folder / "nnUNet_preprocessed" / plans["dataset_name"] / identifier)


def dataset_of(folder, images):
    """A dataset of one case with the given images (M, x, y, z)."""
    images = images.astype(np.float32)
    nnUNetDatasetBlosc2.save_case(images, np.zeros((1, *images.shape[1:]), np.int16), {}, str(folder / "case"))
    return open_dataset(folder)


def test_find_available_gives_the_modalities_of_every_case(tmp_path):
    dataset = small_dataset(tmp_path, ("a", "b", "c", "d"), {"b": (1,), "d": (0, 2, 3)})
    assert find_available(dataset) == {
        "a": ALL,
        "b": (True, False, True, True),
        "c": ALL,
        "d": (False, True, False, False),
    }


def test_rows_are_plain_booleans(tmp_path):
    """They become a tensor in every training step, and are compared across ranks."""
    row = find_available(small_dataset(tmp_path, ("a",), {"a": (1,)}))["a"]
    assert type(row) is tuple
    assert {type(value) for value in row} == {bool}


def test_cases_come_in_the_datasets_order_whichever_is_read_first(tmp_path):
    cases = [f"case_{number:02d}" for number in range(20)]
    absent = {case: (number % 4,) for number, case in enumerate(cases)}
    dataset = small_dataset(tmp_path, cases, absent)
    found = find_available(dataset)
    assert list(found) == list(dataset.identifiers)
    for case in cases:
        assert found[case] == tuple(m not in absent[case] for m in range(4))


# --- the raw images of what is absent ---------------------------------------------------------------------------------


LACKS_ONE = (True, False, True, True)  # "a" lacks its second modality


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A raw dataset of one case whose second file is zeros."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    images = small_images(4)
    images[1] = 0
    folder = tmp_path / "Dataset501_Small" / "imagesTr"
    write_case(folder, "a", images)
    return folder


def check(available=LACKS_ONE):
    check_absent({"a": available}, "Dataset501_Small", small_dataset_json(), SimpleITKIO())


def test_what_is_absent_in_the_raw_dataset_may_be_absent(raw):
    check()
    check(ALL)


def test_a_damaged_image_is_not_absent(raw):
    file = raw / "a_0001.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"Case a: expected a whole image, got .*a_0001.nii.gz: .*damaged"):
        check()
    check(ALL)  # what training will see is looked at by nobody twice


def test_an_image_that_preprocessing_took_for_zeros_is_not_absent(raw):
    with pytest.raises(
        ValueError, match=r"Case a: expected no image in .*a_0002.nii.gz.* Preprocess the dataset again"
    ):
        check((True, True, False, True))


def test_without_the_raw_dataset_nothing_is_looked_at(raw, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(raw))
    check()
    monkeypatch.delenv("nnUNet_raw")
    check()


def test_one_file_of_all_channels_says_nothing_of_one(tmp_path, raw):
    for channel in (1, 2, 3):
        (raw / f"a_000{channel}.nii.gz").unlink()
    check()


def test_only_the_cases_of_the_split_are_read(tmp_path):
    small_dataset(tmp_path, ("a", "b", "c"), {"b": (1,), "c": (0, 1, 2, 3)})
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset501_Small" / "small_3d"
    assert find_available(nnUNetDatasetBlosc2(str(folder), ["b"])) == {"b": (True, False, True, True)}


def test_cases_without_any_modality_are_an_error_that_names_them_all(tmp_path):
    nothing = (0, 1, 2, 3)
    cases = ("complete_1", "empty_1", "partial_1", "empty_2")
    dataset = small_dataset(tmp_path, cases, {"empty_1": nothing, "empty_2": nothing, "partial_1": (0,)})
    with pytest.raises(ValueError, match="at least one modality") as error:
        find_available(dataset)
    message = str(error.value)
    assert "empty_1, empty_2" in message
    assert "complete_1" not in message
    assert "partial_1" not in message
    assert "splits_final.json" in message
    assert dataset.source_folder in message


@pytest.mark.parametrize("constant", [5.0, -2.7, 1e-12])
def test_a_channel_that_is_constant_but_not_zero_is_absent(tmp_path, constant):
    images = np.random.default_rng(0).normal(size=(3, 12, 12, 12))
    images[1] = constant
    assert find_available(dataset_of(tmp_path, images)) == {"case": (True, False, True)}


def test_a_channel_that_is_constant_up_to_rounding_is_absent(tmp_path):
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 12)).astype(np.float32)
    images[1] = 1.2345
    images[1, 2] = np.nextafter(images[1, 2], np.float32(9))
    images[1, :, 3] = np.nextafter(images[1, :, 3], np.float32(0))
    assert find_available(dataset_of(tmp_path, images)) == {"case": (True, False)}


@pytest.mark.parametrize("slice_with_image", [0, 3, 11])
def test_a_channel_that_varies_outside_the_middle_slice_alone_is_present(tmp_path, slice_with_image):
    images = np.zeros((3, 12, 12, 12))
    images[0] = np.random.default_rng(0).normal(size=(12, 12, 12))
    images[1, slice_with_image, 4, 5] = 1
    assert find_available(dataset_of(tmp_path, images)) == {"case": (True, True, False)}


def test_a_channel_whose_slices_are_constant_but_not_alike_is_present(tmp_path):
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 12))
    images[1] = np.arange(12)[:, None, None]
    assert find_available(dataset_of(tmp_path, images)) == {"case": (True, True)}


def test_flat_images_of_one_slice(tmp_path):
    images = np.random.default_rng(0).normal(size=(3, 1, 12, 12))
    images[2] = 0
    assert find_available(dataset_of(tmp_path, images)) == {"case": (True, True, False)}


def test_the_progress_bar_is_for_long_searches_and_the_first_rank(tmp_path, monkeypatch, capsys):
    dataset = small_dataset(tmp_path, ("a", "b"), {})
    find_available(dataset)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("nnunetv2_missmod.training.availability.LONG_SEARCH", 2)
    find_available(dataset, show_progress=False)
    assert capsys.readouterr().err == ""
    find_available(dataset)
    assert "Looking for missing modalities" in capsys.readouterr().err


def test_describe_incomplete_counts_subsets_most_frequent_first():
    available = {
        "a": ALL,
        "b": (False, False, True, False),
        "c": (True, False, True, True),
        "d": (True, False, True, True),
        "e": ALL,
    }
    assert describe_incomplete(available, NAMES) == "3 of 5 cases lack modalities. 2 x FLAIR+T1c+T2; 1 x T1c;"


def test_describe_incomplete_of_a_complete_dataset():
    assert describe_incomplete({"a": ALL, "b": ALL}, NAMES) == "0 of 2 cases lack modalities."


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_channel_that_is_not_finite_is_not_absent(tmp_path, value):
    """The training then stops at a loss that is not finite, instead of leaving out the modality."""
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 12))
    images[1, 6, 5, 4] = value
    assert find_available(dataset_of(tmp_path, images)) == {"case": (True, True)}
