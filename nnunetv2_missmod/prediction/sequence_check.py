"""Whether each image of a case is the sequence that its name says, as far as that can be seen."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

from nnunetv2_missmod.calibration.sequence_model import SequenceModel, case_features
from nnunetv2_missmod.calibration.suspicions import words_of, words_of_unfamiliar
from nnunetv2_missmod.prediction.engine import Images


class SeenImages(NamedTuple):
    """What is seen of the images of a case, in words; empty where there is nothing to say.

    Attributes:
        suspicions: which look like another modality, or are one image twice.
        unfamiliar: which are like no training image, so that they cannot be judged.
    """

    suspicions: str
    unfamiliar: str

    @property
    def words(self) -> str:
        """All of it."""
        return " ".join(filter(None, self))


@dataclass(frozen=True)
class SequenceCheck:
    """Warns of images that look like another modality; unsure is unsure.

    Attributes:
        model: of the modalities' images; None suspects nothing but a copy.
        modalities: their names.
        refuse: make it an error of the case.
        found: what was seen, by case.
    """

    model: SequenceModel | None
    modalities: Sequence[str]
    refuse: bool = False
    found: dict[str, SeenImages] = field(default_factory=dict)

    def seen_of(self, images: Images) -> SeenImages:
        """Look at the images of a case."""
        channels = np.flatnonzero(images.available).tolist()
        copies = [
            f"the files for {self.modalities[one]} and {self.modalities[other]} hold the same image: a copy?"
            for one, other in combinations(channels, 2)
            if np.array_equal(images.voxels[one], images.voxels[other])
        ]
        if self.model is None:
            return SeenImages(" ".join(copies), "")
        features = case_features(images.voxels, images.available)
        suspected = words_of(self.model.suspicions_of(features), self.modalities)
        unfamiliar = words_of_unfamiliar(self.model.unfamiliar(features), self.modalities)
        return SeenImages(" ".join(filter(None, [*copies, suspected])), unfamiliar)

    def keep(self, case: str, seen: SeenImages) -> None:
        """Keep what is seen of the images of a case; stderr says which look like another modality.

        Raises:
            ValueError: some look like another modality, and that is to be refused.
        """
        self.found[case] = seen
        if seen.suspicions and self.refuse:
            raise ValueError(
                f"{seen.suspicions} Give each file its own channel's number, or leave --refuse_mixups out."
            )
        if seen.suspicions:
            print(f"case {case}: {seen.suspicions}", file=sys.stderr, flush=True)
