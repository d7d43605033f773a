"""Training for one subset of the modalities, S: which it is, which cases have it, and what the others leave out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.host.doors import door_names
from nnunetv2_missmod.host.plan_block import overrides_for, plan_block
from nnunetv2_missmod.modalities import JOIN, channels_of_subset
from nnunetv2_missmod.training.trainer import MissingModalityTrainer


class DedicatedTrainer(MissingModalityTrainer):
    """Base of trainers whose network, a ``DedicatedNetwork``, serves one subset of the modalities alone.

    The plan names the subset: ``configuration["missmod"]["trainer"] = {"subset": "T1c+FLAIR"}``. Its channels become
    the network's constant ``subset``, by which prediction rebuilds the network without the dataset's names.
    """

    subset = ""  # S, its modalities joined by +; there is no training without

    channels: tuple[int, ...]  # of S, ascending

    # --- set-up -------------------------------------------------------------------------------------------------------

    def apply_plan_overrides(self) -> None:
        """Apply the plan's overrides and write the subset's channels among the network's constants.

        Raises:
            ValueError: no subset is set, it has names that are no modalities, or the plan has other channels for it.
        """
        super().apply_plan_overrides()
        self.channels = self.find_channels()
        self.refuse_other_channels()
        self.set_network_constants(subset=list(self.channels))

    def find_channels(self) -> tuple[int, ...]:
        """Find the channels of the modalities that the plan names.

        Raises:
            ValueError: lists the modalities.
        """
        modalities, name = distinct_names(self.dataset_json), type(self).__name__
        try:
            return channels_of_subset(self.subset, modalities)
        except ValueError as error:
            raise ValueError(
                f"{name} trains a model for one subset of the modalities, which the plan names. {error} Plan it anew: "
                f"missmod plan -d {self.plans_manager.dataset_name} -tr {name} --subset {JOIN.join(modalities[:2])}"
            ) from error

    def refuse_other_channels(self) -> None:
        """Refuse channels that the plan sets for the network and that are not those of the names (ValueError)."""
        constants = plan_block(self.configuration_manager).get("network", {})
        by_plan = overrides_for(type(self).__name__, constants, door_names()).get("subset")
        if by_plan not in (None, list(self.channels)):
            raise ValueError(
                f"Expected the network's subset to be the channels {list(self.channels)} of {self.subset}, as the "
                f"plan's missmod block has it for the trainer, got {by_plan!r}. Remove subset from its part network."
            )

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Load nnU-Net's datasets, that of the validation without the cases that lack a modality of S.

        Raises:
            ValueError: no case to train on, or none to validate with, has all of S.
        """
        training, validation = super().get_tr_and_val_datasets()
        with_subset = [self.with_subset(dataset.identifiers) for dataset in (training, validation)]
        for cases, kind in zip(with_subset, ("training", "validation"), strict=True):
            if not cases:
                raise ValueError(
                    f"Expected at least one {kind} case with all of {self.subset} in fold {self.fold}, got none. Train "
                    "another fold, put one in by splits_final.json, or plan for a subset that the cases have."
                )
        lacking = len(training.identifiers) - len(with_subset[0])
        self.print_to_log_file(
            f"{lacking} of {len(training.identifiers)} training cases lack a modality of {self.subset}: the model "
            f"learns nothing from them. {len(validation.identifiers) - len(with_subset[1])} of "
            f"{len(validation.identifiers)} validation cases lack one: no epoch is scored by them."
        )
        validation.identifiers = with_subset[1]
        return training, validation

    def with_subset(self, cases: list[str]) -> list[str]:
        """Choose the cases that have all of S."""
        return [case for case in cases if all(self.available_in_case[case][channel] for channel in self.channels)]

    # --- training and validation --------------------------------------------------------------------------------------

    def has_subset(self, available: Tensor) -> Tensor:
        """Tell which samples (B,) of a batch have all of S, from what each has (B, M)."""
        return torch.stack([available[:, channel] for channel in self.channels], 1).all(1)

    def validation_schedule(self, steps: int) -> list[Tensor]:
        """Give each of an epoch's validation steps its subset (M,): S."""
        subset = torch.tensor([channel in self.channels for channel in range(len(self.modalities))])
        return [subset] * steps
