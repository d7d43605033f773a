"""Other training sets of a comparison on patients: fewer patients, the complete ones alone, modalities taken away.

The plan and the cases that are scored stay those of the whole dataset.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import SimpleITK as sitk
from batchgenerators.utilities.file_and_folder_operations import load_json
from filelock import FileLock

from benchmarks.comparison import Bench
from nnunetv2_missmod.files.dataset_json import channel_names
from nnunetv2_missmod.host.doors import find_command

SPLITS = "splits_final.json"
PLAN = "nnUNetPlans.json"
SEED = 0  # of what is drawn here: the same patients and files in every row


class TrainingSet(NamedTuple):
    """What a fold's models train on.

    Args:
        patients: as many of the fold's training cases, those of a smaller number among those of a larger; None: all.
        complete: those with every modality alone.
        away: share of the cases from which each modality is taken, by its name; every case keeps one.
    """

    patients: int | None = None
    complete: bool = False
    away: Mapping[str, float] = {}

    @property
    def suffix(self) -> str:
        """What is said of it behind the name of a row; nothing of the whole dataset."""
        away = " ".join(f"{name} {share:g}" for name, share in self.away.items())
        parts = [f"{self.patients} patients"] if self.patients else []
        parts += ["complete ones alone"] if self.complete else []
        return "".join(f", {part}" for part in [*parts, *([f"less {away}"] if away else [])])


def prepare(bench: Bench, training: TrainingSet) -> list[str]:
    """Let the bench see the dataset in nnU-Net's folders, or what the training set leaves of it.

    Plans and results are written to the bench's own folders alone.

    Returns:
        Flags of `missmod evaluate` for the cases of a fold; ``{fold}`` stands for it.

    Raises:
        ValueError: the dataset is not there, or has no plan or no splits.
    """
    bench.out.mkdir(parents=True, exist_ok=True)
    with FileLock(bench.out / "prepare.lock"):  # several commands may begin at once
        return _prepared(bench, training, *sources(bench))


def _prepared(bench: Bench, training: TrainingSet, raw: Path, preprocessed: Path) -> list[str]:
    splits = load_json(str(preprocessed / SPLITS))
    if not training.suffix:
        link(raw, bench.out / "nnUNet_raw" / bench.dataset)
        link_each(preprocessed, bench.preprocessed)
        return ["-f", "{fold}"]
    if training.away:
        take_away(bench, raw, preprocessed, training.away)
    else:
        link(raw, bench.out / "nnUNet_raw" / bench.dataset)
        link_each(preprocessed, bench.preprocessed, but=[SPLITS])
    incomplete = incomplete_cases(bench.out / "nnUNet_raw" / bench.dataset)
    write(
        bench.preprocessed / SPLITS,
        [{**fold, "train": train_on(fold["train"], training, incomplete)} for fold in splits],
    )
    link_scored(raw, bench.out / "scored", splits)
    return ["-f", "{fold}", "-i", str(bench.out / "scored" / "fold_{fold}"), "-gt", str(raw / "labelsTr")]


def sources(bench: Bench) -> tuple[Path, Path]:
    """Find the dataset, raw and preprocessed.

    Raises:
        ValueError: it is not there, or has no plan or no splits.
    """
    raw, preprocessed = (
        Path(os.environ.get(name, "")) / bench.dataset for name in ("nnUNet_raw", "nnUNet_preprocessed")
    )
    for needed in (raw, preprocessed / PLAN, preprocessed / SPLITS):
        if not needed.exists():
            raise ValueError(
                f"Expected {needed}, found none: set nnU-Net's variables, and run missmod convert and "
                "nnUNetv2_plan_and_preprocess first."
            )
    return raw, preprocessed


def train_on(cases: Sequence[str], training: TrainingSet, incomplete: set[str]) -> list[str]:
    """Choose among a fold's training cases."""
    drawn = list(cases)
    random.Random(SEED).shuffle(drawn)
    chosen = [case for case in drawn if not (training.complete and case in incomplete)]
    return sorted(chosen[: training.patients])


def incomplete_cases(raw: Path) -> set[str]:
    """Find the training cases with a file that holds no image."""
    ending = len("_0000") + len(load_json(str(raw / "dataset.json"))["file_ending"])
    return {file.name[:-ending] for file in (raw / "imagesTr").iterdir() if holds_no_image(file)}


def holds_no_image(file: Path) -> bool:
    """Whether an image is constant, as `missmod convert` writes what a case lacks."""
    extent = sitk.MinimumMaximumImageFilter()
    extent.Execute(sitk.ReadImage(str(file)))
    return bool(extent.GetMinimum() == extent.GetMaximum())


def take_away(bench: Bench, raw: Path, preprocessed: Path, away: Mapping[str, float]) -> None:
    """Write the dataset without some of its files and preprocess it by the same plan, unless that is done."""
    own = bench.out / "nnUNet_raw" / bench.dataset
    if (bench.preprocessed / SPLITS).exists():
        return
    link_each(raw, own, but=["imagesTr"])
    (own / "imagesTr").mkdir(exist_ok=True)
    dataset_json = load_json(str(raw / "dataset.json"))
    names, ending = channel_names(dataset_json), dataset_json["file_ending"]
    draws = random.Random(SEED)
    for case in sorted(file.name.removesuffix(ending) for file in (raw / "labelsTr").iterdir()):
        files = [raw / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(len(names))]
        taken = [draws.random() < away.get(name, 0) for name in names]
        left = [not taken[m] and not holds_no_image(file) for m, file in enumerate(files)]
        for m, file in enumerate(files):
            target = own / "imagesTr" / file.name
            if taken[m] and any(left) and not holds_no_image(file):
                sitk.WriteImage(sitk.ReadImage(str(file)) * 0, str(target), useCompression=True)
            else:
                link(file, target)
    link_each(
        preprocessed, bench.preprocessed, but=[SPLITS, *(each.name for each in preprocessed.iterdir() if each.is_dir())]
    )
    number = str(int(bench.dataset[7:10]))
    bench.run([find_command("nnUNetv2_preprocess"), "-d", number, "-c", bench.configuration, "-np", "1"])


def link_scored(raw: Path, folder: Path, splits: Sequence[Mapping[str, Any]]) -> None:
    """Gather the files of each fold's validation cases, nothing taken away."""
    for number, fold in enumerate(splits):
        for case in fold["val"]:
            for file in (raw / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9].*"):
                link(file, folder / f"fold_{number}" / file.name)


def link_each(source: Path, folder: Path, but: Sequence[str] = ()) -> None:
    """Link what is in a folder, but for some names."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in source.iterdir():
        if each.name not in but:
            link(each, folder / each.name)


def link(target: Path, place: Path) -> None:
    """Link a file or folder, unless that is done."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(target.resolve())


def write(file: Path, splits: Sequence[Any]) -> None:
    """Write splits."""
    file.write_text(json.dumps(splits, indent=4), encoding="utf-8")
