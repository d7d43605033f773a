"""From M3AE's pretraining to its fine-tuning: the checkpoint is found and fits, or the error says what to do."""

import copy
import json

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.methods.m3ae.checkpoint import find_pretrained, load_pretrained
from nnunetv2_missmod.methods.m3ae.pretraining import M3AEPretrainTrainer
from nnunetv2_missmod.methods.m3ae.trainer import M3AETrainer

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")

TINY = (8, 8, 16)
HEADS = ".seg_layers."
NAMES = ["mod0", "mod1", "mod2"]


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    return tmp_path / "nnUNet_results" / "Dataset501_Small"


def place(results, name, fold=0, pretraining="M3AEPretrainTrainer", plans="smallPlans", configuration="3d_fullres"):
    file = results / f"{pretraining}__{plans}__{configuration}" / f"fold_{fold}" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def find(results, pretraining="M3AEPretrainTrainer", plans="smallPlans", configuration="3d_fullres", fold=0):
    return find_pretrained(results, pretraining, plans, configuration, fold)


@pytest.mark.parametrize("fold", [0, 4, "all"])
def test_the_final_checkpoint_of_the_same_fold_is_found(fold, results):
    for other in (0, 4, "all"):
        place(results, "checkpoint_final.pth", other)
    place(results, "checkpoint_best.pth", fold)
    file = find(results, fold=fold)
    assert file == results / "M3AEPretrainTrainer__smallPlans__3d_fullres" / f"fold_{fold}" / "checkpoint_final.pth"


@pytest.mark.parametrize(
    "other", [{"fold": 1}, {"pretraining": "XPretrainTrainer"}, {"plans": "xPlans"}, {"configuration": "2d"}]
)
def test_nothing_else_is_found(other, results):
    place(results, "checkpoint_final.pth")
    place(results, "checkpoint_latest.pth")
    with pytest.raises(ValueError, match="got none"):
        find(results, **other)
    place(results, "checkpoint_final.pth", **other)
    assert find(results, **other) == place(results, "checkpoint_final.pth", **other)


@pytest.mark.parametrize("fold", [3, "all"])
def test_without_a_pretraining_the_error_names_the_command(fold, results):
    with pytest.raises(ValueError, match="Expected a pretrained checkpoint") as error:
        find(results, "XPretrainTrainer", "xPlans", "2d", fold)
    message = str(error.value)
    assert f"`nnUNetv2_train Dataset501_Small 2d {fold} -tr XPretrainTrainer -p xPlans`" in message
    assert str(results / "XPretrainTrainer__xPlans__2d" / f"fold_{fold}" / "checkpoint_final.pth") in message
    assert "-pretrained_weights FILE" in message
    assert '"pretrained": false' in message


@pytest.mark.parametrize("name", ["checkpoint_latest.pth", "checkpoint_best.pth"])
def test_a_pretraining_that_has_not_ended_is_to_be_continued(name, results):
    place(results, name)
    with pytest.raises(ValueError, match="got a pretraining that has not ended") as error:
        find(results)
    assert "`nnUNetv2_train Dataset501_Small 3d_fullres 0 -tr M3AEPretrainTrainer -p smallPlans --c`" in str(
        error.value
    )


def test_a_pretraining_without_any_checkpoint_yet_is_to_be_started(results):
    place(results, "debug.json")
    place(results, "progress.png")
    with pytest.raises(ValueError, match="got none") as error:
        find(results)
    assert "--c`" not in str(error.value)


# --- loading ----------------------------------------------------------------------------------------------------------


def plan_of(modalities=3, edit=None, **settings):
    plans = small_plans(modalities, **{"features": TINY, **settings})
    if edit is not None:
        edit(plans["configurations"][CONFIGURATION])
    return plans


@pytest.fixture
def save(tmp_path, monkeypatch):
    """A checkpoint of a trainer that was just set up, by default one that fits; all its weights are moved."""

    def save(trainer_class=M3AEPretrainTrainer, plans=None, dataset_json=None):
        dataset_json = dataset_json or small_dataset_json(3)
        trainer = small_trainer(trainer_class, plans or plan_of(), dataset_json, tmp_path, monkeypatch, seed=1)
        with torch.no_grad():
            for weight in trainer.network.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.1)
        file = tmp_path / "given.pth"
        trainer.save_checkpoint(str(file))
        return file

    return save


@pytest.fixture
def network(tmp_path, monkeypatch):
    return small_trainer(M3AETrainer, plan_of(), small_dataset_json(3), tmp_path, monkeypatch).network


def weights_of(network):
    return copy.deepcopy(network.state_dict())


def named(*names):
    """A dataset.json with these modalities."""
    dataset_json = small_dataset_json(len(names))
    dataset_json["channel_names"] = {str(number): name for number, name in enumerate(names)}
    return dataset_json


def assert_refused(network, file, message):
    before = weights_of(network)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(network, file, NAMES)
    assert str(file) in str(error.value)
    assert "Pretrain again" in str(error.value)
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_all_weights_but_the_heads_are_copied(save, network):
    file = save()
    before, expected = weights_of(network), torch.load(file, weights_only=False)["network_weights"]
    load_pretrained(network, file, NAMES)
    after = network.state_dict()
    assert list(after) == list(before)
    for key, value in after.items():
        assert torch.equal(value, before[key] if HEADS in key else expected[key]), key
        assert HEADS in key or not torch.equal(value, before[key]), key
    assert sum(HEADS in key for key in after) == 4  # weight and bias at two levels
    assert not network.substitute.requires_grad


def test_the_weights_stay_the_ones_that_are_trained(save, network):
    """Their tensors are filled, not replaced: the optimizer has them already."""
    parameters = list(network.parameters())
    load_pretrained(network, save(), NAMES)
    assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))


@pytest.mark.parametrize("labels", [{"background": 0, "x": 1}, {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}])
def test_the_pretraining_may_have_had_other_labels(labels, save, network):
    """The heads are not transferred; the images are what counts."""
    load_pretrained(network, save(dataset_json={**small_dataset_json(3), "labels": labels}), NAMES)
    assert network.substitute.any()


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (("mod0", "mod1"), "expected 3 modalities, mod0, mod1, mod2, got 2, mod0, mod1, from another dataset.json"),
        (("mod0", "mod1", "mod2", "mod3"), "expected 3 modalities, .*, got 4, mod0, mod1, mod2, mod3"),
        (("mod1", "mod0", "mod2"), "expected 3 modalities, mod0, mod1, mod2, got 3, mod1, mod0, mod2"),
        (("mod0", "mod1", "T2"), "got 3, mod0, mod1, T2"),
    ],
    ids=["fewer", "more", "another order", "another name"],
)
def test_other_modalities_are_refused(modalities, message, save, network, tmp_path):
    file = save(plans=plan_of(len(modalities)), dataset_json=named(*modalities))
    assert_refused(network, file, message)


@pytest.mark.parametrize("patch", [(24, 16, 16), (16, 16, 24), (16, 16, 8)])
def test_another_patch_is_refused(patch, save, network):
    got = " x ".join(map(str, patch))
    assert_refused(network, save(plans=plan_of(patch=patch)), f"the plan's patch of 16 x 16 x 16 voxels, got {got},")


def test_a_patch_of_other_dimensions_is_refused(save, network):
    assert_refused(network, save(plans=plan_of(dims=2)), "patch of 16 x 16 x 16 voxels, got 16 x 16, from another plan")


@pytest.mark.parametrize("features", [(8, 16, 16), (16, 8, 16), (8, 8, 24)])
def test_other_features_are_refused(features, save, network):
    message = r"expected (encoder|decoder)\S+ of shape \(.*\), got \(.*\), from a plan with another network"
    assert_refused(network, save(plans=plan_of(features=features)), message)


def test_another_encoder_is_refused(save, network):
    message = r"expected encoder\S+ of shape \(.*\), got nothing, from a plan with another network"
    assert_refused(network, save(plans=plan_of(residual=True)), message)


def kernel_of_one(configuration):
    configuration["architecture"]["arch_kwargs"]["kernel_sizes"] = [[3, 3, 3], [3, 3, 3], [1, 3, 3]]


def test_another_kernel_is_refused(save, network):
    file = save(plans=plan_of(edit=kernel_of_one))
    assert_refused(network, file, r"of shape \(16, 8, 3, 3, 3\), got \(16, 8, 1, 3, 3\)")


def test_fewer_levels_are_refused(save, network):
    file = save(plans=plan_of(features=(8, 16), enable_deep_supervision=False))
    assert_refused(network, file, "from a plan with another network")


def test_stock_weights_are_no_pretraining(save, network):
    plans = plan_of()
    del plans["configurations"][CONFIGURATION]["missmod"]
    assert_refused(network, save(nnUNetTrainer, plans), "expected a substitute for absent modalities in it, got none")


def test_what_is_wrong_with_the_dataset_is_said_before_what_follows_from_it(save, network):
    """Other modalities make another substitute and another first convolution too."""
    file = save(plans=plan_of(2, patch=(24, 16, 16), features=(8, 16, 16)), dataset_json=named("mod0", "mod1"))
    assert_refused(network, file, "expected 3 modalities")


def test_a_loaded_network_sees_as_the_pretrained_one_does(save, network, tmp_path, monkeypatch):
    file = save()
    load_pretrained(network, file, NAMES)
    pretrained = small_trainer(M3AEPretrainTrainer, plan_of(), small_dataset_json(3), tmp_path, monkeypatch)
    pretrained.load_checkpoint(str(file))
    images, present = random_batch(pretrained)["data"], torch.tensor([[True, False, True], [False, True, False]])
    with torch.no_grad():
        expected = pretrained.network.train()(images, present).bottleneck
        assert torch.equal(network.train()(images, present).bottleneck, expected)


def test_modalities_may_be_listed_in_any_order(save, network):
    """What counts is their number."""
    dataset_json = small_dataset_json(3)
    dataset_json["channel_names"] = {str(m): f"mod{m}" for m in (2, 0, 1)}
    load_pretrained(network, save(dataset_json=dataset_json), NAMES)


def test_modalities_in_another_order_are_refused_however_they_are_listed(save, network):
    dataset_json = small_dataset_json(3)
    dataset_json["channel_names"] = {"1": "mod0", "0": "mod1", "2": "mod2"}
    assert_refused(network, save(dataset_json=dataset_json), "got 3, mod1, mod0, mod2")


def test_modalities_may_stand_under_their_former_name(save, network):
    """nnU-Net's older dataset.json has them under ``modality``, and still trains with it."""
    dataset_json = small_dataset_json(3)
    dataset_json["modality"] = dataset_json.pop("channel_names")
    file = save()
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["init_args"]["dataset_json"] = json.loads(json.dumps(dataset_json))
    torch.save(checkpoint, file)
    load_pretrained(network, file, NAMES)


def test_more_levels_of_the_same_width_are_refused(save, tmp_path, monkeypatch):
    """Their decoder is counted from the bottleneck: its weights would land at other resolutions."""
    network = small_trainer(
        M3AETrainer, plan_of(features=(8, 8, 8)), small_dataset_json(3), tmp_path, monkeypatch
    ).network
    assert_refused(network, save(plans=plan_of(features=(8, 8, 8, 8))), "from a plan with another network")
