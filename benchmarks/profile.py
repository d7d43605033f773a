"""Where a step and a prediction of every subset spend their time: ``python -m benchmarks.profile``.

The trainers, plan and batch of ``benchmarks.step``; of a prediction one patch and all 15 subsets, as
``missmod predict`` computes it. One call each under PyTorch's profiler, after one to warm up: a share of the time for
each part of the network, forward and backward (what is computed again in the backward pass counts as forward), for the
losses, other networks and the optimizer; what all of it allocates, of which much is freed at once; and the operators
that take longest.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.models import FEATURES, MODALITIES, Setting, build, trainer_class_of
from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.host.doors import door_names, segmenting_names
from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.prediction.engine import SubsetStack

PART, OPTIMIZER, BACKWARD = "part: ", "Optimizer.step", "autograd::engine::evaluate_function"
REST = "the rest"
AGAIN = ", backward"
OPERATORS, LEAST = 3, 0.01  # how many are printed; the smallest share of a part that is
HEAD = "| trainer | of | s | allocated, GB | parts, % | operators, % |\n|---|---|---|---|---|---|"


class Spent(NamedTuple):
    """What a call took, by part of the network and by operator."""

    time: Counter[str]  # microseconds, on CUDA of the device
    memory: Counter[str]  # bytes allocated
    operators: Counter[str]  # microseconds


def main() -> None:
    """Profile every trainer and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES, help="of the plan's levels")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--trainers", nargs="+", default=door_names())
    arguments = parser.parse_args()
    setting = Setting(arguments.features, arguments.patch, arguments.batch, arguments.device)
    print(HEAD, flush=True)
    for name in arguments.trainers:
        for job, spent in spent_by(name, setting).items():
            print(row_of(name, job, spent), flush=True)


def spent_by(name: str, setting: Setting) -> dict[str, Spent]:
    """Profile a training step, and a prediction of every subset where the trainer predicts."""
    trainer, batch = build(trainer_class_of(name), setting)
    mark_parts(trainer)
    trainer.network.train()
    spent = {"step": spent_in(lambda: trainer.train_step(batch), setting.device)}
    if name in segmenting_names():
        spent["every subset"] = spent_in(every_subset(trainer, batch["data"][:1].to(setting.device)), setting.device)
    return spent


def every_subset(trainer: Any, images: torch.Tensor) -> Callable[[], object]:
    """Give the prediction of one patch from all subsets that the network serves."""
    trainer.set_deep_supervision_enabled(False)
    network, subsets = unwrapped(trainer.network.eval()), all_subsets(MODALITIES)
    stack = SubsetStack(network, subsets[subsets[:, list(network.subset)].all(1)])

    def predict() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, enabled=images.device.type == "cuda"):
            stack(images)

    return predict


def mark_parts(trainer: Any) -> None:
    """Let the profiler see which part of the network, or which other module of the trainer, is at work."""
    network = unwrapped(trainer.network)
    parts = dict(network.named_children())
    for attribute, value in vars(trainer).items():
        module = getattr(value, "network", value)
        if isinstance(module, nn.Module) and unwrapped(module) is not network:
            parts[attribute] = module
    marked: set[nn.Module] = set()
    for name, part in parts.items():  # nnU-Net's decoder holds the encoder, which comes first
        mark(name, [module for module in part.modules() if module not in marked])
        marked.update(part.modules())


def mark(name: str, modules: list[nn.Module]) -> None:
    """Open a range of the profiler around the calls of a part's modules: often only pieces of it are called."""
    ranges: list[tuple[nn.Module, Any]] = []

    def enter(module: nn.Module, _: Any) -> None:
        if not ranges:
            ranges.append((module, record_function(PART + name)))
            ranges[0][1].__enter__()

    def leave(module: nn.Module, *_: Any) -> None:
        if ranges and ranges[0][0] is module:
            ranges.pop()[1].__exit__(None, None, None)

    for module in modules:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, always_call=True)  # recomputing ends by an exception


def spent_in(call: Callable[[], object], device: str) -> Spent:
    """Profile a call."""
    on_gpu = device == "cuda"
    call()
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu], profile_memory=True) as profiled:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    events = [event for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CPU]
    of_forward = {event.sequence_nr: part_of(event, {}) for event in events if not is_backward(event)}
    spent = Spent(Counter(), Counter(), Counter())
    for event in events:
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        part = part_of(event, of_forward)
        spent.time[part] += time
        spent.memory[part] += max(0, event.self_device_memory_usage if on_gpu else event.self_cpu_memory_usage)
        spent.operators[event.name] += time
    return spent


def is_backward(event: Any) -> bool:
    """Whether an event is within autograd's engine; what it computes again is, too."""
    return event.name.startswith(BACKWARD) or (event.cpu_parent is not None and is_backward(event.cpu_parent))


def part_of(event: Any, of_forward: dict[int, str]) -> str:
    """Name what an event belongs to: the innermost range, or in the backward pass that of its forward operator."""
    while event is not None:
        if event.name.startswith(PART):
            return str(event.name.removeprefix(PART))
        if event.name.startswith(OPTIMIZER):
            return "optimizer"
        if event.name.startswith(BACKWARD) and event.sequence_nr >= 0:
            return of_forward.get(event.sequence_nr, REST) + AGAIN
        event = event.cpu_parent
    return REST


def row_of(name: str, job: str, spent: Spent) -> str:
    """A row of the table: parts that took a hundredth or more, forward + backward, then the operators."""
    total = spent.time.total() or 1
    together = Counter[str]()
    for part, time in spent.time.items():
        together[part.removesuffix(AGAIN)] += time
    parts = [
        " + ".join(percent(spent.time[key], total) for key in (part, part + AGAIN) if key in spent.time) + f" {part}"
        for part, time in together.most_common()
        if time >= LEAST * total
    ]
    operators = [
        f"{percent(time, total)} {operator.removeprefix('aten::')}" for operator, time in of_torch(spent.operators)
    ]
    allocated = spent.memory.total() / 1e9
    return f"| {name} | {job} | {total / 1e6:.1f} | {allocated:.1f} | {', '.join(parts)} | {', '.join(operators)} |"


def percent(time: float, total: float) -> str:
    """A share in per cent, without the sign."""
    return f"{100 * time / total:.0f}"


def of_torch(operators: Counter[str]) -> list[tuple[str, int]]:
    """The operators that took longest, without the ranges of the profiler."""
    return Counter({name: time for name, time in operators.items() if name.startswith("aten::")}).most_common(OPERATORS)


if __name__ == "__main__":
    main()
