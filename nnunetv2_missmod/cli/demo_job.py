"""`missmod demo`: the whole job on the phantom, by the commands of a user, in minutes on a CPU."""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path
from shutil import copytree

from batchgenerators.utilities.file_and_folder_operations import load_json
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nnunetv2_missmod.datasets import phantom
from nnunetv2_missmod.datasets.phantom.cohort import write_phantom_dataset
from nnunetv2_missmod.evaluation.means_table import print_means
from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.host.doors import find_command, plans_folder, pretraining_of, segmenting_names, with_doors
from nnunetv2_missmod.host.folders import VARIABLES
from nnunetv2_missmod.machine.workers import running_command
from nnunetv2_missmod.planning.fragments import load_fragment, merge_fragment, write_plans
from nnunetv2_missmod.report.page import write_report

DATASET_ID, CONFIGURATION, PLANS = 501, "3d_fullres", "nnUNetPlans_demo"
NUM_TRAINING, NUM_TEST, SIZE = 20, 2, 40
LAST_LINES = 30  # of a failed command, shown with the error
EMBEDDED, EMBEDDED_TRAINER = Path(phantom.__file__).parent / "model", "ModalityDropoutTrainer"


def run_demo(out: Path, trainer: str, device: str) -> Path:
    """Make a phantom cohort, train briefly, score held-out cases from every subset of their modalities, and report.

    Args:
        out: a folder that does not exist yet or is empty; it holds everything, with nnU-Net's own layout and a log.
        trainer: one of the doors; one that starts from a pretraining is pretrained first.
        device: cpu, cuda or mps.

    Returns:
        The report, whose place is also printed, after the mean Dice by subset and region.

    Raises:
        ValueError: the folder is in use or the trainer unknown.
        CommandFailedError: a command failed; the end of its output is in the message.
    """
    trainers = segmenting_names()
    if trainer not in trainers:
        raise ValueError(f"Expected one of the trainers that segment, {', '.join(trainers)}, got {trainer!r}.")
    job = Job(free(out), device)
    job.prepare_data()
    for stage in filter(None, (pretraining_of(trainer), trainer)):
        job.train(stage)
    return job.report(trainer)


def run_quick_demo(out: Path, device: str) -> Path:
    """Score held-out cases of the phantom by the model that comes with the package, and report: about a minute.

    Args:
        out: as in ``run_demo``.
        device: cpu, cuda or mps.

    Returns:
        The report, as in ``run_demo``.

    Raises:
        ValueError: the folder is in use.
        CommandFailedError: a command failed; the end of its output is in the message.
    """
    job = Job(free(out), device)
    job.write_cohort()
    copytree(EMBEDDED, job.model_folder(EMBEDDED_TRAINER))
    return job.report(EMBEDDED_TRAINER)


def free(out: Path) -> Path:
    """Check that a folder is new or empty.

    Raises:
        ValueError: it is not.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"Expected a new or empty folder, got {out}. Remove it or give another one with --out.")
    return out.resolve()


class CommandFailedError(RuntimeError):
    """A command of the demo failed; the message holds the end of its output."""


class Job:
    """The steps of the demo in one folder, each a command as a user would type it."""

    def __init__(self, out: Path, device: str, settings: str = "demo"):
        """Begin in a folder; ``settings`` names a fragment of ``plans/``: a small network and a short schedule."""
        self.out, self.device = out, device
        self.fragment = load_fragment(plans_folder() / f"{settings}.json")
        self.raw = out / "nnUNet_raw" / f"Dataset{DATASET_ID}_Phantom"
        self.console = Console()
        for folder in VARIABLES:
            (out / folder).mkdir(parents=True)
        few_workers = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2"}
        own = {folder: str(out / folder) for folder in VARIABLES}
        self.environment = with_doors({"PYTHONUNBUFFERED": "1", **few_workers, **os.environ, **own})

    def write_cohort(self) -> None:
        """Write the phantom."""
        write_phantom_dataset(
            self.raw.parent, DATASET_ID, num_training=NUM_TRAINING, num_test=NUM_TEST, shape=(SIZE,) * 3
        )

    def model_folder(self, trainer: str) -> Path:
        """Where nnU-Net keeps the model of a trainer."""
        return self.out / "nnUNet_results" / self.raw.name / f"{trainer}__{PLANS}__{CONFIGURATION}"

    def prepare_data(self) -> None:
        """Write the phantom, plan and preprocess it, and merge the settings into the plan."""
        self.write_cohort()
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", CONFIGURATION, "-npfp", "2", "-np", "2"]
        self.run("Plan and preprocess", command, "", 1)
        preprocessed = self.out / "nnUNet_preprocessed"
        plans = load_json(preprocessed / self.raw.name / "nnUNetPlans.json")
        write_plans(merge_fragment(plans, CONFIGURATION, self.fragment, PLANS), preprocessed)

    def train(self, trainer: str) -> None:
        """Train on one fold of the training cases."""
        epochs = self.fragment["missmod"]["trainer"]["num_epochs"]
        command = ["nnUNetv2_train", str(DATASET_ID), CONFIGURATION, "0", "-tr", trainer, "-p", PLANS]
        self.run(f"Train {trainer}", [*command, "-device", self.device], r"Epoch \d+", epochs)

    def report(self, trainer: str) -> Path:
        """Score the held-out cases, print the mean Dice by subset and region, and write the report; give its place."""
        scores = read_scores(self.evaluate(trainer))
        page = write_report([self.out / "scores" / trainer], self.out / "report")
        print_means(scores)
        self.console.print(f"The report: {page}", soft_wrap=True, highlight=False)
        return page

    def evaluate(self, trainer: str) -> Path:
        """Predict and score the held-out cases from each subset of their modalities; give the folder of the scores."""
        scores = self.out / "scores" / trainer
        command = ["missmod", "evaluate", "-i", str(self.raw / "imagesTs"), "-gt", str(self.raw / "labelsTs")]
        command += ["-d", str(DATASET_ID), "-c", CONFIGURATION, "-tr", trainer, "-p", PLANS, "-f", "0"]
        command += ["-o", str(scores), "-device", self.device, "--disable_tta", "-nps", "1"]
        self.run("Score every subset", command, r"^phantom_\d+: done", NUM_TEST)
        return scores

    def run(self, title: str, command: list[str], tick: str, ticks: int) -> None:
        """Run a command, its output in the log; a line that matches ``tick`` moves the bar."""
        columns = TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn()
        last: deque[str] = deque(maxlen=LAST_LINES)
        found = [find_command(command[0]), *command[1:]]
        with Progress(*columns, console=self.console) as progress, running_command(found, self.environment) as process:
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
