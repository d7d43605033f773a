"""A trainer without a dataset: built from its plan alone, with random batches to take steps on."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_missmod.host.folders import temporary_nnunet_folders
from nnunetv2_missmod.training.trainer import MissingModalityTrainer

IGNORE = "ignore"  # nnU-Net's name for what no loss looks at
META = torch.device("meta")


def build_trainer(
    trainer_class: type[MissingModalityTrainer],
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    device: torch.device,
) -> Any:
    """Build and initialise a trainer as nnU-Net does, past every warm-up; nothing is read or written.

    The label to ignore is left out: whether a batch holds anything else is no question for tensors without values.

    Args:
        trainer_class: one of this package's trainers.
        plans, configuration, dataset_json: as nnU-Net gives them to a trainer.
        device: meta, cpu or cuda.

    Raises:
        ValueError: the plan sets something that trainer or network refuses.
        NotImplementedError: the trainer cannot take this configuration.
    """
    known = {name: label for name, label in dataset_json["labels"].items() if name != IGNORE}
    arguments: Any = (copy.deepcopy(dict(plans)) | {"continue_training": False}, configuration, 0)
    identifier = PlansManager(dict(plans)).get_configuration(configuration).data_identifier
    with temporary_nnunet_folders() as folder, redirect_stdout(io.StringIO()):
        data = folder / plans["dataset_name"] / identifier
        data.mkdir(parents=True)
        (data / "none.b2nd").touch()  # nnU-Net infers from a file's ending how data is stored
        built_on = torch.device("cpu") if device == META else device  # there are no generators on meta
        trainer: Any = _silenced(trainer_class)(*arguments, {**dataset_json, "labels": known}, built_on)
        trainer.device = device
        with device if device == META else nullcontext():
            trainer.initialize()
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.network.train()
    return trainer


def random_batch(trainer: Any, batch_size: int) -> dict[str, Any]:
    """Make a batch as nnU-Net's dataloader gives it, of cases that have every modality.

    Args:
        trainer: from ``build_trainer``; it gets to know the cases.
        batch_size: samples.
    """
    cases = [f"case_{number}" for number in range(batch_size)]
    trainer.available_in_case = {case: (True,) * len(trainer.modalities) for case in cases}
    trainer.case_number = {case: number for number, case in enumerate(cases)}
    patch = trainer.configuration_manager.patch_size
    with trainer.device if trainer.device == META else nullcontext():
        images = torch.randn(batch_size, trainer.num_input_channels, *patch)
        scales = trainer.deep_supervision_scales()
        sizes = [[round(n * s) for n, s in zip(patch, scale, strict=True)] for scale in scales or ([1] * len(patch),)]
        targets = [_random_target(trainer.label_manager, batch_size, size) for size in sizes]
    return {"data": images, "target": targets if scales else targets[0], "keys": cases}


def _random_target(labels: Any, batch_size: int, size: list[int]) -> torch.Tensor:
    if labels.has_regions:
        return torch.rand(batch_size, labels.num_segmentation_heads, *size) > 0.5
    return torch.randint(0, max(labels.all_labels) + 1, (batch_size, 1, *size), dtype=torch.int16)


def _silenced(trainer_class: type[MissingModalityTrainer]) -> Any:
    """Derive a class of the same name that writes no log, does not look at values and is not compiled."""
    changes = {
        "print_to_log_file": lambda self, *args, **kwargs: None,
        "check_finite": lambda self, train_outputs: None,
        "compiles": lambda self: False,
    }
    return type(trainer_class.__name__, (trainer_class,), changes)
