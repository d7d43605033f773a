"""Seeding what this process draws, with whatever generator."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_process(*numbers: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators of this process by some numbers, such as seed, epoch and rank."""
    (state,) = np.random.SeedSequence(numbers).generate_state(1)
    random.seed(int(state))
    np.random.seed(int(state))
    torch.manual_seed(int(state))
