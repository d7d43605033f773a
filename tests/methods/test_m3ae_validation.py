"""How M3AE's reconstructions are scored, against loops over samples, modalities and voxels in plain numpy."""

import warnings

import numpy as np
import pytest
import torch

from nnunetv2_missmod.methods.m3ae.validation import error_per_subset, explained_variance, reconstruction_scores

NAMES = ["FLAIR", "T1", "T2"]
NAN = float("nan")
SUBSET = torch.tensor([True, False, True])
EVERYTHING = [[True] * 3, [True] * 3]
on_patch = pytest.mark.parametrize("patch", [(4, 6, 2), (5, 3)], ids=["3D", "2D"])


def random_images(seed, patch=(4, 6, 2), batch=2):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 3.0, 0.5]).reshape(1, 3, *[1] * len(patch))
    images = scale * (torch.randn(batch, 3, *patch, generator=generator) + 2)
    return images + torch.randn(images.shape, generator=generator), images


def scores(reconstruction, images, available=EVERYTHING, subset=SUBSET):
    return reconstruction_scores(reconstruction, images, torch.tensor(available), subset, NAMES)


def plain_values(batches, modality):
    """The voxels of a modality, of the samples that have it: what came out, what went in."""
    made, true = [], []
    for reconstruction, images, available in batches:
        for b in range(len(images)):
            if available[b][modality]:
                made += reconstruction[b, modality].flatten().tolist()
                true += images[b, modality].flatten().tolist()
    return np.array(made), np.array(true)


AVAILABLE = {
    "full": EVERYTHING,
    "incomplete": [[True, False, True], [True, True, False]],
    "one modality each": [[False, False, True], [True, False, False]],
}
on_availability = pytest.mark.parametrize("available", AVAILABLE.values(), ids=AVAILABLE.keys())


@on_patch
@on_availability
def test_a_step_is_summed_up_over_the_samples_that_have_a_modality(patch, available):
    reconstruction, images = random_images(0, patch)
    got = scores(reconstruction, images, available)
    total_error = total_voxels = 0
    for m in range(3):
        made, true = plain_values([(reconstruction, images, available)], m)
        assert got["squared_error"][m] == pytest.approx(((made - true) ** 2).sum(), rel=1e-5)
        assert got["sum"][m] == pytest.approx(true.sum(), rel=1e-5)
        assert got["sum_of_squares"][m] == pytest.approx((true**2).sum(), rel=1e-5)
        assert got["voxels"][m] == len(true)
        total_error += ((made - true) ** 2).sum()
        total_voxels += len(true)
    assert got["loss"] == pytest.approx(total_error / total_voxels, rel=1e-5)
    assert got["subset"] == "FLAIR+T2"


@on_patch
@on_availability
def test_nothing_of_an_unavailable_channel_is_scored(patch, available):
    reconstruction, images = random_images(0, patch)
    expected = scores(reconstruction, images, available)
    for number, value in enumerate((NAN, 1e6)):
        for b, m in zip(*np.nonzero(~np.array(available)), strict=True):
            images[b, m] = value
            reconstruction[b, m] = (3.0, NAN)[number]
        got = scores(reconstruction, images, available)
        for name, values in expected.items():
            np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_scoring_leaves_its_inputs_alone():
    reconstruction, images = random_images(0)
    kept = reconstruction.clone(), images.clone()
    scores(reconstruction, images, AVAILABLE["incomplete"])
    assert torch.equal(reconstruction, kept[0])
    assert torch.equal(images, kept[1])


def test_scores_are_sums_of_double_precision():
    got = scores(*random_images(0))
    assert all(got[name].dtype == np.float64 for name in ("squared_error", "sum", "sum_of_squares", "voxels"))


def several_batches():
    return [(*random_images(seed), available) for seed, available in enumerate(AVAILABLE.values())]


def test_explained_variance_pools_the_steps():
    batches = several_batches()
    got = explained_variance([scores(*batch) for batch in batches])
    assert got.shape == (3,)
    for m in range(3):
        made, true = plain_values(batches, m)
        expected = 1 - ((made - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()
        assert got[m] == pytest.approx(expected, abs=1e-4)


def test_a_perfect_reconstruction_explains_everything():
    steps = [scores(images, images, available) for _, images, available in several_batches()]
    np.testing.assert_array_equal(explained_variance(steps), [1.0] * 3)


def test_the_mean_of_all_steps_explains_nothing():
    batches = several_batches()
    means = [plain_values(batches, m)[1].mean() for m in range(3)]
    filled = torch.tensor(means, dtype=torch.float32).reshape(1, 3, 1, 1, 1)
    steps = [scores(filled.expand_as(images), images, available) for _, images, available in batches]
    np.testing.assert_allclose(explained_variance(steps), 0, atol=1e-4)


def test_worse_than_the_mean_is_negative():
    _, images = random_images(0)
    assert (explained_variance([scores(-images, images)]) < 0).all()


def test_better_explains_more():
    _, images = random_images(0)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    shares = [explained_variance([scores(images + scale * noise, images)]) for scale in (0.1, 0.3, 1.0)]
    assert (shares[0] > shares[1]).all()
    assert (shares[1] > shares[2]).all()


def test_no_variance_is_explained_of_a_modality_that_is_nowhere_or_empty():
    reconstruction, images = random_images(0)
    images[:, 2] = 0  # patches of background
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explained = explained_variance([scores(reconstruction, images, [[True, False, True]] * 2)] * 2)
    assert np.isnan(explained).tolist() == [False, True, True]


@pytest.mark.parametrize("value", [-0.5, 0.1234])
def test_a_constant_of_another_value_has_no_variance_either(value):
    reconstruction, images = random_images(0)
    images[:, 1] = value
    assert np.isnan(explained_variance([scores(reconstruction, images)])).tolist() == [False, True, False]


def test_the_error_of_a_subset_is_pooled_over_the_voxels_of_its_steps():
    subsets = [torch.tensor(s) for s in ([False, True, False], [True, True, True])]
    batches = [(*random_images(seed), available) for seed, available in enumerate([*AVAILABLE.values()] * 2)]
    steps = [scores(*batch, subset=subsets[number % 2]) for number, batch in enumerate(batches)]
    got = error_per_subset(steps)
    assert list(got) == ["T1", "FLAIR+T1+T2"]
    for number, name in enumerate(got):
        values = [plain_values(batches[number::2], m) for m in range(3)]
        errors = np.concatenate([(made - true) ** 2 for made, true in values])
        assert got[name] == pytest.approx(errors.mean(), rel=1e-5)
        assert isinstance(got[name], float)
    losses = [step["loss"] for step in steps[0::2]]
    assert abs(got["T1"] - np.mean(losses)) > 1e-3  # the steps have unequal numbers of voxels
