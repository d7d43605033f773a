"""The network of CCSD: one shared encoder, M specific ones, and one decoder for every subset of their features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.network import NetworkSpec, finest
from nnunetv2_missmod.building_blocks.per_modality import Logits
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.building_blocks.shared_specific import Encoded, SharedSpecificNet
from nnunetv2_missmod.modalities import available_modalities

ONE_SUBSET = 2  # axes of present (B, M): a single decoder pass


class CCSDOutput(NamedTuple):
    """Output in training."""

    logits: Logits  # of the first subset
    passes: list[Logits]  # of every subset, the first included
    teacher_logits: Tensor | None  # of ``teacher``, (B, K, *patch), without gradient
    fused: Tensor  # f_fused^m, (B, M, C, *spatial)
    shared: Tensor  # E_shared(x^m) at the bottleneck, (B, M, C, *spatial)
    zero: Tensor  # E_shared(0) at the bottleneck, (1, 1, C, *spatial)
    specific: Tensor | None = None  # E_spec^m there, where wanted: of x^m, and last of zeros, (B + 1, M, C, *spatial)


class CCSDNet(SharedSpecificNet):
    """CCSD on a plan's topology: encoders of F_l / sqrt(M) features, the plan's own decoder.

    Every channel is encoded as it is, once; ``present`` acts where the slots are filled. Hence in training ``present``
    may be (R, B, M), R subsets of each sample to decode, and ``teacher`` (B, M) one more without gradient.

    Args:
        substitute: what fills a missing modality's slot in Z: "zero_input", E_shared(0) (paper 3.2), or
            "mean_available", the mean of the present modalities' shared features (ShaSpec). Skips have E_shared(0).
        composition: "conv", conv3 + norm + nonlinearity (paper 3.1), or "residual", ShaSpec's.
        kept_passes: decoder passes whose activations are kept in training; those of further ones are computed again
            in the backward pass.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        substitute: str = "zero_input",
        composition: str = "conv",
        kept_passes: int = 4,
    ):
        super().__init__(spec, "CCSD", substitute, composition)
        self.kept_passes = kept_passes

    def forward(
        self,
        images: Tensor,
        present: Tensor | None = None,
        teacher: Tensor | None = None,
        with_specific: bool = False,
    ) -> Logits | CCSDOutput:
        """Segment from the present modalities, see ``MissingModalityNetwork``.

        Args:
            images: (B, M, *patch).
            present: (B, M) bool, or in training (R, B, M).
            teacher: (B, M) bool.
            with_specific: whether the output in training holds the specific features.
        """
        present = available_modalities(images) if present is None else present
        presents = present[None] if present.ndim == ONE_SUBSET else present
        encoded = self.encode(images, with_specific)
        features = self.assemble(encoded, presents)
        if not self.training:
            logits: Logits = self.decoder([level[0] for level in features])
            return logits
        of_passes = [list(levels) for levels in zip(*(level.unbind() for level in features), strict=True)]
        kept = max(self.kept_passes, 1)
        # First, so that their backward comes last: when it needs memory, the kept activations are gone.
        recomputed = [recompute(self.decoder, levels) for levels in of_passes[kept:]]
        passes = [self.decoder(levels) for levels in of_passes[:kept]] + recomputed
        teacher_logits = None if teacher is None else self.decode_teacher(encoded, teacher)
        specific = encoded.specific if with_specific else None
        return CCSDOutput(passes[0], passes, teacher_logits, encoded.fused, encoded.shared, encoded.zero, specific)

    def decode_teacher(self, encoded: Encoded, present: Tensor) -> Tensor:
        """Decode one subset (B, M) per sample without gradient; the finest logits."""
        with torch.no_grad():
            return finest(self.segment(encoded, present))
