"""The doors: the folder in which nnU-Net finds this package's trainers, and the variable that points there."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"
PRETRAINING = "PretrainTrainer"  # how the name of a trainer ends that pretrains and segments nothing


def door_folder() -> Path:
    """Find the folder that nnU-Net must search, on every kind of install."""
    return _folder_of("nnunetv2_missmod.trainers")


def plans_folder() -> Path:
    """Find the folder of the plan fragments."""
    return _folder_of("nnunetv2_missmod.plans")


def door_names() -> list[str]:
    """Names of the trainers: one file each."""
    return sorted(file.stem for file in door_folder().glob("*.py") if file.stem != "__init__")


def segmenting_names() -> list[str]:
    """Names of the trainers that segment: all but the pretrainings."""
    return [name for name in door_names() if not name.endswith(PRETRAINING)]


def pretraining_of(name: str) -> str | None:
    """Name of the trainer that pretrains for another: ``XTrainer`` starts from where ``XPretrainTrainer`` ended."""
    pretraining = name.removesuffix("Trainer") + PRETRAINING
    return pretraining if pretraining in door_names() else None


def with_doors(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy the environment with the door folder first among the folders that nnU-Net searches."""
    folders = [str(door_folder()), *filter(None, environment.get(VARIABLE, "").split(os.pathsep))]
    return {**environment, VARIABLE: os.pathsep.join(dict.fromkeys(folders))}


def find_command(name: str) -> str:
    """Find a command of this Python environment, whether or not it is activated, or of PATH.

    Raises:
        ValueError: there is none.
    """
    beside_python = str(Path(sys.executable).parent)
    command = shutil.which(name, path=os.pathsep.join([beside_python, os.environ.get("PATH", os.defpath)]))
    if command is None:
        raise ValueError(
            f"Expected a command such as nnUNetv2_train, got {name!r}, which is neither beside {sys.executable} nor "
            f"on PATH. Check its spelling; `pip show nnunetv2` says whether nnU-Net is installed here."
        )
    return command


def _folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, f"{package} is not installed"
    return Path(spec.submodule_search_locations[0]).resolve()
