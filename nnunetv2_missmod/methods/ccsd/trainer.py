"""The training step of CCSD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.network import finest, unwrapped
from nnunetv2_missmod.building_blocks.per_modality import Logits
from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.building_blocks.shared_specific import fill_slots, substitute_for
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.ccsd.losses import (
    cosine_criticality,
    cosine_similarity,
    dmcd_loss,
    gradient_criticality,
    hmsd_loss,
    removal_path,
)
from nnunetv2_missmod.methods.ccsd.network import CCSDNet, CCSDOutput
from nnunetv2_missmod.methods.ccsd.order import RemovalOrder, shares_of_mean
from nnunetv2_missmod.methods.ccsd.subsets import Subsets, draw_students, with_full_set
from nnunetv2_missmod.modalities import sample_by_size
from nnunetv2_missmod.training.trainer import Batch, MissingModalityTrainer

SEEDS_TO_TRY = 64  # each draws one of a handful of sizes


class CCSDTrainer(MissingModalityTrainer):
    """The full set teaches its subsets, each step of a path of removals the next (CCSD, Xie et al. 2026).

    The ablations of Table 3 are weights of zero: ``hmsd_weight``, ``dmcd_weight``. The variants of sections 4.4 and
    4.5 (Tables 5 and 6): ``path_order`` and ``criticality``; of Table 4: ``dmcd_features``.
    """

    hmsd_weight = 1.0  # of L_HMSD in L
    dmcd_weight = 1.0  # of L_DMCD, Eq. 8, in L
    hmsd_tau = 4.0  # tau of P_T and P_S, Eq. 3 (the paper gives none)
    dmcd_tau = 1.0  # tau of the softmax in Eq. 8 (the paper gives none)
    full_set_weight = 0.0  # of L_seg on all that is available, beside L_seg on the sampled subset
    max_students = 6  # subsets that HMSD's mean is taken over at most; beyond, as many are drawn
    dmcd_over = "slots"  # what its softmax runs over (the paper does not say)
    dmcd_features = "fused"  # what fills Z in DMCD; "shared", "specific": Table 4
    path_order = "max"  # the most critical modality is removed first; "min": the least; "random"
    criticality = "cosine"  # s_j of Eq. 4; "gradient": Eq. 9
    warm_up_fraction = 0.05  # of the epochs at the start, without distillation

    build_network = staticmethod(CCSDNet.from_plans)
    memory_settings = ("max_students",)

    # --- set-up -------------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Set up everything as nnU-Net does, and what draws and counts."""
        self.host_generator = torch.Generator()
        self.order = RemovalOrder(len(self.modalities), self.device)
        super().initialize()

    def apply_plan_overrides(self) -> None:
        """Apply the plan's overrides and check their values.

        Raises:
            ValueError: a word is unknown, or a number out of range.
        """
        super().apply_plan_overrides()
        check_choice("path_order", self.path_order, ("max", "min", "random"))
        check_choice("dmcd_features", self.dmcd_features, ("fused", "shared", "specific"))
        check_choice("dmcd_over", self.dmcd_over, ("decoder_input", "slots", "each_slot"))
        check_choice("criticality", self.criticality, ("cosine", "gradient"))
        for name in ("hmsd_tau", "dmcd_tau", "max_students"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected {name} above zero, got {getattr(self, name)}. Correct it in the plan.")

    def compiles(self) -> bool:
        """Compile as nnU-Net does; a compiled network cannot give the gradients of Eq. 9 before the step's own."""
        return super().compiles() and not self.needs_gradient()

    def needs_gradient(self) -> bool:
        """Whether the path follows the gradient criticality."""
        return self.dmcd_weight > 0 and self.criticality == "gradient" and self.path_order != "random"

    def on_train_epoch_start(self) -> None:
        """Seed the epoch's draws and count anew which modality is removed first."""
        super().on_train_epoch_start()
        self.host_generator.manual_seed(self.generator.initial_seed())
        self.order.clear()

    # --- one training step --------------------------------------------------------------------------------------------

    def draw_subset(self, available: Tensor) -> Tensor:
        """Draw a size uniformly for the batch, then for each sample a subset (B, M) of it, on the CPU."""
        return sample_by_size(available, self.host_generator)

    def distils(self, weight: float = 1.0) -> bool:
        """Whether the warm-up is over and a term of this weight is in the loss."""
        return bool(weight > 0 and self.current_epoch >= int(self.warm_up_fraction * self.num_epochs))

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L = L_seg + L_HMSD + L_DMCD."""
        subsets = self.draw_passes(batch.cases)
        with_hmsd = self.distils(self.hmsd_weight)
        teacher = batch.available if with_hmsd and subsets.full is None else None
        with_specific = self.dmcd_features == "specific" and self.distils(self.dmcd_weight)
        out: CCSDOutput = self.network(batch.images, self.to_device(subsets.presents), teacher, with_specific)
        terms = {"segmentation": self.loss(out.logits, batch.target)}
        if self.full_set_weight > 0:
            terms["full_set"] = self.full_set_weight * self.loss(full_set(out, subsets), batch.target)
        if with_hmsd:
            terms["hmsd"] = self.hmsd_weight * self.hmsd(out, subsets)
        if self.distils(self.dmcd_weight):
            states = self.path(out, subsets, batch)
            self.order.add_path(states)
            terms["dmcd"] = self.dmcd_weight * self.dmcd(out, states)
        return terms

    def seed_costliest_step(self, cases: Sequence[str]) -> None:
        """Seed the draws so that the next step decodes as many subsets as any of the seeds tried makes it."""

        def passes_of(seed: int) -> int:
            self.host_generator.manual_seed(seed)
            return len(self.draw_passes(cases).presents)

        self.host_generator.manual_seed(max(range(SEEDS_TO_TRY), key=passes_of))

    def draw_passes(self, cases: Sequence[str]) -> Subsets:
        """Draw the segmented subset and HMSD's students; add the full set where a term needs its gradient."""
        available = torch.tensor([self.available_in_case[case] for case in cases])
        limit = self.max_students if self.distils(self.hmsd_weight) else 0
        subsets = draw_students(available, self.draw_subset(available), limit, self.host_generator)
        needs_full_set = self.full_set_weight > 0 or (self.distils() and self.needs_gradient())
        return with_full_set(subsets, available) if needs_full_set else subsets

    def hmsd(self, out: CCSDOutput, subsets: Subsets) -> Tensor:
        """L_HMSD, a scalar in float32: what is available teaches the students."""
        teacher = finest(full_set(out, subsets)) if out.teacher_logits is None else out.teacher_logits
        students = torch.stack([finest(logits) for logits in out.passes])
        overlapping = self.label_manager.has_regions
        with full_precision(self.device):
            shares = self.to_device(subsets.shares)
            return hmsd_loss(teacher.float(), students.float(), shares, self.hmsd_tau, overlapping)

    def path(self, out: CCSDOutput, subsets: Subsets, batch: Batch) -> Tensor:
        """What remains (B, T, M) after each removal, the most critical modality first (or as ``path_order`` says)."""
        sign = -1 if self.path_order == "min" else 1
        if self.path_order == "random":
            score = torch.rand(batch.available.shape, generator=self.generator, device=self.device)
            return removal_path(lambda _: score, batch.available)
        if self.criticality == "gradient":
            norms = gradient_criticality(self.gradient(out, subsets, batch))
            self.order.add_scores(shares_of_mean(norms, batch.available), batch.available)
            return removal_path(lambda _: sign * norms, batch.available)
        with full_precision(self.device):
            similarity = cosine_similarity(out.fused.detach().float())
        self.order.add_scores(cosine_criticality(similarity, batch.available, batch.available), batch.available)
        return removal_path(lambda left: sign * cosine_criticality(similarity, left, batch.available), batch.available)

    def gradient(self, out: CCSDOutput, subsets: Subsets, batch: Batch) -> Tensor:
        """dL_seg / df_fused of the full set, (B, M, C, *spatial) float32, up to the gradient scaler's factor."""
        loss = self.scaler.scale(self.loss(full_set(out, subsets), batch.target))
        return torch.autograd.grad(loss, out.fused, retain_graph=True)[0].float()

    def distilled_features(self, out: CCSDOutput) -> tuple[Tensor, Tensor, Tensor]:
        """What fills Z in DMCD: the modalities' features, those that a substitute may average, and those of zeros."""
        if self.dmcd_features == "specific":
            assert out.specific is not None
            return out.specific[:-1], out.specific[:-1], out.specific[-1:]
        return out.shared if self.dmcd_features == "shared" else out.fused, out.shared, out.zero

    def dmcd(self, out: CCSDOutput, states: Tensor) -> Tensor:
        """L_DMCD, a scalar in float32, along a path (B, T, M); a step counts where it removes a modality."""
        with full_precision(self.device):
            fused, shared, zero = (maps[:, None].float() for maps in self.distilled_features(out))
            substitute = substitute_for(shared, zero, states, unwrapped(self.network).substitute)
            assembled = fill_slots(fused, substitute, states)
            return dmcd_loss(self.grouped(assembled), states[:, :-1].sum(2) > 1, self.dmcd_tau)

    def grouped(self, assembled: Tensor) -> Tensor:
        """Give what DMCD's softmax runs over, (B, T, G, C', *spatial), for Z of each state (B, T, M, C, *spatial)."""
        if self.dmcd_over == "each_slot":
            return assembled
        if self.dmcd_over == "slots":
            return assembled.flatten(2, 3)[:, :, None]
        reduced: Tensor = unwrapped(self.network).reductions[-1](assembled)
        return reduced[:, :, None]

    # --- log ----------------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, train_outputs: list[dict[str, Tensor]]) -> None:
        """Report the terms, how often each modality was the first to be removed, and whether scores tell them apart."""
        super().on_train_epoch_end(train_outputs)
        if self.is_ddp:
            self.order.over_ranks()
        shares = dict(zip(self.modalities, self.order.shares(), strict=False))
        if not shares:
            return
        spread = self.order.spread()
        metrics = {f"removed_first/{name}": share for name, share in shares.items()}
        if spread:
            metrics |= {"criticality/spread": spread.between, "criticality/noise": spread.noise}
        self.log_metrics(metrics)
        if spread and spread.is_noise:
            self.print_to_log_file(f"removed first: in no order that can be told from chance; {spread}")
        else:
            self.print_to_log_file("removed first", {name: round(share, 3) for name, share in shares.items()})


def full_set(out: CCSDOutput, subsets: Subsets) -> Logits:
    """Take the pass that saw all that is available."""
    assert subsets.full is not None
    return out.passes[subsets.full]
