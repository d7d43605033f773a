"""What is expected of a mask, in words, as cells of a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2_missmod.files.whole_files import write_whole
from nnunetv2_missmod.prediction.regions import Regions

DIGITS = 3
HELP = "would_help"
COLUMN_OF = {"dice": "expected_dice", "bound": "dice_at_least", "chance": "chance_of_region"}


class Expected(NamedTuple):
    """What is expected of one region of a mask; None where nothing can be said.

    Attributes:
        dice: the expected Dice; None where the mask is empty.
        bound: what the Dice is at least, at the confidence; None likewise.
        chance: that the region is there at all.
    """

    dice: float | None
    bound: float | None
    chance: float | None


class Help(NamedTuple):
    """What a further modality brings on average: its gain in Dice, by region."""

    modality: str
    gains: Mapping[str, float]


class Judgement(NamedTuple):
    """All that is expected of a mask.

    Attributes:
        regions: by name.
        helps: the absent modalities, the one that helps most first.
        confidence: of the bounds.
    """

    regions: Mapping[str, Expected]
    helps: Sequence[Help]
    confidence: float

    def columns(self) -> dict[str, str]:
        """Give the cells of the table of masks."""
        cells: dict[str, str] = {}
        for region, each in self.regions.items():
            cells |= {column(name, region): _printed(value) for name, value in each._asdict().items()}
        return {**cells, HELP: self.would_help}

    @property
    def would_help(self) -> str:
        """Say in a line which modalities would help, and where."""
        return "; ".join(f"{each.modality}: {gains}" for each in self.helps if (gains := self._gains_of(each)))

    @property
    def line(self) -> str:
        """Say all of it in a line."""
        said = [
            f"{region} {each.dice:.2f} (at least {each.bound:.2f})"
            for region, each in self.regions.items()
            if each.dice is not None and each.bound is not None
        ]
        parts = ["expected Dice " + ", ".join(said)] if said else []
        parts += [
            f"no {region} found (chance that there is one: {each.chance:.2f})"
            for region, each in self.regions.items()
            if each.dice is None and each.chance is not None
        ]
        return "; ".join([*parts, *([f"would help: {self.would_help}"] if self.would_help else [])])

    def as_object(self) -> dict[str, Any]:
        """Give all of it as JSON has it."""
        of_region = {
            region: {COLUMN_OF[name]: value for name, value in each._asdict().items()}
            for region, each in self.regions.items()
        }
        helps = [{"modality": each.modality, "gains": each.gains} for each in self.helps]
        return {"confidence": self.confidence, "regions": of_region, HELP: helps}

    def write(self, file: Path) -> None:
        """Write all of it as JSON."""
        text = json.dumps(self.as_object(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(file, partial(Path.write_text, data=text, encoding="utf-8"))

    def _gains_of(self, one: Help) -> str:
        """Name the regions that gain, and from which Dice to which."""
        gains = {region: gain for region, gain in one.gains.items() if round(gain, 2) > 0}
        before = {region: self.regions[region].dice or 0.0 for region in gains}
        return ", ".join(f"{r} {before[r]:.2f} -> {min(1.0, before[r] + gain):.2f}" for r, gain in gains.items())


def column(name: str, region: str) -> str:
    """Name the column of one of the numbers of ``Expected``, such as ``expected_dice (tumor core)``."""
    return f"{COLUMN_OF[name]} ({region})"


def region_of_bound(name: str) -> str:
    """Name the region whose bounds are in a column; empty for any other column."""
    start, end = column("bound", "\n").split("\n")
    return name[len(start) : -len(end)] if name.startswith(start) and name.endswith(end) else ""


def columns_of(regions: Regions) -> list[str]:
    """Name the columns that the table of masks has for what is expected."""
    return [*(column(name, region) for region in regions for name in COLUMN_OF), HELP]


def _printed(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}f}"
