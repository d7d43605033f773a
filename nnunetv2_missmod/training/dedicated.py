"""Training for one subset of the modalities, S: which it is, which cases have it, and what the others leave out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.modalities import JOIN, channels_of_subset, expand_to
from nnunetv2_missmod.training.availability import Available, find_available
from nnunetv2_missmod.training.trainer import MissingModalityTrainer

SURE = 50.0  # a logit that leaves nothing to learn


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
        by_plan = self.set_by_plan(self.configuration_manager, "network").get("subset")
        if by_plan not in (None, list(self.channels)):
            raise ValueError(
                f"Expected the network's subset to be the channels {list(self.channels)} of {self.subset}, as the "
                f"plan's missmod block has it for the trainer, got {by_plan!r}. Remove subset from its part network."
            )

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Load nnU-Net's datasets.

        Raises:
            ValueError: no training case has all of S.
        """
        training, validation = super().get_tr_and_val_datasets()
        having = self.having_subset(training.identifiers, self.available_in_case)
        self.check_some(having, "training")
        lacking = len(training.identifiers) - len(having)
        self.print_to_log_file(
            f"{lacking} of {len(training.identifiers)} training cases lack a modality of {self.subset}: the model "
            "learns nothing from them."
        )
        return training, validation

    def do_split(self) -> tuple[list[str], list[str]]:
        """Split as nnU-Net does, and leave cases that lack a modality of S out of all validation.

        Raises:
            ValueError: no case to validate with has all of S.
        """
        training, validation = super().do_split()
        available = find_available(self.dataset_class(self.preprocessed_dataset_folder, validation), False)
        having = self.having_subset(validation, available)
        self.check_some(having, "validation")
        if lacking := sorted(set(validation) - set(having)):
            self.print_to_log_file(f"Not validated with, for want of a modality of {self.subset}: {lacking}.")
        return training, having

    def having_subset(self, cases: Iterable[str], available: Available) -> list[str]:
        """Choose the cases that have all of S."""
        return [case for case in cases if all(available[case][channel] for channel in self.channels)]

    def check_some(self, cases: list[str], kind: str) -> None:
        """Check that there are cases (ValueError)."""
        if not cases:
            raise ValueError(
                f"Expected at least one {kind} case with all of {self.subset} in fold {self.fold}, got none. Train "
                "another fold, put one in by splits_final.json, or plan for a subset that the cases have."
            )

    # --- training and validation --------------------------------------------------------------------------------------

    def has_subset(self, available: Tensor) -> Tensor:
        """Tell which samples (B,) of a batch have all of S, from what each has (B, M)."""
        return torch.stack([available[:, channel] for channel in self.channels], 1).all(1)

    def validation_schedule(self, steps: int) -> list[Tensor]:
        """Give each of an epoch's validation steps its subset (M,): S."""
        subset = torch.tensor([channel in self.channels for channel in range(len(self.modalities))])
        return [subset] * steps


def counted_alone(
    logits: Tensor | list[Tensor], target: Tensor | list[Tensor], counts: Tensor, overlapping: bool
) -> tuple[Any, Any]:
    """Make samples that do not count background, and be sure of it: the pipeline's loss has nothing to teach of them.

    To its cross entropy they add zero, to a Dice over the batch neither volume nor overlap, and no gradient to either.

    Args:
        logits: (B, K, *patch), a list of them under deep supervision.
        target: as the pipeline's loss takes it.
        counts: (B,) bool.
        overlapping: the K outputs are regions; of classes, the first is the background.

    Returns:
        Logits and target as they came for the samples that count.
    """
    if isinstance(logits, list):
        levels = [counted_alone(*level, counts, overlapping) for level in zip(logits, target, strict=True)]
        return [level[0] for level in levels], [level[1] for level in levels]
    assert isinstance(target, Tensor)
    background = logits.new_full((logits.shape[1], *[1] * (logits.ndim - 2)), -SURE)
    if not overlapping:
        background[0] = SURE
    kept = expand_to(counts, logits)
    return torch.where(kept, logits, background), torch.where(kept, target, target.new_zeros(()))
