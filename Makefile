# `make check` is what CI runs. `make fast` leaves out what is marked slow; `make release` looks whether every trainer
# is in the tables of README and docs.
# A process for each of two cores: three took 27 minutes where two had taken 17 to 19. The tests of a file share one, in
# the order in which they are collected.
PYTEST = pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: check format lint types docs pages test fast slow release

check: format lint types docs test

format:
	ruff format --check .

lint:
	ruff check .

types:
	mypy

# The site, in site/: a warning is an error. The variables silence notices about the future of the site's generator.
docs:
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true mkdocs build --quiet

# docs/flags.md from the parsers and docs/methods.md from the cards; tests hold them equal.
pages:
	python tests/flags_page.py
	python tests/methods_page.py

test:
	$(PYTEST) -m "not release" --durations=10

fast:
	$(PYTEST) -m "not slow and not release"

slow:
	$(PYTEST) -m slow

release:
	pytest -m release tests/test_release.py
