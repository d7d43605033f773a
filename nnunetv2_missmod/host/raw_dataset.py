"""nnU-Net's raw dataset: which files a training case is made of, and who reads them.

Relies on nnunetv2/utilities/utils.py: ``get_filenames_of_train_images_and_targets`` lists the cases of a folder or of
dataset.json's own list; and on imageio/reader_writer_registry.py, which chooses a reader by the files' ending.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets


def training_files(folder: Path, dataset_json: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """List the files of each training case of DatasetXXX_Name: its ``images``, in channel order, and its ``label``."""
    found: dict[str, dict[str, Any]] = get_filenames_of_train_images_and_targets(str(folder), dict(dataset_json))
    return found


def reader_class_for(dataset_json: dict[str, Any], image_file: str) -> Any:
    """Choose the reader's class for a dataset as nnU-Net does, by one of its images."""
    return determine_reader_writer_from_dataset_json(dataset_json, image_file, verbose=False)
