"""What the GPU check needs of a Python with PyTorch: looked for by importing it, installed where it is missing.

Imports nothing but the standard library before that.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
GIVEN = ("torch", "torchvision")  # come with the machine, for its GPU and for each other: never installed here
# As they are imported: what setup.py requires, pytest for the helpers of the tests, and the package with its doors.
NEEDED = (
    *("nnunetv2", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures", "SimpleITK", "nibabel"),
    *("numpy", "scipy", "skimage", "sklearn", "monai", "pandas", "pyarrow", "matplotlib", "seaborn", "jinja2"),
    *("filelock", "rich", "pytest", "nnunetv2_missmod", "nnunetv2_missmod.trainers", "nnunetv2_missmod.plans"),
)
TRIED = "GPU_CHECK_INSTALLED"  # in the environment once something was installed


def require(wheels: Path | None) -> None:
    """Import all that is needed; install what is not there, and begin this command anew.

    Args:
        wheels: a folder of wheels to install from; None: the package index.

    Raises:
        RuntimeError: PyTorch is not there, or something does not import after it was installed.
    """
    if broken := why_missing(GIVEN):
        raise RuntimeError(
            f"Expected a Python with PyTorch and a torchvision that matches it, got {sys.executable}: "
            f"{'; '.join(broken.values())}. Name another with PYTHON=..., or install both first."
        )
    missing = why_missing(NEEDED)
    if not missing:
        return
    if os.environ.get(TRIED):
        raise RuntimeError(f"Expected to find what was installed, but {'; '.join(missing.values())}.")
    print(f"Not there: {', '.join(missing)}. Installing into {sys.executable}.", flush=True)
    subprocess.run(install_command(wheels), check=True, cwd=REPOSITORY)
    arguments = [sys.executable, "-m", "benchmarks.gpu_check", *sys.argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, TRIED: "1"})


def why_missing(names: tuple[str, ...]) -> dict[str, str]:
    """Import modules by name; say of each that does not import why."""
    missing = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # torchvision that does not match torch raises RuntimeError
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            missing[name] = f"{name} does not import ({reason})"
    return missing


def install_command(wheels: Path | None) -> list[str]:
    """Give pip's command that installs the package as it is here, and pytest."""
    source = [] if wheels is None else ["--no-index", "--find-links", str(wheels.resolve())]
    return [sys.executable, "-m", "pip", "install", "--quiet", *source, "--editable", str(REPOSITORY), "pytest"]
