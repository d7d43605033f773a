"""A preprocessed dataset of tiny cases on which whole commands train every door in seconds."""

import json

import numpy as np
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from small_plans import CONFIGURATION, small_dataset_json, small_network, small_plans, subset_for

from nnunetv2_missmod.host.doors import door_names

SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 2, "save_every": 1}
OF_TRAINER = {"M3AETrainer": {"pretrained": False}, "CCSDTrainer": {"warm_up_fraction": 0.0}}


def training_plans(num_modalities=2, batch_size=2, patch=None, **settings):
    """A plan that every door can train on."""
    plans = small_plans(num_modalities, 3, features=(8, 8, 16), batch_size=batch_size, patch=patch)
    of_trainers = {name: {**subset_for(door), **OF_TRAINER.get(name, {})} for name, door in doors().items()}
    block = {"trainer": {**SHORT, **of_trainers, **settings}, "network": small_networks()}
    plans["configurations"][CONFIGURATION]["missmod"] = block
    return plans


def doors():
    """The trainers of the doors by name."""
    from importlib import import_module

    return {name: getattr(import_module(f"nnunetv2_missmod.trainers.{name}"), name) for name in door_names()}


def small_networks():
    """The constants that make each door's network small, under its name."""
    return {name: small_network(door) for name, door in doors().items()}


def write_training(root, plans, cases=("a", "b", "c", "d"), held_out=("d",), shape=(20, 20, 20), lesion=None):
    """Write what nnU-Net's preprocessing leaves; ``lesion`` a voxel that is all there is of the labels."""
    num_modalities = len(plans["configurations"][CONFIGURATION]["normalization_schemes"])
    base = root / "nnUNet_preprocessed" / plans["dataset_name"]
    images = base / plans["configurations"][CONFIGURATION]["data_identifier"]
    truth = base / "gt_segmentations"
    for folder in (images, truth):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for case in cases:
        channels = rng.normal(size=(num_modalities, *shape)).astype(np.float32)
        labels = np.zeros((1, *shape), dtype=np.int16)
        if lesion:
            labels[(0, *lesion)] = 2
        else:
            labels[0, 4:16, 4:16, 4:16] = 1
            labels[0, 8:14, 8:14, 8:14] = 2
        nnUNetDatasetBlosc2.save_case(channels, labels, properties_of(labels), str(images / case))
        sitk.WriteImage(sitk.GetImageFromArray(labels[0].astype(np.uint8)), str(truth / f"{case}.nii.gz"))
    training = [case for case in cases if case not in held_out] or list(cases)
    contents = {
        f"{plans['plans_name']}.json": plans,
        "dataset.json": {**small_dataset_json(num_modalities), "numTraining": len(cases)},
        "dataset_fingerprint.json": {},
        "splits_final.json": [{"train": training, "val": list(held_out)}],
    }
    for name, content in contents.items():
        (base / name).write_text(json.dumps(content))
    return base


def properties_of(labels):
    """What nnU-Net's export must know of a case to write its mask."""
    shape = labels.shape[1:]
    return {
        "class_locations": {label: np.argwhere(labels == label)[:50] for label in (1, 2)},
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, size] for size in shape],
        "spacing": [1.0, 1.0, 1.0],
        "sitk_stuff": {"spacing": (1.0,) * 3, "origin": (0.0,) * 3, "direction": tuple(np.eye(3).flatten())},
    }


def environment_of(root):
    """nnU-Net's variables for a root."""
    return {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
