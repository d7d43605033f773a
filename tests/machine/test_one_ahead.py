"""One item ahead: in order, errors at their turn, and nothing begun that nobody asked for."""

import threading

import pytest

from nnunetv2_missmod.machine.one_ahead import OneAhead


def test_results_come_in_the_order_of_the_items():
    with OneAhead(lambda item: 2 * item, range(5)) as ahead:
        assert [ahead.take() for _ in range(5)] == [0, 2, 4, 6, 8]


def test_the_next_is_made_meanwhile_in_another_thread_and_one_only():
    made, second = [], threading.Event()

    def make(item):
        made.append((item, threading.current_thread() is threading.main_thread()))
        if item == 1:
            second.set()

    with OneAhead(make, range(5)) as ahead:
        ahead.take()
        assert second.wait(5)
    assert made == [(0, False), (1, False)]


def test_no_item_is_no_error():
    with OneAhead(str, []):
        pass


def test_an_error_is_raised_at_its_turn_and_the_rest_goes_on():
    def make(item):
        return 1 // item

    with OneAhead(make, [1, 0, 1]) as ahead:
        assert ahead.take() == 1
        with pytest.raises(ZeroDivisionError):
            ahead.take()
        assert ahead.take() == 1


def test_memory_that_ends_twice_is_an_error_of_its_item():
    def make(item):
        if item == 1:
            raise MemoryError
        return item

    with OneAhead(make, range(3)) as ahead:
        assert ahead.take() == 0
        with pytest.raises(MemoryError):
            ahead.take()
        assert ahead.take() == 2
