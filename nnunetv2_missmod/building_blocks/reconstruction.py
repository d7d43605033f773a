"""How far images that a network has rebuilt are from those that a case has."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.modalities import drop_absent


def l1_reconstruction_loss(reconstruction: Tensor, images: Tensor, available: Tensor) -> Tensor:
    """Mean L1 over the voxels of the available modalities.

    Args:
        reconstruction, images: (B, M, *patch).
        available: (B, M) bool.
    """
    return _mean_of(drop_absent(reconstruction - images, available).abs(), available)


def mse_reconstruction_loss(reconstruction: Tensor, images: Tensor, available: Tensor) -> Tensor:
    """Mean square over all voxels, whatever of them the network saw, of the available modalities.

    Args:
        reconstruction, images: (B, M, *patch).
        available: (B, M) bool.
    """
    return _mean_of(drop_absent(reconstruction - images, available).square(), available)


def _mean_of(error: Tensor, available: Tensor) -> Tensor:
    return error.flatten(2).mean(2).sum() / available.sum()
