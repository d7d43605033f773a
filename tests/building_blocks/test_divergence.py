"""The divergences, voxel by voxel, against plain sums."""

import pytest
import torch
from small_ccsd import plain_bernoulli, plain_categorical

from nnunetv2_missmod.building_blocks.divergence import bernoulli_kl, categorical_kl

CLASSES = 3
DIVERGENCES = pytest.mark.parametrize(
    ("divergence", "plain"),
    [
        (categorical_kl, plain_categorical),
        (bernoulli_kl, lambda t, s: CLASSES * plain_bernoulli(t, s)),
    ],  # sum, not mean
    ids=["categorical", "bernoulli"],
)


def random_logits(*shape, seed):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@DIVERGENCES
@pytest.mark.parametrize(("shape", "axis"), [((2, CLASSES, 3, 2), 1), ((4, 2, CLASSES, 2, 2, 2), 2)])
def test_each_voxel_has_its_divergence(divergence, plain, shape, axis):
    teacher, student = random_logits(*shape, seed=0), random_logits(*shape, seed=1)
    per_voxel = divergence(teacher, student, axis)
    assert per_voxel.shape == (*shape[:axis], *shape[axis + 1 :])
    voxels = (logits.movedim(axis, -1).flatten(0, -2).tolist() for logits in (teacher, student))
    expected = [plain(t, s) for t, s in zip(*voxels, strict=True)]
    torch.testing.assert_close(per_voxel.flatten(), torch.tensor(expected, dtype=torch.float64))


@DIVERGENCES
def test_equal_logits_diverge_by_nothing_and_extreme_ones_stay_finite(divergence, plain):
    logits = random_logits(2, CLASSES, 4, seed=0)
    assert divergence(logits, logits, 1).abs().max() < 1e-12
    extreme = 1e4 * logits.float()
    student = (-extreme).requires_grad_()
    loss = divergence(extreme, student, 1).sum()
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
