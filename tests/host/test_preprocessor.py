import multiprocessing
import pickle
import queue
import re
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.data_iterators import preprocess_fromfiles_save_to_queue
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_dataset_json, small_plans

from nnunetv2_missmod.files.dataset_json import channel_names
from nnunetv2_missmod.host.preprocessor import MissingModalityPreprocessor, accept_missing_files
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer

SHAPE = (24, 26, 22)
CASE = "case_07"
BALLS = [((11, 12, 10), 7), ((12, 18, 11), 5), ((12, 13, 12), 9), ((10, 13, 11), 6)]  # centre and radius per channel
SUBSETS = [(0,), (1,), (0, 1), (1, 3), (0, 2, 3)]


def ball(centre, radius):
    grid = np.indices(SHAPE)
    return sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2


@pytest.fixture(scope="module")
def images():
    """Four channels, zero outside; each is non-zero in a region of its own, so that every subset crops differently."""
    rng = np.random.default_rng(0)
    return np.stack([ball(*b) * rng.normal(100, 20, SHAPE) for b in BALLS]).astype(np.float32)


def write(image, file, spacing=(1.0, 1.0, 1.0)):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(image, isVector=False)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))
    return str(file)


def write_case(folder, channels, spacing=(1.0, 1.0, 1.0)):
    """Write a dict from channel to image; the files are in channel order."""
    return [write(channels[m], folder / f"{CASE}_{m:04d}.nii.gz", spacing) for m in sorted(channels)]


def write_subset(folder, images, subset, spacing=(1.0, 1.0, 1.0)):
    return write_case(folder, {m: images[m] for m in subset}, spacing)


def zero_filled(images, subset):
    return {m: images[m] if m in subset else np.zeros(SHAPE, np.float32) for m in range(len(images))}


def preprocess(files, preprocessor=MissingModalityPreprocessor, plans=None, dataset_json=None, seg_file=None):
    plans_manager = PlansManager(plans or small_plans())
    configuration_manager = plans_manager.get_configuration(CONFIGURATION)
    dataset_json = dataset_json or small_dataset_json()
    return preprocessor(verbose=False).run_case(files, seg_file, plans_manager, configuration_manager, dataset_json)


def same(one, other, absent=()):
    """Bit for bit: images, nonzero mask, and everything that export needs to undo the preprocessing."""
    present = [m for m in range(len(one[0])) if m not in absent]
    return (
        one[0].shape == other[0].shape
        and one[0].dtype == other[0].dtype
        and one[0][present].tobytes() == other[0][present].tobytes()
        and np.array_equal(one[0], other[0])
        and one[1].dtype == other[1].dtype
        and np.array_equal(one[1], other[1])
        and repr(one[2]) == repr(other[2])
    )


def plans_with_ct(channel):
    plans = small_plans()
    configuration = plans["configurations"][CONFIGURATION]
    configuration["normalization_schemes"][channel] = "CTNormalization"
    configuration["use_mask_for_norm"][channel] = False
    plans["foreground_intensity_properties_per_channel"][str(channel)] = {
        "mean": 100.0,
        "std": 20.0,
        "percentile_00_5": 40.0,
        "percentile_99_5": 160.0,
    }
    return plans


def transposed_plans():
    plans = small_plans()
    plans["transpose_forward"], plans["transpose_backward"] = [1, 2, 0], [2, 0, 1]
    return plans


# --- absent is absent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.25, 1.0, 0.8)])
def test_missing_files_are_what_zero_files_are_to_nnunet(tmp_path, images, subset, spacing):
    found = preprocess(write_subset(tmp_path / "subset", images, subset, spacing))
    stock_files = write_case(tmp_path / "zeros", zero_filled(images, subset), spacing)
    absent = [m for m in range(4) if m not in subset]
    assert same(found, preprocess(stock_files, DefaultPreprocessor), absent)
    assert not found[0][absent].any()
    assert all(found[0][m].std() > 0.1 for m in subset)


def test_the_subsets_of_these_tests_are_cropped_differently(tmp_path, images):
    """Or the other tests would not notice an absent channel that takes part in the crop."""
    complete = preprocess(write_subset(tmp_path / "complete", images, range(4)))
    for subset in SUBSETS:
        data, seg, properties = preprocess(write_subset(tmp_path / str(subset), images, subset))
        assert properties["bbox_used_for_cropping"] != complete[2]["bbox_used_for_cropping"]
        assert (seg >= 0).sum() < (complete[1] >= 0).sum()
        assert not np.isclose(data[subset[0]].max(), complete[0][subset[0]].max(), atol=1e-3)


def test_the_present_channel_alone_is_cropped_and_normalised(tmp_path, images):
    data, _, properties = preprocess(write_subset(tmp_path, images, (1,)))
    inside = np.argwhere(images[1])
    box = [[low, high + 1] for low, high in zip(inside.min(0), inside.max(0), strict=True)]
    assert np.array_equal(properties["bbox_used_for_cropping"], box)
    values = data[1][data[1] != 0]
    assert len(values) == (images[1] != 0).sum()
    assert abs(values.mean()) < 1e-5
    assert abs(values.std() - 1) < 1e-4


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("constant", [0.0, 7.0, -3.3])
def test_a_constant_file_is_an_absent_modality(tmp_path, images, constant, transposed):
    plans = transposed_plans() if transposed else small_plans()
    missing = preprocess(write_subset(tmp_path / "missing", images, (0, 3)), plans=plans)
    channels = {**zero_filled(images, (0, 3)), 2: np.full(SHAPE, constant, np.float32)}
    assert same(missing, preprocess(write_case(tmp_path / "constant", channels), plans=plans))


def test_arrays_of_which_absent_ones_are_constant_give_what_files_give(tmp_path, images):
    from_files = preprocess(write_subset(tmp_path, images, (0, 3)))
    data = images.copy()
    data[1], data[2] = 5, -1
    from_arrays = preprocess_arrays(data, from_files[2])
    assert from_arrays[0].tobytes() == from_files[0].tobytes()
    assert np.array_equal(from_arrays[1], from_files[1])


@pytest.mark.parametrize("subset", SUBSETS)
def test_files_are_told_by_their_suffix_not_by_their_position(tmp_path, images, subset):
    files = write_subset(tmp_path, images, subset)
    in_order = preprocess(files)
    assert same(in_order, preprocess(files[::-1]))
    assert same(in_order, preprocess(files[1:] + files[:1]))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.25, 1.0, 0.8)])
@pytest.mark.parametrize("plans", [small_plans(), plans_with_ct(2), transposed_plans()], ids=["z", "ct", "transposed"])
def test_a_complete_case_is_preprocessed_as_nnunet_does(tmp_path, images, spacing, plans):
    files = write_subset(tmp_path, images, range(4), spacing)
    assert same(preprocess(files, plans=plans), preprocess(files, DefaultPreprocessor, plans=plans))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.25, 1.0, 0.8)])
@pytest.mark.parametrize("subset", [(0, 3), (1,)])
def test_a_normalisation_that_moves_zero_leaves_absent_channels_at_zero(tmp_path, images, subset, spacing):
    plans = plans_with_ct(2)
    data, seg, _ = preprocess(write_subset(tmp_path / "subset", images, subset, spacing), plans=plans)
    stock_files = write_case(tmp_path / "zeros", zero_filled(images, subset), spacing)
    stock, stock_seg, _ = preprocess(stock_files, DefaultPreprocessor, plans=plans)
    assert stock[2].min() < -2.9  # what nnU-Net makes of a channel that is not there
    assert not data[2].any()
    assert data[list(subset)].tobytes() == stock[list(subset)].tobytes()
    assert np.array_equal(seg, stock_seg)


def test_a_present_channel_is_normalised_by_its_own_scheme(tmp_path, images):
    """Not by that of the channel whose position its file happens to have."""
    files = write_subset(tmp_path, images, (2, 3))
    data = preprocess(files, plans=plans_with_ct(2))[0]
    assert data[2].min() == pytest.approx(-3)  # (40 - 100) / 20, outside the ball
    assert abs(data[3][data[3] != 0].mean()) < 0.5


def test_the_segmentation_of_a_previous_stage_is_cropped_along(tmp_path, images):
    labels = (ball((12, 13, 11), 4) * 2).astype(np.uint8)
    seg_file = write(labels, tmp_path / "previous" / f"{CASE}.nii.gz")
    found = preprocess(write_subset(tmp_path / "subset", images, (1, 3)), seg_file=seg_file)
    stock_files = write_case(tmp_path / "zeros", zero_filled(images, (1, 3)))
    stock = preprocess(stock_files, DefaultPreprocessor, seg_file=seg_file)
    assert np.array_equal(found[0], stock[0])
    assert np.array_equal(found[1], stock[1])
    assert (found[1] == 2).sum() == (labels == 2).sum()


def test_the_dataset_json_may_be_a_file(tmp_path, images):
    files = write_subset(tmp_path, images, (1, 3))
    save_json(small_dataset_json(), str(tmp_path / "dataset.json"))
    assert same(preprocess(files), preprocess(files, dataset_json=str(tmp_path / "dataset.json")))


def test_any_number_of_modalities(tmp_path, images):
    """One of one, and the twelfth of twelve."""
    one = preprocess(
        write_subset(tmp_path / "one", images, (0,)), plans=small_plans(1), dataset_json=small_dataset_json(1)
    )
    many_files = [write(images[0], tmp_path / "many" / f"{CASE}_0011.nii.gz")]
    many = preprocess(many_files, plans=small_plans(12), dataset_json=small_dataset_json(12))
    assert many[0].shape[0] == 12
    assert many[0][11].tobytes() == one[0][0].tobytes()
    assert not many[0][:11].any()


def test_modality_names_are_in_channel_order():
    names = {str(m): f"mod{m}" for m in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert channel_names({"channel_names": names}) == [f"mod{m}" for m in range(11)]
    assert channel_names({"modality": {"1": "T2", "0": "T1"}}) == ["T1", "T2"]


# --- colour images: all channels in one file --------------------------------------------------------------------------


def colour_plans():
    plans = small_plans(3, dims=2)
    plans["image_reader_writer"] = "NaturalImage2DIO"
    configuration = plans["configurations"][CONFIGURATION]
    configuration["normalization_schemes"] = ["RGBTo01Normalization"] * 3
    configuration["use_mask_for_norm"] = [False] * 3
    return plans, {**small_dataset_json(3), "file_ending": ".png"}


def test_one_file_may_hold_all_channels(tmp_path):
    plans, dataset_json = colour_plans()
    file = str(tmp_path / f"{CASE}_0000.png")
    colours = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), file)
    found = preprocess([file], plans=plans, dataset_json=dataset_json)
    assert same(found, preprocess([file], DefaultPreprocessor, plans=plans, dataset_json=dataset_json))
    assert found[0].std((1, 2, 3)).min() > 0.1


def test_grey_files_of_a_colour_dataset_may_be_missing(tmp_path):
    plans, dataset_json = colour_plans()
    file = str(tmp_path / f"{CASE}_0002.png")
    grey = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(grey), file)
    data = preprocess([file], plans=plans, dataset_json=dataset_json)[0]
    assert np.allclose(data[2, 0], grey / 255)
    assert not data[:2].any()


def test_all_modalities_in_one_nifti(tmp_path, images):
    together = write(images, tmp_path / "together" / f"{CASE}_0000.nii.gz", (1.25, 1.0, 0.8, 1.0))
    apart = write_subset(tmp_path / "apart", images, range(4), (1.25, 1.0, 0.8))
    found, expected = preprocess([together]), preprocess(apart)
    assert found[0].tobytes() == expected[0].tobytes()
    assert np.array_equal(found[1], expected[1])


# --- errors -----------------------------------------------------------------------------------------------------------


def refused(files, *expected, **settings):
    """The ValueError says all of what was expected, and which case."""
    with pytest.raises(ValueError, match=f"Case {CASE}") as error:
        preprocess([str(file) for file in files], **settings)
    for part in expected:
        assert str(part) in str(error.value)


@pytest.mark.parametrize("suffix", ["_0004", "_0011", "_9999"])
def test_a_suffix_beyond_the_modalities_is_an_error(tmp_path, images, suffix):
    good = write_subset(tmp_path, images, (0, 1))
    bad = write(images[2], tmp_path / f"{CASE}{suffix}.nii.gz")
    refused([*good, bad], bad, "_0003 = mod3")


@pytest.mark.parametrize("name", [f"{CASE}.nii.gz", f"{CASE}_T2.nii.gz", f"{CASE}_-001.nii.gz", f"{CASE}-0001.nii.gz"])
def test_a_missing_suffix_is_an_error(tmp_path, images, name):
    good = write_subset(tmp_path, images, (0, 1))
    bad = write(images[2], tmp_path / name)
    refused([*good, bad], bad, "_0000 = mod0")


def test_a_file_of_another_format_is_an_error(tmp_path, images):
    good = write_subset(tmp_path, images, (0, 1))
    bad = write(images[2], tmp_path / f"{CASE}_0002.mha")
    refused([*good, bad], bad)


def test_two_files_for_one_channel_are_an_error(tmp_path, images):
    first = write_subset(tmp_path / "first", images, (0, 2))
    second = write_subset(tmp_path / "second", images, (2,))
    refused([*first, *second], first[1], second[0], "channel 2 (mod2)")


def test_images_of_different_shapes_are_an_error(tmp_path, images):
    good = write_subset(tmp_path, images, (0, 1))
    bad = write(images[2][:-1], tmp_path / f"{CASE}_0002.nii.gz")
    refused([*good, bad], bad, good[0], "[24, 26, 22]", "[23, 26, 22]")


def test_images_of_different_spacings_are_an_error(tmp_path, images):
    good = write_subset(tmp_path, images, (0, 1))
    bad = write(images[2], tmp_path / f"{CASE}_0002.nii.gz", (1.0, 1.0, 2.5))
    refused([*good, bad], bad, good[0], "2.5")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path, images):
    good = write_subset(tmp_path, images, (0, 1))
    bad = tmp_path / f"{CASE}_0002.nii.gz"
    bad.write_text("not an image")
    refused([*good, bad], f"expected a whole image, got {bad}")


def test_a_file_that_does_not_exist_is_an_error(tmp_path, images):
    refused([*write_subset(tmp_path, images, (0, 1)), tmp_path / f"{CASE}_0003.nii.gz"], f"{CASE}_0003.nii.gz")


def write_broken(folder, images, where, value):
    """Write channels 2 and 0 of a case, channel 2 with the value; as .mha: ITK reads NaN in .nii.gz as zero."""
    broken = images[2].copy()
    broken[where] = value
    return [write(image, folder / f"{CASE}_000{m}.mha") for m, image in ((2, broken), (0, images[0]))]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(3, 4, 5), ...], ids=["one voxel", "everywhere"])
def test_intensities_that_are_not_finite_are_an_error(tmp_path, images, value, where):
    bad, good = write_broken(tmp_path, images, where, value)
    mha = {**small_dataset_json(), "file_ending": ".mha"}
    refused([bad, good], bad, "NaN or infinity", dataset_json=mha)
    refused([good, bad], bad, "NaN or infinity", dataset_json=mha)


def test_nan_in_a_later_channel_of_one_file_is_an_error(tmp_path, images):
    broken = images.copy()
    broken[2, 3, 4, 5] = np.nan
    bad = write(broken, tmp_path / f"{CASE}_0000.mha", (1.0, 1.0, 1.0, 1.0))
    refused([bad], bad, dataset_json={**small_dataset_json(), "file_ending": ".mha"})


def test_a_case_of_constant_files_is_an_error(tmp_path):
    files = write_case(tmp_path, {0: np.zeros(SHAPE, np.float32), 3: np.full(SHAPE, 7, np.float32)})
    refused(files, *files, "mod0, mod1, mod2, mod3")


def test_a_case_without_files_is_an_error():
    with pytest.raises(ValueError, match="no file at all"):
        preprocess([])


def test_files_of_several_channels_are_an_error_beside_others(tmp_path, images):
    files = [write(images[:2], tmp_path / f"{CASE}_{m:04d}.nii.gz", (1.0, 1.0, 1.0, 1.0)) for m in range(2)]
    refused(files, "got 4 channels", "Split")


# --- what nnU-Net passes over, or only warns of -----------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".NII.GZ", ".NII"])
def test_a_file_that_nnunet_does_not_list_is_no_absent_channel(tmp_path, images, ending):
    listed = write_subset(tmp_path / "listed", images, (0, 2))
    beside = write(images[1], tmp_path / "listed" / f"{CASE}_0001.nii{'.gz' * ending.endswith(('gz', 'GZ'))}")
    Path(beside).rename(tmp_path / "listed" / f"{CASE}_0001{ending}")
    expected = preprocess(write_subset(tmp_path / "expected", images, (0, 1, 2)))
    assert preprocess(listed)[0].tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("suffix", ["_001", "-0001", "_\u0660\u0660\u0660\u0661"])
def test_a_channel_that_nnunet_does_not_list_for_its_name_is_an_error(tmp_path, images, suffix):
    listed = write_subset(tmp_path, images, (0, 2))
    bad = write(images[1], tmp_path / f"{CASE}{suffix}.nii.gz")
    refused(listed, bad)


def test_a_channel_that_is_not_listed_on_purpose_is_absent(tmp_path, images):
    everything = write_subset(tmp_path / "all", images, (0, 1, 2))
    expected = preprocess(write_subset(tmp_path / "expected", images, (0, 2)))
    assert preprocess([everything[0], everything[2]])[0].tobytes() == expected[0].tobytes()


def test_a_channel_that_lies_elsewhere_is_an_error(tmp_path, images):
    """nnU-Net warns and stacks it."""
    listed = write_subset(tmp_path, images, (0, 2))
    moved = sitk.ReadImage(listed[0])
    moved.SetOrigin((40.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(tmp_path / f"{CASE}_0001.nii.gz"))
    refused([*listed, tmp_path / f"{CASE}_0001.nii.gz"], "the origin [40.0, 0.0, 0.0]", f"{CASE}_0001.nii.gz")


# --- arrays -----------------------------------------------------------------------------------------------------------


def preprocess_arrays(data, properties=None, preprocessor=MissingModalityPreprocessor, seg=None):
    plans_manager = PlansManager(small_plans())
    configuration_manager = plans_manager.get_configuration(CONFIGURATION)
    properties = dict(properties or {"spacing": [1.0, 1.0, 1.0]})
    return preprocessor(verbose=False).run_case_npy(
        data, seg, properties, plans_manager, configuration_manager, small_dataset_json()
    )


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_arrays_are_an_error(value):
    with pytest.raises(ValueError, match="not constant"):
        preprocess_arrays(np.full((4, *SHAPE), value, np.float32))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_input_arrays_are_not_modified(images):
    data = images.copy()
    data[1] = 4
    seg = np.zeros((1, *SHAPE), np.int8)
    data_before, seg_before = data.copy(), seg.copy()
    data.flags.writeable = seg.flags.writeable = False
    found = preprocess_arrays(data, seg=seg)
    assert not found[0][1].any()
    assert np.array_equal(data, data_before)
    assert np.array_equal(seg, seg_before)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.int32, np.uint8])
def test_arrays_of_other_types_are_preprocessed_as_nnunet_does(images, dtype):
    data = images.astype(dtype)
    assert same(preprocess_arrays(data), preprocess_arrays(data, preprocessor=DefaultPreprocessor))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.dtype(">f4")], ids=["uint16", "uint32", "big-endian"])
def test_arrays_of_types_that_torch_does_not_take(images, dtype):
    data = images.astype(dtype)
    assert same(preprocess_arrays(data), preprocess_arrays(data, preprocessor=DefaultPreprocessor))


def test_an_integer_image_of_full_range_is_present():
    data = np.zeros((4, *SHAPE), np.int16)
    data[0, 5:15, 5:15, 5:15] = 32767
    data[0, 7, 7, 7] = -32768
    data[1] = data[0] // 4
    assert preprocess_arrays(data)[0][0].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_array_that_is_not_finite_is_not_absent(images, value):
    data = images.copy()
    data[2, 12, 13, 12] = value
    try:
        found = preprocess_arrays(data)[0]
    except ValueError:
        return
    assert found[2].any()  # NaN, as nnU-Net itself gives


# --- the seam: how nnU-Net's predictor comes to this preprocessor -----------------------------------------------------


def small_configuration(**changes):
    plans = small_plans()
    plans["configurations"][CONFIGURATION].update(changes)
    return PlansManager(plans).get_configuration(CONFIGURATION)


def test_accept_missing_files_changes_the_preprocessor_and_nothing_else():
    configuration = small_configuration()
    assert configuration.preprocessor_class is DefaultPreprocessor
    before = dict(configuration.configuration)
    accept_missing_files(configuration)
    assert configuration.preprocessor_class is MissingModalityPreprocessor
    assert configuration.preprocessor_name == "DefaultPreprocessor"
    assert configuration.configuration == before
    accept_missing_files(configuration)  # training and its validation both build the network
    assert configuration.preprocessor_class is MissingModalityPreprocessor


def test_the_preprocessor_of_other_configurations_stays():
    accept_missing_files(small_configuration())
    assert small_configuration().preprocessor_class is DefaultPreprocessor


def test_the_preprocessor_survives_pickling():
    configuration = small_configuration()
    accept_missing_files(configuration)
    copy = pickle.loads(pickle.dumps(configuration))
    assert copy.preprocessor_class is MissingModalityPreprocessor
    assert copy.configuration == configuration.configuration


@pytest.mark.slow
def test_the_preprocessor_reaches_a_spawned_worker():
    configuration = small_configuration()
    accept_missing_files(configuration)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        name = pool.apply_async(attrgetter("preprocessor_class.__name__"), (configuration,)).get(timeout=120)
    assert name == "MissingModalityPreprocessor"


def test_a_plan_with_a_preprocessor_of_its_own_is_refused():
    configuration = small_configuration(preprocessor_name="FancyPreprocessor")
    with pytest.raises(NotImplementedError, match="FancyPreprocessor"):
        accept_missing_files(configuration)
    assert type(configuration).__name__ == "ConfigurationManager"


@pytest.fixture
def predictor(tmp_path, monkeypatch):
    """nnU-Net's own predictor, initialised from a folder as a training leaves it."""
    folder = tmp_path / "trained"
    plans, dataset_json = small_plans(), small_dataset_json()
    plans_manager = PlansManager(plans)
    configuration = plans_manager.get_configuration(CONFIGURATION)
    torch.manual_seed(0)
    network = ModalityDropoutTrainer.build_network_architecture(plans_manager, configuration, 4, 3, False)
    (folder / "fold_0").mkdir(parents=True)
    save_json(plans, str(folder / "plans.json"))
    save_json(dataset_json, str(folder / "dataset.json"))
    checkpoint = {
        "trainer_name": "ModalityDropoutTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "network_weights": network.state_dict(),
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    monkeypatch.setattr(
        predict_from_raw_data,
        "recursive_find_trainer_class_by_name",
        {"ModalityDropoutTrainer": ModalityDropoutTrainer}.get,
    )
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    return predictor


SEAM = (
    "nnU-Net's predictor no longer takes its preprocessor from the configuration manager that it hands to the "
    "trainer's build_network_architecture. Missing files are not understood any more: find the new place and mend "
    "nnunetv2_missmod/host/preprocessor.py."
)


def test_the_seam_in_the_predictors_workers(tmp_path, images, predictor, monkeypatch):
    """What the predictor sends to its preprocessing workers is run here, in this process."""
    sent = []
    monkeypatch.setattr(
        predict_from_raw_data, "preprocessing_iterator_fromfiles", lambda *args: sent.append(args) or []
    )
    files = write_subset(tmp_path / "case", images, (1, 3))
    predictor.predict_from_files([files], None, num_processes_preprocessing=1, num_processes_segmentation_export=1)
    assert sent, SEAM
    case_files, segs, outputs, plans_manager, dataset_json, configuration_manager = sent[0][:6]
    assert configuration_manager.preprocessor_class is MissingModalityPreprocessor, SEAM

    out, done, abort = queue.Queue(), multiprocessing.Event(), multiprocessing.Event()
    preprocess_fromfiles_save_to_queue(
        case_files, segs, outputs, plans_manager, dataset_json, configuration_manager, out, done, abort
    )
    assert done.is_set()
    assert out.qsize() == 1
    data = out.get()["data"]
    assert data.shape[0] == 4, SEAM
    assert not data[[0, 2]].any(), SEAM
    assert np.array_equal(data.numpy(), preprocess(files)[0])


def test_the_seam_in_the_sequential_prediction(tmp_path, images, predictor):
    zeros = write_case(tmp_path / "zeros", zero_filled(images, (1, 3)))
    files = write_subset(tmp_path / "case", images, (1, 3))
    missing, zero, complete = (
        predictor.predict_from_files_sequential([case], None)[0]
        for case in (files, zeros, write_subset(tmp_path / "complete", images, range(4)))
    )
    assert missing.shape == SHAPE, SEAM
    assert np.array_equal(missing, zero), SEAM
    assert not np.array_equal(missing, complete)


def test_stock_nnunet_still_needs_the_seam(tmp_path, images, predictor):
    """nnU-Net itself takes the files' positions for their channels, and gives the network too few."""
    data = preprocess(write_subset(tmp_path, images, (1, 3)), DefaultPreprocessor)[0]
    assert data.shape[0] == 2
    with pytest.raises(RuntimeError, match=re.compile("size of tensor|channels|pad")):
        predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
