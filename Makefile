# `make check` is what CI runs. `make fast` leaves out the end-to-end runs.
# Two processes; tests that share a fixture of the whole session stay in one.
PYTEST = pytest -n 2 --dist loadgroup

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
