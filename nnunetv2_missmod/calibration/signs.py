"""What can be seen of a mask without its truth, and tells how good it is.

How far a mask agrees with those from fewer of the case's modalities was tried as well: it told nothing that these two
do not, and costs a segmentation for each modality (benchmarks/README.md).
"""

from __future__ import annotations

from math import log10
from typing import NamedTuple

SIGNS = ("probability", "log_volume")  # columns of the masks that are learnt from


class Signs(NamedTuple):
    """The signs of one region of one mask.

    Attributes:
        probability: mean of the model's probabilities within the region's mask, NaN where it is empty.
        volume: of the mask, mm3.
    """

    probability: float
    volume: float

    @property
    def columns(self) -> dict[str, float]:
        """The numbers of ``SIGNS``; volumes by their order of magnitude."""
        return {"probability": self.probability, "log_volume": log10(1 + self.volume)}
