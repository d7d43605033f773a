"""Datasets as nnU-Net leaves them in nnUNet_preprocessed after planning, without a single image."""

import json

from small_plans import CONFIGURATION, small_dataset_json, small_plans

from nnunetv2_missmod.planning.dataset import PlannedDataset


def small_fingerprint(shape, cases=4):
    """What nnU-Net's planners read of it."""
    return {
        "spacings": [[1.0, 1.0, 1.0]] * cases,
        "shapes_after_crop": [list(shape)] * cases,
        "median_relative_size_after_cropping": 0.5,
        "foreground_intensity_properties_per_channel": {},
    }


def small_dataset(folder, num_modalities=3, dims=3, shape=(32, 32, 32), training=40, dataset_json=None, **plan):
    """Write plan, dataset.json and fingerprint; every median case has ``shape``."""
    plans = small_plans(num_modalities, dims, patch=plan.pop("patch", shape[-dims:]), **plan)
    plans["plans_name"] = "nnUNetPlans"
    plans["original_median_shape_after_transp"] = list(shape)
    plans["configurations"][CONFIGURATION]["median_image_size_in_voxels"] = [float(n) for n in shape[-dims:]]
    if plans["configurations"][CONFIGURATION]["architecture"]["network_class_name"].endswith("ResidualEncoderUNet"):
        plans["experiment_planner_used"] = "nnUNetPlannerResEncM"
    target = folder / plans["dataset_name"]
    target.mkdir(parents=True, exist_ok=True)
    dataset_json = {**(dataset_json or small_dataset_json(num_modalities)), "numTraining": training}
    (target / "nnUNetPlans.json").write_text(json.dumps(plans))
    (target / "dataset.json").write_text(json.dumps(dataset_json))
    (target / "dataset_fingerprint.json").write_text(json.dumps(small_fingerprint(shape)))
    return PlannedDataset(target, json.loads((target / "nnUNetPlans.json").read_text()), dataset_json)
