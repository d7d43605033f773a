"""`missmod predict`: masks from what a case has, or from subsets of it, and a table of what each was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from filelock import FileLock
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_missmod.evaluation.cases import CaseFiles, cases_in, regions_of
from nnunetv2_missmod.evaluation.cohort import Export, export_of, walk
from nnunetv2_missmod.evaluation.model import ModelChoice, PredictionSettings, open_predictor, read_json
from nnunetv2_missmod.evaluation.postprocessing import check_min_voxels
from nnunetv2_missmod.evaluation.predict import Images, Segmented, predict_subsets
from nnunetv2_missmod.evaluation.scores import LOCK
from nnunetv2_missmod.evaluation.subsets import AVAILABLE, choose_subsets, distinct_names
from nnunetv2_missmod.modalities import subset_name
from nnunetv2_missmod.preprocessing import read_case
from nnunetv2_missmod.whole_files import write_whole

MASKS_CSV = "masks.csv"
COLUMNS = ["case", "subset", "mask", "channels"]


class Asked(NamedTuple):
    """The subsets that every case is segmented from."""

    modalities: list[str]
    names: list[str]
    present: np.ndarray | None  # (S, M) bool; None: whatever a case has, one "subset"


@dataclass(frozen=True)
class Writing:
    """What one mask needs to be exported and written, in whichever process."""

    export: Export
    asked: Asked
    out: Path

    def __call__(self, case: CaseFiles, segmented: Segmented) -> dict[str, str]:
        """Write a mask; give its row of the table."""
        subset = self.asked.names[segmented.position]
        file = mask_file(case.name, subset, self.export.file_ending)
        self.export.write(self.export.mask_of(segmented), self.out / file, segmented.properties)
        channels = subset_name(torch.from_numpy(segmented.present), self.asked.modalities)
        return {"case": case.name, "subset": subset, "mask": file, "channels": channels}


def predict_masks(
    choice: ModelChoice,
    prediction: PredictionSettings,
    images: Path,
    out: Path,
    subsets: str = AVAILABLE,
    min_voxels: Mapping[str, int] | None = None,
    continued: bool = False,
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

    Returns:
        How many cases could not be segmented; each is named on the console.

    Raises:
        ValueError: says what is wrong with the model, the folder or the settings, before anything is predicted.
    """
    dataset_json = read_json(choice.folder / "dataset.json")
    check_min_voxels(min_voxels or {}, regions_of(dataset_json))
    asked = asked_for(subsets, distinct_names(dataset_json))
    cases = cases_in(images, dataset_json["file_ending"])[prediction.part_id :: prediction.num_parts]
    if continued:
        finished = finished_cases(out, asked.names)
        cases = [case for case in cases if case.name not in finished]
    predictor = open_predictor(choice, prediction)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("dataset.json", dataset_json), ("plans.json", predictor.plans_manager.plans)):
        save_json(content, str(out / name), sort_keys=False)  # as nnU-Net does, for its post-processing and evaluation
    return write_cases(predictor, cases, asked, min_voxels or {}, prediction.num_processes, out)


def write_cases(
    predictor: nnUNetPredictor,
    cases: Sequence[CaseFiles],
    asked: Asked,
    min_voxels: Mapping[str, int],
    num_processes: int,
    out: Path,
) -> int:
    """Segment cases, each entered into the table when all of it is done; count those that failed."""
    writing = Writing(export_of(predictor, min_voxels), asked, out)
    segment = partial(segment_unlabelled, predictor, asked)
    failed = 0
    for done in walk("Predict", cases, segment, writing, len(asked.names), num_processes):
        if done.error is None:
            lacking = {"case": done.case.name, "mask": "", "channels": ""}
            rows = [done.of_subset.get(i, {**lacking, "subset": name}) for i, name in enumerate(asked.names)]
            append_masks(out, rows)
        else:
            failed += 1
            for row in done.of_subset.values():  # what a failed case has got so far
                (out / row["mask"]).unlink()
    return failed


def asked_for(subsets: str, modalities: Sequence[str]) -> Asked:
    """Read what ``--subsets`` asks for."""
    if subsets == AVAILABLE:
        return Asked(list(modalities), [AVAILABLE], None)
    chosen = choose_subsets(subsets, modalities)
    return Asked(chosen.modalities, chosen.names, chosen.present)


def segment_unlabelled(
    predictor: nnUNetPredictor, asked: Asked, case: CaseFiles, on_patch: Callable[[float], None]
) -> Iterator[Segmented]:
    """Segment a case from what it has, or from every subset asked for that it has."""
    images = Images(
        *read_case(case.images, predictor.plans_manager.image_reader_writer_class(), predictor.dataset_json)
    )
    subsets = images.available[None] if asked.present is None else asked.present
    yield from predict_subsets(predictor, images, subsets, on_patch)


def mask_file(case: str, subset: str, file_ending: str) -> str:
    """Name a mask's file within the folder of the prediction."""
    return f"{case}{file_ending}" if subset == AVAILABLE else f"{subset}/{case}{file_ending}"


def append_masks(out: Path, rows: list[dict[str, str]]) -> None:
    """Add a case's rows to the table, in place of any that it has; several processes may do so at a time."""
    with FileLock(out / LOCK):
        added, table = pd.DataFrame(rows, columns=COLUMNS), read_masks(out)
        same = table["case"].isin(added["case"]) & table["subset"].isin(added["subset"])
        longer = pd.concat([table[~same], added], ignore_index=True)
        write_whole(out / MASKS_CSV, lambda file: longer.to_csv(file, index=False))


def read_masks(out: Path) -> pd.DataFrame:
    """Read the table: case, subset asked for, mask (empty where the case lacks it), channels that it was made from."""
    file = out / MASKS_CSV
    empty: pd.DataFrame = pd.DataFrame(columns=COLUMNS, dtype=str)
    return pd.read_csv(file, dtype=str, keep_default_na=False) if file.exists() else empty


def finished_cases(out: Path, subsets: Sequence[str]) -> set[str]:
    """Name the cases that have all masks asked for, as far as they have the channels."""
    table = read_masks(out)
    kept = table["mask"].map(lambda mask: not mask or (out / mask).is_file()).astype(bool)
    count = table[table["subset"].isin(subsets) & kept].groupby("case")["subset"].nunique()
    return set(count[count == len(subsets)].index)
