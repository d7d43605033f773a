"""Every trainer takes its steps on meta: all architectures, nothing written, what is wrong in a plan comes out."""

import copy
import importlib
import os
from functools import cache

import pytest
from small_plans import CONFIGURATION, small_dataset_json, small_plans, with_small_network

from nnunetv2_missmod.host.doors import PRETRAINING, door_names
from nnunetv2_missmod.planning.rehearsal import (
    count_macs,
    count_parameters,
    count_predicting_parameters,
    networks_of,
    rehearse,
)
from nnunetv2_missmod.planning.stand_in import META, build_trainer, random_batch

pytestmark = pytest.mark.slow

TINY = (8, 8, 16)


def door(name):
    return getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)


@cache
def rehearsed(name, num_modalities=3, dims=3, mixed_precision=True, ignore=False, regions=False, **options):
    """Rehearse a trainer; the same one is given again, since counting leaves it as it was."""
    plans = with_small_network(door(name), small_plans(num_modalities, dims, **{"features": TINY, **options}))
    dataset_json = small_dataset_json(num_modalities, regions, ignore)
    return rehearse(door(name), plans, CONFIGURATION, dataset_json, mixed_precision)


SETTINGS = {True: (3, 3, False), False: (2, 2, True)}  # modalities, axes, residual encoder; they take turns


@pytest.mark.parametrize(
    ("name", "num_modalities", "dims", "residual"),
    [(name, *SETTINGS[number % 2 == 0]) for number, name in enumerate(door_names())],
)
def test_every_trainer_rehearses(name, num_modalities, dims, residual):
    rehearsal = rehearsed(name, num_modalities, dims, residual=residual)
    assert rehearsal.memory > 12 * count_parameters(rehearsal) * 0.9  # weights, gradients, at least one state
    assert set(rehearsal.terms) >= ({"reconstruction"} if name.endswith(PRETRAINING) else {"segmentation"})
    predicting = count_predicting_parameters(rehearsal)
    assert predicting is None if name.endswith(PRETRAINING) else 0 < predicting <= count_parameters(rehearsal)
    assert all(p.device == META for p in networks_of(rehearsal.trainer).parameters())


@pytest.mark.parametrize(("ignore", "regions"), [(True, False), (True, True)])
def test_labels_to_ignore_are_no_hindrance(ignore, regions):
    assert rehearsed("ModalityDropoutTrainer", ignore=ignore, regions=regions).terms == ("segmentation",)


def test_memory_grows_linearly_with_the_batch():
    two, three, four, eight = (
        rehearsed("ModalityDropoutTrainer", batch_size=size, patch=(32, 32, 32)).memory for size in (2, 3, 4, 8)
    )
    assert three - two == pytest.approx(four - three, rel=0.02)
    assert eight - four == pytest.approx(4 * (three - two), rel=0.02)


def test_mixed_precision_nearly_halves_what_activations_need():
    single, mixed = (
        rehearsed("ModalityDropoutTrainer", patch=(32, 32, 32), mixed_precision=mixed).memory for mixed in (False, True)
    )
    assert 0.4 < mixed / single < 0.75


def test_operations_are_those_of_the_convolutions():
    plain = rehearsed("ModalityDropoutTrainer", 1, mixed_precision=False)
    double = rehearsed("ModalityDropoutTrainer", 1, mixed_precision=False, batch_size=4)
    first_conv = 16**3 * 27 * 8  # of one sample and one channel
    assert count_macs(double) == 2 * count_macs(plain)
    assert count_macs(plain) > 2 * 3 * 8 * first_conv  # the second of the level, forward and backward, of two samples


def test_parameters_of_teacher_and_discriminator_count_but_do_not_predict():
    rehearsal = rehearsed("MSTKDNetTrainer")
    network = sum(p.numel() for p in rehearsal.trainer.network.parameters())
    discriminator = sum(p.numel() for p in rehearsal.trainer.discriminator.network.parameters())
    assert count_parameters(rehearsal) == 2 * network + discriminator
    assert count_predicting_parameters(rehearsal) <= network


def test_steps_go_on_after_parameters_were_counted():
    rehearsal = rehearsed("M3AETrainer")
    before = count_macs(rehearsal)
    count_predicting_parameters(rehearsal)
    assert count_macs(rehearsal) == before


def test_warm_ups_are_over():
    plans = small_plans(3, features=TINY, warm_up_fraction=0.5)
    terms = rehearse(door("CCSDTrainer"), plans, CONFIGURATION, small_dataset_json(3)).terms
    assert set(terms) == {"segmentation", "hmsd", "dmcd"}


@pytest.mark.parametrize("num_modalities", [2, 4])
def test_ccsd_s_costliest_step_decodes_as_many_subsets_as_any(num_modalities):
    plans = small_plans(num_modalities, features=TINY)
    trainer = build_trainer(door("CCSDTrainer"), plans, CONFIGURATION, small_dataset_json(num_modalities), META)
    cases = random_batch(trainer, 2)["keys"]
    trainer.seed_costliest_step(cases)
    costliest = len(trainer.draw_passes(cases).presents)
    assert costliest == {2: 3, 4: 7}[num_modalities]  # all that is available, and all subsets of the largest size
    assert costliest >= max(len(trainer.draw_passes(cases).presents) for _ in range(40))


def test_nothing_is_written_and_the_plan_stays(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    plans = small_plans(3, features=TINY)
    before, environment = copy.deepcopy(plans), dict(os.environ)
    rehearse(door("ModalityDropoutTrainer"), plans, CONFIGURATION, small_dataset_json(3))
    assert plans == before
    assert dict(os.environ) == environment
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ({"trainer": {"alpah": 0.2}}, "alpah.*Known are: .*alpha"),
        ({"trainer": {"alpha": "much"}}, "alpha = 'much'; expected a value like 0.4"),
        ({"trainer": {"NoTrainer": {"alpha": 0.2}}}, "NoTrainer.*names no trainer"),
        ({"network": {"codes": 8}}, "codes.*Known are: .*code_channels"),
        ({"networks": {}}, "networks"),
    ],
)
def test_a_mistake_in_the_plan_is_an_error(block, complaint):
    plans = small_plans(3, features=TINY)
    plans["configurations"][CONFIGURATION]["missmod"] = block
    with pytest.raises(ValueError, match=complaint):
        rehearse(door("DCSegTrainer"), plans, CONFIGURATION, small_dataset_json(3))


def test_words_and_constants_that_trainer_or_network_refuse_are_errors():
    plans = small_plans(3, features=TINY, path_order="longest")
    with pytest.raises(ValueError, match="path_order to be one of max, min, random"):
        rehearse(door("CCSDTrainer"), plans, CONFIGURATION, small_dataset_json(3))
    plans["configurations"][CONFIGURATION]["missmod"] = {"network": {"composition": "sum"}}
    with pytest.raises(ValueError, match="composition to be one of conv, residual"):
        rehearse(door("CCSDTrainer"), plans, CONFIGURATION, small_dataset_json(3))
