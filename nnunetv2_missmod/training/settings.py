"""What a plan may override of a trainer: its class attributes, and nnU-Net's settings, which a class may declare."""

from __future__ import annotations

from collections.abc import Iterable
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


def declared_host_settings(trainer: type, base: type) -> dict[str, Any]:
    """Collect nnU-Net's own settings that a trainer's class, or one between it and ``base``, declares."""
    classes = trainer.__mro__[: trainer.__mro__.index(base)]
    declared = {name for of_class in classes for name in vars(of_class)}
    return {name: getattr(trainer, name) for name in HOST_SETTINGS if name in declared}


def declared_settings(classes: Iterable[type]) -> dict[str, Any]:
    """Collect the public numbers, flags and words that these classes themselves define; of one name, the first's."""
    settings: dict[str, Any] = {}
    for of_class in classes:
        for name, value in vars(of_class).items():
            if _is_setting(name, value):
                settings.setdefault(name, value)
    return settings


def trainer_settings(trainer: object, base: type) -> dict[str, Any]:
    """Collect the trainer's settings: public numbers, flags and words that ``base`` and its subclasses define."""
    classes = [c for c in type(trainer).__mro__ if issubclass(c, base)]
    return {name: getattr(trainer, name) for name in sorted({*declared_settings(classes), *HOST_SETTINGS})}


def _is_setting(name: str, value: Any) -> bool:
    return not name.startswith("_") and isinstance(value, (bool, int, float, str))
