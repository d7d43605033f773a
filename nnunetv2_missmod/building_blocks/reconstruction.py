"""How far images that a network has rebuilt are from those that a case has."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.modalities import drop_absent


def mse_reconstruction_loss(reconstruction: Tensor, images: Tensor, available: Tensor) -> Tensor:
    """Mean square over all voxels, whatever of them the network saw, of the available modalities.

    Args:
        reconstruction, images: (B, M, *patch).
        available: (B, M) bool.
    """
    error = drop_absent(reconstruction - images, available).square()
    return error.flatten(2).mean(2).sum() / available.sum()
