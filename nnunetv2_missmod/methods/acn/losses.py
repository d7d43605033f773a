"""The loss terms of ACN [0] beside segmentation, consistency and adversaries, as its released code has them.

[0] Wang et al., "ACN: Adversarial Co-training Network for Brain Tumor Segmentation with Missing Modalities", MICCAI
2021.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from nnunetv2_missmod.modalities import expand_to


def entropy_map(logits: Tensor, overlapping: bool) -> Tensor:
    """I: what each class adds to the entropy of a voxel, -p log p, as a share of the largest entropy there can be.

    Args:
        logits: (B, K, *patch) float32.
        overlapping: the K outputs are regions: I is the entropy of each region's own two answers.

    Returns:
        (B, K, *patch).
    """
    if overlapping:
        inside, outside = F.logsigmoid(logits), F.logsigmoid(-logits)
        return -(inside.exp() * inside + outside.exp() * outside) / math.log(2)
    log_p = logits.log_softmax(1)
    return -log_p.exp() * log_p / math.log(logits.shape[1])


def mutual_information_loss(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    """0.5 ((g - t)^2 / var + log var), mean over all elements of a sample: (B,).

    That is -log N(t; g, var) without its constant: the less the student's bottleneck leaves open of the teacher's, the
    larger the lower bound of their mutual information.

    Args:
        mean: g, (B, C, *spatial) float32.
        target: t, (B, C, *spatial).
        variance: (C,).
    """
    per_channel = expand_to(variance[None], mean)
    return (0.5 * ((mean - target).square() / per_channel + per_channel.log())).flatten(1).mean(1)
