"""nnU-Net's own network of the plan behind a substitute image for whatever is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork, NetworkSpec
from nnunetv2_missmod.host.unet import decoder_steps
from nnunetv2_missmod.modalities import available_modalities, expand_to


class M3AEOutput(NamedTuple):
    """Output in training."""

    logits: Tensor | list[Tensor]  # (B, K, *patch), a list of them, finest first, under deep supervision
    bottleneck: Tensor  # f, (B, C, *spatial)


class M3AENet(MissingModalityNetwork):
    """The plan's U-Net; x_sub stands where a modality is absent.

    x_sub is as large as the patch: nnU-Net's sliding window tells a network nothing of where in the image it is.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        size = (1, spec.num_modalities, *spec.architecture.patch_size)
        self.substitute = nn.Parameter(torch.zeros(size), requires_grad=False)
        unet = spec.unet()
        self.encoder: nn.Module = unet.encoder
        self.decoder = unet.decoder

    def forward(self, images: Tensor, present: Tensor | None = None) -> Tensor | list[Tensor] | M3AEOutput:
        """Segment from the present modalities, see ``MissingModalityNetwork``.

        Args:
            images: (B, M + extra, *patch).
            present: (B, M) bool, or which blocks are visible, (B, M, *grid) bool.
        """
        if present is None:
            present = available_modalities(images[:, : self.num_modalities])
        levels = self.encoder(self.compose(images, present))
        logits = self.decoder(levels)
        return M3AEOutput(logits, levels[-1]) if self.training else logits

    def compose(self, images: Tensor, visible: Tensor) -> Tensor:
        """The paper's S: x where it is visible, x_sub elsewhere; channels beyond the modalities are kept.

        Args:
            images: (B, M + extra, *patch).
            visible: (B, M) bool, or (B, M, *grid) bool for blocks.
        """
        modalities, extra = images[:, : self.num_modalities], images[:, self.num_modalities :]
        patch, expected = tuple(images.shape[2:]), tuple(self.substitute.shape[2:])
        assert patch == expected, f"Expected images of the plan's patch {expected}, got {patch}."
        voxels = expand_to(visible, modalities) if visible.ndim == 2 else to_voxels(visible, expected)
        return torch.cat((torch.where(voxels, modalities, self.substitute), extra), 1)  # absent means absent


class M3AEPretrainNet(M3AENet):
    """The same network with one image per modality for its output, and an x_sub that learns.

    Its weights carry the same names; what differs in shape, the heads, is under ``.seg_layers.``, which nnU-Net leaves
    out when it transfers weights.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__(replace(spec, num_classes=spec.num_modalities, deep_supervision=False))
        nn.init.normal_(self.substitute)
        self.substitute.requires_grad_(True)
        for step in decoder_steps(self.decoder)[:-1]:
            step.head.requires_grad_(False)  # the reconstruction has no deep supervision


def to_voxels(visible: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Spread blocks (B, M, *grid) over the voxels of the patch: (B, M, *patch) bool."""
    return F.interpolate(visible.float(), patch, mode="nearest-exact") > 0
