"""What earlier versions wrote, in tests/earlier/, is still read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_plans import CONFIGURATION, small_dataset_json, small_plans, small_trainer, whole_step, with_small_network

from nnunetv2_missmod.host.doors import with_doors
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings, open_predictor

EARLIER = Path(__file__).parent / "earlier"
MODEL = f"ModalityDropoutTrainer__smallPlans__{CONFIGURATION}"
NETWORKS = json.loads((EARLIER / "networks.json").read_text())


def structure(content):
    """Names, types and shapes: what has to be alike for one version to load what another saved."""
    if isinstance(content, torch.Tensor):
        return [str(content.dtype).removeprefix("torch."), *content.shape]
    if isinstance(content, dict):
        return {str(key): structure(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [structure(value) for value in content]
    return type(content).__name__


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpoints_have_the_same_structure(name, tmp_path, monkeypatch):
    from importlib import import_module

    trainer_class = getattr(import_module(f"nnunetv2_missmod.trainers.{name}"), name)
    plans = with_small_network(trainer_class, small_plans(3, features=(8, 8, 16), **whole_step(trainer_class)))
    trainer = small_trainer(trainer_class, plans, small_dataset_json(3), tmp_path, monkeypatch)
    weights = structure(dict(trainer.network.state_dict()))
    assert weights == NETWORKS[name]["network_weights"]
    assert list(weights) == list(NETWORKS[name]["network_weights"])  # an optimizer's state knows no names
    now, before = structure(trainer.method_state()), NETWORKS[name]["missmod"]
    assert before.keys() <= now.keys()
    for part in before:
        if isinstance(before[part], dict) and "network" in before[part]:
            assert now[part]["network"] == before[part]["network"]


@pytest.fixture
def segmented():
    with np.load(EARLIER / "model" / "segmented.npz") as arrays:
        return torch.from_numpy(arrays["images"]).float(), torch.from_numpy(arrays["logits"])


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_extTrainer", with_doors({})["nnUNet_extTrainer"])
    folder = tmp_path / "results" / "Dataset501_Small"
    shutil.copytree(EARLIER / "model" / MODEL, folder / MODEL)
    return folder / MODEL


def test_a_model_predicts_as_it_did(results, segmented):
    choice = ModelChoice("Dataset501_Small", CONFIGURATION, "ModalityDropoutTrainer", "smallPlans", ("0",))
    predictor = open_predictor(choice, PredictionSettings("cpu", num_processes=0))
    images, logits = segmented
    with torch.no_grad():
        found = predictor.network.eval()(images, torch.tensor([[True, False, True]]))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)


def test_a_training_goes_on(results, segmented, tmp_path, monkeypatch):
    plans = json.loads((results / "plans.json").read_text())
    trainer = small_trainer(ModalityDropoutTrainer, plans, small_dataset_json(3), tmp_path, monkeypatch, seed=1)
    trainer.load_checkpoint(str(results / "fold_0" / "checkpoint_final.pth"))
    momentum = [state["momentum_buffer"].abs().sum() for state in trainer.optimizer.state_dict()["state"].values()]
    assert momentum and all(value > 0 for value in momentum)
    trainer.set_deep_supervision_enabled(False)
    images, logits = segmented
    with torch.no_grad():
        found = trainer.network.eval()(images, torch.tensor([[True, False, True]]))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
