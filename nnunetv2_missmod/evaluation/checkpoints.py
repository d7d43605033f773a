"""What a checkpoint may hold, and what it must."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nnunetv2_missmod.building_blocks.network import check_finite
from nnunetv2_missmod.entries import is_list, is_whole, is_word


def check_checkpoint(checkpoint: Any) -> None:
    """Check that a checkpoint holds what is used of it.

    Raises:
        ValueError: it does not, or its weights are not finite.
    """
    missing = {"network_weights", "trainer_name"} - checkpoint.keys()
    if missing:
        raise ValueError(f"it lacks {', '.join(sorted(missing))}.")
    if not is_word(checkpoint["trainer_name"]):
        raise ValueError(f"its trainer_name is no name of a class but {checkpoint['trainer_name']!r}.")
    weights = checkpoint["network_weights"]
    if not (isinstance(weights, dict) and all(map(torch.is_tensor, weights.values()))):
        raise ValueError("its network_weights are no tensors by their names.")
    check_finite(weights, "network_weights")


def check_alike(files: Sequence[Path], checkpoints: Sequence[dict[str, Any]], dimensions: int) -> None:
    """Check that checkpoints are of one trainer, and mirror along axes that there are.

    Raises:
        ValueError: names the file that differs.
    """
    trainer = checkpoints[0]["trainer_name"]
    for file, checkpoint in zip(files, checkpoints, strict=True):
        if checkpoint["trainer_name"] != trainer:
            raise ValueError(f"Expected a checkpoint of {trainer} in {file}, got one of {checkpoint['trainer_name']}.")
        axes = checkpoint.get("inference_allowed_mirroring_axes")
        if not (axes is None or is_list(axes, partial(is_whole, most=dimensions - 1))):
            raise ValueError(f"Expected inference_allowed_mirroring_axes below {dimensions} in {file}, got {axes!r}.")
