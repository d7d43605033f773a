"""Patch, batch and widths for a target, against memory that is computed by a formula."""

import copy
import math

import pytest
from small_datasets import small_dataset
from small_plans import CONFIGURATION

from nnunetv2_missmod.planning.fitting import (
    GB,
    SMALLEST_PATCH,
    WIDTHS,
    configuration_of,
    fit,
    fit_batch,
    planner_of,
    voxels_of,
)

FIXED = 0.2 * GB
PLENTY = 1e12  # voxels of a dataset


class Memory:
    """Fixed, and for each voxel of the batch so many bytes per feature of the finest level; notes what it is asked."""

    def __init__(self, fixed=FIXED, per_feature=100.0):
        self.fixed, self.per_feature, self.asked = fixed, per_feature, []

    def __call__(self, configuration):
        features = configuration["architecture"]["arch_kwargs"]["features_per_stage"][0]
        voxels = math.prod(configuration["patch_size"])
        memory = self.fixed + self.per_feature * features * voxels * configuration["batch_size"]
        self.asked.append((list(configuration["patch_size"]), features, memory))
        return memory


def features(configuration):
    return configuration["architecture"]["arch_kwargs"]["features_per_stage"]


def fitted(folder, target, memory=None, **options):
    dataset = small_dataset(folder, **{"shape": (128, 128, 128), **options})
    memory = memory or Memory()
    return fit(dataset, CONFIGURATION, memory, target * GB), memory, dataset


# --- the patch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [8, 12])
def test_the_patch_fits_and_every_larger_one_did_not(target, tmp_path):
    configuration, memory, _ = fitted(tmp_path, target, training=400)
    assert memory(configuration) <= target * GB
    larger = [m for patch, _, m in memory.asked if math.prod(patch) > math.prod(configuration["patch_size"])]
    assert min(larger, default=math.inf) > target * GB
    assert features(configuration)[0] == 32


def test_a_larger_target_gives_no_smaller_patch(tmp_path):
    sizes = [math.prod(fitted(tmp_path, target)[0]["patch_size"]) for target in (9, 11, 14)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == 128**3


def test_a_patch_is_no_larger_than_the_median_case_rounded_up(tmp_path):
    configuration, _, _ = fitted(tmp_path, 80, shape=(100, 128, 60), patch=[64, 64, 32])
    assert all(n <= p < n + 32 for p, n in zip(configuration["patch_size"], (100, 128, 60), strict=True))


def test_the_topology_is_nnunet_s_for_the_patch(tmp_path):
    configuration, _, _ = fitted(tmp_path, 80)
    arch_kwargs = configuration["architecture"]["arch_kwargs"]
    assert configuration["patch_size"] == [128] * 3
    assert arch_kwargs["features_per_stage"] == [32, 64, 128, 256, 320, 320]
    assert arch_kwargs["strides"] == [[1] * 3] + [[2] * 3] * 5
    assert arch_kwargs["n_conv_per_stage"] == [2] * 6


def test_nothing_else_of_the_configuration_changes(tmp_path):
    configuration, _, dataset = fitted(tmp_path, 6, alpha=0.2)
    before = configuration_of(dataset.plans, CONFIGURATION)
    changed = {key for key in before if before[key] != configuration[key]}
    assert set(configuration) == set(before)
    assert changed <= {"patch_size", "batch_size", "architecture"}
    assert configuration["data_identifier"] == "small_3d"
    assert configuration["missmod"] == {"trainer": {"alpha": 0.2}}


def test_the_dataset_s_plan_stays(tmp_path):
    dataset = small_dataset(tmp_path, shape=(64, 64, 64))
    before = copy.deepcopy(dataset.plans)
    fit(dataset, CONFIGURATION, Memory(), 2 * GB)
    assert dataset.plans == before


def test_residual_encoders_keep_their_blocks(tmp_path):
    configuration, memory, _ = fitted(tmp_path, 6, residual=True, features=(32, 64, 128))
    arch_kwargs = configuration["architecture"]["arch_kwargs"]
    assert configuration["architecture"]["network_class_name"].endswith("ResidualEncoderUNet")
    assert arch_kwargs["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6][: arch_kwargs["n_stages"]]
    assert memory(configuration) <= 6 * GB


def test_two_dimensions(tmp_path):
    configuration, memory, _ = fitted(tmp_path, 1, Memory(per_feature=3000.0), dims=2, num_modalities=2)
    assert len(configuration["patch_size"]) == 2
    assert memory(configuration) <= GB


def test_a_patch_that_is_far_too_large_is_not_tried(tmp_path):
    _, memory, _ = fitted(tmp_path, 2, Memory(per_feature=1000.0), patch=[32] * 3)
    tried = {tuple(patch): m for patch, features, m in memory.asked if features == 32 and math.prod(patch) < 128**3}
    assert max(tried.values()) < 2.2 * 2 * GB


def test_memory_that_could_not_be_measured_does_not_end_the_search(tmp_path):
    def runs_out(configuration):
        memory = Memory()(configuration)
        return memory if memory < 6 * GB else math.inf

    configuration, _, _ = fitted(tmp_path, 6, runs_out)
    assert configuration["patch_size"] == fitted(tmp_path, 6)[0]["patch_size"]


# --- widths -----------------------------------------------------------------------------------------------------------


def test_a_patch_below_half_narrows_the_network_step_by_step(tmp_path):
    widths = []
    for target in (9, 5, 3):
        configuration, memory, _ = fitted(tmp_path, target)
        assert memory(configuration) <= target * GB
        assert math.prod(configuration["patch_size"]) >= 128**3 / 2 or features(configuration)[0] == 8
        widths.append(features(configuration)[0])
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 32
    assert widths[-1] < 32
    assert set(widths) <= {32 * width for width in WIDTHS} | {16}


def test_narrow_features_are_multiples_of_8(tmp_path):
    configuration, _, _ = fitted(tmp_path, 3)
    assert all(count % 8 == 0 and count >= 8 for count in features(configuration))
    assert len(features(configuration)) == configuration["architecture"]["arch_kwargs"]["n_stages"]


def test_the_narrowest_network_takes_the_patch_that_fits(tmp_path):
    configuration, memory, _ = fitted(tmp_path, 0.5)
    assert features(configuration)[0] == 8
    assert math.prod(configuration["patch_size"]) < 128**3 / 2
    assert memory(configuration) <= 0.5 * GB


def test_where_nothing_fits_the_least_that_is_needed_is_said(tmp_path):
    least = Memory(3 * GB)
    with pytest.raises(ValueError, match=r"got 2\.0 GB.*need (\d+\.\d) GB") as error:
        fitted(tmp_path, 2, least)
    patch, narrowest, memory = least.asked[-1]
    assert max(patch) <= SMALLEST_PATCH
    assert narrowest == 8
    assert f"need {memory / GB:.1f} GB" in str(error.value)


# --- the batch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "batch"), [(1, 2), (2.2, 2), (3.2, 3), (3.19, 2), (10.3, 10)])
def test_the_batch_fills_the_target_and_is_at_least_2(target, batch):
    configuration = {
        "patch_size": [10] * 3,
        "batch_size": 7,
        "architecture": {"arch_kwargs": {"features_per_stage": [1]}},
    }
    memory = Memory(per_feature=GB / 1000)
    assert fit_batch(configuration, memory, target * GB, PLENTY) == batch


def test_a_batch_is_at_most_5_percent_of_the_dataset():
    configuration = {
        "patch_size": [10] * 3,
        "batch_size": 2,
        "architecture": {"arch_kwargs": {"features_per_stage": [1]}},
    }
    assert fit_batch(configuration, Memory(0, 1.0), GB, 1000 * 20 * 6) == 6


def test_a_batch_whose_memory_grows_faster_than_linearly_still_fits():
    def memory(configuration):
        return configuration["batch_size"] ** 2 * GB

    configuration = {"patch_size": [10] * 3, "batch_size": 2}
    assert fit_batch(configuration, memory, 30 * GB, PLENTY) == 5


def test_the_voxels_of_a_2d_dataset_are_those_of_its_volumes(tmp_path):
    for dims in (2, 3):
        dataset = small_dataset(tmp_path, 3, dims, (20, 30, 40), training=7)
        assert voxels_of(dataset, configuration_of(dataset.plans, CONFIGURATION)) == 7 * 20 * 30 * 40


# --- the planner ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MyPlanner", None, "DefaultPreprocessor"])
def test_a_planner_that_cannot_be_asked_is_named(name, tmp_path):
    dataset = small_dataset(tmp_path)
    dataset.plans["experiment_planner_used"] = name
    with pytest.raises(ValueError, match=f"one of nnU-Net's planners, got experiment_planner_used = {name!r}"):
        planner_of(dataset)


def test_the_planner_needs_no_images_and_brings_its_own_target(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(variable, raising=False)
    dataset = small_dataset(tmp_path)
    assert planner_of(dataset).UNet_vram_target_GB == 8
    dataset.plans["experiment_planner_used"] = "nnUNetPlannerResEncL"
    assert planner_of(dataset).UNet_vram_target_GB == 24


def test_without_a_fingerprint_there_is_no_planner(tmp_path):
    dataset = small_dataset(tmp_path)
    (dataset.folder / "dataset_fingerprint.json").unlink()
    with pytest.raises(ValueError, match=r"fingerprint at .*found none\. Run nnUNetv2_extract_fingerprint"):
        planner_of(dataset)
