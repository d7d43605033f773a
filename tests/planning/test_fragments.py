import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_dataset_json, small_plans

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.planning.fragments import load_fragment, merge_fragment, write_plans

SIX_STAGES = (32, 64, 128, 256, 320, 320)


# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")


def merged(plans, fragment, name="newPlans"):
    return merge_fragment(plans, CONFIGURATION, fragment, name)["configurations"][CONFIGURATION]


def arch_kwargs(configuration):
    return configuration["architecture"]["arch_kwargs"]


def of_stages(plans, **per_stage):
    """Give a plan lists with a different value in every stage."""
    arch_kwargs(plans["configurations"][CONFIGURATION]).update(per_stage)
    return plans


# --- fragments --------------------------------------------------------------------------------------------------------


def test_a_fragment_is_read_without_its_remarks(tmp_path):
    file = tmp_path / "fragment.json"
    file.write_text('{"//": "why", "//batch_size": "größer", "batch_size": 4, "missmod": {"trainer": {"alpha": 1}}}')
    assert load_fragment(file) == {"batch_size": 4, "missmod": {"trainer": {"alpha": 1}}}


def test_a_remark_is_no_unknown_key(tmp_path):
    (tmp_path / "fragment.json").write_text('{"// from": "Table 2", "batch_size": 4}')
    assert merged(small_plans(), load_fragment(tmp_path / "fragment.json"))["batch_size"] == 4


# --- merging ----------------------------------------------------------------------------------------------------------


def test_merging_changes_what_the_fragment_says_and_nothing_else():
    plans = small_plans(residual=True)
    fragment = {"batch_size": 5, "architecture": {"arch_kwargs": {"conv_bias": False}}}
    expected = copy.deepcopy(plans)
    expected["plans_name"] = "newPlans"
    configuration = expected["configurations"][CONFIGURATION]
    configuration["batch_size"] = 5
    arch_kwargs(configuration)["conv_bias"] = False
    assert merge_fragment(plans, CONFIGURATION, fragment, "newPlans") == expected


def test_merging_reaches_into_nested_blocks_and_replaces_lists_whole():
    plans = small_plans(alpha=0.1, num_epochs=3)
    fragment = {
        "missmod": {"trainer": {"alpha": 0.2, "t": 5.0}, "network": {"code_channels": 4}},
        "architecture": {"arch_kwargs": {"features_per_stage": [4, 8, 12]}},
    }
    configuration = merged(plans, fragment)
    assert configuration["missmod"] == {
        "trainer": {"alpha": 0.2, "num_epochs": 3, "t": 5.0},
        "network": {"code_channels": 4},
    }
    assert arch_kwargs(configuration)["features_per_stage"] == [4, 8, 12]
    assert arch_kwargs(configuration)["n_stages"] == 3


def test_a_plan_without_a_block_of_ours_gets_one():
    plans = small_plans()
    del plans["configurations"][CONFIGURATION]["missmod"]
    fragment = {"missmod": {"trainer": {"alpha": 0.2}}}
    assert merged(plans, fragment)["missmod"] == {"trainer": {"alpha": 0.2}}


def test_merging_changes_neither_plan_nor_fragment():
    plans, fragment = (
        small_plans(features=SIX_STAGES),
        {
            "patch_size": [30, 40, 50],
            "missmod": {"trainer": {"num_epochs": 2}},
            "architecture": {"arch_kwargs": {"features_per_stage": [8, 16]}},
        },
    )
    before = copy.deepcopy((plans, fragment))
    for _ in range(2):
        assert merge_fragment(plans, CONFIGURATION, fragment, "newPlans") != plans
        assert (plans, fragment) == before


def test_the_preprocessed_data_stay_the_same():
    plans = small_plans()
    assert merged(plans, {"batch_size": 5, "patch_size": [32] * 3})["data_identifier"] == "small_3d"


def test_a_configuration_that_inherits_is_resolved():
    plans = small_plans(alpha=0.1)
    own = {"inherits_from": CONFIGURATION, "data_identifier": "low", "patch_size": [8] * 3, "spacing": [2.0] * 3}
    plans["configurations"]["3d_lowres"] = own
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": CONFIGURATION, "previous_stage": "3d_lowres"}
    before = copy.deepcopy(plans)
    new = merge_fragment(plans, "3d_lowres", {"batch_size": 7}, "newPlans")
    configuration = new["configurations"]["3d_lowres"]
    assert "inherits_from" not in configuration
    assert configuration == {
        **before["configurations"][CONFIGURATION],
        **{key: value for key, value in own.items() if key != "inherits_from"},
        "batch_size": 7,
    }
    others = (CONFIGURATION, "3d_cascade_fullres")
    assert all(new["configurations"][name] == before["configurations"][name] for name in others)
    assert PlansManager(new).get_configuration("3d_lowres").batch_size == 7
    assert plans == before


def test_an_unknown_key_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"\['batchsize', 'patchsize'\].*Known are: .*batch_size.*patch_size") as error:
        merged(small_plans(), {"patchsize": [32] * 3, "batchsize": 2, "missmod": {}})
    assert "inherits_from" not in str(error.value)


def test_an_unknown_configuration_is_an_error():
    with pytest.raises(RuntimeError, match="3d_fulres"):
        merge_fragment(small_plans(), "3d_fulres", {}, "newPlans")


# --- topology ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
def test_the_papers_patch_on_a_plan_of_six_stages(residual):
    plans = small_plans(features=SIX_STAGES, residual=residual, patch=[128] * 3)
    per_stage = {"n_conv_per_stage_decoder": [1, 2, 3, 4, 5]}
    per_stage["n_blocks_per_stage" if residual else "n_conv_per_stage"] = [1, 3, 4, 6, 7, 8]
    configuration = merged(of_stages(plans, **per_stage), {"patch_size": [112] * 3})
    fitted = arch_kwargs(configuration)
    assert configuration["patch_size"] == [112] * 3  # 112, 56, 28, 14, 7: four halvings
    assert fitted["n_stages"] == 5
    assert fitted["strides"] == [[1, 1, 1]] + [[2, 2, 2]] * 4
    assert fitted["kernel_sizes"] == [[3, 3, 3]] * 5
    assert fitted["features_per_stage"] == [32, 64, 128, 256, 320]
    assert fitted["n_conv_per_stage_decoder"] == [1, 2, 3, 4]
    assert fitted["n_blocks_per_stage" if residual else "n_conv_per_stage"] == [1, 3, 4, 6, 7]
    assert ("n_conv_per_stage" in fitted) != ("n_blocks_per_stage" in fitted)


@pytest.mark.parametrize("residual", [False, True])
def test_a_larger_patch_repeats_the_last_stage(residual):
    fitted = arch_kwargs(merged(small_plans(features=(8, 16, 24), residual=residual), {"patch_size": [64] * 3}))
    assert fitted["n_stages"] == 5
    assert fitted["features_per_stage"] == [8, 16, 24, 24, 24]
    assert fitted["n_blocks_per_stage" if residual else "n_conv_per_stage"] == ([1] * 5 if residual else [2] * 5)
    assert fitted["n_conv_per_stage_decoder"] == [1] * 4


ANISOTROPIC = {
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
}


def test_thick_slices_are_halved_later():
    plans = small_plans()
    plans["configurations"][CONFIGURATION]["spacing"] = [3.0, 1.0, 1.0]
    configuration = merged(plans, {"patch_size": [16, 64, 64]})
    assert {key: arch_kwargs(configuration)[key] for key in ANISOTROPIC} == ANISOTROPIC
    assert configuration["patch_size"] == [16, 64, 64]


@pytest.mark.parametrize(
    ("spacing", "patch"),
    [
        ([1.0] * 3, [112] * 3),
        ([1.0] * 3, [128, 160, 112]),
        ([5.0, 0.5, 0.5], [20, 320, 256]),
        ([1.0, 1.0], [512, 384]),
        ([0.8, 2.1], [200, 90]),
        ([1.0] * 3, [101, 75, 33]),
    ],
)
def test_the_topology_is_what_nnunet_plans(spacing, patch):
    """With the call of its planner, and what JSON makes of it."""
    plans = small_plans(dims=len(patch))
    plans["configurations"][CONFIGURATION]["spacing"] = spacing
    configuration = merged(plans, {"patch_size": patch})
    _, strides, kernels, fitting_patch, divisor = get_pool_and_conv_props(spacing, patch, 4, 999999)
    fitted = arch_kwargs(configuration)
    assert fitted["strides"] == [list(stride) for stride in strides]
    assert fitted["kernel_sizes"] == [list(kernel) for kernel in kernels]
    assert fitted["n_stages"] == len(strides) == len(fitted["features_per_stage"])
    assert configuration["patch_size"] == list(fitting_patch)
    assert not (np.array(configuration["patch_size"]) % divisor).any()
    assert json.loads(json.dumps(configuration)) == configuration


def test_a_patch_that_does_not_divide_is_rounded_up():
    assert merged(small_plans(), {"patch_size": [22, 30, 41]})["patch_size"] == [24, 32, 48]
    assert merged(small_plans(dims=2), {"patch_size": [33, 64]})["patch_size"] == [40, 64]


def test_a_topology_that_the_fragment_sets_is_kept():
    given = {"n_stages": 3, "strides": [[1] * 3, [2] * 3, [2] * 3], "kernel_sizes": [[3] * 3] * 3}
    fragment = {"patch_size": [64] * 3, "architecture": {"arch_kwargs": {**given, "features_per_stage": [8, 16, 24]}}}
    configuration = merged(small_plans(features=(8, 16, 24, 32)), fragment)
    network = arch_kwargs(configuration)
    assert {key: network[key] for key in given} == given
    assert (configuration["patch_size"], network["n_conv_per_stage"]) == ([64] * 3, [2] * 3)


def test_a_topology_must_fit_the_patch_beside_it():
    fragment = {"patch_size": [62] * 3, "architecture": {"arch_kwargs": {"strides": [[1] * 3, [2] * 3, [2] * 3]}}}
    with pytest.raises(ValueError, match=r"patch_size .* divisible by the strides, \[4, 4, 4\] in all"):
        merged(small_plans(features=(8, 16, 24)), fragment)


def test_without_a_patch_in_the_fragment_the_topology_stays():
    plans = small_plans(features=SIX_STAGES, patch=[32] * 3)
    configuration = plans["configurations"][CONFIGURATION]
    arch_kwargs(configuration)["strides"][1] = [1, 2, 2]
    assert merged(plans, {"batch_size": 2}) == configuration  # its patch of 32 would not be planned with six stages


def test_a_patch_of_other_dimensions_is_an_error():
    """The paper's 3D patch in the configuration 2d, say."""
    with pytest.raises(ValueError, match=r"\[112, 112, 112\]"):
        merged(small_plans(dims=2), {"patch_size": [112] * 3})


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_every_fitted_plan_is_a_network(dims, residual):
    plans = small_plans(dims=dims, residual=residual, features=(8, 8, 8, 8, 8, 8))
    new = merge_fragment(plans, CONFIGURATION, {"patch_size": [20, 24, 32][-dims:]}, "newPlans")
    configuration = PlansManager(new).get_configuration(CONFIGURATION)
    images = torch.randn(1, 4, *configuration.patch_size)
    network = Architecture.from_configuration(configuration).unet(4, 3, True)
    levels = [tuple(level.shape[2:]) for level in network(images)]
    assert levels[0] == tuple(configuration.patch_size)
    assert len(levels) == arch_kwargs(configuration.configuration)["n_stages"] - 1


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_written_where_nnunet_looks_for_it(tmp_path, monkeypatch):
    from nnunetv2.run.run_training import get_trainer_from_args

    preprocessed = tmp_path / "nnUNet_preprocessed"
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = preprocessed / "Dataset501_Small"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(small_dataset_json()))
    plans = merge_fragment(small_plans(), CONFIGURATION, {"patch_size": [112] * 3}, "newPlans")
    file = write_plans(plans, preprocessed)
    assert file == folder / "newPlans.json"
    assert json.loads(file.read_text()) == plans
    monkeypatch.setattr(
        "nnunetv2.run.run_training.recursive_find_trainer_class_by_name", lambda name: ModalityDropoutTrainer
    )
    trainer = get_trainer_from_args(
        "Dataset501_Small", CONFIGURATION, 0, "ModalityDropoutTrainer", "newPlans", False, device=torch.device("cpu")
    )
    assert trainer.configuration_manager.patch_size == [112] * 3
    assert Path(trainer.output_folder).parent.name == f"ModalityDropoutTrainer__newPlans__{CONFIGURATION}"
