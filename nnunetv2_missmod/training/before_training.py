"""What can be known to fail before a training begins: its schedule and its cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDS = 5  # of the cross-validation that nnU-Net draws where there is no splits_final.json


def require_schedule(save_every: int, num_val_iterations_per_epoch: int) -> None:
    """Check what an epoch ends with.

    Raises:
        ValueError: a checkpoint every 0 epochs, or a validation of 0 steps.
    """
    if save_every < 1:
        raise ValueError(
            f"Expected save_every, the epochs from one checkpoint to the next, of at least 1, got {save_every}. A "
            "number beyond num_epochs writes none before the end; --disable_checkpointing writes none at all."
        )
    if num_val_iterations_per_epoch < 1:
        raise ValueError(
            f"Expected num_val_iterations_per_epoch of at least 1, got {num_val_iterations_per_epoch}: "
            "checkpoint_best.pth and the curve follow the validation. 1 costs next to nothing."
        )


def require_enough_to_split(cases: Sequence[str], fold: int | str, splits_file: Path) -> None:
    """Check that nnU-Net can draw its folds where no file gives them.

    Raises:
        ValueError: there are fewer cases than folds.
    """
    if fold != "all" and not splits_file.is_file() and len(cases) < FOLDS:
        raise ValueError(
            f"Expected at least {FOLDS} training cases to draw {FOLDS} folds from, got {len(cases)}: "
            f"{', '.join(sorted(cases))}. Train with fold all, or write your own {splits_file}."
        )


def require_cases(training: Sequence[str], validation: Sequence[str], fold: int | str) -> None:
    """Check that a fold has something to learn from and something to validate with.

    Raises:
        ValueError: it has no case of one kind.
    """
    for cases, kind in ((training, "training"), (validation, "validation")):
        if not len(cases):
            raise ValueError(
                f"Expected at least one {kind} case in fold {fold}, got none. Add one in splits_final.json, or train "
                "with fold all: then every case is for both."
            )
