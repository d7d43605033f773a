"""How nnU-Net finds a trainer by its name: in its own folders first, then in those of ``nnUNet_extTrainer``.

Relies on nnunetv2/utilities/find_objects.py: ``recursive_find_trainer_class_by_name(name)`` gives the class, and reads
the variable when it is called; where there is none it raises RuntimeError, TypeError or AssertionError.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_missmod.machine.chatter import chatter


def find_trainer_class(name: str) -> Any:
    """Find a trainer's class as nnU-Net does, but without its word on every folder that it looks into on the console.

    Raises:
        LookupError: nnU-Net finds none of this name.
    """
    try:
        with redirect_stdout(io.StringIO()), chatter():
            return recursive_find_trainer_class_by_name(name)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise LookupError(str(error)) from error
