"""Missing channel files at prediction: files are mapped to channels by their ``_XXXX`` suffix, the others are absent.

nnU-Net hands ``run_case`` the files that it found and takes their position for their channel. The one place where a
trainer can step in is the configuration manager that its ``build_network_architecture`` receives: the same object is
later sent to the preprocessing workers. ``accept_missing_files`` gives it a preprocessor that knows absent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_missmod.files.channels import assign_channels, passed_over_by_nnunet
from nnunetv2_missmod.files.dataset_json import channel_names, distinct_names
from nnunetv2_missmod.files.reading import read_images, read_label
from nnunetv2_missmod.host.plan_block import needed_channels
from nnunetv2_missmod.modalities import name_of_channels, varying_channels


class MissingModalityPreprocessor(DefaultPreprocessor):
    """nnU-Net's preprocessor for cases that lack channels.

    Cropping and normalisation see the present channels alone; absent channels are zero afterwards.
    """

    def run_case(
        self,
        image_files: list[str],
        seg_file: str | None,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict[str, Any] | str,
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Read the files of one case, whichever of its channels they are, and preprocess it.

        Raises:
            ValueError: as ``read_case``, or a modality is not there that a dedicated model needs.
        """
        dataset_json = load_json(dataset_json) if isinstance(dataset_json, str) else dataset_json
        reader = plans_manager.image_reader_writer_class()
        beside = passed_over_by_nnunet(image_files, dataset_json["file_ending"]) if image_files else []
        images, properties = read_case([*image_files, *beside], reader, dataset_json)
        ignored = check_needed(images, configuration_manager, dataset_json, f"Case of {image_files[:1]}: ")
        if ignored:
            print(f"Case of {image_files[:1]}: {ignored}")
        seg = read_label(reader, seg_file)[0] if seg_file is not None else None
        return self.run_case_npy(images, seg, properties, plans_manager, configuration_manager, dataset_json)

    def run_case_npy(
        self,
        data: np.ndarray,
        seg: np.ndarray | None,
        properties: dict[str, Any],
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict[str, Any] | str,
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Preprocess images (M, x, y, z) of which the constant ones are absent; to a dedicated model others are too.

        Raises:
            ValueError: nothing is there, or a modality is not that a dedicated model needs.
        """
        dataset_json = load_json(dataset_json) if isinstance(dataset_json, str) else dataset_json
        data = data.astype(np.float32)  # a copy, as nnU-Net makes one
        check_needed(data, configuration_manager, dataset_json)
        needed = needed_channels(configuration_manager) or range(len(data))
        absent = ~varying(data) | ~np.isin(np.arange(len(data)), needed)
        if absent.all():
            raise ValueError("Expected at least one image that is not constant, got none: nothing to segment from.")
        data[absent] = 0  # crop and mask are the union of the non-zero voxels: zeros take no part in it
        data, seg, properties = super().run_case_npy(
            data, seg, properties, plans_manager, configuration_manager, dataset_json
        )
        data[absent] = 0  # normalisation schemes other than z-score do not keep zero at zero
        return data, seg, properties


class MissingModalityConfigurationManager(ConfigurationManager):
    """nnU-Net's configuration with ``MissingModalityPreprocessor`` as its preprocessor."""

    @property
    def preprocessor_class(self) -> type[DefaultPreprocessor]:
        """The preprocessor that prediction uses, also in spawned workers."""
        return MissingModalityPreprocessor


def accept_missing_files(configuration_manager: ConfigurationManager) -> None:
    """Make every prediction with this configuration accept cases that lack channel files.

    Raises:
        NotImplementedError: the plan names a preprocessor of its own, which this one would silently replace.
    """
    if configuration_manager.preprocessor_name != DefaultPreprocessor.__name__:
        raise NotImplementedError(
            f"Expected a plan with the preprocessor {DefaultPreprocessor.__name__}, got "
            f"{configuration_manager.preprocessor_name}: missing channels are not known there. Plan the dataset with "
            f"-preprocessor_name {DefaultPreprocessor.__name__}."
        )
    configuration_manager.__class__ = MissingModalityConfigurationManager


def check_needed(
    images: np.ndarray, configuration_manager: ConfigurationManager, dataset_json: dict[str, Any], where: str = ""
) -> str:
    """Check that a case has the modalities that a dedicated model was trained for.

    Args:
        images: (M, x, y, z), of which the constant ones are absent.
        configuration_manager: of the model.
        dataset_json: has the modalities' names.
        where: what the message begins with.

    Returns:
        Which of the case's modalities the model does not look at, in words; empty if there is none.

    Raises:
        ValueError: names the modalities that the case lacks.
    """
    needed, modalities = needed_channels(configuration_manager), distinct_names(dataset_json)
    if not needed:
        return ""
    has = np.flatnonzero(varying(images)).tolist()
    wanted = name_of_channels(needed, modalities)
    if lacking := [modalities[channel] for channel in needed if channel not in has]:
        others = ", ".join(modalities[channel] for channel in has) or "none"
        raise ValueError(
            f"{where}expected {wanted}, which alone this model was trained for, got no {' and no '.join(lacking)}. Of "
            f"the modalities the case has {others}: predict it with a model of these, or with one of any subset."
        )
    more = [modalities[channel] for channel in has if channel not in needed]
    return f"{', '.join(more)} not looked at: the model was trained for {wanted} alone." if more else ""


def read_case(
    image_files: list[str], reader: Any, dataset_json: dict[str, Any], resample: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the files of one case, whichever of its channels they are.

    Args:
        image_files: of the case.
        reader: nnU-Net's, for these files.
        dataset_json: has the channels' names and the file ending.
        resample: bring images that lie elsewhere onto the first one's grid instead of refusing them.

    Returns:
        Images (M, x, y, z), zero where there is no file, and the properties of ``read_images``.

    Raises:
        ValueError: names the case and the file when a file fits no channel, two files fit one, a file is damaged or
            lies elsewhere than the others, or no file holds an image.
    """
    modalities = channel_names(dataset_json)
    channels, case = assign_channels(image_files, modalities, dataset_json["file_ending"])
    return read_channels(image_files, channels, case, reader, modalities, resample, may_hold_all=True)


def read_channels(
    image_files: Sequence[str],
    channels: Sequence[int],
    case: str,
    reader: Any,
    modalities: Sequence[str],
    resample: bool = False,
    may_hold_all: bool = False,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read files of one case of which the channel is known, as ``read_case`` does.

    Args:
        image_files: of the case.
        channels: of each file.
        case: its name, for messages.
        reader: nnU-Net's, for these files.
        modalities: names of all channels.
        resample: as in ``read_case``.
        may_hold_all: whether a single file may hold all channels, such as a colour image.
    """
    found, properties = read_images(reader, image_files, case, resample)
    holds_all = may_hold_all and len(channels) == 1 and len(found) == len(modalities)
    images = found if holds_all else _in_channel_order(found, channels, len(modalities), case)
    if not varying(images).any():
        raise ValueError(
            f"Case {case}: expected at least one modality, got none: every file is constant ({list(image_files)}). "
            f"Give at least one of {', '.join(modalities)}."
        )
    return images, properties


def _in_channel_order(found: np.ndarray, channels: Sequence[int], num_modalities: int, case: str) -> np.ndarray:
    """Put the images (number of files, x, y, z) into their channels (M, x, y, z); the absent ones are zero."""
    if len(found) != len(channels):
        raise ValueError(
            f"Case {case}: expected one channel in each of its {len(channels)} files, got {len(found)} channels. "
            f"Split files that hold several."
        )
    images = np.zeros((num_modalities, *found.shape[1:]), dtype=found.dtype)
    images[list(channels)] = found
    return images


def varying(images: np.ndarray) -> np.ndarray:
    """(M,) bool: which images (M, x, y, z) are not constant."""
    found: np.ndarray = varying_channels(torch.from_numpy(np.ascontiguousarray(images))[None])[0].numpy()
    return found
