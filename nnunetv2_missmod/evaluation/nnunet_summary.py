"""nnU-Net's ``summary.json`` of a subset, computed from the rows of the long table; no mask is read again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunetv2_missmod.evaluation.scores import TRUE_POSITIVE, Scores
from nnunetv2_missmod.files.whole_files import write_whole

SUMMARY = "summary.json"


def write_summary(folder: Path, subset: str, scores: Scores) -> None:
    """Write nnU-Net's ``summary.json`` of a subset into its folder of masks.

    Args:
        folder: that of the scores.
        subset: its name.
        scores: of the model.
    """
    assert scores.provenance.predictions is not None, "the masks were not kept"
    masks = folder / scores.provenance.predictions / subset
    text = json.dumps(nnunet_summary(masks, subset, scores), indent=4, sort_keys=True)
    masks.mkdir(parents=True, exist_ok=True)
    write_whole(masks / SUMMARY, lambda file: file.write_text(text, encoding="utf-8"))


def nnunet_summary(masks: Path, subset: str, scores: Scores) -> dict[str, Any]:
    """Compute from the rows of a subset what nnU-Net computes from its masks (``compute_metrics_on_folder``).

    Regions are keyed by their labels, as nnU-Net does; Dice and IoU are nnU-Net's whatever the policy for empty masks.
    """
    table, provenance = scores
    ending = provenance.file_ending
    rows = table[table["subset"] == subset].sort_values("case", kind="stable", key=lambda case: case + ending)
    keys = {name: _nnunet_key(labels) for name, labels in provenance.region_labels.items()}
    metrics = _nnunet_metrics(rows)
    per_case = [
        {
            "reference_file": os.path.join(provenance.labels, case + ending),
            "prediction_file": os.path.join(masks, case + ending),
            "metrics": dict(zip(group["region"].map(keys), metrics.loc[group.index].to_dict("records"), strict=True)),
        }
        for case, group in rows.groupby("case", sort=False)
    ]
    mean = {keys[name]: metrics[rows["region"] == name].mean() for name in provenance.regions}
    foreground_mean = pd.DataFrame(mean).mean(axis=1, skipna=False)
    return {
        "metric_per_case": per_case,
        "mean": {key: values.to_dict() for key, values in mean.items()},
        "foreground_mean": foreground_mean.to_dict(),
    }


def _nnunet_metrics(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute nnU-Net's metrics from the counts of voxels, under the rows' index."""
    sizes = rows["num_reference"] + rows["num_predicted"]
    both = rows[TRUE_POSITIVE]
    either = sizes - both
    metrics: pd.DataFrame = pd.DataFrame(
        {
            "Dice": 2 * both / sizes.where(sizes > 0, np.nan),
            "IoU": both / either.where(either > 0, np.nan),
            "FP": rows["num_predicted"] - both,
            "TP": both,
            "FN": rows["num_reference"] - both,
            "TN": rows["num_voxels"] - either,
            "n_pred": rows["num_predicted"],
            "n_ref": rows["num_reference"],
        }
    )
    return metrics


def _nnunet_key(labels: Sequence[int]) -> str:
    return str(labels[0]) if len(labels) == 1 else str(tuple(labels))
