"""``calibration.json`` in the folder of a model: what held-out cases taught about its masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_missmod.calibration.quality import RegionQuality
from nnunetv2_missmod.calibration.sequence_model import SequenceModel
from nnunetv2_missmod.calibration.signs import SIGNS
from nnunetv2_missmod.files.entries import FLAG, TABLE, Kind, Place, is_finite, is_list, is_whole
from nnunetv2_missmod.files.json_files import read_object
from nnunetv2_missmod.files.whole_files import write_whole

CALIBRATION = "calibration.json"
VERSION = 1
MEND = "Run missmod calibrate again, or remove the file."
DECIMALS = 4


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_share(value: Any) -> bool:
    return is_finite(value) and 0 <= value <= 1


TEXTS = Kind(lambda value: is_list(value, _is_text) and len(value) > 0, "a list of names")
OF_COLUMN: dict[str, Kind] = {
    "case": Kind(is_whole, "the number of a case"),
    "subset": Kind(_is_text, "the name of a subset"),
    "num_present": Kind(lambda value: is_whole(value, 1), "a number of modalities"),
    "region": Kind(_is_text, "the name of a region"),
    "dice": Kind(lambda value: value is None or _is_share(value), "a Dice or null"),
    "is_there": FLAG,
    "is_predicted": FLAG,
    **dict.fromkeys(SIGNS, Kind(lambda value: value is None or is_finite(value), "a number or null")),
}
OF_GAIN: dict[str, Kind] = {
    "subset": OF_COLUMN["subset"],
    "modality": Kind(_is_text, "the name of a modality"),
    "region": OF_COLUMN["region"],
    "gain": Kind(lambda value: is_finite(value) and -1 <= value <= 1, "a difference of Dice"),
    "cases": Kind(lambda value: is_whole(value, 1), "a number of cases"),
}
OF_FILE: dict[str, Kind] = {
    "version": Kind(lambda value: value == VERSION, f"{VERSION}, the one that this version of the package knows"),
    "modalities": TEXTS,
    "regions": TEXTS,
    "weights": TEXTS,
    "settings": TABLE,
    "masks": TABLE,
    "gains": TABLE,
}


@dataclass(frozen=True)
class Calibration:
    """What held-out cases taught about the masks of a model.

    Attributes:
        modalities: of the model.
        regions: that it segments.
        weights: SHA-256 of the checkpoints whose masks were scored.
        settings: with which they were predicted, by name.
        masks: of the held-out cases, a row for each case, subset and region: the columns ``OF_COLUMN``.
        gains: mean gain in Dice from a further modality: the columns ``OF_GAIN``.
        sequences: tells the modalities' images apart; None where there were too few to learn from.
    """

    modalities: tuple[str, ...]
    regions: tuple[str, ...]
    weights: tuple[str, ...]
    settings: Mapping[str, Any]
    masks: pd.DataFrame
    gains: pd.DataFrame
    sequences: SequenceModel | None

    @cached_property
    def quality(self) -> dict[str, RegionQuality]:
        """By region, what a mask's Dice is likely to be."""
        of_region = {region: self.masks["region"] == region for region in self.regions}
        return {region: RegionQuality(self.masks[rows].reset_index(drop=True)) for region, rows in of_region.items()}

    @cached_property
    def gain_of(self) -> dict[tuple[str, str, str], float]:
        """Mean gain in Dice by subset, further modality and region."""
        keys = zip(self.gains["subset"], self.gains["modality"], self.gains["region"], strict=True)
        return dict(zip(keys, self.gains["gain"].astype(float), strict=True))


def write_calibration(calibration: Calibration, file: Path) -> None:
    """Write a calibration whole."""
    content = {
        "version": VERSION,
        "modalities": calibration.modalities,
        "regions": calibration.regions,
        "weights": calibration.weights,
        "settings": calibration.settings,
        "masks": _as_lists(calibration.masks, OF_COLUMN),
        "gains": _as_lists(calibration.gains, OF_GAIN),
        "sequences": calibration.sequences and calibration.sequences.to_json(),
    }
    text = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(file, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def read_calibration(file: Path) -> Calibration:
    """Read a calibration back; nothing in it is executed.

    Raises:
        ValueError: names the file, and the entry that is missing or not what it must be.
    """
    place = Place(str(file), mend=MEND)
    try:
        content = read_object(file)
    except ValueError as error:
        raise ValueError(f"{file}: expected a calibration, but it cannot be read: {error} {MEND}") from error
    place.check_all(content, OF_FILE)
    found = content.get("sequences")
    return Calibration(
        tuple(content["modalities"]),
        tuple(content["regions"]),
        tuple(content["weights"]),
        content["settings"],
        _as_table(content["masks"], OF_COLUMN, "masks", place),
        _as_table(content["gains"], OF_GAIN, "gains", place),
        None if found is None else SequenceModel.from_json(found, len(content["modalities"]), str(file)),
    )


def calibration_in(model: Path) -> Calibration | None:
    """Read the calibration in the folder of a model, if there is one.

    Raises:
        ValueError: it is damaged.
    """
    return read_calibration(model / CALIBRATION) if (model / CALIBRATION).is_file() else None


def _as_lists(table: pd.DataFrame, columns: Mapping[str, Kind]) -> dict[str, list[Any]]:
    rounded = table[list(columns)].round(DECIMALS)
    objects = rounded.astype(object).where(rounded.notna(), None)
    return {column: objects[column].tolist() for column in columns}


def _as_table(content: Any, columns: Mapping[str, Kind], part: str, place: Place) -> pd.DataFrame:
    lists = Kind(lambda value: isinstance(value, list), "a list")
    place.check_all(content, dict.fromkeys(columns, lists), f"{part}.")
    if len({len(content[column]) for column in columns}) > 1:
        place.refuse(part, "lists of one length", {column: len(content[column]) for column in columns})
    for column, kind in columns.items():
        for value in content[column]:
            place.check(f"{part}.{column}", value, kind)
    table: pd.DataFrame = pd.DataFrame({column: content[column] for column in columns})
    numbers = [column for column in columns if column in ("dice", *SIGNS)]
    table[numbers] = table[numbers].astype(float)
    return table
