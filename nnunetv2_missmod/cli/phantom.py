"""`missmod phantom`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

MEANING = "write a synthetic cohort as an nnU-Net raw dataset"
SENTENCE = "Writes a synthetic cohort of tumours, some of whose cases may lack modalities, as an nnU-Net raw dataset."
EXAMPLE = "missmod phantom -d 501 --training 10 --test 2 --size 32 --incomplete 0.2"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of a synthetic cohort."""
    verb.add_argument("-d", type=int, default=501, help="dataset id (default: %(default)s)")
    verb.add_argument("-o", type=Path, help="folder to write to (default: nnUNet_raw)")
    verb.add_argument("--training", type=int, default=20, help="training cases (default: %(default)s)")
    verb.add_argument("--test", type=int, default=4, help="test cases (default: %(default)s)")
    verb.add_argument("--modalities", type=int, default=4, help="channels per case (default: %(default)s)")
    verb.add_argument("--size", type=int, default=64, help="voxels along each axis (default: %(default)s)")
    verb.add_argument("--incomplete", type=float, default=0.0, help="share of training cases that lack channels")
    verb.add_argument("--hard", action="store_true", help="small, faint tumours among findings that look like them")
    verb.add_argument("--seed", type=int, default=0, help="the same makes the same cases (default: %(default)s)")


def run(parsed: argparse.Namespace) -> int:
    """Write the synthetic cohort."""
    from nnunetv2_missmod.datasets.phantom.cohort import write_phantom_dataset  # noqa: PLC0415

    raw = parsed.o or os.environ.get("nnUNet_raw")  # noqa: SIM112, nnU-Net's spelling
    if not raw:
        raise ValueError("Expected a folder to write to, got neither -o nor the variable nnUNet_raw. Give one of them.")
    folder = write_phantom_dataset(
        Path(raw),
        parsed.d,
        num_training=parsed.training,
        num_test=parsed.test,
        num_modalities=parsed.modalities,
        shape=(parsed.size,) * 3,
        incomplete=parsed.incomplete,
        hard=parsed.hard,
        seed=parsed.seed,
    )
    print(folder)
    return 0
