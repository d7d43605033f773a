"""Measured or estimated: no GPU is needed here, what would run on one runs on the CPU."""

import math

import pytest
import torch
from small_plans import CONFIGURATION, small_dataset_json, small_plans

from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.planning import gpu_memory
from nnunetv2_missmod.planning.gpu_memory import (
    CUDA_CONTEXT,
    GB,
    estimate_step_memory,
    measure_step_memory,
    on_gpu,
    step_memory_on,
)
from nnunetv2_missmod.planning.rehearsal import rehearse
from nnunetv2_missmod.planning.stand_in import build_trainer

ARGUMENTS = ModalityDropoutTrainer, small_plans(2, features=(8, 8, 16)), CONFIGURATION, small_dataset_json(2)


@pytest.fixture
def fake_gpu(monkeypatch):
    """A GPU on which every training peaks at 3 GB."""
    steps = []

    def build_on_cpu(*arguments):
        trainer = build_trainer(*arguments[:-1], torch.device("cpu"))
        take_step = trainer.train_step
        trainer.train_step = lambda batch: steps.append(take_step(batch))
        return trainer

    monkeypatch.setattr(gpu_memory, "build_trainer", build_on_cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3 * GB)
    return steps


def test_an_estimate_adds_the_context_and_a_share_to_the_live_bytes():
    live = rehearse(*ARGUMENTS).memory
    assert estimate_step_memory(*ARGUMENTS) == on_gpu(live) > CUDA_CONTEXT + live


def test_a_measurement_takes_two_real_steps(fake_gpu):
    assert measure_step_memory(*ARGUMENTS) == 3 * GB + CUDA_CONTEXT
    assert len(fake_gpu) == 2
    assert all(torch.isfinite(term) for step in fake_gpu for term in step.values())


def test_what_the_gpu_has_no_memory_for_does_not_fit(fake_gpu, monkeypatch):
    def out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_memory, "random_batch", lambda *arguments: out_of_memory())
    assert measure_step_memory(*ARGUMENTS) == math.inf


def test_where_there_is_a_gpu_it_is_used(fake_gpu):
    assert step_memory_on("auto") is step_memory_on("cuda") is measure_step_memory
    assert step_memory_on("cpu") is estimate_step_memory


def test_where_there_is_none_memory_is_estimated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert step_memory_on("auto") is step_memory_on("cpu") is estimate_step_memory
    with pytest.raises(
        ValueError, match=r"Expected a CUDA device to measure on, found none\. Estimate with -device cpu"
    ):
        step_memory_on("cuda")


def test_another_device_is_refused():
    with pytest.raises(ValueError, match=r"Expected -device auto, cuda .* got mps"):
        step_memory_on("mps")
