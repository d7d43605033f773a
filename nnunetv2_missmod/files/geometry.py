"""Where two images lie, compared within one tolerance, whichever library read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

GEOMETRY_TOLERANCE = 1e-3  # mm, and parts of a direction


class Difference(NamedTuple):
    """The first of the properties of two grids that differs, such as the spacing, and its values in both."""

    what: str
    here: list[Any]
    there: list[Any]


def first_difference(grid: Mapping[str, Any], other: Mapping[str, Any]) -> Difference | None:
    """Find in what two grids differ beyond the tolerance; None if in nothing that both of them say.

    Args:
        grid: numbers by property: shape, spacing (mm), origin (mm), direction, or an affine in place of the last three.
        other: likewise.
    """
    for what in (what for what in grid if what in other):
        here, there = grid[what], other[what]
        if len(here) != len(there) or not np.allclose(here, there, rtol=0, atol=GEOMETRY_TOLERANCE):
            return Difference(what, _rounded(here), _rounded(there))
    return None


def _rounded(values: Sequence[Any]) -> list[Any]:
    return [value if isinstance(value, int) else round(float(value), 4) for value in values]
