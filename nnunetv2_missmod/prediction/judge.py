"""Says of a new mask what held-out cases let expect of it: how good it is, and what would make it better."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

import numpy as np
import pandas as pd

from nnunetv2_missmod.calibration.file import CALIBRATION, Calibration
from nnunetv2_missmod.calibration.signs import one_fewer, signs_of
from nnunetv2_missmod.prediction.cohort import Export
from nnunetv2_missmod.prediction.engine import Segmented
from nnunetv2_missmod.prediction.judgement import DIGITS, Expected, Help, Judgement
from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings, fingerprints, read_json
from nnunetv2_missmod.prediction.regions import LabelMap, Regions, region_mask, regions_of
from nnunetv2_missmod.prediction.subsets import JOIN, distinct_names


class MadeMask(NamedTuple):
    """A mask, and what it is judged by.

    Attributes:
        present: (M,) bool, what it was made from.
        mask: label map (x, y, z).
        probabilities: by region, the mean probability within its mask.
        voxel_volume: mm3.
    """

    present: np.ndarray
    mask: LabelMap
    probabilities: Mapping[str, float]
    voxel_volume: float


def made_mask(export: Export, segmented: Segmented, mask: LabelMap) -> MadeMask:
    """Put a mask together with what it is judged by."""
    volume = float(np.prod(segmented.properties["spacing"]))
    return MadeMask(segmented.present, mask, export.mean_probabilities(segmented), volume)


@dataclass(frozen=True)
class Judge:
    """Says what is expected of a mask.

    Attributes:
        calibration: of the model.
        regions: name -> labels.
        confidence: of the bounds.
        fingerprint: of the calibration's file.
    """

    calibration: Calibration
    regions: Regions
    confidence: float
    fingerprint: str

    def judgement_of(self, made: MadeMask, others: Iterable[MadeMask]) -> Judgement:
        """Judge a mask by itself and by the masks of the same case that lack one of its modalities.

        Args:
            made: the mask.
            others: masks of the case, those with one modality fewer among them.
        """
        fewer = {subset.tobytes() for subset in one_fewer(made.present)}
        of_fewer = [other.mask for other in others if other.present.tobytes() in fewer]
        expected = {region: self._expected(made, of_fewer, region) for region in self.regions}
        return Judgement(expected, self._helps(made), self.confidence)

    def _expected(self, made: MadeMask, fewer: Sequence[LabelMap], region: str) -> Expected:
        labels, quality = self.regions[region], self.calibration.quality[region]
        mask = region_mask(made.mask, labels)
        of_fewer = [region_mask(other, labels) for other in fewer]
        signs = signs_of(mask, of_fewer, made.probabilities[region], made.voxel_volume)
        what = {"subset": self._subset_of(made), "num_present": int(made.present.sum()), "is_predicted": mask.any()}
        rows = pd.DataFrame([{**what, **signs}])
        numbers = quality.expected(rows), quality.bounds(rows, self.confidence), quality.chances(rows)
        return Expected(*(None if isnan(values[0]) else round(float(values[0]), DIGITS) for values in numbers))

    def _helps(self, made: MadeMask) -> list[Help]:
        subset, gain_of = self._subset_of(made), self.calibration.gain_of
        absent = [m for m, is_there in zip(self.calibration.modalities, made.present, strict=True) if not is_there]
        gains = {m: {r: gain_of[subset, m, r] for r in self.regions if (subset, m, r) in gain_of} for m in absent}
        helps = [Help(modality, of_region) for modality, of_region in gains.items() if of_region]
        return sorted(helps, key=lambda each: -float(np.mean(list(each.gains.values()))))

    def _subset_of(self, made: MadeMask) -> str:
        names = zip(self.calibration.modalities, made.present, strict=True)
        return JOIN.join(name for name, is_there in names if is_there)


def judge_of(
    calibration: Calibration,
    choice: ModelChoice,
    prediction: PredictionSettings,
    min_voxels: Mapping[str, int],
    confidence: float,
) -> Judge | None:
    """Make a judge of a model's calibration; None if it was made of other checkpoints, and stderr says so.

    Raises:
        ValueError: the calibration is of other regions or modalities.
    """
    file, dataset_json = choice.folder / CALIBRATION, read_json(choice.folder / "dataset.json")
    regions, modalities = regions_of(dataset_json), distinct_names(dataset_json)
    expected, found = (list(regions), modalities), (list(calibration.regions), list(calibration.modalities))
    if expected != found:
        raise ValueError(
            f"{file}: expected the regions and modalities of dataset.json, {expected}, got {found}. Run missmod "
            "calibrate again, or remove the file."
        )
    if not set(fingerprints(choice.checkpoint_files())) <= set(calibration.weights):
        _say(f"{file} is not used: it was made of other checkpoints. Score these, and run missmod calibrate.")
        return None
    now = {"step_size": prediction.step_size, "mirroring": prediction.mirroring, "min_voxels": dict(min_voxels)}
    if differing := [name for name in now if calibration.settings.get(name) != now[name]]:
        _say(f"{file} was made with another {', '.join(differing)}: what is expected of masks is less certain.")
    return Judge(calibration, regions, confidence, *fingerprints([file]))


def _say(words: str) -> None:
    print(f"missmod: {words}", file=sys.stderr)
