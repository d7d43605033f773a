"""Training and scoring of several trainers on one cohort, on one plan, with the same updates and seeds."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from batchgenerators.utilities.file_and_folder_operations import load_json

from benchmarks.models import NNUNET_TRAINER
from nnunetv2_missmod.host.doors import door_names, find_command, pretraining_of, with_doors
from nnunetv2_missmod.planning.fragments import load_fragment, merge_fragment, write_plans

Settings = dict[str, dict[str, Any]]  # by trainer
OPTIMIZER_OF_DCSEG = {"optimizer_name": "adam", "amsgrad": True, "weight_decay": 1e-4}


class Run(NamedTuple):
    """One row of a table.

    Args:
        trainer: nnU-Net's name for it.
        settings: what is trained with in place of the defaults, by trainer.
        adam: learning rate of DC-Seg's Adam, for a trainer whose own optimizer is nnU-Net's.
        network: constants of the trainer's network in place of the defaults.
        counted: a pretraining takes half of the epochs (rounded down) in place of as many on top of them.
        times: as many times the epochs of the others, for a row that is to have the time of a costlier one.
    """

    trainer: str
    settings: Settings = {}  # noqa: RUF012, never changed
    adam: float = 0.0
    network: dict[str, Any] = {}  # noqa: RUF012, never changed
    counted: bool = False
    times: int = 1

    @property
    def is_stock(self) -> bool:
        """Whether its trainer is nnU-Net's, which no plan sets."""
        return self.trainer not in door_names()


METHODS = {
    "nnU-Net": Run(NNUNET_TRAINER),
    "nnU-Net, Adam": Run("nnUNetTrainerAdam1en3"),  # nnU-Net's own: AdamW, AMSGrad, weight decay 3e-5
    "modality dropout": Run("ModalityDropoutTrainer"),
    "modality dropout, Adam": Run("ModalityDropoutTrainer", adam=2e-3),
    "RFNet": Run("RFNetTrainer"),
    "mmFormer": Run("MmFormerTrainer"),
    "ShaSpec": Run("ShaSpecTrainer"),
    "ShaSpec, Adam": Run("ShaSpecTrainer", adam=2e-3),
    "DC-Seg": Run("DCSegTrainer"),
    "CCSD": Run("CCSDTrainer"),
    "CCSD, Adam": Run("CCSDTrainer", adam=2e-3),
    "CCSD, Adam, tau^2": Run("CCSDTrainer", {"CCSDTrainer": {"hmsd_weight": 16.0}}, adam=2e-3),
    "MST-KDNet": Run("MSTKDNetTrainer"),
    "M3AE": Run("M3AETrainer"),
    "M3AE, pretraining counted": Run("M3AETrainer", counted=True),
    "U-HVED": Run("UHVEDTrainer"),
    "RobustSeg": Run("RobustSegTrainer"),
    "M2FTrans": Run("M2FTransTrainer"),
}


def add_flags(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the flags that comparisons share."""
    parser.add_argument("-o", type=Path, default=Path(out), help="default: %(default)s")
    parser.add_argument("-c", default="3d_fullres", help="configuration (default: %(default)s)")
    parser.add_argument("-device", default="cuda")
    parser.add_argument("--threads", type=int, help="of PyTorch in a training, for several commands side by side")
    parser.add_argument(
        "--epochs", type=int, default=20, help="of 250 updates, or what --merge says (default: %(default)s)"
    )
    parser.add_argument("--merge", type=Path, help="a fragment of a configuration, for every trainer (plans/README.md)")
    parser.add_argument("--only", nargs="+", help="rows of the table (default: all methods)")


def bench_of(arguments: argparse.Namespace, dataset: str) -> Bench:
    """Make the bench that the flags ask for."""
    fragment = load_fragment(arguments.merge) if arguments.merge else {}
    return Bench(
        arguments.o.resolve(),
        dataset,
        arguments.c,
        arguments.device,
        arguments.threads,
        arguments.epochs,
        fragment,
    )


class Bench:
    """The trainings and scores of one cohort, in one folder.

    Args:
        out: holds nnU-Net's folders (results by seed), the scores and a log.
        dataset: nnU-Net's name of the cohort.
        configuration: 2d or 3d_fullres.
        device: cpu or cuda.
        threads: of PyTorch in a training; None: nnU-Net's choice.
        epochs: of 250 updates, or as many as the fragment says; half as many of a pretraining come on top.
        fragment: of a configuration, merged into the plan of every trainer.
    """

    def __init__(
        self,
        out: Path,
        dataset: str,
        configuration: str,
        device: str,
        threads: int | None,
        epochs: int,
        fragment: dict[str, Any],
    ):
        self.out, self.dataset, self.configuration = out, dataset, configuration
        self.device, self.threads, self.epochs, self.fragment = device, threads, epochs, fragment
        self.preprocessed = out / "nnUNet_preprocessed" / dataset

    def environment(self, seed: int) -> dict[str, str]:
        """nnU-Net's folders; each seed has its own results."""
        raw, preprocessed = str(self.out / "nnUNet_raw"), str(self.out / "nnUNet_preprocessed")
        own = {"nnUNet_raw": raw, "nnUNet_preprocessed": preprocessed, "nnUNet_results": str(self.out / f"seed_{seed}")}
        return with_doors({**os.environ, **own})

    def run(self, command: list[str], seed: int = 0) -> None:
        """Run a command, its output in the log.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / "log.txt", "a", encoding="utf-8") as log:
            print("+", *command, file=log, flush=True)
            subprocess.run(command, env=self.environment(seed), stdout=log, stderr=subprocess.STDOUT, check=True)

    def preprocess(self) -> None:
        """Plan and preprocess the cohort, unless that is done."""
        if not (self.preprocessed / "nnUNetPlans.json").exists():
            number = str(int(self.dataset[7:10]))
            self.run([find_command("nnUNetv2_plan_and_preprocess"), "-d", number, "-c", self.configuration])

    def train(self, name: str, run: Run, seed: int, fold: int = 0) -> None:
        """Train what one row of the table still lacks: pretraining and training."""
        stages = stages_of(run)
        plans = self.write_plan(name, run)
        for trainer in stages:
            folder = f"{trainer}__{plans}__{self.configuration}"
            results = self.out / f"seed_{seed}" / self.dataset / folder / f"fold_{fold}"
            if (results / "checkpoint_final.pth").exists():
                continue
            command = [sys.executable, "-m", "benchmarks.seeded_training", "--seed", str(seed)]
            command += ["--epochs", str(self.epochs * run.times), *self.iterations_of_stock()]
            command += ["--threads", str(self.threads)] if self.threads else []
            command += [self.dataset, self.configuration, str(fold), "-tr", trainer, "-p", plans]
            begun = ["--c"] if list(results.glob("checkpoint_*.pth")) else []
            self.run([*command, "-device", self.device, *begun], seed)

    def iterations_of_stock(self) -> list[str]:
        """Flags that give stock nnU-Net, which no plan can tell so, the fragment's iterations of an epoch."""
        common = self.fragment.get("missmod", {}).get("trainer", {})
        flags = {"num_iterations_per_epoch": "--iterations", "num_val_iterations_per_epoch": "--val_iterations"}
        return [part for name, flag in flags.items() if name in common for part in (flag, str(common[name]))]

    def evaluate(self, name: str, run: Run, seed: int, arguments: list[str], folder: str = "") -> None:
        """Score one row's masks of every subset (``missmod evaluate``, which goes on where it was ended)."""
        scores = self.scores(name, seed) / folder
        command = [find_command("missmod"), "evaluate", "-o", str(scores), "-d", self.dataset]
        command += ["-c", self.configuration, "-tr", run.trainer, "-p", plans_name(name), "-device", self.device]
        self.run([*command, "--disable_tta", "--no-save", "-nps", "0", *arguments], seed)

    def write_plan(self, name: str, run: Run) -> str:
        """Write the plan of a row, the common one with the row's schedule and settings; give its name.

        Raises:
            ValueError: there are fewer epochs than stages that share them.
        """
        plans = load_json(str(self.preprocessed / "nnUNetPlans.json"))
        stages, shares = stages_of(run), self.shares_of(run)
        optimizer = {**OPTIMIZER_OF_DCSEG, "initial_lr": run.adam} if run.adam else {}
        settings = {
            stage: {"num_epochs": share, **optimizer, **run.settings.get(stage, {})}
            for stage, share in zip(stages, shares, strict=True)
        }
        own = {"trainer": settings, **({"network": {run.trainer: run.network}} if run.network else {})}
        for fragment in (self.fragment, {} if run.is_stock else {"missmod": own}):
            plans = merge_fragment(plans, self.configuration, fragment, plans_name(name))
        write_plans(plans, self.preprocessed.parent)
        return plans_name(name)

    def shares_of(self, run: Run) -> list[int]:
        """Epochs of each stage."""
        stages, epochs = stages_of(run), self.epochs * run.times
        if len(stages) == 1:
            return [epochs]
        if not run.counted:
            return [max(1, epochs // 2), epochs]
        if epochs < len(stages):
            raise ValueError(f"Expected an epoch for each of {' and '.join(stages)}, got {epochs}: more --epochs.")
        return [epochs // 2, epochs - epochs // 2]

    def scores(self, name: str, seed: int) -> Path:
        """Where the scores of a row are."""
        return self.out / "scores" / f"seed_{seed}" / name.replace(" ", "_")


def stages_of(run: Run) -> list[str]:
    """Trainers that run one after the other: a pretraining, unless its settings leave it out, and the trainer."""
    pretraining = pretraining_of(run.trainer)
    if pretraining is None or run.settings.get(run.trainer, {}).get("pretrained") is False:
        return [run.trainer]
    return [pretraining, run.trainer]


def plans_name(name: str) -> str:
    """Name of the plan of a row."""
    return "nnUNetPlans_" + "".join(re.split(r"\W+", name.title()))
