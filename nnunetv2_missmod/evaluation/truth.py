"""The truth of a case: its label, checked against its images, and what the scores of every subset need of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from nnunetv2_missmod.evaluation.hausdorff import edge_of
from nnunetv2_missmod.evaluation.shapes import Lesions, Surface, lesions_of, surface_of
from nnunetv2_missmod.files.reading import difference, grid_of, read_label
from nnunetv2_missmod.prediction.cases import CaseFiles
from nnunetv2_missmod.prediction.regions import LabelMap, Mask, Regions, region_mask


def check_label(
    case: CaseFiles, reader: Any, properties: dict[str, Any], shape: Sequence[int], known: set[int]
) -> None:
    """Check that a case's label is there, whole, on the grid of its images, and holds no unknown value.

    Args:
        case: with the name of the label's file.
        reader: nnU-Net's, for this file.
        properties: of the images.
        shape: of the images.
        known: values that the label may hold.

    Raises:
        ValueError: names the case, the file and what is wrong.
    """
    assert case.label is not None
    if not Path(case.label).is_file():
        raise ValueError(
            f"Case {case.name}: expected its label at {case.label}, found none. Add it or remove the images."
        )
    try:
        label, of_label = read_label(reader, case.label)
    except ValueError as error:
        raise ValueError(f"Case {case.name}: {error}.") from error
    grid, images_grid = grid_of(label.shape[1:], of_label), grid_of(shape, properties)
    if differs := difference(case.label, grid, "its images", images_grid):
        raise ValueError(
            f"Case {case.name}: expected a label with the images' geometry, got {differs}. Resample one onto the "
            "other, or correct its header."
        )
    unknown = sorted(set(np.unique(label).tolist()) - known)
    if unknown:
        raise ValueError(
            f"Case {case.name}: expected the values {sorted(known)} of dataset.json in {case.label}, got {unknown}. "
            "Convert the labels as those of the training cases."
        )


@lru_cache(maxsize=1)
def read_truth(
    label: str, reader_class: Any, regions: tuple[tuple[str, tuple[int, ...]], ...], ignored: int | None
) -> Truth:
    """Read the truth of a case; the last one is kept, since its subsets come one after the other."""
    segmentation, properties = read_label(reader_class(), label)
    return Truth(segmentation[0], properties["spacing"], dict(regions), ignored)


class Truth:
    """The truth of one case; what the scores of every subset need of it is computed once.

    An axis of length one, as nnU-Net's readers put before a 2D image, is dropped: such an image is scored by its
    contour, not by the faces of a slab.

    Args:
        segmentation: label map (x, y, z) or (x, y).
        spacing: mm along each of its axes, in their order (nnU-Net's readers give it so).
        regions: name -> labels.
        ignore_label: voxels that have it in the truth take no part in any score.
    """

    def __init__(
        self, segmentation: LabelMap, spacing: Sequence[float], regions: Regions, ignore_label: int | None = None
    ):
        if len(spacing) != segmentation.ndim or not all(0 < mm < inf for mm in spacing):
            raise ValueError(
                f"Expected a spacing in mm for each of the {segmentation.ndim} axes, got {list(spacing)} for a truth "
                f"of shape {segmentation.shape}. Give it in the array's order of axes."
            )
        self.given_shape = segmentation.shape
        spacing = [mm for mm, keep in zip(spacing, _kept_axes(segmentation.shape), strict=True) if keep]
        segmentation = _without_flat_axis(segmentation)
        if segmentation.ndim not in (2, 3):
            raise ValueError(f"Expected a truth with 2 or 3 axes, got the shape {segmentation.shape}.")
        self.ignored = None if ignore_label is None else segmentation == ignore_label
        self.num_voxels = segmentation.size if self.ignored is None else int(np.count_nonzero(~self.ignored))
        self.labels = {name: tuple(labels) for name, labels in regions.items()}
        self.regions = {
            name: TruthRegion(region_mask(segmentation, labels), tuple(spacing)) for name, labels in regions.items()
        }

    def comparable(self, prediction: LabelMap) -> LabelMap:
        """Bring a prediction of the truth's shape onto the truth's axes, background where the truth is ignored."""
        if prediction.shape != self.given_shape:
            raise ValueError(
                f"Expected a prediction of the truth's shape {self.given_shape}, got {prediction.shape}. "
                f"Are both of the same case, on the image's own grid?"
            )
        prediction = _without_flat_axis(prediction)
        return prediction if self.ignored is None else np.where(self.ignored, 0, prediction)


@dataclass(frozen=True)
class TruthRegion:
    """One region of a truth: mask (*shape), spacing in mm, and what is computed of them when first asked for."""

    mask: Mask
    spacing: tuple[float, ...]

    @cached_property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def surface(self) -> Surface:
        """Its surface; only of a region that is not empty."""
        return surface_of(self.mask, self.spacing)

    @cached_property
    def edge(self) -> KDTree:
        """Its edge voxels; only of a region that is not empty."""
        return edge_of(self.mask, self.spacing)

    @cached_property
    def lesions(self) -> Lesions:
        """Its lesions; only of a region that is not empty."""
        return lesions_of(self.mask)


def _kept_axes(shape: tuple[int, ...]) -> list[bool]:
    flat = shape.index(1) if len(shape) == 3 and 1 in shape else None
    return [axis != flat for axis in range(len(shape))]


def _without_flat_axis(segmentation: LabelMap) -> LabelMap:
    return segmentation.reshape(
        [n for n, keep in zip(segmentation.shape, _kept_axes(segmentation.shape), strict=True) if keep]
    )
