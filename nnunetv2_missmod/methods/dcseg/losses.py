"""The loss terms of DC-Seg [0], one function per equation.

N samples, M modalities, P = N * M of their maps or codes in (sample-major, modality-minor) order. L_reg is in
``building_blocks/region_fusion.py``; L_rec (a mean, as in [1]; [0] prints a sum) and [1]'s KL in ``disentangling.py``.

[0] Li et al., "DC-Seg", MICCAI 2025. [1] its released code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GAUSSIAN_SIGMA = 1.5  # of the windowed SSIM [1]
SMALLEST_RANGE = 1e-6  # of the maps, below which C1 and C2 vanish


def anatomy_contrastive_loss(
    anatomy: Tensor, available: Tensor, cases: Tensor, t: float, ssim_window: int = 0, balanced: bool = False
) -> Tensor:
    """L_ana, Equations 1 to 3 of [0]: anatomy maps of one patient are alike, those of two patients are not.

    Two different crops of one patient are neither and are left out, as are unavailable modalities.

    Args:
        anatomy: (N, M, C, *spatial) float32.
        available: (N, M) bool.
        cases: (N,) number of each sample's case.
        t: factor on the similarity, an inverse temperature.
        ssim_window: 0 for global statistics (Eq. 3), else taps of the Gaussian window of [1].
        balanced: positive pairs weigh as much as negative ones; of all pairs their share is 1/N.
    """
    maps = anatomy.flatten(0, 1)
    similarity = windowed_ssim(maps, ssim_window, available.flatten()) if ssim_window else global_ssim(maps)
    sample = torch.arange(len(anatomy), device=anatomy.device).repeat_interleave(anatomy.shape[1])
    case = cases.repeat_interleave(anatomy.shape[1])
    same_sample, same_case = _equal(sample), _equal(case)
    counted = _both(available.flatten()) & (same_sample | ~same_case)
    return pairwise_contrastive_loss(similarity, same_sample, counted, t, balanced)


def modality_contrastive_loss(codes: Tensor, available: Tensor, t: float) -> Tensor:
    """L_mod, Equation 4 of [0]: style codes of one modality are alike, those of two modalities are not.

    Args:
        codes: (N, M, D) float32.
        available: (N, M) bool.
        t: factor on the cosine, an inverse temperature.
    """
    unit = F.normalize(codes.flatten(0, 1), dim=1)
    modality = torch.arange(codes.shape[1], device=codes.device).repeat(len(codes))
    return pairwise_contrastive_loss(unit @ unit.T, _equal(modality), _both(available.flatten()), t)


def pairwise_contrastive_loss(
    similarity: Tensor, positive: Tensor, counted: Tensor, t: float, balanced: bool = False
) -> Tensor:
    """Equation 1 of [0]: softplus(-f t S), mean over pairs; f = 1 where a pair is positive, else -1.

    Args:
        similarity: (P, P).
        positive, counted: (P, P) bool; pairs that are not counted are left out of the mean.
        t: factor on the similarity, an inverse temperature.
        balanced: the mean of two means, of positive and of negative pairs; of those that there are.
    """
    losses = F.softplus(torch.where(positive, -t, t) * similarity)
    kinds = torch.stack((counted & positive, counted & ~positive) if balanced else (counted,))
    count = kinds.sum((1, 2))
    means = torch.where(kinds, losses, 0).sum((1, 2)) / count.clamp(min=1)
    return means.sum() / (count > 0).sum()


def global_ssim(maps: Tensor, c1: float = 1e-4, c2: float = 9e-4) -> Tensor:
    """Equation 3 of [0]: SSIM from each channel's mean, variance and covariance over all voxels, mean over channels.

    Args:
        maps: (P, C, *spatial) float32.
        c1, c2: stabilisers; [0] gives none.

    Returns:
        (P, P).
    """
    values = maps.flatten(2).transpose(0, 1)
    mean = values.mean(2)
    centred = values - mean[..., None]
    covariance = centred @ centred.transpose(1, 2) / values.shape[2]
    return _ssim(mean, covariance.diagonal(dim1=1, dim2=2), covariance, c1, c2).mean(0)


def windowed_ssim(maps: Tensor, window: int, available: Tensor | None = None) -> Tensor:
    """SSIM of [1]: statistics within a Gaussian window, mean over voxels and channels; 1 on the diagonal.

    C1 and C2 follow the range of the values, through which gradients flow.

    Args:
        maps: (P, C, *spatial) float32.
        window: taps per axis, odd.
        available: (P,) bool, which maps the range of the values is taken from; None: all.

    Returns:
        (P, P).
    """
    blur = [_gaussian_matrix(size, window, maps) for size in maps.shape[2:]]
    mean = _smooth(maps, blur)
    variance = (_smooth(maps.square(), blur) - mean.square()).clamp(min=0)
    value_range = _value_range(maps, available)
    c1, c2 = (0.01 * value_range).square(), (0.03 * value_range).square()
    rows = []
    for p in range(len(maps)):  # all pairs at once would hold P^2 maps
        covariance = _smooth(maps[p] * maps, blur) - mean[p] * mean
        numerator = (2 * mean[p] * mean + c1) * (2 * covariance + c2)
        denominator = (mean[p].square() + mean.square() + c1) * (variance[p] + variance + c2)
        rows.append((numerator / denominator).flatten(1).mean(1))
    itself = torch.eye(len(maps), dtype=torch.bool, device=maps.device)
    return torch.where(itself, 1, torch.stack(rows))


def _ssim(mean: Tensor, variance: Tensor, covariance: Tensor, c1: float, c2: float) -> Tensor:
    """SSIM of all pairs: mean and variance (C, P), covariance (C, P, P)."""
    a, b = mean[:, :, None], mean[:, None, :]
    numerator = (2 * a * b + c1) * (2 * covariance + c2)
    return numerator / ((a.square() + b.square() + c1) * (variance[:, :, None] + variance[:, None, :] + c2))


def _value_range(maps: Tensor, available: Tensor | None) -> Tensor:
    """Largest minus smallest value, the greater of two: over all maps but the last, over all but the first [1]."""
    low, high = torch.aminmax(maps.flatten(1), dim=1)
    if available is not None:
        low, high = torch.where(available, low, torch.inf), torch.where(available, high, -torch.inf)
    most = max(len(maps) - 1, 1)
    ranges = torch.stack((high[:most].amax() - low[:most].amin(), high[-most:].amax() - low[-most:].amin()))
    return ranges.amax().clamp(min=SMALLEST_RANGE)


def _gaussian_matrix(size: int, window: int, like: Tensor) -> Tensor:
    """(size, size) matrix that smooths one axis; borders reflect without repeating the edge, however short the axis."""
    offsets = torch.arange(window, device=like.device) - window // 2
    weights = torch.exp(-0.5 * (offsets.to(like.dtype) / GAUSSIAN_SIGMA).square())
    period = max(2 * (size - 1), 1)
    source = (torch.arange(size, device=like.device)[:, None] + offsets).remainder(period)
    source = torch.minimum(source, period - source) if size > 1 else torch.zeros_like(source)
    matrix = like.new_zeros(size, size)
    return matrix.scatter_add_(1, source, (weights / weights.sum()).expand(size, -1))


def _smooth(maps: Tensor, blur: list[Tensor]) -> Tensor:
    """Smooth the spatial axes of (P, C, *spatial), one after the other."""
    for axis, matrix in enumerate(blur, start=2):
        maps = (maps.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return maps


def _equal(labels: Tensor) -> Tensor:
    return labels[:, None] == labels[None, :]


def _both(flags: Tensor) -> Tensor:
    return flags[:, None] & flags[None, :]
