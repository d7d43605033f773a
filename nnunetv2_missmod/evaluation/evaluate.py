"""`missmod evaluate`: masks and scores of every subset of the modalities, for any trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_missmod.calibration.file import calibration_in
from nnunetv2_missmod.evaluation.means_table import print_means
from nnunetv2_missmod.evaluation.metrics import ScoringRules, score
from nnunetv2_missmod.evaluation.nnunet_summary import write_summary
from nnunetv2_missmod.evaluation.provenance import Provenance
from nnunetv2_missmod.evaluation.scores import RegionScores, append_case, case_table, open_scores, read_scores
from nnunetv2_missmod.evaluation.truth import check_label, read_truth
from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.files.whole_files import LOCK
from nnunetv2_missmod.host.plan_block import needed_channels
from nnunetv2_missmod.host.preprocessor import read_case
from nnunetv2_missmod.prediction.case_segmenter import CaseSegmenter
from nnunetv2_missmod.prediction.cases import CaseFiles, cases_in, held_out_cases
from nnunetv2_missmod.prediction.cohort import Export, clear_unfinished, export_of, predict_cohort
from nnunetv2_missmod.prediction.engine import Images, Segmented
from nnunetv2_missmod.prediction.model import (
    ModelChoice,
    PredictionSettings,
    find_trainer,
    fingerprints,
    open_predictor,
    read_checkpoint,
    read_json,
    read_plan,
)
from nnunetv2_missmod.prediction.postprocessing import check_min_voxels
from nnunetv2_missmod.prediction.regions import known_values, regions_of
from nnunetv2_missmod.prediction.sequence_check import SequenceCheck
from nnunetv2_missmod.prediction.subsets import ALL, ChosenSubsets, choose_subsets

PREDICTIONS = "predictions"
PACKAGES = ("nnunetv2_missmod", "nnunetv2", "torch", "monai")


@dataclass(frozen=True)
class EvaluationSettings:
    """What to score and how.

    Attributes:
        subsets: "all", "singles", or names such as ``FLAIR+T1c,T2``.
        rules: of the scores.
        min_voxels: region -> voxels; a predicted region with fewer is removed.
        save: whether masks are kept.
        refuse_mixups: whether an image that looks like another modality is an error of its case.
    """

    subsets: str = ALL
    rules: ScoringRules = field(default_factory=ScoringRules)
    min_voxels: Mapping[str, int] = field(default_factory=dict)
    save: bool = True
    refuse_mixups: bool = False


@dataclass(frozen=True)
class Cohort:
    """Cases that the same folds predict, and where they are."""

    folds: tuple[str, ...]
    images: Path
    labels: Path
    cases: Sequence[CaseFiles]


@dataclass(frozen=True)
class MaskScorer:
    """What one mask needs to be exported and scored, in whichever process."""

    export: Export
    names: Sequence[str]  # of the subsets
    rules: ScoringRules
    masks: Path | None

    def __call__(self, case: CaseFiles, segmented: Segmented) -> list[RegionScores]:
        """Export a mask and score it."""
        assert case.label is not None
        mask = self.export.mask_of(segmented)
        if self.masks is not None:
            self.export.write(mask, self.mask_file(case, segmented.position), segmented.properties)
        dataset_json = self.export.dataset_json
        regions = tuple((name, tuple(labels)) for name, labels in regions_of(dataset_json).items())
        reader = self.export.plans_manager.image_reader_writer_class
        truth = read_truth(case.label, reader, regions, dataset_json["labels"].get("ignore"))
        signs, scored = self.export.signs_of(segmented, mask), score(mask, truth, self.rules)
        seen = [signs[row.region] for row in scored]
        return [
            row._replace(mean_probability=of_region.probability, predicted_volume=of_region.volume)
            for row, of_region in zip(scored, seen, strict=True)
        ]

    def mask_file(self, case: CaseFiles, position: int) -> Path:
        """Name the file of a mask."""
        assert self.masks is not None
        return self.masks / self.names[position] / f"{case.name}{self.export.file_ending}"

    def remove(self, case: CaseFiles) -> None:
        """Remove the masks that a failed case has got so far: what is kept is scored."""
        for position in range(len(self.names)) if self.masks is not None else ():
            self.mask_file(case, position).unlink(missing_ok=True)


def evaluate_model(
    choice: ModelChoice,
    prediction: PredictionSettings,
    evaluation: EvaluationSettings,
    out: Path,
    images: Path | None = None,
    labels: Path | None = None,
) -> int:
    """Predict and score every case from every subset, into a folder that `missmod report` reads.

    Without ``images`` and ``labels`` the validation cases of each fold are predicted by that fold's model. A case that
    lacks modalities is scored on the subsets of those that it has. Cases that the folder has of the same run are kept.

    Returns:
        How many cases could not be scored; each is named on the console.

    Raises:
        ValueError: says what is wrong with the model, the folders or the settings, before anything is predicted.
    """
    dataset_json = read_json(choice.folder / "dataset.json")
    check_min_voxels(evaluation.min_voxels, regions_of(dataset_json))
    subsets = subsets_to_score(choice, evaluation.subsets, dataset_json)
    cohorts = find_cohorts(choice, images, labels, dataset_json["file_ending"])
    for trainer in {read_checkpoint(file)["trainer_name"] for file in choice.checkpoint_files()}:
        find_trainer(trainer)
    provenance = provenance_of(choice, prediction, evaluation, subsets, cohorts[0], images is None)
    finished = set(open_scores(out, provenance)["case"])
    clear_unfinished(out / PREDICTIONS, subsets.names)
    calibration = calibration_in(choice.folder)
    sequences = None if calibration is None else calibration.sequences
    check = SequenceCheck(sequences, subsets.modalities, evaluation.refuse_mixups)
    failed = 0
    for cohort in cohorts:
        cases = [case for case in cohort.cases[prediction.part_id :: prediction.num_parts] if case.name not in finished]
        if cases:
            predictor = open_predictor(replace(choice, folds=cohort.folds), prediction)
            failed += score_cases(predictor, cases, subsets, evaluation, prediction, out, check)
    conclude(out)
    return failed


def subsets_to_score(choice: ModelChoice, chosen: str, dataset_json: dict[str, Any]) -> ChosenSubsets:
    """Read which subsets a model is to be scored on; a dedicated one serves those alone that have its own."""
    modalities = distinct_names(dataset_json)
    return choose_subsets(chosen, modalities, needed_channels(read_plan(choice, len(modalities))[1]))


def score_cases(
    predictor: nnUNetPredictor,
    cases: Sequence[CaseFiles],
    subsets: ChosenSubsets,
    evaluation: EvaluationSettings,
    prediction: PredictionSettings,
    out: Path,
    check: SequenceCheck,
) -> int:
    """Predict and score cases, each appended to the table when all of it is done; count those that failed."""
    masks = out / PREDICTIONS if evaluation.save else None
    score_mask = MaskScorer(export_of(predictor, evaluation.min_voxels), subsets.names, evaluation.rules, masks)
    members = {name: subsets.members(position) for position, name in enumerate(subsets.names)}
    segmenter = CaseSegmenter(predictor, check, prediction.memory, partial(read_labelled, predictor, subsets))
    work = segmenter.read, segmenter.segment, score_mask
    failed = 0
    for done in predict_cohort("Evaluate", cases, *work, len(subsets.names), prediction.num_processes):
        if done.error is None:
            of_subset = {subsets.names[position]: rows for position, rows in sorted(done.of_subset.items())}
            append_case(out, case_table(done.case.name, of_subset, members))
        else:
            failed += 1
            score_mask.remove(done.case)
    return failed


def find_cohorts(choice: ModelChoice, images: Path | None, labels: Path | None, file_ending: str) -> list[Cohort]:
    """List the cases, and the folds that predict them."""
    if images is not None and labels is not None:
        return [Cohort(choice.folds, images, labels, cases_in(images, file_ending, labels))]
    if images is not None or labels is not None:
        raise ValueError("Expected both -i and -gt, or neither for the validation cases of the folds, got one of them.")
    held_out = {fold: held_out_cases(choice.dataset_name, fold, file_ending) for fold in choice.folds}
    return [Cohort((fold,), found.images, found.labels, found.cases) for fold, found in held_out.items()]


def read_labelled(predictor: nnUNetPredictor, subsets: ChosenSubsets, case: CaseFiles) -> tuple[Images, np.ndarray]:
    """Read a case, once its images and its label are known to be right; it is segmented from every subset."""
    reader, dataset_json = predictor.plans_manager.image_reader_writer_class(), predictor.dataset_json
    images = Images(*read_case(case.images, reader, dataset_json))
    check_label(case, reader, images.properties, images.voxels.shape[1:], known_values(dataset_json))
    return images, subsets.present


def provenance_of(
    choice: ModelChoice,
    prediction: PredictionSettings,
    evaluation: EvaluationSettings,
    subsets: ChosenSubsets,
    cohort: Cohort,
    held_out: bool,
) -> Provenance:
    """Say whose scores these will be and how they come about."""
    dataset_json = read_json(choice.folder / "dataset.json")
    regions = {name: list(labels) for name, labels in regions_of(dataset_json).items()}
    return Provenance(
        model=choice.folder.name,
        dataset=choice.dataset_name,
        trainer=choice.trainer,
        plans=choice.plans,
        configuration=choice.configuration,
        folds=[int(fold) if fold.isdecimal() else fold for fold in choice.folds],
        checkpoint=choice.checkpoint,
        weights=fingerprints(choice.checkpoint_files()),
        step_size=prediction.step_size,
        mirroring=prediction.mirroring,
        modalities=subsets.modalities,
        subsets={name: subsets.members(position) for position, name in enumerate(subsets.names)},
        sampled=subsets.sampled,
        regions=list(regions),
        region_labels=regions,
        empty_policy=evaluation.rules.empty_policy,
        nsd_tolerance_mm=evaluation.rules.nsd_tolerance_mm,
        min_voxels=dict(evaluation.min_voxels),
        images=str(cohort.images.resolve()),
        labels=str(cohort.labels.resolve()),
        predictions=PREDICTIONS if evaluation.save else None,
        file_ending=dataset_json["file_ending"],
        versions={package: version(package) for package in PACKAGES},
        hd95_convention=evaluation.rules.hd95_convention,
        held_out=held_out,
        needs=[subsets.modalities[channel] for channel in subsets.needed] or None,
    )


def conclude(out: Path) -> None:
    """Write nnU-Net's summary of every subset whose masks are kept, and print the table of the means."""
    with FileLock(out / LOCK):  # the last part of a run to get here sees the cases of all
        scores = read_scores(out)
        if scores.table.empty:
            return
        if scores.provenance.predictions is not None:
            for subset in scores.table["subset"].unique():
                write_summary(out, subset, scores)
    print_means(scores)
    if scores.provenance.held_out:
        print(f"What Dice to expect of masks of new cases: missmod calibrate {out}")
