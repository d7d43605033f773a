"""The files of a training: there whole or not at all, after a kill and on a full disk; opened as data alone."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_missmod.files.whole_files import flush
from nnunetv2_missmod.host.checkpoint import CHECKPOINTS

UNFINISHED = ".tmp"  # ends the name of a file that is being written


@contextmanager
def whole_file(file: str) -> Iterator[str]:
    """Give a name to write to; what was written gets the name of ``file`` once it is on the disk.

    Raises:
        OSError: it could not be written. The former file is as it was, and nothing half written stays.
    """
    unfinished = f"{file}{UNFINISHED}"
    try:
        yield unfinished
        flush(Path(unfinished))
        os.replace(unfinished, file)
    except (OSError, RuntimeError) as error:  # torch.save tells of a full disk by a RuntimeError
        Path(unfinished).unlink(missing_ok=True)
        raise OSError(
            f"{file} could not be written: {error}. What was there before is untouched. If the disk is full, free "
            "space; the same command with --c goes on from the last checkpoint."
        ) from error


def require_archive(file: str) -> None:
    """Check that PyTorch wrote an archive to its end: on a full disk it may end without an error.

    Raises:
        OSError: it did not.
    """
    if not zipfile.is_zipfile(file):
        raise OSError("it ends too early")


def require_whole_checkpoint(file: str) -> None:
    """Check that a checkpoint is as it was written, to the last byte.

    Raises:
        ValueError: it is cut off or damaged; says from what ``--c`` would go on without it.
    """
    if not _is_whole(file):
        others = [name for name in CHECKPOINTS if _is_whole(str(Path(file).with_name(name)))]
        goes_on = f"goes on from {others[0]}" if others else "starts anew, as there is no other checkpoint"
        raise ValueError(
            f"Expected a whole checkpoint, got {file}, which is cut off or damaged: its disk was full, or a copy of it "
            f"ended early. Copy it again, or move it away: --c then {goes_on}."
        )


def remove_unfinished_checkpoints(folder: str) -> None:
    """Remove what a run that was killed while it saved has left."""
    for file in Path(folder).glob(f"checkpoint_*.pth{UNFINISHED}"):
        file.unlink(missing_ok=True)


def _is_whole(file: str) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
