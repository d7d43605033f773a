"""The metrics as the report shows them: title, unit, and what is better."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pandas as pd


class Metric(NamedTuple):
    """A column of the long table and how it is printed: times ``scale``, with ``decimals``."""

    column: str
    title: str
    unit: str
    scale: float
    decimals: int
    better: Literal["higher", "lower", "zero"]
    meaning: str

    @property
    def heading(self) -> str:
        """Title, unit and an arrow to the better side."""
        arrow = {"higher": "↑", "lower": "↓", "zero": "→0"}[self.better]
        return f"{self.title} [{self.unit}] {arrow}"

    def text(self, value: float) -> str:
        """Print a value of the long table; a dash where it is undefined."""
        shown = f"{value * self.scale:.{self.decimals}f}"
        negative_zero = shown.startswith("-") and not shown.strip("-0.")
        return "–" if pd.isna(value) else shown.removeprefix("-") if negative_zero else shown

    def badness(self, shown: str) -> float:
        """Order printed values: the smallest is the best."""
        value = float(shown)
        return {"higher": -value, "lower": value, "zero": abs(value)}[self.better]


METRICS = (
    Metric("dice", "Dice", "%", 100, 2, "higher", "overlap of prediction and truth"),
    Metric("hd95", "HD95", "mm", 1, 2, "lower", "95th percentile of the distance between the surfaces"),
    Metric("nsd", "NSD", "%", 100, 2, "higher", "share of the surfaces within the tolerance of each other"),
    Metric("sensitivity", "Sensitivity", "%", 100, 2, "higher", "share of the truth that is found"),
    Metric("volume_error", "Volume error", "%", 100, 2, "zero", "(predicted - true) / true volume, signed"),
    Metric("lesion_dice", "Lesion-wise Dice", "%", 100, 2, "higher", "Dice over single lesions"),
)


def measured(scores: pd.DataFrame) -> list[Metric]:
    """The metrics that have a value anywhere; Dice always, so that a report has a table."""
    return [m for m in METRICS if m.column == "dice" or scores[m.column].notna().any()]
