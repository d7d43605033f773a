"""nnU-Net's predictor: made of a network that is built already, asked for another network's logits, and its export.

Relies on nnunetv2/inference/predict_from_raw_data.py: ``manual_initialization`` takes all that a prediction needs;
``predict_logits_from_preprocessed_data`` calls ``predictor.network`` on every patch and mirroring of it, after loading
each of ``list_of_parameters`` into it, and asks ``predictor.label_manager`` for the number of output channels alone;
and ``_internal_get_sliding_window_slicers`` lists the patches. On export_prediction.py: logits become a label map
there. On label_handling.py: the heads are the labels in ascending order without the ignored one, or the regions in the
order of dataset.json; ``apply_inference_nonlin`` and ``convert_probabilities_to_segmentation`` take them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunetv2_missmod.machine.chatter import chatter


def make_predictor(
    network: nn.Module,
    weights: Sequence[dict[str, Any]],
    managers: tuple[PlansManager, ConfigurationManager],
    dataset_json: dict[str, Any],
    trainer: str,
    mirroring_axes: tuple[int, ...] | None,
    step_size: float,
    mirroring: bool,
    device: torch.device,
) -> nnUNetPredictor:
    """Make a predictor of a network and each fold's weights.

    Args:
        network: with anybody's weights.
        weights: of each fold.
        managers: of the plan and its configuration.
        dataset_json: of the model.
        trainer: its name.
        mirroring_axes: along which the training mirrored.
        step_size: of the sliding window, as a fraction of the patch.
        mirroring: test-time augmentation.
        device: to predict on.
    """
    with chatter():
        predictor = nnUNetPredictor(step_size, True, mirroring, True, device, allow_tqdm=False)
    predictor.manual_initialization(network, *managers, list(weights), dataset_json, trainer, mirroring_axes)
    return predictor


@contextmanager
def predicting_with(predictor: nnUNetPredictor, network: nn.Module, channels: int) -> Iterator[None]:
    """Let a predictor run another network meanwhile, one with this many output channels."""
    before = predictor.network, predictor.label_manager
    predictor.network, predictor.label_manager = network, SimpleNamespace(num_segmentation_heads=channels)
    try:
        with chatter():
            yield
    finally:
        predictor.network, predictor.label_manager = before


def num_forwards(predictor: nnUNetPredictor, volume: Tensor) -> int:
    """Count the calls of the network that nnU-Net makes for a preprocessed volume (M, *shape)."""
    patch = predictor.configuration_manager.patch_size
    padded = [max(size, of_patch) for size, of_patch in zip(volume.shape[-len(patch) :], patch, strict=True)]
    shape = (*volume.shape[1 : volume.ndim - len(patch)], *padded)
    num_patches = len(predictor._internal_get_sliding_window_slicers(shape))
    mirrored = 2 ** len(predictor.allowed_mirroring_axes or ()) if predictor.use_mirroring else 1
    return num_patches * mirrored * len(predictor.list_of_parameters)


def label_map(
    logits: np.ndarray,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    dataset_json: dict[str, Any],
    properties: dict[str, Any],
) -> np.ndarray:
    """Turn logits (K, *shape after preprocessing) into labels (x, y, z) on the grid of the images.

    Args:
        logits: of classes or regions.
        plans_manager, configuration_manager, dataset_json: of the model.
        properties: of the preprocessing.
    """
    manager, threads = plans_manager.get_label_manager(dataset_json), torch.get_num_threads()
    model = plans_manager, configuration_manager, manager
    with chatter():
        labels: np.ndarray = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, *model, properties, num_threads_torch=threads
        )
    return labels


def mean_probabilities(
    logits: np.ndarray, plans_manager: PlansManager, dataset_json: dict[str, Any], regions: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Mean probability of each region within its own mask: how sure a model is of what it says is there.

    Args:
        logits: (K, *shape after preprocessing), of classes or regions.
        plans_manager, dataset_json: of the model.
        regions: name -> labels, in the order of dataset.json.

    Returns:
        By the region's name; NaN where its mask is empty.
    """
    manager = plans_manager.get_label_manager(dataset_json)
    probabilities = manager.apply_inference_nonlin(torch.from_numpy(logits))
    labels = manager.convert_probabilities_to_segmentation(probabilities)
    found = {}
    for position, (name, of_region) in enumerate(regions.items()):
        heads = [position] if manager.has_regions else [manager.all_labels.index(label) for label in of_region]
        within = torch.isin(labels, torch.as_tensor(of_region))
        found[name] = float(probabilities[heads].sum(0)[within].mean())
    return found
