"""What M3AE hides: counts and distributions of the draws, alone and beside those of the released sampler."""

import math
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
import torch
from reference_values import reference
from scipy.stats import chi2

from nnunetv2_missmod.methods.m3ae.masking import block_grid, draw_visible_blocks, drop_modalities

CONFIDENCE = 0.999  # of the chi-square tests; the seeds are fixed, so each either always passes or always fails
SIGMAS = 4  # statistical error allowed elsewhere


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def full(samples, modalities):
    return torch.ones(samples, modalities, dtype=torch.bool)


def assert_drawn_as_expected(drawn, probabilities):
    """Chi-square test of what was drawn against the probability of each outcome, all of which there are."""
    counts, draws = Counter(drawn), len(drawn)
    assert set(counts) <= set(probabilities)
    assert min(probabilities.values()) * draws >= 5  # else the test would not hold
    statistic = sum((counts[o] - draws * p) ** 2 / (draws * p) for o, p in probabilities.items())
    assert statistic <= chi2.ppf(CONFIDENCE, max(len(probabilities) - 1, 1))


def rows(drawn):
    return [tuple(row) for row in drawn.long().tolist()]


# --- the grid of blocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "grid"),
    [
        ((128, 128, 128), (8, 8, 8)),  # the paper's blocks of 16 voxels
        ((144, 160, 192), (9, 10, 12)),
        ((130, 158, 127), (8, 10, 8)),  # as near to 16 voxels as whole blocks come
        ((64, 40, 36), (8, 8, 8)),
        ((20, 8, 9), (8, 8, 8)),
        ((7, 4, 1), (7, 4, 1)),  # no smaller than a voxel
        ((16, 256, 320), (8, 16, 20)),
        ((512, 48), (32, 8)),
    ],
)
def test_blocks_have_16_voxels_or_an_eighth_of_a_smaller_patch(patch, grid):
    assert block_grid(patch) == grid
    assert block_grid(list(patch)) == grid  # as it stands in a plan


# --- dropping modalities ----------------------------------------------------------------------------------------------


def dropping_probabilities(available):
    """Of every subset that may be left: d uniform on 0..A-1, then all subsets of A - d alike."""
    members = [m for m, is_available in enumerate(available) if is_available]
    probabilities = {}
    for kept in range(1, len(members) + 1):
        for subset in combinations(members, kept):
            left = tuple(int(m in subset) for m in range(len(available)))
            probabilities[left] = 1 / len(members) / math.comb(len(members), kept)
    return probabilities


@pytest.mark.parametrize("modalities", [1, 2, 3, 4, 6])
def test_the_number_dropped_is_uniform_and_so_is_the_choice(modalities):
    left = rows(drop_modalities(full(4000, modalities), seeded()))
    assert_drawn_as_expected(left, dropping_probabilities([True] * modalities))
    kept = [sum(row) for row in left]
    assert_drawn_as_expected(kept, {count: 1 / modalities for count in range(1, modalities + 1)})


@pytest.mark.parametrize(
    "available",
    [(True, False, True, True), (False, True, False, False), (False, False, True, True, False, True)],
    ids=["three of four", "one of four", "three of six"],
)
def test_only_available_modalities_are_left(available):
    left = rows(drop_modalities(torch.tensor([available]).expand(3000, -1), seeded()))
    assert_drawn_as_expected(left, dropping_probabilities(available))


def test_samples_of_a_batch_are_drawn_each_from_its_own():
    """No draw of one sample tells of another's."""
    patterns = torch.tensor([[True, True, False], [True, False, True], [False, True, False]])
    drawn = drop_modalities(patterns.repeat(3000, 1), seeded()).reshape(3000, -1)
    expected = [dropping_probabilities(pattern) for pattern in patterns.tolist()]
    joint = {a + b + c: p * q * r for (a, p), (b, q), (c, r) in product(*(e.items() for e in expected))}
    assert_drawn_as_expected(rows(drawn), joint)


@pytest.mark.parametrize("modalities", range(1, 7))
def test_one_modality_at_least_is_left_of_any_set(modalities):
    everything = [row for row in product((False, True), repeat=modalities) if any(row)]
    available = torch.tensor(everything).repeat(50, 1)
    left = drop_modalities(available, seeded())
    assert left.dtype == torch.bool
    assert left.any(1).all()
    assert not (left & ~available).any()


def test_draws_repeat_with_their_generator():
    present = full(40, 4)
    assert torch.equal(drop_modalities(present, seeded(1)), drop_modalities(present, seeded(1)))
    assert not torch.equal(drop_modalities(present, seeded(1)), drop_modalities(present, seeded(2)))
    first, second, other = (draw_visible_blocks(present, (4, 4), 0.25, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_draws_from_a_generator_leave_torchs_own_alone():
    before = torch.get_rng_state()
    draw_visible_blocks(drop_modalities(full(4, 3), seeded()), (4, 4), 0.25, seeded())
    assert torch.equal(torch.get_rng_state(), before)


# --- drawing blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalities", "grid", "fraction", "expected"),
    [
        (4, (8, 8, 8), 0.125, 256),  # the paper's
        (3, (8, 8), 0.125, 24),
        (1, (7, 7), 0.125, 6),
        (5, (3, 3, 3), 0.125, 17),
        (2, (4, 3, 2), 0.5, 24),
        (3, (8, 7, 1), 1.0, 168),
        (2, (2, 2), 0.01, 1),  # never none at all
    ],
)
def test_the_fraction_is_of_all_blocks(modalities, grid, fraction, expected):
    visible = draw_visible_blocks(full(5, modalities), grid, fraction, seeded())
    assert visible.dtype == torch.bool
    assert visible.shape == (5, modalities, *grid)
    assert visible.flatten(1).sum(1).tolist() == [expected] * 5


@pytest.mark.parametrize("grid", [(8, 8, 8), (6, 5)], ids=["3D", "2D"])
@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_the_fraction_stays_when_modalities_are_dropped(grid, modalities):
    """An eighth of all blocks, from fewer modalities; capped at all the blocks that these have."""
    blocks, present = math.prod(grid), drop_modalities(full(100, modalities), seeded())
    wanted = round(0.125 * modalities * blocks)
    visible = draw_visible_blocks(present, grid, 0.125, seeded()).flatten(2)
    assert not visible.any(2)[~present].any()
    assert visible.sum((1, 2)).tolist() == [min(wanted, n * blocks) for n in present.sum(1).tolist()]


@pytest.mark.parametrize("fraction", [0.3, 0.5, 1.0])
def test_where_fewer_blocks_are_there_all_of_them_are_kept(fraction):
    present = torch.tensor([[False, True, False, False], [True, False, False, False]])
    visible = draw_visible_blocks(present, (3, 2, 3), fraction, seeded())
    assert torch.equal(visible, present[:, :, None, None, None].expand(-1, -1, 3, 2, 3))


def test_all_blocks_of_the_present_modalities_are_kept_at_a_fraction_of_one():
    """Table 3 (b): modalities are dropped alone."""
    present = drop_modalities(full(50, 4), seeded())
    visible = draw_visible_blocks(present, (3, 2), 1.0, seeded())
    assert torch.equal(visible, present[:, :, None, None].expand(-1, -1, 3, 2))


def test_the_cap_of_one_sample_is_no_matter_to_another():
    present = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])
    visible = draw_visible_blocks(present, (4, 4), 0.5, seeded())
    assert visible.sum((1, 2, 3)).tolist() == [16, 24, 24]


def test_every_choice_of_blocks_is_as_likely():
    """Over all modalities together, not so many of each."""
    present = torch.tensor([[True, False, True]]).expand(5000, -1)
    visible = draw_visible_blocks(present, (2, 2), 1 / 6, seeded())
    choices = [tuple(row.nonzero().flatten().tolist()) for row in visible.flatten(1)]
    pairs = list(combinations([0, 1, 2, 3, 8, 9, 10, 11], 2))
    assert_drawn_as_expected(choices, {pair: 1 / len(pairs) for pair in pairs})


def test_samples_of_a_batch_hide_blocks_of_their_own():
    visible = draw_visible_blocks(full(8, 2), (4, 4, 4), 0.125, seeded())
    assert len(set(rows(visible.flatten(1)))) == 8


# --- without waiting for the device -----------------------------------------------------------------------------------


def draw(available):
    return draw_visible_blocks(drop_modalities(available), (4, 4), 0.25)


def test_the_shape_needs_no_values():
    """A meta tensor has none: whatever would wait for the device fails on it."""
    assert draw(torch.ones(2, 3, dtype=torch.bool, device="meta")).shape == (2, 3, 4, 4)


def test_draws_compile_into_one_graph():
    available = full(6, 3)
    torch._dynamo.reset()
    compiled = torch.compile(draw, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = draw(available)
    torch.manual_seed(0)
    assert torch.equal(compiled(available), expected)


# --- beside the released sampler --------------------------------------------------------------------------------------

M, BLOCKS, VISIBLE = 4, 8**3, 256  # of a patch of 128^3


def released_counts():
    """Visible blocks of each modality, (draws, M), and how many modalities were dropped, (draws,)."""
    values = reference("m3ae_mask_stats_0")
    return values["visible_per_modality"].astype(float), values["n_zero_modalities"]


@pytest.fixture(scope="module")
def our_counts():
    visible = draw_visible_blocks(drop_modalities(full(2000, M), seeded(3)), (8, 8, 8), 0.125, seeded(4))
    counts = visible.flatten(2).sum(2).double().numpy()
    return counts, (counts == 0).sum(1)


def variance_of_counts(counts):
    """Mean square about the mean that they all share, and its standard error.

    They are close to normal, and those of one draw have a degree of freedom less than there are: their sum is fixed.
    """
    draws, left = counts.shape
    variance = np.mean((counts - VISIBLE / left) ** 2)
    return variance, variance * math.sqrt(2 / (draws * (left - 1)))


def test_both_samplers_show_exactly_so_many_blocks(our_counts):
    for counts, _ in (released_counts(), our_counts):
        assert (counts.sum(1) == VISIBLE).all()


def test_both_samplers_drop_uniformly(our_counts):
    for _, dropped in (released_counts(), our_counts):
        assert_drawn_as_expected(dropped.tolist(), {d: 1 / M for d in range(M)})


@pytest.mark.parametrize("dropped", range(M))
def test_both_samplers_show_as_many_blocks_of_each_modality(dropped, our_counts):
    """Their means per modality agree within 4 standard errors of the difference, and so do their variances.

    A single modality left has all 256 blocks.
    """
    left, moments = M - dropped, []
    for counts, number_dropped in (released_counts(), our_counts):
        drawn = counts[number_dropped == dropped]
        assert ((drawn > 0).sum(1) == left).all()
        remaining = drawn[drawn > 0].reshape(-1, left)
        moments.append((drawn, remaining))
    if left == 1:
        assert all((remaining == VISIBLE).all() for _, remaining in moments)
        return

    for m in range(M):
        released, ours = (drawn[drawn[:, m] > 0, m] for drawn, _ in moments)
        error = math.sqrt(released.var(ddof=1) / len(released) + ours.var(ddof=1) / len(ours))
        assert abs(released.mean() - ours.mean()) <= SIGMAS * error

    (released, error), (ours, our_error) = (variance_of_counts(remaining) for _, remaining in moments)
    assert abs(released - ours) <= SIGMAS * math.hypot(error, our_error)
    share = 1 / left  # blocks drawn without replacement: the hypergeometric distribution
    expected = VISIBLE * share * (1 - share) * (left * BLOCKS - VISIBLE) / (left * BLOCKS - 1)
    assert abs(ours - expected) <= SIGMAS * our_error
