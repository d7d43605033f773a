"""The transformer of M2FTrans: fusion tokens that collect, by masked attention, what the present modalities hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.building_blocks.transformer import Block, maps_of, position_on, tokens_of


class MaskedTransformer(nn.Module):
    """A pre-norm transformer on each modality's voxels at the bottleneck, T tokens, and on as many fusion tokens.

    A modality's tokens see each other alone, the fusion tokens each other and those of the present modalities. So the
    former know nothing of the subset: they go through the layers once (``of_modalities``), for whatever subsets the
    latter then go through them (``fuse``).

    Args:
        architecture: of the encoders; its bottleneck's channels are the tokens', its size gives their grid.
        num_modalities: M.
        num_layers, num_heads, feedforward_dim, dropout: of the blocks.

    Raises:
        ValueError: no layer, or channels that the heads cannot share.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_modalities: int,
        num_layers: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
    ):
        super().__init__()
        channels, grid = architecture.features[-1], architecture.size_at(len(architecture.features) - 1)
        if num_layers < 1 or num_heads < 1 or channels % num_heads:
            raise ValueError(
                f"Expected num_layers of 1 or more and heads that divide the {channels} channels of the bottleneck, "
                f"got {num_layers} layers and {num_heads} heads. Correct the plan's missmod block."
            )
        self.position = nn.Parameter(torch.zeros(num_modalities + 1, channels, *grid))  # the last: of fusion tokens
        self.fusion_tokens = nn.Parameter(torch.randn(1, channels, *grid))
        self.blocks = nn.ModuleList(
            Block(channels, num_heads, feedforward_dim, nn.GELU, dropout, qkv_bias=False) for _ in range(num_layers)
        )

    def of_modalities(self, maps: Tensor) -> list[Tensor]:
        """Relate each modality's voxels to each other, of its maps at the bottleneck (B, M, C, *grid).

        Returns:
            The tokens in front of each layer and behind the last, (B, M, T, C).
        """
        located = maps + position_on(self.position[:-1], maps.shape[3:])
        tokens = [tokens_of(located.flatten(0, 1))]
        for block in self.blocks:
            tokens.append(recompute(block, tokens[-1])[0])
        return [layer.view(*maps.shape[:2], *layer.shape[1:]) for layer in tokens]

    def fuse(self, tokens: list[Tensor], seen: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Send the fusion tokens through the layers, where they see the modalities' as these are in front of each.

        Args:
            tokens: of ``of_modalities``.
            seen: (B, M) bool, the modalities that the fusion tokens see.
            grid: of the tokens.

        Returns:
            The fusion tokens as a map (B, C, *grid), and the attention that they pay each place of each modality in the
            first layer, summed over heads and fusion tokens, (B, M, *grid) float32, detached, zero where it is not
            seen: with uniform attention, heads / (modalities seen + 1).
        """
        batch, modalities, count, _ = tokens[0].shape
        fusion = tokens_of(position_on(self.fusion_tokens, grid) + position_on(self.position[-1:], grid))
        fusion = fusion.expand(batch, -1, -1)
        mask = torch.cat((seen.repeat_interleave(count, 1), seen.new_ones(batch, count)), 1)[:, None]
        of_layers: list[Tensor | None] = []
        for block, layer in zip(self.blocks, tokens, strict=False):  # what the last layer gives, no other sees
            context = torch.where(seen[..., None, None], layer, 0).flatten(1, 2)  # a mask alone leaves 0 * NaN
            fusion, attention = recompute(block, fusion, not of_layers, mask, context)
            of_layers.append(attention)
        assert of_layers[0] is not None
        weights = of_layers[0][..., : modalities * count].detach().sum((1, 2))
        return maps_of(fusion, grid), weights.view(batch, modalities, *grid)
