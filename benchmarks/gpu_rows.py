"""The rows of ``benchmarks.gpu_check``, each measured in one process: a training, a prediction, two devices' masks."""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock

from benchmarks.cost import forget_peak, memory_now, peak, synchronize
from benchmarks.models import FEATURES, MODALITIES, NNUNET_TRAINER, Setting, build, plans_for, trainer_class_of
from benchmarks.predict import HALF, WHOLE, CaseSize, write_images, write_model

WARM_UP = 3  # steps that compile and choose algorithms, not timed
JUDGED = 10  # steps from which on it is asked whether the loss fell
TOO_DIFFERENT = 1e-3  # of the voxels of the masks of two devices
TOY_CASE = CaseSize((20, 24, 22), (16, 18, 16), 16, (8, 8, 16))


class Scale(NamedTuple):
    """How large everything is.

    Args:
        patch: voxels along each axis of a training's patch, batch 2.
        features: of the plan's levels.
        steps: that are timed.
        case: that is predicted.
        phantom: voxels along each axis of the one whose masks are compared.
        processes: that export masks.
    """

    patch: int
    features: tuple[int, ...]
    steps: int
    case: CaseSize
    phantom: int
    processes: int


FULL = Scale(128, WHOLE.features, 50, WHOLE, 96, 3)
SMALLER = Scale(64, FEATURES, 50, HALF, 64, 3)
TOY = Scale(16, TOY_CASE.features, 2, TOY_CASE, 40, 0)
SCALES = {"full": FULL, "half": SMALLER, "toy": TOY}


def main() -> None:
    """Measure one row and print it as JSON, on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=ROWS)
    parser.add_argument("name")
    parser.add_argument("-device", default="cuda")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--lock", help="a file that one process at a time may hold, and measure")
    arguments = parser.parse_args()
    turn = FileLock(arguments.lock) if arguments.lock else nullcontext()
    row = ROWS[arguments.kind]
    compiled = arguments.device == "cuda" and not arguments.no_compile
    print(json.dumps(row(arguments.name, arguments.device, SCALES[arguments.scale], compiled, turn)))


def train(name: str, device: str, scale: Scale, compiled: bool, turn: Any) -> dict[str, Any]:
    """Take steps on one batch that can be learnt; say how fast they are, what they need, and what became of the loss.

    Raises:
        RuntimeError: a loss or a weight is not finite, or the loss did not fall: of the segmentation, where there is
            such a term, the mean of the last fifth of the steps is not below that of the first.
    """
    on, trainer_class = torch.device(device), trainer_class_of(name)
    setting = Setting(scale.features, scale.patch, 2, device, compiled, small_network=scale is TOY)
    estimated = None if name == NNUNET_TRAINER else estimate(trainer_class, setting)
    before = memory_now(on)
    trainer, batch = build(trainer_class, setting)
    batch = learnable(batch)
    trainer.network.train()
    losses, seconds = [], []

    def step() -> None:
        begun = time.perf_counter()
        terms = trainer.train_step(batch)
        synchronize(on)
        seconds.append(time.perf_counter() - begun)
        losses.append(float(terms.get("segmentation", terms["loss"])))

    for _ in range(WARM_UP if scale.steps >= JUDGED else 1):
        step()
    compiling = sum(seconds)
    with turn:
        forget_peak(on)
        for _ in range(scale.steps):
            step()
        if hasattr(trainer, "seed_costliest_step"):
            trainer.seed_costliest_step(batch["keys"])
        step()
    check_training(trainer, losses)
    return {
        "per_second": 1 / float(np.median(seconds[-scale.steps - 1 : -1])),
        "first_steps": compiling,
        "slowest": max(seconds[-scale.steps - 1 :]),
        "memory": peak(on) - before + context_of(on),
        "estimated": estimated,
        "losses": losses,
        "compiled": compiled,
    }


def estimate(trainer_class: Any, setting: Setting) -> float:
    """Give the bytes that `missmod plan` estimates: on a GPU under mixed precision and with its allowances."""
    from small_plans import CONFIGURATION, small_dataset_json  # noqa: PLC0415

    from nnunetv2_missmod.planning.gpu_memory import on_gpu  # noqa: PLC0415
    from nnunetv2_missmod.planning.rehearsal import rehearse  # noqa: PLC0415

    mixed = setting.device == "cuda"
    plans, dataset_json = plans_for(trainer_class, setting), small_dataset_json(MODALITIES, True)
    needed = rehearse(trainer_class, plans, CONFIGURATION, dataset_json, mixed_precision=mixed).memory
    return on_gpu(needed) if mixed else float(needed)


def context_of(device: torch.device) -> float:
    """Give the bytes that a process takes of a GPU beside PyTorch's, as `missmod plan` counts them."""
    from nnunetv2_missmod.planning.gpu_memory import CUDA_CONTEXT  # noqa: PLC0415

    return CUDA_CONTEXT if device.type == "cuda" else 0


def learnable(batch: dict[str, Any]) -> dict[str, Any]:
    """Put three balls, one in the other, into the noise of every channel, and make them the target's regions."""
    images = batch["data"]
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in images.shape[2:]), indexing="ij")
    distance = torch.stack(axes).norm(dim=0)
    regions = torch.stack([distance < radius for radius in (0.8, 0.55, 0.3)])
    target = []
    for level in batch["target"]:  # of deep supervision
        steps = [whole // size for whole, size in zip(images.shape[2:], level.shape[2:], strict=True)]
        seen = regions[(slice(None), *(slice(None, None, step) for step in steps))]
        target.append(seen.expand(level.shape).clone())
    return {**batch, "data": images + 2 * regions.sum(0), "target": target}


def check_training(trainer: Any, losses: list[float]) -> None:
    """See that a training went as it should; RuntimeError if not."""
    if wrong := [number for number, loss in enumerate(losses) if not np.isfinite(loss)]:
        raise RuntimeError(f"the loss is not finite at step {wrong[0]} of {len(losses)}")
    if broken := [key for key, value in trainer.network.state_dict().items() if not value.isfinite().all()]:
        raise RuntimeError(f"weights are not finite after {len(losses)} steps: {broken[0]}")
    fifth = max(1, len(losses) // 5)
    first, last = np.mean(losses[:fifth]), np.mean(losses[-fifth:])
    if len(losses) >= JUDGED and not last < first:
        raise RuntimeError(f"the loss did not fall in {len(losses)} steps: from {first:.4g} to {last:.4g}")


def predict(name: str, device: str, scale: Scale, compiled: bool, turn: Any) -> dict[str, Any]:
    """Predict a case from all 15 subsets by `missmod predict`, with random weights, without mirroring.

    Raises:
        RuntimeError: it failed, or there are fewer masks than subsets.
    """
    del compiled  # nnU-Net compiles no prediction unless it is asked
    from nnunetv2_missmod.cli.main import main as missmod  # noqa: PLC0415

    on = torch.device(device)
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder), name, scale.case)
        write_images(Path(folder) / "case", scale.case)
        before, said = memory_now(on), io.StringIO()
        command = ["predict", "-m", str(model), "-i", f"{folder}/case", "-o", f"{folder}/masks", "--subsets", "all"]
        with turn, redirect_stderr(said):
            forget_peak(on)
            begun = time.perf_counter()
            code = missmod([*command, "-device", device, "--disable_tta", "-nps", str(scale.processes)])
            seconds = time.perf_counter() - begun
        masks = len(list(Path(folder, "masks").glob("*/*.nii.gz")))
    if code or masks != 2**MODALITIES - 1:
        last = (said.getvalue().strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(f"missmod predict ended with {code} and {masks} masks; it said: {last}")
    return {"prediction": seconds, "memory": peak(on) - before + context_of(on)}


def masks(name: str, device: str, scale: Scale, compiled: bool, turn: Any) -> dict[str, Any]:
    """Compare the masks of a phantom from 15 subsets on the CPU and on a device, by the model of the quick demo.

    Raises:
        RuntimeError: more than one voxel in a thousand differs.
    """
    del name, compiled
    from nnunetv2_missmod.cli.demo_job import EMBEDDED  # noqa: PLC0415
    from nnunetv2_missmod.datasets.phantom.cohort import phantom_case, phantom_modalities  # noqa: PLC0415
    from nnunetv2_missmod.prediction.segmenter import Segmenter  # noqa: PLC0415

    names = phantom_modalities(MODALITIES)
    images = dict(zip(names, phantom_case(np.random.default_rng(0), names, (scale.phantom,) * 3)[0], strict=True))

    def segmented(where: str) -> np.ndarray:
        found = Segmenter.from_folder(EMBEDDED, device=where, mirroring=False).segment_subsets(
            images, spacing=(1, 1, 1)
        )
        return np.stack([found[subset].mask for subset in sorted(found)])

    here = segmented("cpu")
    with turn:
        there = segmented(device)
    differing = int(np.count_nonzero(here != there))
    if differing > TOO_DIFFERENT * here.size:
        raise RuntimeError(f"{differing} of {here.size} voxels differ from the CPU's masks")
    return {"differing": differing, "voxels": here.size, "foreground": int(np.count_nonzero(here))}


ROWS: dict[str, Callable[..., dict[str, Any]]] = {"train": train, "predict": predict, "masks": masks}

if __name__ == "__main__":
    main()
