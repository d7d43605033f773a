"""How stable the ranking of models is over the cases (and trainings), as the challengeR toolkit asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nnunetv2_missmod.evaluation.intervals import bootstrap_draws
from nnunetv2_missmod.evaluation.summary import goodness, mean_over_subsets


def rank_shares(
    models: Mapping[str, Sequence[pd.DataFrame]], metric: str, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Share of the bootstrap resamples in which each model has each rank, by its mean over the subsets.

    The same cases are drawn for all models; of several trainings of one the trainings are drawn as well. Models that
    are equal share the better rank; a resample without a score of some model is left out.

    Args:
        models: the long tables of each model's trainings by name, all on the same cases, subsets and regions.
        metric: one of ``BETTER``; of ``volume_error`` the mean nearest to 0 is the best.
        resamples: how many times the cases are drawn.
        seed: the same seed gives the same shares.

    Returns:
        One row per region and model, one column per rank from 1; NaN where no resample is left.
    """
    draws = [bootstrap_draws(tables, metric, mean_over_subsets, resamples, seed) for tables in models.values()]
    means = np.stack([of_model.to_numpy() for of_model in draws])  # (models, resamples, regions)
    better = goodness(means, metric).round(12)
    ranks = 1 + (better[None] > better[:, None]).sum(axis=1)
    known = ~np.isnan(means).any(axis=0)
    regions = list(next(iter(models.values()))[0]["region"].unique())
    shares = {
        (region, name): [
            float((ranks[i, known[:, r], r] == rank).mean()) if known[:, r].any() else np.nan
            for rank in range(1, len(models) + 1)
        ]
        for r, region in enumerate(regions)
        for i, name in enumerate(models)
    }
    found: pd.DataFrame = pd.DataFrame.from_dict(shares, orient="index", columns=range(1, len(models) + 1))
    found.index = pd.MultiIndex.from_tuples(shares, names=["region", "model"])
    return found
