"""Small scores of a model, as `missmod evaluate` writes them: its provenance and its long table."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from nnunetv2_missmod.evaluation.provenance import Provenance
from nnunetv2_missmod.evaluation.scores import DTYPES

MODALITIES = ("FLAIR", "T1", "T1c", "T2")
NASTY = ["<script>alert(1)</script>", "a_b&c%", "$x^2$ \\\"'|#{}~`*"]  # mean something in HTML, LaTeX or Markdown
REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def subsets_of(modalities):
    """Every subset by its name, in the order of modalities.all_subsets."""
    return {"+".join(s): list(s) for k in range(1, len(modalities) + 1) for s in combinations(modalities, k)}


def subset_names(modalities=MODALITIES):
    return list(subsets_of(modalities))


def provenance(modalities=("FLAIR", "T1c"), regions=("whole", "enhancing"), trainer="DCSegTrainer", **changes):
    given = Provenance(
        model=f"{trainer}__nnUNetPlans__3d_fullres",
        dataset="Dataset137_BraTS2021",
        trainer=trainer,
        plans="nnUNetPlans",
        configuration="3d_fullres",
        folds=[0, "all"],
        checkpoint="checkpoint_final.pth",
        weights=["0" * 64, "1" * 64],
        step_size=0.5,
        mirroring=True,
        modalities=list(modalities),
        subsets=subsets_of(modalities),
        sampled=False,
        regions=list(regions),
        region_labels={region: REGIONS.get(region, [1]) for region in regions},
        empty_policy="nnunet",
        nsd_tolerance_mm=1.0,
        min_voxels={},
        images="/data/imagesTs",
        labels="/data/labelsTs",
        predictions="predictions",
        file_ending=".nii.gz",
        versions={"nnunetv2": "2.8.0"},
    )
    return replace(given, **changes)


def long_table(cases=5, modalities=MODALITIES, regions=tuple(REGIONS), undefined=0.0, seed=0, subsets=None):
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
    counts["num_true_positive"] = counts.min(axis=1) // 2
    return pd.concat([table, scores, counts], axis=1).assign(
        num_voxels=2000, mean_probability=0.8, predicted_volume=900.0
    )[list(DTYPES)]


def constant_table(score, **kwargs):
    """A long table whose Dice is a function of case, subset and region."""
    table = long_table(**kwargs)
    return table.assign(
        dice=[score(*row) for row in table[["case", "subset", "region"]].itertuples(index=False, name=None)]
    )


def calibration_table(cases=5, modalities=MODALITIES, regions=tuple(REGIONS), seed=0):
    """What `missmod calibrate` foresees of the Dice of ``long_table``, made up."""
    table = long_table(cases, modalities, regions, seed=seed)[["case", "subset", "num_present", "region", "dice"]]
    rng = np.random.default_rng(seed + 1)
    expected = (table["dice"] + rng.normal(0, 0.1, len(table))).clip(0, 1)
    bound = (expected - 0.15).clip(0, 1)
    means = table.groupby(["subset", "region"])["dice"].transform("mean")
    return table.assign(expected_dice=expected, bound=bound, subset_mean=means, confidence=0.9)
