"""ShaSpec's loss terms: plain loops over their formulas, and the released code's values."""

import math
from itertools import combinations, product

import pytest
import torch
from reference_values import TOLERANCES, as_input, assert_close, reference

from nnunetv2_missmod.methods.shaspec.losses import domain_loss, shared_loss

AVAILABLE = [[True, True, True, True], [True, False, True, True], [False, True, False, False]]
on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap_logits(values, gap, dtype, weight):
    return gap @ torch.from_numpy(values[weight]).to(dtype).T + torch.from_numpy(values["bias"]).to(dtype)


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("spatial", [(2, 3), (2, 1, 2)], ids=["2D", "3D"])
def test_shared_loss_is_m_times_the_mean_distance_of_what_counts(cyclic, spatial):
    shared, counted = random_tensor(3, 4, 2, *spatial), torch.tensor(AVAILABLE)
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0)] if cyclic else list(combinations(range(4), 2))
    per_sample = []
    for b in range(3):
        distances = [
            (shared[b, i] - shared[b, j]).abs().mean().item() for i, j in pairs if counted[b, i] and counted[b, j]
        ]
        per_sample.append(4 * sum(distances) / len(distances) if distances else 0.0)
    assert per_sample[2] == 0
    assert shared_loss(shared, counted, cyclic).item() == pytest.approx(sum(per_sample) / 3, rel=1e-12)


def test_shared_loss_knows_no_order_of_the_modalities():
    shared, counted = random_tensor(3, 4, 2, 3), torch.tensor(AVAILABLE)
    order = [2, 0, 3, 1]
    assert torch.isclose(shared_loss(shared[:, order], counted[:, order]), shared_loss(shared, counted))


def test_domain_loss_is_the_mean_cross_entropy_of_what_counts():
    logits, counted = 3 * random_tensor(3, 4, 4), torch.tensor(AVAILABLE)
    entropies = []
    for b, m in product(range(3), range(4)):
        if counted[b, m]:
            exponentials = [math.exp(v) for v in logits[b, m].tolist()]
            entropies.append(-math.log(exponentials[m] / sum(exponentials)))
    assert len(entropies) == 8
    assert domain_loss(logits, counted).item() == pytest.approx(sum(entropies) / 8, rel=1e-12)


@pytest.mark.parametrize("cyclic", [False, True])
def test_what_does_not_count_has_no_gradient(cyclic):
    shared, logits = random_tensor(3, 4, 2, 3).requires_grad_(), random_tensor(3, 4, 4).requires_grad_()
    counted = torch.tensor(AVAILABLE)
    (shared_loss(shared, counted, cyclic) + domain_loss(logits, counted)).backward()
    in_a_pair = counted & (counted.sum(1, keepdim=True) > 1)
    assert torch.equal(shared.grad.flatten(2).any(2), in_a_pair)
    assert torch.equal(logits.grad.any(2), counted)


def test_one_modality_has_nothing_to_learn_but_its_gradients_are_there():
    shared, logits = random_tensor(2, 1, 2, 3).requires_grad_(), random_tensor(2, 1, 1).requires_grad_()
    counted = torch.ones(2, 1, dtype=torch.bool)
    for cyclic in (False, True):
        loss = shared_loss(shared, counted, cyclic) + domain_loss(logits, counted)
        assert loss == 0
        loss.backward()
    assert not shared.grad.any()
    assert not logits.grad.any()


@on_precision
def test_terms_of_complete_cases_are_the_released_ones(dtype):
    values = reference("shaspec_aux_0")
    shared, gap = as_input(values["shared"], dtype), as_input(values["spec_gap"], dtype)
    counted = torch.ones(shared.shape[:2], dtype=torch.bool)
    l_shared = shared_loss(shared, counted, cyclic=True)
    l_domain = domain_loss(gap_logits(values, gap, dtype, "W"), counted)
    assert l_shared.item() == pytest.approx(float(values["loss_shared"]), rel=TOLERANCES[dtype])
    assert l_domain.item() == pytest.approx(float(values["loss_domain"]), rel=TOLERANCES[dtype])
    total = float(values["alpha"]) * l_shared + float(values["beta"]) * l_domain
    assert total.item() == pytest.approx(float(values["aux_total"]), rel=TOLERANCES[dtype])
    total.backward()
    assert_close(shared.grad, values["grad_shared"], dtype)
    assert_close(gap.grad, values["grad_spec_gap"], dtype)


@on_precision
def test_terms_of_incomplete_cases_match_stored_values(dtype):
    """The released code counts what is missing as well, as zeros' features."""
    values = reference("shaspec_available_0")
    shared, gap = as_input(values["shared"], dtype), as_input(values["spec_gap"], dtype)
    counted = torch.from_numpy(values["available"])
    everything = torch.ones_like(counted)
    logits = gap_logits(values, gap, dtype, "weight")
    for loss, name in (
        (shared_loss(shared, counted), "loss_shared"),
        (domain_loss(logits, counted), "loss_domain"),
        (shared_loss(shared, everything, cyclic=True), "loss_shared_cyclic_all"),
        (domain_loss(logits, everything), "loss_domain_all"),
    ):
        assert loss.item() == pytest.approx(float(values[name]), rel=TOLERANCES[dtype]), name
    total = 0.1 * shared_loss(shared, counted) + 0.02 * domain_loss(logits, counted)
    assert total.item() == pytest.approx(float(values["aux_total"]), rel=TOLERANCES[dtype])
    total.backward()
    assert_close(shared.grad, values["grad_shared"], dtype)
    assert_close(gap.grad, values["grad_spec_gap"], dtype)
