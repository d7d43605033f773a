"""The folder of `missmod predict`: what each mask was made from (masks.csv) and by which run (prediction.json)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from nnunetv2_missmod.files.whole_files import LOCK, write_whole
from nnunetv2_missmod.prediction.cases import CaseFiles
from nnunetv2_missmod.prediction.judgement import region_of_bound
from nnunetv2_missmod.prediction.model import MODEL_FILES, ModelChoice, PredictionSettings, fingerprints

MASKS_CSV = "masks.csv"
PREDICTION = "prediction.json"
# resampled: modalities that were brought onto another's grid; inputs: a hash of the case's files; suspicions: of files
# that look like another modality. What is expected of the masks' regions stands in further columns.
COLUMNS = ["case", "subset", "mask", "channels", "resampled", "inputs", "suspicions"]


def run_of(choice: ModelChoice, prediction: PredictionSettings, images: Path, **settings: Any) -> dict[str, Any]:
    """Say what the masks of one run have in common, for ``prediction.json``.

    Args:
        choice: of the model.
        prediction: how it predicts.
        images: folder of the cases.
        settings: what else decides what a mask will be.
    """
    return {
        "model": choice.folder.name,
        "dataset": choice.dataset_name,
        "folds": list(choice.folds),
        "checkpoint": choice.checkpoint,
        "weights": fingerprints(choice.checkpoint_files()),
        "model_files": fingerprints([choice.folder / name for name in MODEL_FILES]),
        "step_size": prediction.step_size,
        "mirroring": prediction.mirroring,
        "images": str(images.resolve()),
        **settings,
    }


def open_masks(out: Path, run: Mapping[str, Any], beside: Mapping[str, Mapping[str, Any]]) -> None:
    """Start a folder of masks, or take up that of another part of this run or of one that ended.

    Args:
        out: the folder.
        run: of ``run_of``.
        beside: JSON files of the model that lie beside the masks, by name, as nnU-Net puts them there: its
            post-processing and evaluation read them.

    Raises:
        ValueError: the folder holds masks of another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / LOCK):
        if (out / MASKS_CSV).exists():
            _check_same(out, run)
        for name, content in {**beside, PREDICTION: run}.items():
            text = json.dumps(content, indent=4) + "\n"
            write_whole(out / name, partial(Path.write_text, data=text, encoding="utf-8"))


def append_masks(out: Path, rows: list[dict[str, str]]) -> None:
    """Add a case's rows to the table, in place of any that it has; several processes may do so at a time."""
    with FileLock(out / LOCK):
        added, table = _ordered(pd.DataFrame(rows)), read_masks(out)
        same = table["case"].isin(added["case"]) & table["subset"].isin(added["subset"])
        longer = pd.concat([table[~same], added], ignore_index=True).fillna("")
        write_whole(out / MASKS_CSV, lambda file: longer.to_csv(file, index=False))


def forget_masks(out: Path, case: str, masks: Sequence[str], beside: Sequence[str] = ()) -> None:
    """Remove masks of a case that failed, those of an earlier run among them, their rows, and what lies beside them."""
    with FileLock(out / LOCK):
        table = read_masks(out)
        gone = (table["case"] == case) & table["mask"].isin([*masks, ""])
        if gone.any():
            write_whole(out / MASKS_CSV, lambda file: table[~gone].to_csv(file, index=False))
        for file in (*masks, *beside):
            (out / file).unlink(missing_ok=True)


def read_masks(out: Path) -> pd.DataFrame:
    """Read the table: case, subset asked for, mask (empty where the case lacks it), channels that it was made from."""
    file = out / MASKS_CSV
    empty: pd.DataFrame = pd.DataFrame(columns=COLUMNS, dtype=str)
    if not file.exists():
        return empty
    return _ordered(pd.read_csv(file, dtype=str, keep_default_na=False))


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Put the usual columns first, empty where an earlier version did not write them."""
    further = [column for column in table.columns if column not in COLUMNS]
    ordered: pd.DataFrame = table.reindex(columns=[*COLUMNS, *further], fill_value="")
    return ordered


def cases_left(out: Path, subsets: Sequence[str], cases: Sequence[CaseFiles]) -> list[CaseFiles]:
    """List the cases that lack a mask asked for, as far as they have the channels, from the files that they have."""
    table = read_masks(out)
    kept = table["mask"].map(lambda mask: not mask or (out / mask).is_file()).astype(bool)
    of_case = table[table["subset"].isin(subsets) & kept].groupby("case")
    complete = {case: set(rows["inputs"]) for case, rows in of_case if rows["subset"].nunique() == len(subsets)}
    return [case for case in cases if complete.get(case.name) != {inputs_of(case)}]


def to_be_checked(out: Path, least: float) -> list[str]:
    """Name the masks, each with a region, whose Dice may be lower than this, at the confidence of the prediction."""
    table, found = read_masks(out), []
    for name in table.columns:
        if region := region_of_bound(name):
            bounds = pd.to_numeric(table[name], errors="coerce")
            found += [f"{table['mask'][row]}: {region}, {bounds[row]:.2f}" for row in table.index[bounds < least]]
    return sorted(found)


def inputs_of(case: CaseFiles) -> str:
    """Hash the names and contents of a case's images: a file that was added or replaced makes other inputs."""
    files = sorted(map(Path, case.images))
    hashed = [f"{file.name} {digest}" for file, digest in zip(files, fingerprints(files), strict=True)]
    return hashlib.sha256("\n".join(hashed).encode()).hexdigest()[:16]


def _check_same(out: Path, run: Mapping[str, Any]) -> None:
    file = out / PREDICTION
    try:
        before, now = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(run))
        changed = [name for name in now if before.get(name) != now[name]]
        differing = [f"{name}: {before.get(name)} there, {now[name]} now" for name in changed]
    except (OSError, ValueError, AttributeError) as error:
        differing = [f"{file.name} cannot be read: {error}"]
    if differing:
        raise ValueError(
            f"Expected the masks of this same run in {out}, found those of another ({'; '.join(differing)}). Give "
            f"another -o, or remove that folder's {MASKS_CSV} and masks to start over."
        )
