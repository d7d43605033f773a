"""`missmod predict`: masks from what a case has, or from subsets of it, and a table of what each was made from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.files.names import whats_wrong
from nnunetv2_missmod.host.plan_block import needed_channels
from nnunetv2_missmod.host.preprocessor import check_needed, read_case
from nnunetv2_missmod.modalities import name_of_channels
from nnunetv2_missmod.prediction.case_segmenter import CaseSegmenter
from nnunetv2_missmod.prediction.cases import CaseFiles, cases_in
from nnunetv2_missmod.prediction.cohort import Finished, clear_unfinished, export_of, predict_cohort
from nnunetv2_missmod.prediction.engine import Images
from nnunetv2_missmod.prediction.judgement import columns_of
from nnunetv2_missmod.prediction.mask_request import MaskRequest, mask_file, read_request, trust_file
from nnunetv2_missmod.prediction.mask_table import (
    append_masks,
    cases_left,
    forget_masks,
    inputs_of,
    open_masks,
    run_of,
)
from nnunetv2_missmod.prediction.mask_writer import MaskWriter, WrittenMask
from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings, open_predictor, read_json, read_plan
from nnunetv2_missmod.prediction.postprocessing import check_min_voxels
from nnunetv2_missmod.prediction.regions import regions_of
from nnunetv2_missmod.prediction.subsets import AVAILABLE
from nnunetv2_missmod.prediction.trust import AS_USUAL, Trust, TrustSettings, trust_in


def predict_masks(
    choice: ModelChoice,
    prediction: PredictionSettings,
    images: Path,
    out: Path,
    subsets: str = AVAILABLE,
    min_voxels: Mapping[str, int] | None = None,
    continued: bool = False,
    resample: bool = False,
    settings: TrustSettings = AS_USUAL,
) -> int:
    """Segment every case and write ``masks.csv``: what each mask was made from, what is expected; count failed cases.

    Args:
        choice: of the model.
        prediction: how to predict.
        images: folder of cases with whichever channels they have.
        out: folder for the masks: ``<case>`` of what a case has, ``<subset>/<case>`` of chosen subsets.
        subsets: "available", or as ``choose_subsets`` takes it.
        min_voxels: region -> voxels; a predicted region with fewer is removed.
        continued: keep the cases that an earlier run of the same command has finished.
        resample: bring images that lie elsewhere onto the grid of the case's first one instead of refusing them.
        settings: what is said of how far the masks can be trusted.

    Raises:
        ValueError: says what is wrong with the model, the folder or the settings, before anything is predicted.
    """
    dataset_json = read_json(choice.folder / "dataset.json")
    check_min_voxels(min_voxels or {}, regions_of(dataset_json))
    trust = trust_in(choice, prediction, min_voxels or {}, settings)
    request = replace(request_of(choice, subsets, dataset_json), resample=resample, judged=bool(trust.judge))
    cases = cases_in(images, dataset_json["file_ending"])[prediction.part_id :: prediction.num_parts]
    predictor = open_predictor(choice, prediction)
    run = run_of(choice, prediction, images, min_voxels=dict(min_voxels or {}), resample=resample, **trust.recorded)
    open_masks(out, run, {"dataset.json": dataset_json, "plans.json": predictor.plans_manager.plans})
    clear_unfinished(out, request.names)
    left = cases_left(out, request.names, cases) if continued else cases
    return write_cases(predictor, left, request, min_voxels or {}, prediction, out, trust)


def request_of(choice: ModelChoice, subsets: str, dataset_json: dict[str, Any]) -> MaskRequest:
    """Read ``--subsets``; of a dedicated model, say what it looks at."""
    modalities = distinct_names(dataset_json)
    needed = needed_channels(read_plan(choice, len(modalities))[1])
    if needed:
        print(f"This model was trained for {name_of_channels(needed, modalities)} alone: no other image counts.")
    return read_request(subsets, modalities, needed)


def write_cases(
    predictor: nnUNetPredictor,
    cases: Sequence[CaseFiles],
    request: MaskRequest,
    min_voxels: Mapping[str, int],
    prediction: PredictionSettings,
    out: Path,
    trust: Trust,
) -> int:
    """Segment cases, each entered into the table when all of it is done; count those that failed."""
    if trust.missing:
        print(trust.missing, file=sys.stderr)
    export = export_of(predictor, min_voxels)
    write_mask = MaskWriter(export, request, out)
    segmenter = CaseSegmenter(predictor, trust.check, prediction.memory, partial(read_unlabelled, predictor, request))
    failed = 0
    work = segmenter.read, segmenter.segment, write_mask
    for done in predict_cohort("Predict", cases, *work, len(request.names), prediction.num_processes):
        if done.error is None:
            append_masks(out, rows_of(done, request, export.dataset_json, trust, out))
        else:
            failed += 1
            masks = [mask_file(done.case.name, name, export.file_ending) for name in request.names]
            if not whats_wrong(done.case.name):  # otherwise it has no mask, and its name may lead elsewhere
                forget_masks(out, done.case.name, masks, [trust_file(mask, export.file_ending) for mask in masks])
    return failed


def rows_of(
    done: Finished[WrittenMask], request: MaskRequest, dataset_json: dict[str, Any], trust: Trust, out: Path
) -> list[dict[str, str]]:
    """Give a case's rows of the table; what is expected of its masks is also said, and written beside them."""
    beside = {"inputs": inputs_of(done.case), "suspicions": trust.check.found[done.case.name].words}
    nothing = dict.fromkeys(["mask", "channels", "resampled", *columns_of(regions_of(dataset_json))], "")
    rows = []
    for position, subset in enumerate(request.names):
        row = {"case": done.case.name, "subset": subset, **nothing, **beside}
        if written := done.of_subset.get(position):
            row |= written.row
            if trust.judge is not None:
                judgement = trust.judge.judgement_of(written.present, written.signs)
                judgement.write(out / trust_file(row["mask"], dataset_json["file_ending"]))
                print(f"  {row['channels']}: {judgement.line}", flush=True)
                row |= judgement.columns()
        rows.append(row)
    return rows


def read_unlabelled(predictor: nnUNetPredictor, request: MaskRequest, case: CaseFiles) -> tuple[Images, np.ndarray]:
    """Read a case; it is segmented from what it has, or from every subset asked for that it has."""
    reader = predictor.plans_manager.image_reader_writer_class()
    images = Images(*read_case(case.images, reader, predictor.dataset_json, request.resample))
    check_needed(images.voxels, predictor.configuration_manager, predictor.dataset_json)
    return images, images.available[None] if request.present is None else request.present
