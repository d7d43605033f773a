"""The models that nnUNet_results holds, and the one that is meant where a command leaves a part of its name out."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from nnunetv2.paths import nnUNet_results

from nnunetv2_missmod.calibration.file import CALIBRATION
from nnunetv2_missmod.files.entries import is_finite
from nnunetv2_missmod.files.whole_files import write_whole
from nnunetv2_missmod.host.checkpoint import CHECKPOINTS, load_data
from nnunetv2_missmod.host.doors import PRETRAINING
from nnunetv2_missmod.host.logger import AVERAGE
from nnunetv2_missmod.prediction.model import MODEL_FILES, ModelChoice, read_checkpoint, read_json

FINAL = CHECKPOINTS[0]
USUAL_TRAINER, USUAL_PLANS = ModelChoice.trainer, ModelChoice.plans


class TrainedFold(NamedTuple):
    """What there is of one fold.

    Attributes:
        fold: a number or "all".
        checkpoint: the name of the file that went furthest.
        is_readable: whether it can be opened.
        epochs: after which it was written; None where it does not say.
        pseudo_dice: its moving average then, over the subsets for a trainer of this package; None likewise.
    """

    fold: str
    checkpoint: str
    is_readable: bool
    epochs: int | None
    pseudo_dice: float | None

    @property
    def is_complete(self) -> bool:
        """Whether its training came to its end."""
        return self.checkpoint == FINAL


@dataclass(frozen=True)
class TrainedModel:
    """A trained model by the names that nnU-Net's folders have."""

    dataset: str
    configuration: str
    trainer: str
    plans: str
    folder: Path

    @property
    def segments(self) -> bool:
        """Whether it segments; a pretraining does not, and its curve is no Dice."""
        return not self.trainer.endswith(PRETRAINING)

    @property
    def is_calibrated(self) -> bool:
        """Whether held-out cases have told what its masks are worth."""
        return is_calibrated(self.folder)

    @property
    def flags(self) -> str:
        """The flags that name it among those of its dataset."""
        return f"-c {self.configuration} -tr {self.trainer} -p {self.plans}"

    def folds(self) -> list[TrainedFold]:
        """Look at the checkpoints of its folds."""
        found = [(folder, _furthest(folder)) for folder in sorted(self.folder.glob("fold_*"))]
        looked_at = [_look_at(folder / name) for folder, name in found if name]
        return looked_at if self.segments else [fold._replace(pseudo_dice=None) for fold in looked_at]


def trained_models(results: Path, dataset: str = "Dataset*") -> list[TrainedModel]:
    """List the models that have a checkpoint.

    Args:
        results: the folder nnUNet_results.
        dataset: name of one; default: of all.
    """
    models = []
    for folder in sorted(results.glob(f"{dataset}/*__*__*")):
        parts = folder.name.split("__")
        if len(parts) == 3 and any(map(_furthest, folder.glob("fold_*"))):
            trainer, plans, configuration = parts
            models.append(TrainedModel(folder.parent.name, configuration, trainer, plans, folder))
    return models


def is_calibrated(folder: Path) -> bool:
    """Whether held-out cases have told what the masks of the model in a folder are worth."""
    return (folder / CALIBRATION).is_file()


def complete_choice(choice: ModelChoice, given: dict[str, str | None]) -> ModelChoice:
    """Find the model that is meant where a part of its name is left out, and say which it is.

    Nothing is guessed: it is the only one that fits, or the one of nnU-Net's own trainer and plan.

    Args:
        choice: with nnU-Net's defaults in place of what was left out.
        given: configuration, trainer and plans as they were given, or None.

    Raises:
        ValueError: more than one model fits, which are listed, or none does and there is no configuration.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) == len(given) or (not nnUNet_results.is_set() and choice.configuration):
        return choice
    if not nnUNet_results.is_set():
        raise ValueError("Expected -c, a configuration, or the variable nnUNet_results, got neither. Give one of them.")
    every = trained_models(Path(str(nnUNet_results)), choice.dataset_name)
    models = [model for model in every if model.segments]
    fitting = [model for model in models if all(getattr(model, name) == value for name, value in named.items())]
    if len(fitting) == 1:
        return _taken(choice, fitting[0])
    if choice.configuration and (not fitting or _is_among(choice, fitting)):
        return choice  # as nnU-Net; what there is instead, its error says
    listed = "; ".join(model.flags for model in fitting or models) or "none"
    what = "fit more than one model" if fitting else "fit no model"
    raise ValueError(
        f"Expected flags that name one model of {choice.dataset_name}, got {_as_flags(named)}, which {what}. There "
        f"are: {listed}. Add what is missing."
    )


def model_in(folder: Path, folds: Sequence[str] = (), checkpoint: str = FINAL) -> ModelChoice:
    """Choose the model in a folder, whatever the folder is called.

    Args:
        folder: with plans.json, dataset.json and the folds, such as
            ``Dataset137_BraTS/DCSegTrainer__nnUNetPlans__3d_fullres``.
        folds: numbers or "all"; none: every fold that has the checkpoint.
        checkpoint: a file in every fold's folder.

    Raises:
        ValueError: it is no such folder, or no fold has the checkpoint.
    """
    folder = folder.resolve()
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"Expected the folder of a trained model, with {' and '.join(MODEL_FILES)} and the folds, got {folder} "
            f"without {' and '.join(missing)}."
        )
    found = sorted(file.parent for file in folder.glob(f"fold_*/{checkpoint}"))
    if not found:
        raise ValueError(f"Expected a fold with a {checkpoint} in {folder}, found none. Name another checkpoint.")
    content, plans = read_checkpoint(found[0] / checkpoint), read_json(folder / "plans.json")
    configuration = _configuration_of(content, plans, folder)
    names = tuple(folds) or tuple(fold.name.removeprefix("fold_") for fold in found)
    plans_name = str(plans.get("plans_name", ""))
    trainer = content["trainer_name"]
    return ModelChoice(folder.parent.name, configuration, trainer, plans_name, names, checkpoint, folder)


def unpack(file: Path, folder: Path) -> Path:
    """Unpack a zip of one model; give the model's folder.

    Raises:
        ValueError: it is no zip, or holds no model or several.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)  # which keeps every name within the folder
    except zipfile.BadZipFile as error:
        raise ValueError(f"Expected a model's folder or a zip of one, got {file}: {error}.") from error
    models = sorted(plans.parent for plans in folder.rglob("plans.json"))
    if len(models) != 1:
        names = ", ".join(str(model.relative_to(folder)) for model in models) or "none"
        raise ValueError(
            f"Expected a zip of one model, got {file} with {names}. Unpack it and give the model's folder."
        )
    return models[0]


def add_to_zip(added: Path, file: Path) -> None:
    """Put a file of a model's folder into a zip of the model, in place of one of its name; the zip is replaced whole.

    nnU-Net's export packs the files that nnU-Net knows alone.

    Raises:
        ValueError: it is no zip, or not of that model.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if PurePosixPath(name).parent.name == added.parent.name]
            plans = [name for name in names if PurePosixPath(name).name == "plans.json"]
            if len(plans) != 1:
                raise ValueError(f"Expected a zip of the model {added.parent.name}, got {file} without it.")
            place = str(PurePosixPath(plans[0]).with_name(added.name))
            write_whole(file, lambda unfinished: _copied(archive, unfinished, added, place))
    except (zipfile.BadZipFile, FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"Expected a zip of a model, got {file}: {error}.") from error


def _copied(archive: zipfile.ZipFile, file: Path, added: Path, place: str) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in archive.namelist():
            if name != place:
                copy.writestr(name, archive.read(name))
        copy.write(added, place)


def _configuration_of(checkpoint: dict[str, Any], plans: dict[str, Any], folder: Path) -> str:
    """Find the configuration of a model: nnU-Net's checkpoints name it; else the plan has to have a single one."""
    of_training, known = checkpoint.get("init_args"), plans.get("configurations")
    if isinstance(of_training, dict) and isinstance(of_training.get("configuration"), str):
        return str(of_training["configuration"])
    if isinstance(known, dict) and len(known) == 1:
        return str(next(iter(known)))
    raise ValueError(f"Expected a checkpoint that names its configuration, got one of {folder} that does not.")


def _taken(choice: ModelChoice, model: TrainedModel) -> ModelChoice:
    if (choice.configuration, choice.trainer, choice.plans) != (model.configuration, model.trainer, model.plans):
        print(f"missmod: the one trained model of {model.dataset} that fits is {model.flags}.", file=sys.stderr)
    return ModelChoice(choice.dataset, model.configuration, model.trainer, model.plans, choice.folds, choice.checkpoint)


def _is_among(choice: ModelChoice, models: list[TrainedModel]) -> bool:
    names = choice.configuration, choice.trainer, choice.plans
    return any((model.configuration, model.trainer, model.plans) == names for model in models)


def _as_flags(named: dict[str, str]) -> str:
    flags = {"configuration": "-c", "trainer": "-tr", "plans": "-p"}
    return " ".join(f"{flags[name]} {value}" for name, value in named.items()) or "none of -c, -tr and -p"


def _furthest(fold: Path) -> str | None:
    return next((name for name in CHECKPOINTS if (fold / name).is_file()), None)


def _look_at(file: Path) -> TrainedFold:
    fold = file.parent.name.removeprefix("fold_")
    try:
        checkpoint: Any = load_data(file)
    except ValueError:
        return TrainedFold(fold, file.name, False, None, None)
    try:  # one that is handed on may hold the weights alone
        epochs, average = int(checkpoint["current_epoch"]), float(checkpoint["logging"][AVERAGE][-1])
    except (KeyError, TypeError, IndexError, ValueError):
        return TrainedFold(fold, file.name, True, None, None)
    return TrainedFold(fold, file.name, True, epochs, average if is_finite(average) else None)
