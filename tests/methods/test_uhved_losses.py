"""U-HVED's product and divergences: plain loops over the formulas, stored values, degenerate inputs."""

import math
from itertools import product as pairs_of
from statistics import fmean

import numpy as np
import pytest
import torch
from reference_values import as_input, assert_close, reference, stored_entries

from nnunetv2_missmod.methods.uhved import losses
from nnunetv2_missmod.methods.uhved.discriminator import region_of_interest, seen_by_discriminator
from nnunetv2_missmod.methods.uhved.product import Experts, experts_of, product, sample, steady_noise
from nnunetv2_missmod.modalities import all_subsets

EPS = 1e-7
M, L = 3, 2
on_spatial = pytest.mark.parametrize("spatial", [(3, 4), (2, 2, 3)], ids=["2D", "3D"])
on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def experts_from(mean, log_variance):
    """In the precision that is given; ``experts_of`` computes in float32."""
    precision = 1 / (log_variance.exp() + EPS)
    return Experts(precision, precision * mean)


def plain_product(means, log_variances, subset):
    """Mean and log variance of one voxel's product, Eq. 4, of numbers (M,)."""
    chosen = [m for m in range(len(means)) if subset[m]]
    precisions = {m: 1 / (math.exp(log_variances[m]) + EPS) for m in chosen}
    total = 1 + sum(precisions.values())
    return sum(t * means[m] for m, t in precisions.items()) / total, math.log(1 / total + EPS)


def plain_kl(first, second):
    (mean_1, log_1), (mean_2, log_2) = first, second
    distance = (math.exp(log_1) + (mean_1 - mean_2) ** 2) / (math.exp(log_2) + EPS)
    return 0.5 * (-1 + log_2 - log_1 + distance)


def voxels_of(tensor, sample):
    """Numbers (latents, M) of a sample of (B, M, L, *spatial)."""
    return tensor[sample].flatten(1).T.tolist()


# --- the product ------------------------------------------------------------------------------------------------------


@on_spatial
def test_the_product_is_that_of_the_present_gaussians_and_the_prior(spatial):
    parameters = random_tensor(2, M, 2 * L, *spatial).float()
    mean, log_variance = parameters.double().chunk(2, 2)
    for subset in all_subsets(M).tolist():
        got = product(experts_of(parameters), torch.tensor([subset] * 2))
        for b in range(2):
            voxels = zip(voxels_of(mean, b), voxels_of(log_variance, b), strict=True)
            expected = [plain_product(*voxel, subset) for voxel in voxels]
            for part, values in zip(got, zip(*expected, strict=True), strict=True):
                assert part[b].flatten().tolist() == pytest.approx(values, rel=1e-5, abs=1e-6)


def test_an_absent_modality_changes_nothing_and_a_precise_one_decides():
    parameters = random_tensor(1, 2, 2, 3).float()
    present = torch.tensor([[True, False]])
    alone = product(experts_of(parameters), present)
    parameters[:, 1] = math.nan
    assert all(map(torch.equal, product(experts_of(parameters), present), alone))
    parameters[:, 1, 0], parameters[:, 1, 1] = 5, -40
    both = product(experts_of(parameters), torch.tensor([[True, True]]))
    assert torch.allclose(both.mean, torch.tensor(5.0), rtol=1e-5)


@pytest.mark.parametrize("log_variance", [-1e4, 1e4])
def test_extreme_log_variances_are_finite(log_variance):
    parameters = random_tensor(1, 2, 4, 3).float()
    parameters[:, :, 2:] = log_variance
    parameters.requires_grad_()
    experts = experts_of(parameters)
    drawn, subsets = torch.tensor([[True, False]]), all_subsets(2)[None]
    total = sum(part.sum() for part in losses.subset_divergences([experts], drawn, subsets))
    total = total + sample(product(experts, drawn), torch.ones(1, 2, 3)).sum()
    assert total.isfinite()
    assert torch.autograd.grad(total, parameters)[0].isfinite().all()


def test_a_draw_has_the_gaussian_s_mean_and_spread():
    gaussian = product(experts_of(random_tensor(1, M, 2, 1).float()), torch.ones(1, M, dtype=torch.bool))
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    draws = sample(gaussian, noise)
    assert draws.mean().item() == pytest.approx(gaussian.mean.item(), abs=0.02)
    assert draws.std().item() == pytest.approx(math.exp(gaussian.log_variance.item() / 2), rel=0.02)
    assert sample(gaussian, None) is gaussian.mean


def plain_hash(number):
    for _ in range(2):
        number = (number ^ number >> 16) * 0x45D9F3B % 2**32
    return number ^ number >> 16


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 4, 3, 6), (1, 33, 40)])
def test_the_noise_of_a_prediction_is_that_of_plain_loops_over_a_tile(shape):
    tile = [shape[0], *(min(size, 32) for size in shape[1:])]
    noise = steady_noise(shape, torch.device("cpu"))
    assert noise.shape == shape
    for place in np.ndindex(*shape):
        number = int(np.ravel_multi_index([n % size for n, size in zip(place, tile, strict=True)], tile))
        first, second = ((plain_hash(2 * number + i) // 256 + 0.5) / 2**24 for i in (1, 2))
        expected = math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
        assert noise[place].item() == pytest.approx(expected, abs=1e-4)


def test_the_noise_of_a_prediction_is_standard_normal_and_has_no_pattern():
    noise = steady_noise((8, 32, 32, 32), torch.device("cpu"))
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=0.1)
    for axis in range(4):
        for shift in range(1, noise.shape[axis]):
            assert abs((noise * noise.roll(shift, axis)).mean().item()) < 0.02


# --- the divergences --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [5, 2**16])
@on_spatial
def test_divergences_are_their_formula_mean_over_levels(spatial, piece, monkeypatch):
    monkeypatch.setattr(losses, "PIECE", piece)
    shapes = [(2, M, L, *spatial), (2, M, 2 * L, *[1] * len(spatial))]
    parameters = [(random_tensor(*shape), random_tensor(*shape, seed=1)) for shape in shapes]
    drawn = torch.tensor([[True, False, False], [True, True, False]])
    subsets = torch.stack((all_subsets(M)[[0, 4, 6]], all_subsets(M)[[1, 3, 5]]))
    got = losses.subset_divergences([experts_from(*level) for level in parameters], drawn, subsets)
    for b, s in pairs_of(range(2), range(3)):
        levels = []
        for mean, log_variance in parameters:
            voxels = list(zip(voxels_of(mean, b), voxels_of(log_variance, b), strict=True))
            of_drawn = [plain_product(*voxel, drawn[b].tolist()) for voxel in voxels]
            of_subset = [plain_product(*voxel, subsets[b, s].tolist()) for voxel in voxels]
            to_subset = fmean(plain_kl(*pair) for pair in zip(of_drawn, of_subset, strict=True))
            levels.append((to_subset, fmean(plain_kl(gaussian, (0, 0)) for gaussian in of_subset)))
        for part, expected in zip(got, zip(*levels, strict=True), strict=True):
            assert part[b, s].item() == pytest.approx(fmean(expected), rel=1e-9)


def test_a_subset_diverges_from_itself_by_nothing():
    experts = experts_from(random_tensor(1, M, L, 4), random_tensor(1, M, L, 4, seed=1))
    to_subset, _ = losses.subset_divergences([experts], torch.ones(1, M, dtype=torch.bool), all_subsets(M)[None])
    assert to_subset[0, -1].item() == pytest.approx(0, abs=1e-6)  # eps is added twice to one of the variances
    assert (to_subset[0, :-1] > 1e-3).all()


def test_shares_are_those_of_the_subsets_that_a_case_has():
    available = torch.tensor([[True] * 3, [True, False, True], [False, True, False]])
    shares = losses.shares_of(all_subsets(3).expand(3, -1, -1), available)
    assert shares[0].tolist() == pytest.approx([1 / 7] * 7)
    assert shares[1].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3, 0, 0])
    assert shares[2].tolist() == [0, 1, 0, 0, 0, 0, 0]


@on_precision
def test_product_and_divergences_match_the_stored_values(dtype):
    values = reference("uhved_0")
    mu, logvar = (as_input(values[name], dtype) for name in ("mu", "logvar"))
    experts = experts_from(mu.transpose(0, 1), logvar.transpose(0, 1))
    drawn = torch.from_numpy(values["present"]).expand(len(mu[0]), -1)
    gaussian = product(experts, drawn)
    drawn_latents = sample(gaussian, torch.from_numpy(values["noise"]).to(dtype))
    for name, part in (("posterior_mean", gaussian.mean), ("posterior_logvar", gaussian.log_variance)):
        assert_close(part, values[name], dtype)
    assert_close(drawn_latents, values["sample"], dtype)
    subsets = torch.from_numpy(values["subset_masks"]).expand(len(drawn), -1, -1)
    to_subset, to_prior = (part.mean(0) for part in losses.subset_divergences([experts], drawn, subsets))
    assert_close(to_subset, values["kl_present_to_subset"], dtype)
    assert_close(to_prior, values["kl_subset_to_prior"], dtype)
    inter, prior = to_subset.sum() / 14, to_prior.mean()  # the released code's 14
    assert_close(inter, values["inter_kld"], dtype)
    assert_close(prior, values["prior_kld"], dtype)
    scalars = {"sample": (drawn_latents * torch.from_numpy(values["probe"]).to(dtype)).sum(), "kld": inter + prior}
    for kind, scalar in scalars.items():
        slopes = torch.autograd.grad(scalar, (mu, logvar), retain_graph=True)
        for name, slope in zip(("mu", "logvar"), slopes, strict=True):
            assert_close(stored_entries(slope, values), values[f"grad_{name}_{kind}"], dtype)


# --- RA-HVED ----------------------------------------------------------------------------------------------------------


@on_precision
def test_what_the_discriminator_sees_and_its_losses_match_the_stored_values(dtype):
    values = reference("rahved_0")
    names = ("logits_missing", "reconstruction_missing", "d_out_missing", "d_out_full")
    logits, reconstruction, missing, full = (torch.from_numpy(values[name]).to(dtype) for name in names)
    regions = logits.sigmoid()
    assert_close(region_of_interest(regions)[:, 0], values["roi_missing"], dtype)
    seen = seen_by_discriminator(regions, regions, reconstruction, torch.ones(reconstruction.shape[:2]).bool())
    assert_close(stored_entries(seen, values), values["d_input_missing"], dtype)
    assert_close(losses.fooling_loss(missing), values["generator_lsgan"], dtype)
    assert_close(0.1 * losses.telling_loss(full, missing), values["discriminator_loss"], dtype)


def test_the_region_of_interest_is_the_innermost():
    probabilities = torch.tensor([[0.9, 0.8, 0.6], [0.9, 0.8, 0.2], [0.9, 0.1, 0.1], [0.4, 0.4, 0.4]])
    assert region_of_interest(probabilities.T[None])[0, 0].tolist() == pytest.approx([0.6, 0.8, 0.9, 0])
