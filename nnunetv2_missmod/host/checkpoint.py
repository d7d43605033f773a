"""nnU-Net's checkpoint: the names of its files, what is in it, and how it is opened as data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor
from torch.serialization import safe_globals

from nnunetv2_missmod.files.entries import is_list, is_whole, is_word

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")  # in the order of nnU-Net's --c

# What nnU-Net's log in a checkpoint is made of, beside tensors and plain Python; the second names are NumPy 1's.
HARMLESS: list[Any] = [
    np.ndarray,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    *(
        (function, f"{module}.multiarray.{function.__name__}")
        for function in (multiarray._reconstruct, multiarray.scalar)
        for module in ("numpy._core", "numpy.core")
    ),
]


def load_data(file: Path) -> Any:
    """Load a checkpoint onto the CPU; of its tensors, those that are used. Nothing that is pickled in it is executed.

    Raises:
        ValueError: it is damaged, or holds more than data.
    """
    try:
        with safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)  # the rest advises to execute it after all
        raise ValueError(f"{reason} Nothing in it was executed.") from error


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


def check_finite(weights: Mapping[str, Any], what: str) -> None:
    """Check that weights are numbers.

    Args:
        weights: tensors by their names.
        what: whose they are, for the message.

    Raises:
        ValueError: one holds NaN or infinity; names it.
    """
    for name, tensor in weights.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"Expected finite numbers in {what}, got NaN or infinity in {name}: the training went astray. Train "
                "again, or take an earlier checkpoint."
            )
