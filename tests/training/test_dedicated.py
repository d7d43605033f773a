"""Training for one subset of the modalities: which the plan names, which cases have it."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer
from torch import Tensor

from nnunetv2_missmod.building_blocks.dedicated import DedicatedNetwork
from nnunetv2_missmod.training.dedicated import DedicatedTrainer
from nnunetv2_missmod.training.trainer import MissingModalityTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")


class Output(NamedTuple):
    logits: Tensor | list[Tensor]


class PlainNet(DedicatedNetwork):
    """The plan's U-Net for the channels of the subset."""

    def __init__(self, spec, *, subset=None):
        super().__init__(spec, subset=subset)
        unet = spec.architecture.unet(len(self.subset), spec.num_classes, spec.deep_supervision)
        self.encoder, self.decoder = unet.encoder, unet.decoder

    def forward(self, images, present=None):
        logits = self.decoder(self.encoder(self.select(images, present)))
        return Output(logits) if self.training else logits


class PlainTrainer(DedicatedTrainer):
    build_network = staticmethod(PlainNet.from_plans)


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(subset="mod2", network=None, names=None, **overrides):
        plans = small_plans(3, features=(8, 8), subset=subset, **overrides)
        plans["configurations"][CONFIGURATION]["missmod"]["network"] = network or {}
        dataset_json = small_dataset_json(3)
        if names is not None:
            dataset_json["channel_names"] = dict(zip("012", names, strict=True))
        return small_trainer(PlainTrainer, plans, dataset_json, tmp_path, monkeypatch)

    return make


# --- which subset -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subset", "channels"),
    [("mod2", [2]), ("mod2+mod0", [0, 2]), ("mod0 + mod1", [0, 1]), ("mod0+mod1+mod2", [0, 1, 2])],
)
def test_the_names_become_channels_of_the_plan_from_which_the_network_is_rebuilt(subset, channels, make):
    trainer = make(subset)
    assert trainer.channels == trainer.network.subset == tuple(channels)
    saved = json.loads(json.dumps(trainer.plans_manager.plans))
    assert saved["configurations"][CONFIGURATION]["missmod"]["network"] == {"subset": channels}
    manager = type(trainer.plans_manager)(saved)
    network = PlainTrainer.build_network_architecture(manager, manager.get_configuration(CONFIGURATION), 3, 3, False)
    assert network.subset == tuple(channels)


@pytest.mark.parametrize("names", [("a/b", "x+y", "b"), ("zscore", "zscore", "zscore")])
def test_names_are_those_of_reports(names, make):
    first, second = ("a-b", "x-y") if "b" in names else ("zscore_0000", "zscore_0001")
    assert make(f"{second}+{first}", names=names).channels == (0, 1)


@pytest.mark.parametrize("subset", ["", "mod3", "mod0+", "mod0+mod0", "MOD0", "mod0,mod1"])
def test_what_names_no_subset_is_an_error_with_the_modalities_and_the_way_out(subset, make):
    with pytest.raises(ValueError, match="modalities mod0, mod1, mod2, each once") as error:
        make(subset)
    assert f"got {subset!r}. " in str(error.value)
    assert str(error.value).endswith("missmod plan -d Dataset501_Small -tr PlainTrainer --subset mod0+mod1")


@pytest.mark.parametrize("subset", ["../mod0", "mod0\\mod1", "mod0\n", 1, ["mod0"], None])
def test_a_subset_is_a_text_without_a_path(subset, make):
    with pytest.raises(ValueError, match=r"missmod block sets subset = .*; expected a"):
        make(subset)


def test_a_plan_of_a_trained_model_may_be_trained_again(make):
    assert make("mod2+mod0", network={"subset": [0, 2]}).channels == (0, 2)
    with pytest.raises(ValueError, match=r"channels \[2\] of mod2, .*got \[0, 2\]. Remove subset"):
        make("mod2", network={"subset": [0, 2]})
    with pytest.raises(ValueError, match=r"channels \[2\] of mod2, .*got \[0\]. Remove subset"):
        make("mod2", network={"subset": [0]})


# --- which cases ------------------------------------------------------------------------------------------------------

HAS_ALL, HAS_FIRST, HAS_LAST = (True, True, True), (True, False, False), (False, False, True)


@pytest.fixture
def datasets(make, monkeypatch):
    """The datasets of a training for mod0+mod2, of cases that have what is told, and the log."""

    class Dataset:
        def __init__(self, cases):
            self.identifiers = sorted(cases)

    def datasets(training, validation):
        trainer = make("mod0+mod2")
        trainer.available_in_case = {**training, **validation}
        trainer.dataset_class = lambda folder, cases: Dataset(cases)

        def find(dataset, shown):
            return {case: trainer.available_in_case[case] for case in dataset.identifiers}

        def split(self):
            return tuple(Dataset(cases) for cases in self.do_split())

        monkeypatch.setattr(nnUNetTrainer, "do_split", lambda self: (sorted(training), sorted(validation)))
        monkeypatch.setattr("nnunetv2_missmod.training.dedicated.find_available", find)
        monkeypatch.setattr(MissingModalityTrainer, "get_tr_and_val_datasets", split)
        of_training, of_validation = trainer.get_tr_and_val_datasets()
        log = Path(trainer.log_file).read_text(encoding="utf-8")
        return of_training.identifiers, of_validation.identifiers, log

    return datasets


def test_all_cases_are_trained_on_and_those_with_the_subset_are_validated_with(datasets):
    training, validation, log = datasets(
        {"a": HAS_ALL, "b": HAS_FIRST, "c": HAS_LAST}, {"d": HAS_ALL, "e": HAS_LAST, "f": HAS_ALL}
    )
    assert training == ["a", "b", "c"]
    assert validation == ["d", "f"]
    assert "2 of 3 training cases lack a modality of mod0+mod2" in log
    assert "Not validated with, for want of a modality of mod0+mod2: ['e']." in log


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_a_fold_without_a_case_that_has_the_subset_is_refused(kind, datasets):
    cases = {"training": {"a": HAS_ALL}, "validation": {"b": HAS_ALL}}
    cases[kind] = {"c": HAS_LAST, "d": HAS_FIRST}
    with pytest.raises(ValueError, match=rf"at least one {kind} case with all of mod0\+mod2 in fold 0, got none"):
        datasets(**cases)


def test_samples_with_the_subset_are_told(make):
    available = torch.tensor([HAS_ALL, HAS_FIRST, HAS_LAST, (True, False, True)])
    assert make("mod0+mod2").has_subset(available).tolist() == [True, False, False, True]
    assert make("mod2").has_subset(available).tolist() == [True, False, True, True]


def test_every_step_of_validation_has_the_subset(make):
    trainer = make("mod0+mod2", num_val_iterations_per_epoch=3)
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        outputs = [trainer.validation_step(random_batch(trainer)) for _ in range(3)]
    assert [output["subset"] for output in outputs] == ["mod0+mod2"] * 3
    assert trainer.validation_subsets == []
    trainer.on_validation_epoch_end(outputs)
    assert [name for _, name, _ in trainer.epoch_log.rows()] == ["pseudo_dice/mod0+mod2"]
