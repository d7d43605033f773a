"""nnU-Net's logger: its curves, which are a fixed set, and the loggers of others beside it.

Relies on nnunetv2/training/logging/nnunet_logger.py: ``trainer.logger`` (MetaLogger) hands what it is told to
``local_logger`` and to ``loggers``, those of others; the local one asserts that it knows a curve, keeps ``ema_fg_dice``
as the moving average of ``mean_fg_dice``, gives its curves as a list where no step is asked for, and draws
progress.png.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from nnunetv2.training.logging.nnunet_logger import LocalLogger

MEAN, AVERAGE, BY_CLASS, LOSS = "mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region", "val_losses"
DrawProgress = Callable[[str, dict[str, Any]], None]  # output folder, curves


class ProgressLogger(LocalLogger):
    """nnU-Net's logger of curves, whose progress.png is another's."""

    def __init__(self, draw: DrawProgress):
        super().__init__()
        self.draw = draw

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw the curves."""
        self.draw(output_folder, self.get_checkpoint())


def draw_progress_with(logger: Any, draw: DrawProgress) -> None:
    """Have the progress of a training, which has logged nothing yet, drawn by another."""
    logger.local_logger = ProgressLogger(draw)


def moving_averages(logger: Any) -> list[float]:
    """List the moving average of the mean pseudo Dice by epoch; what is changed in the list is changed in the log."""
    averages: list[float] = logger.get_value(AVERAGE, None)
    return averages


def log_scores(logger: Any, epoch: int, scores: Iterable[float], mean: float, loss: float) -> None:
    """Log an epoch's validation.

    An epoch without a score, as when no patch met a small lesion, leaves the moving average as it was.

    Args:
        logger: of a trainer.
        epoch: it.
        scores: of each class or region.
        mean: of them; NaN where there is none.
        loss: of the validation.
    """
    logger.log(MEAN, mean, epoch)
    averages = moving_averages(logger)
    if np.isnan(averages[-1]):
        former = averages[-2] if len(averages) > 1 else np.nan
        averages[-1] = mean if np.isnan(former) else former
    logger.log(BY_CLASS, list(scores), epoch)
    logger.log(LOSS, loss, epoch)


def log_elsewhere(logger: Any, name: str, value: float, epoch: int) -> None:
    """Log what is no curve of nnU-Net's to the loggers of others, such as W&B."""
    for other in logger.loggers:
        other.log(name, value, epoch)
