"""Which subsets CCSD draws: their sizes, HMSD's students and their shares, the full set."""

import math
from collections import Counter
from itertools import combinations
from math import comb

import pytest
import torch
from small_ccsd import every_availability

from nnunetv2_missmod.methods.ccsd.losses import hmsd_loss
from nnunetv2_missmod.methods.ccsd.subsets import Subsets, draw_students, with_full_set
from nnunetv2_missmod.modalities import sample_by_size

MIXED = [[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]]  # four, three, two modalities, one


def presence(rows):
    return torch.tensor(rows, dtype=torch.bool)


def complete(samples, modalities):
    return torch.ones(samples, modalities, dtype=torch.bool)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def members(subset):
    return tuple(subset.nonzero().flatten().tolist())


def students_of(subsets, sample):
    """List the subsets that HMSD's mean of a sample is taken over."""
    return [members(row) for row in subsets.presents[:, sample][subsets.shares[:, sample] > 0]]


def assert_uniform(counts, outcomes):
    """Chi-square of the counts, within six standard deviations of what it is for equally probable outcomes."""
    assert set(counts) <= set(outcomes)
    expected = counts.total() / len(outcomes)
    assert expected > 50, "too few draws to tell"
    freedom = len(outcomes) - 1
    chi_square = sum((counts[outcome] - expected) ** 2 for outcome in outcomes) / expected
    assert chi_square <= freedom + 6 * math.sqrt(2 * freedom)


# --- a subset by size -------------------------------------------------------------------------------------------------


def draws_by_size(available, number, seed=0):
    """(number, B, M)."""
    generator = seeded(seed)
    return torch.stack([sample_by_size(available, generator) for _ in range(number)])


@pytest.mark.parametrize("modalities", [1, 2, 4, 6])
def test_sizes_of_a_complete_case_are_uniform(modalities):
    sizes = draws_by_size(complete(1, modalities), 2000).sum(2).flatten()
    assert_uniform(Counter(sizes.tolist()), range(1, modalities + 1))


def test_sizes_of_an_incomplete_case_are_uniform_too():
    sizes = draws_by_size(presence(MIXED), 2000).sum(2)
    for sample, available in enumerate(presence(MIXED).sum(1).tolist()):
        assert_uniform(Counter(sizes[:, sample].tolist()), range(1, available + 1))


def test_subsets_of_a_size_are_equally_probable():
    drawn = draws_by_size(complete(8, 4), 800).flatten(0, 1)
    counts = Counter(members(row) for row in drawn)
    for size in range(1, 5):
        of_size = Counter({subset: count for subset, count in counts.items() if len(subset) == size})
        # Samples of a draw share its size but not its subset: the counts of one size are those of independent draws.
        assert_uniform(of_size, list(combinations(range(4), size)))


def test_complete_samples_of_a_draw_have_one_size_and_subsets_of_their_own():
    drawn = draws_by_size(complete(5, 4), 200)
    assert (drawn.sum(2) == drawn.sum(2)[:, :1]).all()
    smaller = drawn[drawn.sum(2)[:, 0] < 4]
    assert (smaller != smaller[:, :1]).any(2).any(1).float().mean() > 0.8


def test_sizes_of_a_draw_go_up_together():
    """All samples share one uniform number u: a size of s among M says that u is in [(s - 1) / M, s / M)."""
    for sizes in draws_by_size(presence(MIXED), 300).sum(2).tolist():
        for count, size in zip((4, 3, 2, 1), sizes, strict=True):
            assert 1 + (sizes[0] - 1) * count // 4 <= size <= math.ceil(sizes[0] * count / 4)


@pytest.mark.parametrize("modalities", [1, 2, 4])
def test_a_subset_is_never_empty_and_never_unavailable(modalities):
    available = every_availability(modalities)
    drawn = draws_by_size(available, 100)
    assert drawn.dtype == torch.bool
    assert drawn.any(2).all()
    assert not (drawn & ~available).any()


def test_the_generator_alone_decides():
    available, state = presence(MIXED), torch.get_rng_state()
    first, again, other = (draws_by_size(available, 20, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    one, same = (draw_students(available, first[0], 2, seeded(5)) for _ in range(2))
    assert torch.equal(one.presents, same.presents)
    assert any(not torch.equal(one.presents, draw_students(available, first[0], 2, seeded(s)).presents) for s in (6, 7))
    assert torch.equal(torch.get_rng_state(), state)


# --- students ---------------------------------------------------------------------------------------------------------


def assert_students(subsets, sample, available, segmented, limit):
    """The promises to one sample: which students it has, their shares, and what fills up its rows."""
    students, shares = students_of(subsets, sample), subsets.shares[:, sample]
    assert members(subsets.presents[0, sample]) == members(segmented)
    for row in subsets.presents[:, sample][shares == 0]:
        assert torch.equal(row, segmented)
    count = int(available.sum())
    if count == 1:
        assert students == []
        return
    size = len(students[0])
    among = set(combinations(members(available), size))
    assert 1 <= size < count
    assert set(students) <= among
    assert len(set(students)) == len(students) == min(comb(count, size), limit)
    if segmented.sum() < count:
        assert students.count(members(segmented)) == 1
        assert shares[0] > 0
    else:
        assert shares[0] == 0
    assert shares[shares > 0].tolist() == pytest.approx([1 / len(students)] * len(students))
    assert shares.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("limit", [1, 2, 6, 20])
@pytest.mark.parametrize("modalities", range(1, 6))
def test_students_of_every_mixed_batch_are_as_promised(modalities, limit):
    generator, available = seeded(), every_availability(modalities)
    for _ in range(4):
        segmented = sample_by_size(available, generator)
        untouched = available.clone(), segmented.clone()
        subsets = draw_students(available, segmented, limit, generator)
        assert torch.equal(available, untouched[0])
        assert torch.equal(segmented, untouched[1])
        assert subsets.presents.dtype == torch.bool
        assert subsets.shares.dtype == torch.float32
        assert subsets.shares.shape == subsets.presents.shape[:2]
        assert subsets.shares.any(1)[1:].all()  # no row is decoded for nothing
        for sample in range(len(available)):
            assert_students(subsets, sample, available[sample], segmented[sample], limit)


@pytest.mark.parametrize(("modalities", "size"), [(m, k) for m in range(2, 6) for k in range(1, m)])
def test_all_subsets_of_the_segmented_size_are_students_where_the_limit_allows(modalities, size):
    segmented = torch.arange(modalities)[None] >= modalities - size
    limit = comb(modalities, size)
    subsets = draw_students(complete(1, modalities), segmented, limit, seeded())
    assert sorted(students_of(subsets, 0)) == list(combinations(range(modalities), size))
    assert subsets.presents.shape == (limit, 1, modalities)


def test_the_students_size_is_uniform_and_one_for_the_batch_where_everything_is_segmented():
    generator, everything = seeded(), complete(2, 4)
    sizes = Counter()
    for _ in range(600):
        subsets = draw_students(everything, everything, 6, generator)
        size = len(students_of(subsets, 0)[0])
        for sample in range(2):
            assert sorted(students_of(subsets, sample)) == list(combinations(range(4), size))
        sizes[size] += 1
    assert_uniform(sizes, [1, 2, 3])


def test_the_students_size_is_uniform_over_all_segmented_subsets():
    generator, everything = seeded(), complete(1, 4)
    sizes = Counter()
    for _ in range(1000):
        subsets = draw_students(everything, sample_by_size(everything, generator), 1, generator)
        sizes[len(students_of(subsets, 0)[0])] += 1
    assert_uniform(sizes, [1, 2, 3])


@pytest.mark.parametrize("fixed", [False, True], ids=["segmented drawn", "segmented fixed"])
def test_students_beyond_the_limit_are_an_unbiased_sample(fixed):
    """Given a segmented subset of its own size drawn uniformly, any of the 20 is a student with probability 6 / 20."""
    generator, counts, draws = seeded(), Counter(), 1500
    for _ in range(draws):
        segmented = torch.zeros(1, 6, dtype=torch.bool)
        segmented[0, [0, 2, 5] if fixed else torch.randperm(6, generator=generator)[:3]] = True
        counts.update(students_of(draw_students(complete(1, 6), segmented, 6, generator), 0))
    if fixed:
        assert counts.pop((0, 2, 5)) == draws
    probability = 5 / 19 if fixed else 6 / 20
    assert len(counts) == (19 if fixed else 20)
    deviation = math.sqrt(draws * probability * (1 - probability))
    for count in counts.values():
        assert abs(count - draws * probability) < 5 * deviation


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_loss_of_few_students_is_in_expectation_that_of_all(limit):
    """Of four modalities' six pairs, each segmented as often: against a plain mean of what each pair alone gives."""
    torch.manual_seed(0)
    pairs = list(combinations(range(4), 2))
    teacher, logits = torch.randn(1, 3, 4), dict(zip(pairs, torch.randn(6, 1, 3, 4), strict=True))
    of_pairs = [float(hmsd_loss(teacher, logits[pair][None], torch.ones(1, 1), 1.0)) for pair in pairs]
    generator, losses = seeded(), []
    for _ in range(200):
        for pair in pairs:
            segmented = presence([[m in pair for m in range(4)]])
            subsets = draw_students(complete(1, 4), segmented, limit, generator)
            students = torch.stack([logits[members(row)] for row in subsets.presents[:, 0]])
            losses.append(float(hmsd_loss(teacher, students, subsets.shares, 1.0)))
    deviation = math.sqrt(sum((loss - sum(of_pairs) / 6) ** 2 for loss in losses)) / len(losses)
    assert abs(sum(losses) / len(losses) - sum(of_pairs) / 6) <= 5 * deviation
    assert len(losses) == 1200


def test_two_modalities_have_the_single_ones_as_students():
    for segmented in every_availability(2):
        subsets = draw_students(complete(1, 2), segmented[None], 6, seeded())
        assert sorted(students_of(subsets, 0)) == [(0,), (1,)]
        assert len(subsets.shares) == (3 if segmented.all() else 2)


@pytest.mark.parametrize("available", [[[1]], [[0, 1, 0], [1, 0, 0]]])
def test_one_modality_has_no_students(available):
    available = presence(available)
    subsets = draw_students(available, available, 6, seeded())
    assert torch.equal(subsets.presents, available[None])
    assert subsets.shares.tolist() == [[0.0] * len(available)]
    assert subsets.full == 0


def test_a_limit_of_zero_leaves_the_segmented_subset_alone():
    available = presence(MIXED)
    for segmented in (available, sample_by_size(available, seeded(1))):
        subsets = draw_students(available, segmented, 0, seeded())
        assert torch.equal(subsets.presents, segmented[None])
        assert subsets.shares.shape == (1, len(available))


def test_samples_of_fewer_students_are_filled_up():
    segmented = presence([[1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]])
    subsets = draw_students(presence(MIXED), segmented, 6, seeded())
    assert [len(students_of(subsets, sample)) for sample in range(4)] == [6, 3, 2, 0]
    assert subsets.presents.shape == (6, 4, 4)
    assert torch.equal(subsets.presents[3:, 1], segmented[[1]].expand(3, 4))
    assert torch.equal(subsets.presents[3:, 2], segmented[[2]].expand(3, 4))
    assert subsets.shares[:, 1].tolist() == pytest.approx([1 / 3] * 3 + [0] * 3)
    assert subsets.shares[:, 2].tolist() == [0, 0.5, 0.5, 0, 0, 0]  # all that it has is no student


# --- the full set -----------------------------------------------------------------------------------------------------


def test_full_is_the_first_only_where_every_sample_segments_all_it_has():
    available = presence(MIXED)
    assert draw_students(available, available, 6, seeded()).full == 0
    for sample in range(3):
        segmented = available.clone()
        segmented[sample, available[sample].nonzero()[0]] = False
        assert draw_students(available, segmented, 6, seeded()).full is None


def test_with_full_set_adds_it_after_the_segmented_one_at_no_share():
    available = presence(MIXED)
    segmented = presence([[1, 0, 0, 1], [1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])
    for limit in (0, 6):
        subsets = draw_students(available, segmented, limit, seeded())
        both = with_full_set(subsets, available)
        assert both.full == 1
        assert torch.equal(both.presents[both.full], available)
        assert not both.shares[both.full].any()
        others = [r for r in range(len(both.shares)) if r != both.full]
        assert torch.equal(both.presents[others], subsets.presents)
        assert torch.equal(both.shares[others], subsets.shares)


def test_with_full_set_adds_nothing_where_it_is_segmented():
    available = presence(MIXED)
    drawn = draw_students(available, available, 6, seeded())
    for subsets in (drawn, Subsets(drawn.presents, drawn.shares)):
        both = with_full_set(subsets, available)
        assert both.full == 0
        assert torch.equal(both.presents, subsets.presents)
        assert torch.equal(both.shares, subsets.shares)
