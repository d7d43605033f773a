"""Finished files brought to their places, all or none, however the process ends."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from nnunetv2_missmod.datasets.raw_folder import write_json
from nnunetv2_missmod.files.whole_files import write_whole

RECORD = "placed.json"
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES)


def place_files(
    files: Mapping[Path, Path], hidden: Path, finish: Callable[[], object], done: Path | None = None
) -> None:
    """Give finished files their names; what was placed before an error, or before this process died, is taken back.

    Args:
        files: where each goes; nothing may be there.
        hidden: the working folder, which keeps a record for ``take_back``.
        finish: called at the end, with the files in their places.
        done: there when ``finish`` did its work; None if that is known by the end of this function.

    Raises:
        ValueError: something is where a file goes.
        OSError: a file could not be written.
    """
    digests = {str(goal): _digest(file) for file, goal in files.items()}
    write_json(hidden / RECORD, {"done": str(done) if done else None, "files": digests})
    try:
        for file, goal in files.items():
            goal.parent.mkdir(parents=True, exist_ok=True)
            _bring(file, goal)
        finish()
    except BaseException:
        take_back(hidden)
        raise
    (hidden / RECORD).unlink()


def take_back(hidden: Path) -> None:
    """Remove what ``place`` placed and could not finish; files that were changed since are left alone.

    Raises:
        OSError: a file could not be removed.
    """
    with suppress(FileNotFoundError, ValueError):
        record = json.loads((hidden / RECORD).read_text(encoding="utf-8"))
        if record["done"] and Path(record["done"]).exists():
            return
        for goal, digest in record["files"].items():
            _remove(Path(goal), digest)


def _bring(file: Path, goal: Path) -> None:
    try:
        os.link(file, goal)  # unlike a move, it never replaces what is there
    except OSError as error:
        if goal.exists() or goal.is_symlink():
            raise ValueError(f"Expected nothing at {goal}, found a file. Convert again.") from error
        if error.errno not in NO_LINKS:
            raise
        write_whole(goal, partial(shutil.copyfile, file))


def _remove(goal: Path, digest: str) -> None:
    goal.with_name(f".partial_{goal.name}").unlink(missing_ok=True)
    if goal.is_file() and _digest(goal) == digest:
        goal.unlink()
    with suppress(OSError):
        goal.parent.rmdir()  # if nothing else is in it


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
