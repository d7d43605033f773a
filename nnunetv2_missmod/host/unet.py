"""nnU-Net's U-Nets from the inside: encoder, decoder, and what the decoder's steps are made of.

Relies on nnunetv2/utilities/get_network_from_plans.py, and on dynamic_network_architectures: its U-Nets have
``encoder`` and ``decoder``; the decoder holds the encoder once more (``decoder.encoder``), and, coarsest first,
``transpconvs``, ``stages`` and ``seg_layers``, of which the last alone is called without ``deep_supervision``; weights
under ``.seg_layers.`` are the heads that nnU-Net leaves out when it transfers weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

HEADS = ".seg_layers."  # in the names of weights that nnU-Net does not transfer
NO_UNET = (
    "Expected a plan whose network is a plain or residual-encoder U-Net, got {}. "
    "Plan the dataset with ExperimentPlanner or one of the nnUNetPlannerResEnc planners."
)


class DecoderStep(NamedTuple):
    """What a decoder does at one level: maps are enlarged, joined with the skip, convolved, and segmented."""

    upsampling: nn.Module
    stage: nn.Module
    head: nn.Module


def build_unet(
    network_class_name: str,
    arch_kwargs: dict[str, Any],
    requires_import: Sequence[str],
    input_channels: int,
    num_classes: int,
    deep_supervision: bool,
) -> Any:
    """Build a plan's U-Net, initialised as nnU-Net does; it imports every name that it is given.

    Raises:
        NotImplementedError: the network is no U-Net.
    """
    unet: Any = get_network_from_plans(
        network_class_name,
        arch_kwargs,
        requires_import,
        input_channels,
        num_classes,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    if not (hasattr(unet, "encoder") and hasattr(getattr(unet, "decoder", None), "transpconvs")):
        raise NotImplementedError(NO_UNET.format(network_class_name))
    return unet


def decoder_alone(unet: Any) -> Any:
    """Take a U-Net's decoder without its reference to the encoder: its weights are its own alone."""
    decoder = unet.decoder
    decoder.encoder = None
    return decoder


def decoder_steps(decoder: Any) -> list[DecoderStep]:
    """List a decoder's steps, coarsest first."""
    parts = zip(decoder.transpconvs, decoder.stages, decoder.seg_layers, strict=True)
    return [DecoderStep(*step) for step in parts]
