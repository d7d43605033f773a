"""Features that the modalities share, features of each one's own, and one decoder for every subset of them [1].

How the two are composed, what stands in the slot of a missing modality, and the network around both.

[1] Wang et al., "Multi-modal Learning with Missing Modality via Shared-Specific Feature Modelling", CVPR 2023.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.per_modality import Logits, PerModalityNet
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.modalities import expand_to

CONVOLUTIONS = {2: F.conv2d, 3: F.conv3d}
STANDARDISATION_EPS = 1e-12  # on the variance of a filter's weights [1]


class ResidualComposition(nn.Module):
    """The composition of [1]: f_shared + conv3([f_shared, f_spec]), weights standardised per output channel."""

    def __init__(self, architecture: Architecture, channels: int):
        super().__init__()
        conv: Any = architecture.projection(2 * channels, channels, 3)
        self.weight: nn.Parameter = conv.weight
        self.convolve = CONVOLUTIONS[architecture.dimensions]

    def forward(self, features: Tensor) -> Tensor:
        """Compose (N, 2C, *spatial), the shared features first, to (N, C, *spatial)."""
        axes = tuple(range(1, self.weight.ndim))
        variance, mean = torch.var_mean(self.weight, axes, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + STANDARDISATION_EPS)
        return features.chunk(2, 1)[0] + self.convolve(features, weight, padding=1)


def fill_slots(fused: Tensor, substitute: Tensor, present: Tensor) -> Tensor:
    """Build Z_S: the fused features of the present modalities, the substitute in every other slot.

    Args:
        fused: f_fused^m, (B, M, C, *spatial).
        substitute: broadcasts against it.
        present: (B, M) bool.

    Returns:
        (B, M, C, *spatial). Arguments and result may have further axes before M, alike or of length one.
    """
    return torch.where(expand_to(present, fused), fused, substitute)  # absent means absent


def mean_of_present(shared: Tensor, present: Tensor) -> Tensor:
    """Average the present modalities' shared features: the substitute of [1].

    Args:
        shared: (B, M, C, *spatial).
        present: (B, M) bool.

    Returns:
        (B, 1, C, *spatial). Arguments and result may have further axes before M, alike or of length one.
    """
    axis = present.ndim - 1
    seen = torch.where(expand_to(present, shared), shared, 0)
    return seen.sum(axis, keepdim=True) / expand_to(present.sum(axis, keepdim=True), seen)


class Reduction(nn.Module):
    """A convolution of kernel 1 without bias, as one matrix product: a CPU computes that in half the time."""

    def __init__(self, architecture: Architecture, inputs: int, outputs: int):
        super().__init__()
        conv: Any = architecture.projection(inputs, outputs)
        self.weight: nn.Parameter = conv.weight

    def forward(self, slots: Tensor) -> Tensor:
        """Reduce the concatenated slots (R, B, M, C, *spatial) to (R, B, F, *spatial)."""
        maps = slots.flatten(4).flatten(2, 3).flatten(0, 1)
        reduced = self.weight.flatten(1).expand(len(maps), -1, -1) @ maps
        return reduced.view(*slots.shape[:2], -1, *slots.shape[4:])


def substitute_for(shared: Tensor, zero: Tensor, present: Tensor, substitute: str) -> Tensor:
    """Choose what fills a missing modality's slot in Z: E_shared(0), or the mean of the present shared features.

    Args:
        shared: E_shared(x^m) at the bottleneck, (B, M, C, *spatial).
        zero: E_shared(0), (1, 1, C, *spatial).
        present: (B, M) bool. All three may have further axes before M, alike or of length one.
        substitute: "zero_input" or "mean_available".
    """
    return zero if substitute == "zero_input" else mean_of_present(shared, present)


class Encoded(NamedTuple):
    """What the encoders make of a batch; every subset is assembled from it. Lists are finest first."""

    levels: list[Tensor]  # E_shared of the B * M images, then of zeros, at every level: (B * M + 1, C_l, *spatial)
    fused: Tensor  # f_fused^m at the bottleneck, (B, M, C, *spatial)
    shared: Tensor  # E_shared(x^m) there, (B, M, C, *spatial)
    zero: Tensor  # E_shared(0) there, (1, 1, C, *spatial)
    specific: Tensor  # E_spec^m(x^m) there, (B, M, C, *spatial); last E_spec^m(0), one more, where zeros are encoded


class SharedSpecificNet(PerModalityNet):
    """Base of networks with a shared encoder, specific ones of F_l / sqrt(M) features, and the plan's own decoder.

    Every channel is encoded as it is, once; subsets act where the slots are filled.

    Args:
        spec: what plan and dataset ask for.
        method: its name, for an error's words.
        substitute: what fills a missing modality's slot in Z: "zero_input", E_shared(0), or "mean_available", the mean
            of the present modalities' shared features. Skips have E_shared(0).
        composition: "conv", conv3 + norm + nonlinearity, or "residual", that of [1].
    """

    def __init__(self, spec: NetworkSpec, method: str, substitute: str, composition: str):
        super().__init__(spec)
        spec.refuse_cascade(method)
        check_choice("substitute", substitute, ("zero_input", "mean_available"))
        check_choice("composition", composition, ("conv", "residual"))
        narrow = spec.architecture.for_each_of(spec.num_modalities)
        channels = narrow.features[-1]
        self.substitute = substitute
        self.shared_encoder = narrow.encoder(1)
        self.specific_encoders = nn.ModuleList(narrow.encoder(1) for _ in range(spec.num_modalities))
        self.composition = (
            narrow.conv(2 * channels, channels) if composition == "conv" else ResidualComposition(narrow, channels)
        )
        self.reductions = nn.ModuleList(
            Reduction(spec.architecture, spec.num_modalities * thin, full)
            for thin, full in zip(narrow.features, spec.architecture.features, strict=True)
        )
        self.decoder = spec.architecture.decoder(spec.num_classes, spec.deep_supervision)

    def encode(self, images: Tensor, with_zeros: bool = False) -> Encoded:
        """Encode each modality by E_shared, one fold with one volume of zeros, and by its E_spec^m.

        Args:
            images: (B, M, *patch).
            with_zeros: whether each E_spec^m encodes a volume of zeros too.
        """
        zeros = images.new_zeros(1, 1, *images.shape[2:])
        levels = self.shared_encoder(torch.cat((images.flatten(0, 1)[:, None], zeros)))
        shared = levels[-1][:-1].unflatten(0, images.shape[:2])
        own = [images[:, m : m + 1] for m in range(self.num_modalities)]
        if with_zeros:
            own = [torch.cat((image, zeros)) for image in own]
        specific = torch.stack(
            [encode(image)[-1] for encode, image in zip(self.specific_encoders, own, strict=True)], 1
        )
        both = torch.cat((shared, specific[: len(images)]), 2)
        fused = self.composition(both.flatten(0, 1)).unflatten(0, images.shape[:2])
        return Encoded(levels, fused, shared, levels[-1][None, -1:], specific)

    def assemble(self, encoded: Encoded, presents: Tensor) -> list[Tensor]:
        """Give the decoder's input for subsets (R, B, M): levels (R, B, F_l, *spatial), finest first."""
        skips = [recompute(self.reduce_skip, level, maps, presents) for level, maps in enumerate(encoded.levels[:-1])]
        substitute = substitute_for(encoded.shared[None], encoded.zero[None], presents, self.substitute)
        return [*skips, self.reductions[-1](fill_slots(encoded.fused[None], substitute, presents))]

    def reduce_skip(self, level: int, maps: Tensor, presents: Tensor) -> Tensor:
        """Gather each subset's M slots of a level and reduce them.

        Args:
            level: 0 is the finest.
            maps: of ``Encoded.levels``, (B * M + 1, C_l, *spatial).
            presents: (R, B, M) bool.

        Returns:
            (R, B, F_l, *spatial).
        """
        of_zeros = presents[0].numel()
        itself = torch.arange(of_zeros, device=presents.device).view_as(presents[0])
        slots = maps.index_select(0, torch.where(presents, itself, of_zeros).flatten())  # absent means absent
        reduced: Tensor = self.reductions[level](slots.view(*presents.shape, *slots.shape[1:]))
        return reduced

    def segment(self, encoded: Encoded, present: Tensor) -> Logits:
        """Segment from one subset (B, M) of each sample's modalities."""
        logits: Logits = self.decoder([level[0] for level in self.assemble(encoded, present[None])])
        return logits
