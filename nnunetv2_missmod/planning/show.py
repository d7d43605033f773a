"""`missmod plan --show`: what a trainer will do on a plan, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork
from nnunetv2_missmod.host.doors import door_names
from nnunetv2_missmod.host.plan_block import overrides_for, plan_block
from nnunetv2_missmod.planning.dataset import PlannedDataset
from nnunetv2_missmod.planning.gpu_memory import GB, StepMemory, measure_step_memory, on_gpu
from nnunetv2_missmod.planning.paper import Number
from nnunetv2_missmod.planning.rehearsal import (
    Rehearsal,
    count_macs,
    count_parameters,
    count_predicting_parameters,
    rehearse,
)
from nnunetv2_missmod.planning.speed import least_duration, macs_per_second
from nnunetv2_missmod.training.trainer import MissingModalityTrainer

WIDTH_WHEN_PIPED = 140  # columns; a terminal has its own


@dataclass(frozen=True)
class PlanDescription:
    """What a trainer will do on one configuration of a plan.

    Attributes:
        trainer, configuration: their names.
        network: rows of names and values: the network and what a step needs.
        training: likewise, the schedule and the loss.
        settings: rows of name, value and where it is from.
        memory: bytes of a GPU that training needs.
    """

    trainer: str
    configuration: str
    network: dict[str, str]
    training: dict[str, str]
    settings: list[tuple[str, str, str]]
    memory: float

    @property
    def title(self) -> str:
        """Trainer and configuration."""
        return f"{self.trainer}, {self.configuration}"


def describe(
    stage: type[MissingModalityTrainer], dataset: PlannedDataset, configuration: str, step_memory: StepMemory
) -> PlanDescription:
    """Rehearse a trainer on a plan and describe it.

    Raises:
        ValueError: the plan sets something that trainer or network refuses.
        NotImplementedError: the trainer cannot take this configuration.
    """
    rehearsal = rehearse(stage, dataset.plans, configuration, dataset.json)
    is_measured = step_memory is measure_step_memory
    memory = step_memory(stage, dataset.plans, configuration, dataset.json) if is_measured else on_gpu(rehearsal.memory)
    block = plan_block(PlansManager(dataset.plans).get_configuration(configuration))
    macs = count_macs(rehearsal)
    training = {
        **training_of(rehearsal),
        "time": time_of(rehearsal, macs, torch.device("cuda" if is_measured else "cpu")),
    }
    settings = settings_of(rehearsal, block)
    return PlanDescription(
        stage.__name__,
        configuration,
        network_of(rehearsal, macs, memory, "measured" if is_measured else "estimated"),
        training,
        settings,
        memory,
    )


def network_of(rehearsal: Rehearsal, macs: int, memory: float, how: str) -> dict[str, str]:
    """Describe the network and what a step needs."""
    trainer = rehearsal.trainer
    manager = trainer.configuration_manager
    predicting = count_predicting_parameters(rehearsal)
    return {
        "network": type(trainer.network).__name__,
        "parameters": f"{count_parameters(rehearsal) / 1e6:.1f} M in training, "
        + ("no prediction" if predicting is None else f"{predicting / 1e6:.1f} M in prediction"),
        "patch": " x ".join(map(str, manager.patch_size)),
        "batch": str(manager.batch_size),
        "features per stage": ", ".join(map(str, Architecture.from_configuration(manager).features)),
        "operations per step": f"{macs / 1e9:.1f} GMAC, forward and backward",
        "memory": f"{memory / GB:.1f} GB of a GPU, {how}, mixed precision "
        f"({rehearsal.memory / GB:.2f} GB of tensors by the rehearsal)",
    }


def training_of(rehearsal: Rehearsal) -> dict[str, str]:
    """Describe schedule and loss."""
    trainer = rehearsal.trainer
    epochs, iterations = trainer.num_epochs, trainer.num_iterations_per_epoch
    return {
        "optimizer": type(trainer.optimizer).__name__,
        "learning rate": f"{trainer.initial_lr:g}, {type(trainer.lr_scheduler).__name__}",
        "weight decay": f"{trainer.weight_decay:g}",
        "length": f"{epochs} epochs x {iterations} iterations = {epochs * iterations:,} updates",
        "loss terms": ", ".join(rehearsal.terms),
    }


def time_of(rehearsal: Rehearsal, macs: int, device: torch.device) -> str:
    """Say how long the training will take at the least on this machine."""
    trainer, speed = rehearsal.trainer, macs_per_second(device)
    least = least_duration(macs * trainer.num_epochs * trainer.num_iterations_per_epoch, speed)
    where = "this GPU" if device.type == "cuda" else "this CPU"
    return f"{least} or more on {where}, by its present speed, {speed / 1e9:.0f} GMAC/s; the log tells after an epoch"


def settings_of(rehearsal: Rehearsal, block: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """List what a plan may set, of trainer and network: name, value, and where it is from.

    Args:
        rehearsal: of the trainer.
        block: the plan's ``configuration["missmod"]``; what else stands in the network's block comes from the dataset.
    """
    trainer, name = rehearsal.trainer, type(rehearsal.trainer).__name__
    network_block = plan_block(trainer.configuration_manager).get("network", {})
    by_plan = {part: overrides_for(name, block.get(part, {}), door_names()) for part in ("trainer", "network")}
    rows = [
        (setting, str(value), "plan" if setting in by_plan["trainer"] else "default")
        for setting, value in trainer.settings().items()
    ]
    network = trainer.network
    constants = network.constants() if isinstance(network, MissingModalityNetwork) else {}
    for constant, value in {**constants, **overrides_for(name, network_block, door_names())}.items():
        origin = "plan" if constant in by_plan["network"] else "dataset" if constant in network_block else "default"
        rows.append((f"{constant} (network)", str(value), origin))
    return rows


def print_description(description: PlanDescription) -> None:
    """Print what a trainer will do on a plan: tables in a terminal, the same text without colour elsewhere."""
    facts = Table("", description.title, box=SIMPLE, title_justify="left")
    for name, value in description.network.items():
        facts.add_row(name, value)
    facts.add_section()
    for name, value in description.training.items():
        facts.add_row(name, value)
    settings = Table("setting", "value", "from", box=SIMPLE)
    for row in description.settings:
        settings.add_row(*row)
    console_for_tables().print(facts, settings)


def print_numbers(numbers: Sequence[Number]) -> None:
    """Print the settings of a paper with their sources."""
    table = Table("trainer", "setting", "value", "source", box=SIMPLE)
    for number in numbers:
        table.add_row(number.trainer, number.name, str(number.value), number.source)
    console_for_tables().print(table)


def console_for_tables() -> Console:
    """Make a console that does not cut tables short where there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH_WHEN_PIPED)
