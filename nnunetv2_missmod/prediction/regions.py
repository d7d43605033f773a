"""The regions that are predicted and scored: one or more labels each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Regions = Mapping[str, Sequence[int]]
LabelMap = NDArray[Any]
Mask = NDArray[np.bool_]


def regions_of(dataset_json: dict[str, Any]) -> Regions:
    """List the regions that are scored: those of dataset.json without the background and what is ignored."""
    labels = dataset_json["labels"]
    as_lists = {name: [int(x) for x in np.atleast_1d(labels[name])] for name in labels if name != "ignore"}
    return {name: values for name, values in as_lists.items() if values != [0]}


def known_values(dataset_json: dict[str, Any]) -> set[int]:
    """Collect the values that a label may hold, the background and what is ignored among them."""
    return {0} | {int(value) for values in dataset_json["labels"].values() for value in np.atleast_1d(values)}


def region_mask(segmentation: LabelMap, labels: Sequence[int]) -> Mask:
    """Find the voxels (*shape) bool of a label map (*shape) whose label belongs to a region."""
    mask = np.zeros(segmentation.shape, dtype=bool)
    for label in labels:
        mask |= segmentation == label
    return mask
