"""Says of a new mask what held-out cases let expect of it: how good it is, and what would make it better."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

import numpy as np
import pandas as pd

from nnunetv2_missmod.calibration.file import CALIBRATION, Calibration
from nnunetv2_missmod.calibration.signs import Signs
from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.modalities import JOIN
from nnunetv2_missmod.prediction.judgement import DIGITS, Expected, Help, Judgement
from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings, fingerprints, read_json
from nnunetv2_missmod.prediction.regions import Regions, regions_of


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

    def judgement_of(self, present: np.ndarray, signs: Mapping[str, Signs]) -> Judgement:
        """Judge a mask.

        Args:
            present: (M,) bool, what it was made from.
            signs: of each region.
        """
        subset = self._subset_of(present)
        what = {"subset": subset, "num_present": int(present.sum())}
        expected = {region: self._expected(what, signs[region], region) for region in self.regions}
        return Judgement(expected, self._helps(subset, present), self.confidence)

    def _expected(self, what: Mapping[str, object], signs: Signs, region: str) -> Expected:
        quality = self.calibration.quality[region]
        rows = pd.DataFrame([{**what, "is_predicted": signs.volume > 0, **signs.columns}])
        numbers = quality.expected(rows), quality.bounds(rows, self.confidence), quality.chances(rows)
        return Expected(*(None if isnan(values[0]) else round(float(values[0]), DIGITS) for values in numbers))

    def _helps(self, subset: str, present: np.ndarray) -> list[Help]:
        gain_of = self.calibration.gain_of
        absent = [m for m, is_there in zip(self.calibration.modalities, present, strict=True) if not is_there]
        gains = {m: {r: gain_of[subset, m, r] for r in self.regions if (subset, m, r) in gain_of} for m in absent}
        helps = [Help(modality, of_region) for modality, of_region in gains.items() if of_region]
        return sorted(helps, key=lambda each: -float(np.mean(list(each.gains.values()))))

    def _subset_of(self, present: np.ndarray) -> str:
        names = zip(self.calibration.modalities, present, strict=True)
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
