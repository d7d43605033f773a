"""The terms' sizes at the start, on the phantom."""

import numpy as np
import pytest
import torch
from small_plans import CONFIGURATION, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.datasets.phantom import modality_names, phantom_case
from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer

SIZE = 32
REGIONS = ((1, 2, 3), (2, 3), (3,))


def phantom_batch(trainer):
    """Two cases, standardised within the brain as nnU-Net does, with a target for every level."""
    rng = np.random.default_rng(0)
    images, targets = [], []
    for _ in range(2):
        channels, labels = phantom_case(rng, modality_names(4), (SIZE,) * 3)
        brain = channels[0] > 0
        images.append([np.where(brain, (c - c[brain].mean()) / c[brain].std(), 0) for c in channels])
        targets.append([np.isin(labels, region) for region in REGIONS])
    whole = torch.tensor(np.array(targets))
    steps = [round(1 / scale[0]) for scale in trainer._get_deep_supervision_scales()]
    levels = [whole[..., ::step, ::step, ::step] for step in steps]
    return {"data": torch.tensor(np.array(images)).float(), "target": levels, "keys": ["a", "b"]}


@pytest.mark.parametrize("features", [(8, 16, 32, 32), (8, 16, 32, 32, 32)], ids=["64 tokens", "8 tokens"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_term_starts_within_sight_of_the_segmentation_loss(features, seed, tmp_path, monkeypatch):
    """None above 100 times, none below a thousandth: whatever the number of tokens."""
    plans = small_plans(patch=[SIZE] * 3, features=features)
    network = {"embed_dim": 96, "num_layers": 8, "num_heads": 3, "feedforward_dim": 256}
    plans["configurations"][CONFIGURATION]["missmod"]["network"] = network
    trainer = small_trainer(MSTKDNetTrainer, plans, small_dataset_json(regions=True), tmp_path, monkeypatch, seed=seed)
    trainer.draw_subset = lambda available: torch.tensor([[True, False, False, False], [False, False, True, True]])
    trainer.network.train()
    terms = trainer.training_loss(trainer.prepare_batch(phantom_batch(trainer)))
    segmentation = terms["segmentation"].item() / trainer.student_weight
    ratios = {name: term.item() / segmentation for name, term in terms.items()}
    assert len(ratios) == 9
    assert {name: ratio for name, ratio in ratios.items() if not 1e-3 <= ratio <= 100} == {}
