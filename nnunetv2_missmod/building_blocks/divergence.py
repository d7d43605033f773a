"""Kullback-Leibler divergence between what two networks segment."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def categorical_kl(teacher: Tensor, student: Tensor, axis: int) -> Tensor:
    """KL(P_T || P_S) at each voxel, P being the softmax over the K logits of an axis; that axis is summed over.

    Args:
        teacher, student: logits (..., K, *spatial), float32.
        axis: of the K logits.

    Returns:
        (..., *spatial).
    """
    log_teacher, log_student = teacher.log_softmax(axis), student.log_softmax(axis)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(axis)


def bernoulli_kl(teacher: Tensor, student: Tensor, axis: int) -> Tensor:
    """KL(P_T || P_S) at each voxel, each of the K logits of an axis giving a region's sigmoid; summed over the regions.

    This is for regions that overlap, whose probabilities do not sum to one.

    Args:
        teacher, student: logits (..., K, *spatial), float32.
        axis: of the K logits.

    Returns:
        (..., *spatial).
    """
    inside = F.kl_div(F.logsigmoid(student), F.logsigmoid(teacher), reduction="none", log_target=True)
    outside = F.kl_div(F.logsigmoid(-student), F.logsigmoid(-teacher), reduction="none", log_target=True)
    return (inside + outside).sum(axis)
