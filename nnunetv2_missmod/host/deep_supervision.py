"""nnU-Net's deep supervision: where it is switched, and its loss at one level.

Relies on nnunetv2/training/loss/deep_supervision.py: ``DeepSupervisionWrapper`` holds the loss of one level as
``loss``; and on nnUNetTrainer.py: ``set_deep_supervision_enabled`` switches ``network.decoder.deep_supervision``, and a
loss without deep supervision is that of one level itself.
"""

from __future__ import annotations

from typing import Any

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper


def loss_at_one_level(loss: Any) -> Any:
    """Take the loss of logits (B, K, *size) and target (B, 1 or regions, *size) out of a trainer's ``loss``."""
    return loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss
