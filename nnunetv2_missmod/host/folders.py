"""nnU-Net's folders for as long as something is tried out.

Relies on nnunetv2/paths.py: each folder's variable is read whenever the folder is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@contextmanager
def temporary_nnunet_folders() -> Iterator[Path]:
    """Point all of nnU-Net's variables to an empty folder that goes with this context, and let no logger start."""
    before = dict(os.environ)
    with TemporaryDirectory() as folder:
        try:
            os.environ.update({**dict.fromkeys(VARIABLES, folder), "nnUNet_wandb_enabled": "0"})
            yield Path(folder)
        finally:
            os.environ.clear()
            os.environ.update(before)
