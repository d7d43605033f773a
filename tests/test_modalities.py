from collections import Counter
from itertools import product

import pytest
import torch

from nnunetv2_missmod.modalities import (
    all_subsets,
    available_modalities,
    channels_of_subset,
    drop_absent,
    expand_to,
    sample_source,
    sample_subset,
    subset_name,
    varying_channels,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(subsets):
    return [tuple(row) for row in subsets.tolist()]


def chi_square(counts, bins, draws):
    expected = draws / len(bins)
    return sum((counts[b] - expected) ** 2 / expected for b in bins)


# --- all_subsets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_modalities", [1, 2, 3, 4, 5])
def test_all_subsets_lists_every_non_empty_subset_once(num_modalities):
    subsets = all_subsets(num_modalities)
    assert subsets.dtype == torch.bool
    assert subsets.shape == (2**num_modalities - 1, num_modalities)
    every = {row for row in product((False, True), repeat=num_modalities) if any(row)}
    assert Counter(rows(subsets)) == Counter(every)


@pytest.mark.parametrize("num_modalities", [1, 2, 3, 4, 5, 7, 40])
def test_all_subsets_are_smallest_first_and_the_full_set_last(num_modalities):
    subsets = all_subsets(num_modalities)
    sizes = subsets.sum(1).tolist()
    assert sizes == sorted(sizes)
    assert subsets[-1].all()


def test_all_subsets_of_equal_size_are_in_the_order_of_the_channels():
    assert rows(all_subsets(3))[:3] == [(True, False, False), (False, True, False), (False, False, True)]


@pytest.mark.parametrize(("num_modalities", "count"), [(6, 31), (7, 31), (30, 31), (31, 32), (40, 41)])
def test_many_modalities_are_sampled(num_modalities, count):
    subsets = all_subsets(num_modalities)
    assert subsets.shape == (count, num_modalities)
    assert len(set(rows(subsets))) == count
    assert subsets.any(1).all()
    singles = set(rows(torch.eye(num_modalities, dtype=torch.bool)))
    assert singles <= set(rows(subsets))
    assert subsets.all(1).sum() == 1


def test_sampled_subsets_are_the_same_on_every_call_and_depend_on_the_seed():
    torch.manual_seed(1)
    first = all_subsets(7)
    torch.manual_seed(2)
    torch.rand(3)
    assert torch.equal(first, all_subsets(7))
    assert not torch.equal(first, all_subsets(7, seed=1))


def test_sampled_subsets_leave_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    all_subsets(7)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("num_modalities", [0, -1])
def test_all_subsets_of_nothing_is_an_error(num_modalities):
    with pytest.raises(ValueError, match="at least one modality"):
        all_subsets(num_modalities)


# --- sample_subset ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "available",
    [
        (True, True, True, True),
        (True, False, True, True),
        (False, True, False, True, False),
        (False, False, True),
    ],
)
def test_sample_subset_is_uniform_over_the_subsets_of_what_is_available(available):
    draws = 15_000
    present = sample_subset(torch.tensor(available).expand(draws, -1), generator())
    counts = Counter(rows(present))
    bins = [row for row in product(*[(False, True) if a else (False,) for a in available]) if any(row)]
    assert set(counts) == set(bins)
    # far in the tail of chi-square with at most 14 degrees of freedom (mean 14, p < 1e-5 at 50)
    assert chi_square(counts, bins, draws) < 50


def test_sample_subset_of_mixed_rows_stays_within_each_row():
    choices = [row for row in product((False, True), repeat=4) if any(row)]
    available = torch.tensor(choices * 200)
    present = sample_subset(available, generator())
    assert present.shape == available.shape
    assert present.dtype == torch.bool
    assert not (present & ~available).any()
    assert present.any(1).all()
    for number, row in enumerate(choices):
        drawn = set(rows(present[number :: len(choices)]))
        assert len(drawn) == 2 ** sum(row) - 1  # 200 draws reach all of at most 15 subsets


def test_the_rows_of_a_batch_are_drawn_independently():
    present = sample_subset(torch.ones(64, 4, dtype=torch.bool), generator())
    assert len(set(rows(present))) > 5


def test_samples_that_have_the_same_modalities_may_share_a_draw():
    available = torch.tensor([[True, True, True], [True, False, True]]).repeat_interleave(40, 0)
    drawn = [sample_subset(available, of_seed, one_for_all=True) for of_seed in map(generator, range(100))]
    for present in drawn:
        assert all(len(half.unique(dim=0)) == 1 for half in present.chunk(2))
        assert not (present & ~available).any()
    assert len({tuple(present[0].tolist()) for present in drawn}) == 7
    assert len({tuple(present[-1].tolist()) for present in drawn}) == 3


def test_sample_subset_of_one_modality_is_that_modality():
    assert sample_subset(torch.ones(50, 1, dtype=torch.bool), generator()).all()


def test_sample_subset_of_forty_modalities_does_not_overflow():
    present = sample_subset(torch.ones(4000, 40, dtype=torch.bool), generator())
    assert present.any(1).all()
    share = present.float().mean(0)
    assert ((share - 0.5).abs() < 0.05).all()  # six standard deviations
    assert len(set(rows(present))) == 4000


def test_sample_subset_follows_its_generator():
    available = torch.ones(64, 4, dtype=torch.bool)
    first = sample_subset(available, generator(3))
    torch.rand(5)
    assert torch.equal(first, sample_subset(available, generator(3)))
    assert not torch.equal(first, sample_subset(available, generator(4)))
    one = generator(3)
    sample_subset(available, one)
    assert not torch.equal(first, sample_subset(available, one))


def test_sample_subset_without_a_generator_follows_the_global_seed():
    available = torch.ones(64, 4, dtype=torch.bool)
    torch.manual_seed(0)
    first = sample_subset(available)
    torch.manual_seed(0)
    assert torch.equal(first, sample_subset(available))


# --- sample_source ----------------------------------------------------------------------------------------------------


def test_sample_source_is_itself_where_available():
    choices = [row for row in product((False, True), repeat=4) if any(row)]
    available = torch.tensor(choices * 20)
    source = sample_source(available, generator())
    assert source.shape == available.shape
    assert source.dtype == torch.long
    own = torch.arange(4).expand_as(source)
    assert torch.equal(source[available], own[available])
    assert available.gather(1, source).all()


@pytest.mark.parametrize("available", [(True, False, True, True), (False, True, False, True), (False, False, True)])
def test_sample_source_fills_the_other_slots_uniformly(available):
    draws = 6000
    source = sample_source(torch.tensor(available).expand(draws, -1), generator())
    bins = [m for m, is_available in enumerate(available) if is_available]
    for slot in (m for m, is_available in enumerate(available) if not is_available):
        counts = Counter(source[:, slot].tolist())
        assert set(counts) == set(bins)
        assert chi_square(counts, bins, draws) < 25


def test_sample_source_fills_each_slot_on_its_own():
    source = sample_source(torch.tensor([[True, True, False, False]]).expand(2000, -1), generator())
    counts = Counter(rows(source[:, 2:]))
    assert chi_square(counts, [(0, 0), (0, 1), (1, 0), (1, 1)], 2000) < 30


def test_sample_source_follows_its_generator():
    available = torch.tensor([[True, True, False, False]]).expand(64, -1)
    assert torch.equal(sample_source(available, generator(1)), sample_source(available, generator(1)))
    assert not torch.equal(sample_source(available, generator(1)), sample_source(available, generator(2)))


# --- drop_absent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [(5, 6), (4, 5, 6)])
@pytest.mark.parametrize("extra", [0, 2])
def test_drop_absent_zeroes_absent_channels_alone(patch, extra):
    images = torch.randn(2, 3 + extra, *patch, generator=generator())
    present = torch.tensor([[True, False, True], [False, False, True]])
    before = images.clone()
    dropped = drop_absent(images, present)
    assert torch.equal(images, before)
    assert dropped.shape == images.shape
    assert dropped.dtype == images.dtype
    for sample, channel in product(range(2), range(3 + extra)):
        kept = channel >= 3 or present[sample, channel]
        expected = images[sample, channel] if kept else torch.zeros(patch)
        assert torch.equal(dropped[sample, channel], expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_of_an_absent_channel_survives(value):
    images = torch.ones(1, 3, 4, 4)
    images[0, 1] = value
    images.requires_grad_()
    dropped = drop_absent(images, torch.tensor([[True, False, True]]))
    assert dropped[0, 1].eq(0).all()
    dropped.square().sum().backward()
    assert images.grad[0, 1].eq(0).all()
    assert images.grad[0, 0].eq(2).all()


def test_drop_absent_keeps_what_is_present_even_if_it_is_nan():
    images = torch.full((1, 2, 4, 4), float("nan"))
    assert drop_absent(images, torch.tensor([[True, False]]))[0, 0].isnan().all()


def test_drop_absent_keeps_half_precision():
    images = torch.ones(1, 2, 4, 4, dtype=torch.float16)
    assert drop_absent(images, torch.tensor([[True, False]])).dtype == torch.float16


def test_expand_to_broadcasts_against_the_maps():
    weights = torch.tensor([[1.0, 2.0, 3.0]])
    assert expand_to(weights, torch.ones(1, 3, 7, 4, 4, 4)).shape == (1, 3, 1, 1, 1, 1)
    assert torch.equal(expand_to(weights, torch.ones(1, 3)), weights)


# --- available_modalities ---------------------------------------------------------------------------------------------


def images_of_all_kinds():
    """One sample of every kind of channel, and which of them vary."""
    varies = torch.randn(6, 6, 6, generator=generator())
    rounded = torch.full((6, 6, 6), 1.2345)
    rounded[::2] = torch.nextafter(rounded[::2], torch.tensor(9.0))
    negative = torch.full((6, 6, 6), -3.7)
    negative[0] = torch.nextafter(negative[0], torch.tensor(0.0))
    small = 1e-3 * varies
    one_voxel = torch.zeros(6, 6, 6)
    one_voxel[3, 4, 5] = 1e-6
    kinds = [
        (varies, True),
        (torch.zeros(6, 6, 6), False),
        (torch.full((6, 6, 6), -2.5), False),
        (rounded, False),
        (negative, False),
        (small, True),
        (one_voxel, True),
        (1000 + varies, True),
    ]
    return torch.stack([image for image, _ in kinds])[None], torch.tensor([[answer for _, answer in kinds]])


def test_varying_channels_tells_images_from_constants():
    images, expected = images_of_all_kinds()
    assert images[0, 3].unique().numel() == 2  # constant up to rounding, not exactly
    assert torch.equal(varying_channels(images), expected)
    assert torch.equal(available_modalities(images), expected)


def test_a_sample_of_constants_alone_has_every_modality():
    images = torch.randn(3, 2, 4, 4, generator=generator())
    images[0] = 0
    images[1, 0], images[1, 1] = 4, -1
    images[2, 1] = 0
    expected = torch.tensor([[True, True], [True, True], [True, False]])
    assert torch.equal(available_modalities(images), expected)
    assert torch.equal(varying_channels(images), torch.tensor([[False, False], [False, False], [True, False]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_channel_that_is_not_finite_is_not_constant(value):
    images = torch.randn(1, 2, 4, 4, generator=generator())
    images[0, 1, 2, 3] = value
    assert varying_channels(images).all()


def test_available_modalities_compiles_without_a_graph_break():
    compiled = torch.compile(available_modalities, backend="eager", fullgraph=True)
    images, expected = images_of_all_kinds()
    assert torch.equal(compiled(images), expected)
    assert compiled(torch.zeros_like(images)).all()


def test_sampling_and_dropping_compile_without_a_graph_break():
    def draw_and_drop(images, available):
        return drop_absent(images, sample_subset(available)), sample_source(available)

    compiled = torch.compile(draw_and_drop, backend="eager", fullgraph=True)
    available = torch.tensor([[True, False, True]])
    dropped, source = compiled(torch.ones(1, 3, 4, 4), available)
    assert dropped[0, 1].eq(0).all()
    assert available.gather(1, source).all()


# --- subset_name ------------------------------------------------------------------------------------------------------


def test_a_subset_is_found_by_its_name():
    names = ["FLAIR", "T1", "T1c", "T2"]
    for row in all_subsets(4):
        assert channels_of_subset(subset_name(row, names), names) == tuple(row.nonzero().flatten().tolist())
    assert channels_of_subset("T1c + FLAIR", names) == (0, 2)
    for wrong in ("", "T3", "T1+", "T1+T1", "t1", "T1,T2"):
        with pytest.raises(ValueError, match=r"FLAIR, T1, T1c, T2, each once and joined by \+.* got"):
            channels_of_subset(wrong, names)


def test_subset_name():
    names = ["FLAIR", "T1", "T1c", "T2"]
    assert subset_name(torch.tensor([True, False, True, False]), names) == "FLAIR+T1c"
    assert subset_name(torch.tensor([False, False, False, True]), names) == "T2"
    assert subset_name(torch.ones(4, dtype=torch.bool), names) == "FLAIR+T1+T1c+T2"
    assert len({subset_name(row, names) for row in all_subsets(4)}) == 15


@pytest.mark.parametrize("names", [["FLAIR", "T1"], ["FLAIR", "T1", "T1c", "T2"]])
def test_subset_name_needs_one_name_per_modality(names):
    with pytest.raises(ValueError, match="zip"):
        subset_name(torch.ones(3, dtype=torch.bool), names)
