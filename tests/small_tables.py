"""Small long tables of scores, as `missmod evaluate` writes them."""

from itertools import combinations

import numpy as np
import pandas as pd

MODALITIES = ("FLAIR", "T1", "T1c", "T2")
REGIONS = ("whole", "core", "enhancing")


def subset_names(modalities=MODALITIES):
    return ["+".join(s) for k in range(1, len(modalities) + 1) for s in combinations(modalities, k)]


def long_table(cases=5, modalities=MODALITIES, regions=REGIONS, undefined=0.0, seed=0, subsets=None):
    """Random scores; a share of them is undefined."""
    rng = np.random.default_rng(seed)
    names = subset_names(modalities) if subsets is None else subsets
    table = pd.DataFrame(
        [
            {"case": f"case_{c:03d}", "subset": name, "num_present": name.count("+") + 1, "region": region}
            for c in range(cases)
            for name in names
            for region in regions
        ]
    )
    scores = pd.DataFrame(
        {
            "dice": rng.uniform(0, 1, len(table)),
            "hd95": rng.uniform(0, 50, len(table)),
            "nsd": rng.uniform(0, 1, len(table)),
            "sensitivity": rng.uniform(0, 1, len(table)),
            "volume_error": rng.normal(0, 0.5, len(table)),
            "lesion_dice": rng.uniform(0, 1, len(table)),
        }
    )
    scores = scores.mask(rng.uniform(size=scores.shape) < undefined)
    counts = pd.DataFrame(rng.integers(0, 1000, (len(table), 2)), columns=["num_reference", "num_predicted"])
    return pd.concat([table, scores, counts], axis=1)


def constant_table(score, **kwargs):
    """A long table whose Dice is a function of case, subset and region."""
    table = long_table(**kwargs)
    return table.assign(
        dice=[score(*row) for row in table[["case", "subset", "region"]].itertuples(index=False, name=None)]
    )
