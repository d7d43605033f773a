"""`missmod availability`."""

from __future__ import annotations

import argparse
from pathlib import Path

MEANING = "draw which cases lack which modalities, for convert --availability"
SENTENCE = "Draws a table of which training cases lack which modalities, with the missing rates that are asked for."
EXAMPLE = "missmod availability -d 137 --rates T1=0.4 T1c=0.7 --seed 0 -o imbalanced.csv"


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod availability`."""
    verb.add_argument("-d", required=True, help="raw dataset of complete training cases: id or name")
    verb.add_argument(
        "--rates", nargs="+", required=True, metavar="NAME=RATE", help="shares of cases that lack it: FLAIR=0.2 T1=0.4"
    )
    verb.add_argument("--seed", type=int, default=0, help="the same draws the same (default: %(default)s)")
    verb.add_argument("-o", type=Path, required=True, metavar="FILE", help="csv file to write")


def run(parsed: argparse.Namespace) -> int:
    """Draw the table, and say what was drawn."""
    from nnunetv2_missmod.datasets.conversion.convert_folder import NnunetFolders  # noqa: PLC0415
    from nnunetv2_missmod.datasets.conversion.draw_availability import draw_for_dataset  # noqa: PLC0415
    from nnunetv2_missmod.datasets.conversion.restore import description_of_dataset  # noqa: PLC0415

    if parsed.seed < 0:
        raise ValueError(f"Expected a --seed of 0 or more, got {parsed.seed}.")
    NnunetFolders.from_environment()  # says which variable is not set
    dataset = description_of_dataset(parsed.d).parent
    for line in draw_for_dataset(dataset, rates_of(parsed.rates), parsed.seed, parsed.o):
        print(line)
    print(parsed.o)
    return 0


def rates_of(texts: list[str]) -> dict[str, float]:
    """Read NAME=RATE.

    Raises:
        ValueError: it is something else, or a name is there twice.
    """
    rates: dict[str, float] = {}
    for text in texts:
        name, _, rate = text.rpartition("=")
        try:
            value = float(rate)
        except ValueError:
            value = -1.0
        if not name or name in rates or value < 0:
            raise ValueError(f"Expected --rates NAME=RATE, each name once, such as T1=0.4, got {text!r}.")
        rates[name] = value
    return rates
