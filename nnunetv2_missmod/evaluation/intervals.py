"""Bootstrap intervals over the cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunetv2_missmod.evaluation.summary import as_means, wide_table
from nnunetv2_missmod.evaluation.trainings import mean_over_trainings

MAX_UNDEFINED = 0.2  # of the resamples; a score defined in one case alone is missing from a quarter of them or more

Summary = Callable[[pd.DataFrame], "pd.DataFrame | pd.Series[float]"]


def bootstrap_intervals(
    table: pd.DataFrame | Sequence[pd.DataFrame],
    metric: str,
    summary: Summary = pd.DataFrame.copy,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile bootstrap interval over the cases of the subsets' means, or of a summary of them.

    Cases are drawn with replacement, each with all its rows. Of several trainings of one model the trainings are drawn
    as well, and a case's score is its mean over those that are drawn. Bounds are NaN for a single case, and where more
    than a fifth of the resamples leave the summary undefined, as when one case alone has a score.

    Args:
        table: the long table of one model, or those of its trainings, all on the same cases and subsets.
        metric: any metric column.
        summary: a function of the subsets' means, such as ``mean_over_subsets`` or ``robustness_area``, that gives for
            a column what it gives for that column alone. It is called once on all resamples, side by side as columns.
        resamples: how many times the cases are drawn.
        confidence: of the interval, between 0 and 1.
        seed: the same seed gives the same bounds, whatever the order of the rows.

    Returns:
        Columns ``estimate``, ``low``, ``high``; indexed by region, and by region and row where the summary has rows.
    """
    if not (resamples >= 1 and 0 < confidence < 1):
        raise ValueError(
            f"Expected at least one resample and a confidence between 0 and 1, got {resamples} and {confidence}. "
            f"The usual values are 1000 and 0.95."
        )
    tables = [table] if isinstance(table, pd.DataFrame) else table
    mean = wide_table(mean_over_trainings(tables), metric)
    estimate = _flat(summary(as_means(mean.mean().to_numpy(), mean.columns)))
    draws = bootstrap_draws(tables, metric, summary, resamples, seed)
    known = (len(mean) > 1) & (draws.isna().mean().to_numpy() <= MAX_UNDEFINED)
    bounds = np.where(known, draws.quantile([(1 - confidence) / 2, (1 + confidence) / 2]), np.nan)
    intervals: pd.DataFrame = estimate.to_frame("estimate").assign(low=bounds[0], high=bounds[1])
    return intervals


def bootstrap_draws(
    tables: Sequence[pd.DataFrame], metric: str, summary: Summary, resamples: int, seed: int
) -> pd.DataFrame:
    """Summary of each resample of cases and trainings, as ``bootstrap_intervals`` draws them.

    Two models with as many cases of the same names have the same cases drawn from the same seed.

    Returns:
        (resamples, regions * rows of the summary), region by region.
    """
    wide = [wide_table(table, metric) for table in tables]
    values = np.stack([of_training.reindex_like(wide[0]).to_numpy() for of_training in wide])
    resampled = _resampled_means(values, resamples, np.random.default_rng(seed))
    return _summarised(resampled, wide[0].columns, summary)


def _resampled_means(
    values: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Mean over drawn cases of the mean over drawn trainings.

    Args:
        values: (trainings, cases, K).
        resamples: how many times they are drawn.
        generator: of the draws.

    Returns:
        (resamples, K); NaN where no drawn case has a score.
    """
    trainings, cases, num_columns = values.shape
    times_drawn = generator.multinomial(cases, np.full(cases, 1 / cases), size=resamples)
    trainings_drawn = generator.multinomial(trainings, np.full(trainings, 1 / trainings), size=resamples)
    kinds, kind_of = np.unique(trainings_drawn, axis=0, return_inverse=True)
    means = np.full((resamples, num_columns), np.nan)
    for kind, weights in enumerate(kinds):
        drawn = kind_of.ravel() == kind
        means[drawn] = _mean_of_defined(times_drawn[drawn], _mean_of_defined(weights[None], values)[0])
    return means


def _mean_of_defined(weights: NDArray[Any], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of values (N, ...) weighted by (R, N) -> (R, ...), over what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = np.tensordot(weights, defined, axes=1)
    total = np.tensordot(weights, np.where(defined, values, 0), axes=1)
    means: NDArray[np.float64] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def _summarised(resampled: NDArray[np.float64], columns: pd.Index[Any], summary: Summary) -> pd.DataFrame:
    """Summarise resampled means (resamples, regions * subsets) all at once.

    Returns:
        (resamples, regions * rows of the summary), columns in the order of ``_flat``.
    """
    subsets = columns.unique("subset")
    side_by_side = resampled.reshape(-1, len(subsets)).T  # a column per resample and region
    found = np.atleast_2d(summary(pd.DataFrame(side_by_side, index=subsets)).to_numpy())  # as many columns
    draws: pd.DataFrame = pd.DataFrame(found.T.reshape(len(resampled), -1))
    return draws


def _flat(summary: pd.DataFrame | pd.Series[float]) -> pd.Series[float]:
    by_region: Any = summary if isinstance(summary, pd.Series) else summary.unstack()
    flat: pd.Series[float] = by_region
    return flat
