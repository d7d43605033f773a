"""nnU-Net's fingerprint of a dataset in which some cases lack modalities: their zeros are no intensities.

nnU-Net finds fingerprint extractors inside nnunetv2 alone, but keeps a fingerprint that is already there unless it is
called with --clean: this one is written before nnU-Net plans.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from numpy.typing import NDArray

from nnunetv2_missmod.datasets.parallel import in_processes
from nnunetv2_missmod.preprocessing import modality_names, varying
from nnunetv2_missmod.reading import read_images

FILE = "dataset_fingerprint.json"
PERCENTILES = {"median": 50.0, "percentile_99_5": 99.5, "percentile_00_5": 0.5}


class CaseFingerprint(NamedTuple):
    """What one case adds to the fingerprint; `intensities` of its foreground, None for an absent channel."""

    shape_after_crop: tuple[int, ...]
    spacing: Sequence[float]
    intensities: list[NDArray[np.float32] | None]
    relative_size: float


class PresentChannelsExtractor(DatasetFingerprintExtractor):
    """nnU-Net's extractor, but for the channels that a case lacks: they add no intensities.

    Everything else (crop, spacings, how many voxels are drawn from a case and with which seed) is nnU-Net's.
    """

    @property
    def file(self) -> Path:
        """Where nnU-Net looks for the fingerprint."""
        return Path(nnUNet_preprocessed, self.dataset_name, FILE)

    def run(self, overwrite_existing: bool = False) -> dict[str, Any]:
        """Write dataset_fingerprint.json below nnUNet_preprocessed, and return what it holds.

        Raises:
            ValueError: there is one already, a case cannot be read, or no case shows foreground in some channel.
        """
        file = self.file
        if file.exists() and not overwrite_existing:
            raise ValueError(f"Expected no fingerprint yet, found {file}: remove it, and the plans made from it.")
        reader_class = determine_reader_writer_from_dataset_json(
            self.dataset_json, next(iter(self.dataset.values()))["images"][0]
        )
        samples = int(self.num_foreground_voxels_for_intensitystats // len(self.dataset))
        analyze = partial(analyze_case, reader_class=reader_class, num_samples=samples)
        cases = [(name, files["images"], files["label"]) for name, files in self.dataset.items()]
        analyzed = in_processes(analyze, cases, self.num_processes, "Extracting dataset fingerprint")
        fingerprint = {
            "spacings": [case.spacing for case in analyzed],
            "shapes_after_crop": [case.shape_after_crop for case in analyzed],
            "foreground_intensity_properties_per_channel": {
                str(channel): _statistics([case.intensities[channel] for case in analyzed], name)
                for channel, name in enumerate(modality_names(self.dataset_json))
            },
            "median_relative_size_after_cropping": float(np.median([case.relative_size for case in analyzed])),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{FILE}")
        save_json(fingerprint, str(unfinished))
        os.replace(unfinished, file)
        return fingerprint


def analyze_case(case: tuple[str, list[str], str], reader_class: Any, num_samples: int) -> CaseFingerprint:
    """Crop a case as nnU-Net does, and draw intensities of its foreground in the channels that it has.

    Args:
        case: name, image files in channel order, label file.
        reader_class: nnU-Net's.
        num_samples: drawn from each channel.

    Raises:
        ValueError: an image cannot be read, or holds NaN.
    """
    name, image_files, label = case
    reader = reader_class()
    images, properties = read_images(reader, image_files, name)
    present = varying(images)
    cropped, segmentation, _ = crop_to_nonzero(images, reader.read_seg(label)[0])
    drawn, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
        segmentation, cropped, num_samples=num_samples
    )
    intensities = [np.asarray(values) if there else None for values, there in zip(drawn, present, strict=True)]
    relative_size = float(np.prod(cropped.shape[1:]) / np.prod(images.shape[1:]))
    return CaseFingerprint(cropped.shape[1:], properties["spacing"], intensities, relative_size)


def write_fingerprint(dataset: str | int, processes: int = 8, overwrite: bool = False) -> Path:
    """Write the fingerprint of a raw dataset from the channels that its cases have.

    Args:
        dataset: id or name.
        processes: that read cases.
        overwrite: replace a fingerprint that is there.

    Raises:
        ValueError: nnU-Net's folders are not set, there is no such dataset, or as `PresentChannelsExtractor.run`.
    """
    if not (nnUNet_raw.is_set() and nnUNet_preprocessed.is_set()):
        raise ValueError("Expected the variables nnUNet_raw and nnUNet_preprocessed, where datasets are. Set them.")
    try:
        extractor = PresentChannelsExtractor(dataset, processes)
    except (RuntimeError, OSError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"Expected one raw dataset {dataset}, but nnU-Net says: {said} Check -d.") from error
    extractor.run(overwrite)
    return extractor.file


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
