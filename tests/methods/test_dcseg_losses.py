"""The loss terms of DC-Seg: plain loops over the printed formulas, stored reference values, degenerate inputs."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_values import as_input, assert_close, reference, stored_entries
from scipy.ndimage import correlate1d
from small_plans import small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.disentangling import adain, adain_kl_loss
from nnunetv2_missmod.building_blocks.reconstruction import l1_reconstruction_loss
from nnunetv2_missmod.methods.dcseg.losses import (
    GAUSSIAN_SIGMA,
    anatomy_contrastive_loss,
    global_ssim,
    modality_contrastive_loss,
    pairwise_contrastive_loss,
    windowed_ssim,
)
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer

T = 1 / 0.07
C1, C2 = 1e-4, 9e-4

N, M = 3, 2
AVAILABLE = {
    "full": [[True, True], [True, True], [True, True]],
    "incomplete": [[True, False], [True, True], [False, True]],
    "one modality each": [[True, False], [False, True], [True, False]],
}
CASES = {"three patients": [2, 0, 1], "two crops of one patient": [4, 7, 4]}

on_availability = pytest.mark.parametrize("available", AVAILABLE.values(), ids=AVAILABLE.keys())
on_cases = pytest.mark.parametrize("cases", CASES.values(), ids=CASES.keys())
on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
on_window = pytest.mark.parametrize("window", [0, 11], ids=["global", "windowed"])


# --- the formulas, voxel by voxel -------------------------------------------------------------------------------------


def plain_softplus(v):
    return math.log1p(math.exp(-abs(v))) + max(v, 0)


def plain_ssim(a, b):
    """Equation 3 for two maps (C, *spatial): one mean, variance and covariance per channel, then their mean."""
    total = 0.0
    for x, y in zip(a.flatten(1).tolist(), b.flatten(1).tolist(), strict=True):
        voxels = len(x)
        mean_x, mean_y = sum(x) / voxels, sum(y) / voxels
        var_x = sum((v - mean_x) ** 2 for v in x) / voxels
        var_y = sum((v - mean_y) ** 2 for v in y) / voxels
        covariance = sum((v - mean_x) * (w - mean_y) for v, w in zip(x, y, strict=True)) / voxels
        numerator = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
        total += numerator / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))
    return total / len(a)


def plain_cosine(a, b):
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist()))


def plain_anatomy_loss(anatomy, available, cases):
    """Equation 1: all pairs of available maps, but for those of two samples of one patient."""
    total, pairs = 0.0, 0
    slots = [(n, m) for n, m in product(range(len(anatomy)), range(anatomy.shape[1])) if available[n][m]]
    for (n, m), (k, j) in product(slots, slots):
        if n != k and cases[n] == cases[k]:
            continue
        f = 1 if n == k else -1
        total += plain_softplus(-f * T * plain_ssim(anatomy[n, m], anatomy[k, j]))
        pairs += 1
    return total / pairs


def plain_modality_loss(codes, available):
    """Equation 4: all pairs of available codes, whichever patients they are of."""
    total, pairs = 0.0, 0
    slots = [(n, m) for n, m in product(range(len(codes)), range(codes.shape[1])) if available[n][m]]
    for (n, m), (k, j) in product(slots, slots):
        f = 1 if m == j else -1
        total += plain_softplus(-f * T * plain_cosine(codes[n, m], codes[k, j]))
        pairs += 1
    return total / pairs


def mirrored_ssim(maps, window):
    """The released code's SSIM (formula A of the parity folder), its smoothing by scipy."""
    offsets = np.arange(window) - window // 2
    weights = np.exp(-0.5 * (offsets / GAUSSIAN_SIGMA) ** 2)
    weights /= weights.sum()

    def smooth(channel):
        for axis in range(channel.ndim):
            channel = correlate1d(channel, weights, axis, mode="mirror")
        return channel

    first, last = maps[:-1], maps[1:]
    value_range = max(first.max() - first.min(), last.max() - last.min())
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    similarity = np.eye(len(maps))
    for p, q in product(range(len(maps)), repeat=2):
        if p == q:
            continue
        channels = []
        for x, y in zip(maps[p], maps[q], strict=True):
            mean_x, mean_y = smooth(x), smooth(y)
            var_x = np.maximum(smooth(x * x) - mean_x**2, 0)
            var_y = np.maximum(smooth(y * y) - mean_y**2, 0)
            covariance = smooth(x * y) - mean_x * mean_y
            numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
            channels.append((numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())
        similarity[p, q] = np.mean(channels)
    return similarity


# --- inputs -----------------------------------------------------------------------------------------------------------


def random_anatomy(samples=N, modalities=M, channels=2, spatial=(2, 3, 2), seed=0, dtype=torch.float64):
    """Maps that share something within a sample and something over all, so that similarities are spread widely."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, 1), (samples, 1), (samples, modalities)]
    parts = [torch.randn(*shape, channels, *spatial, generator=generator, dtype=torch.float64) for shape in shapes]
    return (0.3 * parts[0] + parts[1] + 0.7 * parts[2] + 0.2).to(dtype)


def random_codes(samples=N, modalities=M, length=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    per_modality = torch.randn(1, modalities, length, generator=generator, dtype=torch.float64)
    return per_modality + torch.randn(samples, modalities, length, generator=generator, dtype=torch.float64)


def full(samples=N, modalities=M):
    return torch.ones(samples, modalities, dtype=torch.bool)


# --- against the formulas ---------------------------------------------------------------------------------------------


def test_global_ssim_is_equation_3():
    maps = random_anatomy().flatten(0, 1)
    expected = [[plain_ssim(a, b) for b in maps] for a in maps]
    assert global_ssim(maps).numpy() == pytest.approx(np.array(expected), rel=1e-6)


@on_availability
@on_cases
def test_anatomy_loss_is_equation_1(available, cases):
    anatomy = random_anatomy()
    loss = anatomy_contrastive_loss(anatomy, torch.tensor(available), torch.tensor(cases), T)
    assert loss.item() == pytest.approx(plain_anatomy_loss(anatomy, available, cases), rel=1e-6)


@pytest.mark.parametrize("spatial", [(5, 4), (2, 3, 2)], ids=["2D", "3D"])
@pytest.mark.parametrize("modalities", [1, 4])
def test_anatomy_loss_takes_any_shape(spatial, modalities):
    anatomy = random_anatomy(2, modalities, 3, spatial)
    loss = anatomy_contrastive_loss(anatomy, full(2, modalities), torch.tensor([0, 1]), T)
    assert loss.item() == pytest.approx(plain_anatomy_loss(anatomy, full(2, modalities), [0, 1]), rel=1e-6)


@on_window
def test_two_crops_of_one_patient_are_compared_within_themselves_alone(window):
    """Left over are the pairs within each sample, as if each were a batch of its own."""
    anatomy = random_anatomy(2)
    if window:  # C1 and C2 follow the range over the batch, which all maps must share for this to hold
        anatomy[..., 0, 0, 0], anatomy[..., 1, 1, 1] = -5, 5
    alone = [anatomy_contrastive_loss(s[None], full(1), torch.tensor([3]), T, window).item() for s in anatomy]
    together = anatomy_contrastive_loss(anatomy, full(2), torch.tensor([3, 3]), T, window)
    two_patients = anatomy_contrastive_loss(anatomy, full(2), torch.tensor([3, 4]), T, window)
    assert together.item() == pytest.approx(np.mean(alone), rel=1e-6)
    assert two_patients.item() != pytest.approx(np.mean(alone), rel=1e-2)


@on_availability
def test_modality_loss_is_equation_4(available):
    codes = random_codes()
    loss = modality_contrastive_loss(codes, torch.tensor(available), T)
    assert loss.item() == pytest.approx(plain_modality_loss(codes, available), rel=1e-6)


@on_availability
def test_pairwise_loss_is_softplus_of_the_signed_similarity(available):
    generator = torch.Generator().manual_seed(2)
    similarity = 2 * torch.rand(4, 4, generator=generator, dtype=torch.float64) - 1
    positive = torch.rand(4, 4, generator=generator) > 0.5
    counted = torch.rand(4, 4, generator=generator) > 0.3
    total, pairs = 0.0, 0
    for p, q in product(range(4), repeat=2):
        if counted[p, q]:
            total += plain_softplus((-1 if positive[p, q] else 1) * T * similarity[p, q].item())
            pairs += 1
    assert 0 < pairs < 16
    loss = pairwise_contrastive_loss(similarity, positive, counted, T)
    assert loss.item() == pytest.approx(total / pairs, rel=1e-6)


@on_availability
def test_reconstruction_loss_is_the_mean_over_available_voxels(available):
    generator = torch.Generator().manual_seed(3)
    reconstruction, images = torch.randn(2, N, M, 2, 3, 2, generator=generator, dtype=torch.float64)
    total, voxels = 0.0, 0
    for n, m in product(range(N), range(M)):
        if available[n][m]:
            pairs = zip(reconstruction[n, m].flatten().tolist(), images[n, m].flatten().tolist(), strict=True)
            errors = [abs(r - x) for r, x in pairs]
            total += sum(errors)
            voxels += len(errors)
    loss = l1_reconstruction_loss(reconstruction, images, torch.tensor(available))
    assert loss.item() == pytest.approx(total / voxels, rel=1e-6)


@on_availability
def test_kl_loss_is_the_divergence_from_a_standard_normal(available):
    generator = torch.Generator().manual_seed(4)
    mu = torch.randn(N, M, 4, generator=generator, dtype=torch.float64)
    sigma = torch.rand(N, M, 4, generator=generator, dtype=torch.float64) + 0.1
    expected = 0.0
    for m in range(M):
        values = []
        for n, c in product(range(N), range(4)):
            if available[n][m]:
                u, s = mu[n, m, c].item(), sigma[n, m, c].item()
                values.append(0.5 * (u**2 + s**2 - math.log(s**2) - 1))
        expected += sum(values) / max(len(values), 1)
    assert adain_kl_loss(mu, sigma, torch.tensor(available)).item() == pytest.approx(expected, rel=1e-6)


def test_kl_loss_leaves_out_a_modality_that_no_sample_has():
    mu, sigma = torch.full((2, 2, 3), 2.0), torch.ones(2, 2, 3)
    available = torch.tensor([[True, False], [True, False]])
    assert adain_kl_loss(mu, sigma, available).item() == pytest.approx(2.0)


@pytest.mark.parametrize("spatial", [(12, 7, 5), (4, 4, 4), (1, 5, 6), (2, 3, 1), (13, 8), (3, 1)], ids=str)
def test_windowed_ssim_mirrors_at_the_borders(spatial):
    maps = random_anatomy(2, 2, 2, spatial).flatten(0, 1)
    assert windowed_ssim(maps, 11).numpy() == pytest.approx(mirrored_ssim(maps.numpy(), 11), rel=1e-6, abs=1e-9)


def test_windowed_ssim_takes_any_odd_window():
    maps = random_anatomy(2, 2, 2, (6, 5, 4)).flatten(0, 1)
    assert windowed_ssim(maps, 5).numpy() == pytest.approx(mirrored_ssim(maps.numpy(), 5), rel=1e-6, abs=1e-9)
    assert not torch.allclose(windowed_ssim(maps, 5), windowed_ssim(maps, 11), rtol=1e-2)


# --- against the stored values ----------------------------------------------------------------------------------------


@on_precision
def test_windowed_anatomy_loss_matches_the_released_code(dtype):
    values = reference("dcseg_ana_ssim_a")
    features = as_input(values["features"], dtype)
    samples, modalities = features.shape[:2]
    assert_close(windowed_ssim(features.flatten(0, 1), 11), values["similarity"], dtype)
    t = float(values["temperature"])
    loss = anatomy_contrastive_loss(features, full(samples, modalities), torch.arange(samples), t, 11)
    loss.backward()
    assert_close(loss, values["loss"], dtype)
    assert_close(
        stored_entries(features.grad, values), values["grad_features"], torch.float32
    )  # stored from a float32 computation


@on_precision
def test_anatomy_loss_matches_the_printed_equations(dtype):
    values = reference("paper_dcseg_eq1_3_a") | {"features": reference("dcseg_ana_ssim_a")["features"]}
    assert (float(values["C1"]), float(values["C2"])) == (C1, C2)
    features = as_input(values["features"], dtype)
    samples, modalities = features.shape[:2]
    assert_close(global_ssim(features.flatten(0, 1)), values["similarity"], dtype)
    t = float(values["temperature"])
    loss = anatomy_contrastive_loss(features, full(samples, modalities), torch.arange(samples), t)
    assert_close(loss, values["loss"], dtype)


@on_precision
def test_modality_loss_matches_the_released_code(dtype):
    values = reference("dcseg_mod_a")
    codes = as_input(values["codes"], dtype)
    loss = modality_contrastive_loss(codes, full(*codes.shape[:2]), float(values["temperature"]))
    loss.backward()
    assert_close(loss, values["loss"], dtype)
    assert_close(stored_entries(codes.grad, values), values["grad_codes"], torch.float32)


@on_precision
def test_kl_loss_matches_the_released_code(dtype):
    """Stored modality-major, (M, N, C)."""
    values = reference("dcseg_kl_a")
    mu, sigma = (as_input(values[name], dtype).transpose(0, 1) for name in ("mu", "sigma"))
    assert_close(adain_kl_loss(mu, sigma, full(*mu.shape[:2])), values["loss"], dtype)


@on_precision
def test_reconstruction_loss_averages_as_the_released_code_does(dtype):
    """The released error is a square, the package's an absolute value (paper): given squares, the means agree."""
    values = reference("dcseg_recon_a")
    recon, image = as_input(values["recon"], dtype), as_input(values["image"], dtype)
    squares = (recon - image).square()
    loss = l1_reconstruction_loss(squares, torch.zeros_like(squares), full(*squares.shape[:2]))
    assert_close(loss, values["loss"], dtype)


@on_precision
def test_adain_matches_the_released_code(dtype):
    """The released standard deviation is torch's default (ddof = 1), as in ``adain``, but without an eps."""
    values = reference("dcseg_adain_a")
    content = as_input(values["content"], dtype)
    mu, sigma = (as_input(values[name], dtype).flatten(1) for name in ("mu", "sigma"))
    # The stored output is a float32 one.
    assert_close(adain(content, mu, sigma, eps=0), values["out"], torch.float32)
    biased = sigma[..., None, None, None] * F.instance_norm(content, eps=0) + mu[..., None, None, None]
    assert not np.allclose(biased.detach().numpy(), values["out"], rtol=1e-3)  # ddof = 0 would not match


def test_learning_rates_match_the_released_code(tmp_path, monkeypatch):
    """The stored rates are rounded to 8 digits after the point."""
    values = reference("dcseg_lr_poly")
    plans = small_plans(2, num_epochs=500)
    trainer = small_trainer(DCSegTrainer, plans, small_dataset_json(2), tmp_path, monkeypatch)
    rates = []
    for epoch in values["epoch"]:
        trainer.lr_scheduler.step(int(epoch))
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(values["lr"], rel=0, abs=6e-9)
    assert rates[0] == 2e-4


# --- invariances ------------------------------------------------------------------------------------------------------


@on_availability
@on_cases
def test_order_of_samples_does_not_matter(available, cases):
    anatomy, codes = random_anatomy(), random_codes()
    available, cases, order = torch.tensor(available), torch.tensor(cases), torch.tensor([2, 0, 1])

    def losses(rows):
        l_ana = anatomy_contrastive_loss(anatomy[rows], available[rows], cases[rows], T)
        return l_ana.item(), modality_contrastive_loss(codes[rows], available[rows], T).item()

    assert losses(order) == pytest.approx(losses(torch.arange(N)), rel=1e-9)


def test_length_of_a_code_does_not_matter():
    codes, lengths = random_codes(), torch.tensor([[0.1, 3.0], [20.0, 1.0], [0.5, 7.0]], dtype=torch.float64)
    scaled = modality_contrastive_loss(codes * lengths[..., None], full(), T)
    assert scaled.item() == pytest.approx(modality_contrastive_loss(codes, full(), T).item(), rel=1e-9)
    assert modality_contrastive_loss(-codes[:, [1, 0]], full(), T).item() == pytest.approx(
        modality_contrastive_loss(codes, full(), T).item(), rel=1e-9
    )


@on_window
def test_the_loss_is_lower_where_a_patient_shares_its_anatomy(window):
    anatomy = random_anatomy(2, spatial=(4, 4, 4))
    mixed = torch.stack((anatomy[:, 0], anatomy[[1, 0], 1]), 1)  # each sample holds a map of either patient
    shared, torn = (
        anatomy_contrastive_loss(maps, full(2), torch.tensor([0, 1]), T, window) for maps in (anatomy, mixed)
    )
    assert shared < 0.8 * torn


@on_window
def test_unavailable_maps_change_nothing(window):
    """Neither the loss nor a gradient knows what stands in the slot of an unavailable modality."""
    available = torch.tensor(AVAILABLE["incomplete"])
    results = []
    for garbage in (0.0, -3.0, 1e4):
        anatomy = random_anatomy(spatial=(3, 4, 2))
        anatomy[~available] = garbage * torch.arange(24.0, dtype=torch.float64).view(3, 4, 2)
        anatomy.requires_grad_()
        loss = anatomy_contrastive_loss(anatomy, available, torch.arange(N), T, window)
        loss.backward()
        assert (anatomy.grad[~available] == 0).all()
        assert (anatomy.grad[available] != 0).any()
        results.append(loss.item())
    assert results == pytest.approx([results[0]] * 3, rel=1e-9)


def test_unavailable_codes_and_reconstructions_change_nothing():
    available = torch.tensor(AVAILABLE["incomplete"])
    results = []
    for garbage in (0.5, 1e4):
        generator = torch.Generator().manual_seed(5)
        codes, images = random_codes(), torch.randn(N, M, 4, 4, generator=generator, dtype=torch.float64)
        mu, sigma = random_codes(seed=6), random_codes(seed=7).exp()
        for values in (codes, images, mu, sigma):
            values[~available] = garbage
        leaves = [values.requires_grad_() for values in (codes, images, mu, sigma)]
        losses = [
            modality_contrastive_loss(codes, available, T),
            l1_reconstruction_loss(images, torch.zeros_like(images), available),
            adain_kl_loss(mu, sigma, available),
        ]
        torch.stack(losses).sum().backward()
        for leaf in leaves:
            assert (leaf.grad[~available] == 0).all()
            assert (leaf.grad[available] != 0).all()
        results.append(torch.stack(losses))
    assert torch.equal(*results)


# --- degenerate inputs ------------------------------------------------------------------------------------------------


def assert_finite(loss, *leaves):
    loss.backward()
    assert loss.isfinite()
    for leaf in leaves:
        assert leaf.grad.isfinite().all()


@on_window
@pytest.mark.parametrize("modalities", [1, 3])
def test_a_batch_of_one_has_positives_alone(modalities, window):
    anatomy = random_anatomy(1, modalities, dtype=torch.float32).requires_grad_()
    loss = anatomy_contrastive_loss(anatomy, full(1, modalities), torch.tensor([0]), T, window)
    assert_finite(loss, anatomy)
    similarity = windowed_ssim(anatomy.detach()[0], window) if window else global_ssim(anatomy.detach()[0])
    expected = np.mean([plain_softplus(-T * s) for s in similarity.flatten().tolist()])
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


@on_window
def test_one_available_modality_is_like_itself(window):
    """A single map: its one pair is with itself, S = 1."""
    anatomy = random_anatomy(1, 3, dtype=torch.float32).requires_grad_()
    loss = anatomy_contrastive_loss(anatomy, torch.tensor([[False, True, False]]), torch.tensor([0]), T, window)
    assert_finite(loss, anatomy)
    assert loss.item() == pytest.approx(plain_softplus(-T), rel=1e-4)


@on_window
@pytest.mark.parametrize("constants", [[0.0, 0.0, 0.0], [0.0, 1.0, -2.0]], ids=["zeros", "different constants"])
def test_constant_maps_are_finite(constants, window):
    anatomy = torch.tensor(constants)[:, None, None, None, None, None].repeat(1, M, 2, 4, 4, 4).requires_grad_()
    loss = anatomy_contrastive_loss(anatomy, full(), torch.arange(N), T, window)
    assert_finite(loss, anatomy)


@on_window
def test_one_blank_map_is_finite(window):
    anatomy = random_anatomy(2, spatial=(4, 4, 4), dtype=torch.float32)
    anatomy[0, 1] = 0
    anatomy.requires_grad_()
    assert_finite(anatomy_contrastive_loss(anatomy, full(2), torch.tensor([0, 1]), T, window), anatomy)


def test_equal_constant_maps_are_alike():
    """Equation 3 of two equal maps is 1, blank or not."""
    similarity = global_ssim(torch.full((2, 3, 4, 4, 4), 0.7))
    assert similarity.numpy() == pytest.approx(np.ones((2, 2)), rel=1e-5)


def test_equal_and_zero_codes_are_finite():
    codes = torch.ones(2, 3, 4)
    codes[1, 2] = 0
    codes.requires_grad_()
    assert_finite(modality_contrastive_loss(codes, full(2, 3), T), codes)


@pytest.mark.parametrize("tiny", [1e-30, 0.0])
def test_tiny_sigma_has_a_finite_divergence(tiny):
    """The network's sigma is a softplus, which underflows; the term is computed even where its weight is zero."""
    mu, sigma = torch.zeros(1, 1, 2, requires_grad=True), torch.full((1, 1, 2), tiny, requires_grad=True)
    loss = adain_kl_loss(mu, sigma, full(1, 1))
    assert_finite(loss, mu, sigma)
    assert loss > 1
