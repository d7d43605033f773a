# `make check` is what CI runs. `make fast` leaves out the end-to-end runs.
# Two processes; the tests of a file share one, in the order in which they are collected.
PYTEST = pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: check format lint types test fast slow

check: format lint types test

format:
	ruff format --check .

lint:
	ruff check .

types:
	mypy

test:
	$(PYTEST)

fast:
	$(PYTEST) -m "not slow"

slow:
	$(PYTEST) -m slow
