"""The loss terms of CCSD [0], one function per equation, and the path along which DMCD removes modalities.

B samples, M modalities, K classes or regions, R subsets, T states of a path.

[0] Xie et al., "CCSD: Cross-Modal Compositional Self-Distillation for Robust Brain Tumor Segmentation with Missing
Modalities", Knowledge-Based Systems 2026.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_missmod.building_blocks.divergence import bernoulli_kl, categorical_kl

CONTESTED = 2  # modalities left: their scores always tie


def hmsd_loss(teacher: Tensor, students: Tensor, shares: Tensor, tau: float, overlapping: bool = False) -> Tensor:
    """L_HMSD, Equations 1 to 3 of [0]: KL(P_T || P_S) of what the full set and a subset of it segment.

    Summed over classes; mean over voxels and samples, and over subsets by ``shares``. No gradient to the teacher.

    Args:
        teacher: logits (B, K, *spatial) float32.
        students: logits (R, B, K, *spatial) float32.
        shares: (R, B), the weight of each subset in its sample's mean.
        tau: temperature.
        overlapping: the K outputs are regions, each a Bernoulli distribution; the mean over them.
    """
    targets, logits = (teacher.detach() / tau).expand_as(students), students / tau
    per_voxel = (
        bernoulli_kl(targets, logits, 2) / logits.shape[2] if overlapping else categorical_kl(targets, logits, 2)
    )
    per_subset = per_voxel.flatten(2).mean(2)
    return (per_subset * shares).sum() / len(teacher)


def dmcd_loss(states: Tensor, counted: Tensor, tau: float) -> Tensor:
    """L_DMCD, Equation 8 of [0]: each state of the path teaches the next, KL(softmax(Z_k) || softmax(Z_k-1)).

    The softmax is over the C channels of a voxel in each of G groups; mean over voxels and samples, sum over groups and
    over the steps that count. A softmax over space within each channel would leave the remaining modalities without
    gradient.

    Args:
        states: of the path, full set first, (B, T, G, C, *spatial) float32.
        counted: (B, T - 1) bool, which steps count.
        tau: temperature.
    """
    teacher, student = states[:, :-1].detach() / tau, states[:, 1:] / tau
    per_step = categorical_kl(teacher, student, 3).flatten(3).mean(3).sum(2)
    return torch.where(counted, per_step, 0).sum() / len(states)


# --- the path ---------------------------------------------------------------------------------------------------------


def removal_path(scores: Callable[[Tensor], Tensor], available: Tensor) -> Tensor:
    """Remove the modality with the highest score, one after the other, down to one.

    Args:
        scores: what remains (B, M) bool to the score of each modality (B, M).
        available: (B, M) bool, where each sample's path starts.

    Returns:
        (B, T, M) bool with T = M: what remains. A sample of fewer modalities reaches its last state earlier and stays.
    """
    states = [available]
    for _ in range(available.shape[1] - 1):
        remaining = states[-1]
        score = scores(remaining)
        score = score.clamp(min=torch.finfo(score.dtype).min)  # what remains stays above what does not
        chosen = torch.where(remaining, score, -torch.inf).argmax(1)
        removed = F.one_hot(chosen, available.shape[1]).bool() & (remaining.sum(1, keepdim=True) > 1)
        states.append(remaining & ~removed)
    return torch.stack(states, 1)


def cosine_similarity(fused: Tensor) -> Tensor:
    """Cosines of the modalities' flattened features f_fused (B, M, C, *spatial), Eq. 4 of [0]: (B, M, M)."""
    unit = F.normalize(fused.flatten(2), dim=2)
    return unit @ unit.mT


def cosine_criticality(similarity: Tensor, remaining: Tensor, available: Tensor) -> Tensor:
    """s_j of Eq. 4 of [0], minus the sum of j's cosines to the others that remain; high for what no other resembles.

    Two that are left always tie; their scores are those within all that is available.

    Args:
        similarity: (B, M, M).
        remaining, available: (B, M) bool.

    Returns:
        (B, M), of use for the remaining modalities only.
    """
    contested = remaining.sum(1, keepdim=True) == CONTESTED
    others = torch.where(contested, available, remaining)[:, None] & ~torch.eye(
        remaining.shape[1], dtype=torch.bool, device=remaining.device
    )
    return -torch.where(others, similarity, 0).sum(2)


def gradient_criticality(gradient: Tensor) -> Tensor:
    """Eq. 9 of [0]: the norm of dL_seg / df_fused^m (B, M, C, *spatial), for each sample and modality (B, M)."""
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(2), dim=2)
    return norms
