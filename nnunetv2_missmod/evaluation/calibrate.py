"""`missmod calibrate`: from the scores of held-out cases, what lets expect the quality of new masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_missmod.calibration.file import CALIBRATION, Calibration, write_calibration
from nnunetv2_missmod.calibration.quality import RegionQuality
from nnunetv2_missmod.evaluation.calibration_table import write_calibration as write_calibration_table
from nnunetv2_missmod.evaluation.gains import gain_counts, gains_given
from nnunetv2_missmod.evaluation.provenance import PROVENANCE, Provenance
from nnunetv2_missmod.evaluation.scores import Scores, read_scores
from nnunetv2_missmod.evaluation.training_images import learn_sequences
from nnunetv2_missmod.prediction.model import ModelChoice, fingerprints, read_json, read_plan

OUTER_FOLDS = 10  # of the cases, for the table of how well it works
FEWEST_CASES = 5
EVALUATE_AGAIN = "Run missmod evaluate again into an empty folder"


class Calibrated(NamedTuple):
    """What `missmod calibrate` made."""

    calibration: Calibration
    file: Path
    table: pd.DataFrame  # of calibration.csv
    of_sequences: str  # what is to be said of how the modalities' images are told apart


def calibrate(folder: Path, model: Path | None, held_out: bool, confidence: float, processes: int) -> Calibrated:
    """Write ``calibration.json`` into a model's folder, and beside its scores how well that foretells them.

    Args:
        folder: what `missmod evaluate` wrote of held-out cases.
        model: folder of the model; None: that of nnUNet_results.
        held_out: whoever calls vouches for that the model was not trained on the cases.
        confidence: of the lower bounds in the table.
        processes: that read training images.

    Raises:
        ValueError: the scores are of training cases, of too few, or are not the model's.
    """
    scores = read_scores(folder)
    choice = model_of(scores.provenance, model)
    check_held_out(scores, held_out)
    known, dataset_json = scores.provenance, read_json(choice.folder / "dataset.json")
    reader_class = read_plan(choice, len(known.modalities))[0].image_reader_writer_class
    masks = observe(scores.table)
    gains = gains_of(scores.table)
    sequences, said = learn_sequences(known.dataset, dataset_json, known.modalities, reader_class, processes)
    settings = {"step_size": known.step_size, "mirroring": known.mirroring, "min_voxels": known.min_voxels}
    names = tuple(known.modalities), tuple(known.regions), tuple(known.weights)
    numbered = masks.assign(case=masks["case"].factorize()[0])  # a model is handed on: without names of patients
    calibration = Calibration(*names, settings, numbered, gains, sequences)
    table = foretold(masks, confidence)
    write_calibration(calibration, choice.folder / CALIBRATION)
    write_calibration_table(folder, table)
    return Calibrated(calibration, choice.folder / CALIBRATION, table, said)


def model_of(known: Provenance, folder: Path | None) -> ModelChoice:
    """Find the model whose scores these are.

    Raises:
        ValueError: it is not there, or has other weights by now.
    """
    names = known.dataset, known.configuration, known.trainer, known.plans
    choice = ModelChoice(*names, tuple(map(str, known.folds)), known.checkpoint, folder)
    if fingerprints(choice.checkpoint_files()) != known.weights:
        raise ValueError(
            f"Expected the model whose scores these are, got {choice.folder} with other weights in {known.checkpoint}. "
            f"{EVALUATE_AGAIN}, or name the model's folder with -m."
        )
    return choice


def check_held_out(scores: Scores, vouched_for: bool = False) -> None:
    """Make sure that no case is one that the model was trained on.

    Args:
        scores: of the cases.
        vouched_for: believe it where the split that the model was trained by is not there.

    Raises:
        ValueError: some are, there is no telling, or they are too few.
    """
    known, cases = scores.provenance, set(scores.table["case"])
    if len(cases) < FEWEST_CASES:
        raise ValueError(f"Expected the scores of {FEWEST_CASES} held-out cases or more, got {len(cases)}. Score more.")
    if known.held_out:
        return
    file = Path(str(nnUNet_preprocessed or "")) / known.dataset / "splits_final.json"
    if not (nnUNet_preprocessed.is_set() and file.is_file()):
        if vouched_for:
            return
        raise ValueError(
            f"Expected {file.name} of {known.dataset} in nnUNet_preprocessed, which says what the model was trained "
            "on, found none: scores of training cases would promise too much. Set the variable, or say --held_out if "
            "you know that it was trained on none of these cases."
        )
    trained_on = {case for fold in known.folds for case in training_cases(load_json(str(file)), fold)}
    if both := sorted(cases & trained_on):
        raise ValueError(
            f"Expected scores of cases that the model was not trained on, but {PROVENANCE} says fold "
            f"{', '.join(map(str, known.folds))}, which {file} has trained on {len(both)} of them "
            f"({', '.join(both[:5])}). Score the folds' own validation cases (missmod evaluate without -i) or others."
        )


def training_cases(splits: Sequence[dict[str, list[str]]], fold: int | str) -> set[str]:
    """Name the cases that a fold was trained on; of "all", and of a fold that is not listed, all cases."""
    if isinstance(fold, int) and fold < len(splits):
        return set(splits[fold]["train"])
    return {case for split in splits for case in (*split["train"], *split["val"])}


def observe(table: pd.DataFrame) -> pd.DataFrame:
    """Give a row for each case, subset and region: its true Dice, and its signs.

    Args:
        table: the long table of a model.
    """
    sizes = table["num_reference"] + table["num_predicted"]
    observed: pd.DataFrame = table[["case", "subset", "num_present", "region"]].assign(
        dice=2 * table["num_true_positive"] / sizes.where(sizes > 0),
        is_there=table["num_reference"] > 0,
        is_predicted=table["num_predicted"] > 0,
        probability=table["mean_probability"],
        log_volume=np.log10(1 + table["predicted_volume"]),
    )
    return observed


def gains_of(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out the mean gain in Dice from each further modality, a row for each subset, modality and region."""
    gains, counts = gains_given(table, "dice").stack(), gain_counts(table, "dice").stack()
    rows = pd.DataFrame({"gain": gains, "cases": counts}).dropna().astype({"cases": int})
    laid_out: pd.DataFrame = rows.reset_index()
    return laid_out


def foretold(masks: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Foretell each mask's Dice from the other cases: the rows of ``calibration.csv``.

    Args:
        masks: rows of ``observe``.
        confidence: of the bounds.
    """
    fold = pd.Series(masks["case"].factorize()[0] % min(OUTER_FOLDS, masks["case"].nunique()), masks.index)
    found = []
    for number in sorted(fold.unique()):
        for region in masks["region"].unique():
            of_region, is_held_out = masks[masks["region"] == region], fold == number
            others = of_region[~is_held_out[of_region.index]].reset_index(drop=True)
            held_out = of_region[is_held_out[of_region.index] & of_region["is_predicted"]].reset_index(drop=True)
            found.append(_foretold_from(others, held_out, confidence))
    table: pd.DataFrame = pd.concat(found, ignore_index=True)
    return table


def _foretold_from(others: pd.DataFrame, masks: pd.DataFrame, confidence: float) -> pd.DataFrame:
    quality, of_subset = RegionQuality(others), others[others["is_predicted"]].groupby("subset")["dice"].mean()
    found: pd.DataFrame = masks.assign(
        expected_dice=quality.expected(masks),
        bound=quality.bounds(masks, confidence),
        subset_mean=of_subset.reindex(masks["subset"]).to_numpy(),
        confidence=confidence,
    )
    return found
