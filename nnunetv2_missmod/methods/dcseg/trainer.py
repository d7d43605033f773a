"""The training step of DC-Seg."""

from __future__ import annotations

import torch
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor
from torch import distributed as dist

from nnunetv2_missmod.building_blocks.disentangling import adain_kl_loss
from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.building_blocks.reconstruction import l1_reconstruction_loss
from nnunetv2_missmod.building_blocks.region_fusion import region_loss
from nnunetv2_missmod.methods.dcseg.losses import anatomy_contrastive_loss, modality_contrastive_loss
from nnunetv2_missmod.methods.dcseg.network import DCSegNet, DCSegOutput
from nnunetv2_missmod.training.separate import SeparateTrainer
from nnunetv2_missmod.training.trainer import Batch


class DCSegTrainer(SeparateTrainer):
    """One anatomy map per patient, one style code per modality (DC-Seg, Li et al. 2025).

    The ablations of Table 2 are weights of zero: ``anatomy_weight`` (no Ana), ``modality_weight`` (no Mod), both,
    ``reconstruction_weight`` (no Rec), ``separate_weight`` (no Reg).
    """

    alpha = 0.4  # alpha, weight of the disentanglement terms, Eq. 9
    t = 1 / 0.07  # t, factor on similarities in Eq. 1 and 4 (released code; the paper gives none)
    ssim_window = 0  # 0: global statistics, Eq. 3; 11: the released code's Gaussian window
    balanced_pairs = (
        False  # L_ana is the mean over all pairs, Eq. 1; True: positive ones weigh as much as negative ones
    )
    anatomy_weight = 1.0  # of L_ana within alpha's bracket, Eq. 9
    modality_weight = 1.0  # of L_mod, likewise
    reconstruction_weight = 1.0  # of L_rec, likewise
    separate_weight = 1.0  # of L_reg, Eq. 9
    region_weight = 1.0  # of the region maps' loss (released code; absent from Eq. 9)
    kl_weight = 0.0  # on AdaIN's mu and sigma (released code: 0.1; absent from Eq. 9)
    warm_up_epochs = 0  # epochs without L_seg (released code: 20 of 500; absent from the paper)

    num_epochs = 220  # 500 epochs of about 110 steps
    initial_lr = 2e-4
    weight_decay = 1e-4
    optimizer_name = "adam"
    amsgrad = True  # released code

    build_network = staticmethod(DCSegNet.from_plans)

    def initialize(self) -> None:
        """Set up everything as nnU-Net does; the network is told how the segmentation's outputs exclude each other."""
        self.set_network_constants(overlapping_regions=self.label_manager.has_regions)
        self.said_that_negatives_lack = False
        super().initialize()

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + L_reg + alpha (L_ana + L_mod + L_rec), Eq. 9, + the region maps' loss."""
        present, alone = self.draw_subset(batch.available), self.draw_alone(batch.available)
        out: DCSegOutput = self.network(batch.images, present, alone.decoded)
        segmentation_weight = float(self.current_epoch >= self.warm_up_epochs)
        terms = {
            "segmentation": segmentation_weight * self.loss(out.logits, batch.target),
            "separate": self.separate_term(out.separate_logits, alone, batch.target),
            "regions": self.region_weight * region_loss(self.loss, out.region_logits, batch.target),
        }
        with full_precision(self.device):
            return terms | self.disentanglement_terms(out, batch)

    def disentanglement_terms(self, out: DCSegOutput, batch: Batch) -> dict[str, Tensor]:
        """Alpha's bracket of Eq. 9, over all available modalities of all ranks, in float32."""
        anatomy, codes = self.gather(out.anatomy.float()), self.gather(out.codes.float())
        available, cases = self.gather(batch.available), self.gather(self.case_numbers(batch))
        l_ana = anatomy_contrastive_loss(anatomy, available, cases, self.t, self.ssim_window, self.balanced_pairs)
        l_mod = modality_contrastive_loss(codes, available, self.t)
        l_rec = l1_reconstruction_loss(out.reconstruction.float(), batch.images.float(), batch.available)
        l_kl = adain_kl_loss(out.mu, out.sigma, batch.available)
        return {
            "anatomy": self.alpha * self.anatomy_weight * l_ana,
            "modality": self.alpha * self.modality_weight * l_mod,
            "reconstruction": self.alpha * self.reconstruction_weight * l_rec,
            "kl": self.kl_weight * l_kl,
        }

    def case_numbers(self, batch: Batch) -> Tensor:
        """Number the cases of a batch (B,), alike on every rank; warn once when L_ana finds no two patients."""
        if len(set(batch.cases)) == 1 and not self.is_ddp and not self.said_that_negatives_lack:
            self.said_that_negatives_lack = True
            self.print_to_log_file(
                "WARNING: a batch holds one case only, so L_ana has no negative pairs and pushes nothing apart. "
                "Use a batch size of at least 2, or several GPUs."
            )
        return self.to_device(torch.tensor([self.case_number[case] for case in batch.cases]))

    def gather(self, local: Tensor) -> Tensor:
        """Concatenate the samples (B, ...) of all ranks, with gradients; a smaller share is filled up with zeros."""
        if not self.is_ddp:
            return local
        share = -(-self.configuration_manager.batch_size // dist.get_world_size())
        padding = local.new_zeros(share - len(local), *local.shape[1:])
        gathered: Tensor = AllGatherGrad.apply(torch.cat((local, padding)).float())
        return gathered.flatten(0, 1).to(local.dtype)
