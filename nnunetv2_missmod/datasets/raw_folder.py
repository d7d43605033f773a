"""Where a new dataset goes in nnUNet_raw, and its JSON files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_missmod.files.whole_files import write_whole

LARGEST_ID = 999


def free_folder(raw: Path, dataset_id: int, name: str, other_folders: Sequence[Path] = ()) -> Path:
    """Name the dataset's folder.

    Raises:
        ValueError: the id or the name cannot be used, or the id is taken.
    """
    if not 1 <= dataset_id <= LARGEST_ID:
        raise ValueError(f"Expected a dataset id from 1 to {LARGEST_ID}, got {dataset_id}: choose another -d.")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ValueError(f"Expected a name of letters, digits, _, . and -, got {name!r}: give one with --name.")
    for where in (raw, *other_folders):
        if where.exists() and not where.is_dir():
            raise ValueError(f"Expected a folder for datasets, got {where}, which is a file. Give another.")
    folder = raw / f"Dataset{dataset_id:03d}_{name}"
    for where in (raw, *other_folders):
        for taken in sorted(where.glob(f"Dataset{dataset_id:03d}_*")):
            if where == raw or taken.name != folder.name:
                raise ValueError(
                    f"Expected dataset id {dataset_id} to be free, found {taken}: choose another id or remove it."
                )
    return folder


def write_json(file: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON as nnU-Net does, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    text = json.dumps(content, indent=4) + "\n"
    write_whole(file, lambda partial: partial.write_text(text, encoding="utf-8"))
