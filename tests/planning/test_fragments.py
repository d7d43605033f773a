import copy
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.host.doors import door_names, plans_folder
from nnunetv2_missmod.methods.ccsd.network import CCSDNet
from nnunetv2_missmod.methods.dcseg.network import DCSegNet
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.methods.mstkdnet.network import MSTKDNet
from nnunetv2_missmod.planning.fragments import load_fragment, load_sources, merge_fragment, write_plans

SIX_STAGES = (32, 64, 128, 256, 320, 320)
DEMO = plans_folder() / "demo.json"
PAPERS = [file for file in sorted(plans_folder().glob("*.json")) if file != DEMO]


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


# --- our fragments ----------------------------------------------------------------------------------------------------


def settings_in(fragment, trainer):
    """What a fragment sets for one trainer: for all, and under its name."""
    block = fragment["missmod"]["trainer"]
    return {**{name: value for name, value in block.items() if not isinstance(value, dict)}, **block.get(trainer, {})}


def trainer_of(file, plans, folder, monkeypatch):
    """The trainer that a fragment is named for; DC-Seg for the demo's."""
    name = "DCSegTrainer" if file == DEMO else file.stem
    door = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
    return small_trainer(door, plans, small_dataset_json(), folder, monkeypatch)


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_the_paper_s_settings_are_the_trainer_s_own_or_their_source_gives_both(file, tmp_path, monkeypatch):
    settings = trainer_of(file, small_plans(), tmp_path, monkeypatch).settings()
    paper = settings_in(load_fragment(file), file.stem)
    sources = load_sources(file)
    defaults = {name: re.search(r"the trainer's default is ([\d.e-]+)", text) for name, text in sources.items()}
    other = {name: float(default[1]) for name, default in defaults.items() if default}
    assert {"initial_lr", "weight_decay", "num_epochs"} < set(paper)
    assert {**paper, **other} == {name: settings[name] for name in paper}


@pytest.mark.parametrize(
    ("trainer", "network_class"),
    [("DCSegTrainer", DCSegNet), ("CCSDTrainer", CCSDNet), ("MSTKDNetTrainer", MSTKDNet)],
)
def test_the_paper_s_constants_are_the_network_s_own(trainer, network_class):
    constants = load_fragment(plans_folder() / f"{trainer}.json")["missmod"]["network"]
    assert constants == {name: network_class.constants()[name] for name in constants}


@pytest.mark.parametrize("file", [DEMO, *PAPERS], ids=lambda file: file.stem)
def test_a_trainer_accepts_every_fragment(file, tmp_path, monkeypatch):
    """All but the patch, which would be too large for a test."""
    fragment = {key: value for key, value in load_fragment(file).items() if key != "patch_size"}
    plans = merge_fragment(small_plans(), CONFIGURATION, fragment, "newPlans")
    trainer = trainer_of(file, plans, tmp_path, monkeypatch)
    settings = settings_in(fragment, type(trainer).__name__)
    assert settings
    assert {name: getattr(trainer, name) for name in settings} == settings


@pytest.mark.parametrize("name", door_names())
def test_every_trainer_accepts_the_demo_with_constants_for_one_of_them(name, tmp_path, monkeypatch):
    plans = merge_fragment(small_plans(), CONFIGURATION, load_fragment(DEMO), "newPlans")
    door = getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)
    trainer = small_trainer(door, plans, small_dataset_json(), tmp_path, monkeypatch)
    if name == "MSTKDNetTrainer":
        networks = (trainer.network, trainer.teacher.network)
        assert [len(network.transformer.blocks) for network in networks] == [8, 8]
    else:
        assert not hasattr(trainer.network, "transformer")


def test_both_stages_of_m3ae_share_one_plan(tmp_path, monkeypatch):
    plans = small_plans()
    files = [plans_folder() / f"{name}.json" for name in ("M3AEPretrainTrainer", "M3AETrainer")]
    for file in files:
        fragment = {key: value for key, value in load_fragment(file).items() if key != "patch_size"}
        plans = merge_fragment(plans, CONFIGURATION, fragment, "bothPlans")
    pretraining, finetuning = (trainer_of(file, plans, tmp_path, monkeypatch) for file in files)
    assert (pretraining.num_epochs, finetuning.num_epochs) == (264, 263)
    assert (pretraining.weight_decay, finetuning.weight_decay) == (0, 1e-4)


@pytest.mark.parametrize("file", [DEMO, *PAPERS], ids=lambda file: file.stem)
def test_every_fragment_fits_a_plan_for_mri(file):
    plans = small_plans(features=SIX_STAGES, patch=[128] * 3)
    configuration = merged(plans, load_fragment(file))
    assert configuration["batch_size"] == load_fragment(file)["batch_size"]
    assert len(arch_kwargs(configuration)["features_per_stage"]) == arch_kwargs(configuration)["n_stages"]
    assert json.loads(json.dumps(configuration)) == configuration


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_every_number_of_a_paper_has_a_source_and_nothing_else_has(file):
    fragment = load_fragment(file)
    numbers = {**fragment, **settings_in(fragment, file.stem), **fragment["missmod"].get("network", {})}
    assert set(load_sources(file)) == set(numbers) - {"missmod"}
    assert all(load_sources(file).values())


@pytest.mark.parametrize(
    ("text", "complaint"), [("{", "Expecting"), ("[1, 2]", r"got \[1, 2\]"), (None, "No such file")]
)
def test_a_file_that_is_no_fragment_is_named(text, complaint, tmp_path):
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=rf"fragment of a plan.*mine\.json.*{complaint}"):
        load_fragment(file)


@pytest.mark.parametrize("residual", [False, True])
def test_dcseg_runs_on_a_refitted_small_patch(residual, tmp_path, monkeypatch):
    fragment = {**load_fragment(plans_folder() / "DCSegTrainer.json"), "patch_size": [24] * 3}
    plans = small_plans(features=(16, 16, 32, 32), residual=residual, patch=[32] * 3)
    plans = merge_fragment(plans, CONFIGURATION, fragment, "newPlans")
    configuration = PlansManager(plans).get_configuration(CONFIGURATION)
    assert configuration.patch_size == [24] * 3
    network = DCSegNet.from_plans(PlansManager(plans), configuration, 4, 3, enable_deep_supervision=False)
    assert len(network.fusions) == 3  # 24, 12, 6
    assert network.modality_encoders[0].code.out_features == 8
    images = torch.randn(1, 4, 24, 24, 24)
    present = torch.tensor([[True, False, True, False]])
    with torch.no_grad():
        assert network.eval()(images, present).shape == (1, 3, 24, 24, 24)
        out = network.train()(images, present)
    assert out.logits.shape == (1, 3, 24, 24, 24)
    assert out.reconstruction.shape == images.shape
    trainer = small_trainer(DCSegTrainer, plans, small_dataset_json(), tmp_path, monkeypatch)
    trainer.network.train()
    terms = trainer.train_step(random_batch(trainer))
    assert all(torch.isfinite(term) for term in terms.values())


# --- values that cannot be --------------------------------------------------------------------------------------------

WRONG = [
    ({"patch_size": "big"}, "patch_size"),
    ({"patch_size": 32}, "patch_size"),
    ({"patch_size": [32, 32, 32.5]}, "patch_size"),
    ({"patch_size": [32, -32, 32]}, "patch_size"),
    ({"patch_size": {"x": 32}}, "patch_size"),
    ({"patch_size": [[32], 32, 32]}, "patch_size"),
    ({"patch_size": [1, 1, 1]}, "n_stages"),
    ({"batch_size": "two"}, "batch_size"),
    ({"batch_size": 0}, "batch_size"),
    ({"batch_size": -1}, "batch_size"),
    ({"batch_size": True}, "batch_size"),
    ({"batch_size": {}}, "batch_size"),
    ({"spacing": None}, "spacing"),
    ({"architecture": []}, "architecture"),
    ({"architecture": None}, "architecture"),
    ({"architecture": {"arch_kwargs": []}}, "architecture.arch_kwargs"),
    ({"architecture": {"arch_kwargs": {"features_per_stage": ["8", "16", "16"]}}}, "features_per_stage"),
    ({"architecture": {"arch_kwargs": {"features_per_stage": []}}}, "features_per_stage"),
    ({"architecture": {"arch_kwargs": {"features_per_stage": [8, 0, 8]}}}, "features_per_stage"),
    ({"architecture": {"arch_kwargs": {"n_stages": "3"}}}, "n_stages"),
    ({"architecture": {"arch_kwargs": {"nonlin": "subprocess.Popen"}}}, "architecture.arch_kwargs.nonlin"),
    ({"architecture": {"network_class_name": "os.system"}}, "architecture.network_class_name"),
    ({"normalization_schemes": ["os"] * 4}, "normalization_schemes"),
]


@pytest.mark.parametrize(("fragment", "key"), WRONG, ids=lambda each: json.dumps(each)[:50])
@pytest.mark.parametrize("with_patch", [False, True])
def test_a_value_that_cannot_be_names_its_key(fragment, key, with_patch):
    fragment = {**({"patch_size": [32] * 3} if with_patch else {}), **fragment}
    with pytest.raises(
        ValueError, match=rf"(?s)^The merged plan: expected [^\n]*{key}[^\n]* of configuration 3d_fullres"
    ):
        merged(small_plans(), fragment)


def test_a_block_of_ours_of_another_type_is_an_error():
    for block in ([], "x", 5, {"trainers": {}}, {"trainer": []}, {"network": 5}):
        plans = merge_fragment(small_plans(), CONFIGURATION, {"missmod": block}, "newPlans")
        manager = PlansManager(plans)
        with pytest.raises(ValueError, match="missmod block"):
            ModalityDropoutTrainer.build_network_architecture(manager, manager.get_configuration(CONFIGURATION), 4, 3)


def test_a_plan_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "Dataset501_Small"
    folder.mkdir()
    file = write_plans(small_plans(), tmp_path)
    before = file.read_text()

    def full(path, text, encoding):
        with open(path, "w", encoding=encoding) as stream:
            stream.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_plans({**small_plans(), "batch_size": 3}, tmp_path)
    assert file.read_text() == before
    assert list(folder.iterdir()) == [file]
