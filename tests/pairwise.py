"""Pairwise combinations: few cases in which any two factors meet in all their values."""

from itertools import combinations, product


def pairwise(*factors):
    """List combinations, one value of each factor, in which every pair of values of two factors occurs.

    As few as a greedy choice finds; where three factors go wrong only together, it may pass by the case.
    """
    candidates = list(product(*factors))
    missing = set().union(*map(_pairs, candidates))
    chosen = []
    while missing:
        best = max(candidates, key=lambda candidate: len(_pairs(candidate) & missing))
        missing -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(combination):
    return set(combinations(enumerate(combination), 2))
