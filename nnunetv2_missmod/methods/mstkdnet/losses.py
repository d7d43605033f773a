"""The loss terms of MST-KDNet [0], one function per equation; those of distillation give a value per sample, (B,).

B samples, K classes or regions, L taps of the transformer, H heads, T tokens. The gradient goes to teacher and student;
the trainer decides whether the teacher learns from it.

[0] Zhu et al., "Bridging the Gap in Missing Modalities: Leveraging Knowledge Distillation and Style Matching for Brain
Tumor Segmentation" (MST-KDNet), MICCAI 2025.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_missmod.building_blocks.divergence import bernoulli_kl, categorical_kl
from nnunetv2_missmod.building_blocks.recompute import recompute

STD_EPS = 1e-7  # Eq. 6
SMALLEST_STD = 0.1  # of a logit over the voxels: what varies less says nothing yet, and its z-scores are no louder
FEW_OUTPUTS = 2  # of so many logits, standardisation over the classes leaves nothing but their order
SHARE_EPS = 1e-30  # the products' mean square is above T^-4 for any attention
NORM_EPS = 1e-5  # of a channel's variance, as in the plan's norms


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


def summed_errors(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Mean squared error of each pair of tensors (B, ...), summed over the pairs: (B,)."""
    return torch.stack([mean_square(t - s) for t, s in zip(teacher, student, strict=True)]).sum(0)


def mean_square(values: Tensor) -> Tensor:
    """Mean square of each sample's values (B, ...): (B,)."""
    return values.square().flatten(1).mean(1)


# --- DMLD: logits -----------------------------------------------------------------------------------------------------


def logit_mse(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean squared error over voxels, summed over classes, Eq. 5 of [0]: logits or probabilities (B, K, *spatial)."""
    return (teacher - student).square().flatten(2).mean(2).sum(1)


def ramp_up(epoch: int, length: float) -> float:
    """exp(-5 (1 - e / E)^2) over the first E epochs, then 1 (released code)."""
    return math.exp(-5 * (1 - min(epoch / length, 1)) ** 2) if length > 0 else 1.0


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


# --- GSME: style ------------------------------------------------------------------------------------------------------


def gram_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Cross-Gram matching, Equation 10 of [0], of correlations: mean squared error, summed over the pairs.

    As printed, without normalisation, its value is some 1e-16.

    Args:
        teacher, student: f_enc, f_t and f_dec, each (B, C, *spatial) float32; M1 to M3 are their three pairs.
    """
    full, missing = ([unit_channels(maps) for maps in network] for network in (teacher, student))
    grams = [[cross_gram(a, b) for a, b in combinations(maps, 2)] for maps in (full, missing)]
    return summed_errors(*grams)


def cross_gram(first: Tensor, second: Tensor) -> Tensor:
    """Products of every channel of one map with every channel of another, Eq. 10 of [0]: (B, C, C')."""
    return first.flatten(2) @ second.flatten(2).mT


def unit_channels(maps: Tensor) -> Tensor:
    """Shift and scale each channel of (B, C, *spatial) to zero mean and unit norm over space."""
    flat = maps.flatten(2)
    variance, mean = torch.var_mean(flat, 2, correction=0, keepdim=True)
    return (flat - mean) * torch.rsqrt((variance + NORM_EPS) * flat.shape[2])


def adversarial_loss(missing: Tensor) -> Tensor:
    """BCE(D(missing), 0), Eq. 9 of [0]: what the student pays for being told from the teacher.

    Args:
        missing: the discriminator's logits (B, 1).
    """
    return F.softplus(missing).mean()


def discriminator_loss(full: Tensor, missing: Tensor) -> Tensor:
    """BCE(D(full), 0) + BCE(D(missing), 1), of logits (B, 1), Eq. 9 of [0]."""
    return F.softplus(full).mean() + F.softplus(-missing).mean()
