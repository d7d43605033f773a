"""The trainers that benchmarks measure: every door and stock nnU-Net, on one plan, without a dataset."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NNUNET_TRAINER = "nnUNetTrainer"
TYPICAL_DRAWS = 42  # CCSD's seed: after the first, four steps decode 5.0 subsets on average, eight 4.9 as many do
MODALITIES = 4
FEATURES = (32, 64, 128, 256, 320)


@dataclass(frozen=True)
class Setting:
    """What the trainers are measured on: three overlapping regions, one convolution per decoder stage.

    Args:
        features: of the plan's levels; nnU-Net plans these five for a patch of 64^3.
        patch: voxels along each of three axes.
        batch_size: cases of a batch.
        device: cpu or cuda; mixed precision on cuda, as nnU-Net does.
        compiled: by torch.compile, on cuda alone, as nnU-Net does unless nnUNet_compile is false.
        modalities: channels.
        settings: of the trainers that have them, in place of the defaults.
        small_network: without the methods' own sizes, such as a transformer's, to try what measures them.
    """

    features: Sequence[int] = FEATURES
    patch: int = 64
    batch_size: int = 2
    device: str = "cpu"
    compiled: bool = False
    modalities: int = MODALITIES
    settings: Mapping[str, float] = field(default_factory=dict)
    small_network: bool = False


def trainer_class_of(name: str) -> Any:
    """Import a trainer, and all that building one needs, so that what is measured later is not the imports."""
    import pytest  # noqa: F401, PLC0415

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import small_plans  # noqa: F401, PLC0415

    module = "nnunetv2.training.nnUNetTrainer" if name == NNUNET_TRAINER else "nnunetv2_missmod.trainers"
    return getattr(importlib.import_module(f"{module}.{name}"), name)


def serves_one_subset(name: str) -> bool:
    """Whether a trainer's model is for one subset of the modalities."""
    from nnunetv2_missmod.training.dedicated import DedicatedTrainer  # noqa: PLC0415

    return issubclass(trainer_class_of(name), DedicatedTrainer)


def build(trainer_class: Any, setting: Setting) -> tuple[Any, dict[str, Any]]:
    """Build a trainer whose every step is a whole one, and a random batch for it."""
    import pytest  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from small_plans import random_batch, small_dataset_json, small_trainer  # noqa: PLC0415

    os.environ["nnUNet_compile"] = str(setting.compiled)  # noqa: SIM112, nnU-Net's own spelling
    plans, dataset_json = plans_for(trainer_class, setting), small_dataset_json(setting.modalities, True)
    cases = tuple(f"case_{number}" for number in range(setting.batch_size))
    device = torch.device(setting.device)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(trainer_class, plans, dataset_json, Path(folder), patch, cases, device=device)
    if hasattr(trainer, "host_generator"):
        trainer.host_generator.manual_seed(TYPICAL_DRAWS)
    return trainer, random_batch(trainer, cases=cases)


def plans_for(trainer_class: Any, setting: Setting) -> dict[str, Any]:
    """Make the plan."""
    from small_plans import small_plans, subset_for, whole_step, with_small_network  # noqa: PLC0415

    plans: dict[str, Any] = small_plans(
        setting.modalities,
        patch=[setting.patch] * 3,
        batch_size=setting.batch_size,
        features=setting.features,
        **whole_step(trainer_class),
        **subset_for(trainer_class),
        **{name: value for name, value in setting.settings.items() if hasattr(trainer_class, name)},
    )
    is_ours = trainer_class.__name__ != NNUNET_TRAINER
    return with_small_network(trainer_class, plans) if setting.small_network and is_ours else plans
