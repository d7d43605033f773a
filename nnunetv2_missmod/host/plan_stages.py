"""What nnU-Net's plan of a U-Net must hold for each of its stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nnunetv2_missmod.files.entries import FLAG, Kind, Place, is_list, is_whole

# Beyond these there is no network, but a mistake.
MOST_STAGES, MOST_FEATURES, MOST_CONVOLUTIONS, MOST_STEP, MOST_VOXELS = 32, 2**14, 128, 64, 2**14
U_NET = {
    "n_stages": Kind(partial(is_whole, least=2, most=MOST_STAGES), f"a whole number of stages, 2 to {MOST_STAGES}"),
    "conv_op": Kind(lambda value: value is not None, "the full name of a convolution"),
}

is_size = partial(is_whole, least=1, most=MOST_VOXELS)


def check_stages(configuration: Mapping[str, Any], place: Place) -> None:
    """Check what a U-Net has for each of its stages, if the network is one.

    Raises:
        ValueError: names the entry.
    """
    arch_kwargs, patch = configuration["architecture"]["arch_kwargs"], configuration["patch_size"]
    if "features_per_stage" not in arch_kwargs:
        return
    prefix = "architecture.arch_kwargs."
    place.check_all(arch_kwargs, U_NET, prefix)
    stages = arch_kwargs["n_stages"]
    place.check_all(arch_kwargs, stage_kinds(stages, len(patch), arch_kwargs), prefix)
    strides = [_for_each(stride, len(patch)) for stride in _for_each(arch_kwargs["strides"], stages)]
    whole = [math.prod(axis) for axis in zip(*strides, strict=True)]
    if any(size % stride for size, stride in zip(patch, whole, strict=True)):
        place.refuse("patch_size", f"divisible by the strides, {whole} in all", patch)


def stage_kinds(stages: int, dimensions: int, given: Mapping[str, Any]) -> dict[str, Kind]:
    """Say what a U-Net's entries with a value per stage must be; those that it may lack, if they are given."""

    def per_stage(most: int, count: int = stages) -> Kind:
        fits = partial(is_whole, least=1, most=most)
        words = f"a whole number, 1 to {most}, or {count} of them"
        return Kind(lambda value: fits(value) or is_list(value, fits, (count,)), words)

    step = partial(is_whole, least=1, most=MOST_STEP)
    per_axis = Kind(
        lambda value: (
            step(value) or is_list(value, lambda one: step(one) or is_list(one, step, (dimensions,)), (stages,))
        ),
        f"a whole number, or {stages} of them, or as many lists of {dimensions}",
    )
    optional = {
        "n_conv_per_stage": per_stage(MOST_CONVOLUTIONS),
        "n_blocks_per_stage": per_stage(MOST_CONVOLUTIONS),
        "n_conv_per_stage_decoder": per_stage(MOST_CONVOLUTIONS, stages - 1),
        "conv_bias": FLAG,
    }
    return {
        "features_per_stage": per_stage(MOST_FEATURES),
        "strides": per_axis,
        "kernel_sizes": per_axis,
        **{key: kind for key, kind in optional.items() if key in given},
    }


def _for_each(value: Any, count: int) -> Sequence[Any]:
    return [value] * count if isinstance(value, int) else value
