"""Whether each image of a case is the sequence that its name says, as far as that can be seen."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from nnunetv2_missmod.calibration.sequence_model import SequenceModel
from nnunetv2_missmod.calibration.suspicions import words_of
from nnunetv2_missmod.prediction.engine import Images


@dataclass(frozen=True)
class SequenceCheck:
    """Warns of images that look like another modality; unsure is unsure.

    Attributes:
        model: of the modalities' images; None warns of nothing.
        modalities: their names.
        refuse: make it an error of the case.
        found: what was found, by case.
    """

    model: SequenceModel | None
    modalities: Sequence[str]
    refuse: bool = False
    found: dict[str, str] = field(default_factory=dict)

    def look_at(self, case: str, images: Images) -> None:
        """Look at the images of a case; say on stderr which look like another modality.

        Raises:
            ValueError: some do, and that is to be refused.
        """
        if self.model is None:
            return
        words = words_of(self.model.suspicions(images.voxels, images.available), self.modalities)
        self.found[case] = words
        if words and self.refuse:
            raise ValueError(f"{words} Give each file its own channel's number, or predict without --refuse_mixups.")
        if words:
            print(f"case {case}: {words}", file=sys.stderr, flush=True)
