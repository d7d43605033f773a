"""The training step of SMU-Net."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.discriminator import PooledDiscriminator, play
from nnunetv2_missmod.building_blocks.matching import mean_over, mean_square
from nnunetv2_missmod.methods.smunet.losses import style_loss
from nnunetv2_missmod.methods.smunet.network import SMUNet, SMUNetOutput
from nnunetv2_missmod.training.dedicated_teaching import TaughtTrainer
from nnunetv2_missmod.training.learning import Learner


class SMUNetTrainer(TaughtTrainer):
    """A model for one subset of the modalities, whose content and style match those of a path that sees them all.

    SMU-Net, Azad et al. 2022.
    """

    teacher_weight = 0.4  # of the full path's segmentation loss (released code)
    student_weight = 0.6  # of the student's (released code)
    consistency_weight = 10.0  # of the mean square between both paths' probabilities (released code)
    ramp_up_fraction = 20 / 250  # of the epochs (released code)
    content_weight = 0.2  # of the mean square between contents (released code)
    style_weight = 1.0  # of that between correlations of the styles' channels
    adversarial_weight = 2e-4  # of being told from the full path by the style (released code)
    detach_teacher = False  # whether the full path learns from its labels alone

    num_epochs = 228  # 57,000 updates (released code)
    initial_lr = 1e-4
    weight_decay = 1e-5
    optimizer_name = "adam"

    build_network = staticmethod(SMUNet.from_plans)

    discriminator: Learner | None = None

    def initialize(self) -> None:
        """Set up student and teacher, and beside them the discriminator where it has a part in the loss."""
        super().initialize()
        if self.adversarial_weight > 0:
            architecture = Architecture.from_configuration(self.configuration_manager)
            self.discriminator = self.build_adversary(PooledDiscriminator(architecture, architecture.features[-1]))

    def companions(self) -> dict[str, Learner]:
        """What learns beside the student, by name."""
        own = {} if self.discriminator is None else {"discriminator": self.discriminator}
        return {**super().companions(), **own}

    def matching_terms(self, full: SMUNetOutput, missing: SMUNetOutput, counts: Tensor) -> dict[str, Tensor]:
        """Match contents and styles; see ``TaughtTrainer``."""
        terms = {}
        if self.content_weight > 0:
            error = mean_square(full.content - missing.content)
            terms["content"] = self.content_weight * mean_over(error, counts)
        if self.style_weight > 0:
            terms["style"] = self.style_weight * mean_over(style_loss(full.style, missing.style), counts)
        if self.discriminator is not None:
            fooling, telling = play(self.discriminator.network, full.style, missing.style, counts)
            terms |= {"adversarial": self.adversarial_weight * fooling, "discriminator": telling}
        return terms
