"""The table of how well the Dice of a mask is foreseen: ``calibration.csv`` beside the scores of a model.

One row per case, subset and region, as ``missmod calibrate`` finds it by cross-validation over the cases: what a row
says of its mask is learned from other cases.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nnunetv2_missmod.evaluation.provenance import PROVENANCE, Provenance
from nnunetv2_missmod.evaluation.scores import KEY, read_typed
from nnunetv2_missmod.files.whole_files import write_whole

CALIBRATION_CSV = "calibration.csv"
DTYPES = {
    "case": "str",
    "subset": "str",
    "num_present": "int64",
    "region": "str",
    "dice": "float64",  # the true one; empty where truth and mask are
    "expected_dice": "float64",
    "bound": "float64",  # the true Dice is at least this, at the confidence
    "subset_mean": "float64",  # mean Dice of this subset over the other cases: what is known without looking at a mask
    "confidence": "float64",  # the same in each row
}
SHARES = ("dice", "expected_dice", "bound", "subset_mean")  # between 0 and 1, or empty


def write_calibration(folder: Path, table: pd.DataFrame) -> None:
    """Write ``calibration.csv`` into a folder of scores, as a whole.

    Args:
        folder: of the scores.
        table: the columns of ``DTYPES``; others are left out.
    """
    ordered = table[list(DTYPES)]
    write_whole(folder / CALIBRATION_CSV, lambda file: ordered.to_csv(file, index=False))


def read_calibration(folder: Path, provenance: Provenance) -> pd.DataFrame | None:
    """Read ``calibration.csv`` back; None where the folder has none.

    Args:
        folder: of the scores.
        provenance: of the scores; its subsets and regions are those that a row may be about.

    Raises:
        ValueError: names the file, and says what is wrong with it and the way out.
    """
    file = folder / CALIBRATION_CSV
    if not file.exists():
        return None
    try:
        table = read_typed(file, DTYPES)
        _check(table, provenance)
    except ValueError as error:
        raise ValueError(
            f"{file}: expected a table with the columns {', '.join(DTYPES)}, but {error}. Run missmod calibrate "
            f"{folder} again."
        ) from error
    return table


def _check(table: pd.DataFrame, provenance: Provenance) -> None:
    for column, known in (("region", provenance.regions), ("subset", list(provenance.subsets))):
        unknown = sorted(set(table[column]) - set(known))
        if unknown:
            raise ValueError(f"the {column}s of {PROVENANCE} are {', '.join(known)}, not {', '.join(unknown)}")
    twice = table[table.duplicated(KEY)]
    if len(twice):
        raise ValueError(f"it has {' / '.join(twice[KEY].iloc[0])} more than once")
    sizes = table["subset"].map(lambda subset: len(provenance.subsets[subset]))
    wrong = table[sizes != table["num_present"]]
    if len(wrong):
        raise ValueError(f"num_present of {wrong['subset'].iloc[0]} is {wrong['num_present'].iloc[0]}")
    for column in SHARES:
        beyond = table[column][~table[column].isna() & ~table[column].between(0, 1)]
        if len(beyond):
            raise ValueError(f"{column} is {beyond.iloc[0]}, which is not between 0 and 1")
    confidences = table["confidence"].unique()
    if len(confidences) > 1 or not all(0 < confidence < 1 for confidence in confidences):
        listed = ", ".join(map(str, confidences))
        raise ValueError(f"the confidence is {listed}: it is one number between 0 and 1, the same in each row")
