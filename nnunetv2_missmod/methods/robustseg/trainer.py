"""The training step of RobustSeg."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.methods.robustseg.losses import summed_kl_loss, summed_l1_loss
from nnunetv2_missmod.methods.robustseg.network import RobustSegNet, RobustSegOutput
from nnunetv2_missmod.training.trainer import Batch, MissingModalityTrainer


class RobustSegTrainer(MissingModalityTrainer):
    """Content of all modalities through gates, an appearance code of each (RobustSeg, Chen et al. 2019)."""

    reconstruction_weight = 0.1  # of the L1 of the rebuilt images, summed over modalities (released code)
    kl_weight = 12.8  # of the KL on AdaIN's mu and sigma, a mean over channels (released code: 0.1, a sum over 128)

    num_epochs = 360  # 300 epochs of 300 steps
    initial_lr = 1e-4
    weight_decay = 1e-4
    optimizer_name = "adam"

    build_network = staticmethod(RobustSegNet.from_plans)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + 0.1 sum of L1 + 0.1 sum of KL."""
        out: RobustSegOutput = self.network(batch.images, self.draw_subset(batch.available))
        terms = {"segmentation": self.loss(out.logits, batch.target)}
        with full_precision(self.device):
            l1 = summed_l1_loss(out.reconstruction.float(), batch.images.float(), batch.available)
            kl = summed_kl_loss(out.mu, out.sigma, batch.available)
        return {**terms, "reconstruction": self.reconstruction_weight * l1, "kl": self.kl_weight * kl}
