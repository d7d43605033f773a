"""`missmod predict`: masks from what a case has, or from subsets of it, and a table of what each was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_missmod.files.channels import assign_channels
from nnunetv2_missmod.files.names import whats_wrong
from nnunetv2_missmod.files.reading import RESAMPLED
from nnunetv2_missmod.host.preprocessor import read_case
from nnunetv2_missmod.modalities import subset_name
from nnunetv2_missmod.prediction.cases import CaseFiles, cases_in
from nnunetv2_missmod.prediction.cohort import Export, clear_unfinished, export_of, predict_cohort
from nnunetv2_missmod.prediction.engine import Images, Segmented, predict_subsets
from nnunetv2_missmod.prediction.mask_table import (
    append_masks,
    finished_cases,
    forget_masks,
    inputs_of,
    open_masks,
    run_of,
)
from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings, open_predictor, read_json
from nnunetv2_missmod.prediction.postprocessing import check_min_voxels
from nnunetv2_missmod.prediction.regions import regions_of
from nnunetv2_missmod.prediction.subsets import AVAILABLE, choose_subsets, distinct_names


@dataclass(frozen=True)
class MaskRequest:
    """The subsets that every case is segmented from.

    Attributes:
        modalities: of the model.
        names: of the subsets.
        present: (S, M) bool; None: whatever a case has, one "subset".
        resample: whether images that lie elsewhere are brought onto one grid.
    """

    modalities: list[str]
    names: list[str]
    present: np.ndarray | None
    resample: bool = False


@dataclass(frozen=True)
class MaskWriter:
    """What one mask needs to be exported and written, in whichever process."""

    export: Export
    request: MaskRequest
    out: Path

    def __call__(self, case: CaseFiles, segmented: Segmented) -> dict[str, str]:
        """Write a mask; give its row of the table."""
        subset = self.request.names[segmented.position]
        file = mask_file(case.name, subset, self.export.file_ending)
        self.export.write(self.export.mask_of(segmented), self.out / file, segmented.properties)
        return {
            "case": case.name,
            "subset": subset,
            "mask": file,
            "channels": subset_name(torch.from_numpy(segmented.present), self.request.modalities),
            "resampled": self.resampled_of(segmented),
        }

    def resampled_of(self, segmented: Segmented) -> str:
        """Name the modalities of a mask whose images were brought onto another's grid."""
        if not (files := segmented.properties.get(RESAMPLED)):
            return ""
        channels, _ = assign_channels(files, self.request.modalities, self.export.file_ending)
        moved = np.isin(np.arange(len(segmented.present)), channels) & segmented.present
        return subset_name(torch.from_numpy(moved), self.request.modalities)


def predict_masks(
    choice: ModelChoice,
    prediction: PredictionSettings,
    images: Path,
    out: Path,
    subsets: str = AVAILABLE,
    min_voxels: Mapping[str, int] | None = None,
    continued: bool = False,
    resample: bool = False,
) -> int:
    """Segment every case and write ``masks.csv``: which channels each mask was made from.

    Args:
        choice: of the model.
        prediction: how to predict.
        images: folder of cases with whichever channels they have.
        out: folder for the masks: ``<case>`` of what a case has, ``<subset>/<case>`` of chosen subsets.
        subsets: "available", or as ``choose_subsets`` takes it.
        min_voxels: region -> voxels; a predicted region with fewer is removed.
        continued: keep the cases that an earlier run of the same command has finished.
        resample: bring images that lie elsewhere onto the grid of the case's first one instead of refusing them.

    Returns:
        How many cases could not be segmented; each is named on the console.

    Raises:
        ValueError: says what is wrong with the model, the folder or the settings, before anything is predicted.
    """
    dataset_json = read_json(choice.folder / "dataset.json")
    check_min_voxels(min_voxels or {}, regions_of(dataset_json))
    request = replace(read_request(subsets, distinct_names(dataset_json)), resample=resample)
    cases = cases_in(images, dataset_json["file_ending"])[prediction.part_id :: prediction.num_parts]
    predictor = open_predictor(choice, prediction)
    run = run_of(choice, prediction, images, min_voxels=dict(min_voxels or {}), resample=resample)
    # As nnU-Net does, for its post-processing and evaluation.
    open_masks(out, run, {"dataset.json": dataset_json, "plans.json": predictor.plans_manager.plans})
    clear_unfinished(out, request.names)
    finished = finished_cases(out, request.names, cases) if continued else set()
    left = [case for case in cases if case.name not in finished]
    return write_cases(predictor, left, request, min_voxels or {}, prediction.num_processes, out)


def write_cases(
    predictor: nnUNetPredictor,
    cases: Sequence[CaseFiles],
    request: MaskRequest,
    min_voxels: Mapping[str, int],
    num_processes: int,
    out: Path,
) -> int:
    """Segment cases, each entered into the table when all of it is done; count those that failed."""
    write_mask = MaskWriter(export_of(predictor, min_voxels), request, out)
    segment = partial(segment_unlabelled, predictor, request)
    failed = 0
    for done in predict_cohort("Predict", cases, segment, write_mask, len(request.names), num_processes):
        if done.error is None:
            inputs = inputs_of(done.case)
            lacking = {"case": done.case.name, "mask": "", "channels": ""}
            rows = [done.of_subset.get(i, {**lacking, "subset": name}) for i, name in enumerate(request.names)]
            append_masks(out, [{**row, "inputs": inputs} for row in rows])
        else:
            failed += 1
            masks = [mask_file(done.case.name, name, write_mask.export.file_ending) for name in request.names]
            if not whats_wrong(done.case.name):  # otherwise it has no mask, and its name may lead elsewhere
                forget_masks(out, done.case.name, masks)
    return failed


def read_request(subsets: str, modalities: Sequence[str]) -> MaskRequest:
    """Read what ``--subsets`` asks for."""
    if subsets == AVAILABLE:
        return MaskRequest(list(modalities), [AVAILABLE], None)
    chosen = choose_subsets(subsets, modalities)
    return MaskRequest(chosen.modalities, chosen.names, chosen.present)


def segment_unlabelled(
    predictor: nnUNetPredictor, request: MaskRequest, case: CaseFiles, on_patch: Callable[[float], None]
) -> Iterator[Segmented]:
    """Segment a case from what it has, or from every subset asked for that it has."""
    reader = predictor.plans_manager.image_reader_writer_class()
    images = Images(*read_case(case.images, reader, predictor.dataset_json, request.resample))
    subsets = images.available[None] if request.present is None else request.present
    yield from predict_subsets(predictor, images, subsets, on_patch)


def mask_file(case: str, subset: str, file_ending: str) -> str:
    """Name a mask's file within the folder of the prediction."""
    return f"{case}{file_ending}" if subset == AVAILABLE else f"{subset}/{case}{file_ending}"
