"""The long table of a model's scores, one row per case, subset and region, and the files of a folder that holds it.

``scores.csv`` is what is read back; ``scores.parquet`` holds the same; ``provenance.json`` says whose scores they are.
Every file is replaced as a whole, so that a killed run leaves the scores of its finished cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from filelock import FileLock

from nnunetv2_missmod.evaluation.provenance import PROVENANCE, Provenance, read_provenance, write_provenance
from nnunetv2_missmod.files.whole_files import LOCK, write_whole

SCORES_CSV = "scores.csv"
SCORES_PARQUET = "scores.parquet"
# Columns that earlier versions did not write: one that scores need, and what is seen of a mask without a truth.
TRUE_POSITIVE, SEEN = "num_true_positive", ("mean_probability", "predicted_volume")


class RegionScores(NamedTuple):
    """What one region of one segmentation scores; NaN where a score is undefined."""

    region: str
    dice: float
    hd95: float  # mm
    nsd: float
    sensitivity: float
    volume_error: float  # (predicted - reference) / reference
    lesion_dice: float
    num_reference: int  # voxels
    num_predicted: int  # voxels
    num_true_positive: int  # voxels; the other predicted ones are false positives, the other reference ones missed
    num_voxels: int  # of the image, without ignored ones
    mean_probability: float = nan  # of the region within its predicted mask; no score, but seen without a truth
    predicted_volume: float = nan  # mm3, likewise; ignored voxels count


DTYPES = {
    "case": "str",
    "subset": "str",
    "num_present": "int64",
    "region": "str",
    "dice": "float64",
    "hd95": "float64",
    "nsd": "float64",
    "sensitivity": "float64",
    "volume_error": "float64",
    "lesion_dice": "float64",
    "num_reference": "int64",
    "num_predicted": "int64",
    TRUE_POSITIVE: "int64",
    "num_voxels": "int64",
    **dict.fromkeys(SEEN, "float64"),
}
KEY = ["case", "subset", "region"]


class Scores(NamedTuple):
    """The long table of a model and its provenance."""

    table: pd.DataFrame
    provenance: Provenance


def case_table(
    case: str, scores: Mapping[str, Sequence[RegionScores]], subsets: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Lay out the scores of one case as rows of the long table.

    Args:
        case: its name.
        scores: subset -> its regions' scores.
        subsets: subset -> its modalities.
    """
    rows = [
        {"case": case, "subset": subset, "num_present": len(subsets[subset]), **region._asdict()}
        for subset, regions in scores.items()
        for region in regions
    ]
    table: pd.DataFrame = pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)
    return table


def open_scores(folder: Path, provenance: Provenance) -> pd.DataFrame:
    """Start a folder of scores, or take up the one of a killed run or of another part of this run.

    Returns:
        The long table of the cases that are finished: a case's rows are written at once.

    Raises:
        ValueError: the folder holds the scores of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        if (folder / SCORES_CSV).exists():
            _check_same(folder, read_scores(folder).provenance, provenance)
        else:
            write_scores(folder, case_table("", {}, {}))
        write_provenance(folder, provenance)
        return read_scores(folder).table


def append_case(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Add a case's rows to the long table, in place of any that it has; several processes may do so at a time.

    Returns:
        The longer table.
    """
    with FileLock(folder / LOCK):
        before = read_scores(folder).table
        kept = before[~before["case"].isin(rows["case"])]
        longer: pd.DataFrame = pd.concat([kept, rows], ignore_index=True)
        write_scores(folder, longer)
    return longer


def write_scores(folder: Path, table: pd.DataFrame) -> None:
    """Write the long table as CSV and Parquet, the CSV last: what it holds is finished."""
    table = table[list(DTYPES)]
    write_whole(folder / SCORES_PARQUET, lambda file: table.to_parquet(file, index=False))
    write_whole(folder / SCORES_CSV, lambda file: table.to_csv(file, index=False))


def read_scores(folder: Path) -> Scores:
    """Read the scores of a model back.

    Raises:
        ValueError: names the file that is missing, cannot be read or does not fit the others, and the way out.
    """
    provenance = read_provenance(_existing(folder / PROVENANCE))
    file = _existing(folder / SCORES_CSV)
    table = _read_table(file)
    for column, known in (("region", provenance.regions), ("subset", list(provenance.subsets))):
        unknown = sorted(set(table[column]) - set(known))
        if unknown:
            raise ValueError(
                f"{file}: expected the {column}s of {PROVENANCE} ({', '.join(known)}), got {', '.join(unknown)}. "
                f"The two files are of different runs: run missmod evaluate again into an empty folder."
            )
    twice = table[table.duplicated(KEY)]
    if len(twice):
        raise ValueError(
            f"{file}: expected one row per case, subset and region, got {' / '.join(twice[KEY].iloc[0])} more than "
            f"once. Remove all but one of them."
        )
    return Scores(table, provenance)


def _read_table(file: Path) -> pd.DataFrame:
    try:
        columns = pd.read_csv(file, nrows=0).columns
        added = [column for column in (TRUE_POSITIVE, *SEEN) if column not in columns]
        table = read_typed(file, {column: dtype for column, dtype in DTYPES.items() if column not in added})
        if TRUE_POSITIVE in added:
            table[TRUE_POSITIVE] = true_positives_of(table)
        for column in set(SEEN) & set(added):
            table[column] = nan
    except ValueError as error:
        raise ValueError(
            f"{file}: expected a table with the columns {', '.join(DTYPES)}, but {error}. Run missmod evaluate again "
            f"into an empty folder."
        ) from error
    ordered: pd.DataFrame = table[list(DTYPES)]
    return ordered


def read_typed(file: Path, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Read the columns of a table that was written as CSV; an empty number is NaN.

    Raises:
        ValueError: it lacks one, or holds something else.
    """
    columns = pd.read_csv(file, nrows=0).columns
    lacking = [column for column in dtypes if column not in columns]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    # Text at first: a case or a modality may well be called NA, and numbers keep their last digit.
    table = pd.read_csv(file, usecols=list(dtypes), dtype=str, keep_default_na=False)
    floats = [column for column, dtype in dtypes.items() if dtype == "float64"]
    table[floats] = table[floats].replace("", "nan")
    typed: pd.DataFrame = table.astype(dtypes)[list(dtypes)]
    return typed


def true_positives_of(table: pd.DataFrame) -> pd.Series[int]:
    """Count what an earlier version's table does not say, from Dice = 2 TP / (reference + predicted), rounded.

    The one place that does so: a table that is read is complete, and what is appended to it is written with the column.

    Raises:
        ValueError: Dice is undefined although neither mask is empty.
    """
    sizes = table["num_reference"] + table["num_predicted"]
    dice = table["dice"].where(sizes > 0, 0.0)  # a policy's where both are empty
    if dice.isna().any():
        raise ValueError("it lacks the Dice of a region that has voxels")
    counts: pd.Series[int] = (dice * sizes / 2).round().astype("int64")
    return counts


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ValueError(
            f"Expected a folder of scores with {SCORES_CSV} and {PROVENANCE}, as missmod evaluate writes it; {file} "
            f"is missing. Run missmod evaluate -o {file.parent}, or give another folder."
        )
    return file


def _check_same(folder: Path, before: Provenance, now: Provenance) -> None:
    old, new = asdict(before), json.loads(json.dumps(asdict(now)))
    unsaid = {name for name in ("held_out",) if old[name] is None}  # earlier versions did not say
    differing = [name for name in new if name not in {"versions", *unsaid} and old[name] != new[name]]
    if differing:
        details = "; ".join(f"{name}: {old[name]} there, {new[name]} now" for name in differing)
        raise ValueError(
            f"{folder / PROVENANCE}: expected the scores of this same run to continue, got those of another "
            f"({details}). Give another folder, or delete this one's {SCORES_CSV} to start over."
        )
