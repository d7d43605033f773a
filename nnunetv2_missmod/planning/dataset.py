"""What nnU-Net planned for a dataset, and the trainer that a plan is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunetv2_missmod.files.dataset_json import read_dataset_json
from nnunetv2_missmod.files.json_files import read_object
from nnunetv2_missmod.host.doors import PRETRAINING, door_names, pretraining_of
from nnunetv2_missmod.host.fingerprint import FINGERPRINT
from nnunetv2_missmod.host.plan_checks import check_plans
from nnunetv2_missmod.host.trainer_lookup import find_trainer_class
from nnunetv2_missmod.training.trainer import MissingModalityTrainer

NO_PLANS = ("dataset.json", FINGERPRINT, "splits_final.json")  # of the files beside the plans


@dataclass(frozen=True)
class PlannedDataset:
    """A dataset's folder in nnUNet_preprocessed.

    Attributes:
        folder: it.
        plans: the plan to start from.
        json: dataset.json.
    """

    folder: Path
    plans: dict[str, Any]
    json: dict[str, Any]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What nnU-Net's planners know of the images.

        Raises:
            ValueError: it is not there.
        """
        file = self.folder / FINGERPRINT
        if not file.is_file():
            raise ValueError(
                f"Expected the dataset's fingerprint at {file}, found none. Run nnUNetv2_extract_fingerprint, "
                "or use --setting paper, which needs none."
            )
        return read_object(file)


def read_dataset(dataset: str, plans_name: str) -> PlannedDataset:
    """Read a plan and what lies beside it.

    Args:
        dataset: id or name.
        plans_name: name of the plan, without .json.

    Raises:
        ValueError: dataset or plan are not there, or hold something wrong.
    """
    if not nnUNet_preprocessed.is_set():
        raise ValueError("Expected the variable nnUNet_preprocessed, which says where the plans are. Set it.")
    try:
        name = str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"Expected a dataset's id or name, got -d {dataset}: {error}") from error
    folder = Path(str(nnUNet_preprocessed)) / name
    file = folder / f"{plans_name}.json"
    if not (file.is_file() and (folder / "dataset.json").is_file()):
        others = sorted(other.stem for other in folder.glob("*.json") if other.name not in NO_PLANS)
        raise ValueError(
            f"Expected a plan at {file} with dataset.json beside it, found none. Plans there are: "
            f"{', '.join(others) or 'none'}. Name one with -p, or run nnUNetv2_plan_and_preprocess -d {dataset}."
        )
    plans = read_object(file)
    check_plans(plans, str(file))
    if plans["dataset_name"] != name:
        raise ValueError(
            f"{file}: expected dataset_name to be {name}, the folder it lies in, got {plans['dataset_name']!r}. Bring "
            "plans to another dataset with nnUNetv2_move_plans_between_datasets."
        )
    return PlannedDataset(folder, plans, read_dataset_json(folder / "dataset.json"))


def find_stages(trainer: str) -> list[type[MissingModalityTrainer]]:
    """Find a trainer as nnU-Net does; one that starts from a pretraining shares its plan with it, which comes first.

    Raises:
        ValueError: there is no such trainer, or it is none for missing modalities.
    """
    segmenting = trainer.removesuffix(PRETRAINING) + "Trainer" if trainer.endswith(PRETRAINING) else trainer
    names = [pretraining_of(segmenting), segmenting] if segmenting in door_names() else [trainer]
    return [_find_trainer(name) for name in names if name]


def _find_trainer(name: str) -> type[MissingModalityTrainer]:
    try:
        found = find_trainer_class(name)
    except LookupError as error:
        raise ValueError(f"Expected a trainer, got -tr {name}, which nnU-Net does not find. {_ours()}") from error
    if not issubclass(found, MissingModalityTrainer):
        raise ValueError(
            f"Expected a trainer for missing modalities, got -tr {name}, which is not one. {_ours()} "
            "For others, nnU-Net's own plan is made for them: nnUNetv2_plan_experiment."
        )
    trainer: type[MissingModalityTrainer] = found
    return trainer


def _ours() -> str:
    return f"This package's are: {', '.join(door_names())}."
