"""The transformers of mmFormer: one within each modality, one across the modalities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.per_modality import select_present
from nnunetv2_missmod.building_blocks.transformer import Block, maps_of, tokens_of


@dataclass(frozen=True)
class Size:
    """What the transformers have in common.

    Args:
        embed_dim: channels of a token, E.
        num_heads: of the self-attention.
        feedforward_dim: hidden channels of the feed-forward networks.
        dropout: in training.

    Raises:
        ValueError: the heads cannot share the channels, or the dropout is no probability below one.
    """

    embed_dim: int
    num_heads: int
    feedforward_dim: int
    dropout: float

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.embed_dim < 1 or self.embed_dim % self.num_heads:
            raise ValueError(
                f"Expected embed_dim a multiple of num_heads, got {self.embed_dim} channels and {self.num_heads} "
                "heads. Correct the plan's missmod block."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Expected dropout from 0 to below 1, got {self.dropout}. Correct it in the plan.")


class Transformer(nn.Module):
    """Pre-norm blocks with GELU; the position is added to the tokens anew before each of them.

    Args:
        size: of the blocks.
        num_layers: how many; with none the tokens stay as they are.
    """

    def __init__(self, size: Size, num_layers: int):
        super().__init__()
        widths = size.embed_dim, size.num_heads, size.feedforward_dim
        self.blocks = nn.ModuleList(Block(*widths, nn.GELU, size.dropout, qkv_bias=False) for _ in range(num_layers))

    def forward(self, tokens: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """Relate tokens (B, T, E); the position broadcasts against them, the mask is that of ``SelfAttention``."""
        for block in self.blocks:
            tokens, _ = block(tokens + position, mask=mask)
        return tokens


class IntraTransformers(nn.Module):
    """Each modality's tokens, one of each voxel, related to each other.

    Args:
        architecture: of the encoders.
        num_modalities: M.
        size, num_layers: of the transformers.
        shared: whether the modalities have one transformer, or each its own.
    """

    def __init__(self, architecture: Architecture, num_modalities: int, size: Size, num_layers: int, shared: bool):
        super().__init__()
        channels = architecture.features[-1]
        self.embeddings = nn.ModuleList(
            architecture.projection(channels, size.embed_dim) for _ in range(num_modalities)
        )
        self.transformers = nn.ModuleList(Transformer(size, num_layers) for _ in range(1 if shared else num_modalities))

    def forward(self, maps: Tensor, position: Tensor) -> Tensor:
        """Turn the encoders' maps (B, M, C, *grid) into tokens (B, M, T, E), of which none has seen another modality.

        Args:
            maps: of the coarsest level.
            position: (M, T, E).
        """
        tokens = [tokens_of(embed(maps[:, m])) for m, embed in enumerate(self.embeddings)]
        if len(self.transformers) == len(tokens):
            # One after the other: stacked weights in batched products took a CPU 1.1 to 2.9 times as long.
            own = zip(self.transformers, tokens, position, strict=True)
            return torch.stack([transformer(of_one, where) for transformer, of_one, where in own], 1)
        (transformer,), stacked = self.transformers, torch.stack(tokens, 1)
        folded: Tensor = transformer(stacked.flatten(0, 1), position.repeat(len(maps), 1, 1))
        return folded.view_as(stacked)


class InterTransformer(nn.Module):
    """The tokens of all modalities related to each other, and joined voxel by voxel.

    Args:
        architecture: of the encoders.
        num_modalities: M.
        size, num_layers: of the transformer.
        mask_absent: whether the tokens of absent modalities are seen by none; else they take part as their position.
    """

    def __init__(self, architecture: Architecture, num_modalities: int, size: Size, num_layers: int, mask_absent: bool):
        super().__init__()
        self.mask_absent = mask_absent
        self.transformer = Transformer(size, num_layers)
        channels = architecture.features[-1]
        self.join = architecture.projection(num_modalities * size.embed_dim, num_modalities * channels)

    def forward(self, tokens: Tensor, position: Tensor, present: Tensor, grid: torch.Size) -> Tensor:
        """Join the present modalities' tokens to maps.

        Args:
            tokens: (B, M, T, E).
            position: (M, T, E).
            present: (B, M) bool.
            grid: of the T tokens.

        Returns:
            (B, M * C, *grid).
        """
        (seen,) = select_present([tokens], present)
        mask = present.repeat_interleave(tokens.shape[2], 1)[:, None, None] if self.mask_absent else None
        related = self.transformer(seen.flatten(1, 2), position.flatten(0, 1), mask).view_as(tokens)
        # A voxel gets its own tokens, one of each modality; the released reshape gives it neighbours of one modality.
        of_each = maps_of(related.flatten(0, 1), grid)
        joined: Tensor = self.join(of_each.reshape(len(tokens), -1, *grid))
        return joined
