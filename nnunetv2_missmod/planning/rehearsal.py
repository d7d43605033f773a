"""Rehearsing training steps on the device meta: what they need, in seconds, whatever the patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_missmod.building_blocks.network import finest
from nnunetv2_missmod.host.doors import PRETRAINING
from nnunetv2_missmod.host.plan_checks import refused_as
from nnunetv2_missmod.planning.live_memory import LiveMemory
from nnunetv2_missmod.planning.mixed_precision import MixedPrecision
from nnunetv2_missmod.planning.stand_in import META, build_trainer, random_batch
from nnunetv2_missmod.training.trainer import MissingModalityTrainer


@dataclass(frozen=True)
class Rehearsal:
    """What one training step of a trainer on a plan needs.

    Attributes:
        trainer: as it stood after two steps, on meta.
        batch: the batch of both.
        memory: bytes that are alive at the peak: weights, gradients, optimizer states, activations, the batch.
        terms: names of the loss terms.
    """

    trainer: Any
    batch: Mapping[str, Any]
    memory: int
    terms: tuple[str, ...]


def rehearse(
    trainer_class: type[MissingModalityTrainer],
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    mixed_precision: bool = True,
) -> Rehearsal:
    """Take two steps, the second with the optimizer's states there and the costliest that draws can make.

    Raises:
        ValueError: the plan sets something that trainer or network refuses, or on which a step fails.
        NotImplementedError: the trainer cannot take this configuration.
    """
    with refused_as(f"a plan on which {trainer_class.__name__} can take a step"), LiveMemory() as memory:
        trainer = build_trainer(trainer_class, plans, configuration, dataset_json, META)
        if mixed_precision:
            MixedPrecision().use_in(trainer, networks_of(trainer))
        batch = random_batch(trainer, trainer.batch_size)
        trainer.train_step(batch)
        trainer.seed_costliest_step(batch["keys"])
        trainer.step = lambda learner: None  # the optimizer can need no more than it did
        outputs = trainer.train_step(batch)
        return Rehearsal(trainer, batch, memory.peak, tuple(name for name in outputs if name != "loss"))


def count_macs(rehearsal: Rehearsal) -> int:
    """Count the multiplications with additions of a step, forward and backward, the costliest that draws can make."""
    rehearsal.trainer.seed_costliest_step(rehearsal.batch["keys"])
    with FlopCounterMode(display=False) as counter:
        rehearsal.trainer.train_step(rehearsal.batch)
    return int(counter.get_total_flops()) // 2


def count_parameters(rehearsal: Rehearsal) -> int:
    """Count the parameters of every network that training builds."""
    return sum(p.numel() for p in networks_of(rehearsal.trainer).parameters())


def count_predicting_parameters(rehearsal: Rehearsal) -> int | None:
    """Count the parameters that reach the logits of prediction; None for a pretraining, which predicts nothing."""
    trainer = rehearsal.trainer
    if type(trainer).__name__.endswith(PRETRAINING):
        return None
    network: nn.Module = trainer.network
    trainer.set_deep_supervision_enabled(False)
    network.zero_grad(set_to_none=True)
    with META:
        logits = finest(network.eval()(rehearsal.batch["data"][:1]))
    logits.sum().backward()  # type: ignore[no-untyped-call]
    used = sum(p.numel() for p in network.parameters() if p.grad is not None)
    network.train()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    return used


def networks_of(trainer: Any) -> nn.ModuleList:
    """List the trainer's networks, those of learners beside its own included."""
    values = [part for value in vars(trainer).values() for part in (value if isinstance(value, tuple) else (value,))]
    return nn.ModuleList(dict.fromkeys(value for value in values if isinstance(value, nn.Module)))
