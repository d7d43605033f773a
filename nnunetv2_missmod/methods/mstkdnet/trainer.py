"""The training step of MST-KDNet."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.discriminator import PooledDiscriminator, play
from nnunetv2_missmod.building_blocks.matching import gram_loss, ramp_up, summed_errors
from nnunetv2_missmod.building_blocks.network import finest
from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.mstkdnet.losses import evd_loss, logit_mse, mst_loss, slkd_loss
from nnunetv2_missmod.methods.mstkdnet.network import DEEPEST_LEVEL, MSTKDNet, MSTKDNetOutput, deepest_level
from nnunetv2_missmod.training.co_training import CoTrainer, in_float
from nnunetv2_missmod.training.learning import Learner
from nnunetv2_missmod.training.trainer import Batch


class MSTKDNetTrainer(CoTrainer):
    """A teacher that sees all modalities, a student that matches it from some (MST-KDNet, Zhu et al. 2025).

    Both learn from scratch, side by side. The student is ``self.network``; teacher and discriminator serve training
    alone. The ablations of Table 4 are weights of zero: ``evd_weight`` and ``mst_weight`` (no MS-TKD), ``gram_weight``
    and ``adversarial_weight`` (no GSME), ``slkd_weight`` (no SLKD).
    """

    teacher_weight = 0.4  # of the teacher's segmentation loss, Eq. 12 (released code)
    student_weight = 0.6  # of the student's (released code)
    evd_weight = 3.0  # of L_EVD (released code: 1e8 of the raw term, 2.9 at its 120 tokens and uniform attention)
    evd_axis = "layer"  # "head": Eq. 2 read literally
    evd_scale = "relative"  # errors as shares of the products' mean square; "tokens": times T^4 / 6, as released
    mst_weight = 0.2  # of L_MST (released code)
    mst_of = "tokens"  # of the taps, the paper's reshaped features; "maps": what is decoded from them (released code)
    mse_weight = 10.0  # of the logit MSE, Eq. 5 (released code)
    mse_of = "probabilities"  # released code; "logits": Eq. 5
    ramp_up_fraction = 0.08  # of the epochs: 20 (released code) of the paper's 250
    ramp_up_of = "all"  # that distils: the teacher starts from scratch as well; "mse": released code
    slkd_weight = 1.0  # of L_SLKD, Eq. 8 (released code)
    slkd_axis = "class"  # Eq. 6; "last_spatial": released code
    tau = 7.0  # tau, the temperature of Eq. 6 and 7 (released code)
    content_weight = 0.0  # of the mean squared error of f_dec, in no equation (released code: 0.2)
    gram_weight = 1.0  # theta of Eq. 11, of the cross-Gram loss, Eq. 10
    adversarial_weight = 2e-4  # of the adversarial loss, Eq. 9 (released code)
    detach_teacher = True  # whether the teacher learns from its labels alone (released code: it does not)

    initial_lr = 1e-4
    weight_decay = 1e-5  # released code
    optimizer_name = "adam"  # alike for student and teacher (released code: one for both)
    adam_beta2 = 0.99  # beta_2 of all three optimizers (paper); beta_1 is 0.9

    build_network = staticmethod(MSTKDNet.from_plans)

    discriminator: Learner

    # --- set-up -------------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Set up student and teacher, and the discriminator beside them."""
        super().initialize()
        architecture = Architecture.from_configuration(self.configuration_manager)
        channels = architecture.features[deepest_level(architecture)]
        self.discriminator = self.build_adversary(PooledDiscriminator(architecture, channels))

    def apply_plan_overrides(self) -> None:
        """Apply the plan's overrides and check their values.

        Raises:
            ValueError: a word is unknown, or a number out of range.
        """
        super().apply_plan_overrides()
        check_choice("evd_axis", self.evd_axis, ("layer", "head"))
        check_choice("evd_scale", self.evd_scale, ("relative", "tokens", "teacher"))  # the last: the first's old name
        check_choice("mst_of", self.mst_of, ("tokens", "maps"))
        check_choice("mse_of", self.mse_of, ("probabilities", "logits"))
        check_choice("ramp_up_of", self.ramp_up_of, ("all", "mse"))
        check_choice("slkd_axis", self.slkd_axis, ("class", "last_spatial"))
        if self.tau <= 0:
            raise ValueError(f"Expected tau above zero, got {self.tau}. Correct it in the plan.")

    def deep_supervision_scales(self) -> list[list[float]] | None:
        """Scales of the decoder's outputs: it starts at the transformer's level, not at the plan's bottleneck."""
        scales = super().deep_supervision_scales()
        return None if scales is None else scales[:DEEPEST_LEVEL]

    # --- one training step --------------------------------------------------------------------------------------------

    def student_terms(self, batch: Batch, full: MSTKDNetOutput) -> dict[str, Tensor]:
        """Eq. 12 without the teacher's own term, and the discriminator's loss, which changes the discriminator alone.

        Args:
            batch: of which the student sees a subset.
            full: what the teacher made of all that is available.
        """
        missing: MSTKDNetOutput = self.network(batch.images, self.draw_subset(batch.available))
        terms = {"segmentation": self.student_weight * self.loss(missing.logits, batch.target)}
        with full_precision(self.device):
            full, missing = in_float(full), in_float(missing)
            distils = batch.available.sum(1) > 1  # a case of one modality has nothing more to show to a teacher
            for name, per_sample in self.distillation(full, missing).items():
                terms[name] = torch.where(distils, per_sample, 0).mean()
            if self.adversarial_weight > 0:
                terms |= self.adversarial_terms(full.style, missing.style)
        return terms

    def distillation(self, full: MSTKDNetOutput, missing: MSTKDNetOutput) -> dict[str, Tensor]:
        """Compute the weighted terms by which the student matches the teacher, each (B,); without those of weight 0.

        The weights go with a Dice loss summed over the outputs (released code); the pipeline's is their mean.
        """
        losses = {
            "evd": (self.evd_weight, self.evd),
            "mst": (self.mst_weight, self.mst),
            "mse": (self.mse_weight, self.mse),
            "slkd": (self.slkd_weight, self.slkd),
            "content": (self.content_weight, self.content),
            "gram": (self.gram_weight, self.gram),
        }
        ramp = ramp_up(self.current_epoch, self.ramp_up_fraction * self.num_epochs)
        ramped = losses if self.ramp_up_of == "all" else ("mse",)
        share = {name: (ramp if name in ramped else 1) / self.label_manager.num_segmentation_heads for name in losses}
        return {
            name: share[name] * weight * loss(full, missing) for name, (weight, loss) in losses.items() if weight > 0
        }

    def evd(self, full: MSTKDNetOutput, missing: MSTKDNetOutput) -> Tensor:
        """L_EVD (B,), of the same size whatever the number of tokens T; as shares, below the number of taps.

        T^4 / 6 has the size of the shares for uniform attention; as attention becomes peaked it grows up to T^3-fold.
        """
        if self.evd_scale == "tokens":
            of_uniform = full.attention[0].shape[-1] ** 4 / 6
            return of_uniform * evd_loss(full.attention, missing.attention, self.evd_axis)
        return evd_loss(full.attention, missing.attention, self.evd_axis, relative=True)

    def mst(self, full: MSTKDNetOutput, missing: MSTKDNetOutput) -> Tensor:
        """L_MST (B,)."""
        teacher, student = ((out.maps if self.mst_of == "maps" else out.hidden) for out in (full, missing))
        return mst_loss(teacher, student)

    def mse(self, full: MSTKDNetOutput, missing: MSTKDNetOutput) -> Tensor:
        """L_MSE (B,)."""
        teacher, student = finest(full.logits), finest(missing.logits)
        if self.mse_of == "probabilities":
            teacher, student = (self.probabilities(logits) for logits in (teacher, student))
        return logit_mse(teacher, student)

    def slkd(self, full: MSTKDNetOutput, missing: MSTKDNetOutput) -> Tensor:
        """L_SLKD (B,), its mean over the outputs (released code)."""
        teacher, student = finest(full.logits), finest(missing.logits)
        loss = slkd_loss(teacher, student, self.tau, self.slkd_axis, self.label_manager.has_regions)
        return loss / teacher.shape[1]

    def content(self, full: MSTKDNetOutput, missing: MSTKDNetOutput) -> Tensor:
        """Mean squared error of f_dec (B,), which only the released code has."""
        return summed_errors([full.decoded], [missing.decoded])

    def gram(self, full: MSTKDNetOutput, missing: MSTKDNetOutput) -> Tensor:
        """L_GSM (B,)."""
        teacher, student = ((out.encoded, out.transformed, out.decoded) for out in (full, missing))
        return gram_loss(teacher, student)

    def adversarial_terms(self, full: Tensor, missing: Tensor) -> dict[str, Tensor]:
        """Play student against discriminator: each term has gradients for one of them alone.

        Args:
            full, missing: the style f_enc&t of teacher and student, (B, C, *spatial).
        """
        fooling, telling = play(self.discriminator.network, full, missing)
        return {"adversarial": self.adversarial_weight * fooling, "discriminator": telling}

    def learners(self) -> list[Learner]:
        """The student, the discriminator where it has a part in the loss, and the teacher."""
        adversaries = [self.discriminator] if self.adversarial_weight > 0 else []
        return [Learner(self.network, self.optimizer), *adversaries, self.teacher]

    def companions(self) -> dict[str, Learner]:
        """What learns beside the student, by name."""
        return {**super().companions(), "discriminator": self.discriminator}
