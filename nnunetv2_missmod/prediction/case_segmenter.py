"""The work on one case in two parts: what can be done while another is segmented, and what needs the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_missmod.prediction.cases import CaseFiles
from nnunetv2_missmod.prediction.engine import Images, Prepared, Segmented, predict_prepared, prepare
from nnunetv2_missmod.prediction.sequence_check import SeenImages, SequenceCheck


class ReadyCase(NamedTuple):
    """A case that waits for the network.

    Attributes:
        name: of the case.
        seen: of its images.
        prepared: read and preprocessed.
    """

    name: str
    seen: SeenImages
    prepared: Prepared


@dataclass(frozen=True)
class CaseSegmenter:
    """Reads cases and segments them.

    Attributes:
        predictor: of the model.
        check: of the images.
        memory: GB, as in ``predict_prepared``.
        images_of: reads a case; gives its images and the subsets (S, M) to segment it from.
    """

    predictor: nnUNetPredictor
    check: SequenceCheck
    memory: float
    images_of: Callable[[CaseFiles], tuple[Images, np.ndarray]]

    def read(self, case: CaseFiles) -> ReadyCase:
        """Read a case, look at its images and preprocess it, without a word."""
        images, subsets = self.images_of(case)
        return ReadyCase(case.name, self.check.seen_of(images), prepare(self.predictor, images, subsets))

    def segment(self, case: ReadyCase, on_patch: Callable[[float], None]) -> Iterator[Segmented]:
        """Say what was seen of a case's images, and segment it.

        Raises:
            ValueError: as ``SequenceCheck.keep``.
        """
        self.check.keep(case.name, case.seen)
        return predict_prepared(self.predictor, case.prepared, on_patch, self.memory)
