"""Which subsets `missmod predict` segments a case from, and what the masks' files are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_missmod.prediction.subsets import AVAILABLE, choose_subsets


@dataclass(frozen=True)
class MaskRequest:
    """The subsets that every case is segmented from.

    Attributes:
        modalities: of the model.
        names: of the subsets.
        present: (S, M) bool; None: whatever a case has, one "subset".
        resample: whether images that lie elsewhere are brought onto one grid.
        judged: whether it is to be said what is expected of the masks.
    """

    modalities: list[str]
    names: list[str]
    present: np.ndarray | None
    resample: bool = False
    judged: bool = False


def read_request(subsets: str, modalities: Sequence[str], needed: tuple[int, ...] = ()) -> MaskRequest:
    """Read what ``--subsets`` asks for, of a model that cannot do without the needed channels."""
    if subsets == AVAILABLE:
        return MaskRequest(list(modalities), [AVAILABLE], None)
    chosen = choose_subsets(subsets, modalities, needed)
    return MaskRequest(chosen.modalities, chosen.names, chosen.present)


def mask_file(case: str, subset: str, file_ending: str) -> str:
    """Name a mask's file within the folder of the prediction."""
    return f"{case}{file_ending}" if subset == AVAILABLE else f"{subset}/{case}{file_ending}"


def trust_file(mask: str, file_ending: str) -> str:
    """Name the file that says how far a mask can be trusted, by the mask's."""
    return f"{mask.removesuffix(file_ending)}_trust.json"
