"""The loss terms of ShaSpec, as in the released code of Wang et al., CVPR 2023, but over what is there.

B samples, M modalities.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shared_loss(shared: Tensor, counted: Tensor, cyclic: bool = False) -> Tensor:
    """L_shared: M times the mean L1 between the shared features of two modalities, over a sample's pairs.

    With all modalities counted, the cyclic pairs' is the released sum. A sample without a pair adds zero to the mean
    over samples.

    Args:
        shared: E_shared(x^m) at the bottleneck, (B, M, C, *spatial) float32.
        counted: (B, M) bool, the modalities whose pairs count.
        cyclic: the pairs (0, 1), (1, 2), ..., (M - 1, 0) alone, as released; else all.
    """
    modalities = torch.arange(shared.shape[1], device=shared.device)
    pairs = torch.stack((modalities, modalities.roll(-1)), 1) if cyclic else torch.combinations(modalities)
    first, second = pairs.unbind(1)
    distances = (shared[:, first] - shared[:, second]).abs().flatten(2).mean(2)
    both = counted[:, first] & counted[:, second]
    means = torch.where(both, distances, 0).sum(1) / both.sum(1).clamp(min=1)
    return shared.shape[1] * means.mean()


def domain_loss(logits: Tensor, counted: Tensor) -> Tensor:
    """L_domain: the cross entropy of telling each modality from its specific features, mean over all that count.

    Args:
        logits: of sample and modality, (B, M, M) float32, the last axis the modality that they are taken for.
        counted: (B, M) bool.
    """
    modality = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits))
    entropies = F.cross_entropy(logits.flatten(0, 1), modality, reduction="none").view_as(counted)
    return torch.where(counted, entropies, 0).sum() / counted.sum()
