"""A plan is checked before anything that it names is imported or built."""

import copy
import json

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.host.plan_checks import open_plan, refused_as
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer

NAN, INF = float("nan"), float("inf")
OLD = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 16,
    "unet_max_num_features": 32,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [1, 1],
    "num_pool_per_axis": [2, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3]] * 3,
}
REMOVED = Ellipsis  # in place of a value: the entry is taken out


def changed(path, value, plans=None):
    """A plan with one entry changed; the path leads from the plan, or from its configuration."""
    plans = copy.deepcopy(plans or small_plans(2))
    place = plans if path[0] in plans else plans["configurations"][CONFIGURATION]
    for key in path[:-1]:
        place = place[key]
    if value is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return plans


def opened(plans, configuration=CONFIGURATION, num_modalities=2):
    return open_plan(plans, configuration, "plans.json", num_modalities)


def arch(key):
    return ("architecture", "arch_kwargs", key)


WRONG = [
    (("dataset_name",), "../up"),
    (("dataset_name",), 5),
    (("plans_name",), "a/b"),
    (("plans_name",), REMOVED),
    (("image_reader_writer",), "os"),
    (("image_reader_writer",), "nnunetv2.imageio.simpleitk_reader_writer.SimpleITKIO"),
    (("image_reader_writer",), 5),
    (("label_manager",), "np"),
    (("label_manager",), None),
    (("experiment_planner_used",), "os.system"),
    (("transpose_forward",), [0, 1]),
    (("transpose_forward",), [0, 1, True]),
    (("transpose_backward",), [1, 2, 0]),
    (("transpose_backward",), "012"),
    (("configurations",), []),
    (("configurations",), {CONFIGURATION: []}),
    (("foreground_intensity_properties_per_channel",), []),
    (("foreground_intensity_properties_per_channel", "1"), REMOVED),
    (("data_identifier",), "../up"),
    (("preprocessor_name",), "a.b"),
    (("batch_size",), "two"),
    (("batch_size",), 0),
    (("batch_size",), True),
    (("batch_size",), 2.0),
    (("batch_dice",), 1),
    (("patch_size",), "16"),
    (("patch_size",), [16, 16, -16]),
    (("patch_size",), [16, 16, 16.0]),
    (("patch_size",), [16, 16, 18]),
    (("patch_size",), [16, 16]),
    (("spacing",), [1, 1, NAN]),
    (("spacing",), [1, 1, INF]),
    (("spacing",), [1, 1, 0]),
    (("spacing",), [1, 1, 10**400]),
    (("spacing",), [1, 1]),
    (("median_image_size_in_voxels",), [1, 1]),
    (("normalization_schemes",), ["ZScoreNormalization", "os"]),
    (("normalization_schemes",), ["ZScoreNormalization", "ImageNormalization"]),
    (("normalization_schemes",), ["ZScoreNormalization"]),
    (("normalization_schemes",), "ZScoreNormalization"),
    (("use_mask_for_norm",), [True]),
    (("use_mask_for_norm",), [1, 1]),
    (("resampling_fn_data",), "os"),
    (("resampling_fn_seg",), 5),
    (("resampling_fn_probabilities_kwargs",), {"x": 1}),
    (("resampling_fn_probabilities_kwargs",), []),
    (("architecture",), []),
    (("architecture", "network_class_name"), "subprocess.Popen"),
    (("architecture", "network_class_name"), 5),
    (("architecture", "arch_kwargs"), "x"),
    (("architecture", "_kw_requires_import"), "conv_op"),
    (("architecture", "_kw_requires_import"), ["conv_op", "norm_op", "dropout_op", "nonlin", "more"]),
    (("architecture", "_kw_requires_import"), ["conv_op", "norm_op", "dropout_op"]),
    (arch("nonlin"), "subprocess.Popen"),
    (arch("conv_op"), "torch.nn.modules.module.torch.os.system"),
    (arch("conv_op"), None),
    (arch("dropout_op"), 5),
    (arch("nonlin_kwargs"), "inplace"),
    (arch("n_stages"), 10**9),
    (arch("n_stages"), "3"),
    (arch("features_per_stage"), ["16", "16", "32"]),
    (arch("features_per_stage"), [16, 16]),
    (arch("features_per_stage"), 10**9),
    (arch("features_per_stage"), {}),
    (arch("strides"), [[1] * 3, [2] * 3, [0] * 3]),
    (arch("strides"), [[1] * 3, [2] * 2, [2] * 3]),
    (arch("kernel_sizes"), [[3] * 3] * 4),
    (arch("kernel_sizes"), REMOVED),
    (arch("n_conv_per_stage"), [10**9] * 3),
    (arch("n_conv_per_stage_decoder"), [1, 1, 1]),
    (arch("conv_bias"), "no"),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda each: repr(each)[:60])
def test_a_wrong_entry_is_one_line_that_names_file_and_entry(path, value):
    with pytest.raises(ValueError, match=path[-1] if path[0] != "transpose_forward" else "transpose") as error:
        opened(changed(path, value))
    message = str(error.value)
    assert message.startswith("plans.json: expected ")
    assert "\n" not in message
    is_shared = path[0] in small_plans(2)
    assert ("of configuration 3d_fullres" in message) != is_shared
    assert len(message) < 500


def test_a_right_plan_is_opened():
    for plans in (small_plans(2), small_plans(2, dims=2), small_plans(2, residual=True)):
        before = copy.deepcopy(plans)
        manager, configuration = opened(plans)
        assert manager.plans == before
        assert configuration.configuration == before["configurations"][CONFIGURATION]
    opened(changed(arch("features_per_stage"), 16))
    opened(changed(arch("strides"), 1))
    opened(changed(("label_manager",), REMOVED))
    opened(changed(("experiment_planner_used",), REMOVED))
    opened(changed(("missmod",), REMOVED))
    opened(changed(("transpose_forward",), [2, 0, 1], changed(("transpose_backward",), [1, 2, 0])))


@pytest.mark.parametrize("content", [[], None, "plan", 5])
def test_what_is_no_plan_at_all_is_named(content):
    with pytest.raises(ValueError, match=r"^plans\.json: expected the plan to be keys with values"):
        opened(content)


def test_ct_needs_its_statistics():
    plans = changed(("normalization_schemes",), ["ZScoreNormalization", "CTNormalization"])
    opened(plans)
    statistics = ("foreground_intensity_properties_per_channel", "1")
    for wrong in (NAN, "1", REMOVED, None):
        with pytest.raises(ValueError, match=r"foreground_intensity_properties_per_channel\.1\.mean"):
            opened(changed((*statistics, "mean"), wrong, plans))
    opened(changed(("foreground_intensity_properties_per_channel", "0", "mean"), NAN, plans))  # z-score reads none


def test_a_network_that_is_no_unet_needs_no_stages():
    plans = changed(
        ("architecture", "network_class_name"), "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    )
    plans = changed(("architecture", "arch_kwargs"), {"input_shape": [16] * 3}, plans)
    opened(changed(("architecture", "_kw_requires_import"), [], plans))


# --- what configurations inherit --------------------------------------------------------------------------------------


def test_a_configuration_is_checked_with_what_it_inherits():
    plans = small_plans(2)
    plans["configurations"]["child"] = {"inherits_from": CONFIGURATION, "batch_size": 3}
    assert opened(plans, "child")[1].batch_size == 3
    plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]["nonlin"] = "os.system"
    with pytest.raises(ValueError, match=r"arch_kwargs\.nonlin of configuration child"):
        opened(plans, "child")


@pytest.mark.parametrize("parent", ["child", "grandchild", "nowhere", 5, [], None, {}])
def test_parents_in_a_circle_or_missing_are_an_error(parent):
    plans = small_plans(2)
    plans["configurations"]["child"] = {"inherits_from": parent}
    plans["configurations"]["grandchild"] = {"inherits_from": "child"}
    for name in ("child", "grandchild"):
        with pytest.raises(ValueError, match=rf"^plans\.json: expected configuration {name} to be complete"):
            opened(plans, name)
    opened(plans)


def test_a_configuration_that_is_not_there_lists_those_that_are():
    with pytest.raises(ValueError, match=r"got 2d\. It has 3d_fullres\."):
        opened(small_plans(2), "2d")


# --- plans before nnU-Net 2.4 -----------------------------------------------------------------------------------------


def old_plans(**changes):
    plans = small_plans(2)
    del plans["configurations"][CONFIGURATION]["architecture"]
    plans["configurations"][CONFIGURATION].update({**OLD, **changes})
    return plans


@pytest.mark.parametrize("unet", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_an_old_plan_still_opens_and_builds(unet):
    manager, configuration = opened(old_plans(UNet_class_name=unet))
    network = ModalityDropoutTrainer.build_network_architecture(manager, configuration, 2, 3, False)
    assert network.eval()(torch.randn(1, 2, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"UNet_class_name": "os.system"},
        {"UNet_class_name": 5},
        {"conv_kernel_sizes": "x"},
        {"UNet_base_num_features": "a"},
    ],
)
def test_a_wrong_old_plan_is_an_error(change):
    with pytest.raises(ValueError, match=r"^plans\.json: expected "):
        opened(old_plans(**change))


# --- trainers, whichever command runs them ----------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", [ModalityDropoutTrainer, DCSegTrainer])
@pytest.mark.parametrize("name", ["subprocess.Popen", "torch.nn.modules.module.torch.os.system"])
def test_a_trainer_builds_nothing_that_is_no_layer(tmp_path, trainer, name):
    plans = changed(arch("nonlin"), name)
    plans = changed(arch("nonlin_kwargs"), {"args": f"echo x > {tmp_path}/F", "shell": True}, plans)
    manager = PlansManager(plans)
    with pytest.raises(ValueError, match=rf"arch_kwargs\.nonlin of the configuration to be .*{name}"):
        trainer.build_network_architecture(manager, manager.get_configuration(CONFIGURATION), 2, 3, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [("image_reader_writer",), ("label_manager",), ("normalization_schemes",)])
def test_a_trainer_refuses_classes_that_are_not_nnunets(path):
    manager = PlansManager(changed(path, "os" if path[0] != "normalization_schemes" else ["os", "os"]))
    with pytest.raises(ValueError, match=path[0]):
        ModalityDropoutTrainer.build_network_architecture(manager, manager.get_configuration(CONFIGURATION), 2, 3)


def test_what_fails_in_building_is_one_line():
    manager = PlansManager(changed(arch("nonlin_kwargs"), {"no_such": 1}))
    with pytest.raises(
        ValueError, match=r"^Expected a plan that a network can be built from, got .*TypeError.*no_such"
    ):
        ModalityDropoutTrainer.build_network_architecture(manager, manager.get_configuration(CONFIGURATION), 2, 3)
    for error in (NotImplementedError("cascade"), ValueError("wrong")):
        with pytest.raises(type(error), match=f"^{error}$"), refused_as("a plan"):
            raise error


@pytest.mark.parametrize("key", ["nonlin", "conv_op"])
def test_an_architecture_by_itself_imports_no_more(tmp_path, key):
    configuration = opened(small_plans(2))[1]
    configuration.configuration["architecture"]["arch_kwargs"][key] = "subprocess.Popen"
    architecture = Architecture.from_configuration(configuration)
    for use in (lambda: architecture.resolved, lambda: architecture.unet(1, 2, False), lambda: architecture.conv(1, 2)):
        with pytest.raises(ValueError, match=rf"architecture\.arch_kwargs\.{key} to be the full name of a layer"):
            use()


def test_the_plans_of_the_phantom_stay_valid_after_json():
    opened(json.loads(json.dumps(small_plans(2))))
