import os

import pytest

from nnunetv2_missmod.machine.parallel import in_processes


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_items(processes):
    assert in_processes(abs, [-3, 2, -1], processes, "") == [3, 2, 1]


def test_nothing_to_do():
    assert in_processes(abs, [], 8, "") == []


@pytest.mark.parametrize("processes", [1, 2])
def test_errors_are_not_swallowed(processes):
    with pytest.raises(TypeError, match="bad operand"):
        in_processes(abs, [1, "two"], processes, "")


def test_a_process_that_is_ended_is_an_error():
    """As the system ends one when memory runs out."""
    with pytest.raises(ValueError, match="fewer with -np"):
        in_processes(os._exit, [1, 1], 2, "")
