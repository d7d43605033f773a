"""The cases that the report shows: their images, truth and predictions, all in one orientation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunetv2_missmod.evaluation.provenance import PROVENANCE
from nnunetv2_missmod.files.whole_files import check_whole
from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.models import Model

Box = tuple[slice, slice, slice]
WINDOW = 0.5, 99.5  # percentiles of what is not background
HEADROOM = 1.15  # of the window above them: in FLAIR, what is brighter is the lesion


@dataclass(frozen=True)
class Case:
    """One case cropped to what is not background, in LPS orientation: x to the left, y to the back, z up.

    ``images`` holds the modalities whose files are there, ``truth`` the label map.
    """

    name: str
    description: str
    images: dict[str, sitk.Image]
    truth: sitk.Image
    box: Box
    size: tuple[int, int, int]


def with_predictions(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Names of the models whose predictions are there, and notes on the others."""
    places = {name: predictions_of(model) for name, model in comparison.models.items()}
    found = [name for name, place in places.items() if place is not None and place.is_dir()]
    reasons = {
        name: "evaluated with --no-save" if place is None else f"none in {place.parent.name}/{place.name}"
        for name, place in places.items()
        if name not in found
    }
    notes = [
        f"{name}: no predictions ({reason}), so it has no overlays and is not in the viewer."
        for name, reason in reasons.items()
    ]
    return found, notes


def read_cropped_case(comparison: Comparison, name: str, description: str) -> Case | str:
    """Read images and truth of a case; a note when there is no image or no truth."""
    provenance = comparison.first.provenance
    images, labels = (comparison.first.folder / place for place in (provenance.images, provenance.labels))
    files = {m: images / f"{name}_{i:04d}{provenance.file_ending}" for i, m in enumerate(comparison.modalities)}
    found = {modality: file for modality, file in files.items() if file.is_file()}
    truth_file = labels / f"{name}{provenance.file_ending}"
    if not found or not truth_file.is_file():
        what = "images" if not found else "truth"
        return (
            f"{name}: its {what} are not where {PROVENANCE} says, so it has no overlays and no viewer. Report on the "
            f"machine that holds the data, or write the data's place there."
        )
    truth, volumes = read_in_lps(truth_file), {modality: read_in_lps(file) for modality, file in found.items()}
    for modality, volume in volumes.items():
        _check_size(volume, found[modality], truth, truth_file)
    box = foreground(volumes, truth)
    cropped = {modality: volume[box] for modality, volume in volumes.items()}
    return Case(name, description, cropped, truth[box], box, truth.GetSize())


def predictions_of(model: Model) -> Path | None:
    """Folder of a model's predictions; None when they were not kept."""
    place = model.provenance.predictions
    return None if place is None else model.folder / place


def read_prediction(model: Model, subset: str, case: Case) -> sitk.Image | None:
    """Read a subset's label map of a case, cropped as the case is; None when there is no file."""
    model = model.predicting(subset)
    folder = predictions_of(model)
    file = None if folder is None else folder / subset / f"{case.name}{model.provenance.file_ending}"
    if file is None or not file.is_file():
        return None
    volume = read_in_lps(file)
    if volume.GetSize() != case.size:
        raise ValueError(
            f"Expected {file} to have the truth's size {case.size}, got {volume.GetSize()}. Predict this case anew."
        )
    return volume[case.box]


def read_in_lps(file: Path) -> sitk.Image:
    """Read a volume in LPS orientation; a 2D image becomes a volume of one slice."""
    try:
        check_whole(file)
        volume = sitk.ReadImage(str(file))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"Expected a readable image in {file}, but {reason}. Restore or predict it anew.") from error
    if volume.GetNumberOfComponentsPerPixel() > 1:
        volume = sitk.VectorIndexSelectionCast(volume, 0)
    return sitk.DICOMOrient(volume, "LPS") if volume.GetDimension() == 3 else sitk.JoinSeries(volume)


def foreground(images: dict[str, sitk.Image], truth: sitk.Image) -> Box:
    """Slices (x, y, z) around all that is neither an image's background nor the truth's."""
    inside: NDArray[np.bool_] = sitk.GetArrayViewFromImage(truth) > 0
    for image in images.values():
        array = _intensities(image)
        inside = inside | (array != background_of(array))
    if not inside.any():
        inside = np.ones_like(inside)
    return _bounds(inside, (0, 1), 2), _bounds(inside, (0, 2), 1), _bounds(inside, (1, 2), 0)


def background_of(array: NDArray[np.float32]) -> float:
    """The value of most corners; where they differ, as in air that was not masked, the lowest of all.

    It need not be the lowest: resampling overshoots, and z-scores have their zero in the middle.
    """
    corners = array[np.ix_(*[[0, -1]] * array.ndim)]
    values, counts = np.unique(corners, return_counts=True)
    return float(values[counts.argmax()] if 2 * counts.max() > corners.size else array.min())


def grey(image: sitk.Image) -> NDArray[np.uint8]:
    """Intensities (z, y, x) as grey values: ``WINDOW`` and its headroom; the background is black."""
    array = _intensities(image)
    background = background_of(array)
    inside = array[array != background]
    low, high = np.percentile(inside, WINDOW) if inside.size else (0.0, 1.0)
    low = min(low, 0.0) if background == 0 == array.min() else low
    width = max(HEADROOM * (high - low), 1e-6)
    scaled: NDArray[np.uint8] = (np.clip((array - low) / width, 0, 1) * 255).astype(np.uint8)
    scaled[array == background] = 0
    return scaled


def _intensities(image: sitk.Image) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.nan_to_num(sitk.GetArrayFromImage(image).astype(np.float32))
    return array


def _bounds(inside: NDArray[np.bool_], others: tuple[int, int], axis: int) -> slice:
    places = np.flatnonzero(inside.any(axis=others))
    return slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, inside.shape[axis]))


def _check_size(volume: sitk.Image, file: Path, truth: sitk.Image, truth_file: Path) -> None:
    if volume.GetSize() != truth.GetSize():
        raise ValueError(
            f"Expected images of the truth's size {truth.GetSize()} in {truth_file}, got {volume.GetSize()} in {file}. "
            f"Give the images that were evaluated."
        )
