"""An image split into content and style: the parts that encode and rebuild it, and their losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.modalities import expand_to

ADAIN_EPS = 1e-5
NARROWEST = 8  # channels that a level of the reconstruction decoders has at least
SMALLEST_VARIANCE = 1e-24  # whose logarithm is still finite


class ModalityEncoder(nn.Module):
    """Encoder of style: image (B, 1, *patch) to code (B, D). No norm: intensity statistics are the style."""

    def __init__(self, architecture: Architecture, code_channels: int):
        super().__init__()
        features = [architecture.features[0] * 2**i for i in range(3)]
        inputs = [1, *features[:-1]]
        self.convs = nn.Sequential(
            *(architecture.conv(i, o, 3, 2, norm=False) for i, o in zip(inputs, features, strict=True))
        )
        self.code = nn.Linear(features[-1], code_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Encode the style of one modality (B, 1, *patch) in a code (B, D)."""
        code: Tensor = self.code(self.convs(image).flatten(2).mean(2))
        return code


class ReconstructionDecoder(nn.Module):
    """Content with the style of one modality back to its image. Used in training alone."""

    def __init__(self, architecture: Architecture, code_channels: int):
        super().__init__()
        width = max(architecture.features[-1] // 2, NARROWEST)
        self.reduce = architecture.projection(architecture.features[-1], width)
        self.style = nn.Sequential(nn.Linear(code_channels, width), nn.LeakyReLU(), nn.Linear(width, 2 * width))
        self.residual = nn.ModuleList(architecture.conv(width, width, norm=False) for _ in range(2))
        self.strides = [tuple(s) if isinstance(s, (list, tuple)) else s for s in architecture.strides[:0:-1]]
        kernels = architecture.kernel_sizes[-2::-1]
        widths = [max(width // 4**level, NARROWEST) for level in range(len(self.strides))]
        self.upsampling = nn.ModuleList(
            architecture.conv(i, o, k, norm=False) for i, o, k in zip(widths, widths[1:], kernels, strict=False)
        )
        self.image = architecture.projection(widths[-1], 1, kernels[-1])

    def forward(self, fused: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rebuild one modality.

        Args:
            fused: the content, (B, C, *spatial).
            code: of the style, (B, D).

        Returns:
            Image (B, *patch), and AdaIN's mu and sigma, each (B, C / 2).
        """
        mu, log_sigma = self.style(code).float().chunk(2, 1)
        sigma = F.softplus(log_sigma)
        features = adain(self.reduce(fused).float(), mu, sigma)
        for conv in self.residual:
            features = features + conv(features)
        for stride, conv in zip(self.strides, [*self.upsampling, self.image], strict=True):
            features = conv(F.interpolate(features, scale_factor=stride, mode="nearest"))
        return features[:, 0], mu, sigma


def adain(content: Tensor, mu: Tensor, sigma: Tensor, eps: float = ADAIN_EPS) -> Tensor:
    """Adaptive instance normalisation: give each channel of each sample the mean mu and standard deviation sigma.

    Args:
        content: (B, C, *spatial) float32.
        mu, sigma: (B, C).
        eps: added to the variance, which a blank patch leaves at zero.
    """
    axes = tuple(range(2, content.ndim))
    variance, mean = torch.var_mean(content, axes, keepdim=True)
    return expand_to(sigma, content) * (content - mean) * torch.rsqrt(variance + eps) + expand_to(mu, content)


def adain_kl_loss(mu: Tensor, sigma: Tensor, available: Tensor) -> Tensor:
    """KL of N(mu, sigma^2) against N(0, 1): mean over samples and channels, sum over modalities.

    Args:
        mu, sigma: (N, M, C).
        available: (N, M) bool.
    """
    count = available.sum(0).clamp(min=1)
    return (torch.where(available, adain_kl(mu, sigma), 0).sum(0) / count).sum()


def adain_kl(mu: Tensor, sigma: Tensor) -> Tensor:
    """KL of N(mu, sigma^2) against N(0, 1), mean over channels: (N, M, C) to (N, M)."""
    variance = sigma.square()
    return 0.5 * (mu.square() + variance - variance.clamp(min=SMALLEST_VARIANCE).log() - 1).mean(2)
