"""Cost of all subsets of one BraTS-sized case against nnUNetv2_predict once for each: ``python -m benchmarks.predict``.

A case of 240 x 240 x 155 voxels and four modalities, 1 mm, a brain of 158 x 132 x 132 voxels in it; patch 128^3, three
overlapping regions, six levels of 32 to 320 features, random weights, without mirroring. Whole processes are counted:
start, reading, preprocessing, prediction, export and their worker processes, in CPU time and on the clock. What a run
of nnUNetv2_predict costs does not depend on which files are there, so that a few stand for all 15 (``--runs``).
``--half`` halves every length, of the case and the patch (five levels).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.models import MODALITIES, serves_one_subset, trainer_class_of
from nnunetv2_missmod.host.doors import find_command, segmenting_names, with_doors

STANDING_FOR_ALL = ("0", "12", "0123")  # the channels of some of the 15 runs


class CaseSize(NamedTuple):
    """A case of one size, and the plan to predict it with."""

    shape: tuple[int, int, int]  # z, y, x
    brain: tuple[int, int, int]
    patch: int
    features: tuple[int, ...]


WHOLE = CaseSize((155, 240, 240), (146, 176, 146), 128, (32, 64, 128, 256, 320, 320))
HALF = CaseSize((78, 120, 120), (73, 88, 73), 64, (32, 64, 128, 256, 320))


class Cost(NamedTuple):
    """What a command costs, its child processes included."""

    cpu: float  # seconds
    wall: float  # seconds


def main() -> None:
    """Measure every trainer asked for and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainers", nargs="+", help="default: all that predict from every subset")
    parser.add_argument("--runs", nargs="+", default=STANDING_FOR_ALL, help="channels of the runs of nnUNetv2_predict")
    parser.add_argument("--features", type=int, nargs="+", help="of the plan's levels (default: 32 to 320)")
    parser.add_argument("--half", action="store_true", help="a case and a patch of half the size")
    parser.add_argument("-device", default="cpu")
    arguments = parser.parse_args()
    size = HALF if arguments.half else WHOLE
    if arguments.features:
        size = size._replace(features=tuple(arguments.features))
    print("| trainer | one run, CPU-s (s) | missmod predict --subsets all, CPU-s (s) | against 15 runs, CPU (clock) |")
    print("|---|---|---|---|")
    for name in arguments.trainers or [name for name in segmenting_names() if not serves_one_subset(name)]:
        with tempfile.TemporaryDirectory() as folder:
            environment = prepare(Path(folder), name, size)
            model = ["-d", "501", "-c", "3d_fullres", "-tr", name, "-p", "smallPlans", "-f", "0", "--disable_tta"]
            model += ["-device", arguments.device, "-i"]
            runs = [run(["nnUNetv2_predict", *model, f"{folder}/{c}", "-o", f"{folder}/o{c}"], environment)
                    for c in arguments.runs]  # fmt: skip
            one = Cost(*np.mean(runs, axis=0))
            every = run(["missmod", "predict", *model, f"{folder}/0123", "-o", f"{folder}/all", "--subsets", "all"],
                        environment)  # fmt: skip
        ratios = f"{every.cpu / 15 / one.cpu:.2f} ({every.wall / 15 / one.wall:.2f})"
        print(
            f"| {name} | {one.cpu:.0f} ({one.wall:.0f}) | {every.cpu:.0f} ({every.wall:.0f}) | {ratios} |", flush=True
        )


def prepare(folder: Path, name: str, size: CaseSize) -> dict[str, str]:
    """Write a model with random weights, and the case once for every set of channels; give the environment."""
    write_model(folder, name, size)
    write_images(folder / "0123", size)
    for channels in ("".join(str(c) for c in range(4) if number >> c & 1) for number in range(1, 15)):
        (folder / channels).mkdir()
        for channel in channels:
            shutil.copy(folder / "0123" / f"case_000{channel}.nii.gz", folder / channels)
    folders = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return with_doors({**os.environ, **folders})


def write_model(folder: Path, name: str, size: CaseSize, modalities: int = MODALITIES) -> Path:
    """Write a trainer's model with random weights below ``folder/nnUNet_results``; give its folder."""
    trainer_class = trainer_class_of(name)
    import pytest  # noqa: PLC0415
    from small_plans import small_dataset_json, small_plans, small_trainer, whole_step  # noqa: PLC0415

    dataset_json = small_dataset_json(modalities, True)
    plans = small_plans(modalities, patch=[size.patch] * 3, features=size.features, **whole_step(trainer_class))
    with pytest.MonkeyPatch.context() as patch:
        trainer = small_trainer(trainer_class, plans, dataset_json, folder, patch)
    model = folder / "nnUNet_results" / plans["dataset_name"] / f"{name}__smallPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(str(model / "fold_0" / "checkpoint_final.pth"))
    (model / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    return model


def write_images(folder: Path, size: CaseSize, case: str = "case", modalities: int = MODALITIES) -> None:
    """Write the images of a case: random within an ellipsoid that is smaller for the first channel, 0 outside."""
    from small_models import small_images, write_image  # noqa: PLC0415

    images = np.zeros((modalities, *size.shape), dtype=np.float32)
    images[(slice(None), *(slice(4, 4 + length) for length in size.brain))] = small_images(modalities, size.brain)
    for channel, image in enumerate(images):
        write_image(folder / f"{case}_{channel:04d}.nii.gz", image, spacing=(1.0, 1.0, 1.0))


def run(command: list[str], environment: dict[str, str]) -> Cost:
    """Run a command to its end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([find_command(command[0]), *command[1:]], env=environment, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


if __name__ == "__main__":
    main()
