"""nnU-Net's planners: found by name, asked again with another idea of memory, and their rules of topology.

Relies on nnunetv2/experiment_planning/experiment_planners/default_experiment_planner.py: a planner reads dataset.json
and the fingerprint from nnUNet_raw and nnUNet_preprocessed; ``get_plans_for_configuration`` shrinks the patch until
``static_estimate_VRAM_usage``, which is asked for every patch from the largest down, is below the reference value,
scaled by the target over the reference's GB; and on network_topology.py: ``get_pool_and_conv_props``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nnunetv2
import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunetv2_missmod.host.fingerprint import FINGERPRINT
from nnunetv2_missmod.host.folders import temporary_nnunet_folders

SMALLEST_FEATURE_MAP = 4  # voxels along an axis of the bottleneck
SMALLEST_BATCH = 2
LARGEST_SHARE = 0.05  # of the dataset's voxels in one batch

PatchMemory = Callable[[Sequence[int], dict[str, Any]], float]  # bytes that a patch needs with an architecture


def find_planner(
    name: Any, dataset_name: str, dataset_json: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> ExperimentPlanner:
    """Build the planner of a plan's ``experiment_planner_used``; the images need not be there any more.

    Raises:
        LookupError: nnU-Net has none of this name.
    """
    found = _find_class(name) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, ExperimentPlanner)):
        raise LookupError(name)
    with temporary_nnunet_folders() as folder_of_all:
        folder = folder_of_all / dataset_name
        folder.mkdir()
        no_files = {**dataset_json, "dataset": {}}  # else nnU-Net starts a pool of processes to list them
        save_json(no_files, folder / "dataset.json")
        save_json(dict(fingerprint), folder / FINGERPRINT)
        return found(dataset_name)


def plan_configuration(
    planner: ExperimentPlanner, base: Mapping[str, Any], memory_of: PatchMemory, target: float
) -> dict[str, Any]:
    """Ask a planner for a configuration again, with other memory in place of its estimate.

    Args:
        planner: that made the plan.
        base: the configuration: its spacing, median image and identifier.
        memory_of: bytes that a patch needs, with an architecture as it stands in a plan.
        target: bytes there are for the smallest batch.
    """

    def estimate(patch: Any, channels: int, classes: int, network: str, arch_kwargs: Any, named: Any) -> float:
        architecture = {"network_class_name": network, "arch_kwargs": arch_kwargs, "_kw_requires_import": named}
        return memory_of(patch, architecture)

    planner.static_estimate_VRAM_usage = estimate
    planner.UNet_vram_target_GB = planner.UNet_reference_val_corresp_GB = 1
    planner.UNet_reference_val_2d = planner.UNet_reference_val_3d = target
    planner.UNet_reference_val_corresp_bs_2d = planner.UNet_reference_val_corresp_bs_3d = SMALLEST_BATCH
    spacing, shape = (np.array(base[key]) for key in ("spacing", "median_image_size_in_voxels"))
    planned: dict[str, Any] = planner.get_plans_for_configuration(spacing, shape, base["data_identifier"], 1.0, {})
    return planned


def topology_for(spacing: Sequence[float], patch: Sequence[int]) -> tuple[list[Any], list[Any], list[int]]:
    """Plan strides and kernels by stage for a patch, and round the patch up to fit them."""
    _, strides, kernels, fitted, _ = get_pool_and_conv_props(spacing, patch, SMALLEST_FEATURE_MAP, np.inf)
    return [list(stride) for stride in strides], [list(kernel) for kernel in kernels], [int(size) for size in fitted]


def as_written(configuration: dict[str, Any]) -> dict[str, Any]:
    """Give a planned configuration as nnU-Net's file of it is read back: plain numbers and lists."""
    recursive_fix_for_json_export(configuration)
    plain: dict[str, Any] = json.loads(json.dumps(configuration))
    return plain


@cache
def _find_class(name: str) -> Any:
    folder = str(Path(nnunetv2.__path__[0]) / "experiment_planning")
    return recursive_find_python_class(folder, name, "nnunetv2.experiment_planning")
