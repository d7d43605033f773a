"""A network that serves one subset of the modalities, S, and sees nothing else."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork, NetworkSpec
from nnunetv2_missmod.host.plan_block import checked_subset
from nnunetv2_missmod.modalities import drop_absent, varying_channels


class DedicatedNetwork(MissingModalityNetwork):
    """Base of networks for one subset of the modalities.

    Args:
        spec: what plan and dataset ask for.
        subset: channels of the modalities in S. A dedicated trainer finds them by the names that the plan sets for it.

    Raises:
        ValueError: the subset is not given, or is none of the M modalities.
        NotImplementedError: the configuration has a previous stage.
    """

    def __init__(self, spec: NetworkSpec, *, subset: list[int] | None = None):
        super().__init__(spec)
        spec.refuse_cascade("a network for one subset", "does not look at a previous stage's segmentation")
        self.subset = checked_subset(subset, spec.num_modalities)

    def select(self, images: Tensor, present: Tensor | None) -> Tensor:
        """Take what the network may look at.

        Args:
            images: (B, M, *patch); of the channels outside S not even NaN counts.
            present: (B, M) bool, or None: every channel of S that is not constant in the sample. Of a sample whose
                channels in S are all constant none is present: whether the others are, it may not know.

        Returns:
            The channels of S, (B, |S|, *patch), absent ones zero.
        """
        chosen = torch.cat([images[:, channel : channel + 1] for channel in self.subset], 1)
        return drop_absent(chosen, varying_channels(chosen) if present is None else self.of_subset(present))

    def of_subset(self, per_modality: Tensor) -> Tensor:
        """Take the columns of S from one for each modality, (B, M) to (B, |S|)."""
        return torch.stack([per_modality[:, channel] for channel in self.subset], 1)

    def forward_subsets(self, images: Tensor, presents: Tensor) -> Tensor:
        """Predict from subsets (S, M), see ``MissingModalityNetwork``: those that agree within S are one."""
        within = [tuple(row) for row in self.of_subset(presents).tolist()]
        distinct = dict(zip(within, presents, strict=True))
        logits = {row: self(images, present.expand(len(images), -1)) for row, present in distinct.items()}
        return torch.stack([logits[row] for row in within])


class DedicatedOutput(NamedTuple):
    """Output in training."""

    logits: Tensor | list[Tensor]  # (B, K, *patch), a list of them, finest first, under deep supervision
    bottleneck: Tensor  # (B, C, *spatial)


class DedicatedUNet(DedicatedNetwork):
    """The plan's U-Net with a channel for each modality of the subset."""

    def __init__(self, spec: NetworkSpec, *, subset: list[int] | None = None):
        super().__init__(spec, subset=subset)
        unet = spec.architecture.unet(len(self.subset), spec.num_classes, spec.deep_supervision)
        self.encoder: nn.Module = unet.encoder
        self.decoder = unet.decoder

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | DedicatedOutput:
        """Segment images (B, M, *patch) from what is present (B, M) of the subset, see ``MissingModalityNetwork``."""
        levels = self.encoder(self.select(images, present))
        logits: Tensor | list[Tensor] = self.decoder(levels)
        return DedicatedOutput(logits, levels[-1]) if self.training else logits
