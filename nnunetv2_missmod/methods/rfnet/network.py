"""The network of RFNet: an encoder for each modality, region-aware fusion at every level, and two decoders."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.network import NetworkSpec
from nnunetv2_missmod.building_blocks.per_modality import Logits, decode_each, joining, select_present
from nnunetv2_missmod.building_blocks.region_fusion import RegionAwareFusion, RegionFusionNet
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.modalities import available_modalities


class RFNetOutput(NamedTuple):
    """Output in training. Lists are finest first."""

    logits: Logits  # of D_fuse, (B, K, *patch) and coarser
    separate_logits: Logits  # of D_sep, (B * M, K, *patch) or (B * k, ...) and coarser, sample-major
    region_logits: list[Tensor]  # of the fusion's region maps, (B, K, *spatial) at every level


class RFNet(RegionFusionNet):
    """RFNet on a plan's topology, with F_l / sqrt(M) features in every part.

    In training every channel is encoded as it is; ``present`` acts inside the fusion alone, so that D_sep sees all that
    is available.

    Args:
        fusion: "regions", or "concat": the modalities are concatenated and convolved, and the region maps, which learn
            all the same, weigh nothing.
        overlapping_regions: region maps are sigmoids with one more map for the background, not a softmax.
    """

    def __init__(self, spec: NetworkSpec, *, fusion: str = "regions", overlapping_regions: bool = False):
        super().__init__(spec, "RFNet", overlapping_regions, merge_width="full")
        check_choice("fusion", fusion, ("regions", "concat"))
        if fusion == "concat":
            narrow, count = spec.architecture.for_each_of(spec.num_modalities), spec.num_modalities
            levels = range(len(narrow.features))
            self.fusions = nn.ModuleList(Concatenation(narrow, level, count, spec.num_classes) for level in levels)

    def forward(
        self, images: Tensor, present: Tensor | None = None, alone: Tensor | None = None
    ) -> Tensor | list[Tensor] | RFNetOutput:
        """Segment images (B, M, *patch) from the modalities present (B, M), see ``MissingModalityNetwork``.

        ``alone`` (B, k) are the modalities of each sample that D_sep segments in training; None: each of the M.
        """
        present = available_modalities(images) if present is None else present
        levels = self.encode(images)
        if not self.training:
            return self.segment(levels, present)
        separate_logits = decode_each(self.separate_decoder, levels, alone)
        seen = select_present(levels, present)
        del levels  # frees its large maps before the fusion
        logits, region_logits, _ = self.fuse_and_decode(seen)
        return RFNetOutput(logits, separate_logits, region_logits)


class Concatenation(RegionAwareFusion):
    """What is left without region-aware weighing: the shortcut of the concatenated modalities, at full width."""

    def __init__(self, architecture: Architecture, level: int, num_modalities: int, num_classes: int):
        super().__init__(architecture, level, num_modalities, num_classes, False, merge_width="full")
        del self.weights, self.merge
        channels, kernel = architecture.features[level], architecture.kernel_sizes[level]
        self.shortcut = joining(architecture, num_modalities * channels, [channels] * 3, kernel)

    def forward(self, maps: Tensor, coarser: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse the maps (B, M, C, *spatial) of one level to (B, C, *spatial), see ``RegionAwareFusion``."""
        stacked = maps.flatten(1, 2)
        return self.shortcut(stacked), self.region_logits(stacked, coarser)
