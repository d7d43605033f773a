"""What a plan must hold before anything is built from it: every entry that nnU-Net or this package reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_missmod.files.entries import (
    FILE_NAME,
    FLAG,
    TABLE,
    WORD,
    Kind,
    Place,
    is_finite,
    is_list,
    is_positive,
    is_whole,
)
from nnunetv2_missmod.host.named_classes import (
    check_resampling,
    find_label_manager,
    find_layer,
    find_network,
    find_normalization,
    find_reader,
)
from nnunetv2_missmod.host.plan_stages import U_NET, check_stages, is_size

MEND = "Correct the plan, or plan the dataset again."
LAYERS = ("conv_op", "norm_op", "dropout_op", "nonlin")
CT_STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")
STATISTICS = "foreground_intensity_properties_per_channel"

_COUNT = Kind(partial(is_whole, least=1, most=2**20), "a whole number, 1 or more")
_AXES = Kind(
    lambda value: is_list(value, is_whole, (3,)) and sorted(value) == [0, 1, 2], "an order of the axes 0, 1, 2"
)
_FLAGS = Kind(lambda value: is_list(value, FLAG.fits), "a list of true or false")
_TEXTS = Kind(lambda value: is_list(value, lambda each: isinstance(each, str)), "a list of names")
_PATCH = Kind(lambda value: is_list(value, is_size, (2, 3)), "two or three whole numbers, 1 or more")

PLAN = {
    "dataset_name": FILE_NAME,
    "plans_name": FILE_NAME,
    "image_reader_writer": WORD,
    "transpose_forward": _AXES,
    "transpose_backward": _AXES,
    "configurations": Kind(
        lambda value: TABLE.fits(value) and all(map(TABLE.fits, value.values())), "configurations by their names"
    ),
}
OPTIONAL = {"experiment_planner_used": WORD, "label_manager": WORD}
RESAMPLING = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
CONFIGURATION = {
    "data_identifier": FILE_NAME,
    "preprocessor_name": WORD,
    "batch_size": _COUNT,
    "batch_dice": FLAG,
    "patch_size": _PATCH,
    "spacing": Kind(lambda value: is_list(value, is_positive, (2, 3)), "a number of mm above 0 for every axis"),
    "median_image_size_in_voxels": Kind(
        lambda value: is_list(value, is_positive, (2, 3)), "two or three numbers above 0"
    ),
    "normalization_schemes": Kind(
        lambda value: is_list(value, WORD.fits) and bool(value), "a list of names of classes"
    ),
    "use_mask_for_norm": _FLAGS,
    **{name + kwargs: kind for name in RESAMPLING for kwargs, kind in (("", WORD), ("_kwargs", TABLE))},
    "architecture": TABLE,
}
ARCHITECTURE = {
    "network_class_name": Kind(lambda value: isinstance(value, str), "the full name of a network"),
    "arch_kwargs": TABLE,
    "_kw_requires_import": _TEXTS,
}


def open_plan(
    plans: Any, configuration: str, file: str, num_modalities: int
) -> tuple[PlansManager, ConfigurationManager]:
    """Check a plan and one of its configurations, and give nnU-Net's managers of them.

    Args:
        plans: what was read.
        configuration: its name.
        file: where it was read.
        num_modalities: of dataset.json.

    Raises:
        ValueError: names the file and the entry that is missing or wrong, or names something that a network is not
            made of; nothing that the plan names was imported, unless it is.
    """
    check_plans(plans, file)
    manager = PlansManager(plans)
    if configuration not in manager.available_configurations:
        known = ", ".join(manager.available_configurations) or "none"
        raise ValueError(f"{file}: expected a configuration of this plan, got {configuration}. It has {known}.")
    try:
        found = manager.get_configuration(configuration)
    except Exception as error:  # nnU-Net resolves what it inherits, and brings plans before 2.4 up to date
        raise ValueError(
            f"{file}: expected configuration {configuration} to be complete with what it inherits, but "
            f"{type(error).__name__}: {one_line(error)}. {MEND}"
        ) from error
    check_configuration(found.configuration, file, configuration)
    check_channels(plans, found.configuration, file)
    planned = found.normalization_schemes
    if len(planned) != num_modalities:
        words = f"one for each of the {num_modalities} channels of dataset.json"
        place_of(file, configuration).refuse("normalization_schemes", words, planned)
    return manager, found


@contextmanager
def checked(plans_manager: PlansManager, configuration_manager: ConfigurationManager) -> Iterator[None]:
    """Check what nnU-Net gives to a trainer, then let it build its network; what fails in that is the plan's fault.

    Raises:
        ValueError: as ``open_plan``, or a network cannot be built.
    """
    check_plans(plans_manager.plans, "The plan")
    check_configuration(configuration_manager.configuration, "The plan")
    check_channels(plans_manager.plans, configuration_manager.configuration, "The plan")
    with refused_as("a plan that a network can be built from"):
        yield


def check_plans(plans: Any, file: str) -> None:
    """Check the entries that all configurations of a plan share.

    Raises:
        ValueError: names the file and the entry.
    """
    place = Place(file, mend=MEND)
    place.check("the plan", plans, TABLE)
    place.check_all(plans, PLAN)
    place.check_all(plans, {key: kind for key, kind in OPTIONAL.items() if key in plans})
    if list(plans["transpose_backward"]) != np.argsort(plans["transpose_forward"]).tolist():
        place.refuse("transpose_backward", "the inverse of transpose_forward", plans["transpose_backward"])
    find_reader(plans["image_reader_writer"], "image_reader_writer", place)
    if "label_manager" in plans:
        find_label_manager(plans["label_manager"], "label_manager", place)


def check_configuration(configuration: Mapping[str, Any], file: str, name: str = "") -> None:
    """Check a configuration that has all that it inherits.

    Raises:
        ValueError: names the file, the entry and the configuration.
    """
    place = place_of(file, name)
    check_entries(configuration, place)
    check_stages(configuration, place)


def check_entries(configuration: Mapping[str, Any], place: Place) -> None:
    """Check what each entry of a configuration is, and find the classes that it names.

    Raises:
        ValueError: names the file, the entry and the configuration.
    """
    place.check_all(configuration, CONFIGURATION)
    dimensions = len(configuration["patch_size"])
    for key in ("spacing", "median_image_size_in_voxels"):
        if len(configuration[key]) != dimensions:
            place.refuse(key, f"as long as patch_size, {dimensions} numbers", configuration[key])
    masks = configuration["use_mask_for_norm"]
    if len(masks) != len(configuration["normalization_schemes"]):
        place.refuse("use_mask_for_norm", "as long as normalization_schemes", masks)
    for channel, scheme in enumerate(configuration["normalization_schemes"]):
        find_normalization(scheme, f"normalization_schemes[{channel}]", place)
    for key in RESAMPLING:
        check_resampling(configuration[key], configuration[f"{key}_kwargs"], key, place)
    check_architecture(configuration["architecture"], place)


def check_architecture(architecture: Mapping[str, Any], place: Place) -> None:
    """Find the network and every layer that an architecture names.

    Raises:
        ValueError: names the entry.
    """
    place.check_all(architecture, ARCHITECTURE, "architecture.")
    find_network(architecture["network_class_name"], "architecture.network_class_name", place)
    arch_kwargs, imported = architecture["arch_kwargs"], architecture["_kw_requires_import"]
    for key in imported:
        if key not in arch_kwargs:
            place.refuse("architecture._kw_requires_import", "a list of keys of arch_kwargs", key)
        if arch_kwargs[key] is not None:
            find_layer(arch_kwargs[key], f"architecture.arch_kwargs.{key}", place)
    for key in LAYERS:
        if arch_kwargs.get(key) is not None and key not in imported:
            place.refuse("architecture._kw_requires_import", f"a list with {key}, which arch_kwargs has", imported)
        kwargs = arch_kwargs.get(f"{key}_kwargs")
        if kwargs is not None:
            place.check(f"architecture.arch_kwargs.{key}_kwargs", kwargs, TABLE)
    if "features_per_stage" in arch_kwargs:
        place.check_all(arch_kwargs, U_NET, "architecture.arch_kwargs.")


def check_channels(plans: Mapping[str, Any], configuration: Mapping[str, Any], file: str) -> None:
    """Check that the intensities are known that the normalisation of each channel needs.

    Raises:
        ValueError: names the entry.
    """
    place = Place(file, mend=MEND)
    known = plans.get(STATISTICS, plans.get("foreground_intensity_properties_by_modality"))
    place.check(STATISTICS, known, TABLE)
    for channel, scheme in enumerate(configuration["normalization_schemes"]):
        key = f"{STATISTICS}.{channel}"
        found = known.get(str(channel))
        place.check(key, found, TABLE)
        if issubclass(find_normalization(scheme, "normalization_schemes", place), CTNormalization):
            statistic = Kind(is_finite, "a number")
            place.check_all(found, dict.fromkeys(CT_STATISTICS, statistic), f"{key}.")


def place_of(file: str, configuration: str = "") -> Place:
    """Name a configuration's place for messages."""
    part = f"of configuration {configuration}" if configuration else "of the configuration"
    return Place(file, part, MEND)


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Turn whatever fails in building something from a plan into one line about it.

    Raises:
        ValueError: it failed; the cause stays attached.
    """
    try:
        yield
    except (ValueError, NotImplementedError):
        raise
    except Exception as error:
        raise ValueError(f"Expected {what}, got one that fails: {type(error).__name__}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Give the first line of an error's message."""
    return next(iter(str(error).splitlines()), "without a message")
