"""Maps of several levels at the size of the deepest, as a style is mixed from them."""

from __future__ import annotations

from torch import nn

from nnunetv2_missmod.building_blocks.architecture import Architecture


def pool_to_deepest(architecture: Architecture, level: int) -> nn.Module:
    """Build a max pooling of a level's maps to the size of the deepest level's, by the plan's strides."""
    below = range(level + 1, len(architecture.features))
    return nn.Sequential(*(architecture.max_pool(architecture.stride_to(deeper)) for deeper in below))
