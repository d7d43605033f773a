"""The network of CCSD: one shared encoder, M specific ones, and one decoder for every subset of their features."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork, NetworkSpec, finest
from nnunetv2_missmod.building_blocks.recompute import recompute
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.ccsd.composition import ResidualComposition, fill_slots, mean_of_present
from nnunetv2_missmod.modalities import available_modalities

ONE_SUBSET = 2  # axes of present (B, M): a single decoder pass
Logits = Tensor | list[Tensor]  # (B, K, *patch); under deep supervision a list of them, finest first


class Encoded(NamedTuple):
    """What the encoders make of a batch; every subset is assembled from it. Lists are finest first."""

    levels: list[Tensor]  # E_shared of the B * M images, then of zeros, at every level: (B * M + 1, C_l, *spatial)
    fused: Tensor  # f_fused^m at the bottleneck, (B, M, C, *spatial)
    shared: Tensor  # E_shared(x^m) there, (B, M, C, *spatial)
    zero: Tensor  # E_shared(0) there, (1, 1, C, *spatial)
    specific: Tensor | None  # see ``CCSDOutput``


class CCSDOutput(NamedTuple):
    """Output in training."""

    logits: Logits  # of the first subset
    passes: list[Logits]  # of every subset, the first included
    teacher_logits: Tensor | None  # of ``teacher``, (B, K, *patch), without gradient
    fused: Tensor  # f_fused^m, (B, M, C, *spatial)
    shared: Tensor  # E_shared(x^m) at the bottleneck, (B, M, C, *spatial)
    zero: Tensor  # E_shared(0) at the bottleneck, (1, 1, C, *spatial)
    specific: Tensor | None = None  # E_spec^m there, where wanted: of x^m, and last of zeros, (B + 1, M, C, *spatial)


class CCSDNet(MissingModalityNetwork):
    """CCSD on a plan's topology: encoders of F_l / sqrt(M) features, the plan's own decoder.

    Every channel is encoded as it is, once; ``present`` acts where the slots are filled. Hence in training ``present``
    may be (R, B, M), R subsets of each sample to decode, and ``teacher`` (B, M) one more without gradient.

    Args:
        substitute: what fills a missing modality's slot in Z: "zero_input", E_shared(0) (paper 3.2), or
            "mean_available", the mean of the present modalities' shared features (ShaSpec). Skips have E_shared(0).
        composition: "conv", conv3 + norm + nonlinearity (paper 3.1), or "residual", ShaSpec's.
        kept_passes: decoder passes whose activations are kept in training; those of further ones are computed again
            in the backward pass.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        substitute: str = "zero_input",
        composition: str = "conv",
        kept_passes: int = 4,
    ):
        super().__init__(spec)
        spec.refuse_cascade("CCSD")
        check_choice("substitute", substitute, ("zero_input", "mean_available"))
        check_choice("composition", composition, ("conv", "residual"))
        narrow = spec.architecture.for_each_of(spec.num_modalities)
        channels = narrow.features[-1]
        self.substitute = substitute
        self.kept_passes = kept_passes
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

    def forward(
        self,
        images: Tensor,
        present: Tensor | None = None,
        teacher: Tensor | None = None,
        with_specific: bool = False,
    ) -> Logits | CCSDOutput:
        """Segment from the present modalities, see ``MissingModalityNetwork``.

        Args:
            images: (B, M, *patch).
            present: (B, M) bool, or in training (R, B, M).
            teacher: (B, M) bool.
            with_specific: whether the output in training holds the specific features.
        """
        present = available_modalities(images) if present is None else present
        presents = present[None] if present.ndim == ONE_SUBSET else present
        encoded = self.encode(images, with_specific)
        features = self.assemble(encoded, presents)
        if not self.training:
            logits: Logits = self.decoder([level[0] for level in features])
            return logits
        of_passes = [list(levels) for levels in zip(*(level.unbind() for level in features), strict=True)]
        kept = max(self.kept_passes, 1)
        # First, so that their backward comes last: when it needs memory, the kept activations are gone.
        recomputed = [recompute(self.decoder, levels) for levels in of_passes[kept:]]
        passes = [self.decoder(levels) for levels in of_passes[:kept]] + recomputed
        teacher_logits = None if teacher is None else self.decode_teacher(encoded, teacher)
        return CCSDOutput(passes[0], passes, teacher_logits, *encoded[1:])

    def encode(self, images: Tensor, with_specific: bool = False) -> Encoded:
        """Encode each modality (B, M, *patch) by E_shared, one fold with one volume of zeros, and by its E_spec^m."""
        zeros = images.new_zeros(1, 1, *images.shape[2:])
        levels = self.shared_encoder(torch.cat((images.flatten(0, 1)[:, None], zeros)))
        shared = levels[-1][:-1].unflatten(0, images.shape[:2])
        own = [images[:, m : m + 1] for m in range(self.num_modalities)]
        if with_specific:
            own = [torch.cat((image, zeros)) for image in own]
        specific = torch.stack(
            [encode(image)[-1] for encode, image in zip(self.specific_encoders, own, strict=True)], 1
        )
        both = torch.cat((shared, specific[: len(images)]), 2)
        fused = self.composition(both.flatten(0, 1)).unflatten(0, images.shape[:2])
        return Encoded(levels, fused, shared, levels[-1][None, -1:], specific if with_specific else None)

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

    def decode_teacher(self, encoded: Encoded, present: Tensor) -> Tensor:
        """Decode one subset (B, M) per sample without gradient; the finest logits."""
        with torch.no_grad():
            return finest(self.decoder([level[0] for level in self.assemble(encoded, present[None])]))

    def forward_subsets(self, images: Tensor, presents: Tensor) -> Tensor:
        """Predict from subsets (S, M), see ``MissingModalityNetwork``: each modality is encoded once."""
        encoded = self.encode(images)
        of_samples = presents[:, None].expand(-1, len(images), -1)
        assembled = (self.assemble(encoded, subset[None]) for subset in of_samples)
        return torch.stack([finest(self.decoder([level[0] for level in features])) for features in assembled])


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
