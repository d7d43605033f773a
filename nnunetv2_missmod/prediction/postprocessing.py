"""Post-processing that papers publish: a predicted region that is too small to be one is removed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnunetv2_missmod.prediction.regions import LabelMap, Regions, region_mask


def check_min_voxels(min_voxels: Mapping[str, int], regions: Regions) -> None:
    """Check before anything is predicted that small regions can be removed.

    Raises:
        ValueError: a region is unknown, its minimum is no count, or no label stands for what would remain of it.
    """
    for name, fewest in min_voxels.items():
        if name not in regions:
            raise ValueError(
                f"Expected a minimum of voxels for regions out of {', '.join(regions)}, got one for {name!r}."
            )
        if fewest < 0:
            raise ValueError(f"Expected a minimum of 0 voxels or more for {name}, got {fewest}.")
        _labels_without(name, regions)


def remove_small_regions(segmentation: LabelMap, regions: Regions, min_voxels: Mapping[str, int]) -> LabelMap:
    """Remove the regions of a prediction that have fewer voxels than they must.

    A voxel of a removed region keeps the labels of the regions that it still belongs to: those that do not lie
    within the removed one. So a small enhancing tumour becomes tumour core, as BraTS papers have it (Isensee et al.
    2020, arXiv:2011.00848), and a small core is removed with the enhancing tumour in it.

    Args:
        segmentation: label map (*shape); it is not changed.
        regions: name -> labels.
        min_voxels: name -> voxels, applied in this order.

    Raises:
        ValueError: as ``check_min_voxels``.
    """
    check_min_voxels(min_voxels, regions)
    for name, fewest in min_voxels.items():
        if np.count_nonzero(region_mask(segmentation, regions[name])) < fewest:
            before, segmentation = segmentation, segmentation.copy()
            for label, remaining in _labels_without(name, regions).items():
                segmentation[before == label] = remaining
    return segmentation


def _labels_without(removed: str, regions: Regions) -> dict[int, int]:
    """Find for each label of a removed region the label of the regions that remain; 0 is the background."""
    inside = {name for name, labels in regions.items() if set(labels) <= set(regions[removed])}
    regions_of = {0: set[str]()}
    for name, labels in regions.items():
        for label in labels:
            regions_of.setdefault(label, set()).add(name)
    standing_for = {frozenset(names): label for label, names in reversed(regions_of.items())}
    try:
        return {label: standing_for[frozenset(regions_of[label] - inside)] for label in regions[removed]}
    except KeyError as error:
        (remaining,) = error.args
        raise ValueError(
            f"Expected a label for what lies in {' and '.join(sorted(remaining))} but not in {removed}, got none in "
            f"{dict(regions)}. Give no minimum of voxels for {removed}."
        ) from None
