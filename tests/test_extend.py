"""A method added by docs/extend.md alone: what `make check` asks of it, in a copy of the repository, holds."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from pages import REPOSITORY, texts_of

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs" / "extend.md"
# Of `make test`: what looks at every door, every page or every module; the rest does not see a new method.
LOOKING_AT_ALL = (
    *("test_architecture_of_imports.py", "test_docs.py", "test_readme.py", "host/test_doors.py", "cli/test_doctor.py"),
    *("cli/test_demo.py", "training/test_settings.py", "planning/test_paper.py"),
)
PYTEST = ("pytest", "-q", "--assert=plain")  # rewriting what all those files assert takes seconds
LOOKING_AT_ONE = ("methods", "planning", "prediction", "training")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository with the page's files in it."""
    copy = tmp_path_factory.mktemp("extended") / "repository"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", "*.egg-info", ".pytest_cache", ".hypothesis", "build", "missmod_demo"
    )
    shutil.copytree(REPOSITORY, copy, ignore=left_out)
    for folder in ("trainers", "plans"):  # as setup.py maps them into the package
        (copy / "nnunetv2_missmod" / folder).symlink_to(copy / folder)
    for text in texts_of(PAGE, "python"):
        name = re.match(r"# (\S+\.py)\n", text)[1]
        file = copy / name
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not file.exists(), name
        file.write_text(text.partition("\n")[2])
    return copy


def run(copy, *command):
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def test_the_page_has_every_file_of_a_method(copy):
    written = {re.match(r"# (\S+\.py)\n", text)[1] for text in texts_of(PAGE, "python")}
    files = {f"nnunetv2_missmod/methods/my_method/{name}.py" for name in ("__init__", "network", "losses", "trainer")}
    assert written == {*files, "trainers/MyTrainer.py"}


def test_its_format_its_lint_and_its_types_are_right(copy):
    run(copy, "ruff", "format", "--check", ".")
    run(copy, "ruff", "check", ".")
    run(copy, "mypy")


def test_the_tests_that_look_at_every_method_accept_it(copy):
    run(copy, *PYTEST, "-m", "not slow and not release", *(f"tests/{file}" for file in LOOKING_AT_ALL))


def test_the_contract_accepts_it(copy):
    folders = [f"tests/{folder}" for folder in LOOKING_AT_ONE]
    output = run(copy, *PYTEST, "-m", "not release", "-k", "MyTrainer", *folders)
    assert int(re.search(r"(\d+) passed", output)[1]) > 30
