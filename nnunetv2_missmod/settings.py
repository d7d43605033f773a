"""The numbers of a trainer that a plan may override: its class attributes and nnU-Net's own settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# nnU-Net's own settings that a plan may override beside a method's numbers.
HOST_SETTINGS = (
    "initial_lr",
    "weight_decay",
    "oversample_foreground_percent",
    "probabilistic_oversampling",
    "num_iterations_per_epoch",
    "num_val_iterations_per_epoch",
    "num_epochs",
    "enable_deep_supervision",
    "save_every",
)
RANGES = {"num_epochs": (1, None), "num_iterations_per_epoch": (1, None), "oversample_foreground_percent": (0, 1)}


def settings_of(trainer: object, base: type) -> dict[str, Any]:
    """Collect the trainer's settings: public numbers, flags and words that ``base`` and its subclasses define."""
    classes = [c for c in type(trainer).__mro__ if issubclass(c, base)]
    names = {name for c in classes for name, value in vars(c).items() if _is_setting(name, value)}
    return {name: getattr(trainer, name) for name in sorted(names.union(HOST_SETTINGS))}


def overrides_for(trainer: str, block: Mapping[str, Any], trainers: Collection[str]) -> dict[str, Any]:
    """Read what a part of ``configuration["missmod"]``, ``trainer`` or ``network``, sets for one trainer.

    What stands under a trainer's name is for it alone, and goes before what stands for all that share the plan:
    ``{"num_epochs": 250, "M3AEPretrainTrainer": {"num_epochs": 300}}``.

    Raises:
        ValueError: settings stand under a name that is no trainer's, or one of nnU-Net's is out of its range.
    """
    own = {name: value for name, value in block.items() if isinstance(value, Mapping)}
    unknown = sorted(set(own) - {*trainers, trainer})
    if unknown:
        raise ValueError(
            f"The plan's missmod block has settings under {unknown}, which names no trainer. Known are: "
            f"{', '.join(sorted({*trainers, trainer}))}. A setting itself is a number, a word, true or false."
        )
    overrides = {name: value for name, value in block.items() if name not in own} | dict(own.get(trainer, {}))
    for name in RANGES.keys() & overrides.keys():
        _check_range(name, overrides[name])
    return overrides


def _check_range(name: str, value: Any) -> None:
    least, most = RANGES[name]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (value < least or (most is not None and value > most)):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(
            f"The plan's missmod block sets {name} = {value!r}; expected {wanted}. Correct it in the plan."
        )


def _is_setting(name: str, value: Any) -> bool:
    return not name.startswith("_") and isinstance(value, (bool, int, float, str))
