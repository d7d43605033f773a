"""The training step of U-HVED."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import finest, unwrapped
from nnunetv2_missmod.building_blocks.per_modality import Logits
from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.building_blocks.reconstruction import mse_reconstruction_loss
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.uhved.discriminator import PatchDiscriminator, seen_by_discriminator
from nnunetv2_missmod.methods.uhved.losses import fooling_loss, shares_of, subset_divergences, telling_loss
from nnunetv2_missmod.methods.uhved.network import UHVEDNet, UHVEDOutput, latents_of
from nnunetv2_missmod.methods.uhved.product import Experts
from nnunetv2_missmod.modalities import all_subsets, sample_by_size, sample_subset
from nnunetv2_missmod.training.learning import Learner
from nnunetv2_missmod.training.trainer import Batch, MissingModalityTrainer

MOST_ENUMERATED = 4  # modalities, whose 15 subsets are all compared; of more, as many are drawn
MOST_SUBSETS = 2**MOST_ENUMERATED - 1


class UHVEDTrainer(MissingModalityTrainer):
    """A Gaussian per modality, their product for any subset (U-HVED, Dorent et al. 2019).

    RA-HVED (Jeong et al. 2022), as far as its settings go: see the card.
    """

    kl_inter_weight = 0.1  # of KL(q_drawn || q_s), mean over the subsets s of what a case has (released code)
    kl_prior_weight = 0.1  # of KL(q_s || N(0, I)) (released code)
    kl_prior_over = "subsets"  # of what a case has; "drawn": of the drawn one alone (RA-HVED)
    reconstruction_weight = 0.1  # of the mean square of the rebuilt images (released code)
    full_set_weight = 0.0  # of the segmentation loss of all that is available, in a pass of its own (RA-HVED: 1)
    adversarial_weight = 0.0  # of being told from the full set (RA-HVED: 0.1)
    subset_sizes = "all"  # that are drawn, uniformly; "proper": never all that is available (RA-HVED)

    num_epochs = 240  # 60,000 iterations
    initial_lr = 1e-3
    weight_decay = 1e-5
    optimizer_name = "adam"

    build_network = staticmethod(UHVEDNet.from_plans)

    # --- set-up -------------------------------------------------------------------------------------------------------

    def apply_plan_overrides(self) -> None:
        """Apply the plan's overrides and check those that are words."""
        super().apply_plan_overrides()
        check_choice("kl_prior_over", self.kl_prior_over, ("subsets", "drawn"))
        check_choice("subset_sizes", self.subset_sizes, ("all", "proper"))

    def initialize(self) -> None:
        """Set up everything as nnU-Net does, and the discriminator where it has a part in the loss."""
        self.discriminator: Learner | None = None
        super().initialize()
        self.nested_regions = self.label_manager.has_regions and are_nested(self.label_manager.foreground_regions)
        if self.adversarial_weight > 0:
            architecture = Architecture.from_configuration(self.configuration_manager)
            seen = self.label_manager.num_segmentation_heads + len(self.modalities)
            network = self.beside(PatchDiscriminator(architecture, seen), False)
            self.discriminator = Learner(network, self.build_optimizer(network.parameters()))

    def companions(self) -> dict[str, Learner]:
        """The discriminator, if there is one."""
        return {} if self.discriminator is None else {"discriminator": self.discriminator}

    # --- one training step --------------------------------------------------------------------------------------------

    def draw_subset(self, available: Tensor) -> Tensor:
        """Draw a size uniformly for the batch, then for each sample a subset (B, M) of it.

        A proper subset of n modalities of uniform size, 1 to n - 1, is a subset of what is left without one of them.
        """
        if self.subset_sizes == "proper":
            available = self.without_one(available)
        return sample_by_size(available, self.generator)

    def without_one(self, available: Tensor) -> Tensor:
        """Take one modality, drawn uniformly, from every sample (B, M) that has more than one."""
        score = torch.rand(available.shape, generator=self.generator, device=available.device)
        drawn = score.masked_fill(~available, -1).argmax(1, keepdim=True)
        taken = torch.arange(available.shape[1], device=available.device) == drawn
        return available & ~(taken & (available.sum(1, keepdim=True) > 1))

    def draw_noise(self, samples: int, passes: int) -> list[Tensor]:
        """Draw standard normal noise for every latent, (passes * samples, L, *size) at each level, finest first."""
        architecture = Architecture.from_configuration(self.configuration_manager)
        narrow = architecture.for_each_of(len(self.modalities))
        shapes = [(latents, *narrow.size_at(level)) for level, latents in enumerate(latents_of(narrow))]
        rows = passes * samples
        return [torch.randn(rows, *shape, generator=self.generator, device=self.device) for shape in shapes]

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + 0.1 KLD + 0.1 L_rec, and what RA-HVED adds."""
        drawn = self.draw_subset(batch.available)
        also = batch.available if self.full_set_weight > 0 or self.adversarial_weight > 0 else None
        noise = self.draw_noise(len(batch.images), 1 if also is None else 2)
        out: UHVEDOutput = self.network(batch.images, drawn, noise, also)
        terms = {"segmentation": self.loss(out.logits, batch.target)}
        if self.full_set_weight > 0:
            terms["full_set"] = self.full_set_weight * self.loss(out.full_logits, batch.target)
        with full_precision(self.device):
            terms |= self.divergence_terms(out.experts, drawn, batch.available)
            rebuilt = mse_reconstruction_loss(out.reconstruction.float(), batch.images.float(), batch.available)
            terms["reconstruction"] = self.reconstruction_weight * rebuilt
            if self.discriminator is not None:
                terms |= self.adversarial_terms(self.discriminator, out, batch.available)
        return terms

    def divergence_terms(self, experts: list[Experts], drawn: Tensor, available: Tensor) -> dict[str, Tensor]:
        """Both KL terms, without those of weight 0: a sample's mean over its subsets, mean over samples.

        Args:
            experts: at every level.
            drawn, available: (B, M) bool.
        """
        of_drawn_alone = self.kl_prior_over == "drawn"
        subsets, shares = drawn[:, None], torch.ones_like(drawn[:, :1], dtype=torch.float32)
        if self.kl_inter_weight > 0 or not of_drawn_alone:
            subsets = self.compared_subsets(drawn, available)
            shares = shares_of(subsets, available)
        if self.kl_inter_weight == 0 and self.kl_prior_weight == 0:
            return {}
        inter, prior = subset_divergences(experts, drawn, subsets)
        is_drawn = (subsets == drawn[:, None]).all(2)  # of many modalities' subsets perhaps more than one
        of_drawn = is_drawn / is_drawn.sum(1, keepdim=True)
        terms = {
            "kl_inter": (self.kl_inter_weight, inter * shares),
            "kl_prior": (self.kl_prior_weight, prior * (of_drawn if of_drawn_alone else shares)),
        }
        return {name: weight * values.sum(1).mean() for name, (weight, values) in terms.items() if weight > 0}

    def compared_subsets(self, drawn: Tensor, available: Tensor) -> Tensor:
        """List the subsets (B, S, M) of the KL terms: all of M modalities, or the drawn one and 14 drawn for it."""
        modalities = available.shape[1]
        if modalities <= MOST_ENUMERATED:
            return self.to_device(all_subsets(modalities)).expand(len(available), -1, -1)
        others = [sample_subset(available, self.generator) for _ in range(MOST_SUBSETS - 1)]
        return torch.stack([drawn, *others], 1)

    def adversarial_terms(self, discriminator: Learner, out: UHVEDOutput, available: Tensor) -> dict[str, Tensor]:
        """Play the network against the discriminator: each term has gradients for one of them alone."""
        assert out.full_logits is not None
        assert out.full_reconstruction is not None
        full = self.seen(out.full_logits, out.full_reconstruction, available)
        missing = self.seen(out.logits, out.reconstruction, available)
        verdicts = discriminator.network(torch.cat((full, missing)).detach()).chunk(2)
        as_judged = unwrapped(discriminator.network).judge(missing)
        return {
            "adversarial": self.adversarial_weight * fooling_loss(as_judged),
            "discriminator": self.adversarial_weight * telling_loss(*verdicts),
        }

    def seen(self, logits: Logits, reconstruction: Tensor, available: Tensor) -> Tensor:
        """What the discriminator sees of a pass, (B, K + M, *patch)."""
        outputs = finest(logits).float()
        probabilities = outputs.sigmoid() if self.label_manager.has_regions else outputs.softmax(1)
        if self.nested_regions:
            foreground = probabilities
        elif self.label_manager.has_regions:
            foreground = probabilities.amax(1, keepdim=True)
        else:
            foreground = 1 - probabilities[:, :1]
        return seen_by_discriminator(probabilities, foreground, reconstruction.float(), available)


def are_nested(regions: list[int | tuple[int, ...]]) -> bool:
    """Whether each region, given by its labels, is a part of the one before it."""
    labels = [{region} if isinstance(region, int) else set(region) for region in regions]
    return all(inner <= outer for outer, inner in pairwise(labels))
