"""One case, every subset: equal to nnU-Net's own prediction from files of which the others are really missing."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from small_models import small_images, write_case, write_model
from torch import nn

from nnunetv2_missmod.host.doors import PRETRAINING, door_names
from nnunetv2_missmod.host.preprocessor import MissingModalityPreprocessor, read_case
from nnunetv2_missmod.modalities import all_subsets, drop_absent
from nnunetv2_missmod.prediction import engine as predict
from nnunetv2_missmod.prediction.cohort import export_of
from nnunetv2_missmod.prediction.engine import Images, SubsetStack, predict_subsets, preprocess
from nnunetv2_missmod.prediction.mask_groups import groups_by_mask
from nnunetv2_missmod.prediction.model import PredictionSettings, open_predictor

pytestmark = pytest.mark.slow

NNUNET_TRAINER = "nnUNetTrainer"
SEGMENTING = [name for name in door_names() if not name.endswith(PRETRAINING)]
QUICK = PredictionSettings(device="cpu", step_size=1.0, mirroring=False, num_processes=0)
SHAPE = (16, 18, 16)  # a few patches
ROUNDING_TIES = 1e-5  # of the voxels


@pytest.fixture
def opened(tmp_path, monkeypatch):
    def open_model(name, settings=QUICK, **model):
        return open_predictor(write_model(tmp_path, monkeypatch, name, **model), settings)

    return open_model


def read(predictor, files):
    return Images(*read_case(files, predictor.plans_manager.image_reader_writer_class(), predictor.dataset_json))


def masks_of(predictor, images, subsets):
    export = export_of(predictor, {})
    return {found.position: export.mask_of(found) for found in predict_subsets(predictor, images, subsets)}


def nnunets_mask(predictor, files, out):
    """The mask that nnUNetv2_predict writes for these files."""
    out.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential([files], [str(out / "case")])
    return sitk.GetArrayFromImage(sitk.ReadImage(str(out / "case.nii.gz")))


def zero_filled_mask(predictor, images, subset):
    """The mask that a stock network gives for a case whose absent channels are zero, one subset at a time."""
    data, properties = preprocess(predictor, images, subset)
    logits = predictor.predict_logits_from_preprocessed_data(data)
    return export_of(predictor, {}).mask_of(predict.Segmented(0, subset, logits.numpy(), properties))


def assert_same(mask, expected):
    assert mask.shape == expected.shape
    assert np.count_nonzero(mask != expected) <= ROUNDING_TIES * mask.size


# --- equal to nnUNetv2_predict ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEGMENTING)
@pytest.mark.parametrize(("num_modalities", "dims"), [(3, 3), (2, 2)])
def test_every_subset_is_what_nnunet_predicts_with_the_other_files_missing(
    name, num_modalities, dims, opened, tmp_path
):
    predictor = opened(name, num_modalities=num_modalities, dims=dims)
    files = write_case(tmp_path / "case", "case", small_images(num_modalities, SHAPE))
    subsets = all_subsets(num_modalities).numpy()
    masks = masks_of(predictor, read(predictor, files), subsets)
    served = np.flatnonzero(subsets[:, list(predictor.network.subset)].all(1))  # all, but of a model for one subset
    assert sorted(masks) == served.tolist()
    for position, subset in ((position, subsets[position]) for position in served):
        there = [file for file, present in zip(files, subset, strict=True) if present]
        assert_same(masks[position], nnunets_mask(predictor, there, tmp_path / "nnunet"))
    alike = len(served) if predictor.network.subset else 1  # to such a model they are one
    assert len({mask.tobytes() for mask in masks.values()}) == len(served) // alike


@pytest.mark.parametrize("dims", [2, 3])
def test_a_stock_network_gets_zeros_for_what_is_absent(dims, opened, tmp_path):
    predictor = opened(NNUNET_TRAINER, dims=dims)
    images = read(predictor, write_case(tmp_path / "case", "case", small_images(3, SHAPE)))
    subsets = all_subsets(3).numpy()
    masks = masks_of(predictor, images, subsets)
    for position, subset in enumerate(subsets):
        assert_same(masks[position], zero_filled_mask(predictor, images, subset))


@pytest.mark.parametrize("name", ["DCSegTrainer", "ModalityDropoutTrainer"])
def test_folds_mirroring_regions_and_step_size_are_nnunets(name, opened, tmp_path):
    settings = PredictionSettings(device="cpu", mirroring=True, step_size=0.5, num_processes=0)
    predictor = opened(name, settings, num_modalities=2, dims=2, folds=(0, 1), regions=True)
    assert len(predictor.list_of_parameters) == 2
    files = write_case(tmp_path / "case", "case", small_images(2, (3, 26, 22)))
    masks = masks_of(predictor, read(predictor, files), all_subsets(2).numpy())
    for position, there in enumerate(([files[0]], [files[1]], files)):
        assert_same(masks[position], nnunets_mask(predictor, there, tmp_path / "nnunet"))


@pytest.mark.parametrize("name", [*SEGMENTING, NNUNET_TRAINER])
def test_absent_means_absent(name, opened, tmp_path):
    predictor = opened(name, num_modalities=3)
    images = small_images(3, SHAPE)
    subsets = np.array([[True, False, False], [False, True, True]])  # each channel is absent from one
    before = {}
    for found in predict_subsets(predictor, read(predictor, write_case(tmp_path / "a", "case", images)), subsets):
        before[found.position] = found
    for channel in range(3):
        changed = images.copy()
        changed[channel] = small_images(3, SHAPE, seed=99)[channel] * 7 + 1  # nowhere zero: another mask
        absent = subsets[~subsets[:, channel]]
        of_absent = np.flatnonzero(~subsets[:, channel])
        there = read(predictor, write_case(tmp_path / f"b{channel}", "case", changed))
        for found in predict_subsets(predictor, there, absent):
            expected = before[of_absent[found.position]]
            np.testing.assert_array_equal(found.logits, expected.logits)
            assert found.properties["bbox_used_for_cropping"] == expected.properties["bbox_used_for_cropping"]


# --- preprocessed once ------------------------------------------------------------------------------------------------


def test_the_networks_input_is_bit_for_bit_that_of_missing_files(opened, tmp_path):
    predictor = opened("ModalityDropoutTrainer")
    files = write_case(tmp_path / "case", "case", small_images())
    images, subsets = read(predictor, files), all_subsets(3).numpy()
    preprocessor = MissingModalityPreprocessor(verbose=False)
    for group in groups_by_mask(images.voxels, subsets):
        volume, properties = preprocess(predictor, images, group.channels)
        for position in group.positions:
            there = [file for file, present in zip(files, subsets[position], strict=True) if present]
            managers = (predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)
            expected, _, expected_properties = preprocessor.run_case(there, None, *managers)
            given = drop_absent(volume[None], torch.from_numpy(subsets[position])[None])[0]
            np.testing.assert_array_equal(given.numpy(), expected)
            assert properties["bbox_used_for_cropping"] == expected_properties["bbox_used_for_cropping"]


def ring_halves():
    """Two channels that enclose a hole only together, and one that is the ring without its hole filled."""
    voxels = np.zeros((3, 9, 9, 9), dtype=np.float32)
    voxels[0, 2:7, 2:7, 2:7] = 1
    voxels[0, 3:6, 3:6, 3:6] = 0
    voxels[1] = voxels[0]
    voxels[0, :, :, 2] = 0
    voxels[1, :, :, 6] = 0
    voxels[2, 2:7, 2:7, 2:7] = 1
    return voxels


@pytest.mark.parametrize(
    "voxels", [small_images(4), ring_halves(), np.ones((2, 3, 3, 3))], ids=["brain", "ring", "full"]
)
def test_subsets_share_a_group_exactly_if_nnunets_masks_are_equal(voxels):
    subsets = all_subsets(len(voxels)).numpy()
    groups = groups_by_mask(voxels, subsets)
    group_of = {position: number for number, group in enumerate(groups) for position in group.positions}
    assert sorted(group_of) == list(range(len(subsets)))
    masks = [create_nonzero_mask(voxels[subset]) for subset in subsets]
    for one in range(len(subsets)):
        for other in range(len(subsets)):
            assert (group_of[one] == group_of[other]) == np.array_equal(masks[one], masks[other])
    for group in groups:
        np.testing.assert_array_equal(group.channels, subsets[group.positions].any(0))


def test_channels_outside_the_subsets_take_no_part_in_the_groups():
    voxels = small_images()
    voxels[2] = np.nan
    groups = groups_by_mask(voxels, np.array([[True, False, False], [False, True, False]]))
    assert len(groups) == 2


# --- one encoding -----------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A network that writes down the subsets that it is called with."""

    def __init__(self, encodes_once=True):
        super().__init__()
        self.presents, self.left_to_itself = [], []
        if encodes_once:
            self.forward_subsets = self.of_subsets

    def of_subsets(self, images, presents):
        self.presents += presents.int().tolist()
        weights = torch.arange(1.0, images.shape[1] + 1)
        summed = [(drop_absent(images, p[None]) * weights[:, None, None, None]).sum(1, keepdim=True) for p in presents]
        return torch.stack(summed)

    def forward(self, images):
        self.left_to_itself.append(images.flatten(2).amax(2)[0].tolist())
        return images.sum(1, keepdim=True)


def test_subsets_that_see_the_same_in_a_patch_are_computed_once():
    images = torch.zeros(1, 3, 2, 2, 2)
    images[0, 0, 0] = 1.0
    images[0, 2] = 5.0  # constant within this patch: nothing to see
    network = Counting()
    logits = SubsetStack(network, all_subsets(3))(images)
    assert logits.shape == (1, 7, 2, 2, 2)
    assert network.presents == [[1, 0, 0]]
    assert sorted(network.left_to_itself) == [[0.0, 0.0, 0.0], [0.0, 0.0, 5.0]]
    for position, subset in enumerate(all_subsets(3)):
        seen = images[0, 0] if subset[0] else 5.0 * subset[2] * torch.ones(2, 2, 2)
        torch.testing.assert_close(logits[0, position], seen)


def test_a_background_patch_is_computed_once():
    for network in (Counting(), Counting(encodes_once=False)):
        logits = SubsetStack(network, all_subsets(4))(torch.zeros(1, 4, 2, 2, 2))
        assert logits.shape == (1, 15, 2, 2, 2)
        assert network.presents == []
        assert len(network.left_to_itself) == 1


def test_a_compiled_network_is_taken_out_of_its_wrapping():
    network = Counting()
    stack = SubsetStack(torch.compile(network, backend="eager"), all_subsets(2))
    assert stack.network is network


# --- the run ----------------------------------------------------------------------------------------------------------


def test_subsets_with_a_channel_that_the_case_lacks_are_left_out(opened, tmp_path):
    predictor = opened("ModalityDropoutTrainer")
    images = small_images()
    images[1] = 4.0  # a constant holds no image
    there = read(predictor, write_case(tmp_path / "case", "case", images, channels=[0, 1]))
    found = list(predict_subsets(predictor, there, all_subsets(3).numpy()))
    assert [(segmented.position, segmented.present.tolist()) for segmented in found] == [(0, [True, False, False])]


def numbers_per_run(monkeypatch):
    """Of how many subsets each run of the sliding window is, and how many logits of former runs are alive then."""
    runs, alive, predict_stack = [], [], predict.predict_stack

    def watched(predictor, stack, *arguments):
        runs.append((len(stack.subsets), sum(former() is not None for former in alive)))
        logits = predict_stack(predictor, stack, *arguments)
        alive.append(weakref.ref(logits.untyped_storage()))
        return logits

    monkeypatch.setattr(predict, "predict_stack", watched)
    return runs


@pytest.mark.parametrize("name", ["DCSegTrainer", "ModalityDropoutTrainer", NNUNET_TRAINER])
def test_subsets_that_do_not_fit_the_memory_are_predicted_in_several_runs_with_the_same_masks(
    name, opened, tmp_path, monkeypatch
):
    predictor = opened(name)
    images = read(predictor, write_case(tmp_path / "case", "case", small_images(3, SHAPE)))
    subsets = all_subsets(3).numpy()
    together = masks_of(predictor, images, subsets)
    largest = max(len(group.positions) for group in groups_by_mask(images.voxels, subsets))
    export = export_of(predictor, {})
    volume, _ = preprocess(predictor, images, subsets[-1])
    of_one = 3 * (2 * volume[0].numel() + 12 * 16**3) / 1e9  # classes, voxels in half precision, a patch in single
    runs = numbers_per_run(monkeypatch)
    for fitting in (1, 2):
        runs.clear()
        found = predict_subsets(predictor, images, subsets, memory=(fitting + 0.5) * of_one)
        apart = [(each.position, export.mask_of(each)) for each in found]
        assert sorted(position for position, _ in apart) == list(range(7))
        assert all(np.array_equal(together[position], mask) for position, mask in apart)
        assert max(number for number, _ in runs) == fitting < largest
        assert len(runs) > largest / fitting
        assert max(former for _, former in runs) == 0


def test_one_subset_is_predicted_whatever_memory_is_allowed(opened, tmp_path):
    predictor = opened("ModalityDropoutTrainer")
    images = read(predictor, write_case(tmp_path / "case", "case", small_images(3, SHAPE)))
    assert len(list(predict_subsets(predictor, images, all_subsets(3).numpy(), memory=1e-9))) == 7


def test_logits_that_wait_for_their_export_do_not_keep_those_of_other_subsets(opened, tmp_path):
    predictor = opened("ModalityDropoutTrainer")
    images = read(predictor, write_case(tmp_path / "case", "case", small_images(3, SHAPE)))
    for found in predict_subsets(predictor, images, all_subsets(3).numpy()):
        assert found.logits.base is None


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mirroring", [False, True])
def test_the_progress_adds_up_to_all_subsets(dims, mirroring, opened, tmp_path):
    settings = replace(QUICK, mirroring=mirroring)
    predictor = opened("ModalityDropoutTrainer", settings, dims=dims, folds=(0, 1))
    images = read(predictor, write_case(tmp_path / "case", "case", small_images(3, SHAPE), channels=[0, 2]))
    shares = []
    list(predict_subsets(predictor, images, all_subsets(3).numpy(), shares.append))
    assert sum(shares) == pytest.approx(7)
    assert len(shares) > 4


def test_the_predictor_is_left_as_it_was(opened, tmp_path):
    predictor = opened("ModalityDropoutTrainer")
    network, label_manager = predictor.network, predictor.label_manager
    images = read(predictor, write_case(tmp_path / "case", "case", small_images()))
    next(predict_subsets(predictor, images, all_subsets(3).numpy()))
    assert predictor.network is network
    assert predictor.label_manager is label_manager


@pytest.mark.parametrize("name", ["DCSegTrainer", "ModalityDropoutTrainer", NNUNET_TRAINER])
def test_every_convolution_of_a_patch_is_onednns(name, opened):
    """Of 3D: PyTorch would compute those of one sample by the slower of its two ways."""
    predictor = opened(name, dims=3)
    stack = SubsetStack(predictor.network.eval(), all_subsets(3))
    with torch.no_grad(), torch.profiler.profile() as profile:
        stack(torch.randn(1, 3, 16, 16, 16))
    operators = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in operators
    assert not [operator for operator in operators if operator.startswith("aten::slow_conv3d")]
