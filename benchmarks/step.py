"""Cost of a training step and of a prediction, every door against stock nnU-Net: ``python -m benchmarks.step``.

Four modalities, three overlapping regions, patch 64^3, batch 2, the five levels that nnU-Net plans for this patch,
features 32 to 320, float32 on the CPU; ``-device cuda --patch 128 --features 32 64 128 256 320 320 --compile`` for a
GPU, with mixed precision. A prediction is one forward pass of one patch with all modalities, without mirroring.

Each measurement has a process of its own, one after the other, in two rounds. Time is the mean over the calls (CCSD's
steps differ: each decodes as many subsets as there are of the size it drew), of the quicker round (a machine is never
quicker than it is, only busier). Peak memory is, on the CPU, the largest resident set beyond that of the process before
it built the network: weights, gradients, optimizer and activations; on CUDA, what PyTorch has reserved.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from benchmarks.cost import cost_of, in_own_process, memory_now
from benchmarks.models import FEATURES, NNUNET_TRAINER, Setting, build, trainer_class_of
from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.host.doors import PRETRAINING, door_names
from nnunetv2_missmod.planning.gpu_memory import CUDA_CONTEXT, GB

GPUS = (11, 24, 80)  # GB
JOBS = ("step", "prediction")


def main() -> None:
    """Measure every trainer and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES, help="of the plan's levels")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile, on CUDA")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING=NUMBER", help="of the trainers that have it")
    parser.add_argument("--trainers", nargs="+", default=door_names())
    parser.add_argument("--only", nargs=2, help="measure this trainer's JOB in this process, and print JSON")
    arguments = parser.parse_args()
    settings = {name: int(number) for name, _, number in (part.partition("=") for part in arguments.set)}
    plan = arguments.features, arguments.patch, arguments.batch
    setting = Setting(*plan, arguments.device, arguments.compile, settings=settings)
    if arguments.only:
        print(json.dumps(measure(*arguments.only, setting, arguments.steps)))
        return
    results = {
        name: {job: quickest(name, job, arguments.rounds) for job in JOBS if not is_idle(name, job)}
        for name in (NNUNET_TRAINER, *arguments.trainers)
    }
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, PyTorch {version('torch')}\n")
    print_table(results, on_gpu=setting.device == "cuda")
    print_shares(results)


def is_idle(name: str, job: str) -> bool:
    """Whether a trainer has no such job: a pretraining predicts nothing."""
    return job == "prediction" and name.endswith(PRETRAINING)


def quickest(name: str, job: str, rounds: int) -> dict[str, Any]:
    """Measure in as many processes as there are rounds; the quicker one counts."""
    command = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], "--only", name, job]
    return min((in_own_process(command) for _ in range(rounds)), key=lambda result: result["seconds"])


def measure(name: str, job: str, setting: Setting, steps: int) -> dict[str, Any]:
    """Measure the training steps of one trainer on a random batch, or its predictions."""
    trainer_class = trainer_class_of(name)
    device = torch.device(setting.device)
    before = memory_now(device)
    trainer, batch = build(trainer_class, setting)
    run = training_step(trainer, batch) if job == "step" else prediction(trainer, batch["data"][:1].to(device))
    cost = cost_of(run, steps, device, before)._asdict()
    network = unwrapped(trainer.network)
    macs = operations(run)["Global"] / 2
    if job == "prediction":
        return {**cost, "macs": macs, "parameters": used(network, trainer.network, batch["data"][:1].to(device))}
    counts = operations(lambda: trainer.network(batch["data"].to(device)))
    parts = {child: flops_of(child, counts) for child, _ in network.named_children()}
    return {**cost, "macs": macs, "parameters": learned(trainer), "parts": parts}


def operations(run: Callable[[], object]) -> dict[str, int]:
    """Count the floating-point operations of a call by module, two for each multiplication and addition."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415, not part of what is measured

    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        run()
    return {part: sum(flops.values()) for part, flops in counter.get_flop_counts().items()}


def training_step(trainer: Any, batch: dict[str, Any]) -> Callable[[], object]:
    """Give the whole step: forward, loss, backward, optimizer."""
    trainer.network.train()
    return lambda: trainer.train_step(batch)


def prediction(trainer: Any, images: torch.Tensor) -> Callable[[], object]:
    """Give the forward pass that nnU-Net's predictor runs on one patch."""
    trainer.set_deep_supervision_enabled(False)
    network = trainer.network.eval()

    def predict() -> None:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=images.device.type == "cuda"):
            network(images)

    return predict


def learned(trainer: Any) -> int:
    """Count the parameters that training holds, those of teachers and discriminators too."""
    holders = [getattr(value, "network", value) for value in vars(trainer).values()]
    modules = [holder for holder in holders if isinstance(holder, nn.Module)]
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def used(network: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> int:
    """Count the parameters that an output depends on: those that get a gradient, and those that learn no more."""
    network.zero_grad(set_to_none=True)
    with torch.compiler.set_stance("force_eager"):
        forward(images).sum().backward()
    return sum(p.numel() for p in network.parameters() if p.grad is not None or not p.requires_grad)


def flops_of(child: str, counts: dict[str, int]) -> int:
    """Operations of a part of the network, also where its own parts are called one by one."""
    whole = [count for name, count in counts.items() if name.endswith(f".{child}")]
    pieces = [count for name, count in counts.items() if re.fullmatch(rf"[^.]+\.{child}(\.[a-z_]+)?\.\d+", name)]
    return max(whole) if whole else sum(pieces)


def print_table(results: dict[str, dict[str, dict[str, Any]]], on_gpu: bool) -> None:
    """Print ratios to stock and absolute figures: a row for each trainer's step, then one for its predictions."""
    columns = ["time", "memory", "GMAC", "s", "CPU-s", "GB", "GMAC", "parameters, M", *(["fits, GB"] if on_gpu else [])]
    print("| trainer | of a | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 2) + "|")
    for job in JOBS:
        stock = results[NNUNET_TRAINER][job]
        for name, r in ((name, of_trainer[job]) for name, of_trainer in results.items() if job in of_trainer):
            # Under a changing load the CPU's time says more than the clock; a GPU's work is on the clock alone.
            ratios = [f"{r[key] / stock[key]:.2f}" for key in ("seconds" if on_gpu else "cpu", "memory", "macs")]
            values = [f"{r['seconds']:.3g}", f"{r['cpu']:.3g}", f"{r['memory'] / 1e9:.2f}", f"{r['macs'] / 1e9:.3g}"]
            fits = [smallest_gpu(r["memory"])] if on_gpu else []
            print("|", " | ".join([name, job, *ratios, *values, f"{r['parameters'] / 1e6:.1f}", *fits]), "|")


def smallest_gpu(memory: int) -> str:
    """Name the smallest GPU that the job fits."""
    fitting = [size for size in GPUS if memory + CUDA_CONTEXT <= size * GB]
    return str(fitting[0]) if fitting else f"more than {GPUS[-1]}"


def print_shares(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print where the multiplications of each network are in training."""
    for name, of_trainer in results.items():
        parts = of_trainer["step"]["parts"]
        total = sum(parts.values()) or 1
        shares = ", ".join(f"{part} {100 * f / total:.0f} %" for part, f in parts.items() if f > 0.005 * total)
        print(f"\n{name}, forward pass of a step: {shares}.")


if __name__ == "__main__":
    main()
