"""What the NiiVue viewer shows: the cases' images, truth and masks as compressed NIfTI within the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import SimpleITK as sitk

from nnunetv2_missmod.report.case_volumes import Case, grey, read_prediction
from nnunetv2_missmod.report.inputs import Comparison
from nnunetv2_missmod.report.overlays import region_colours, widest_slices

BUDGET = 12_000_000  # characters of base64 in the page
COARSEST = 8  # voxels that are merged along an axis, at most
SMALL = 96  # voxels along the longest axis, below which they are halved: the truth's outline is a voxel thick


def viewer_of(comparison: Comparison, encoded: Sequence[dict[str, Any] | str]) -> dict[str, Any] | None:
    """Put together what the viewer's script reads, to be written as JSON; None where no case can be shown."""
    shown = [case for case in encoded if not isinstance(case, str)]
    if not shown:
        return None
    return {
        "cases": shown,
        "labels": label_colours(comparison),
        "modalities": comparison.modalities,
        "subsets": comparison.subsets,
    }


def encode_case(comparison: Comparison, case: Case, models: list[str], budget: int) -> dict[str, Any] | str:
    """Encode a case, coarser until it fits the budget of characters; a note for what is no volume or never fits."""
    if min(case.truth.GetSize()) < 2:
        return f"{case.name} is a single slice; the viewer shows volumes only."
    images = {modality: _like(grey(image), image) for modality, image in case.images.items()}
    masks = list(_masks(comparison, case, models))
    levels = [(1, factor) for factor in range(1, COARSEST + 1)]
    for finer, factor in [(2, 1), *levels] if max(case.truth.GetSize()) < SMALL else levels:
        data = _encoded(images, case.truth, masks, finer, factor)
        size = len(data["truth"]) + sum(len(layer["data"]) for layer in (*data["images"], *data["masks"]))
        if size <= budget:
            break
    else:
        return f"{case.name} is too large for this page even at an eighth of its resolution; the viewer leaves it out."
    words = {"name": case.name, "description": case.description, "note": _note(case, factor)}
    return data | words | {"centre": centre(case), "start": start_of(data["masks"])}


def start_of(masks: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Model and subset that the viewer opens on: the largest subset of the first model; of those that the case has.

    Args:
        masks: model and subset of each mask of the case, model by model, the smallest subset first.
    """
    of_first = [mask for mask in masks if mask["model"] == masks[0]["model"]]
    return {key: of_first[-1][key] for key in ("model", "subset")} if of_first else {"model": "", "subset": ""}


def centre(case: Case) -> list[float]:
    """Where the crosshair starts, in mm to the right, front and top: where the slices with most of the truth meet."""
    indices = widest_slices(sitk.GetArrayViewFromImage(case.truth) > 0)
    left, back, top = case.truth.TransformIndexToPhysicalPoint(indices[::-1])
    return [-left, -back, top]


def label_colours(comparison: Comparison) -> list[dict[str, Any]]:
    """Every label with the colour of the smallest region that contains it."""
    regions = comparison.first.provenance.region_labels
    colours = dict(zip(comparison.regions, region_colours(len(comparison.regions)), strict=True))
    smallest: dict[int, str] = {}
    for region in sorted(comparison.regions, key=lambda region: -len(regions[region])):
        smallest |= {int(label): region for label in regions[region]}
    return [
        {"label": label, "rgb": [int(colours[region][i : i + 2], 16) for i in (1, 3, 5)]}
        for label, region in sorted(smallest.items())
        if label > 0
    ]


def _masks(comparison: Comparison, case: Case, models: list[str]) -> Iterator[tuple[str, str, sitk.Image]]:
    for model in models:
        for subset in comparison.subsets:
            mask = read_prediction(comparison.models[model], subset, case)
            if mask is not None:
                yield model, subset, mask


def _encoded(
    images: dict[str, sitk.Image],
    truth: sitk.Image,
    masks: list[tuple[str, str, sitk.Image]],
    finer: int,
    coarser: int,
) -> dict[str, Any]:
    """Encode all volumes on a grid so many times finer and coarser along each axis."""
    factors = [min(coarser, size) for size in truth.GetSize()]

    def of_image(image: sitk.Image) -> str:
        return _nifti(sitk.Expand(sitk.BinShrink(image, factors), [finer] * 3, sitk.sitkLinear))

    def of_mask(mask: sitk.Image) -> sitk.Image:
        return _labels(sitk.Expand(sitk.Shrink(mask, factors), [finer] * 3, sitk.sitkNearestNeighbor))

    return {
        "images": [{"name": name, "data": of_image(image)} for name, image in images.items()],
        "truth": _nifti(_labels(sitk.LabelContour(of_mask(truth)))),
        "masks": [{"model": model, "subset": subset, "data": _nifti(of_mask(mask))} for model, subset, mask in masks],
    }


def _labels(mask: sitk.Image) -> sitk.Image:
    return sitk.Cast(mask, sitk.sitkInt16)


def _like(array: Any, image: sitk.Image) -> sitk.Image:
    volume = sitk.GetImageFromArray(array)
    volume.CopyInformation(image)
    return volume


def _nifti(volume: sitk.Image) -> str:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "volume.nii.gz"
        sitk.WriteImage(volume, str(file), useCompression=True, compressionLevel=9)
        return base64.b64encode(file.read_bytes()).decode()


def _note(case: Case, factor: int) -> str:
    cropped = f"cropped to what is not background ({_times(case.truth.GetSize())} of {_times(case.size)} voxels)"
    coarser = f", then reduced {factor} times along each axis to keep this page small" if factor > 1 else ""
    return f"Volumes are {cropped}, intensities are reduced to 256 grey values{coarser}."


def _times(size: tuple[int, ...]) -> str:
    return " × ".join(map(str, size))
