"""`missmod demo`: the whole job on the phantom, by the commands of a user, in minutes on a CPU."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree

from batchgenerators.utilities.file_and_folder_operations import load_json

from nnunetv2_missmod.cli.demo_folder import DemoFolder
from nnunetv2_missmod.datasets import phantom
from nnunetv2_missmod.datasets.phantom.cohort import phantom_modalities, write_phantom_dataset
from nnunetv2_missmod.evaluation.means_table import print_means
from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.host.checkpoint import CHECKPOINTS
from nnunetv2_missmod.host.doors import find_command, plans_folder, pretraining_of, segmenting_names, with_doors
from nnunetv2_missmod.host.folders import VARIABLES
from nnunetv2_missmod.machine.devices import require_device
from nnunetv2_missmod.machine.progress import progress
from nnunetv2_missmod.machine.workers import running_command
from nnunetv2_missmod.planning.dedicated import for_subset, subset_to_train
from nnunetv2_missmod.planning.fragments import load_fragment, merge_fragment, merged, write_plans
from nnunetv2_missmod.report.page import write_report

DATASET_ID, CONFIGURATION, PLANS = 501, "3d_fullres", "nnUNetPlans_demo"
NUM_TRAINING, NUM_TEST, NUM_TEST_QUICK, SIZE = 20, 6, 2, 40
PLANNING, SCORING, CALIBRATING = "Plan and preprocess", "Score every subset", "Calibrate"
DURATIONS = {"Plan": "1 minute", "Train": "3 to 6 minutes", "Score": "1 minute", "Calibrate": "seconds"}
IN_ONE_PROCESS = {"nnUNet_n_proc_DA": "0"}  # nnU-Net's workers cannot be seeded; planning takes at least one
NUM_MODALITIES, SUBSET = 4, "T1c"  # of the phantom; of a dedicated trainer
CONFIDENCE = "0.8"  # which so few cases can give a bound for
LOG = "log.txt"
LAST_LINES = 30  # of a failed command, shown with the error
EMBEDDED, EMBEDDED_TRAINER = Path(phantom.__file__).parent / "model", "ModalityDropoutTrainer"


def run_demo(out: Path, trainer: str, device: str, overwrite: bool = False, subset: str | None = None) -> Path:
    """Make a phantom cohort, train briefly, score held-out cases from every subset of their modalities, and report.

    Args:
        out: a folder that does not exist yet or is empty, or that of a demo, which goes on where it stopped; it holds
            everything, with nnU-Net's own layout and a log.
        trainer: one of the doors; one that starts from a pretraining is pretrained first.
        device: cpu, cuda or mps.
        overwrite: begin anew in the folder of a demo.
        subset: that a dedicated trainer is for; T1c if None.

    Returns:
        The report, whose place is also printed, after the mean Dice by subset and region.

    Raises:
        ValueError: the folder is in use, trainer, subset or device not there.
        CommandFailedError: a command failed; the end of its output is in the message.
    """
    trainers = segmenting_names()
    if trainer not in trainers:
        raise ValueError(f"Expected one of the trainers that segment, {', '.join(trainers)}, got {trainer!r}.")
    require_device(device)
    os.environ.update(with_doors(os.environ))
    named = subset_to_train(trainer, subset, phantom_modalities(NUM_MODALITIES), SUBSET)
    folder = DemoFolder(out, "with its training", overwrite)
    job = Job(folder.path, device, subset=named)
    stages = [stage for stage in (pretraining_of(trainer), trainer) if stage]
    job.announce([PLANNING, *(f"Train {stage}" for stage in stages), SCORING, CALIBRATING], folder.finished)
    if PLANNING not in folder.finished:
        job.prepare_data()
        folder.finish(PLANNING)
    elif named:
        job.write_plan()  # which a demo of another trainer in this folder did not
    for stage in stages:
        if f"Train {stage}" not in folder.finished:
            job.train(stage)
            folder.finish(f"Train {stage}")
    job.evaluate(trainer)
    job.calibrate(trainer)
    return job.report(trainer)


def run_quick_demo(out: Path, device: str, overwrite: bool = False) -> Path:
    """Score held-out cases of the phantom by the model that comes with the package, and report: about a minute.

    Args:
        out: as in ``run_demo``.
        device: cpu, cuda or mps.
        overwrite: begin anew in the folder of a demo.

    Returns:
        The report, as in ``run_demo``.

    Raises:
        ValueError: the folder is in use or the device not there.
        CommandFailedError: a command failed; the end of its output is in the message.
    """
    require_device(device)
    folder = DemoFolder(out, "quick", overwrite)
    job = Job(folder.path, device, num_test=NUM_TEST_QUICK)
    job.announce([SCORING], folder.finished)
    job.write_cohort()
    copytree(EMBEDDED, job.model_folder(EMBEDDED_TRAINER), dirs_exist_ok=True)
    job.evaluate(EMBEDDED_TRAINER)
    return job.report(EMBEDDED_TRAINER)


class CommandFailedError(RuntimeError):
    """A command of the demo failed; the message holds the end of its output."""


class Job:
    """The steps of the demo in one folder, each a command as a user would type it."""

    def __init__(self, out: Path, device: str, settings: str = "demo", num_test: int = NUM_TEST, subset: str = ""):
        """Begin in a folder.

        Args:
            out: the folder.
            device: cpu, cuda or mps.
            settings: names a fragment of ``plans/``: a small network and a short schedule.
            num_test: held-out cases.
            subset: that a dedicated trainer is for; such a plan has a name of its own.
        """
        self.out, self.device, self.num_test = out, device, num_test
        self.fragment = merged(load_fragment(plans_folder() / f"{settings}.json"), for_subset(subset))
        self.plans = f"{PLANS}_{subset}" if subset else PLANS
        self.raw = out / "nnUNet_raw" / f"Dataset{DATASET_ID}_Phantom"
        for folder in VARIABLES:
            (out / folder).mkdir(parents=True, exist_ok=True)
        few_workers = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2"}
        own = {folder: str(out / folder) for folder in VARIABLES}
        self.environment = with_doors({"PYTHONUNBUFFERED": "1", **few_workers, **os.environ, **own})

    def announce(self, steps: Sequence[str], finished: Sequence[str]) -> None:
        """Say what is to be done, how long it will take, and what is done already."""
        print(f"What the commands of this demo print is in {self.out / LOG}. Its steps, on two CPU cores:")
        for step in steps:
            took = "finished before" if step in finished else DURATIONS[step.split()[0]]
            print(f"  {step:<28} {took}", flush=True)

    def write_cohort(self) -> None:
        """Write the phantom, unless it is there: it is written whole or not at all."""
        if self.raw.is_dir():
            return
        write_phantom_dataset(
            self.raw.parent, DATASET_ID, num_training=NUM_TRAINING, num_test=self.num_test, shape=(SIZE,) * 3
        )

    def model_folder(self, trainer: str) -> Path:
        """Where nnU-Net keeps the model of a trainer."""
        return self.out / "nnUNet_results" / self.raw.name / f"{trainer}__{self.plans}__{CONFIGURATION}"

    def prepare_data(self) -> None:
        """Write the phantom, plan and preprocess it, and merge the settings into the plan."""
        self.write_cohort()
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", CONFIGURATION, "-npfp", "2", "-np", "2"]
        self.run(PLANNING, command, "", 1)
        self.write_plan()

    def write_plan(self) -> None:
        """Merge the settings into nnU-Net's plan."""
        preprocessed = self.out / "nnUNet_preprocessed"
        plans = load_json(preprocessed / self.raw.name / "nnUNetPlans.json")
        write_plans(merge_fragment(plans, CONFIGURATION, self.fragment, self.plans), preprocessed)

    def train(self, trainer: str) -> None:
        """Train on one fold of the training cases, from the last checkpoint if there is one."""
        ticks = self.fragment["missmod"]["trainer"]["num_epochs"] + 1  # the last is the validation's
        command = ["nnUNetv2_train", str(DATASET_ID), CONFIGURATION, "0", "-tr", trainer, "-p", self.plans]
        fold = self.model_folder(trainer) / "fold_0"
        goes_on = ["--c"] * any((fold / name).is_file() for name in CHECKPOINTS)
        self.run(f"Train {trainer}", [*command, "-device", self.device, *goes_on], "Epoch time:", ticks, IN_ONE_PROCESS)

    def report(self, trainer: str) -> Path:
        """Write the report of the scores, and print the mean Dice by subset and region; give the report's place."""
        scores = read_scores(self.scores_of(trainer))
        page = write_report([self.scores_of(trainer)], self.out / "report")
        print_means(scores)
        print(f"The report: {page}")
        return page

    def scores_of(self, trainer: str) -> Path:
        """Where the scores are."""
        return self.out / "scores" / trainer

    def calibrate(self, trainer: str) -> None:
        """Learn from the scores what masks of new cases are worth."""
        command = ["missmod", "calibrate", str(self.scores_of(trainer)), "--confidence", CONFIDENCE, "-np", "1"]
        self.run(CALIBRATING, command, "", 1)

    def evaluate(self, trainer: str) -> None:
        """Predict and score the held-out cases from each subset of their modalities."""
        command = ["missmod", "evaluate", "-i", str(self.raw / "imagesTs"), "-gt", str(self.raw / "labelsTs")]
        command += ["-d", str(DATASET_ID), "-c", CONFIGURATION, "-tr", trainer, "-p", self.plans, "-f", "0"]
        command += ["-o", str(self.scores_of(trainer)), "-device", self.device, "--disable_tta", "-nps", "1"]
        self.run(SCORING, command, r"^phantom_\d+: done", self.num_test)

    def run(
        self, title: str, command: list[str], tick: str, ticks: int, defaults: Mapping[str, str] | None = None
    ) -> None:
        """Run a command, its output in the log; a line that matches ``tick`` moves the bar.

        Args:
            title: of the bar.
            command: with its arguments.
            tick: a regular expression; the empty one matches no line.
            ticks: how many lines match it.
            defaults: what the command's environment has unless the user set it.

        Raises:
            CommandFailedError: it failed.
        """
        environment = {**self.environment, **{k: v for k, v in (defaults or {}).items() if k not in os.environ}}
        last: deque[str] = deque(maxlen=LAST_LINES)
        found = [find_command(command[0]), *command[1:]]
        with progress(title, ticks) as bar, running_command(found, environment) as process:
            assert process.stdout is not None
            with open(self.out / LOG, "a", buffering=1, encoding="utf-8") as log:
                for line in process.stdout:
                    log.write(line)
                    last.append(line)
                    bar.advance(bool(tick and re.search(tick, line)))
            if process.wait() == 0:
                bar.reach(ticks)
        if process.returncode:
            raise CommandFailedError(f"{' '.join(command)} failed. The end of {self.out / LOG}:\n{''.join(last)}")
