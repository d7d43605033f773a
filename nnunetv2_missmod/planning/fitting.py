"""Patch, batch and widths for a GPU memory target, by nnU-Net's own planner and a trainer's real memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_missmod.files.entries import Kind, Place, is_list, is_positive, is_whole
from nnunetv2_missmod.host.planner import LARGEST_SHARE, SMALLEST_BATCH, as_written, find_planner, plan_configuration
from nnunetv2_missmod.planning.dataset import PlannedDataset
from nnunetv2_missmod.planning.gpu_memory import GB

Configuration = dict[str, Any]
MemoryOf = Callable[[Configuration], float]  # bytes that a configuration needs

WIDTHS = (1.0, 3 / 4, 1 / 2, 3 / 8, 1 / 4)  # of nnU-Net's features per stage
LEAST_SHARE = 0.5  # of the original plan's patch, in voxels, below which the network is narrowed instead
SMALLEST_PATCH = 16  # voxels along its longest axis; what does not fit there is not made smaller
HOPELESS = 1.5  # times the target: a patch whose share of a larger one's memory is beyond that is not tried


class PatchTooSmallError(Exception):
    """A search ended at a patch that is not worth having, or at the smallest, which does not fit."""


@dataclass
class Search:
    """The memory of one width's patches, as nnU-Net's planner asks for them from the largest down.

    Args:
        base: the configuration whose patch and architecture are sought.
        memory_of: bytes of a configuration.
        target: bytes.
        width: factor on the features per stage.
        least_voxels: a patch below ends the search.

    Attributes:
        per_voxel: bytes for each voxel of the last patch; 0 where they are not known.
        smallest: bytes that the smallest patch needs, once it was tried.
    """

    base: Configuration
    memory_of: MemoryOf
    target: float
    width: float
    least_voxels: float
    per_voxel: float = field(default=0.0, init=False)
    smallest: float = field(default=math.inf, init=False)

    def __call__(self, patch: Sequence[int], architecture: dict[str, Any]) -> float:
        """Answer in place of nnU-Net's estimate.

        Raises:
            PatchTooSmallError: the patch is below the least, or the smallest does not fit.
        """
        voxels = math.prod(map(int, patch))
        if voxels < self.least_voxels:
            raise PatchTooSmallError
        is_smallest = max(patch) <= SMALLEST_PATCH
        if not is_smallest and self.per_voxel * voxels > HOPELESS * self.target:
            return self.per_voxel * voxels
        memory = self.memory_of(with_network(self.base, patch, SMALLEST_BATCH, architecture, self.width))
        self.per_voxel = memory / voxels if math.isfinite(memory) else 0
        if is_smallest:
            self.smallest = memory
            if memory > self.target:
                raise PatchTooSmallError
        return memory


def fit(dataset: PlannedDataset, name: str, memory_of: MemoryOf, target: float) -> Configuration:
    """Find the largest patch that fits at nnU-Net's widths, else at narrower ones, and then the batch.

    Args:
        dataset: with the plan to start from.
        name: of its configuration.
        memory_of: bytes that a configuration needs.
        target: bytes there are.

    Returns:
        The configuration with patch, batch and architecture changed, and nothing else.

    Raises:
        ValueError: nothing fits, or the plan's planner cannot be asked.
    """
    base = configuration_of(dataset.plans, name)
    sizes = zip(base["patch_size"], base["median_image_size_in_voxels"], strict=True)
    least = LEAST_SHARE * math.prod(min(patch, median) for patch, median in sizes)
    planner = planner_of(dataset)
    for width in WIDTHS:
        search = Search(base, memory_of, target, width, least if width != WIDTHS[-1] else 0)
        try:
            planned = plan_configuration(planner, base, search, target)
        except PatchTooSmallError:
            continue
        fitted = with_network(base, planned["patch_size"], SMALLEST_BATCH, planned["architecture"], width)
        return {**fitted, "batch_size": fit_batch(fitted, memory_of, target, voxels_of(dataset, base))}
    raise ValueError(
        f"Expected a GPU memory target that {name} fits in, got {target / GB:.1f} GB: a patch of "
        f"{SMALLEST_PATCH} voxels and a quarter of the features need {search.smallest / GB:.1f} GB. Raise "
        "-gpu_memory_target, or plan another trainer."
    )


def fit_batch(configuration: Configuration, memory_of: MemoryOf, target: float, voxels: float) -> int:
    """Find the largest batch within the target, and within 5 % of the dataset's voxels as in nnU-Net; at least 2."""
    two, three = (memory_of({**configuration, "batch_size": SMALLEST_BATCH + more}) for more in (0, 1))
    fitting = SMALLEST_BATCH + int(max(target - two, 0) / max(three - two, 1))
    covered = round(LARGEST_SHARE * voxels / math.prod(configuration["patch_size"]))
    batch = max(min(fitting, covered), SMALLEST_BATCH)
    while batch > SMALLEST_BATCH and memory_of({**configuration, "batch_size": batch}) > target:
        batch -= 1  # memory grows a little faster than from two samples to three
    return batch


def configuration_of(plans: Mapping[str, Any], name: str) -> Configuration:
    """Copy a configuration with all that it inherits."""
    resolved = copy.deepcopy(PlansManager(dict(plans)).get_configuration(name).configuration)
    return {key: value for key, value in resolved.items() if key != "inherits_from"}


def with_network(
    base: Configuration, patch: Sequence[int], batch_size: int, architecture: Mapping[str, Any], width: float
) -> Configuration:
    """Give a configuration another patch, batch and network, its features scaled in steps of 8."""
    changed = copy.deepcopy({**base, "patch_size": patch, "batch_size": batch_size, "architecture": dict(architecture)})
    arch_kwargs = changed["architecture"]["arch_kwargs"]
    arch_kwargs["features_per_stage"] = [
        features if width == 1 else max(8, 8 * round(width * features / 8))
        for features in arch_kwargs["features_per_stage"]
    ]
    return as_written(changed)


def voxels_of(dataset: PlannedDataset, configuration: Configuration) -> float:
    """Count the voxels of the training cases, as nnU-Net does: those of the median case for each.

    Raises:
        ValueError: plan or dataset.json do not say how many and how large they are.
    """
    median = Kind(lambda value: is_list(value, is_positive, (3,)), "three numbers above 0")
    Place("The plan").check_all(dataset.plans, {"original_median_shape_after_transp": median})
    Place("dataset.json").check_all(dataset.json, {"numTraining": Kind(is_whole, "a whole number")})
    shape = configuration["median_image_size_in_voxels"]
    slices = dataset.plans["original_median_shape_after_transp"][: 3 - len(shape)]
    return float(math.prod([*slices, *shape]) * dataset.json["numTraining"])


def planner_of(dataset: PlannedDataset) -> Any:
    """Build the planner that made a plan, from the fingerprint.

    Raises:
        ValueError: nnU-Net has none of this name.
    """
    name = dataset.plans.get("experiment_planner_used")
    try:
        return find_planner(name, dataset.folder.name, dataset.json, dataset.fingerprint)
    except LookupError as error:
        raise ValueError(
            f"Expected a plan of one of nnU-Net's planners, got experiment_planner_used = {name!r}, which is none. "
            "Plan the dataset with nnUNetv2_plan_experiment, or use --setting paper, which asks no planner."
        ) from error
