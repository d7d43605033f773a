"""The reconstruction of RobustSeg [0]; its KL is ``building_blocks.disentangling.adain_kl_loss``.

[0] Chen et al., "Robust Multimodal Brain Tumor Segmentation via Feature Disentanglement and Gated Fusion", MICCAI 2019.
"""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.disentangling import l1_reconstruction_loss


def summed_l1_loss(reconstruction: Tensor, images: Tensor, available: Tensor) -> Tensor:
    """Mean L1 over voxels, summed over the M modalities (released code): M times its mean over the available ones.

    Args:
        reconstruction, images: (B, M, *patch).
        available: (B, M) bool.
    """
    return available.shape[1] * l1_reconstruction_loss(reconstruction, images, available)
