"""`missmod doctor`: what is wrong with an installation, line by line, each with its mend."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from rich.console import Console

from nnunetv2_missmod import __version__
from nnunetv2_missmod.cli.json_output import print_json, words_on_stderr
from nnunetv2_missmod.host.doors import VARIABLE, door_folder, door_names, with_doors
from nnunetv2_missmod.machine.chatter import chatter_kept_beside

FOLDERS = {
    "nnUNet_raw": "datasets as they came",
    "nnUNet_preprocessed": "preprocessed datasets and plans",
    "nnUNet_results": "trained models",
}


class Finding(NamedTuple):
    """One line of the report; a mend is there when something is wrong."""

    what: str
    mend: str | None = None


def run_doctor(looked_at: Iterable[Finding], as_json: bool = False) -> int:
    """Print every finding; 1 if anything is wrong, else 0."""
    with chatter_kept_beside(None):
        found = list_findings(looked_at) if as_json else print_findings(looked_at)
    if as_json:
        wrong = [finding for finding in found if finding.mend is not None]
        print_json({"version": __version__, "wrong": len(wrong), "findings": [f._asdict() for f in found]})
    return int(any(finding.mend is not None for finding in found))


def list_findings(looked_at: Iterable[Finding]) -> list[Finding]:
    """Find, and print nothing on standard output."""
    with words_on_stderr(True):
        return list(looked_at)


def print_findings(looked_at: Iterable[Finding]) -> list[Finding]:
    """Print every finding as it is found."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    found = []
    for finding in looked_at:
        found.append(finding)
        console.print("ok    " if finding.mend is None else "WRONG ", finding.what, sep="")
        if finding.mend is not None:
            console.print("      mend: ", finding.mend, sep="")
    wrong = sum(finding.mend is not None for finding in found)
    console.print(f"{wrong} to mend." if wrong else "All is well.")
    return found


def findings() -> Iterator[Finding]:
    """Look at everything that a training and a prediction need."""
    yield Finding(f"nnunetv2_missmod {__version__}")
    yield check_nnunet()
    yield check_torchvision()
    yield check_variable()
    for name in door_names():
        yield check_door(name)
    yield check_gpu()
    for variable, purpose in FOLDERS.items():
        yield check_folder(variable, purpose)


def check_nnunet() -> Finding:
    """nnU-Net is there in a version that knows outside trainers."""
    mend = 'pip install "nnunetv2>=2.8.0,<3"'
    try:
        found = version("nnunetv2")
    except PackageNotFoundError:
        return Finding("nnU-Net is not installed", mend)
    major, minor, *_ = (*map(int, re.findall(r"\d+", found)), 0)
    fits = major == 2 and minor >= 8
    return Finding(f"nnU-Net {found}", None if fits else f"{mend}   (outside trainers need 2.8.0 or later)")


def check_torchvision() -> Finding:
    """Torch and torchvision match: nnU-Net's trainer search imports both."""
    versions = f"torch {_version('torch')}, torchvision {_version('torchvision')}"
    try:
        import_module("torchvision")
    except Exception as error:
        mend = "pip install --force-reinstall torch torchvision   (both from the same index)"
        return Finding(f"{versions} do not match ({error}); every trainer lookup of nnU-Net fails", mend)
    return Finding(versions)


def check_variable() -> Finding:
    """The variable points at the doors."""
    folders = [Path(f).resolve() for f in os.environ.get(VARIABLE, "").split(os.pathsep) if f.strip()]
    mend = f'export {VARIABLE}="$(missmod doors)"   (or start nnU-Net commands with: missmod run)'
    if not folders:
        return Finding(f"{VARIABLE} is not set", mend)
    if door_folder() not in folders:
        added = f'export {VARIABLE}="$(missmod doors){os.pathsep}${VARIABLE}"'
        return Finding(f"{VARIABLE} is {os.environ[VARIABLE]}, which does not hold the doors", added)
    return Finding(f"{VARIABLE} points at {door_folder()}")


def check_door(name: str) -> Finding:
    """NnU-Net's own lookup finds the trainer."""
    try:
        from nnunetv2_missmod.host.trainer_lookup import find_trainer_class  # noqa: PLC0415, slow import

        with patch.dict(os.environ, with_doors(os.environ)):
            find_trainer_class(name)
    except Exception as error:
        return Finding(
            f"{name} is not found by nnU-Net ({error})", "pip install nnunetv2_missmod again, from its folder"
        )
    return Finding(f"{name} is found by nnU-Net")


def check_gpu() -> Finding:
    """Say which device there is; a CPU alone is slow but not wrong."""
    try:
        import torch  # noqa: PLC0415, slow import
    except Exception as error:
        return Finding(f"torch cannot be imported ({error})", "pip install --force-reinstall torch torchvision")
    if torch.cuda.is_available():
        return Finding(f"GPU {torch.cuda.get_device_name()}")
    return Finding("no GPU: use -device cpu (slow)")


def check_folder(variable: str, purpose: str) -> Finding:
    """One of nnU-Net's folders is set and there."""
    folder = os.environ.get(variable)
    if not folder:
        return Finding(f"{variable} is not set", f"export {variable}=/path/to/a/folder   ({purpose})")
    if not Path(folder).is_dir():
        return Finding(f"{variable} is {folder}, which does not exist", f"mkdir -p {shlex.quote(folder)}")
    return Finding(f"{variable} is {folder}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
