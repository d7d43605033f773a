"""A trained model as nnU-Net's predictor, opened without executing what is pickled in its checkpoints."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_missmod.files.dataset_json import channel_names, read_dataset_json
from nnunetv2_missmod.files.json_files import read_object
from nnunetv2_missmod.host.checkpoint import check_alike, check_checkpoint, load_data
from nnunetv2_missmod.host.plan_checks import open_plan, refused_as
from nnunetv2_missmod.host.predictor import make_predictor
from nnunetv2_missmod.host.preprocessor import accept_missing_files
from nnunetv2_missmod.host.trainer_lookup import find_trainer_class
from nnunetv2_missmod.machine.devices import require_device
from nnunetv2_missmod.prediction.engine import MEMORY

MODEL_FILES = ("plans.json", "dataset.json")


@dataclass(frozen=True)
class ModelChoice:
    """Which trained model: the flags by which nnU-Net names one.

    Attributes:
        dataset: id or name, ``-d``.
        configuration: ``-c``.
        trainer: ``-tr``.
        plans: ``-p``.
        folds: ``-f``, numbers or "all"; their predictions are averaged.
        checkpoint: ``-chk``, a file in every fold's folder.
        model_folder: where the model is, if not in nnUNet_results.
    """

    dataset: str
    configuration: str
    trainer: str = "nnUNetTrainer"
    plans: str = "nnUNetPlans"
    folds: tuple[str, ...] = ("0", "1", "2", "3", "4")
    checkpoint: str = "checkpoint_final.pth"
    model_folder: Path | None = None

    @property
    def dataset_name(self) -> str:
        """Name of the dataset's folder.

        Raises:
            ValueError: there is no such dataset.
        """
        if self.model_folder:
            return self.dataset
        try:
            return str(maybe_convert_to_dataset_name(self.dataset))
        except RuntimeError as error:
            raise ValueError(f"Expected a dataset's id or name, got -d {self.dataset}: {error}") from error

    @property
    def folder(self) -> Path:
        """Where nnU-Net keeps the model.

        Raises:
            ValueError: there is no such model.
        """
        if self.model_folder:
            return self.model_folder
        if not nnUNet_results.is_set():
            raise ValueError("Expected the variable nnUNet_results, which says where the models are. Set it.")
        folder = Path(get_output_folder(self.dataset_name, self.trainer, self.plans, self.configuration))
        if not folder.is_dir():
            trained = sorted(other.name for other in folder.parent.glob("*__*__*"))
            raise ValueError(
                f"Expected a trained model in {folder}, found no such folder. Trained on this dataset are: "
                f"{', '.join(trained) or 'none'}. Give its -tr, -p and -c, or train it."
            )
        return folder

    def checkpoint_files(self) -> list[Path]:
        """Find the checkpoint of every fold.

        Raises:
            ValueError: a fold has none.
        """
        files = [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]
        for file in files:
            if not file.is_file():
                trained = sorted(other.parent.name for other in self.folder.glob(f"fold_*/{self.checkpoint}"))
                raise ValueError(
                    f"Expected a checkpoint at {file}, found none. Folds with a {self.checkpoint} are: "
                    f"{', '.join(trained) or 'none'}. Train this fold, or name others with -f or -chk."
                )
        return files


@dataclass(frozen=True)
class PredictionSettings:
    """How to predict.

    Attributes:
        device: cuda, cpu or mps.
        step_size: of the sliding window, as a fraction of the patch.
        mirroring: test-time augmentation.
        num_processes: for the export and the scores beside the prediction; 0 does them in the same process.
        num_parts: how many commands share the cases.
        part_id: which of them this is, from 0.
        memory: GB that the logits of a case may take at a time; more subsets than fit are predicted in several runs.
    """

    device: str = "cuda"
    step_size: float = 0.5
    mirroring: bool = True
    num_processes: int = 3
    num_parts: int = 1
    part_id: int = 0
    memory: float = MEMORY

    def __post_init__(self) -> None:
        if self.device not in ("cuda", "cpu", "mps"):
            raise ValueError(f"Expected -device cuda, cpu or mps, got {self.device}.")
        require_device(self.device)
        if not 0 < self.step_size <= 1:
            raise ValueError(f"Expected -step_size above 0 and up to 1, got {self.step_size}. 0.5 is usual.")
        if not 0 <= self.part_id < self.num_parts:
            raise ValueError(
                f"Expected -part_id from 0 to -num_parts - 1, got {self.part_id} of {self.num_parts}. The first is 0."
            )
        if not self.memory > 0:
            raise ValueError(f"Expected --memory above 0, in GB, got {self.memory}. {MEMORY:g} is usual.")
        if self.num_processes < 0:
            raise ValueError(f"Expected -nps 0 or more, got {self.num_processes}.")


def open_predictor(choice: ModelChoice, settings: PredictionSettings) -> nnUNetPredictor:
    """Open a trained model of any trainer as nnU-Net's predictor.

    Raises:
        ValueError: a file is missing or does not fit, a checkpoint holds more than data, the trainer is unknown, or the
            configuration needs the segmentation of a previous stage.
    """
    files = choice.checkpoint_files()
    checkpoints = [read_checkpoint(file) for file in files]
    trainer, axes = checkpoints[0]["trainer_name"], checkpoints[0].get("inference_allowed_mirroring_axes")
    dataset_json = read_json(choice.folder / "dataset.json")
    managers = read_plan(choice, len(channel_names(dataset_json)))
    check_alike(files, checkpoints, len(managers[1].patch_size))
    network = build_network(trainer, *managers, dataset_json)
    for file, checkpoint in zip(files, checkpoints, strict=True):
        load_weights(network, checkpoint["network_weights"], file)
    model = [checkpoint["network_weights"] for checkpoint in checkpoints], managers, dataset_json, trainer, axes
    return make_predictor(network, *model, settings.step_size, settings.mirroring, torch.device(settings.device))


def read_plan(choice: ModelChoice, num_modalities: int) -> tuple[PlansManager, ConfigurationManager]:
    """Read the plan of a model, which then accepts missing files.

    Raises:
        ValueError: as ``open_plan``, or it needs the segmentation of a previous stage.
        NotImplementedError: it has a preprocessor of its own.
    """
    file = choice.folder / "plans.json"
    managers = open_plan(read_json(file), choice.configuration, str(file), num_modalities)
    if managers[1].previous_stage_name is not None:
        raise ValueError(
            f"Expected a configuration without a previous stage, got {choice.configuration}: its input is a "
            "segmentation for every subset. Predict subset by subset with nnUNetv2_predict -prev_stage_predictions."
        )
    accept_missing_files(managers[1])
    return managers


def build_network(
    trainer: str, plans_manager: PlansManager, configuration_manager: ConfigurationManager, dataset_json: dict[str, Any]
) -> torch.nn.Module:
    """Build the network of a trainer's model, with random weights.

    Raises:
        ValueError: the trainer is unknown, or the plan describes no network that can be built.
    """
    channels = len(channel_names(dataset_json))
    heads = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
    build = find_trainer(trainer).build_network_architecture
    with refused_as(f"a plan that the network of {trainer} can be built from"):
        network: torch.nn.Module = build(
            plans_manager, configuration_manager, channels, heads, enable_deep_supervision=False
        )
    return network


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint's data; of its tensors, those that are used.

    Raises:
        ValueError: it is damaged, is no checkpoint of nnU-Net, would execute code, or its weights are not finite.
    """
    try:
        checkpoint: dict[str, Any] = load_data(file)
        check_checkpoint(checkpoint)
    except Exception as error:
        raise ValueError(
            f"Expected a checkpoint of nnU-Net that holds data alone, got {file}: {error} Copy or train it again, or "
            "name another with -chk."
        ) from error
    return checkpoint


def find_trainer(name: str) -> Any:
    """Find a trainer's class as nnU-Net does.

    Raises:
        ValueError: nnU-Net does not find it, or it builds its network as nnU-Net did before 2.8.
    """
    try:
        trainer = find_trainer_class(name)
    except LookupError as error:
        raise ValueError(
            f"Expected a trainer that nnU-Net finds, got {name}. If it is not of nnU-Net or this package, add its "
            f"folder to nnUNet_extTrainer."
        ) from error
    if "plans_manager" not in inspect.signature(trainer.build_network_architecture).parameters:
        raise ValueError(
            f"Expected a trainer whose build_network_architecture takes plans_manager, as of nnU-Net 2.8, got {name} "
            "with the signature before. Bring it up to date."
        )
    return trainer


def load_weights(network: torch.nn.Module, weights: dict[str, Any], file: Path) -> None:
    """Load a fold's weights, strictly.

    Raises:
        ValueError: they are another network's.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"Expected the weights of the network that {file.parent.parent / 'plans.json'} describes, got others in "
            f"{file}: {error}"
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """Read plans.json or dataset.json of a model; the latter is checked.

    Raises:
        ValueError: it is missing or damaged, or lacks something.
    """
    return read_dataset_json(file) if file.name == "dataset.json" else read_object(file)


def fingerprints(files: Sequence[Path]) -> list[str]:
    """Hash each file (SHA-256): retrained weights are other weights, whatever their file is called."""
    return [_fingerprint(file) for file in files]


def _fingerprint(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()
