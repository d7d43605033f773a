"""A table of missing modalities, drawn: as many cases lack each modality as its rate asks for, none lacks all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nnunetv2_missmod.datasets.conversion.availability import Availability, write_availability
from nnunetv2_missmod.datasets.conversion.outcomes import KEPT, TABLE_FILE
from nnunetv2_missmod.datasets.layouts.archive import examples
from nnunetv2_missmod.datasets.layouts.nnunet_raw import read_nnunet
from nnunetv2_missmod.datasets.layouts.source import Source, check_names


def draw_availability(
    cases: Sequence[str], modalities: Sequence[str], rates: Mapping[str, float], seed: int = 0
) -> Availability:
    """Draw which modalities each case keeps.

    A modality is taken from round(rate * number of cases) cases, drawn uniformly and for each modality apart. A case
    that would be left with none gets one from a case that keeps several, so that the numbers stay what they are.

    Args:
        cases: their names.
        modalities: in channel order.
        rates: shares of the cases that lack a modality, from 0 to below 1; 0 for those that are not named.
        seed: the same draws the same.

    Raises:
        ValueError: a modality is unknown, or the rates leave one to no case or some case none.
    """
    absent = _numbers_absent(len(cases), modalities, rates)
    generator = np.random.default_rng(seed)
    present = np.ones((len(cases), len(modalities)), dtype=bool)
    for channel, number in enumerate(absent):
        present[generator.permutation(len(cases))[:number], channel] = False
    for bare in np.flatnonzero(~present.any(1)):
        giver = generator.choice(np.flatnonzero(present.sum(1) > 1))
        channel = generator.choice(np.flatnonzero(present[giver]))
        present[giver, channel], present[bare, channel] = False, True
    return {
        case: tuple(name for name, is_there in zip(modalities, row, strict=True) if is_there)
        for case, row in zip(cases, present, strict=True)
    }


def _numbers_absent(num_cases: int, modalities: Sequence[str], rates: Mapping[str, float]) -> list[int]:
    """How many cases lack each modality."""
    if unknown := [name for name in rates if name not in modalities]:
        raise ValueError(f"Expected rates of {', '.join(modalities)}, got one of {', '.join(unknown)}. Rename it.")
    if wrong := [f"{name}={rate}" for name, rate in rates.items() if not 0 <= rate < 1]:
        raise ValueError(f"Expected rates from 0 to below 1, got {', '.join(wrong)}: shares of cases that lack it.")
    absent = [int(np.floor(rates.get(name, 0.0) * num_cases + 0.5)) for name in modalities]
    if nowhere := [name for name, number in zip(modalities, absent, strict=True) if number >= num_cases]:
        raise ValueError(
            f"Expected every modality in at least one of {num_cases} cases, got a rate that leaves "
            f"{', '.join(nowhere)} to none: lower it."
        )
    if sum(absent) > num_cases * (len(modalities) - 1):
        raise ValueError(
            f"Expected rates that leave each of {num_cases} cases a modality, so at most "
            f"{num_cases * (len(modalities) - 1)} absent files, got {sum(absent)}: lower them."
        )
    return absent


def draw_for_dataset(dataset: Path, rates: Mapping[str, float], seed: int, file: Path) -> list[str]:
    """Draw and write a table for the training cases of a raw dataset.

    Args:
        dataset: DatasetXXX_Name, all of whose training cases are complete.
        rates, seed: as in ``draw_availability``.
        file: to be written; nothing may be there.

    Returns:
        What was drawn, in lines to print.

    Raises:
        ValueError: as ``draw_availability``; a case is incomplete, or there is a file already.
        OSError: it could not be written.
    """
    if file.exists():
        raise ValueError(f"Expected no file yet, found {file}: remove it, or give another -o.")
    source = read_nnunet(dataset)
    check_names(source)
    cases = [case.name for case in source.cases if case.is_training]
    if incomplete := _incomplete(source, dataset):
        raise ValueError(
            f"Expected complete training cases to take files from, got {examples(incomplete)} in {dataset}, which lack "
            "some: convert it to another -d with --complete-only, and draw for that."
        )
    drawn = draw_availability(cases, source.modalities, rates, seed)
    write_availability(file, drawn, source.modalities)
    return _said(drawn, source.modalities, rates)


def _incomplete(source: Source, dataset: Path) -> list[str]:
    """The training cases without some file, or whose file is one that missmod convert filled with zeros."""
    lacking = {case.name for case in source.cases if case.is_training and len(case.images) < len(source.modalities)}
    if (dataset / TABLE_FILE).is_file():
        table = pd.read_csv(dataset / TABLE_FILE, dtype=str, keep_default_na=False)
        lacking |= set(table.loc[(table["part"] == "training") & (table["status"] != KEPT), "case"])
    return sorted(lacking & {case.name for case in source.cases})


def _said(drawn: Availability, modalities: Sequence[str], rates: Mapping[str, float]) -> list[str]:
    subsets = Counter("+".join(kept) for kept in drawn.values())
    absent = {name: sum(name not in kept for kept in drawn.values()) for name in modalities}
    return [
        *(
            f"{name}: absent from {absent[name]} of {len(drawn)} cases (rate {rates.get(name, 0.0):g})"
            for name in absent
        ),
        *(f"{subset}: {number} {'case' if number == 1 else 'cases'}" for subset, number in subsets.most_common()),
    ]
