"""nnU-Net's trainer around one hook: ``training_loss`` of a batch whose cases may lack modalities."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch import distributed as dist

from nnunetv2_missmod.files.dataset_json import channel_names
from nnunetv2_missmod.host.doors import door_names
from nnunetv2_missmod.host.logger import log_elsewhere
from nnunetv2_missmod.host.plan_block import check_overrides, overrides_for, plan_block
from nnunetv2_missmod.host.plan_checks import checked
from nnunetv2_missmod.host.preprocessor import accept_missing_files
from nnunetv2_missmod.modalities import drop_absent, sample_subset, subset_name
from nnunetv2_missmod.training.availability import check_absent, describe_incomplete, find_available
from nnunetv2_missmod.training.learning import LearningTrainer, Update
from nnunetv2_missmod.training.log import EpochLog
from nnunetv2_missmod.training.optimizers import require_learning_rate
from nnunetv2_missmod.training.ranks import from_first_rank
from nnunetv2_missmod.training.seeding import seed_process
from nnunetv2_missmod.training.settings import declared_host_settings, trainer_settings
from nnunetv2_missmod.training.terms import term_means
from nnunetv2_missmod.training.validation import (
    dice_per_subset,
    nanmean,
    of_all_ranks,
    present_of_subset,
    subset_schedule,
)


@dataclass(frozen=True)
class Batch:
    """One training batch on the device.

    Args:
        images: (B, M + extra, *patch); channels of unavailable modalities are zero, whatever augmentation did to them.
        target: what the pipeline's loss takes: (B, 1 or regions, *patch), a list of them under deep supervision.
        available: (B, M) bool, which modalities each sample's case has.
        cases: name of each sample's case; two samples of one name are two crops of one patient.
    """

    images: Tensor
    target: Tensor | list[Tensor]
    available: Tensor
    cases: tuple[str, ...]


class MissingModalityTrainer(LearningTrainer):
    """nnU-Net's trainer for networks that accept any subset of the modalities.

    A method fills two hooks: ``build_network`` and ``training_loss``. Its numbers are class attributes, and so may be
    nnU-Net's own (``HOST_SETTINGS``); all may be overridden in the plan's ``configuration["missmod"]["trainer"]``.
    """

    seed = -1  # of weights, subsets and, with nnUNet_n_proc_DA=0, batches; below 0 every training draws its own

    build_network: Callable[..., nn.Module]  # hook 1: the network's from_plans

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hook 2: the terms of the loss by name, scalars, each already weighted; they are summed."""
        raise NotImplementedError

    def updates(self, batch: Batch) -> Iterator[Update]:
        """Optional hook: yield who learns from which terms of a batch, in the order in which they are stepped.

        What follows a ``yield`` runs after that step. No context (``full_precision``) may be open at a ``yield``.
        """
        yield Update(self.learners(), self.training_loss(batch))

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature to the letter
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name, value in declared_host_settings(type(self), MissingModalityTrainer).items():
            setattr(self, name, value)
        self.modalities = channel_names(dataset_json)
        self.available_in_case: dict[str, tuple[bool, ...]] = {}
        self.case_number: dict[str, int] = {}
        self.subset_seed = torch.initial_seed() % 2**31
        self.generator = torch.Generator(self.device)
        self.validation_subsets: list[Tensor] = []
        self.epoch_log = EpochLog(os.path.join(self.output_folder, "metrics.csv"))

    # --- set-up -------------------------------------------------------------------------------------------------------

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network that the plan describes (ValueError if none); prediction then accepts missing files."""
        with checked(plans_manager, configuration_manager):
            accept_missing_files(configuration_manager)
            constants = cls.set_by_plan(configuration_manager, "network")
            heads = num_input_channels, num_output_channels, enable_deep_supervision
            return cls.build_network(plans_manager, configuration_manager, *heads, constants)

    def initialize(self) -> None:
        """Apply the plan's overrides, then set up everything as nnU-Net does."""
        if not self.was_initialized:
            self.apply_plan_overrides()
            if self.seed >= 0:
                seed_process(self.seed)
                self.subset_seed = self.seed
        super().initialize()
        self.subset_seed = from_first_rank(self.subset_seed) if self.is_ddp else self.subset_seed
        self.generator.manual_seed(self.subset_seed)

    def settings(self) -> dict[str, Any]:
        """What a plan may override: the class attributes that are numbers, flags or words, and nnU-Net's settings."""
        return trainer_settings(self, LearningTrainer)

    def apply_plan_overrides(self) -> None:
        """Set what ``configuration["missmod"]["trainer"]`` overrides, for all trainers or under this one's name.

        Raises:
            ValueError: a name is unknown (the known ones are listed), or a value has another type or is out of range.
        """
        overrides = self.set_by_plan(self.configuration_manager, "trainer")
        check_overrides(overrides, self.settings(), f"settings of {type(self).__name__}")
        require_learning_rate(overrides, type(self).optimizer_name)
        for name, value in overrides.items():
            setattr(self, name, value)
        self.check_optimizer()

    @classmethod
    def set_by_plan(cls, configuration_manager: ConfigurationManager, part: str) -> dict[str, Any]:
        """Read what a part of the plan's block, "trainer" or "network", sets for this trainer (ValueError if wrong)."""
        return overrides_for(cls.__name__, plan_block(configuration_manager).get(part, {}), door_names())

    def set_network_constants(self, **constants: Any) -> None:
        """Write into the plan what the network must know of the dataset, since prediction rebuilds it from the plan."""
        block = plan_block(self.configuration_manager)
        block["network"] = {**block.get("network", {}), **constants}
        self.configuration_manager.configuration["missmod"] = block
        self.plans_manager.plans["configurations"][self.configuration_name]["missmod"] = block

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Load nnU-Net's datasets and find out which modalities each case has.

        Raises:
            ValueError: there is no case to train on or to validate with, or one has no modality.
        """
        training, validation = super().get_tr_and_val_datasets()
        is_first = self.local_rank == 0
        available = find_available(training, is_first)
        self.print_to_log_file("Training:", describe_incomplete(available, self.modalities))
        self.available_in_case = available | find_available(validation, is_first)
        reader = self.plans_manager.image_reader_writer_class()
        check_absent(self.available_in_case, self.plans_manager.dataset_name, self.dataset_json, reader)
        self.case_number = {case: number for number, case in enumerate(sorted(self.available_in_case))}
        return training, validation

    # --- one training step --------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Seed what the epoch draws: a run that is resumed draws the same as one that was never interrupted.

        Subsets come from the trainer's generator; dropout, which a plan may have as well, from PyTorch's own.
        """
        super().on_train_epoch_start()
        seed_process(self.subset_seed, self.current_epoch + 1, self.local_rank)
        world_size = dist.get_world_size() if self.is_ddp else 1
        self.generator.manual_seed((self.subset_seed + self.current_epoch) * world_size + self.local_rank)

    def prepare_batch(self, batch: Mapping[str, Any]) -> Batch:
        """Move a batch of nnU-Net's dataloader to the device and empty the channels that its cases do not have."""
        available = self.to_device(torch.tensor([self.available_in_case[case] for case in batch["keys"]]))
        target = batch["target"]
        return Batch(
            images=drop_absent(self.to_device(batch["data"]), available),
            target=[self.to_device(t) for t in target] if isinstance(target, list) else self.to_device(target),
            available=available,
            cases=tuple(batch["keys"]),
        )

    def to_device(self, tensor: Tensor) -> Tensor:
        """Move a tensor of any shape from the CPU to the device without waiting for the device."""
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)

    def draw_subset(self, available: Tensor) -> Tensor:
        """Draw the modalities (B, M) that the network gets to see, uniformly over the subsets of what is available."""
        return sample_subset(available, self.generator)

    def seed_costliest_step(self, cases: Sequence[str]) -> None:
        """Seed what is drawn on the CPU so that the next step needs as much memory as one can; planning asks for it."""

    def train_step(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Take one step; the terms stay on the device until the epoch ends.

        Raises:
            RuntimeError: without a gradient scaler, which would skip the step, as soon as a term is not finite.
        """
        terms = self.take(self.updates(self.prepare_batch(batch)))
        self.on_update_end()
        return terms

    def on_train_epoch_end(self, train_outputs: list[dict[str, Tensor]]) -> None:
        """Check the terms and report their means, of all ranks, over the epoch."""
        self.check_finite(train_outputs)
        values = term_means(train_outputs, self.is_ddp)
        super().on_train_epoch_end([{"loss": values.pop("loss")}])
        self.log_metrics({f"loss/{name}": value for name, value in values.items()})
        self.print_to_log_file("train_loss terms", {name: round(value, 4) for name, value in values.items()})

    # --- validation during training -----------------------------------------------------------------------------------

    def validation_schedule(self, steps: int) -> list[Tensor]:
        """Give each of an epoch's validation steps its subset (M,), the same in every epoch."""
        return subset_schedule(len(self.modalities), steps)

    def on_validation_epoch_start(self) -> None:
        """Give each step of the epoch its subset, the same in every epoch."""
        super().on_validation_epoch_start()
        self.validation_subsets = self.validation_schedule(self.num_val_iterations_per_epoch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run nnU-Net's validation step with the step's subset."""
        subset = self.validation_subsets.pop(0)
        present = present_of_subset(subset, torch.tensor([self.available_in_case[case] for case in batch["keys"]]))
        outputs = super().validation_step({**batch, "data": drop_absent(batch["data"], present)})
        return {**outputs, "subset": subset_name(subset, self.modalities)}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log the pseudo Dice of every subset; nnU-Net's curve and checkpoint_best follow their mean."""
        val_outputs = of_all_ranks(val_outputs, self.is_ddp)
        dice = dice_per_subset(val_outputs)
        per_class = nanmean(np.stack(list(dice.values())), axis=0)
        loss = float(np.mean([step["loss"] for step in val_outputs]))
        self.log_scores(per_class, float(nanmean(per_class)), loss)
        self.log_metrics({f"pseudo_dice/{name}": nanmean(values) for name, values in dice.items()})

    # --- log and checkpoints ------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Start as nnU-Net does; the log keeps the epochs that the checkpoint knows."""
        super().on_train_start()
        if self.local_rank == 0:
            self.epoch_log.keep_before(self.current_epoch)

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Write the epoch's values to metrics.csv and to nnU-Net's external loggers."""
        if self.local_rank != 0:
            return
        self.epoch_log.append(self.current_epoch, values)
        for name, value in values.items():
            log_elsewhere(self.logger, name, value, self.current_epoch)

    def method_state(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond nnU-Net's own; a method adds its optimizers and modules here."""
        return {**super().method_state(), "subset_seed": self.subset_seed}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``method_state`` gave."""
        super().load_method_state(state)
        self.subset_seed = state["subset_seed"]
