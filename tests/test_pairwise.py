from itertools import combinations, product

import pytest
from pairwise import pairwise


@pytest.mark.parametrize(
    ("factors", "most"),
    [(("abcdef", (2, 3, 4), (2, 3), (False, True), (False, True)), 20), (("ab", "cd"), 4), (("a", (1, 2, 3)), 3)],
)
def test_any_two_values_meet_in_few_combinations(factors, most):
    chosen = pairwise(*factors)
    assert set(chosen) <= set(product(*factors))
    for one, other in combinations(range(len(factors)), 2):
        met = {(combination[one], combination[other]) for combination in chosen}
        assert met == set(product(factors[one], factors[other]))
    assert len(chosen) == len(set(chosen)) <= most
