"""The training step of ACN."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.dedicated import DedicatedOutput
from nnunetv2_missmod.building_blocks.discriminator import PooledDiscriminator, play
from nnunetv2_missmod.building_blocks.matching import mean_over
from nnunetv2_missmod.building_blocks.network import finest
from nnunetv2_missmod.methods.acn.losses import entropy_map, mutual_information_loss
from nnunetv2_missmod.methods.acn.network import ACNNet, Regressor, first_strides
from nnunetv2_missmod.training.dedicated_teaching import TaughtTrainer
from nnunetv2_missmod.training.learning import Learner

DISCRIMINATOR_WEIGHT = 0.5  # of each of a discriminator's two answers (released code)


class ACNTrainer(TaughtTrainer):
    """A model for one subset of the modalities, taught by a path that sees them all (ACN, Wang et al. 2021)."""

    teacher_weight = 0.2  # of the full path's segmentation loss (released code)
    student_weight = 0.8  # of the student's (released code)
    consistency_weight = 10.0  # of the mean square between both paths' probabilities (released code)
    ramp_up_fraction = 20 / 300  # of the epochs (released code)
    mi_weight = 0.5  # of the bottlenecks' mutual information (released code)
    entropy_weight = 0.001  # of being told from the full path by the entropy of the answers (released code)
    knowledge_weight = 0.0002  # of being told from it by the bottleneck (released code)
    detach_teacher = False  # whether the full path learns from its labels alone

    num_epochs = 228  # 57,000 updates (released code)
    initial_lr = 1e-4
    weight_decay = 1e-5
    optimizer_name = "adam"

    build_network = staticmethod(ACNNet.from_plans)

    regressor: Learner | None = None
    entropy_discriminator: Learner | None = None
    knowledge_discriminator: Learner | None = None

    def initialize(self) -> None:
        """Set up student and teacher, and beside them those of regressor and discriminators that have a weight."""
        super().initialize()
        architecture = Architecture.from_configuration(self.configuration_manager)
        if self.mi_weight > 0:
            regressor = self.beside(Regressor(architecture), False)
            self.regressor = Learner(regressor, self.build_optimizer(regressor.parameters()))
        if self.entropy_weight > 0:
            heads = self.label_manager.num_segmentation_heads
            judge = PooledDiscriminator(architecture, heads, first_strides(architecture))
            self.entropy_discriminator = self.build_adversary(judge)
        if self.knowledge_weight > 0:
            judge = PooledDiscriminator(architecture, architecture.features[-1])
            self.knowledge_discriminator = self.build_adversary(judge)

    def companions(self) -> dict[str, Learner]:
        """What learns beside the student, by name."""
        own = {
            "regressor": self.regressor,
            "entropy_discriminator": self.entropy_discriminator,
            "knowledge_discriminator": self.knowledge_discriminator,
        }
        return {**super().companions(), **{name: learner for name, learner in own.items() if learner is not None}}

    def matching_terms(self, full: DedicatedOutput, missing: DedicatedOutput, counts: Tensor) -> dict[str, Tensor]:
        """Match bottlenecks and entropies; see ``TaughtTrainer``."""
        terms = {}
        if self.regressor is not None:
            mean, variance = self.regressor.network(missing.bottleneck)
            information = mutual_information_loss(mean, full.bottleneck.detach(), variance)
            terms["mutual_information"] = self.mi_weight * mean_over(information, counts)
        if self.entropy_discriminator is not None:
            overlapping = self.label_manager.has_regions
            of_full, of_missing = (entropy_map(finest(out.logits), overlapping) for out in (full, missing))
            fooling, telling = play(self.entropy_discriminator.network, of_full, of_missing, counts)
            terms["entropy"] = self.entropy_weight * fooling
            terms["entropy_discriminator"] = DISCRIMINATOR_WEIGHT * telling
        if self.knowledge_discriminator is not None:
            fooling, telling = play(self.knowledge_discriminator.network, full.bottleneck, missing.bottleneck, counts)
            terms["knowledge"] = self.knowledge_weight * fooling
            terms["knowledge_discriminator"] = DISCRIMINATOR_WEIGHT * telling
        return terms
