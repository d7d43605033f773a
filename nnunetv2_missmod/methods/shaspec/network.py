"""The network of ShaSpec: one shared encoder, M specific ones, one decoder, and a head that tells modalities apart."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.per_modality import Logits
from nnunetv2_missmod.building_blocks.shared_specific import SharedSpecificNet
from nnunetv2_missmod.modalities import available_modalities


class ShaSpecOutput(NamedTuple):
    """Output in training."""

    logits: Logits
    shared: Tensor  # E_shared(x^m) at the bottleneck, (B, M, C, *spatial)
    domain_logits: Tensor  # which modality E_spec^m(x^m) is taken for, (B, M, M)


class ShaSpecNet(SharedSpecificNet):
    """ShaSpec on a plan's topology: encoders of F_l / sqrt(M) features, the plan's own decoder.

    Every channel is encoded as it is; ``present`` acts where the slots are filled, so that the terms see all that is
    available.

    Args:
        substitute: what fills a missing modality's slot in Z: "mean_available", the mean of the present modalities'
            shared features, or "zero_input", E_shared(0). Skips have E_shared(0).
        composition: "residual", f_shared + conv3([f_shared, f_spec]), or "conv", conv3 + norm + nonlinearity.
    """

    def __init__(self, spec: NetworkSpec, *, substitute: str = "mean_available", composition: str = "residual"):
        super().__init__(spec, "ShaSpec", substitute, composition)
        channels = spec.architecture.for_each_of(spec.num_modalities).features[-1]
        self.domain_head = nn.Linear(channels, spec.num_modalities)  # of use in training alone

    def forward(self, images: Tensor, present: Tensor | None = None) -> Logits | ShaSpecOutput:
        """Segment images (B, M, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``."""
        present = available_modalities(images) if present is None else present
        encoded = self.encode(images)
        logits = self.segment(encoded, present)
        if not self.training:
            return logits
        return ShaSpecOutput(logits, encoded.shared, self.domain_head(encoded.specific.flatten(3).mean(3)))
