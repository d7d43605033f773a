"""The flags of each verb of `missmod`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_missmod.datasets.layouts import LAYOUTS


def add_run(verb: argparse.ArgumentParser) -> None:
    """Add the command that `missmod run` becomes."""
    verb.add_argument("command", nargs=argparse.REMAINDER, help="such as nnUNetv2_train, with its arguments")


def add_phantom(verb: argparse.ArgumentParser) -> None:
    """Add the flags of a synthetic cohort."""
    verb.add_argument("-d", type=int, default=501, help="dataset id (default: %(default)s)")
    verb.add_argument("-o", type=Path, help="folder to write to (default: nnUNet_raw)")
    verb.add_argument("--training", type=int, default=20, help="training cases (default: %(default)s)")
    verb.add_argument("--test", type=int, default=4, help="test cases (default: %(default)s)")
    verb.add_argument("--modalities", type=int, default=4, help="channels per case (default: %(default)s)")
    verb.add_argument("--size", type=int, default=64, help="voxels along each axis (default: %(default)s)")
    verb.add_argument("--incomplete", type=float, default=0.0, help="share of training cases that lack channels")
    verb.add_argument("--hard", action="store_true", help="small, faint tumours among findings that look like them")
    verb.add_argument("--seed", type=int, default=0)


def add_convert(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod convert`."""
    verb.add_argument("folder", type=Path, metavar="SRC", help="folder of the archive; or nnUNet_raw/DatasetXXX_Name")
    verb.add_argument("-d", type=int, required=True, help="dataset id; that of SRC itself adds its missing files to it")
    verb.add_argument("--name", help="name of the dataset (default: the layout's)")
    verb.add_argument("--layout", default="auto", help=f"one of {', '.join(LAYOUTS)} (default: %(default)s)")
    verb.add_argument("--pattern", help="of the images of --layout pattern: {case}/{case}_{modality}.nii.gz")
    verb.add_argument("--label_pattern", help="of their labels: {case}/{case}_seg.nii.gz")
    verb.add_argument(
        "--modalities", nargs="+", default=(), metavar="NAME=TEXT", help="in channel order, as in FLAIR=flair T1c=t1ce"
    )
    verb.add_argument(
        "--labels", nargs="+", default=(), metavar="NAME=VALUES", help="of the label files, as in edema=2 core=1,4"
    )
    verb.add_argument(
        "--splits",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="published splits: nnU-Net's .json, a .csv of folds, or lists train.txt and val.txt (default: by subject)",
    )
    verb.add_argument("--copy", action="store_true", help="copy files instead of linking to them")
    verb.add_argument("--complete-only", action="store_true", help="leave out cases that lack modalities")
    verb.add_argument("-np", type=int, default=8, help="processes (default: %(default)s)")


def add_fingerprint(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod fingerprint`, those of nnUNetv2_extract_fingerprint."""
    verb.add_argument("-d", required=True, help="dataset: id or name")
    verb.add_argument("--clean", action="store_true", help="replace a fingerprint that is there")
    verb.add_argument("-np", type=int, default=8, help="processes (default: %(default)s)")


def add_restore_labels(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod restore-labels`."""
    verb.add_argument("-i", type=Path, required=True, help="folder of masks")
    verb.add_argument("-o", type=Path, required=True, help="folder for the masks with the source's label values")
    verb.add_argument("-d", help="dataset: id or name")
    verb.add_argument("-dataset_json", type=Path, help="of the dataset (default: that in nnUNet_raw)")


def add_predict(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod predict`."""
    verb.add_argument("-i", type=Path, required=True, help="folder of the cases, with whichever channels they have")
    verb.add_argument(
        "-o", type=Path, required=True, help="folder for the masks, and masks.csv: what each was made from"
    )
    add_model(verb)
    add_subsets(verb, "available: what each case has (the default), all, singles, or a list such as FLAIR+T1c,T2")
    verb.add_argument("--continue_prediction", action="store_true", help="keep the cases that are finished")
    verb.add_argument(
        "--resample",
        action="store_true",
        help="bring images that lie elsewhere onto the grid of the case's first one",
    )
    verb.set_defaults(subsets="available")


def add_evaluate(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod evaluate`."""
    verb.add_argument("-i", type=Path, help="folder of the cases (default: the folds' validation cases)")
    verb.add_argument("-gt", type=Path, help="folder of their labels")
    verb.add_argument("-o", type=Path, required=True, help="folder for scores and masks; a run that was ended goes on")
    add_model(verb)
    add_subsets(verb, "all (the default; 31 of them beyond 5 modalities), singles, or a list such as FLAIR+T1c,T2")
    verb.add_argument("--no-save", action="store_true", help="keep no masks")
    verb.add_argument(
        "--empty",
        default="nnunet",
        help="scores of empty masks: nnunet, NaN where both are empty (the default), or brats, 1 and 0 / 0 and 374 mm",
    )
    verb.add_argument("--tolerance", type=float, default=1.0, help="of the normalised surface Dice in mm (default: 1)")
    verb.set_defaults(subsets="all")


def add_plan(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod plan`."""
    verb.add_argument("-d", required=True, help="dataset: id or name")
    verb.add_argument("-tr", required=True, help="trainer")
    verb.add_argument("-c", nargs="+", default=(), help="configurations (default: all that the trainer can take)")
    verb.add_argument("-p", default="nnUNetPlans", help="plan to start from, or to show (default: %(default)s)")
    verb.add_argument(
        "-gpu_memory_target", type=float, help="GB of the GPU to fit to (default: that of the plan's planner)"
    )
    verb.add_argument(
        "--setting",
        default="nnunet",
        help="nnunet: fitted to the GPU by nnU-Net's planner (the default), or paper: the paper's settings",
    )
    verb.add_argument("--merge", type=Path, metavar="FILE", help="JSON: a fragment of a configuration, merged last")
    verb.add_argument(
        "-overwrite_plans_name", help="name of the new plan (default: PLANS_TRAINER or PLANS_TRAINER_paper)"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a plan of this name")
    verb.add_argument(
        "-device", default="auto", help="cuda measures the memory, cpu estimates it, auto takes cuda if it is there"
    )
    verb.add_argument("--show", action="store_true", help="write nothing: print what the trainer will do on plan -p")


def add_report(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod report`."""
    verb.add_argument("folders", type=Path, nargs="+", help="one folder of scores for each model")
    verb.add_argument("-o", type=Path, required=True, help="folder for the report")


def add_demo(verb: argparse.ArgumentParser) -> None:
    """Add the flags of `missmod demo`."""
    verb.add_argument(
        "--out", type=Path, default=Path("missmod_demo"), help="folder to write to (default: %(default)s)"
    )
    verb.add_argument("--trainer", "-tr", default="DCSegTrainer", help="trainer (default: %(default)s)")
    verb.add_argument("--device", "-device", default="cpu", help="cpu, cuda or mps (default: %(default)s)")


def add_model(verb: argparse.ArgumentParser) -> None:
    """Add the flags by which nnUNetv2_predict names a model and says how to predict, with its defaults."""
    verb.add_argument("-d", required=True, help="dataset: id or name")
    verb.add_argument("-c", required=True, help="configuration")
    verb.add_argument("-tr", default="nnUNetTrainer", help="trainer; any (default: %(default)s)")
    verb.add_argument("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    verb.add_argument("-f", nargs="+", default=("0", "1", "2", "3", "4"), help="folds (default: 0 1 2 3 4)")
    verb.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    verb.add_argument("-device", default="cuda", help="cuda, cpu or mps (default: %(default)s)")
    verb.add_argument("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    verb.add_argument("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    verb.add_argument("-nps", type=int, default=3, help="processes that export and score (default: %(default)s)")
    verb.add_argument("-num_parts", type=int, default=1, help="how many such commands share the cases and -o")
    verb.add_argument("-part_id", type=int, default=0, help="which of them this is, from 0")


def add_subsets(verb: argparse.ArgumentParser, meaning: str) -> None:
    """Add what is segmented, and what is removed from the masks."""
    verb.add_argument("--subsets", help=meaning)
    verb.add_argument(
        "--min_voxels", nargs="+", default=(), metavar="REGION=N", help="remove a predicted region of fewer voxels"
    )
