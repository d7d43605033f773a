"""Gated fusion: at each voxel, a gate decides how much of each modality is let through."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture


class GatedFusion(nn.Module):
    """Fuse the maps of one level: concatenate them, each times its gate, and reduce them by a 1x1 convolution.

    Args:
        architecture: of the encoders whose maps are fused.
        level: 0 is the finest.
        num_modalities: M.
        gated: False lets everything through.
        gate_norm: whether the plan's norm stands before the sigmoid, so that a gate's mean over the voxels is learned
            and the same whichever modalities are present (released code).
    """

    def __init__(self, architecture: Architecture, level: int, num_modalities: int, gated: bool, gate_norm: bool):
        super().__init__()
        channels = architecture.features[level]
        stacked = num_modalities * channels
        conv = architecture.projection(stacked, num_modalities, architecture.kernel_sizes[level])
        norm = [norm_of(architecture, num_modalities)] if gate_norm else []
        self.gates = nn.Sequential(conv, *norm, nn.Sigmoid()) if gated else None
        self.reduce = architecture.conv(stacked, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Fuse maps (B, M, C, *spatial), zero where a modality is absent: (B, C, *spatial)."""
        fused: Tensor = self.reduce(self.let_through(maps).flatten(1, 2))
        return fused

    def let_through(self, maps: Tensor) -> Tensor:
        """Multiply each modality's maps (B, M, C, *spatial) by its gate, which all modalities open: the same shape."""
        if self.gates is None:
            return maps
        gates: Tensor = self.gates(maps.flatten(1, 2))
        return gates[:, :, None] * maps


def norm_of(architecture: Architecture, channels: int) -> nn.Module:
    """Build the plan's norm, or nothing where it has none."""
    norm_op: Any = architecture.resolved.get("norm_op")
    kwargs = architecture.resolved.get("norm_op_kwargs") or {}
    return nn.Identity() if norm_op is None else norm_op(channels, **kwargs)
