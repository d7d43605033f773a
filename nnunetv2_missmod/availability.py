"""Which modalities the cases of a preprocessed dataset have."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from tqdm import tqdm

from nnunetv2_missmod.modalities import subset_name
from nnunetv2_missmod.preprocessing import varying

LONG_SEARCH = 100  # cases from which on a progress bar is worth its line


def find_available(dataset: Any, show_progress: bool = True) -> dict[str, tuple[bool, ...]]:
    """Find the modalities that each case has: its channels that are not constant.

    Args:
        dataset: nnU-Net's dataset.
        show_progress: show a bar when the cases are many.

    Raises:
        ValueError: names the cases that have none.
    """
    cases = dataset.identifiers
    hidden = not show_progress or len(cases) < LONG_SEARCH
    with ThreadPoolExecutor(8) as pool:
        rows = pool.map(lambda case: _varying_in_file(dataset.load_case(case)[0]), cases)
        found = dict(zip(cases, tqdm(rows, "Looking for missing modalities", len(cases), disable=hidden), strict=True))
    empty = [case for case, row in found.items() if not any(row)]
    if empty:
        raise ValueError(
            f"Expected cases with at least one modality, got only constant channels in {', '.join(empty)}. "
            f"Leave these cases out of splits_final.json, or remove them from {dataset.source_folder}."
        )
    return found


def describe_incomplete(available: dict[str, tuple[bool, ...]], modalities: list[str]) -> str:
    """Say how many cases lack modalities, and which subsets they have instead."""
    incomplete = Counter(subset_name(torch.tensor(row), modalities) for row in available.values() if not all(row))
    counts = "".join(f" {count} x {name};" for name, count in incomplete.most_common())
    return f"{incomplete.total()} of {len(available)} cases lack modalities.{counts}"


def _varying_in_file(images: Any) -> tuple[bool, ...]:
    """Tell which channels of a case (M, x, y, z), an array on disk, are not constant.

    The middle slice settles it for nearly every channel that holds an image; only the others are read whole.
    """
    middle = images.shape[1] // 2
    return tuple(
        bool(varying(images[m : m + 1, middle : middle + 1])[0] or varying(images[m : m + 1])[0])
        for m in range(images.shape[0])
    )
