"""`missmod demo`: the whole job on the phantom, by nnU-Net's own commands, in minutes on a CPU."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections import deque
from pathlib import Path

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nnunetv2_missmod.datasets.phantom import write_phantom_dataset
from nnunetv2_missmod.doors import PRETRAINING, door_names, find_command, plans_folder, pretraining_of, with_doors
from nnunetv2_missmod.modalities import all_subsets, subset_name
from nnunetv2_missmod.planning import load_fragment, merge_fragment, write_plans
from nnunetv2_missmod.preprocessing import modality_names
from nnunetv2_missmod.validation import nanmean

DATASET_ID, CONFIGURATION, PLANS = 501, "3d_fullres", "nnUNetPlans_demo"
NUM_TRAINING, NUM_TEST, SIZE = 20, 2, 40
LAST_LINES = 30  # of a failed command, shown with the error
SEPARATOR = "__"  # between case and subset in the name of a prediction
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")

Scores = dict[str, dict[str, float]]


def run_demo(out: Path, trainer: str, device: str) -> Scores:
    """Make a phantom cohort, train briefly, predict held-out cases from every subset of their files, and score.

    Args:
        out: a folder that does not exist yet or is empty; it holds everything, with nnU-Net's own layout and a log.
        trainer: one of the doors; one that starts from a pretraining is pretrained first.
        device: cpu, cuda or mps.

    Returns:
        Mean Dice over the test cases by subset and region; also printed, and written to ``out/dice.csv``.

    Raises:
        ValueError: the folder is in use or the trainer unknown.
        CommandFailedError: a command of nnU-Net failed; the end of its output is in the message.
    """
    trainers = [name for name in door_names() if not name.endswith(PRETRAINING)]
    if trainer not in trainers:
        raise ValueError(f"Expected one of the trainers that segment, {', '.join(trainers)}, got {trainer!r}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"Expected a new or empty folder, got {out}. Remove it or give another one with --out.")
    job = Job(out.resolve(), device)
    job.prepare_data()
    for stage in filter(None, (pretraining_of(trainer), trainer)):
        job.train(stage)
    job.predict(trainer)
    scores = job.score()
    print_scores(scores, job.modalities, trainer)
    write_scores(scores, out / "dice.csv")
    return scores


class CommandFailedError(RuntimeError):
    """A command of nnU-Net failed; the message holds the end of its output."""


class Job:
    """The steps of the demo in one folder, each a stock command of nnU-Net."""

    def __init__(self, out: Path, device: str):
        self.out, self.device = out, device
        self.raw = out / "nnUNet_raw" / f"Dataset{DATASET_ID}_Phantom"
        self.predictions = out / "predictions"
        self.modalities: list[str] = []
        self.console = Console()
        for folder in FOLDERS:
            (out / folder).mkdir(parents=True)
        few_workers = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2"}
        own = {folder: str(out / folder) for folder in FOLDERS}
        self.environment = with_doors({"PYTHONUNBUFFERED": "1", **few_workers, **os.environ, **own})

    def prepare_data(self) -> None:
        """Write the phantom, plan and preprocess it, and merge the demo's settings into the plan."""
        write_phantom_dataset(
            self.raw.parent, DATASET_ID, num_training=NUM_TRAINING, num_test=NUM_TEST, shape=(SIZE,) * 3
        )
        self.modalities = modality_names(load_json(self.raw / "dataset.json"))
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", CONFIGURATION, "-npfp", "2", "-np", "2"]
        self.run("Plan and preprocess", command, "", 1)
        preprocessed = self.out / "nnUNet_preprocessed"
        plans = load_json(preprocessed / self.raw.name / "nnUNetPlans.json")
        write_plans(merge_fragment(plans, CONFIGURATION, load_fragment(fragment_file()), PLANS), preprocessed)

    def train(self, trainer: str) -> None:
        """Train on one fold of the training cases."""
        epochs = load_fragment(fragment_file())["missmod"]["trainer"]["num_epochs"]
        command = ["nnUNetv2_train", str(DATASET_ID), CONFIGURATION, "0", "-tr", trainer, "-p", PLANS]
        self.run(f"Train {trainer}", [*command, "-device", self.device], r"Epoch \d+", epochs)

    def predict(self, trainer: str) -> None:
        """Predict each test case from each subset of its channels, the other files really missing."""
        inputs = self.out / "inputs"
        count = self.write_subsets(inputs)
        command = ["nnUNetv2_predict", "-i", str(inputs), "-o", str(self.predictions), "-d", str(DATASET_ID)]
        command += ["-c", CONFIGURATION, "-tr", trainer, "-p", PLANS, "-f", "0", "-device", self.device]
        self.run(
            "Predict every subset", [*command, "-npp", "1", "-nps", "1", "--disable_tta"], r"Predicting \S+:", count
        )

    def write_subsets(self, inputs: Path) -> int:
        """Copy the channel files of every test case and subset under a name of their own; count them."""
        inputs.mkdir()
        cases, subsets = self.test_cases(), all_subsets(len(self.modalities))
        for case in cases:
            for subset in subsets:
                name = f"{case}{SEPARATOR}{subset_name(subset, self.modalities)}"
                for channel in subset.nonzero().flatten().tolist():
                    source = self.raw / "imagesTs" / f"{case}_{channel:04d}.nii.gz"
                    shutil.copy(source, inputs / f"{name}_{channel:04d}.nii.gz")
        return len(cases) * len(subsets)

    def test_cases(self) -> list[str]:
        """Names of the held-out cases."""
        return sorted(file.name.removesuffix(".nii.gz") for file in (self.raw / "labelsTs").glob("*.nii.gz"))

    def score(self) -> Scores:
        """Mean Dice over the test cases, as nnU-Net computes it, by subset and region."""
        labels = load_json(self.raw / "dataset.json")
        regions = LabelManager(labels["labels"], labels["regions_class_order"]).foreground_regions
        names = [name for name in labels["labels"] if name != "background"]
        scores: Scores = {}
        for subset in all_subsets(len(self.modalities)):
            subset_label = subset_name(subset, self.modalities)
            rows = [self.dice_of(case, subset_label, regions) for case in self.test_cases()]
            scores[subset_label] = dict(zip(names, nanmean(np.array(rows), axis=0).tolist(), strict=True))
        return scores

    def dice_of(self, case: str, subset: str, regions: list[tuple[int, ...]]) -> list[float]:
        """Dice of one prediction for each region; NaN where neither truth nor prediction has it."""
        truth = self.raw / "labelsTs" / f"{case}.nii.gz"
        prediction = self.predictions / f"{case}{SEPARATOR}{subset}.nii.gz"
        metrics = compute_metrics(str(truth), str(prediction), SimpleITKIO(), regions)["metrics"]
        return [metrics[region]["Dice"] for region in regions]

    def run(self, title: str, command: list[str], tick: str, ticks: int) -> None:
        """Run a command, its output in the log; a line that matches ``tick`` moves the bar."""
        columns = TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn()
        last: deque[str] = deque(maxlen=LAST_LINES)
        with Progress(*columns, console=self.console) as progress, self.start(command) as process:
            task = progress.add_task(title, total=ticks)
            assert process.stdout is not None
            with open(self.out / "log.txt", "a", buffering=1, encoding="utf-8") as log:
                for line in process.stdout:
                    log.write(line)
                    last.append(line)
                    progress.advance(task, bool(tick and re.search(tick, line)))
            if process.wait() == 0:
                progress.update(task, completed=ticks)
        if process.returncode:
            raise CommandFailedError(f"{' '.join(command)} failed. The end of {self.out / 'log.txt'}:\n{''.join(last)}")

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a command of nnU-Net on the demo's folders."""
        return subprocess.Popen(
            [find_command(command[0]), *command[1:]],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def fragment_file() -> Path:
    """The demo's settings: a small network and a short schedule."""
    return plans_folder() / "demo.json"


def print_scores(scores: Scores, modalities: list[str], trainer: str) -> None:
    """Print the table that papers print: dots for the modalities that are there, Dice by region."""
    regions = list(next(iter(scores.values())))
    table = Table(title=f"{trainer}: Dice of held-out cases by modalities present")
    for name in (*modalities, *regions):
        table.add_column(name, justify="center")
    for subset, dice in scores.items():
        dots = ("●" if name in subset.split("+") else "○" for name in modalities)
        table.add_row(*dots, *(f"{dice[region]:.3f}" for region in regions))
    means = (f"{nanmean(np.array([dice[region] for dice in scores.values()])):.3f}" for region in regions)
    table.add_section()
    table.add_row("mean", *[""] * (len(modalities) - 1), *means)
    Console().print(table)


def write_scores(scores: Scores, file: Path) -> None:
    """Write the table as CSV: subset, region, dice."""
    with open(file, "w", newline="", encoding="utf-8") as csv_file:
        writer = csv.writer(csv_file)
        writer.writerow(("subset", "region", "dice"))
        writer.writerows((subset, region, dice) for subset, row in scores.items() for region, dice in row.items())
