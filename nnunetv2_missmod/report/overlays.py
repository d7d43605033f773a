"""Overlays: contours of truth and prediction on the images, for every subset, in three planes."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
import seaborn as sns
import SimpleITK as sitk
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image

from nnunetv2_missmod.report.case_volumes import Case, grey, read_prediction
from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.metric_names import METRICS

PLANES = ("axial", "coronal", "sagittal")  # across axis 0, 1, 2 of an array (z, y, x) in LPS orientation
COLOURS = ("#ff9f1c", "#ff4d5e", "#3fc5f0", "#7ddc5a", "#c58bff", "#ffe14d")
MOST_PIXELS = 256  # along an axis of a picture


class Plane(NamedTuple):
    """One slice of a case, width and height in mm: its pictures by channel, the truth's paths by region.

    The paths and ``columns`` and ``rows`` are in half voxels.
    """

    name: str
    columns: int
    rows: int
    width: float
    height: float
    pictures: dict[str, str]
    truth: list[str]


class Prediction(NamedTuple):
    """One subset's paths: a list of planes, each a list of regions; the channel under it; its Dice by region."""

    subset: str
    background: str
    paths: list[list[str]]
    dice: list[str]


class Overlay(NamedTuple):
    """All that the report shows of one case."""

    case: Case
    planes: list[Plane]
    predictions: dict[str, list[Prediction]]


def region_colours(count: int) -> list[str]:
    """A colour for each region that stands out from grey."""
    return list(COLOURS[:count] if count <= len(COLOURS) else sns.husl_palette(count, l=0.7).as_hex())


def draw_overlay(comparison: Comparison, case: Case, models: list[str]) -> Overlay:
    """Pictures of a case and the contours of every subset's prediction by each of the models."""
    labels = list(comparison.first.provenance.region_labels[region] for region in comparison.regions)
    truth = sitk.GetArrayFromImage(case.truth)
    indices = widest_slices(np.isin(truth, np.concatenate(labels)))
    axes = [axis for axis in range(3) if min(np.delete(truth.shape, axis)) > 1]
    greys = {modality: grey(image) for modality, image in case.images.items()}
    planes = [_plane(case, greys, truth, axis, indices[axis], labels) for axis in axes]
    predictions: dict[str, list[Prediction]] = {model: [] for model in models}
    for model in models:
        for subset, present in comparison.subsets.items():
            mask = read_prediction(comparison.models[model], subset, case)
            if mask is None:
                continue
            array = sitk.GetArrayViewFromImage(mask)
            paths = [[contours(np.isin(cut(array, a, indices[a]), ls)) for ls in labels] for a in axes]
            background = next((m for m in present if m in greys), next(iter(greys)))
            predictions[model].append(Prediction(subset, background, paths, _dice(comparison, case, model, subset)))
    return Overlay(case, planes, predictions)


def cut(array: NDArray[np.generic], axis: int, index: int) -> NDArray[np.generic]:
    """Slice (rows, columns) of an array (z, y, x) in LPS orientation, front or head up."""
    plane: NDArray[np.generic] = np.take(array, index, axis)
    return plane if axis == 0 else plane[::-1]


def widest_slices(inside: NDArray[np.bool_]) -> list[int]:
    """Index along each axis of the slice with most of the truth; the middle when there is none."""
    if not inside.any():
        return [size // 2 for size in inside.shape]
    return [int(inside.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]


def contours(mask: NDArray[np.bool_]) -> str:
    """SVG path, in half pixels and whole numbers, around the pixels of a mask (rows, columns)."""
    lines = contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
    return "".join(_path(np.rint(2 * np.asarray(line) - 1).astype(int)) for line in lines)


def _path(points: NDArray[np.int_]) -> str:
    """Relative, with only the points where the direction changes."""
    steps = np.diff(points, axis=0)
    turns = np.flatnonzero((steps[1:] != steps[:-1]).any(axis=1)) + 1
    kept = points[[0, *turns]]
    return "M" + "{} {}l".format(*kept[0]) + " ".join(f"{x} {y}" for x, y in np.diff(kept, axis=0)) + "z"


def _plane(
    case: Case,
    greys: dict[str, NDArray[np.uint8]],
    truth: NDArray[np.generic],
    axis: int,
    index: int,
    labels: list[list[int]],
) -> Plane:
    section = cut(truth, axis, index)
    rows, columns = section.shape
    spacing = np.delete(case.truth.GetSpacing()[::-1], axis)  # mm of a row and of a column
    pictures = {modality: _picture(cut(array, axis, index)) for modality, array in greys.items()}
    paths = [contours(np.isin(section, region)) for region in labels]
    width, height = round(float(columns * spacing[1]), 1), round(float(rows * spacing[0]), 1)
    return Plane(PLANES[axis], 2 * columns, 2 * rows, width, height, pictures, paths)


def _picture(plane: NDArray[np.generic]) -> str:
    """Grey PNG as a data URI, no longer than MOST_PIXELS."""
    picture, stream = Image.fromarray(np.ascontiguousarray(plane)), io.BytesIO()
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _dice(comparison: Comparison, case: Case, model: str, subset: str) -> list[str]:
    scores = comparison.trainings_of(model)[0]  # whose masks are drawn
    rows = scores[(scores["case"] == case.name) & (scores["subset"] == subset)]
    values = rows.set_index("region")["dice"].reindex(comparison.regions)
    return [METRICS[0].text(value) for value in values]
