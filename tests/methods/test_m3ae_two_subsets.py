"""The two subsets of M3AE's second stage: never equal where a case has two modalities, each drawn as one alone is."""

import math
from collections import Counter
from itertools import combinations, product

import pytest
import torch
from scipy.stats import chi2

from nnunetv2_missmod.methods.m3ae.masking import drop_in_two_ways

CONFIDENCE = 0.999  # of the chi-square tests; the seeds are fixed, so each either always passes or always fails


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn_pairs(available, samples, seed=0):
    """Pairs of subsets as tuples of 0 and 1."""
    first, second = drop_in_two_ways(torch.tensor([available]).expand(samples, -1), seeded(seed))
    return list(zip(map(tuple, first.long().tolist()), map(tuple, second.long().tolist()), strict=True))


def assert_drawn_as_expected(drawn, probabilities):
    """Chi-square test of what was drawn against the probability of each outcome."""
    counts, draws = Counter(drawn), len(drawn)
    possible = {outcome: p for outcome, p in probabilities.items() if p > 0}
    assert set(counts) <= set(possible)
    assert min(possible.values()) * draws >= 5  # else the test would not hold
    statistic = sum((counts[o] - draws * p) ** 2 / (draws * p) for o, p in possible.items())
    assert statistic <= chi2.ppf(CONFIDENCE, max(len(possible) - 1, 1))


def subsets_of(available):
    members = [m for m, is_available in enumerate(available) if is_available]
    kept = (subset for size in range(1, len(members) + 1) for subset in combinations(members, size))
    return [tuple(int(m in subset) for m in range(len(available))) for subset in kept]


def marginal(available):
    """The card's: d uniform on 0..A-1, then all subsets of A - d alike."""
    count = sum(available)
    return {s: 1 / count / math.comb(count, sum(s)) for s in subsets_of(available)}


def chance_of_sizes(first, second, count):
    """Uniform for each alone, and never all twice."""
    if first == second == count:
        return 0.0
    if count in (first, second):
        return 1 / (count * (count - 1))
    return (count - 2) / (count * (count - 1) ** 2)


def joint(available):
    """Of every pair: sizes as above, members independent; where both are the same, one is swapped in the second."""
    count = sum(available)
    chances = {}
    for first, second in product(subsets_of(available), repeat=2):
        k, j = sum(first), sum(second)
        chance = chance_of_sizes(k, j, count) / math.comb(count, k) / math.comb(count, j)
        differing = sum(a != b for a, b in zip(first, second, strict=True))
        if k == j and differing == 0:
            chance = 0.0
        elif k == j and differing == 2:
            chance *= 1 + 1 / (k * (count - k))
        chances[first, second] = chance
    return chances


SEVERAL = {
    "two": (True, True),
    "three": (True, True, True),
    "four": (True, True, True, True),
    "three of four": (True, False, True, True),
    "two of five": (False, True, False, False, True),
}
on_several = pytest.mark.parametrize("available", SEVERAL.values(), ids=SEVERAL.keys())


@on_several
def test_pairs_follow_their_law(available):
    assert_drawn_as_expected(drawn_pairs(available, 20000), joint(available))


@on_several
def test_the_law_has_the_cards_marginals(available):
    chances = joint(available)
    assert sum(chances.values()) == pytest.approx(1, rel=1e-9)
    for subset, chance in marginal(available).items():
        assert sum(p for (first, _), p in chances.items() if first == subset) == pytest.approx(chance, rel=1e-9)
        assert sum(p for (_, second), p in chances.items() if second == subset) == pytest.approx(chance, rel=1e-9)


@on_several
def test_each_subset_alone_is_drawn_as_one(available):
    for subsets in zip(*drawn_pairs(available, 8000, seed=3), strict=True):
        assert_drawn_as_expected(subsets, marginal(available))


@pytest.mark.parametrize("modalities", [2, 3, 4, 7])
def test_two_subsets_are_never_equal(modalities):
    first, second = drop_in_two_ways(torch.ones(30000, modalities, dtype=torch.bool), seeded(1))
    assert not (first == second).all(1).any()


def test_a_case_of_one_modality_is_seen_twice_as_it_is():
    available = torch.tensor([[False, True, False], [True, False, False]]).repeat(200, 1)
    for drawn in drop_in_two_ways(available, seeded()):
        assert torch.equal(drawn, available)


def test_samples_of_any_availability_go_side_by_side():
    patterns = [row for row in product((False, True), repeat=4) if any(row)]
    available = torch.tensor(patterns).repeat(200, 1)
    first, second = drop_in_two_ways(available, seeded())
    for drawn in (first, second):
        assert drawn.dtype == torch.bool
        assert drawn.any(1).all()
        assert not (drawn & ~available).any()
    assert torch.equal((first == second).all(1), available.sum(1) == 1)


def test_samples_of_a_batch_are_drawn_each_from_its_own():
    """No draw of one sample tells of another's."""
    first, second = drop_in_two_ways(torch.ones(20000, 2, dtype=torch.bool), seeded())
    whole = first.all(1).view(-1, 2).long()
    assert_drawn_as_expected([tuple(row) for row in whole.tolist()], dict.fromkeys(product((0, 1), repeat=2), 1 / 4))
    assert torch.equal(first.all(1), ~second.all(1))  # of two modalities, one subset is the whole


def test_draws_repeat_with_their_generator_and_leave_torchs_own_alone():
    before, available = torch.get_rng_state(), torch.ones(40, 4, dtype=torch.bool)
    draws = [torch.cat(drop_in_two_ways(available, seeded(seed))) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_waits_for_the_device():
    """A meta tensor has no values: whatever would wait for the device fails on it."""
    first, second = drop_in_two_ways(torch.ones(2, 3, dtype=torch.bool, device="meta"))
    assert first.shape == second.shape == (2, 3)
