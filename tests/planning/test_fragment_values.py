"""Values of a fragment that a configuration cannot have, and plans that are written whole."""

import json
from pathlib import Path

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.planning.fragments import merge_fragment, write_plans

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")


def merged(plans, fragment, name="newPlans"):
    return merge_fragment(plans, CONFIGURATION, fragment, name)["configurations"][CONFIGURATION]


def arch_kwargs(configuration):
    return configuration["architecture"]["arch_kwargs"]


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
