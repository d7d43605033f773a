"""The metrics as the report shows them: title, unit, and how a value is printed."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pandas as pd

from nnunetv2_missmod.evaluation.summary import BETTER


class Metric(NamedTuple):
    """A column of the long table and how it is printed: times ``scale``, with ``decimals``."""

    column: str
    title: str
    unit: str
    scale: float
    decimals: int
    meaning: str

    @property
    def better(self) -> Literal["higher", "lower", "zero"]:
        """Which values are the better ones."""
        return BETTER[self.column]

    @property
    def heading(self) -> str:
        """Title, unit and an arrow to the better side."""
        arrow = {"higher": "↑", "lower": "↓", "zero": "→0"}[self.better]
        return f"{self.title} [{self.unit}] {arrow}"

    @property
    def gain(self) -> str:
        """What a positive contribution does to the metric."""
        return {"higher": "raises it", "lower": "lowers it", "zero": "brings it nearer to 0"}[self.better]

    def text(self, value: float) -> str:
        """Print a value of the long table; a dash where it is undefined."""
        text = f"{value * self.scale:.{self.decimals}f}"
        negative_zero = text.startswith("-") and not text.strip("-0.")
        return "–" if pd.isna(value) else text.removeprefix("-") if negative_zero else text

    def badness(self, text: str) -> float:
        """Order printed values: the smallest is the best."""
        value = float(text)
        return {"higher": -value, "lower": value, "zero": abs(value)}[self.better]


METRICS = (
    Metric("dice", "Dice", "%", 100, 2, "overlap of prediction and truth"),
    Metric("hd95", "HD95", "mm", 1, 2, "95th percentile of the distance between the surfaces"),
    Metric("nsd", "NSD", "%", 100, 2, "share of the surfaces within the tolerance of each other"),
    Metric("sensitivity", "Sensitivity", "%", 100, 2, "share of the truth that is found"),
    Metric("volume_error", "Volume error", "%", 100, 2, "(predicted - true) / true volume, signed"),
    Metric("lesion_dice", "Lesion-wise Dice", "%", 100, 2, "Dice over single lesions"),
)


def metrics_with_values(scores: pd.DataFrame) -> list[Metric]:
    """The metrics that have a value anywhere; Dice always, so that a report has a table."""
    return [m for m in METRICS if m.column == "dice" or scores[m.column].notna().any()]
