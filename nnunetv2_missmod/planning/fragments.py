"""Merging a fragment of ``plans/`` into a dataset's nnU-Net plan."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_missmod.files.whole_files import write_whole
from nnunetv2_missmod.host.plan_checks import check_entries, place_of
from nnunetv2_missmod.host.plan_stages import check_stages
from nnunetv2_missmod.host.planner import topology_for

REMARK = "//"
PER_STAGE = ("features_per_stage", "n_conv_per_stage", "n_blocks_per_stage", "n_conv_per_stage_decoder")
TOPOLOGY = {"strides", "kernel_sizes", "n_stages"}


def load_fragment(file: Path) -> dict[str, Any]:
    """Read a fragment: keys of a plan's configuration and the block ``missmod``; its keys with // are remarks.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    return {key: value for key, value in _read(file).items() if not key.startswith(REMARK)}


def load_sources(file: Path) -> dict[str, str]:
    """Read where the numbers of a fragment are from: its remark //, by the names of the settings."""
    sources = _read(file).get(REMARK, {})
    return sources if isinstance(sources, dict) else {}


def merge_fragment(
    plans: Mapping[str, Any], configuration: str, fragment: Mapping[str, Any], plans_name: str
) -> dict[str, Any]:
    """Copy a plan under a new name with a fragment merged into one configuration.

    The preprocessed data stays the same (same ``data_identifier``). When the fragment changes the patch, the
    network's topology is fitted to it by nnU-Net's own rules, unless the fragment says what it is.

    Raises:
        ValueError: the fragment sets something that a configuration does not have, or to what it cannot be.
    """
    renamed = {**copy.deepcopy(dict(plans)), "plans_name": plans_name}
    resolved = copy.deepcopy(PlansManager(renamed).get_configuration(configuration).configuration)
    resolved.pop("inherits_from", None)
    unknown = sorted(set(fragment) - {*resolved, "missmod"})
    if unknown:
        raise ValueError(f"Expected keys of a plan's configuration, got {unknown}. Known are: {', '.join(resolved)}.")
    dimensions = len(resolved["patch_size"])
    resolved = merged(resolved, fragment)
    patch, place = resolved["patch_size"], place_of("The merged plan", configuration)
    if isinstance(patch, list) and len(patch) != dimensions:
        raise ValueError(f"Expected a patch of {dimensions} axes for {configuration}, got {patch}.")
    check_entries(resolved, place)
    if "patch_size" in fragment and not TOPOLOGY & set(fragment.get("architecture", {}).get("arch_kwargs", {})):
        fit_topology(resolved)
    fit_stages(resolved)
    check_stages(resolved, place)
    renamed["configurations"][configuration] = resolved
    return renamed


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a fragment with another merged into it, tables within tables as well."""
    nested = {
        key: merged(base[key], value)
        for key, value in change.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**base, **change, **nested}


def write_plans(plans: Mapping[str, Any], preprocessed: Path) -> Path:
    """Write a plan beside the others of its dataset.

    Args:
        plans: the plan.
        preprocessed: the folder nnUNet_preprocessed.

    Returns:
        The file, named as nnU-Net looks for it (-p).
    """
    file = preprocessed / str(plans["dataset_name"]) / f"{plans['plans_name']}.json"
    text = json.dumps(plans, indent=4)
    write_whole(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return file


def fit_topology(configuration: dict[str, Any]) -> None:
    """Give the configuration the strides and kernels that nnU-Net plans for its patch, rounding the patch up to fit."""
    strides, kernels, configuration["patch_size"] = topology_for(configuration["spacing"], configuration["patch_size"])
    arch_kwargs = configuration["architecture"]["arch_kwargs"]
    arch_kwargs.update(strides=strides, kernel_sizes=kernels, n_stages=len(strides))


def fit_stages(configuration: dict[str, Any]) -> None:
    """Shorten the lists that have a value per stage to the stages there are, or repeat their last value."""
    arch_kwargs = configuration["architecture"]["arch_kwargs"]
    for key in PER_STAGE:
        if isinstance(arch_kwargs.get(key), list):
            count = arch_kwargs["n_stages"] - key.endswith("decoder")
            values = arch_kwargs[key]
            arch_kwargs[key] = (values + values[-1:] * count)[:count]


def _read(file: Path) -> dict[str, Any]:
    try:
        fragment: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"Expected a fragment of a plan, as JSON, at {file}: {error}") from error
    if not isinstance(fragment, dict):
        raise ValueError(f"Expected a fragment of a plan, keys with values in braces, at {file}, got {fragment!r}.")
    return fragment
