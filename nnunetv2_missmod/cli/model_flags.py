"""The flags that `missmod predict` and `missmod evaluate` share: which model, how to predict, which subsets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings


def add_model(verb: argparse.ArgumentParser) -> None:
    """Add the flags by which nnUNetv2_predict names a model and says how to predict, with its defaults."""
    verb.add_argument("-d", required=True, help="dataset: id or name")
    verb.add_argument("-c", required=True, help="configuration")
    verb.add_argument("-tr", default="nnUNetTrainer", help="trainer; any (default: %(default)s)")
    verb.add_argument("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    verb.add_argument("-f", nargs="+", default=("0", "1", "2", "3", "4"), help="folds (default: 0 1 2 3 4)")
    verb.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    verb.add_argument("-device", default="cuda", help="cuda, cpu or mps (default: %(default)s)")
    verb.add_argument("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    verb.add_argument("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    verb.add_argument("-nps", type=int, default=3, help="processes that export and score (default: %(default)s)")
    verb.add_argument("-num_parts", type=int, default=1, help="how many such commands share the cases and -o")
    verb.add_argument("-part_id", type=int, default=0, help="which of them this is, from 0")


def add_subsets(verb: argparse.ArgumentParser, meaning: str) -> None:
    """Add what is segmented, and what is removed from the masks."""
    verb.add_argument("--subsets", help=meaning)
    verb.add_argument(
        "--min_voxels", nargs="+", default=(), metavar="REGION=N", help="remove a predicted region of fewer voxels"
    )


def model_of(parsed: argparse.Namespace) -> tuple[ModelChoice, PredictionSettings]:
    """Read the flags of ``add_model``."""
    from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings  # noqa: PLC0415

    choice = ModelChoice(parsed.d, parsed.c, parsed.tr, parsed.p, tuple(parsed.f), parsed.chk)
    mirroring = not parsed.disable_tta
    return choice, PredictionSettings(
        parsed.device, parsed.step_size, mirroring, parsed.nps, parsed.num_parts, parsed.part_id
    )


def min_voxels_of(parsed: argparse.Namespace) -> dict[str, int]:
    """Read REGION=N.

    Raises:
        ValueError: it is something else.
    """
    pairs = [text.rpartition("=") for text in parsed.min_voxels]
    for text, (region, _, count) in zip(parsed.min_voxels, pairs, strict=True):
        if not (region and count.isdecimal()):
            raise ValueError(f"Expected --min_voxels REGION=N, such as enhancing=200, got {text!r}.")
    return {region: int(count) for region, _, count in pairs}
