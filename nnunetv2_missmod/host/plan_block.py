"""``configuration["missmod"]``, this package's own block of a plan: what it may hold, and what it sets for whom.

nnU-Net keeps what a configuration holds beyond its own entries, and copies it with the plan into every trained model.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

RANGES = {"num_epochs": (1, None), "num_iterations_per_epoch": (1, None), "oversample_foreground_percent": (0, 1)}


def plan_block(configuration_manager: ConfigurationManager) -> dict[str, dict[str, Any]]:
    """Read ``configuration["missmod"]``, this package's own block of a plan: its parts ``trainer`` and ``network``.

    Raises:
        ValueError: the block has other parts.
    """
    block = configuration_manager.configuration.get("missmod", {})
    if not isinstance(block, Mapping):
        raise ValueError(f"Expected the plan's missmod block to hold trainer and network, got {block!r}.")
    check_overrides(block, {"trainer": {}, "network": {}}, "parts of it")
    return dict(block)


def needed_channels(configuration_manager: ConfigurationManager) -> tuple[int, ...]:
    """Read the channels of the modalities that a dedicated model needs, and the only ones that it looks at.

    Returns:
        The network constant ``subset``, sorted; empty for a model that takes any subset.

    Raises:
        ValueError: it is no list of channels.
    """
    found = plan_block(configuration_manager).get("network", {}).get("subset")
    return () if found is None else checked_subset(found, len(configuration_manager.normalization_schemes))


def checked_subset(subset: Any, num_modalities: int) -> tuple[int, ...]:
    """Check the network constant ``subset`` and give the channels in ascending order.

    Raises:
        ValueError: it is not given, or is no list of different channels of the modalities.
    """
    channels = subset if isinstance(subset, (list, tuple)) else ()
    are_modalities = all(type(channel) is int and 0 <= channel < num_modalities for channel in channels)
    if not channels or not are_modalities or len(set(channels)) < len(channels):
        raise ValueError(
            "Expected the network's constant subset to list channels of the modalities, of 0 to "
            f"{num_modalities - 1}, each once, got {subset!r}. The trainer sets it by the names that the plan has: "
            "missmod plan --subset T1c+FLAIR, for instance."
        )
    return tuple(sorted(channels))


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


def check_overrides(overrides: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    """Check that a plan's overrides name known values and keep their type; numbers are finite, 0 or more.

    Raises:
        ValueError: lists the known names, or says which type was expected.
    """
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        listed = ", ".join(f"{name} = {value!r}" for name, value in sorted(known.items())) or "none"
        raise ValueError(f"The plan's missmod block sets {unknown}, which are no {what}. Known are: {listed}.")
    for name, value in overrides.items():
        if wrong := _whats_wrong(value, known[name]):
            raise ValueError(
                f"The plan's missmod block sets {name} = {value!r}; expected {wrong} ({what}). Correct it in the plans "
                "file."
            )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check a setting that is one of a few words.

    Raises:
        ValueError: it is another; the words are listed.
    """
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {', '.join(choices)}, got {value!r}. Correct it in the plan.")


def _check_range(name: str, value: Any) -> None:
    least, most = RANGES[name]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (value < least or (most is not None and value > most)):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(
            f"The plan's missmod block sets {name} = {value!r}; expected {wanted}. Correct it in the plan."
        )


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return default is None or isinstance(value, type(default))


def _whats_wrong(value: Any, default: Any) -> str:
    """Say what was expected in place of a value; empty if nothing is wrong with it."""
    if not _fits(value, default):
        return f"a value like {default!r}"
    if isinstance(value, str) and (wanted := _wanted_text(value, default)):
        return wanted
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    least = -sys.float_info.max if isinstance(default, (int, float)) and default < 0 else 0
    is_one = least <= value <= sys.float_info.max  # NaN is not
    return "" if is_one else f"a finite number{' of 0 or more' * (least == 0)} like {default!r}"


def _wanted_text(value: str, default: Any) -> str:
    """Say what was expected in place of a text, which is never a path; empty if nothing is wrong with it."""
    if default == "":  # what by default is not said names something of the dataset, such as modalities
        return "" if value.isprintable() and not {"/", "\\"} & {*value} else "a name without / and \\"
    return "" if value.isidentifier() else f"a word like {default!r}"  # a word that a trainer knows
