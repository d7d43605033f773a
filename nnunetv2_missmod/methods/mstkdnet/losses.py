"""The loss terms of MST-KDNet [0], one function per equation; those of distillation give a value per sample, (B,).

B samples, K classes or regions, L taps of the transformer, H heads, T tokens. The gradient goes to teacher and student;
the trainer decides whether the teacher learns from it.

[0] Zhu et al., "Bridging the Gap in Missing Modalities: Leveraging Knowledge Distillation and Style Matching for Brain
Tumor Segmentation" (MST-KDNet), MICCAI 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from nnunetv2_missmod.building_blocks.divergence import bernoulli_kl, categorical_kl
from nnunetv2_missmod.building_blocks.matching import mean_square, summed_errors
from nnunetv2_missmod.building_blocks.recompute import recompute

STD_EPS = 1e-7  # Eq. 6
SMALLEST_STD = 0.1  # of a logit over the voxels: what varies less says nothing yet, and its z-scores are no louder
FEW_OUTPUTS = 2  # of so many logits, standardisation over the classes leaves nothing but their order
SHARE_EPS = 1e-30  # the products' mean square is above T^-4 for any attention


# --- MS-TKD: attention and tokens -------------------------------------------------------------------------------------


def evd_loss(
    teacher: Sequence[Tensor], student: Sequence[Tensor], axis: str = "layer", relative: bool = False
) -> Tensor:
    """Extreme value distillation, Equations 2 to 4 of [0].

    The maximum, the minimum and the mean over an axis, elementwise times each layer's attention: the mean squared error
    of each such product, summed. With uniform attention, 1 / T, it falls with T^4; where each token attends to one
    other alone, it reaches 1 / T.

    Args:
        teacher, student: A of the tapped layers, L x (B, H, T, T) float32.
        axis: "layer" (released code) or "head", the literal reading of Eq. 2: each layer's extremes over its heads.
        relative: a layer's error as a share of the mean square of all its products, the teacher's and the student's,
            which is not in the paper. One share for the three products keeps their balance; it is below 1, and with
            uniform attention a sixth of T^4 times the error.
    """
    extremes = zip(extremes_of(teacher, axis), extremes_of(student, axis), strict=True)
    layers = zip(teacher, student, extremes, strict=True)
    errors = [recompute(product_error, full, missing, *pair, relative) for full, missing, pair in layers]
    return torch.stack(errors).sum(0)


def extremes_of(attention: Sequence[Tensor], axis: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Maximum, minimum and mean, Eq. 2 of [0], that go with each layer's attention L x (B, H, T, T)."""
    if axis == "head":
        return [(a.amax(1, True), a.amin(1, True), a.mean(1, True)) for a in attention]
    mean = reduce(torch.add, attention) / len(attention)
    return [(reduce(torch.maximum, attention), reduce(torch.minimum, attention), mean)] * len(attention)


def product_error(
    full: Tensor,
    missing: Tensor,
    extremes_full: tuple[Tensor, ...],
    extremes_missing: tuple[Tensor, ...],
    relative: bool,
) -> Tensor:
    """Mean squared error of each extreme times a layer's attention (B, H, T, T), Eq. 3 and 4 of [0], summed: (B,)."""
    errors, sizes = [], []
    for of_full, of_missing in zip(extremes_full, extremes_missing, strict=True):
        teacher, student = of_full * full, of_missing * missing
        errors.append(mean_square(teacher - student))
        if relative:
            sizes += [mean_square(teacher.detach()), mean_square(student.detach())]
    error = torch.stack(errors).sum(0)
    return error / (torch.stack(sizes).sum(0) + SHARE_EPS) if relative else error


def mst_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Multi-scale transformer distillation: the mean squared error of each tap's features, summed over taps.

    Args:
        teacher, student: L x (B, ...) float32.
    """
    return summed_errors(teacher, student)


# --- DMLD: logits -----------------------------------------------------------------------------------------------------


def logit_mse(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean squared error over voxels, summed over classes, Eq. 5 of [0]: logits or probabilities (B, K, *spatial)."""
    return (teacher - student).square().flatten(2).mean(2).sum(1)


def slkd_loss(teacher: Tensor, student: Tensor, tau: float, axis: str = "class", overlapping: bool = False) -> Tensor:
    """Standardised logit distillation, Equations 6 to 8 of [0]: tau^2 KL(q_full || q_missing).

    Summed over classes, mean over voxels. Eq. 6 misprints its numerator as 1 - mu.

    Args:
        teacher, student: logits (B, K, *spatial) float32.
        tau: temperature.
        axis: see ``standardise``.
        overlapping: the K outputs are regions, each a Bernoulli distribution.
    """
    full, missing = (standardise(logits, axis, overlapping) / tau for logits in (teacher, student))
    divergence = bernoulli_kl if overlapping else categorical_kl
    return tau**2 * divergence(full, missing, 1).flatten(1).mean(1)


def standardise(logits: Tensor, axis: str, overlapping: bool = False) -> Tensor:
    """Z-scores of logits (B, K, *spatial), Eq. 6 of [0].

    Args:
        logits: of every class or region.
        axis: "class", or "last_spatial" as released.
        overlapping: the K outputs are regions. Before a sigmoid, unlike a softmax, z-scores over the outputs say
            nothing of inside and outside: "class" then takes the statistics of each region over all voxels. So it does
            with two classes, whose z-scores against each other are always 1 and -1.
    """
    if axis == "class" and (overlapping or logits.shape[1] <= FEW_OUTPUTS):
        variance, mean = torch.var_mean(logits, list(range(2, logits.ndim)), correction=0, keepdim=True)
        return (logits - mean) * torch.rsqrt(variance + SMALLEST_STD**2)
    along, correction = (-1, 1) if axis == "last_spatial" else (1, 0)
    std, mean = torch.std_mean(logits, along, correction=correction, keepdim=True)
    return (logits - mean) / (std + STD_EPS)
