"""What a trainer needs on a GPU: measured there, or estimated from a rehearsal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from nnunetv2_missmod.planning.rehearsal import rehearse
from nnunetv2_missmod.planning.stand_in import build_trainer, random_batch
from nnunetv2_missmod.training.trainer import MissingModalityTrainer

GB = 10**9
# Chosen, not measured: what a process takes of a GPU before its first tensor, a few hundred MB on most, and what
# cuDNN's workspaces and the gaps between PyTorch's blocks of memory add to the tensors that are alive.
CUDA_CONTEXT = 0.6 * GB
WORKSPACES_AND_GAPS = 1.15
MEASURED_STEPS = 2  # the second has the optimizer's states

StepMemory = Callable[[type[MissingModalityTrainer], Mapping[str, Any], str, Mapping[str, Any]], float]


def estimate_step_memory(
    trainer_class: type[MissingModalityTrainer],
    plans: Mapping[str, Any],
    configuration: str,
    dataset: Mapping[str, Any],
) -> float:
    """Estimate the bytes of a GPU that training needs, under mixed precision."""
    return on_gpu(rehearse(trainer_class, plans, configuration, dataset).memory)


def measure_step_memory(
    trainer_class: type[MissingModalityTrainer],
    plans: Mapping[str, Any],
    configuration: str,
    dataset: Mapping[str, Any],
) -> float:
    """Measure them on the GPU that is here, without torch.compile; infinite where its memory is not enough."""
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        trainer = build_trainer(trainer_class, plans, configuration, dataset, device)
        batch = random_batch(trainer, trainer.batch_size)
        for _ in range(MEASURED_STEPS):
            trainer.seed_costliest_step(batch["keys"])
            trainer.train_step(batch)
    except torch.OutOfMemoryError:
        return float("inf")
    return CUDA_CONTEXT + torch.cuda.max_memory_reserved()


def on_gpu(live: float) -> float:
    """Add the allowances to the bytes that are alive."""
    return CUDA_CONTEXT + WORKSPACES_AND_GAPS * live


def step_memory_on(device: str) -> StepMemory:
    """Choose how to find the memory: measured on cuda, estimated on cpu; auto measures where there is a GPU.

    Raises:
        ValueError: another device, or cuda where there is none.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise ValueError(f"Expected -device auto, cuda (measure) or cpu (estimate), got {device}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("Expected a CUDA device to measure on, found none. Estimate with -device cpu.")
    measures = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return measure_step_memory if measures else estimate_step_memory
