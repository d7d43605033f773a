"""Cost of predicting from every subset against one prediction from everything: ``python -m benchmarks.subsets``.

One sample of 64^3, four modalities, three overlapping regions, features 32 to 256, on the CPU, without gradients: CPU
time of all 15 subsets as ``missmod predict`` computes them, against ``forward`` with all four modalities as
``nnUNetv2_predict`` does, in one process. 15 is what calling ``forward`` for each subset costs. A network for one
subset is asked for those that contain it, here 8.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.models import MODALITIES, Setting, build, trainer_class_of
from nnunetv2_missmod.host.doors import segmenting_names
from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.prediction.engine import SubsetStack

FEATURES = (32, 64, 128, 256)
REPEATS = 5


def main() -> None:
    """Measure every network that segments and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainers", nargs="+", default=segmenting_names())
    trainers = parser.parse_args().trainers
    print("| trainer | forward, CPU-s | all subsets, CPU-s | ratio |\n|---|---|---|---|")
    for name in trainers:
        trainer, batch = build(trainer_class_of(name), Setting(FEATURES))
        trainer.set_deep_supervision_enabled(False)
        network, images = trainer.network.eval(), batch["data"][:1]
        subsets = all_subsets(MODALITIES)
        subsets = subsets[subsets[:, list(network.subset)].all(1)]
        with torch.no_grad():
            one = cpu_seconds(lambda: network(images, subsets[-1:]))  # noqa: B023, called at once
            every = cpu_seconds(lambda: SubsetStack(network, subsets)(images))  # noqa: B023
        print(f"| {name} | {one:.2f} | {every:.2f} | {every / one:.1f} |", flush=True)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Median CPU time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
