"""JSON files of nnU-Net's that hold an object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(file: Path) -> dict[str, Any]:
    """Read a file such as plans.json or dataset.json.

    Raises:
        ValueError: it is missing or damaged, or holds something else than keys with values.
    """
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"Expected {file.name} of nnU-Net at {file}, but it cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"Expected {file.name} of nnU-Net at {file}, keys with values in braces, got a {type(content).__name__}. "
            "Restore the file."
        )
    return content
