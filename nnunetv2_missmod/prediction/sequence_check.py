"""Whether each image of a case is the sequence that its name says, as far as that can be seen."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from nnunetv2_missmod.calibration.sequence_model import SequenceModel
from nnunetv2_missmod.calibration.suspicions import words_of
from nnunetv2_missmod.prediction.engine import Images


@dataclass(frozen=True)
class SequenceCheck:
    """Warns of images that look like another modality; unsure is unsure.

    Attributes:
        model: of the modalities' images; None suspects nothing but a copy.
        modalities: their names.
        refuse: make it an error of the case.
        found: what was found, by case.
    """

    model: SequenceModel | None
    modalities: Sequence[str]
    refuse: bool = False
    found: dict[str, str] = field(default_factory=dict)

    def suspicions_of(self, images: Images) -> str:
        """Say which images of a case look like another modality, or are one image twice; empty if none does."""
        channels = np.flatnonzero(images.available).tolist()
        copies = [
            f"the files for {self.modalities[one]} and {self.modalities[other]} hold the same image: a copy?"
            for one, other in combinations(channels, 2)
            if np.array_equal(images.voxels[one], images.voxels[other])
        ]
        found = [] if self.model is None else self.model.suspicions(images.voxels, images.available)
        return " ".join(filter(None, [*copies, words_of(found, self.modalities)]))

    def look_at(self, case: str, images: Images) -> None:
        """Look at the images of a case and keep what was found, which stderr also says.

        Raises:
            ValueError: some look like another modality, and that is to be refused.
        """
        self.found[case] = words = self.suspicions_of(images)
        if words and self.refuse:
            raise ValueError(f"{words} Give each file its own channel's number, or leave --refuse_mixups out.")
        if words:
            print(f"case {case}: {words}", file=sys.stderr, flush=True)
