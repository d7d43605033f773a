"""The loss terms of M3AE: plain loops over the formulas, the released code's values, degenerate inputs."""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference_values import as_input, assert_close, drawn_anew, reference, stored_entries

from nnunetv2_missmod.building_blocks.reconstruction import mse_reconstruction_loss
from nnunetv2_missmod.methods.m3ae.losses import (
    PAPER_SIZE,
    consistency_loss,
    mean_square_penalty,
    norm_penalty,
)
from nnunetv2_missmod.methods.m3ae.network import M3AENet, to_voxels

GAMMA = 0.005

B, M = 3, 2
AVAILABLE = {
    "full": [[True, True], [True, True], [True, True]],
    "incomplete": [[True, False], [True, True], [False, True]],
    "one modality each": [[True, False], [False, True], [True, False]],
}

on_availability = pytest.mark.parametrize("available", AVAILABLE.values(), ids=AVAILABLE.keys())
on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
on_dimensions = pytest.mark.parametrize("spatial", [(5, 4), (2, 3, 2)], ids=["2D", "3D"])


# --- the formulas, voxel by voxel -------------------------------------------------------------------------------------


def plain_reconstruction_loss(reconstruction, images, available):
    total, voxels = 0.0, 0
    for b, m in product(range(len(images)), range(images.shape[1])):
        if available[b][m]:
            for r, x in zip(reconstruction[b, m].flatten().tolist(), images[b, m].flatten().tolist(), strict=True):
                total += (r - x) ** 2
                voxels += 1
    return total / voxels


def plain_squares(substitute):
    """Squares of the differences from each modality's mean, summed."""
    total = 0.0
    for modality in substitute[0]:
        values = modality.flatten().tolist()
        mean = sum(values) / len(values)
        total += sum((v - mean) ** 2 for v in values)
    return total


def plain_mean_square(substitute):
    """Times the root of half the norm of a standard normal x_sub of the paper's size."""
    scale = math.sqrt(math.sqrt(4 * 128 * 128 * 128) / 2)
    return scale * plain_squares(substitute) / substitute.numel()


def plain_norm(substitute):
    return math.sqrt(plain_squares(substitute))


def plain_consistency(first, second):
    pairs = list(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


# --- inputs -----------------------------------------------------------------------------------------------------------


def random_images(spatial=(2, 3, 2), modalities=M, seed=0):
    """A reconstruction and its images, (B, M, *patch) each."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, B, modalities, *spatial, generator=generator, dtype=torch.float64).unbind()


def random_substitute(modalities=M, spatial=(2, 3, 2), seed=1):
    """No mean is zero, and each modality has another."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, modalities, *spatial, generator=generator, dtype=torch.float64)
    return noise + torch.arange(1, modalities + 1).reshape(1, -1, *[1] * len(spatial))


def gradient(loss, leaf):
    return torch.autograd.grad(loss, leaf)[0]


# --- against the formulas ---------------------------------------------------------------------------------------------


@on_availability
@on_dimensions
def test_reconstruction_loss_is_the_mean_square_error_of_available_voxels(available, spatial):
    reconstruction, images = random_images(spatial)
    loss = mse_reconstruction_loss(reconstruction, images, torch.tensor(available))
    assert loss.item() == pytest.approx(plain_reconstruction_loss(reconstruction, images, available), rel=1e-9)


@on_dimensions
@pytest.mark.parametrize("modalities", [1, 3])
def test_penalties_are_their_formulas(modalities, spatial):
    substitute = random_substitute(modalities, spatial)
    assert mean_square_penalty(substitute).item() == pytest.approx(plain_mean_square(substitute), rel=1e-9)
    assert norm_penalty(substitute).item() == pytest.approx(plain_norm(substitute), rel=1e-9)


@on_dimensions
def test_consistency_loss_is_the_mean_square_difference(spatial):
    first, second = random_images(spatial, modalities=4)
    assert consistency_loss(first, second).item() == pytest.approx(plain_consistency(first, second), rel=1e-9)


def test_the_pull_is_between_that_of_the_plain_mean_square_and_that_of_the_released_norm():
    """Their geometric mean, for a standard normal x_sub of the paper's size: what the constant is for."""
    assert PAPER_SIZE == 4 * 128**3
    substitute = torch.randn(1, 4, 128, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain, ours, released = (
        gradient(penalty(substitute), substitute).square().mean().sqrt().item()
        for penalty in (lambda x: x.square().mean(), mean_square_penalty, norm_penalty)
    )
    # The rms of the noise is 1 to a standard error of 2.4e-4; float32 sums over so many voxels err as much.
    assert ours == pytest.approx(math.sqrt(plain * released), rel=1e-3)


def test_at_the_start_the_penalty_is_a_small_amount():
    """Of the error of a network that has learned nothing, which on z-scored images is about 1."""
    substitute = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    assert 0.1 < GAMMA * mean_square_penalty(substitute).item() < 0.3


def pull_on_a_voxel(penalty, copies):
    """Gradient of the penalty over that of the reconstruction error, both by x_sub, after tiling the patch."""
    reconstruction, images = (values[:1].tile(1, 1, copies, 1, 1) for values in random_images())
    substitute = reconstruction.requires_grad_()  # a network that gives back what it gets, all of it hidden
    error = mse_reconstruction_loss(substitute, images, torch.ones(1, M, dtype=torch.bool))
    ratio = gradient(penalty(substitute), substitute) / gradient(error, substitute)
    return ratio[:, :, :2].abs().mean().item()


def test_the_balance_of_penalty_and_error_does_not_depend_on_the_patch():
    """A patch four times as large leaves it alone; that of the released norm doubles."""
    small, large = (pull_on_a_voxel(mean_square_penalty, copies) for copies in (1, 4))
    assert large == pytest.approx(small, rel=1e-9)
    small, large = (pull_on_a_voxel(norm_penalty, copies) for copies in (1, 4))
    assert large == pytest.approx(2 * small, rel=1e-9)


# --- against the stored values ----------------------------------------------------------------------------------------


def stored_pretraining(dtype):
    """The stored step of stage 1 with the package's own parts: x, the network's input, the reconstruction, x_sub."""
    values = reference("m3ae_pretrain_0")
    images, substitute = (as_input(array, dtype) for array in drawn_anew(values))
    visible = torch.from_numpy(values["mask_patches"]).bool()
    crop = tuple(slice(start, stop) for start, stop in values["location"])
    net = SimpleNamespace(num_modalities=4, substitute=substitute[(..., *crop)])  # released: cut out of a larger one
    composed = M3AENet.compose(net, images, visible)
    reconstruction = torch.einsum("mn,bnzyx->bmzyx", torch.from_numpy(values["toy_weight"]).to(dtype), composed)
    return values, images, composed, reconstruction, substitute


def test_blocks_are_the_released_codes_blocks():
    mask = reference("m3ae_pretrain_0")["mask_patches"]
    repeated = mask.repeat(16, 2).repeat(16, 3).repeat(16, 4)
    voxels = to_voxels(torch.from_numpy(mask).bool(), (32, 32, 32))
    assert voxels.dtype == torch.bool
    assert np.array_equal(voxels.numpy(), repeated)


@on_precision
def test_the_network_gets_what_the_released_one_gets(dtype):
    values, _, composed, reconstruction, _ = stored_pretraining(dtype)
    assert_close(composed[0, 0, :, 0, 0], values["x_in_first"], dtype)
    assert composed.mean().item() == pytest.approx(float(values["x_in_mean"]), rel=1e-4, abs=1e-6)
    assert reconstruction.mean().item() == pytest.approx(float(values["recon_mean"]), rel=1e-4, abs=1e-6)


@on_precision
def test_pretraining_matches_the_released_code(dtype):
    values, images, _, reconstruction, substitute = stored_pretraining(dtype)
    error = mse_reconstruction_loss(reconstruction, images, torch.ones(2, 4, dtype=torch.bool))
    penalty = norm_penalty(substitute)
    assert float(values["gamma"]) == GAMMA
    total = error + GAMMA * penalty
    assert_close(error, values["mse_all_voxels"], dtype)
    assert error.item() != pytest.approx(float(values["mse_masked_only"]), rel=1e-3)
    assert_close(penalty, values["reg"], dtype)
    assert_close(total, values["total"], dtype)
    assert_close(stored_entries(gradient(total, substitute), values), values["grad_x_sub"], dtype)


@on_precision
@pytest.mark.parametrize(
    ("inputs", "loss", "grad"),
    [
        ("features", "loss_paper", "grad_features"),
        ("quarter_logits_upsampled", "loss_as_coded", "grad_quarter_logits"),
    ],
)
def test_consistency_loss_matches_the_released_code(inputs, loss, grad, dtype):
    """Both of the paper's bottleneck and of the logits that the released run compares, with both gradients."""
    values = reference("m3ae_consistency_0")
    pair = as_input(values[inputs], dtype)
    consistency = consistency_loss(*pair.chunk(2))
    assert_close(consistency, values[loss], dtype)
    both = gradient(consistency, pair)
    assert_close(stored_entries(both, values), values[grad], dtype)
    assert torch.equal(both[0], -both[1])


# --- invariances ------------------------------------------------------------------------------------------------------


@on_availability
def test_order_of_samples_does_not_matter(available):
    reconstruction, images = random_images()
    available, order = torch.tensor(available), [2, 0, 1]
    shuffled = mse_reconstruction_loss(reconstruction[order], images[order], available[order])
    assert shuffled.item() == pytest.approx(mse_reconstruction_loss(reconstruction, images, available).item(), rel=1e-9)


def test_what_both_images_share_does_not_matter():
    reconstruction, images = random_images()
    available = torch.tensor(AVAILABLE["incomplete"])
    shifted = mse_reconstruction_loss(reconstruction + 5, images + 5, available)
    assert shifted.item() == pytest.approx(mse_reconstruction_loss(reconstruction, images, available).item(), rel=1e-9)


def test_order_of_the_two_subsets_does_not_matter():
    first, second = random_images()
    assert consistency_loss(first, second).item() == consistency_loss(second, first).item()


@pytest.mark.parametrize("penalty", [mean_square_penalty, norm_penalty])
def test_a_modalitys_mean_is_free(penalty):
    substitute = random_substitute()
    shifted = substitute + torch.tensor([3.0, -7.0]).reshape(1, M, 1, 1, 1)
    assert penalty(shifted).item() == pytest.approx(penalty(substitute).item(), rel=1e-9)
    shifted.requires_grad_()
    assert gradient(penalty(shifted), shifted).sum((2, 3, 4)).abs().max() < 1e-9


def test_penalties_scale_with_their_power():
    substitute = random_substitute()
    assert norm_penalty(3 * substitute).item() == pytest.approx(3 * norm_penalty(substitute).item(), rel=1e-9)
    assert mean_square_penalty(3 * substitute).item() == pytest.approx(
        9 * mean_square_penalty(substitute).item(), rel=1e-9
    )


def test_unavailable_modalities_change_nothing():
    """Neither the error nor a gradient knows what stands in the slot of an unavailable modality."""
    available = torch.tensor(AVAILABLE["incomplete"])
    results = []
    for garbage in (0.0, -3.0, 1e4):
        reconstruction, images = random_images()
        images[~available] = garbage
        reconstruction[~available] = -garbage
        reconstruction.requires_grad_()
        loss = mse_reconstruction_loss(reconstruction, images, available)
        slopes = gradient(loss, reconstruction)
        assert (slopes[~available] == 0).all()
        assert (slopes[available] != 0).all()
        results.append((loss, slopes))
    for loss, slopes in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(slopes, results[0][1])


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_not_even_nan_comes_out_of_an_unavailable_modality(garbage):
    available = torch.tensor(AVAILABLE["incomplete"])
    reconstruction, images = random_images()
    expected = mse_reconstruction_loss(reconstruction, images, available)
    images[~available] = garbage
    reconstruction.requires_grad_()
    loss = mse_reconstruction_loss(reconstruction, images, available)
    assert torch.equal(loss, expected)
    loss.backward()
    assert not reconstruction.grad[~available].any()


# --- degenerate inputs ------------------------------------------------------------------------------------------------


def assert_zero_and_finite(loss, *leaves):
    assert loss.item() == 0
    for slopes in torch.autograd.grad(loss, leaves):
        assert slopes.isfinite().all()


def test_a_perfect_reconstruction_has_no_error():
    _, images = random_images()
    reconstruction = images.clone().requires_grad_()
    loss = mse_reconstruction_loss(reconstruction, images, torch.ones(B, M, dtype=torch.bool))
    assert_zero_and_finite(loss, reconstruction)


def test_equal_subsets_agree():
    """The draws of both copies may be the same."""
    first, second = (values.clone().requires_grad_() for values in random_images()[:1] * 2)
    assert_zero_and_finite(consistency_loss(first, second), first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_blank_substitute_has_finite_penalties(dtype):
    """The norm has no derivative at zero."""
    substitute = torch.zeros(1, M, 2, 3, 2, dtype=dtype, requires_grad=True)
    assert_zero_and_finite(norm_penalty(substitute), substitute)
    assert_zero_and_finite(mean_square_penalty(substitute), substitute)


def test_one_available_modality_in_one_sample_is_enough():
    reconstruction, images = random_images()
    available = torch.zeros(B, M, dtype=torch.bool)
    available[1, 0] = True
    expected = (reconstruction[1, 0] - images[1, 0]).square().mean().item()
    assert mse_reconstruction_loss(reconstruction, images, available).item() == pytest.approx(expected, rel=1e-9)
