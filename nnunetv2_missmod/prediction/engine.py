"""Segment one case from many subsets of its modalities: read once, preprocessed once per mask, encoded once per patch.

nnU-Net crops and normalises by the union of the given channels' non-zero voxels. Subsets whose unions are equal share
one preprocessed volume: in it each channel is, bit for bit, what it would be if the files outside the subset were
missing. The sliding window, mirroring and folds are nnU-Net's own, on a network whose classes are those of all subsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.host.plan_block import needed_channels
from nnunetv2_missmod.host.predictor import num_forwards, predicting_with
from nnunetv2_missmod.host.preprocessor import MissingModalityPreprocessor, varying
from nnunetv2_missmod.machine.convolutions import OneSampleConvolutions
from nnunetv2_missmod.machine.one_ahead import OneAhead
from nnunetv2_missmod.modalities import drop_absent, varying_channels
from nnunetv2_missmod.prediction.mask_groups import Group, groups_by_mask
from nnunetv2_missmod.prediction.subsets import as_mask

BYTES_PER_LOGIT = 2  # nnU-Net adds up patches in half precision
BYTES_PER_PATCH_LOGIT = 3 * 4  # of the patch at hand: the network's output, its reordered copy, what mirroring adds up
GB = 10**9
MEMORY = 2.0  # GB of logits at a time, unless it is said otherwise

Volume = tuple[Tensor, dict[str, Any]]  # (M, *shape) float32, and the properties with which masks are brought back


class Images(NamedTuple):
    """The images of a case as they were read."""

    voxels: np.ndarray  # (M, x, y, z), zero where there is no file
    properties: dict[str, Any]  # of nnU-Net's reader

    @property
    def available(self) -> np.ndarray:
        """(M,) bool: which channels hold an image."""
        return varying(self.voxels)


class Segmented(NamedTuple):
    """What a model makes of one subset."""

    position: int  # of the subset
    present: np.ndarray  # (M,) bool: what it was made from, of the subset what the model looks at
    logits: np.ndarray  # (K, *shape after preprocessing), half precision
    properties: dict[str, Any]  # with which nnU-Net's export brings them back onto the image


class Prepared(NamedTuple):
    """A case that is read, and preprocessed for the first of its groups.

    Attributes:
        images: of the case.
        subsets: (S, M) bool, of each what the model looks at.
        possible: positions of those that can be segmented.
        groups: of the possible ones, by their positions among these.
        first: what ``preprocess`` makes of the first group; None where there is none.
    """

    images: Images
    subsets: np.ndarray
    possible: np.ndarray
    groups: list[Group]
    first: Volume | None


def predict_subsets(
    predictor: nnUNetPredictor,
    images: Images,
    subsets: np.ndarray,
    on_patch: Callable[[float], None] = lambda _: None,
    memory: float = MEMORY,
) -> Iterator[Segmented]:
    """Segment a case from each subset; the volumes of a group, and of the next one, are in memory at a time.

    Args:
        predictor: of a model of any trainer; stock networks get zeros for what is absent.
        images: of the case; the channels outside a subset, or outside what a dedicated model looks at, are as if their
            files were missing.
        subsets: (S, M) bool; those with a channel that the case lacks, or without one that the model needs, are left
            out.
        on_patch: called after every patch with the share of the S subsets that it was.
        memory: as in ``predict_prepared``.
    """
    return predict_prepared(predictor, prepare(predictor, images, subsets), on_patch, memory)


def prepare(predictor: nnUNetPredictor, images: Images, subsets: np.ndarray) -> Prepared:
    """Do for ``predict_prepared`` what needs no network; the arguments are those of ``predict_subsets``."""
    needs = as_mask(needed_channels(predictor.configuration_manager), subsets.shape[1])
    possible = np.flatnonzero((subsets <= images.available).all(1) & (needs <= subsets).all(1))
    subsets = subsets & needs if needs.any() else subsets
    groups = groups_by_mask(images.voxels, subsets[possible])
    first = preprocess(predictor, images, groups[0].channels) if groups else None
    return Prepared(images, subsets, possible, groups, first)


def predict_prepared(
    predictor: nnUNetPredictor,
    case: Prepared,
    on_patch: Callable[[float], None] = lambda _: None,
    memory: float = MEMORY,
) -> Iterator[Segmented]:
    """Segment a case that ``prepare`` made; see ``predict_subsets``.

    Args:
        predictor: of the model.
        case: prepared.
        on_patch: called after every patch with the share of the S subsets that it was.
        memory: GB of logits at a time, for the case and the patch at hand: more subsets than fit are predicted in
            several runs, the masks are the same. One subset is predicted whatever it needs.
    """
    first, case = case.first, case._replace(first=None)
    with OneAhead(partial(preprocess, predictor, case.images), [group.channels for group in case.groups[1:]]) as ahead:
        for number, group in enumerate(case.groups):
            volume, properties = first if first is not None and number == 0 else ahead.take()
            first = None
            per_run = subsets_per_run(predictor, volume, memory)
            for start in range(0, len(group.positions), per_run):
                positions = case.possible[group.positions[start : start + per_run]]
                share = len(positions) / len(case.possible) * len(case.subsets)
                counted = partial(_scaled, on_patch, share)
                yield from _segmented(predictor, volume, properties, case.subsets, positions, counted)


def subsets_per_run(predictor: nnUNetPredictor, volume: Tensor, memory: float) -> int:
    """How many subsets of a volume (M, *shape) are predicted together within some GB of logits; at least one."""
    voxels_of_patch = math.prod(predictor.configuration_manager.patch_size)
    of_voxels = BYTES_PER_LOGIT * volume[0].numel() + BYTES_PER_PATCH_LOGIT * voxels_of_patch
    return max(1, int(memory * GB / (predictor.label_manager.num_segmentation_heads * of_voxels)))


def _segmented(
    predictor: nnUNetPredictor,
    volume: Tensor,
    properties: dict[str, Any],
    subsets: np.ndarray,
    positions: np.ndarray,
    on_patch: Callable[[float], None],
) -> Iterator[Segmented]:
    """Segment a volume from some of the subsets in one run, whose logits are given up at its end."""
    stack = SubsetStack(predictor.network, torch.from_numpy(subsets[positions]))
    of_subset = predict_stack(predictor, stack, volume, on_patch)
    for number, position in enumerate(positions.tolist()):
        logits = of_subset[number].numpy().copy()  # a view, waiting for its export, would keep those of all subsets
        yield Segmented(position, subsets[position], logits, deepcopy(properties))


def _scaled(on_patch: Callable[[float], None], share: float, part: float) -> None:
    on_patch(part * share)


def preprocess(predictor: nnUNetPredictor, images: Images, channels: np.ndarray) -> Volume:
    """Preprocess a case of which these channels (M,) bool are given; the others are zero.

    Returns:
        The volume (M, *shape) float32, and the properties with which nnU-Net's export brings masks back.
    """
    given = np.where(channels[:, None, None, None], images.voxels, 0)
    volume, _, properties = MissingModalityPreprocessor(verbose=False).run_case_npy(
        given,
        None,
        deepcopy(images.properties),
        predictor.plans_manager,
        predictor.configuration_manager,
        predictor.dataset_json,
    )
    return torch.from_numpy(volume), properties


def predict_stack(
    predictor: nnUNetPredictor, stack: SubsetStack, volume: Tensor, on_patch: Callable[[float], None]
) -> Tensor:
    """Run nnU-Net's prediction of a volume (M, *shape) once for all subsets.

    Args:
        predictor: of the model.
        stack: its network, for S subsets.
        volume: preprocessed.
        on_patch: called after every patch with the share of the run that it was.

    Returns:
        Logits (S, K, *shape).
    """
    heads, num_subsets = predictor.label_manager.num_segmentation_heads, len(stack.subsets)
    share = 1 / num_forwards(predictor, volume)
    counted = stack.register_forward_hook(lambda *_: on_patch(share))
    try:
        with predicting_with(predictor, stack, heads * num_subsets):
            logits: Tensor = predictor.predict_logits_from_preprocessed_data(volume)
    finally:
        counted.remove()
    return logits.reshape(num_subsets, heads, *logits.shape[1:])


class SubsetStack(nn.Module):
    """A network whose classes are those of several subsets, one subset after the other.

    Args:
        network: of any trainer, compiled or not.
        subsets: (S, M) bool.
    """

    def __init__(self, network: nn.Module, subsets: Tensor):
        super().__init__()
        self.network = unwrapped(network)
        self.subsets = subsets

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Load one fold's weights into the network itself."""
        return self.network.load_state_dict(state_dict, *args, **kwargs)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits (1, S * K, *patch) of images (1, M, *patch)."""
        subsets = self.subsets.to(images.device)
        with OneSampleConvolutions():
            if hasattr(self.network, "forward_subsets"):
                logits = self.encoded_once(images, subsets)
            else:
                logits = self.zero_filled(images, subsets)
        return logits.transpose(0, 1).flatten(1, 2)

    def zero_filled(self, images: Tensor, subsets: Tensor) -> Tensor:
        """Give logits (S, 1, K, *patch); subsets that differ in channels that are zero here are computed once."""
        nonzero = (images[0] != 0).flatten(1).any(1)
        return once_each(
            subsets & nonzero,
            lambda distinct: torch.stack([self.network(drop_absent(images, subset[None])) for subset in distinct]),
        )

    def encoded_once(self, images: Tensor, subsets: Tensor) -> Tensor:
        """Give logits (S, 1, K, *patch), from what of each subset varies within the patch.

        That is what the network itself takes for present without a ``present``. Where nothing varies it takes every
        channel for present, so there it is left to do so.
        """
        seen = subsets & varying_channels(images)
        varies = seen.any(1)
        if not varies.any():
            return self.zero_filled(images, subsets)
        found = once_each(seen[varies], lambda distinct: self.network.forward_subsets(images, distinct))
        if varies.all():
            return found
        logits = found.new_empty(len(subsets), *found.shape[1:])
        logits[varies] = found
        logits[~varies] = self.zero_filled(images, subsets[~varies])
        return logits


def once_each(subsets: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """Predict logits (S, ...) from subsets (S, M), equal ones once; the large logits are copied only for those."""
    distinct, source = torch.unique(subsets, dim=0, return_inverse=True)
    return predict(subsets) if len(distinct) == len(subsets) else predict(distinct)[source]
