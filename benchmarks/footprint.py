"""How far the memory that `missmod plan` estimates is from what steps need: ``python -m benchmarks.footprint``.

The plans of ``benchmarks.step``, in float32 on the CPU, where nothing is added for CUDA. Each trainer runs in a process
of its own: a step, and after it the costliest that its draws can make, whose peak is measured as ``benchmarks.step``
does: the largest resident set beyond that of the process before it built the network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.cost import forget_peak, in_own_process, memory_now, peak
from benchmarks.models import FEATURES, MODALITIES, Setting, build, plans_for, trainer_class_of


def main() -> None:
    """Compare every trainer on every plan and print the table as Markdown."""
    from nnunetv2_missmod.host.doors import door_names  # noqa: PLC0415, the measuring processes start without it

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES, help="of the plan's levels")
    parser.add_argument("--trainers", nargs="+", default=door_names())
    parser.add_argument("--only", help="measure this trainer alone, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure_and_estimate(arguments.only, arguments.features)))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, PyTorch {version('torch')}\n")
    print("| trainer | estimated, GB | measured, GB | error |\n|---|---|---|---|")
    command = [sys.executable, "-m", "benchmarks.footprint", "--features", *map(str, arguments.features), "--only"]
    for name in arguments.trainers:
        r = in_own_process([*command, name])
        error = 100 * (r["estimated"] / r["measured"] - 1)
        print(f"| {name} | {r['estimated'] / 1e9:.2f} | {r['measured'] / 1e9:.2f} | {error:+.0f} % |", flush=True)


def measure_and_estimate(name: str, features: Sequence[int]) -> dict[str, Any]:
    """Take two steps for real, then rehearse them."""
    trainer_class = trainer_class_of(name)
    setting, device = Setting(features), torch.device("cpu")
    before = memory_now(device)
    trainer, batch = build(trainer_class, setting)
    trainer.network.train()
    trainer.train_step(batch)
    trainer.seed_costliest_step(batch["keys"])
    forget_peak(device)  # of building and of the first step
    trainer.train_step(batch)
    measured = peak(device) - before

    from small_plans import CONFIGURATION, small_dataset_json  # noqa: PLC0415

    from nnunetv2_missmod.planning.rehearsal import rehearse  # noqa: PLC0415, after the measurement

    plans, dataset = plans_for(trainer_class, setting), small_dataset_json(MODALITIES, True)
    estimated = rehearse(trainer_class, plans, CONFIGURATION, dataset, mixed_precision=False).memory
    return {"estimated": estimated, "measured": measured}


if __name__ == "__main__":
    main()
