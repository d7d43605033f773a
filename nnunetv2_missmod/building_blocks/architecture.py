"""The architecture that nnU-Net planned, as a source of encoders, decoders and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    get_matching_convtransp,
    get_matching_pool_op,
    maybe_convert_scalar_to_list,
)
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunetv2_missmod.building_blocks.pointwise import as_product
from nnunetv2_missmod.files.entries import Place
from nnunetv2_missmod.host.named_classes import find_layer, find_network
from nnunetv2_missmod.host.unet import NO_UNET, build_unet, decoder_alone

initialize_weights = InitWeights_He(1e-2)  # nnU-Net's own initialisation

IN_THE_PLAN = Place("The plan", mend="Correct the plan, or plan the dataset again.")

OF_ENCODER_STAGES = ("n_conv_per_stage", "n_blocks_per_stage", "bottleneck_channels")  # one number, or one per stage
OF_DECODER_STAGES = "n_conv_per_stage_decoder"


@dataclass(frozen=True)
class Architecture:
    """A plan's ``architecture``: plain or residual encoder, 2D or 3D. Every part is nnU-Net's own.

    Args:
        network_class_name: importable name of a U-Net of dynamic_network_architectures.
        arch_kwargs: its arguments as they stand in the plan, classes by name.
        requires_import: which of them are names of classes.
        patch_size: of the configuration.

    Raises:
        NotImplementedError: the plan's network is not a U-Net with an encoder and a decoder of stages.
    """

    network_class_name: str
    arch_kwargs: dict[str, Any]
    requires_import: tuple[str, ...]
    patch_size: tuple[int, ...]

    def __post_init__(self) -> None:
        if "features_per_stage" not in self.arch_kwargs:
            raise NotImplementedError(NO_UNET.format(self.network_class_name))

    @classmethod
    def from_configuration(cls, configuration_manager: ConfigurationManager) -> Architecture:
        """Read the architecture of a plan's configuration."""
        return cls(
            configuration_manager.network_arch_class_name,
            configuration_manager.network_arch_init_kwargs,
            tuple(configuration_manager.network_arch_init_kwargs_req_import),
            tuple(configuration_manager.patch_size),
        )

    @property
    def features(self) -> list[int]:
        """Channels of each level, finest first."""
        features = self.arch_kwargs["features_per_stage"]
        return [features] * self.arch_kwargs["n_stages"] if isinstance(features, int) else list(features)

    @property
    def strides(self) -> list[Any]:
        """Stride from the level above to each level."""
        strides = self.arch_kwargs["strides"]
        return [strides] * self.arch_kwargs["n_stages"] if isinstance(strides, int) else list(strides)

    @property
    def kernel_sizes(self) -> list[Any]:
        """Kernel size of each level."""
        kernels = self.arch_kwargs["kernel_sizes"]
        return [kernels] * self.arch_kwargs["n_stages"] if isinstance(kernels, int) else list(kernels)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """``arch_kwargs`` with the classes in place of their names.

        Raises:
            ValueError: a name is none of a layer; names its key.
        """
        names = {key: self.arch_kwargs[key] for key in self.requires_import if self.arch_kwargs[key] is not None}
        named = {key: find_layer(name, f"architecture.arch_kwargs.{key}", IN_THE_PLAN) for key, name in names.items()}
        return {**self.arch_kwargs, **named}

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return int(convert_conv_op_to_dim(self.resolved["conv_op"]))

    def for_each_of(self, num_modalities: int) -> Architecture:
        """Narrow to F_l / sqrt(M) features, in steps of 8: M such encoders cost what one of the plan's costs."""
        narrow = [8 * math.ceil(features / math.sqrt(num_modalities) / 8) for features in self.features]
        return replace(self, arch_kwargs={**self.arch_kwargs, "features_per_stage": narrow})

    def down_to(self, level: int) -> Architecture:
        """Cut the topology off below a level, counted from 0, the finest; what remains is as planned."""
        stages, dropped = level + 1, len(self.features) - level - 1
        cut = {
            "n_stages": stages,
            "features_per_stage": self.features[:stages],
            "strides": self.strides[:stages],
            "kernel_sizes": self.kernel_sizes[:stages],
        }
        for name in filter(self._is_list, OF_ENCODER_STAGES):
            cut[name] = self.arch_kwargs[name][:stages]
        if self._is_list(OF_DECODER_STAGES):  # the coarsest comes first
            cut[OF_DECODER_STAGES] = self.arch_kwargs[OF_DECODER_STAGES][dropped:]
        return replace(self, arch_kwargs={**self.arch_kwargs, **cut})

    def stride_to(self, level: int) -> tuple[int, ...]:
        """Stride along each axis from the level above."""
        return tuple(maybe_convert_scalar_to_list(self.resolved["conv_op"], self.strides[level]))

    def size_at(self, level: int) -> tuple[int, ...]:
        """Spatial size of a level's maps, of images of the plan's patch size."""
        size = self.patch_size
        for stride in map(self.stride_to, range(level + 1)):
            size = tuple(math.ceil(n / s) for n, s in zip(size, stride, strict=True))
        return size

    def unet(self, input_channels: int, num_classes: int, deep_supervision: bool) -> Any:
        """Build the whole U-Net, initialised as nnU-Net does.

        Raises:
            ValueError: the plan names something that no network is made of.
            NotImplementedError: the network is no U-Net.
        """
        find_network(self.network_class_name, "architecture.network_class_name", IN_THE_PLAN)
        assert self.resolved  # nnU-Net imports every name that it is given: each was found to be a layer's
        described = self.network_class_name, self.arch_kwargs, self.requires_import
        return build_unet(*described, input_channels, num_classes, deep_supervision)

    def encoder(self, input_channels: int) -> nn.Module:
        """Build the encoder: images (B, C, *patch) to a list of maps, finest first."""
        encoder: nn.Module = self.unet(input_channels, 2, False).encoder
        return encoder

    def decoder(self, num_classes: int, deep_supervision: bool) -> Any:
        """Build the decoder without nnU-Net's reference to an encoder: its weights are its own alone."""
        return decoder_alone(self.unet(1, num_classes, deep_supervision))

    def conv(self, inputs: int, outputs: int, kernel_size: Any = 3, stride: Any = 1, norm: bool = True) -> nn.Module:
        """Build one convolution with the plan's norm (optional) and nonlinearity."""
        plan = self.resolved
        block: Any = ConvDropoutNormReLU(
            plan["conv_op"],
            inputs,
            outputs,
            kernel_size,
            stride,
            conv_bias=plan.get("conv_bias", False) or not norm,
            norm_op=plan.get("norm_op") if norm else None,
            norm_op_kwargs=plan.get("norm_op_kwargs"),
            nonlin=plan.get("nonlin"),
            nonlin_kwargs=plan.get("nonlin_kwargs"),
        )
        as_product(block.conv)
        conv: nn.Module = block
        return conv.apply(initialize_weights)

    def deconv(self, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
        """Build a transposed convolution that enlarges maps by ``stride``."""
        transposed = get_matching_convtransp(self.resolved["conv_op"])
        deconv: nn.Module = transposed(inputs, outputs, list(stride), list(stride))
        return deconv.apply(initialize_weights)

    def max_pool(self, stride: Sequence[int]) -> nn.Module:
        """Build a max pooling that gives maps of the size that a convolution of this stride gives."""
        pool: nn.Module = get_matching_pool_op(self.resolved["conv_op"], pool_type="max")(
            list(stride), list(stride), ceil_mode=True
        )
        return pool

    def projection(self, inputs: int, outputs: int, kernel_size: Any = 1, groups: int = 1) -> nn.Module:
        """Build a convolution without norm and nonlinearity that keeps the size."""
        conv_op = self.resolved["conv_op"]
        kernel = maybe_convert_scalar_to_list(conv_op, kernel_size)
        conv = conv_op(inputs, outputs, kernel, padding=[k // 2 for k in kernel], groups=groups)
        projection: nn.Module = as_product(conv)
        return projection.apply(initialize_weights)

    def _is_list(self, name: str) -> bool:
        return isinstance(self.arch_kwargs.get(name), (list, tuple))
