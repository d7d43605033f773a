"""A mask is exported and written, in whichever process, and what it is judged by comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nnunetv2_missmod.calibration.signs import Signs
from nnunetv2_missmod.files.channels import assign_channels
from nnunetv2_missmod.files.reading import RESAMPLED
from nnunetv2_missmod.modalities import subset_name
from nnunetv2_missmod.prediction.cases import CaseFiles
from nnunetv2_missmod.prediction.cohort import Export
from nnunetv2_missmod.prediction.engine import Segmented
from nnunetv2_missmod.prediction.mask_request import MaskRequest, mask_file


class WrittenMask(NamedTuple):
    """A mask that is written.

    Attributes:
        row: of the table.
        present: (M,) bool, what it was made from.
        signs: by region, what it is judged by; none if nothing is judged.
    """

    row: dict[str, str]
    present: np.ndarray
    signs: Mapping[str, Signs]


@dataclass(frozen=True)
class MaskWriter:
    """What one mask needs to be exported and written, in whichever process."""

    export: Export
    request: MaskRequest
    out: Path

    def __call__(self, case: CaseFiles, segmented: Segmented) -> WrittenMask:
        """Write a mask; give its row of the table."""
        mask = self.export.mask_of(segmented)
        subset = self.request.names[segmented.position]
        file = mask_file(case.name, subset, self.export.file_ending)
        self.export.write(mask, self.out / file, segmented.properties)
        row = {
            "mask": file,
            "channels": subset_name(torch.from_numpy(segmented.present), self.request.modalities),
            "resampled": self.resampled_of(segmented),
        }
        signs = self.export.signs_of(segmented, mask) if self.request.judged else {}
        return WrittenMask(row, segmented.present, signs)

    def resampled_of(self, segmented: Segmented) -> str:
        """Name the modalities of a mask whose images were brought onto another's grid."""
        if not (files := segmented.properties.get(RESAMPLED)):
            return ""
        channels, _ = assign_channels(files, self.request.modalities, self.export.file_ending)
        moved = np.isin(np.arange(len(segmented.present)), channels) & segmented.present
        return subset_name(torch.from_numpy(moved), self.request.modalities)
