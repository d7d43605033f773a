"""Masks and finishes of them for ``predict_cohort``; spawned processes can import both, and without nnU-Net."""

import os
from typing import Any, NamedTuple

import numpy as np
import torch


class Segmented(NamedTuple):
    """As the engine's, whose module takes seconds to load in every process."""

    position: int
    present: np.ndarray
    logits: np.ndarray
    properties: dict[str, Any]


def segmented(position, value=0):
    return Segmented(position, np.array([True]), np.full((1, 2, 2, 2), value, dtype=np.float16), {"value": value})


def name_and_value(case, found):
    """What is worth keeping of a mask; case "bad" cannot be finished."""
    if case.name == "bad":
        raise ValueError("bad cannot be finished")
    return f"{case.name} {found.position} {found.logits.sum():g}"


def value_and_process(case, found):
    """The same, the process that finishes, and the threads that it may use."""
    return name_and_value(case, found), os.getpid(), torch.get_num_threads()


def die(case, found):
    os._exit(1)
