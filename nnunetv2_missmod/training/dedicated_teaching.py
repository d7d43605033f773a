"""A model for one subset of the modalities, S, that learns beside one of all modalities, from scratch as well."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.matching import mean_over, mean_square, ramp_up
from nnunetv2_missmod.building_blocks.network import finest
from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.training.co_training import CoTrainer, in_float
from nnunetv2_missmod.training.dedicated import DedicatedTrainer, counted_alone
from nnunetv2_missmod.training.trainer import Batch


class TaughtTrainer(CoTrainer, DedicatedTrainer):
    """Base of dedicated trainers with a teacher, a network of the same kind for all modalities.

    A method sets the weights and fills ``matching_terms``.
    """

    student_weight: float  # of the student's segmentation loss
    consistency_weight: float  # of the mean square between both networks' probabilities
    ramp_up_fraction: float  # of the epochs, over which that comes in

    def build_teacher(self) -> nn.Module:
        """Build the network of all modalities."""
        of_plan = self.set_by_plan(self.configuration_manager, "network")
        return self.build_network(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
            {**of_plan, "subset": list(range(len(self.modalities)))},
        )

    def student_terms(self, batch: Batch, full: Any) -> dict[str, Tensor]:
        """Compute the student's terms, in whose means a sample without all of S is zero, and the discriminators'.

        Args:
            batch: of which the student sees S.
            full: what the teacher made of all that is available.
        """
        counts = self.has_subset(batch.available)
        missing = self.network(batch.images, batch.available)
        logits, target = counted_alone(missing.logits, batch.target, counts, self.label_manager.has_regions)
        terms = {"segmentation": self.student_weight * self.loss(logits, target)}
        with full_precision(self.device):
            full, missing = in_float(full), in_float(missing)
            if self.consistency_weight > 0:
                teacher, student = (self.probabilities(finest(out.logits)) for out in (full, missing))
                weight = self.consistency_weight * ramp_up(self.current_epoch, self.ramp_up_fraction * self.num_epochs)
                terms["consistency"] = weight * mean_over(mean_square(teacher - student), counts)
            return terms | self.matching_terms(full, missing, counts)

    def matching_terms(self, full: Any, missing: Any, counts: Tensor) -> dict[str, Tensor]:
        """Compute what else a method matches, weighted, and what its discriminators learn from.

        Args:
            full, missing: what teacher and student gave, in float32.
            counts: (B,) bool, the samples with all of S; the others are zeros in each mean.
        """
        raise NotImplementedError
