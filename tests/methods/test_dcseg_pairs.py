"""L_ana with positive and negative pairs averaged apart: plain loops, and batches that lack one kind."""

import math
from itertools import product

import pytest
import torch
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.methods.dcseg.losses import anatomy_contrastive_loss, global_ssim, pairwise_contrastive_loss
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")

T = 5.0
AVAILABLE = {
    "full": [[True, True], [True, True], [True, True]],
    "incomplete": [[True, False], [True, True], [False, True]],
    "one modality each": [[True, False], [False, True], [True, False]],
}
CASES = {"three patients": [2, 0, 1], "two crops of one patient": [4, 7, 4], "one patient": [3, 3, 3]}


def random_anatomy(samples=3, modalities=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, modalities, 3, 4, 5, generator=generator, dtype=torch.float64)


def softplus(value):
    return math.log1p(math.exp(-abs(value))) + max(value, 0)


def looped(anatomy, available, cases):
    """The mean of the positive pairs and the mean of the negative ones, of those that there are."""
    similarity = global_ssim(anatomy.flatten(0, 1)).tolist()
    count = anatomy.shape[1]
    positive, negative = [], []
    for n, m, k, j in product(range(len(anatomy)), range(count), range(len(anatomy)), range(count)):
        if not (available[n][m] and available[k][j]):
            continue
        value = similarity[n * count + m][k * count + j]
        if n == k:
            positive.append(softplus(-T * value))
        elif cases[n] != cases[k]:
            negative.append(softplus(T * value))
    means = [sum(kind) / len(kind) for kind in (positive, negative) if kind]
    return sum(means) / len(means)


@pytest.mark.parametrize("available", AVAILABLE.values(), ids=AVAILABLE.keys())
@pytest.mark.parametrize("cases", CASES.values(), ids=CASES.keys())
def test_each_kind_of_pairs_has_half_of_the_loss(available, cases):
    anatomy = random_anatomy()
    loss = anatomy_contrastive_loss(anatomy, torch.tensor(available), torch.tensor(cases), T, balanced=True)
    assert loss.item() == pytest.approx(looped(anatomy, available, cases), rel=1e-9)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", [False, True], ids=["no positives", "no negatives"])
def test_a_batch_without_one_kind_is_the_mean_over_the_other(kind, balanced):
    similarity = torch.linspace(-0.9, 0.9, 9, dtype=torch.float64).view(3, 3).requires_grad_()
    positive = torch.full((3, 3), kind)
    loss = pairwise_contrastive_loss(similarity, positive, torch.ones(3, 3, dtype=torch.bool), T, balanced)
    sign = -T if kind else T
    expected = sum(softplus(sign * value) for value in similarity.flatten().tolist()) / 9
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert similarity.grad.isfinite().all()


def test_the_share_of_positive_pairs_does_not_fall_with_the_batch():
    """Maps that are all alike: positive pairs cost nothing, negative ones everything; by Eq. 1 their share grows."""
    shares = {}
    for samples, balanced in product((2, 8), (False, True)):
        anatomy = torch.randn(1, 1, 2, 4, 4, dtype=torch.float64).expand(samples, 2, -1, -1, -1)
        available = torch.ones(samples, 2, dtype=torch.bool)
        loss = anatomy_contrastive_loss(anatomy, available, torch.arange(samples), 50.0, balanced=balanced)
        shares[samples, balanced] = loss.item() / 50
    assert shares[2, False] == pytest.approx(1 / 2, rel=1e-4)
    assert shares[8, False] == pytest.approx(7 / 8, rel=1e-4)
    assert shares[2, True] == shares[8, True] == pytest.approx(1 / 2, rel=1e-4)


@pytest.mark.parametrize("ssim_window", [0, 11])
def test_the_setting_reaches_l_ana_alone(ssim_window, tmp_path, monkeypatch):
    terms = {}
    for balanced_pairs in (False, True):
        plans = small_plans(
            3, 2, features=(8, 8, 8), batch_size=4, balanced_pairs=balanced_pairs, ssim_window=ssim_window
        )
        trainer = small_trainer(DCSegTrainer, plans, small_dataset_json(3), tmp_path, monkeypatch)
        trainer.generator.manual_seed(0)
        batch = trainer.prepare_batch(random_batch(trainer, cases=("a", "b", "c", "d")))
        terms[balanced_pairs] = trainer.training_loss(batch)
    changed = {name for name, value in terms[True].items() if not torch.equal(value, terms[False][name])}
    assert changed == {"anatomy"}
    assert terms[True]["anatomy"].isfinite()
