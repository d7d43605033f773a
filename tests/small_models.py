"""Small trained models as nnU-Net keeps them, and cases for them as files; the weights are random."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from small_plans import small_dataset_json, small_plans, small_trainer, whole_step, with_small_network

from nnunetv2_missmod.host.doors import with_doors
from nnunetv2_missmod.prediction.cohort import Export
from nnunetv2_missmod.prediction.model import ModelChoice

SPACING = (1.0, 1.0, 1.5)  # x, y, z in mm; the plans have 1 mm throughout


def write_model(root, monkeypatch, name="ModalityDropoutTrainer", num_modalities=3, dims=3, folds=(0,), regions=False):
    """Write a model of a door or a stock trainer under ``root/nnUNet_results``; give the choice that names it."""
    monkeypatch.setenv("nnUNet_extTrainer", with_doors({})["nnUNet_extTrainer"])
    trainer_class = recursive_find_trainer_class_by_name(name)
    is_ours = hasattr(trainer_class, "build_network")
    dataset_json = small_dataset_json(num_modalities, regions)
    plans = small_plans(num_modalities, dims, **(whole_step(trainer_class) if is_ours else {}))
    plans = with_small_network(trainer_class, plans) if is_ours else plans
    for fold in folds:
        trainer = small_trainer(trainer_class, plans, dataset_json, root, monkeypatch, seed=fold)
        with torch.no_grad():
            for weights in trainer.network.parameters():  # norms and biases start alike: every weight is to count
                weights.add_(0.1 * torch.randn_like(weights))
        folder = root / "nnUNet_results" / plans["dataset_name"] / f"{name}__{plans['plans_name']}__3d_fullres"
        (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
        (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))  # as nnU-Net: with what it added
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return ModelChoice("Dataset501_Small", "3d_fullres", name, "smallPlans", tuple(map(str, folds)))


def small_images(num_modalities=3, shape=(24, 26, 22), seed=0):
    """Images (M, z, y, x) zero outside an ellipsoid that is smaller for the first channel than for the others."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    images = rng.normal(3, 1, (num_modalities, *shape)).astype(np.float32)
    for channel in range(num_modalities):
        images[channel][radius > (0.75 if channel == 0 else 0.9)] = 0
    return images


def write_image(file, array, spacing=SPACING):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


def write_case(folder, case, images, channels=None):
    """Write the channels of a case that are there; give their files."""
    channels = range(len(images)) if channels is None else channels
    files = [folder / f"{case}_{channel:04d}.nii.gz" for channel in channels]
    for channel, file in zip(channels, files, strict=True):
        write_image(file, images[channel])
    return [str(file) for file in files]


def write_label(folder, case, shape=(24, 26, 22), values=(0, 1, 2), seed=0):
    """Write blocks of labels as a case's truth; give the array."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, dtype=np.uint8)
    for value in values:
        start = rng.integers(2, 8, 3)
        label[tuple(slice(s, s + 8) for s in start)] = value
    write_image(folder / f"{case}.nii.gz", label)
    return label


def write_cohort(folder, channels_of, shape=(16, 18, 16)):
    """Write cases of which each has some of two channels, and their labels, as a raw dataset."""
    for seed, (case, channels) in enumerate(channels_of.items()):
        write_case(folder / "imagesTr", case, small_images(2, shape, seed), channels)
        write_label(folder / "labelsTr", case, shape, seed=seed)
    return folder / "imagesTr", folder / "labelsTr"


@contextmanager
def two_folds(root, channels_of, splits):
    """A model of two folds for two modalities, its raw dataset of ``write_cohort`` and its splits."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        choice = write_model(root, monkeypatch, num_modalities=2, folds=(0, 1))
        write_cohort(root / "nnUNet_raw" / choice.dataset, channels_of)
        (root / "nnUNet_preprocessed" / choice.dataset / "splits_final.json").write_text(json.dumps(splits))
        yield choice


@contextmanager
def no_room_for(mask):
    """Let the disk be full when one mask of a prediction is written, such as ``mod0/b.nii.gz``."""
    write = Export.write

    def full(export, voxels, file, properties):
        if file.match(mask):
            raise OSError("no space left")
        write(export, voxels, file, properties)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Export, "write", full)
        yield


def folders_of(choice):
    """The images and the labels of the raw dataset."""
    raw = choice.folder.parents[2] / "nnUNet_raw" / choice.dataset
    return raw / "imagesTr", raw / "labelsTr"
