"""Whatever a plan, a fragment, a checkpoint or dataset.json holds: a result or one line; nothing is executed."""

import json
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from fuzz_json import FOREIGN, LEAVES, SENTINEL, TEXTS, VALUES, damaged
from fuzz_profile import bounded
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_dataset_json, small_plans

from nnunetv2_missmod.files.dataset_json import distinct_names, read_dataset_json
from nnunetv2_missmod.host.doors import door_names
from nnunetv2_missmod.host.plan_block import check_overrides, overrides_for, plan_block
from nnunetv2_missmod.host.plan_checks import check_configuration, open_plan
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.planning.fragments import merge_fragment
from nnunetv2_missmod.prediction.model import read_checkpoint
from nnunetv2_missmod.training.settings import HOST_SETTINGS

pytestmark = pytest.mark.slow

EXECUTED = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.remove",
    "os.mkdir",
)
seen = []  # what was executed while it is watched
watched = False


def note(event, arguments):
    if watched and (event in EXECUTED or (event == "import" and arguments[0].startswith(SENTINEL))):
        seen.append((event, arguments))


sys.addaudithook(note)  # cannot be taken away again: it only looks while ``watched``


@contextmanager
def nothing_executed():
    global watched  # noqa: PLW0603
    seen.clear()
    watched = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        watched = False
    assert not seen


def outcome(what):
    """What comes of it; None if it was refused in one line."""
    try:
        with nothing_executed():
            return what()
    except (ValueError, NotImplementedError) as error:
        assert len(str(error)) > 20
        assert "\n" not in str(error)
        return None


@pytest.fixture(scope="module", autouse=True)
def sentinel(tmp_path_factory):
    """A module that can be imported, so that a test sees it if it is."""
    folder = tmp_path_factory.mktemp("sentinel")
    (folder / f"{SENTINEL}.py").write_text("class Layer: pass")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    assert SENTINEL not in sys.modules


def test_the_watch_sees_what_is_executed(tmp_path):
    with pytest.raises(AssertionError), nothing_executed():
        (tmp_path / "made").mkdir()
    with pytest.raises(AssertionError), nothing_executed():
        __import__(SENTINEL)
    del sys.modules[SENTINEL]


# --- plans ------------------------------------------------------------------------------------------------------------


def plans_of(child=False):
    plans = small_plans(2, features=(4, 4, 8), num_epochs=3)
    plans["configurations"][CONFIGURATION]["missmod"]["network"] = {"code_channels": 4}
    if child:
        plans["configurations"]["child"] = {"inherits_from": CONFIGURATION, "batch_size": 3}
    return plans


def opened_and_built(plans, name, trainer):
    managers = open_plan(plans, name, "plans.json", 2)
    return trainer.build_network_architecture(*managers, 2, 3, False)


@bounded(60)
@given(
    damaged(plans_of(child=True)),
    st.sampled_from([CONFIGURATION, "child"]),
    st.sampled_from([ModalityDropoutTrainer, DCSegTrainer]),
)
def test_a_plan_gives_a_network_or_one_line(plans, name, trainer):
    network = outcome(lambda: opened_and_built(plans, name, trainer))
    assert network is None or isinstance(network, torch.nn.Module)


LAYERS = ("conv_op", "norm_op", "dropout_op", "nonlin")


@bounded(40)
@given(st.sampled_from([*LAYERS, "network_class_name"]), st.sampled_from(FOREIGN) | TEXTS, VALUES)
def test_no_name_in_an_architecture_is_executed(key, name, kwargs):
    """Also without ``open_plan``, as nnU-Net's own commands call a trainer."""
    plans = plans_of()
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    (architecture if key == "network_class_name" else architecture["arch_kwargs"])[key] = name
    architecture["arch_kwargs"][f"{key}_kwargs"] = kwargs
    manager = PlansManager(plans)
    network = outcome(
        lambda: ModalityDropoutTrainer.build_network_architecture(
            manager, manager.get_configuration(CONFIGURATION), 2, 3
        )
    )
    assert network is None or name not in FOREIGN


# --- fragments and overrides ------------------------------------------------------------------------------------------

FRAGMENT = {
    "patch_size": [32, 16, 32],
    "batch_size": 3,
    "architecture": {
        "arch_kwargs": {"features_per_stage": [4, 4, 8], "n_stages": 3, "nonlin_kwargs": {"inplace": True}}
    },
    "missmod": {"trainer": {"num_epochs": 3, "DCSegTrainer": {"alpha": 0.5}}, "network": {"code_channels": 4}},
}


@bounded(60)
@given(damaged(FRAGMENT))
def test_a_fragment_gives_a_right_plan_or_one_line(fragment):
    merged = outcome(lambda: merge_fragment(plans_of(), CONFIGURATION, fragment, "newPlans"))
    if merged is not None:
        check_configuration(merged["configurations"][CONFIGURATION], "plans.json")
        json.dumps(merged)


KNOWN = {**dict.fromkeys(HOST_SETTINGS, 1), "alpha": 0.4, "word": "mean", "flag": True}


@bounded(60)
@given(
    damaged({"trainer": {"num_epochs": 3, "alpha": 1, "word": "max", "flag": False, "DCSegTrainer": {"alpha": 2}}})
    | VALUES
)
def test_overrides_are_settings_or_one_line(block):
    plans = plans_of()
    plans["configurations"][CONFIGURATION]["missmod"] = block
    configuration = PlansManager(plans).get_configuration(CONFIGURATION)

    def overrides():
        found = overrides_for("DCSegTrainer", plan_block(configuration).get("trainer", {}), door_names())
        check_overrides(found, KNOWN, "settings")
        return found

    for name, value in (outcome(overrides) or {}).items():
        assert name in KNOWN
        least = 1 if name in ("num_epochs", "num_iterations_per_epoch") else 0
        assert isinstance(value, str) or least <= value < float("inf")


# --- dataset.json and checkpoints -------------------------------------------------------------------------------------


@bounded(100)
@given(damaged(small_dataset_json(2, regions=True, ignore=True)) | damaged(small_dataset_json(2)) | VALUES)
def test_a_dataset_json_that_is_taken_is_one_that_nnunet_takes(content):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "dataset.json"
        file.write_text(json.dumps(content))
        found = outcome(lambda: read_dataset_json(file))
    if found is None:
        return
    labels = PlansManager(plans_of()).get_label_manager(found)
    assert labels.num_segmentation_heads >= 0
    for name in distinct_names(found):
        assert name.isprintable()
        assert name not in ("", ".", "..")
        assert not {"/", "\\"} & set(name)


CHECKPOINT = {
    "network_weights": {"a": [1.0, 2.0], "b": [0.0]},
    "trainer_name": "nnUNetTrainer",
    "init_args": {"configuration": CONFIGURATION},
    "inference_allowed_mirroring_axes": [0, 1],
}


@bounded(40)
@given(damaged(CHECKPOINT), st.dictionaries(TEXTS, LEAVES, max_size=1))
def test_a_checkpoint_is_one_or_one_line(content, more):
    content = {**content, **more}
    weights = content.get("network_weights")
    if isinstance(weights, dict):
        content["network_weights"] = {k: torch.tensor(v) if is_numbers(v) else v for k, v in weights.items()}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint_final.pth"
        torch.save(content, file)
        found = outcome(lambda: read_checkpoint(file))
    if found is not None:
        assert all(torch.isfinite(tensor).all() for tensor in found["network_weights"].values())
        assert found["trainer_name"].isidentifier()


def is_numbers(value):
    return isinstance(value, list) and all(isinstance(each, float) for each in value)
