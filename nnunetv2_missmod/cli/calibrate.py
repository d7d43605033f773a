"""`missmod calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_missmod.machine.chatter import chatter_kept_beside

MEANING = "from the scores of held-out cases, how far new masks can be trusted"
SENTENCE = (
    "Learns from the scores of held-out cases what the masks of new ones are worth, and writes it into the model's "
    "folder: missmod predict then says of each mask which Dice is expected."
)
EXAMPLE = "missmod calibrate scores/dcseg"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod calibrate`."""
    verb.add_argument("folder", type=Path, metavar="FOLDER", help="what missmod evaluate wrote")
    verb.add_argument("-m", type=Path, help="folder of the model (default: that of nnUNet_results)")
    verb.add_argument(
        "--held_out", action="store_true", help="the model was not trained on these cases, where no split says so"
    )
    verb.add_argument("--zip", type=Path, help="a zip of the model: the calibration is put into it as well")
    verb.add_argument(
        "--confidence", type=float, default=0.9, help="of the bounds that are tried out (default: %(default)s)"
    )
    verb.add_argument("-np", type=int, default=3, help="processes that read training images (default: %(default)s)")
    verb.add_argument("--verbose", action="store_true", help="show what nnU-Net prints instead of logging it")


def run(parsed: argparse.Namespace) -> int:
    """Calibrate, and say how well it works."""
    from nnunetv2_missmod.evaluation.calibrate import calibrate  # noqa: PLC0415
    from nnunetv2_missmod.evaluation.calibration_summary import print_summary  # noqa: PLC0415
    from nnunetv2_missmod.prediction.trained import add_to_zip  # noqa: PLC0415

    with chatter_kept_beside(parsed.folder, parsed.verbose):
        made = calibrate(parsed.folder, parsed.m, parsed.held_out, parsed.confidence, parsed.np)
        print_summary(made.table)
        print(made.of_sequences)
        print(f"Written: {made.file}")
        if parsed.zip:
            add_to_zip(made.file, parsed.zip)
            print(f"Written: {parsed.zip}")
    return 0
