"""The gates of RA-HVED (Jeong et al., ACCV 2022) on what a decoder's step joins."""

from __future__ import annotations

import torch
from dynamic_network_architectures.building_blocks.helper import maybe_convert_scalar_to_list
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture, initialize_weights

REACH = 7  # voxels that a gate looks at along each axis on which the plan convolves
MAPS_PER_INPUT = (4, 4)  # that a gate makes of each of its inputs: of the skip's four, of the decoder's two


class SkipGates(nn.Module):
    """One gate in (1, 2) per voxel for the decoder's maps, which alone it looks at, and one for the skip, by both.

    Args:
        architecture: of the plan.
        level: of the skip; 0 is the finest.
    """

    def __init__(self, architecture: Architecture, level: int):
        super().__init__()
        conv_op = architecture.resolved["conv_op"]
        planned = maybe_convert_scalar_to_list(conv_op, architecture.kernel_sizes[level])
        kernel = [REACH if k > 1 else 1 for k in planned]
        self.of_skip, self.of_decoder = (
            nn.Sequential(
                conv_op(inputs, inputs * maps, kernel, padding=[k // 2 for k in kernel], groups=inputs),
                conv_op(inputs * maps, 1, 1),
            ).apply(initialize_weights)
            for inputs, maps in zip((4, 2), MAPS_PER_INPUT, strict=True)
        )

    def forward(self, decoded: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Scale the decoder's upsampled maps and the skip, each (B, C, *spatial)."""
        of_decoded, of_both = extremes(decoded), torch.cat((extremes(decoded), extremes(skip)), 1)
        return decoded * (1 + self.of_decoder(of_decoded).sigmoid()), skip * (1 + self.of_skip(of_both).sigmoid())


def extremes(maps: Tensor) -> Tensor:
    """Maximum and mean over the channels of (B, C, *spatial): (B, 2, *spatial)."""
    return torch.cat((maps.amax(1, keepdim=True), maps.mean(1, keepdim=True)), 1)
