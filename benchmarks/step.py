"""Cost of one training step of every door against a stock nnU-Net step: ``python -m benchmarks.step``.

Patch 64^3, batch 2, four modalities, three overlapping regions, the five levels that nnU-Net plans for this patch,
features 32 to 320, on the CPU. Each trainer runs in a process of its own, one after the other, in two rounds. CPU time
is the mean over the steps (those of CCSD differ: each decodes as many subsets as there are of the size it drew), of the
quicker round (a machine is never quicker than it is, only busier); peak memory is the largest resident set beyond that
of the process before it built the network: weights, gradients, optimizer and activations.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STOCK = "nnUNetTrainer"
TYPICAL_DRAWS = 0  # CCSD's seed: its eight steps after the first decode 5.0 subsets on average, in the long run 4.9
PATCH, BATCH, FEATURES, MODALITIES = 64, 2, (32, 64, 128, 256, 320), 4


def main() -> None:
    """Measure every trainer and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES, help="of the plan's levels")
    parser.add_argument("--only", help="measure this trainer alone, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.steps, arguments.features)))
        return
    from nnunetv2_missmod.doors import door_names  # noqa: PLC0415, the measuring processes start without it

    command = [sys.executable, "-m", "benchmarks.step", "--steps", str(arguments.steps)]
    command += ["--features", *map(str, arguments.features), "--only"]
    names = (STOCK, *door_names())
    rounds = [{name: in_own_process([*command, name]) for name in names} for _ in range(arguments.rounds)]
    print_table({name: min((results[name] for results in rounds), key=lambda r: r["cpu"]) for name in names})


def in_own_process(command: list[str]) -> dict[str, Any]:
    """Measure in a new process."""
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Print absolute figures and ratios to stock, and where each network's multiplications are."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, PyTorch {version_of('torch')}\n")
    print("| trainer | CPU-s per step | ratio | peak memory, GB | ratio | parameters, M |\n|---|---|---|---|---|---|")
    stock = results[STOCK]
    for name, r in results.items():
        cpu, memory = r["cpu"] / stock["cpu"], r["memory"] / stock["memory"]
        row = f"{r['cpu']:.1f} | {cpu:.2f} | {r['memory'] / 1e9:.2f} | {memory:.2f} | {r['parameters'] / 1e6:.1f}"
        print(f"| {name} | {row} |")
    for name, r in results.items():
        total = sum(r["flops"].values())
        shares = ", ".join(f"{part} {100 * f / total:.0f} %" for part, f in r["flops"].items() if f > 0.005 * total)
        print(f"\n{name}: {total / 2e9:.0f} GMAC forward in training: {shares}.")


def trainer_class_of(name: str) -> Any:
    """Import a trainer, and all that building one needs, so that what is measured later is not the imports."""
    import pytest  # noqa: F401, PLC0415

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import small_plans  # noqa: F401, PLC0415

    module = "nnunetv2.training.nnUNetTrainer" if name == STOCK else "nnunetv2_missmod.trainers"
    return getattr(importlib.import_module(f"{module}.{name}"), name)


def build(trainer_class: Any, features: Sequence[int] = FEATURES) -> tuple[Any, dict[str, Any]]:
    """Build a trainer whose every step is a whole one, and a random batch for it."""
    import pytest  # noqa: PLC0415
    from small_plans import random_batch, small_dataset_json, small_trainer  # noqa: PLC0415

    plans = plans_for(trainer_class, features)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(trainer_class, plans, small_dataset_json(MODALITIES, True), Path(folder), patch)
    if hasattr(trainer, "host_generator"):
        trainer.host_generator.manual_seed(TYPICAL_DRAWS)
    return trainer, random_batch(trainer)


def plans_for(trainer_class: Any, features: Sequence[int] = FEATURES) -> dict[str, Any]:
    """Make the plan."""
    from small_plans import small_plans, whole_step  # noqa: PLC0415

    plans: dict[str, Any] = small_plans(
        MODALITIES, patch=[PATCH] * 3, batch_size=BATCH, features=features, **whole_step(trainer_class)
    )
    return plans


def measure(name: str, steps: int, features: Sequence[int]) -> dict[str, Any]:
    """Train a few steps of one trainer on random batches."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    trainer_class = trainer_class_of(name)
    before = resident("VmRSS")
    trainer, batch = build(trainer_class, features)
    trainer.network.train()
    trainer.train_step(batch)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of building and of the first step
    times = []
    for _ in range(steps):
        start = time.process_time()
        trainer.train_step(batch)
        times.append(time.process_time() - start)
    peak = resident("VmHWM")
    with FlopCounterMode(display=False) as counter:
        trainer.network(batch["data"])
    counts = {part: sum(flops.values()) for part, flops in counter.get_flop_counts().items()}
    flops = {child: flops_of(child, counts) for child, _ in trainer.network.named_children()}
    parameters = sum(p.numel() for p in trainer.network.parameters())
    return {"cpu": statistics.mean(times), "memory": peak - before, "parameters": parameters, "flops": flops}


def flops_of(child: str, counts: dict[str, int]) -> int:
    """Operations of a part of the network, also where its own parts are called one by one."""
    whole = [count for name, count in counts.items() if name.endswith(f".{child}")]
    pieces = [count for name, count in counts.items() if re.fullmatch(rf"[^.]+\.{child}(\.[a-z_]+)?\.\d+", name)]
    return max(whole) if whole else sum(pieces)


def resident(field: str) -> int:
    """Bytes of VmRSS or VmHWM of this process (Linux)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def version_of(package: str) -> str:
    """Version of an installed package."""
    from importlib.metadata import version  # noqa: PLC0415

    return version(package)


if __name__ == "__main__":
    main()
