"""The smallest and largest of everything: one modality or six, batches and datasets of one, a case within a patch."""

import importlib
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from small_models import small_images, write_case, write_model
from small_plans import (
    CONFIGURATION,
    CPU,
    random_batch,
    small_dataset_json,
    small_plans,
    small_trainer,
    whole_step,
    with_small_network,
)
from small_training import environment_of, training_plans, write_training

from nnunetv2_missmod.host.doors import door_names, segmenting_names
from nnunetv2_missmod.host.preprocessor import read_case
from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.prediction.engine import Images, predict_subsets
from nnunetv2_missmod.prediction.model import PredictionSettings, open_predictor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

QUICK = PredictionSettings(device="cpu", mirroring=False, num_processes=0)


def door(name):
    return getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)


@pytest.mark.parametrize("name", door_names())
@pytest.mark.parametrize("modalities", [1, 6])
def test_a_batch_of_one_trains_and_is_validated(name, modalities, tmp_path, monkeypatch):
    plans = small_plans(modalities, features=(8, 8, 16), batch_size=1, **whole_step(door(name)))
    plans = with_small_network(door(name), plans)
    trainer = small_trainer(door(name), plans, small_dataset_json(modalities, regions=True), tmp_path, monkeypatch)
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    trainer.network.train()
    outputs = trainer.train_step(random_batch(trainer, cases=("a",)))
    assert all(torch.isfinite(term) for term in outputs.values())
    after = trainer.network.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(value, after[key]) for key, value in before.items())
    trainer.num_val_iterations_per_epoch = 1
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        outputs = [trainer.validation_step(random_batch(trainer, cases=("a",)))]
    trainer.on_validation_epoch_end(outputs)
    assert np.isfinite(trainer.logger.get_value("mean_fg_dice", 0))


@pytest.mark.parametrize("name", segmenting_names())
@pytest.mark.parametrize("modalities", [1, 6])
def test_a_case_within_a_patch_is_predicted_from_any_subset(name, modalities, tmp_path, monkeypatch):
    predictor = open_predictor(write_model(tmp_path, monkeypatch, name, num_modalities=modalities), QUICK)
    files = write_case(tmp_path / "case", "case", small_images(modalities, (9, 10, 8)))
    reader = predictor.plans_manager.image_reader_writer_class()
    subsets = all_subsets(modalities)[[0, -1]].numpy()  # the first alone, and all
    images = Images(*read_case(files, reader, predictor.dataset_json))
    found = {segmented.position: segmented.logits for segmented in predict_subsets(predictor, images, subsets)}
    assert set(found) == {0, 1}
    assert all(np.isfinite(logits).all() for logits in found.values())
    predictor.predict_from_files_sequential([files], [str(tmp_path / "mask")])
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))).shape == (9, 10, 8)


@pytest.mark.parametrize("name", door_names())
def test_one_small_case_with_a_lesion_of_one_voxel_is_all_there_is_to_train_on(name, tmp_path, monkeypatch):
    for variable, value in {**environment_of(tmp_path), "nnUNet_n_proc_DA": "0"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # takes longer than the training here
    plans = training_plans(1, batch_size=1, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1)
    write_training(tmp_path, plans, cases=("a",), held_out=("a",), shape=(9, 10, 8), lesion=(4, 5, 3))
    plans = {**json.loads(json.dumps(plans)), "continue_training": False}
    trainer = door(name)(plans, CONFIGURATION, "all", small_dataset_json(1), CPU)
    trainer.run_training()
    checkpoint = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert checkpoint["current_epoch"] == 2
    assert all(torch.isfinite(value).all() for value in checkpoint["network_weights"].values())
    assert {epoch for epoch, _, _ in trainer.epoch_log.rows()} == {0, 1}
