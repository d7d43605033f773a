"""Models against each other: paired tests by region, corrected for their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from nnunetv2_missmod.evaluation.provenance import Provenance
from nnunetv2_missmod.evaluation.summary import (
    BETTER,
    ROW,
    check_direction,
    checked,
    members,
    modalities_in,
    wide_table,
)

ALL_SUBSETS = "all subsets"
ALPHA = 0.05  # of the family; a model is called better below it alone
COMPARISON = (
    "model_a",
    "model_b",
    "region",
    "subset",
    "pairs",
    "left_out",
    "median_difference",
    "better",
    "p",
    "p_holm",
    "smallest_p",
    "smallest_p_holm",
)

MEASURED_ALIKE = {  # what the tables do not say, and two models' numbers must have in common
    "dataset": "dataset",
    "modalities": "modalities",
    "region_labels": "labels of the regions",
    "empty_policy": "policy for empty masks",
    "nsd_tolerance_mm": "tolerance of NSD in mm",
    "hd95_convention": "convention of HD95",
}

MIN_DIFFERING_PAIRS = 6  # with fewer no two-sided p can be below 0.05: 2 / 2^5 = 0.0625
EQUAL_DECIMALS = 12  # differences alike up to rounding are ties


def compare(
    models: Mapping[str, pd.DataFrame], metric: str, per_subset: bool = False, reference: str | None = None
) -> pd.DataFrame:
    """Paired Wilcoxon signed-rank test of every two models, or of every other one against a reference, by region.

    A pair is a case: its mean over the subsets in the one model and in the other. A score counts where it is defined
    in both models.

    Args:
        models: the long table of each model by name.
        metric: one of ``BETTER``; of ``volume_error`` the absolute value is compared.
        per_subset: test each subset on its own instead of the mean over the subsets.
        reference: the model that the others are tested against; None: every two models.

    Returns:
        One row per test: ``model_a``, ``model_b``, ``region``, ``subset``, ``pairs`` (cases compared), ``left_out``
        (cases of either model that were not), ``median_difference`` (a - b, in the metric's unit), ``better`` (the
        model that the median favours where ``p_holm`` is below 0.05, else ""), ``p`` (two-sided), ``p_holm``
        (corrected over all rows of this call), ``smallest_p`` and ``smallest_p_holm`` (what they would be if every
        case of every test agreed). p is NaN where fewer than 6 pairs differ. No rows for a single model.

    Raises:
        ValueError: as ``subset_means``, the models cannot be compared (``check_comparable``), or the reference is none
            of them.
    """
    check_direction(metric)
    check_comparable(models, metric)
    wide = {name: wide_table(table, metric) for name, table in models.items()}
    if BETTER[metric] == "zero":
        wide = {name: scores.abs() for name, scores in wide.items()}
    rows = [
        {"model_a": a, "model_b": b, "region": region, "subset": subset, **_paired_test(differences, a, b, metric)}
        for a, b in compared_models(list(wide), reference)
        for region, subset, differences in _case_differences(wide[a], wide[b], per_subset)
    ]
    result: pd.DataFrame = pd.DataFrame(rows, columns=list(COMPARISON))
    for p, corrected in (("p", "p_holm"), ("smallest_p", "smallest_p_holm")):
        result[corrected] = holm(result[p].to_numpy(dtype=np.float64))
    result["better"] = result["better"].where(result["p_holm"] < ALPHA, "")
    return result


def compared_models(names: Sequence[str], reference: str | None) -> list[tuple[str, str]]:
    """List the pairs that are tested: every two models, or each of the others and the reference.

    Raises:
        ValueError: the reference is none of the models; names them.
    """
    if reference is None:
        return list(combinations(names, 2))
    if reference not in names:
        raise ValueError(f"Expected as reference one of the models {', '.join(names)}, got {reference!r}.")
    return [(name, reference) for name in names if name != reference]


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values (K,) for their number by Holm's step-down method; NaN stays NaN and does not count."""
    adjusted = np.full(len(p_values), np.nan)
    smallest_first = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN sorts last
    hypotheses_left = np.arange(len(smallest_first), 0, -1)
    adjusted[smallest_first] = np.maximum.accumulate(p_values[smallest_first] * hypotheses_left).clip(max=1)
    return adjusted


def check_comparable(models: Mapping[str, pd.DataFrame], metric: str) -> None:
    """Make sure that every two models share modalities, regions, at least one subset and at least one case.

    Raises:
        ValueError: names the two models, what differs, and the way out.
    """
    tables = {name: checked(table, metric) for name, table in models.items()}
    for a, b in combinations(tables, 2):
        of_a, of_b = ({key: set(tables[name][key]) for key in ROW} for name in (a, b))
        _check_same("modalities", a, sorted(modalities_in(of_a["subset"])), b, sorted(modalities_in(of_b["subset"])))
        name_in_a, name_in_b = ({frozenset(members(s)): s for s in of["subset"]} for of in (of_a, of_b))
        common = sorted(name_in_a.keys() & name_in_b.keys(), key=sorted)
        _check_same("order of modalities", a, [name_in_a[s] for s in common], b, [name_in_b[s] for s in common])
        _check_same("regions", a, sorted(of_a["region"]), b, sorted(of_b["region"]))
        for key in ("subset", "case"):
            if not of_a[key] & of_b[key]:
                raise ValueError(
                    f"Expected models with common {key}s, got none in {a} ({_some(of_a[key])}) and {b} "
                    f"({_some(of_b[key])}). Evaluate both on the same {key}s."
                )


def check_measured_alike(models: Mapping[str, Provenance]) -> None:
    """Make sure that every two models were scored on the same dataset by the same rules.

    Raises:
        ValueError: names the two models, what differs, and the way out.
    """
    for (a, of_a), (b, of_b) in combinations(models.items(), 2):
        for field, what in MEASURED_ALIKE.items():
            _check_same(what, a, getattr(of_a, field), b, getattr(of_b, field))


def _check_same(what: str, a: str, of_a: object, b: str, of_b: object) -> None:
    if of_a != of_b:
        raise ValueError(
            f"Expected models with the same {what}, got {of_a} in {a} and {of_b} in {b}. Evaluate both alike, or "
            f"report them one by one."
        )


def _case_differences(
    a: pd.DataFrame, b: pd.DataFrame, per_subset: bool
) -> Iterator[tuple[str, str, pd.Series[float]]]:
    """Walk through region, subset and the differences a - b by case, over the cases of either; NaN for no pair."""
    shared = [column for column in a.columns if column in b.columns]
    difference = a.reindex(columns=shared) - b.reindex(columns=shared)
    if per_subset:
        by_subset = difference.T.groupby(level="subset", sort=False)
        frames = {str(subset): frame.droplevel("subset").T for subset, frame in by_subset}
    else:
        frames = {ALL_SUBSETS: difference.T.groupby(level="region", sort=False).mean().T}
    for subset, by_region in frames.items():
        for region in by_region.columns:
            yield region, subset, by_region[region]


def _paired_test(differences: pd.Series[float], a: str, b: str, metric: str) -> dict[str, Any]:
    paired = differences.dropna().to_numpy().round(EQUAL_DECIMALS)
    differing = paired[paired != 0]
    median = float(np.median(paired)) if len(paired) else np.nan
    favour = median if BETTER[metric] == "higher" else -median
    return {
        "pairs": len(paired),
        "left_out": len(differences) - len(paired),
        "median_difference": median,
        "better": a if favour > 0 else b if favour < 0 else "",
        "p": float(wilcoxon(differing).pvalue) if len(differing) >= MIN_DIFFERING_PAIRS else np.nan,
        "smallest_p": 2 / 2 ** len(paired) if len(paired) >= MIN_DIFFERING_PAIRS else np.nan,
    }


def _some(names: set[str]) -> str:
    return ", ".join(sorted(map(str, names))[:3]) + (", ..." if len(names) > 3 else "")
