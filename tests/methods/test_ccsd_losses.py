"""CCSD's loss terms, its path and its composition: plain loops over the formulas, stored values, degenerate inputs."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_values import names_of, reference, stored_entries
from small_ccsd import every_availability, plain_divergence
from small_plans import CONFIGURATION, small_plans

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.divergence import bernoulli_kl, categorical_kl
from nnunetv2_missmod.building_blocks.shared_specific import ResidualComposition, fill_slots, mean_of_present
from nnunetv2_missmod.methods.ccsd.losses import (
    cosine_criticality,
    cosine_similarity,
    dmcd_loss,
    gradient_criticality,
    hmsd_loss,
    removal_path,
)

TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-5}
SHARES = torch.tensor([[0.5, 0.0, 0.2], [0.5, 0.0, 0.0], [0.0, 0.0, 0.8]], dtype=torch.float64)  # none for the second
COUNTED = torch.tensor([[True, True, False], [False, True, True]])


def on_files(kind):
    """Run a test on every reference file of a kind."""
    return pytest.mark.parametrize("file", names_of(kind))


on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
on_outputs = pytest.mark.parametrize("overlapping", [False, True], ids=["softmax", "overlapping"])
on_order = pytest.mark.parametrize(("order", "sign"), [("max", 1), ("min", -1)], ids=["max", "min"])
on_shape = pytest.mark.parametrize(("spatial", "tau"), [((3, 2), 4.0), ((2, 3, 2), 0.7)], ids=["2D", "3D"])
on_modalities = pytest.mark.parametrize("modalities", range(1, 7))


def plain_order(similarity, members, sign):
    """Remove the highest score of Eq. 4 first; with two left, the scores within all members decide."""
    left, order = list(members), []
    while len(left) > 1:
        among = members if len(left) == 2 else left
        scores = [-sign * sum(similarity[j][z] for z in among if z != j) for j in left]
        order.append(left.pop(scores.index(max(scores))))
    return order + left


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def order_of(states):
    """Which modality goes at each step of (B, T, M), and last the one that stays."""
    return torch.cat((states[:, :-1] & ~states[:, 1:], states[:, -1:]), 1).int().argmax(2).tolist()


def cosine_path(similarity, available, sign=1):
    return removal_path(lambda left: sign * cosine_criticality(similarity, left, available), available)


def build_composition(channels, dims=3):
    configuration = PlansManager(small_plans(4, dims)).get_configuration(CONFIGURATION)
    return ResidualComposition(Architecture.from_configuration(configuration), channels).double()


def as_input(array, dtype=torch.float64):
    return torch.from_numpy(array).to(dtype).requires_grad_()


def assert_close(actual, expected, dtype=torch.float64):
    """Compare to the precision's tolerance, relative to the largest value."""
    actual = actual.detach().numpy()
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOLERANCES[dtype] * np.abs(expected).max()


@on_outputs
@on_shape
def test_hmsd_loss_is_the_mean_of_divergences_by_share(spatial, tau, overlapping):
    """A student at no share has no gradient; a sample that has none but such counts zero in the mean."""
    students, teacher = (random_tensor(*r, 4, *spatial, seed=len(r)).requires_grad_() for r in ((3, 3), (3,)))
    divergences = [[plain_divergence(teacher[b], students[r, b], tau, overlapping) for b in range(3)] for r in range(3)]
    uneven = torch.tensor([[1.0, 0.1, 0.2], [0.0, 0.5, 0.8], [0.0, 0.4, 0.0]], dtype=torch.float64)
    for shares in (uneven, SHARES):
        expected = sum(shares[r, b].item() * divergences[r][b] for r, b in product(range(3), range(3))) / 3
        loss = hmsd_loss(teacher, students, shares, tau, overlapping)
        assert loss.item() == pytest.approx(expected, rel=1e-9)
        slopes, to_teacher = torch.autograd.grad(loss, (students, teacher), allow_unused=True)
        assert to_teacher is None
        assert torch.equal(slopes != 0, (shares > 0)[..., None].expand_as(slopes.flatten(2)).view_as(slopes))
    alone = hmsd_loss(teacher[[0, 2]], students[:, [0, 2]], SHARES[:, [0, 2]], tau, overlapping)
    assert loss.item() == pytest.approx(alone.item() * 2 / 3, rel=1e-12)


@on_outputs
def test_confident_logits_are_finite(overlapping):
    teacher = torch.tensor([1e4, -1e4, 0.0])[None, :, None]
    students = (-teacher[None]).requires_grad_()
    loss = hmsd_loss(teacher, students, torch.ones(1, 1), 1.0, overlapping)
    assert 1e3 < loss.item() < math.inf
    assert torch.autograd.grad(loss, students)[0].isfinite().all()


@on_precision
@on_files("ccsd_hmsd")
def test_hmsd_loss_matches_the_stored_values(file, dtype):
    values = reference(file)
    teacher, students = (as_input(values[f"{role}_logits"], dtype) for role in ("teacher", "student"))
    tau, (subsets, batch) = float(values["tau"]), students.shape[:2]
    shares = torch.full((subsets, batch), 1 / subsets, dtype=dtype)
    for divergence, expected, parts in (
        (categorical_kl, "kl_per_subset", 1),
        (bernoulli_kl, "kl_sigmoid_per_subset", students.shape[2]),
    ):
        per_voxel = divergence((teacher / tau).expand_as(students), students / tau, 2)
        assert_close(per_voxel.flatten(1).mean(1) / parts, values[expected], dtype)
    assert_close(hmsd_loss(teacher, students, shares, tau, overlapping=True), values["hmsd_sigmoid"], dtype)
    loss = hmsd_loss(teacher, students, shares, tau)
    assert_close(loss, values["hmsd"], dtype)
    loss.backward()
    assert_close(stored_entries(students.grad, values), values["grad_student"], dtype)
    assert teacher.grad is None


@on_shape
def test_dmcd_loss_is_the_sum_of_divergences_over_the_steps_that_count(spatial, tau):
    """And over the groups of channels that have a softmax of their own."""
    states = random_tensor(2, 4, 2, 3, *spatial).requires_grad_()
    steps = [(b, t, g) for b, t, g in product(range(2), range(3), range(2)) if COUNTED[b, t]]
    expected = sum(plain_divergence(states[b, t, g], states[b, t + 1, g], tau) for b, t, g in steps) / 2
    loss = dmcd_loss(states, COUNTED, tau)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    slopes = torch.autograd.grad(loss, states)[0]
    assert not slopes[:, 0].any()
    assert not slopes[:, 1:][~COUNTED].any()
    assert (slopes[:, 1:][COUNTED] != 0).all()


def stored_path(file, dtype=torch.float64):
    """The stored features, the states of their path, and Z of each of them (B, T, M * C, *spatial)."""
    values = reference(file)
    fused, substitute = as_input(values["fused"], dtype), as_input(values["substitute"], dtype)
    states = cosine_path(cosine_similarity(fused.detach()), torch.ones(fused.shape[:2], dtype=torch.bool))
    filled = fill_slots(fused[:, None], substitute[:, None], states).flatten(2, 3)[:, :, None]
    return values, fused, substitute, states, filled


@on_precision
@on_files("ccsd_dmcd")
def test_dmcd_loss_matches_the_stored_values(file, dtype):
    values, fused, substitute, states, filled = stored_path(file, dtype)
    tau = float(values["tau"])
    steps = torch.ones(states.shape[0], states.shape[1] - 1, dtype=torch.bool)
    one_each = torch.eye(steps.numel(), dtype=torch.bool).view(-1, *steps.shape)
    per_step = torch.stack([len(steps) * dmcd_loss(filled, one, tau) for one in one_each]).view_as(steps)
    assert_close(per_step, values["kl_steps_channel"], dtype)
    loss = dmcd_loss(filled, steps, tau)
    assert_close(loss, values["dmcd_channel"], dtype)
    grad_fused, grad_substitute = torch.autograd.grad(loss, (fused, substitute))
    assert_close(stored_entries(grad_fused, values), values["grad_fused_channel"], dtype)
    assert_close(stored_entries(grad_substitute, values), values["grad_substitute_channel"], dtype)


@on_files("ccsd_dmcd")
def test_a_softmax_over_space_would_leave_what_remains_without_gradient(file):
    """Why the softmax is over channels: the remaining modalities' own channels are equal in teacher and student."""
    values, fused, _, states, filled = stored_path(file)
    log = (filled / float(values["tau"]))[:, :, 0].flatten(3).log_softmax(3)
    per_step = F.kl_div(log[:, 1:], log[:, :-1].detach(), reduction="none", log_target=True).sum(3).mean(2)
    assert_close(per_step, values["kl_steps_spatial"])
    slopes = torch.autograd.grad(per_step.sum(1).mean(), fused, retain_graph=True)[0]
    assert slopes.abs().max().item() == pytest.approx(float(values["grad_fused_spatial_absmax"]), abs=1e-12)
    by_channel = dmcd_loss(filled, torch.ones(per_step.shape, dtype=torch.bool), float(values["tau"]))
    slopes = torch.autograd.grad(by_channel, fused)[0]
    assert (slopes[states[:, 1]] != 0).all()


@on_modalities
@pytest.mark.parametrize("garbage", [1e4, math.nan, math.inf, -math.inf])
def test_a_path_loses_one_available_modality_per_step_down_to_one(modalities, garbage):
    """Whatever the scores of the unavailable are; a sample of fewer modalities gets there earlier and stays."""
    available = every_availability(modalities)
    scores = random_tensor(*available.shape).masked_fill(~available, garbage)
    states = removal_path(lambda _: scores, available)
    assert torch.equal(states[:, 0], available)
    assert not (states[:, 1:] & ~states[:, :-1]).any()
    left = available.sum(1, keepdim=True) - torch.arange(modalities)
    assert torch.equal(states.sum(2), left.clamp(min=1))
    assert torch.equal(states[:, -1].int().argmax(1), scores.masked_fill(~available, math.inf).argmin(1))


@on_modalities
@on_order
def test_a_path_follows_the_scores_among_what_remains(modalities, order, sign):
    """Whatever the features of the unavailable are."""
    available = every_availability(modalities)
    fused = random_tensor(*available.shape, 2, 3).masked_fill(~available[..., None, None], math.nan)
    cosines = cosine_similarity(fused)
    for b, removed in enumerate(order_of(cosine_path(cosines, available, sign))):
        members = available[b].nonzero().flatten().tolist()
        assert removed[: len(members) - 1] + removed[-1:] == plain_order(cosines[b].tolist(), members, sign)


@on_order
def test_the_last_two_are_told_apart_by_all_that_is_available(order, sign):
    """Neither by the lowest index, which would remove 0 before 1, nor by the unavailable modality 3."""
    cosines = sign * torch.tensor([[[1, 0.9, 0.3, -5], [0.9, 1, 0.1, 5], [0.3, 0.1, 1, 0], [-5, 5, 0, 1]]])
    available = torch.tensor([[True, True, True, False]])
    removed = order_of(cosine_path(cosines, available, sign))[0]
    assert removed[:2] + removed[-1:] == [2, 1, 0]


@on_files("ccsd_dmcd")
@on_order
def test_cosine_path_matches_the_stored_order(file, order, sign):
    values = reference(file)
    cosines = cosine_similarity(as_input(values["fused"]))
    everything = torch.ones(cosines.shape[:2], dtype=torch.bool)
    assert_close(cosines, values["cos_per_sample"])
    assert_close(cosine_criticality(cosines, everything, everything), values["score_full_per_sample"])
    expected = values[f"removal_{order}_recompute_static_tiebreak"]
    assert order_of(cosine_path(cosines, everything, sign)) == expected.tolist()


@on_files("ccsd_gradcrit")
def test_gradient_criticality_matches_the_stored_values(file):
    values = reference(file)
    fused, weight, bias = (as_input(values[key]) for key in ("fused", "W", "bias"))
    logits = torch.einsum("kc,bc...->bk...", weight, fused.flatten(1, 2)) + bias.view(-1, *[1] * (fused.ndim - 3))
    loss = F.cross_entropy(logits, torch.from_numpy(values["labels"]))
    assert_close(loss, values["loss"])
    slopes = torch.autograd.grad(loss, fused)[0]
    assert_close(stored_entries(slopes, values), values["grad_fused"])
    scores = gradient_criticality(slopes)
    assert_close(scores, values["s_grad_per_sample"])
    states = removal_path(lambda _: scores, torch.ones(scores.shape, dtype=torch.bool))
    assert order_of(states) == values["removal_per_sample"].tolist()


@pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
def test_mean_and_scale_of_a_filter_do_not_matter(dims):
    composition, features = build_composition(4, dims), random_tensor(2, 8, *[3] * dims)
    expected = composition(features)
    assert (expected - features[:, :4]).abs().mean() > 1e-2
    composition.weight.data.mul_(3).add_(torch.arange(4.0).view(-1, 1, *[1] * dims))
    assert torch.allclose(composition(features), expected, rtol=1e-6)


@on_files("shaspec_fuse")
def test_residual_composition_matches_the_released_code(file):
    values = reference(file)
    shared, specific = as_input(values["shared"]), as_input(values["specific"])
    composition = build_composition(shared.shape[2])
    composition.load_state_dict({"weight": torch.from_numpy(values["conv_weight"])})
    fused = composition(torch.cat((shared, specific), 2).flatten(0, 1)).unflatten(0, shared.shape[:2])
    order = torch.from_numpy(values["available_in_order"])
    present = torch.isin(torch.arange(4), order).expand(len(shared), -1)
    assert_close(fill_slots(fused, mean_of_present(shared, present), present), values["fused_mean_available"])
    assert_close(fill_slots(fused, shared[:, order[:1]], present), values["fused_first_available"])


def test_the_stored_compositions_can_tell_the_mean_from_the_first_of_the_present():
    """A case of one present modality, whose features are both, cannot."""
    differences = [
        np.abs(values["fused_mean_available"] - values["fused_first_available"]).max()
        for values in map(reference, names_of("shaspec_fuse"))
        if len(values["available_in_order"]) > 1
    ]
    assert differences
    assert min(differences) > 0.1


def test_absent_slots_hold_the_mean_of_the_present_and_nothing_of_their_own():
    """Of one state at a time and of an axis of states alike."""
    present = torch.tensor([[[True, False, True], [True, False, False]], [[False, True, False], [False, True, True]]])
    shared, fused = random_tensor(2, 3, 4, 2, 2), random_tensor(2, 3, 4, 2, 2, seed=1)
    shared[~present.any(1)], fused[~present.any(1)] = math.nan, math.nan
    means = mean_of_present(shared[:, None], present)
    filled = fill_slots(fused[:, None], means, present)
    for t in range(2):
        assert torch.equal(mean_of_present(shared, present[:, t]), means[:, t])
        assert torch.equal(fill_slots(fused, means[:, t], present[:, t]), filled[:, t])
    for b, t, m in product(range(2), range(2), range(3)):
        members = present[b, t].nonzero().flatten().tolist()
        assert torch.allclose(means[b, t, 0], sum(shared[b, j] for j in members) / len(members), rtol=1e-12)
        assert torch.equal(filled[b, t, m], fused[b, m] if present[b, t, m] else means[b, t, 0])
