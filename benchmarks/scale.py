"""How cost grows with modalities, patch and subsets: ``python -m benchmarks.scale``.

CPU time of a training step and of forward passes from one subset and from every one, one sample, random weights, for a
network that encodes all channels together and for one that encodes each by itself, with 2, 4 and 8 modalities, patches
of 32^3, 48^3 and 64^3, four levels of 8 to 32 features. Printed are the figures, and how they grow: the exponent of
the patch's voxels and of the modalities in a fit of log(cost), and what a subset costs beside the first. With 8
modalities 31 of the 255 subsets are predicted, as `missmod evaluate` does.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.models import Setting, build, plans_for, trainer_class_of

FEATURES = (8, 16, 32, 32)
TRAINERS = ("ModalityDropoutTrainer", "DCSegTrainer")


class Measured(NamedTuple):
    """Cost of one trainer, number of modalities and patch."""

    trainer: str
    modalities: int
    patch: int
    step: float  # CPU-s
    one: float  # CPU-s, from all modalities
    every: float  # CPU-s, from every subset, or 31 of them
    subsets: int
    memory: int  # bytes of a step, by the rehearsal of `missmod plan`, float32


def main() -> None:
    """Measure and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainers", nargs="+", default=TRAINERS)
    parser.add_argument("--modalities", type=int, nargs="+", default=(2, 4, 8))
    parser.add_argument("--patches", type=int, nargs="+", default=(32, 48, 64))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| trainer | modalities | patch | step, CPU-s | step, GB | a subset, CPU-s | subsets | all, CPU-s |")
    print("|---|---|---|---|---|---|---|---|")
    found = []
    for name in arguments.trainers:
        for modalities in arguments.modalities:
            for patch in arguments.patches:
                with redirect_stdout(io.StringIO()):  # nnU-Net's words
                    m = measure(name, modalities, patch, arguments.repeats)
                found.append(m)
                print(
                    f"| {name} | {modalities} | {patch}^3 | {m.step:.2f} | {m.memory / 1e9:.2f} | {m.one:.3f} | "
                    f"{m.subsets} | {m.every:.2f} |",
                    flush=True,
                )
    print("\n| trainer | cost of a | patch's voxels to the power | modalities to the power |\n|---|---|---|---|")
    for name in arguments.trainers:
        for what in ("step", "one", "memory"):
            voxels, modalities = exponents([m for m in found if m.trainer == name], what)
            print(f"| {name} | {WORDS[what]} | {voxels:.2f} | {modalities:.2f} |")
    print("\n| trainer | modalities | a subset more, as a share of the first |\n|---|---|---|")
    for m in found:
        if m.patch == arguments.patches[-1]:
            print(f"| {m.trainer} | {m.modalities} | {(m.every / m.one - 1) / (m.subsets - 1):.2f} |")


WORDS = {"step": "step, CPU time", "one": "prediction from all modalities, CPU time", "memory": "step, memory"}


def measure(name: str, modalities: int, patch: int, repeats: int) -> Measured:
    """Measure one setting, the quickest of some repeats."""
    from nnunetv2_missmod.prediction.subsets import ALL, choose_subsets  # noqa: PLC0415

    trainer_class = trainer_class_of(name)
    setting = Setting(FEATURES, patch, 1, modalities=modalities)
    trainer, batch = build(trainer_class, setting)
    trainer.network.train()
    trainer.train_step(batch)
    step = quickest(lambda: trainer.train_step(batch), repeats)
    memory = memory_of(trainer_class, setting)
    trainer.set_deep_supervision_enabled(False)
    network, images = trainer.network.eval(), batch["data"]
    subsets = torch.from_numpy(choose_subsets(ALL, [f"mod{m}" for m in range(modalities)]).present)
    with torch.no_grad():
        network(images)
        one = quickest(lambda: network(images), repeats)
        every = quickest(lambda: network.forward_subsets(images, subsets), 1)
    return Measured(name, modalities, patch, step, one, every, len(subsets), memory)


def memory_of(trainer_class: Any, setting: Setting) -> int:
    """Bytes that are alive at the peak of a step: a process that measured before holds on to some of its own."""
    from small_plans import CONFIGURATION, small_dataset_json  # noqa: PLC0415

    from nnunetv2_missmod.planning.rehearsal import rehearse  # noqa: PLC0415

    plans, dataset_json = plans_for(trainer_class, setting), small_dataset_json(setting.modalities, True)
    return rehearse(trainer_class, plans, CONFIGURATION, dataset_json, mixed_precision=False).memory


def quickest(call: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of the quickest of some calls."""
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return min(times)


def exponents(found: list[Measured], what: str) -> tuple[float, float]:
    """Fit log(cost) linearly; give the exponents of the patch's voxels and of the number of modalities."""
    logs = np.log([[m.patch**3, m.modalities, getattr(m, what)] for m in found])
    fitted = np.linalg.lstsq(np.column_stack([logs[:, :2], np.ones(len(logs))]), logs[:, 2], rcond=None)[0]
    return float(fitted[0]), float(fitted[1])


if __name__ == "__main__":
    main()
