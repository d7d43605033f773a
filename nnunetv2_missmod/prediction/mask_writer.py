"""A mask is exported and written, in whichever process, and what it is judged by comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nnunetv2_missmod.files.channels import assign_channels
from nnunetv2_missmod.files.reading import RESAMPLED
from nnunetv2_missmod.modalities import subset_name
from nnunetv2_missmod.prediction.cases import CaseFiles
from nnunetv2_missmod.prediction.cohort import Export
from nnunetv2_missmod.prediction.engine import Segmented
from nnunetv2_missmod.prediction.judge import MadeMask, made_mask
from nnunetv2_missmod.prediction.mask_request import MaskRequest, mask_file


class WrittenMask(NamedTuple):
    """A mask that is written, or one of a subset with a modality fewer, which is not.

    Attributes:
        row: of the table; empty for a mask that is not written.
        made: the mask and what it is judged by; None if nothing is judged.
    """

    row: dict[str, str]
    made: MadeMask | None


@dataclass(frozen=True)
class MaskWriter:
    """What one mask needs to be exported and written, in whichever process."""

    export: Export
    request: MaskRequest
    out: Path

    def __call__(self, case: CaseFiles, segmented: Segmented) -> WrittenMask:
        """Write a mask if it is one that was asked for."""
        mask = self.export.mask_of(segmented)
        made = made_mask(self.export, segmented, mask) if self.request.judged else None
        if segmented.position >= len(self.request.names):
            return WrittenMask({}, made)
        subset = self.request.names[segmented.position]
        file = mask_file(case.name, subset, self.export.file_ending)
        self.export.write(mask, self.out / file, segmented.properties)
        row = {
            "mask": file,
            "channels": subset_name(torch.from_numpy(segmented.present), self.request.modalities),
            "resampled": self.resampled_of(segmented),
        }
        return WrittenMask(row, made)

    def resampled_of(self, segmented: Segmented) -> str:
        """Name the modalities of a mask whose images were brought onto another's grid."""
        if not (files := segmented.properties.get(RESAMPLED)):
            return ""
        channels, _ = assign_channels(files, self.request.modalities, self.export.file_ending)
        moved = np.isin(np.arange(len(segmented.present)), channels) & segmented.present
        return subset_name(torch.from_numpy(moved), self.request.modalities)
