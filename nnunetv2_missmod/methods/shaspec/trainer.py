"""The training step of ShaSpec."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.shaspec.losses import domain_loss, shared_loss
from nnunetv2_missmod.methods.shaspec.network import ShaSpecNet, ShaSpecOutput
from nnunetv2_missmod.modalities import sample_by_size
from nnunetv2_missmod.training.trainer import Batch, MissingModalityTrainer


class ShaSpecTrainer(MissingModalityTrainer):
    """Features that modalities share are alike, those of each one's own tell it apart (ShaSpec, Wang et al. 2023).

    The ablations are weights of zero, ``alpha`` and ``beta``, and the network's ``substitute`` and ``composition``.
    """

    alpha = 0.1  # of L_shared (released code)
    beta = 0.02  # of L_domain (released code)
    pairs = "all"  # whose shared features are compared; "cyclic": the released four of six
    auxiliary_over = "available"  # the modalities that both terms see; "present": those of the drawn subset alone
    warm_up_fraction = 80_000 / 180_001  # of the epochs at the start, in which all that is available is segmented

    build_network = staticmethod(ShaSpecNet.from_plans)

    def apply_plan_overrides(self) -> None:
        """Apply the plan's overrides and check their words.

        Raises:
            ValueError: a word is unknown.
        """
        super().apply_plan_overrides()
        check_choice("pairs", self.pairs, ("all", "cyclic"))
        check_choice("auxiliary_over", self.auxiliary_over, ("available", "present"))

    def draw_subset(self, available: Tensor) -> Tensor:
        """Draw a size uniformly for the batch, then for each sample a subset (B, M) of it."""
        return sample_by_size(available, self.generator)

    def warms_up(self) -> bool:
        """Whether what is available is segmented from all of it."""
        return bool(self.current_epoch < int(self.warm_up_fraction * self.num_epochs))

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + alpha L_shared + beta L_domain."""
        present = batch.available if self.warms_up() else self.draw_subset(batch.available)
        out: ShaSpecOutput = self.network(batch.images, present)
        counted = batch.available if self.auxiliary_over == "available" else present
        with full_precision(self.device):
            l_shared = shared_loss(out.shared.float(), counted, cyclic=self.pairs == "cyclic")
            l_domain = domain_loss(out.domain_logits.float(), counted)
        return {
            "segmentation": self.loss(out.logits, batch.target),
            "shared": self.alpha * l_shared,
            "domain": self.beta * l_domain,
        }
