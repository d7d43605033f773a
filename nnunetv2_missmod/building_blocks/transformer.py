"""Transformers on the voxels or patches of a map: tokens, self-attention, blocks, position embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.precision import at_least_float32

INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def tokens_of(maps: Tensor) -> Tensor:
    """Make a token of each voxel: maps (B, E, *grid) to tokens (B, T, E)."""
    return maps.flatten(2).transpose(1, 2)


def maps_of(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Put tokens back where they came from: (B, T, E) to maps (B, E, *grid)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def position_on(position: Tensor, grid: Sequence[int]) -> Tensor:
    """Resize position embeddings (N, E, *planned) to a grid, linearly: (N, E, *grid)."""
    if tuple(grid) == tuple(position.shape[2:]):
        return position
    return F.interpolate(position, tuple(grid), mode=INTERPOLATION[len(grid)])


class SelfAttention(nn.Module):
    """Multi-head self-attention with the weights, their names and their first values of ``nn.MultiheadAttention``.

    That one has masks that are full matrices, and no way to leave the bias out of the queries, keys and values alone.

    Args:
        embed_dim: channels of a token, E.
        num_heads: H, a divisor of E.
        dropout: of the attention, in training.
        qkv_bias: whether queries, keys and values have a bias.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, qkv_bias: bool = True):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if qkv_bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        need_weights: bool = False,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Relate tokens to each other.

        Args:
            tokens: (B, T, E).
            mask: bool, broadcasts against (B, H, T, S + T), or (B, T, S + T): whether a token (row) sees another
                (column). Of every row, one at least is seen.
            need_weights: whether A is wanted: it costs the fused attention, whose memory does not grow with T^2.
            context: S further tokens (B, S, E) that are seen, the first columns; they gather nothing. S = 0 without.

        Returns:
            What each token gathered, (B, T, E), and A (B, H, T, S + T) as softmax gives it, before dropout.
        """
        mask = mask[:, None] if mask is not None and mask.ndim == 3 else mask
        everything = tokens if context is None else torch.cat((context, tokens), 1)
        packed = F.linear(everything, self.in_proj_weight, self.in_proj_bias)
        queries, keys, values = packed.view(*everything.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries = queries[:, :, -tokens.shape[1] :]
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            attention = attention_weights(queries, keys, mask)
            gathered = F.dropout(attention, dropout).to(values.dtype) @ values
        else:
            attention = None
            gathered = F.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        return self.out_proj(gathered.transpose(1, 2).flatten(2)), attention


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """A = softmax(Q K^T / sqrt(D)), (B, H, T, S), of Q (B, H, T, D), K (B, H, S, D) and a mask that broadcasts to A."""
    scores = at_least_float32((queries / math.sqrt(queries.shape[-1])) @ keys.transpose(2, 3))
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    return scores.softmax(3)


class Block(nn.Module):
    """Self-attention, then a feed-forward network, each behind a norm and beside a shortcut.

    Args:
        embed_dim: channels of a token, E.
        num_heads: H, a divisor of E.
        feedforward_dim: hidden channels of the feed-forward network.
        activation: its nonlinearity.
        dropout: of the attention, of the hidden channels, and of what either part gives, in training.
        qkv_bias: whether queries, keys and values have a bias.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        feedforward_dim: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        qkv_bias: bool = True,
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention = SelfAttention(embed_dim, num_heads, dropout, qkv_bias)
        self.feedforward_norm = nn.LayerNorm(embed_dim)
        self.feedforward = nn.Sequential(
            nn.Linear(embed_dim, feedforward_dim),
            nn.Sequential(activation(), nn.Dropout(dropout)),
            nn.Linear(feedforward_dim, embed_dim),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Tensor,
        with_attention: bool = False,
        mask: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Give the next tokens (B, T, E), and A (B, H, T, S + T) where it is wanted, see ``SelfAttention``."""
        seen = None if context is None else self.attention_norm(context)
        attended, attention = self.attention(self.attention_norm(tokens), mask, with_attention, seen)
        tokens = tokens + self.dropout(attended)
        return tokens + self.dropout(self.feedforward(self.feedforward_norm(tokens))), attention
