# `make check` is what CI runs. `make fast` leaves out the end-to-end runs.
.PHONY: check format lint types test fast slow

check: format lint types test

format:
	ruff format --check .

lint:
	ruff check .

types:
	mypy

test:
	pytest

fast:
	pytest -m "not slow"

slow:
	pytest -m slow
