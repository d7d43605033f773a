"""Whatever says how far a model's masks can be trusted: of their regions, and of the images that they are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunetv2_missmod.calibration.file import calibration_in
from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.prediction.judge import Judge, judge_of
from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings, read_json
from nnunetv2_missmod.prediction.sequence_check import SequenceCheck

CONFIDENCE = 0.9


@dataclass(frozen=True)
class TrustSettings:
    """What is said of how far masks can be trusted, if the model has a calibration.

    Attributes:
        use: whether to look for one.
        confidence: of the lower bounds of Dice.
        refuse_mixups: whether an image that looks like another modality is an error of its case.
    """

    use: bool = True
    confidence: float = CONFIDENCE
    refuse_mixups: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"Expected a confidence between 0 and 1, got {self.confidence}. {CONFIDENCE} is usual.")


AS_USUAL = TrustSettings()
UNCALIBRATED = (
    "missmod: which Dice is expected of each mask is not said, since the model has no calibration. missmod calibrate "
    "makes one of the scores of held-out cases."
)


@dataclass(frozen=True)
class Trust:
    """What says how far masks can be trusted.

    Attributes:
        judge: of the masks; None where the model has no calibration that fits.
        check: of their images.
        missing: what is to be said where there is no calibration, though one was looked for.
    """

    judge: Judge | None
    check: SequenceCheck
    missing: str = ""

    @property
    def recorded(self) -> dict[str, str | float | None]:
        """What a prediction's record says of it."""
        if self.judge is None:
            return {"calibration": None, "confidence": None}
        return {"calibration": self.judge.fingerprint, "confidence": self.judge.confidence}


def trust_in(
    choice: ModelChoice, prediction: PredictionSettings, min_voxels: Mapping[str, int], settings: TrustSettings
) -> Trust:
    """Find what the calibration of a model says how far its masks can be trusted.

    Args:
        choice: of the model.
        prediction: how it predicts.
        min_voxels: region -> voxels; a predicted region with fewer is removed.
        settings: what is to be said.

    Raises:
        ValueError: the calibration is damaged, or of other regions or modalities.
    """
    modalities = distinct_names(read_json(choice.folder / "dataset.json"))
    calibration = calibration_in(choice.folder) if settings.use else None
    if calibration is None:
        return Trust(None, SequenceCheck(None, modalities), UNCALIBRATED if settings.use else "")
    judge = judge_of(calibration, choice, prediction, min_voxels, settings.confidence)
    return Trust(judge, SequenceCheck(calibration.sequences, modalities, settings.refuse_mixups))
