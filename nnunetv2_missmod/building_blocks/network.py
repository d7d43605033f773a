"""What every network of this package is: nnU-Net's plan in, logits for any subset of the modalities out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.host.checkpoint import check_finite
from nnunetv2_missmod.host.plan_block import check_overrides, plan_block

ENCODER_EACH = "has an encoder for each modality and none for a segmentation"  # why a network refuses a cascade


@dataclass(frozen=True)
class NetworkSpec:
    """What a plan and its dataset ask of a network.

    Args:
        architecture: the plan's topology.
        num_modalities: M.
        num_extra_channels: of a previous stage's segmentation, which follow the M channels; they are never absent.
        num_classes: K outputs, for classes or regions.
        deep_supervision: whether the decoder gives outputs at every level but the coarsest.
    """

    architecture: Architecture
    num_modalities: int
    num_extra_channels: int
    num_classes: int
    deep_supervision: bool

    @classmethod
    def from_plans(
        cls, configuration_manager: ConfigurationManager, num_channels: int, num_classes: int, deep_supervision: bool
    ) -> NetworkSpec:
        """Read it from a plan's configuration, whose normalisation schemes tell how many channels are modalities."""
        num_modalities = len(configuration_manager.normalization_schemes)
        architecture = Architecture.from_configuration(configuration_manager)
        return cls(architecture, num_modalities, num_channels - num_modalities, num_classes, deep_supervision)

    @property
    def num_channels(self) -> int:
        """Channels of an image: the modalities and a previous stage's."""
        return self.num_modalities + self.num_extra_channels

    def unet(self) -> Any:
        """Build nnU-Net's own network of the plan."""
        return self.architecture.unet(self.num_channels, self.num_classes, self.deep_supervision)

    def refuse_cascade(self, method: str, why: str = ENCODER_EACH) -> None:
        """Refuse the previous stage's channels, by default for a network whose encoders belong to a modality each.

        Raises:
            NotImplementedError: there are such channels.
        """
        if self.num_extra_channels:
            raise NotImplementedError(
                f"Expected a configuration without a previous stage, got a cascade: {method} {why}. "
                "Use 3d_fullres or 3d_lowres, or ModalityDropoutTrainer."
            )


class MissingModalityNetwork(nn.Module):
    """Base of the methods' networks.

    A subclass takes a ``NetworkSpec`` and, as keyword-only arguments with defaults, its constants, which a plan may
    override in ``configuration["missmod"]["network"]``. Its ``forward(images, present=None)`` follows the contract:

    * images (B, M + extra, *patch); present (B, M) bool, or None: every channel that is not constant in the sample;
    * in train mode it returns a NamedTuple whose first field is ``logits``; in eval mode logits (B, K, *patch), a list
      of them, finest first, when deep supervision is on;
    * nothing of an absent channel reaches the logits.
    """

    decoder: Any  # nnU-Net switches deep supervision at network.decoder.deep_supervision
    subset: tuple[int, ...] = ()  # channels of the modalities that it needs; empty: any subset will do

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.num_modalities = spec.num_modalities

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights, for training, prediction and nnU-Net's own commands alike.

        Raises:
            ValueError: some are NaN or infinite: they would give a mask of background without a word.
        """
        check_finite(state_dict, "the weights")
        return super().load_state_dict(state_dict, strict, assign)

    @classmethod
    def from_plans(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
        overrides: Mapping[str, Any] | None = None,
    ) -> MissingModalityNetwork:
        """Build the network from the plan alone, as nnU-Net does for training and for prediction.

        Args:
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision: as
                in nnU-Net.
            overrides: constants; those of the plan's ``configuration["missmod"]["network"]`` if not given.

        Raises:
            ValueError: a constant is none of this network; the known ones are listed.
        """
        overrides = plan_block(configuration_manager).get("network", {}) if overrides is None else overrides
        check_overrides(overrides, cls.constants(), f"network constants of {cls.__name__}")
        spec = NetworkSpec.from_plans(
            configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        return cls(spec, **overrides)

    @classmethod
    def constants(cls) -> dict[str, Any]:
        """The network's constants and their defaults."""
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def forward_subsets(self, images: Tensor, presents: Tensor) -> Tensor:
        """Predict from several subsets of the same images (eval mode, deep supervision off).

        Args:
            images: (B, M + extra, *patch).
            presents: (S, M) bool.

        Returns:
            Logits (S, B, K, *patch), those of ``forward`` for each subset.
        """
        return torch.stack([self(images, present.expand(len(images), -1)) for present in presents])


def unwrapped(network: nn.Module) -> Any:
    """Give the network itself, without what DDP and torch.compile put around it."""
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    return inner._orig_mod if isinstance(inner, OptimizedModule) else inner


def finest(logits: Tensor | list[Tensor]) -> Tensor:
    """Take the logits of full resolution (B, K, *patch) from what a decoder gives with or without deep supervision."""
    return logits[0] if isinstance(logits, list) else logits
