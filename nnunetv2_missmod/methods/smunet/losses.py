"""The style loss of SMU-Net [0].

[0] Azad et al., "SMU-Net: Style Matching U-Net for Brain Tumor Segmentation with Missing Modalities", MIDL 2022.
"""

from __future__ import annotations

from torch import Tensor

from nnunetv2_missmod.building_blocks.matching import cross_gram, summed_errors, unit_channels


def style_loss(full: Tensor, missing: Tensor) -> Tensor:
    """Mean squared error of the correlations between the channels of a style, the Gram matrices of unit channels: (B,).

    Args:
        full, missing: style of teacher and student, (B, C, *spatial) float32.
    """
    teacher, student = (unit_channels(style) for style in (full, missing))
    return summed_errors([cross_gram(teacher, teacher)], [cross_gram(student, student)])
