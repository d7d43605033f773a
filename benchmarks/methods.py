"""Do the methods help? Every trainer on one hard phantom cohort: ``python -m benchmarks.methods``.

The same cases, plan, number of updates and seeds for all; a pretraining's updates count, half of the whole. Scored are
test cases from every subset of their modalities, by ``missmod evaluate``. What is finished is kept: a run that was
ended goes on with the same command, and more seeds or trainers can be added later.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from batchgenerators.utilities.file_and_folder_operations import load_json

from nnunetv2_missmod.datasets.phantom import write_phantom_dataset
from nnunetv2_missmod.doors import find_command, pretraining_of, with_doors
from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.evaluation.summary import mean_over_subsets, robustness_area, subset_means
from nnunetv2_missmod.planning.fragments import load_fragment, merge_fragment, write_plans

DATASET, CONFIGURATION = "Dataset501_Phantom", "3d_fullres"
UPDATES_PER_EPOCH = 250  # nnU-Net's own, which its trainer's variants keep
STOCK = "nnUNetTrainer"
SEEDED = """
import sys, torch
torch.manual_seed(int(sys.argv.pop(1)))
from nnunetv2.run.run_training import run_training_entry
run_training_entry()
"""


Settings = dict[str, dict[str, Any]]  # by trainer


class Run(NamedTuple):
    """One row of the table.

    Args:
        trainer: nnU-Net's name for it.
        settings: what is trained with in place of the defaults, by trainer.
    """

    trainer: str
    settings: Settings


def of_both(substitute: str) -> Settings:
    """Settings of both stages of M3AE."""
    return {name: {"substitute": substitute} for name in ("M3AEPretrainTrainer", "M3AETrainer")}


METHODS = {
    "nnU-Net": Run(STOCK, {}),
    "modality dropout": Run("ModalityDropoutTrainer", {}),
    "DC-Seg": Run("DCSegTrainer", {}),
    "CCSD": Run("CCSDTrainer", {}),
    "MST-KDNet": Run("MSTKDNetTrainer", {}),
    "M3AE": Run("M3AETrainer", {}),
}
ABLATIONS = {
    "DC-Seg without L_ana": Run("DCSegTrainer", {"DCSegTrainer": {"anatomy_weight": 0.0}}),
    "DC-Seg without L_mod": Run("DCSegTrainer", {"DCSegTrainer": {"modality_weight": 0.0}}),
    "DC-Seg without L_rec": Run("DCSegTrainer", {"DCSegTrainer": {"reconstruction_weight": 0.0}}),
    "DC-Seg without L_reg": Run("DCSegTrainer", {"DCSegTrainer": {"separate_weight": 0.0}}),
    "CCSD without HMSD": Run("CCSDTrainer", {"CCSDTrainer": {"hmsd_weight": 0.0}}),
    "CCSD without DMCD": Run("CCSDTrainer", {"CCSDTrainer": {"dmcd_weight": 0.0}}),
    "CCSD, random path": Run("CCSDTrainer", {"CCSDTrainer": {"path_order": "random"}}),
    "CCSD, least critical first": Run("CCSDTrainer", {"CCSDTrainer": {"path_order": "min"}}),
    "MST-KDNet without MS-TKD": Run("MSTKDNetTrainer", {"MSTKDNetTrainer": {"evd_weight": 0.0, "mst_weight": 0.0}}),
    "MST-KDNet without GSME": Run(
        "MSTKDNetTrainer", {"MSTKDNetTrainer": {"gram_weight": 0.0, "adversarial_weight": 0.0}}
    ),
    "MST-KDNet without SLKD": Run("MSTKDNetTrainer", {"MSTKDNetTrainer": {"slkd_weight": 0.0}}),
    "M3AE without pretraining": Run("M3AETrainer", {"M3AETrainer": {"pretrained": False}}),
    "M3AE, modality dropout alone": Run("M3AETrainer", {"M3AEPretrainTrainer": {"visible_fraction": 1.0}}),
    "M3AE, zero for x_sub": Run("M3AETrainer", of_both("zero")),
    "M3AE, mean image for x_sub": Run("M3AETrainer", of_both("mean")),
    "M3AE without self distillation": Run("M3AETrainer", {"M3AETrainer": {"consistency_weight": 0.0}}),
}


def main() -> None:
    """Train and score what is not there yet, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", type=Path, default=Path("benchmark_methods"), help="default: %(default)s")
    parser.add_argument("-device", default="cuda")
    parser.add_argument("--epochs", type=int, default=20, help="of 250 updates; one of nnU-Net's trainers' variants")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--training", type=int, default=40)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--merge", type=Path, help="a fragment of a configuration, for every trainer (plans/README.md)")
    parser.add_argument("--only", nargs="+", help="rows of the table (default: all methods)")
    parser.add_argument("--ablations", action="store_true", help="the papers' ablations as well")
    arguments = parser.parse_args()
    runs = METHODS | (ABLATIONS if arguments.ablations else {})
    fragment = load_fragment(arguments.merge) if arguments.merge else {}
    bench = Bench(arguments.o.resolve(), arguments.device, arguments.epochs, fragment)
    bench.prepare(arguments.training, arguments.test, arguments.size)
    names = arguments.only or list(runs)
    for seed in arguments.seeds:  # seed by seed: an early end leaves a table of fewer seeds
        for name in names:
            bench.train_and_score(name, runs[name], seed)
        print_tables(bench, names, arguments.seeds)


class Bench:
    """One cohort, and the runs on it, in one folder."""

    def __init__(self, out: Path, device: str, epochs: int, fragment: dict[str, Any]):
        self.out, self.device, self.epochs, self.fragment = out, device, epochs, fragment
        self.preprocessed = out / "nnUNet_preprocessed" / DATASET

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

    def prepare(self, training: int, test: int, size: int) -> None:
        """Write, plan and preprocess the cohort, unless that is done."""
        if not (self.out / "nnUNet_raw").exists():
            shape = (size, size, size)
            write_phantom_dataset(self.out / "nnUNet_raw", num_training=training, num_test=test, shape=shape, hard=True)
        if not (self.preprocessed / "nnUNetPlans.json").exists():
            self.run([find_command("nnUNetv2_plan_and_preprocess"), "-d", "501", "-c", CONFIGURATION])

    def train_and_score(self, name: str, run: Run, seed: int) -> None:
        """Do what one row of the table still lacks: pretraining, training, scores."""
        stages = [stage for stage in (pretraining_of(run.trainer), run.trainer) if stage]
        if run.settings.get(run.trainer, {}).get("pretrained") is False:
            stages = [run.trainer]
        plans = self.write_plan(name, run, stages)
        trained = [f"{STOCK}_{self.epochs}epochs"] if run.trainer == STOCK else stages
        for trainer in trained:
            fold = self.out / f"seed_{seed}" / DATASET / f"{trainer}__{plans}__{CONFIGURATION}" / "fold_0"
            if not (fold / "checkpoint_final.pth").exists():
                begun = ["--c"] if list(fold.glob("checkpoint_*.pth")) else []
                arguments = ["501", CONFIGURATION, "0", "-tr", trainer, "-p", plans, "-device", self.device, *begun]
                self.run([sys.executable, "-c", SEEDED, str(seed), *arguments], seed)
        cases = self.out / "nnUNet_raw" / DATASET
        command = [find_command("missmod"), "evaluate", "-i", str(cases / "imagesTs"), "-gt", str(cases / "labelsTs")]
        command += [
            "-o",
            str(self.scores(name, seed)),
            "-d",
            "501",
            "-c",
            CONFIGURATION,
            "-tr",
            trained[-1],
            "-p",
            plans,
        ]
        self.run([*command, "-f", "0", "-device", self.device, "--disable_tta", "--no-save", "-nps", "2"], seed)

    def write_plan(self, name: str, run: Run, stages: list[str]) -> str:
        """Write the plan of a row, the common one with the row's schedule and settings; give its name."""
        plans_name = "nnUNetPlans_" + "".join(re.split(r"\W+", name.title()))
        plans = load_json(str(self.preprocessed / "nnUNetPlans.json"))
        first = self.epochs // len(stages)
        shares = [first, self.epochs - first] if len(stages) > 1 else [first]
        settings = {
            stage: {"num_epochs": share, **run.settings.get(stage, {})}
            for stage, share in zip(stages, shares, strict=True)
        }
        for fragment in (self.fragment, {} if run.trainer == STOCK else {"missmod": {"trainer": settings}}):
            plans = merge_fragment(plans, CONFIGURATION, fragment, plans_name)
        write_plans(plans, self.preprocessed.parent)
        return plans_name

    def scores(self, name: str, seed: int) -> Path:
        """Where the scores of a row are."""
        return self.out / "scores" / f"seed_{seed}" / name.replace(" ", "_")


def print_tables(bench: Bench, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Print the mean over the subsets and the area under the robustness curve, and the Dice of every subset."""
    means: dict[str, list[pd.DataFrame]] = {}
    for name in names:
        folders = [folder for seed in seeds if (folder := bench.scores(name, seed)).joinpath("scores.csv").exists()]
        if folders:
            means[name] = [subset_means(read_scores(folder).table, "dice") for folder in folders]
    print(f"\n{bench.epochs * UPDATES_PER_EPOCH} updates, {bench.device}, {platform.machine()}\n")
    regions = list(next(iter(means.values()))[0].columns)
    columns = ["trainer", "seeds", *regions, "mean over regions", *(f"area, {region}" for region in regions)]
    print_rows(columns)
    for name, of_seeds in means.items():
        dice = pd.DataFrame([mean_over_subsets(of_seed) for of_seed in of_seeds])
        area = pd.DataFrame([robustness_area(of_seed) for of_seed in of_seeds])
        cells = [spread(dice[region]) for region in regions] + [spread(dice.mean(axis=1))]
        print_rows([name, str(len(of_seeds)), *cells, *(spread(area[region]) for region in regions)], False)
    print()
    print_rows(["subset", "region", *means])
    for subset in next(iter(means.values()))[0].index:
        for region in regions:
            values = [pd.Series([of_seed.loc[subset, region] for of_seed in of_seeds]) for of_seeds in means.values()]
            print_rows([str(subset), region, *map(spread, values)], False)


def print_rows(cells: Sequence[str], is_head: bool = True) -> None:
    """Print a row of a Markdown table, with the line below its head."""
    print("|", " | ".join(cells), "|", flush=True)
    if is_head:
        print("|" + "---|" * len(cells))


def spread(values: pd.Series[float]) -> str:
    """Mean, and standard deviation over the seeds if there are several."""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
