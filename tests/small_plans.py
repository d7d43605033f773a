"""Small nnU-Net plans and trainers, built in memory: no dataset, no preprocessing."""

import copy
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_missmod.training.dedicated import DedicatedTrainer

CONFIGURATION = "3d_fullres"
CPU = torch.device("cpu")
LABELS = {"background": 0, "edema": 1, "tumor": 2}
SMALL_NETWORK = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "feedforward_dim": 24}  # where a network has them
OWN = {"MSTKDNetTrainer": {"num_layers": 4}}  # the outputs of four are compared
SUBSET = "mod0"  # of a trainer that is for one subset
WHOLE_STEP = {"pretrained": False, "warm_up_fraction": 0.0}  # no checkpoint to look for, every term from the start
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def small_dataset_json(num_modalities=4, regions=False, ignore=False):
    labels = dict(REGIONS if regions else LABELS)
    if ignore:
        labels["ignore"] = 4 if regions else 3
    names = {str(m): f"mod{m}" for m in range(num_modalities)}
    return {
        "channel_names": names,
        "labels": labels,
        "file_ending": ".nii.gz",
        "numTraining": 4,
        **({"regions_class_order": [1, 2, 3]} if regions else {}),
    }


def small_plans(num_modalities=4, dims=3, residual=False, patch=None, batch_size=2, features=(16, 16, 32), **overrides):
    """A plan as nnU-Net writes it; ``overrides`` go into the missmod block's trainer part."""
    stages = len(features)
    patch = list(patch or [16] * dims)
    blocks = {"n_blocks_per_stage": [1] * stages} if residual else {"n_conv_per_stage": [2] * stages}
    unet = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    configuration = {
        "data_identifier": "small_3d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": [1.0] * dims,
        "normalization_schemes": ["ZScoreNormalization"] * num_modalities,
        "use_mask_for_norm": [True] * num_modalities,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{unet}",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(features),
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [[3] * dims] * stages,
                "strides": [[1] * dims] + [[2] * dims] * (stages - 1),
                **blocks,
                "n_conv_per_stage_decoder": [1] * (stages - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
        "missmod": {"trainer": overrides},
    }
    return {
        "dataset_name": "Dataset501_Small",
        "plans_name": "smallPlans",
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": patch,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(range(3)),
        "transpose_backward": list(range(3)),
        "configurations": {CONFIGURATION: copy.deepcopy(configuration)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(m): {"mean": 0, "std": 1, "percentile_00_5": -3, "percentile_99_5": 3} for m in range(num_modalities)
        },
    }


def whole_step(trainer_class):
    """The overrides by which a trainer's first step is like every later one."""
    return {name: value for name, value in WHOLE_STEP.items() if hasattr(trainer_class, name)}


def subset_for(trainer_class):
    """The override without which a trainer for one subset does not start."""
    return {"subset": SUBSET} if issubclass(trainer_class, DedicatedTrainer) else {}


def with_small_network(trainer_class, plans):
    """The plan, with the network's own constants set small, and a subset for a trainer that needs one."""
    block = plans["configurations"][CONFIGURATION]["missmod"]
    block["trainer"] = {**subset_for(trainer_class), **block["trainer"]}
    block["network"] = small_network(trainer_class)
    return plans


def small_network(trainer_class):
    """The constants that make the network of a trainer small."""
    known = trainer_class.build_network.__self__.constants()
    small = {**SMALL_NETWORK, **OWN.get(trainer_class.__name__, {})}
    return {name: value for name, value in small.items() if name in known}


def small_trainer(name, plans, dataset_json, folder: Path, monkeypatch, cases=("a", "b", "c", "d"), seed=0, device=CPU):
    """A trainer of a door, initialised on a preprocessed folder with small random cases."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(folder / variable))
    write_preprocessed(folder, plans, dataset_json, cases)
    torch.manual_seed(seed)
    trainer_class = recursive_find_trainer_class_by_name(name) if isinstance(name, str) else name
    plans = copy.deepcopy(plans)
    trainer = trainer_class({**plans, "continue_training": False}, CONFIGURATION, 0, dataset_json, device)
    trainer.initialize()
    num_modalities = len(dataset_json["channel_names"])
    trainer.available_in_case = {case: (True,) * num_modalities for case in cases}
    trainer.case_number = {case: number for number, case in enumerate(sorted(cases))}
    return trainer


def write_preprocessed(folder: Path, plans, dataset_json, cases, absent=None):
    """Write small random cases as nnU-Net's preprocessing would; ``absent`` maps a case to its absent channels."""
    configuration = plans["configurations"][CONFIGURATION]
    target = folder / "nnUNet_preprocessed" / plans["dataset_name"] / configuration["data_identifier"]
    if not target.is_dir():
        written = _written_once(len(dataset_json["channel_names"]), tuple(cases), tuple((absent or {}).items()))
        shutil.copytree(written.name, target)


@functools.cache
def _written_once(num_modalities, cases, absent):
    """A folder with cases, for as long as the process runs: compressing them takes longer than building a trainer."""
    folder = tempfile.TemporaryDirectory()
    rng, shape = np.random.default_rng(0), (20, 20, 20)
    for case in cases:
        images = rng.normal(size=(num_modalities, *shape)).astype(np.float32)
        images[list(dict(absent).get(case, ()))] = 0
        labels = rng.integers(0, 3, size=(1, *shape)).astype(np.int16)
        locations = {1: np.argwhere(labels == 1)[:50], 2: np.argwhere(labels == 2)[:50]}
        nnUNetDatasetBlosc2.save_case(images, labels, {"class_locations": locations}, f"{folder.name}/{case}")
    return folder


def random_batch(trainer, seed=0, cases=("a", "b")):
    """A batch as nnU-Net's dataloader gives it, with a target for every level of deep supervision."""
    generator = torch.Generator().manual_seed(seed)
    configuration = trainer.configuration_manager
    patch = configuration.patch_size
    images = torch.randn(len(cases), trainer.num_input_channels, *patch, generator=generator)
    manager = trainer.label_manager
    if manager.has_regions:
        count = manager.num_segmentation_heads + manager.has_ignore_label
        target = torch.rand(len(cases), count, *patch, generator=generator) > 0.7
    else:
        highest = manager.ignore_label if manager.has_ignore_label else max(manager.all_labels)
        target = torch.randint(0, highest + 1, (len(cases), 1, *patch), generator=generator).short()
    scales = trainer._get_deep_supervision_scales()  # stock nnU-Net has no other, and benchmarks ask it too
    if scales is None:
        return {"data": images, "target": target, "keys": list(cases)}
    steps = [[round(1 / s) for s in scale] for scale in scales]
    targets = [target[(..., *(slice(None, None, s) for s in step))] for step in steps]
    return {"data": images, "target": targets, "keys": list(cases)}
