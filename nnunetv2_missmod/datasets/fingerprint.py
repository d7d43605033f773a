"""nnU-Net's fingerprint of a dataset in which some cases lack modalities: their zeros are no intensities.

nnU-Net finds fingerprint extractors inside nnunetv2 alone, but keeps a fingerprint that is already there unless it is
called with --clean: this one is written before nnU-Net plans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from numpy.typing import NDArray

from nnunetv2_missmod.datasets.layouts.described import DESCRIPTION, check_nnunet, description_of
from nnunetv2_missmod.datasets.raw_folder import write_json
from nnunetv2_missmod.files.dataset_json import channel_names
from nnunetv2_missmod.files.reading import read_images, read_label
from nnunetv2_missmod.host.cropping import cropped_to_nonzero
from nnunetv2_missmod.host.fingerprint import FINGERPRINT, NUM_VOXELS, PERCENTILES, foreground_intensities
from nnunetv2_missmod.host.preprocessor import varying
from nnunetv2_missmod.host.raw_dataset import reader_class_for, training_files
from nnunetv2_missmod.machine.parallel import in_processes

CaseFiles = tuple[str, list[str], str]  # name, images in channel order, labels


class CaseFingerprint(NamedTuple):
    """What one case adds to the fingerprint; `intensities` of its foreground, None for an absent channel."""

    shape_after_crop: tuple[int, ...]
    spacing: Sequence[float]
    intensities: list[NDArray[np.float32] | None]
    relative_size: float


def cohort_fingerprint(
    folder: Path, processes: int = 8, added: Sequence[Path] = (), num_voxels: float = NUM_VOXELS
) -> dict[str, Any]:
    """Find the fingerprint of a raw dataset as nnU-Net does, but for the channels that a case lacks.

    Those add no intensities. Everything else (crop, spacings, how many voxels are drawn from a case and with which
    seed) is nnU-Net's.

    Args:
        folder: DatasetXXX_Name.
        processes: that read cases.
        added: images of its cases that lie elsewhere as yet.
        num_voxels: whose intensities are drawn in all.

    Raises:
        ValueError: dataset.json is not nnU-Net's, a case cannot be read, or no case shows foreground in some channel.
    """
    description = description_of(folder)
    check_nnunet(folder / DESCRIPTION, description)
    names = channel_names(description)
    cases = _training_files(folder, description, added)
    reader_class = reader_class_for(description, cases[0][1][0])
    analyze = partial(
        analyze_case, reader_class=reader_class, num_samples=int(num_voxels // len(cases)), num_channels=len(names)
    )
    analyzed = in_processes(analyze, cases, processes, "Extracting dataset fingerprint")
    return {
        "spacings": [[float(axis) for axis in case.spacing] for case in analyzed],
        "shapes_after_crop": [[int(axis) for axis in case.shape_after_crop] for case in analyzed],
        "foreground_intensity_properties_per_channel": {
            str(channel): _statistics([case.intensities[channel] for case in analyzed], name)
            for channel, name in enumerate(names)
        },
        "median_relative_size_after_cropping": float(np.median([case.relative_size for case in analyzed])),
    }


def _training_files(folder: Path, description: dict[str, Any], added: Sequence[Path]) -> list[CaseFiles]:
    """The training cases in the order of their names, each with its images in channel order and its labels."""
    if "dataset" in description:
        listed = training_files(folder, description)
        return [(name, files["images"], files["label"]) for name, files in listed.items()]
    ending = description["file_ending"]
    images = [*(folder / "imagesTr").glob(f"*{ending}"), *added]
    matched = [(re.fullmatch(r"(.+)_[0-9]{4}", file.name.removesuffix(ending)), file) for file in images]
    cases: dict[str, list[str]] = {}
    for match, file in sorted(matched, key=lambda item: item[1].name):
        if match and not file.name.startswith("."):
            cases.setdefault(match[1], []).append(str(file))
    if not cases:
        raise ValueError(f"Expected images such as case_0000{ending} in {folder / 'imagesTr'}, found none.")
    return [(name, cases[name], str(folder / "labelsTr" / f"{name}{ending}")) for name in sorted(cases)]


def analyze_case(case: CaseFiles, reader_class: Any, num_samples: int, num_channels: int) -> CaseFingerprint:
    """Crop a case as nnU-Net does, and draw intensities of its foreground in the channels that it has.

    Args:
        case: name, image files in channel order, label file.
        reader_class: nnU-Net's.
        num_samples: drawn from each channel.
        num_channels: of the dataset.

    Raises:
        ValueError: an image or the labels cannot be read or hold NaN, they differ in shape, or a channel has no file.
    """
    name, image_files, label = case
    reader = reader_class()
    images, properties = read_images(reader, image_files, name)
    if len(images) != num_channels:
        raise ValueError(
            f"Case {name}: expected {num_channels} channels, got {len(images)} in {', '.join(image_files)}. missmod "
            "convert adds the files of absent ones."
        )
    present = varying(images)
    cropped, segmentation = cropped_to_nonzero(images, _read_labels(reader, label, images.shape[1:], name))
    drawn = foreground_intensities(segmentation, cropped, num_samples)
    intensities = [values if there else None for values, there in zip(drawn, present, strict=True)]
    relative_size = float(np.prod(cropped.shape[1:]) / np.prod(images.shape[1:]))
    return CaseFingerprint(cropped.shape[1:], properties["spacing"], intensities, relative_size)


def _read_labels(reader: Any, file: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """Read labels (1, x, y, z)."""
    try:
        labels: NDArray[Any] = read_label(reader, file)[0]
    except ValueError as error:
        raise ValueError(f"Case {name}: {error}.") from error
    if labels.shape[1:] != shape:
        raise ValueError(
            f"Case {name}: expected labels of the images' shape {shape}, got {labels.shape[1:]} in {file}."
        )
    return labels


def write_fingerprint(dataset: str | int, processes: int = 8, overwrite: bool = False) -> Path:
    """Write the fingerprint of a raw dataset from the channels that its cases have.

    Args:
        dataset: id or name.
        processes: that read cases.
        overwrite: replace a fingerprint that is there.

    Raises:
        ValueError: nnU-Net's folders are not set, there is no such dataset, there is a fingerprint already, or as
            `cohort_fingerprint`.
        OSError: it could not be written.
    """
    if not (nnUNet_raw.is_set() and nnUNet_preprocessed.is_set()):
        raise ValueError("Expected the variables nnUNet_raw and nnUNet_preprocessed, where datasets are. Set them.")
    try:
        folder = Path(nnUNet_raw, maybe_convert_to_dataset_name(dataset))
        if not (folder / DESCRIPTION).is_file():
            raise RuntimeError(f"there is no {folder / DESCRIPTION}.")
    except (RuntimeError, OSError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"Expected one raw dataset {dataset}, but nnU-Net says: {said} Check -d.") from error
    file = Path(nnUNet_preprocessed, folder.name, FINGERPRINT)
    if file.exists() and not overwrite:
        raise ValueError(f"Expected no fingerprint yet, found {file}: remove it, and the plans made from it.")
    fingerprint = cohort_fingerprint(folder, processes)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, fingerprint)
    return file


def _statistics(drawn: Sequence[NDArray[np.float32] | None], modality: str) -> dict[str, float]:
    there = [values for values in drawn if values is not None and len(values)]
    if not there:
        raise ValueError(f"Expected foreground of {modality} in at least one training case, found none: leave it out.")
    intensities = np.concatenate(there)
    percentiles = np.percentile(intensities, list(PERCENTILES.values()))
    return {
        "mean": float(np.mean(intensities)),
        "std": float(np.std(intensities)),
        "min": float(np.min(intensities)),
        "max": float(np.max(intensities)),
        **dict(zip(PERCENTILES, map(float, percentiles), strict=True)),
    }
