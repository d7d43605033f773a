"""Whether a folder's cases can be segmented, and whether each file looks like the modality that its name says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nnunetv2.paths import nnUNet_results

from nnunetv2_missmod.calibration.file import CALIBRATION, read_calibration
from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.host.preprocessor import read_case
from nnunetv2_missmod.prediction.cases import cases_in
from nnunetv2_missmod.prediction.cohort import ERRORS_OF_A_CASE
from nnunetv2_missmod.prediction.engine import Images
from nnunetv2_missmod.prediction.model import ModelChoice, read_json, read_plan
from nnunetv2_missmod.prediction.sequence_check import SeenImages, SequenceCheck
from nnunetv2_missmod.prediction.trained import trained_models


class CheckedCase(NamedTuple):
    """What there is to say of a case.

    Attributes:
        name: of the case.
        error: why it cannot be segmented; empty if it can.
        seen: of its images.
    """

    name: str
    error: str
    seen: SeenImages


def check_cases(folder: Path, dataset: str) -> Iterator[CheckedCase]:
    """Read the cases of a folder one by one, as a prediction would.

    Args:
        folder: of images.
        dataset: id or name, of which a model has been calibrated.

    Raises:
        ValueError: there is no calibrated model of the dataset, or no such folder.
    """
    choice = calibrated_model(dataset)
    dataset_json = read_json(choice.folder / "dataset.json")
    modalities = distinct_names(dataset_json)
    reader_class = read_plan(choice, len(modalities))[0].image_reader_writer_class
    check = SequenceCheck(read_calibration(choice.folder / CALIBRATION).sequences, modalities)
    for case in cases_in(folder, dataset_json["file_ending"]):
        try:
            images = Images(*read_case(case.images, reader_class(), dataset_json))
            yield CheckedCase(case.name, "", check.seen_of(images))
        except ERRORS_OF_A_CASE as error:
            yield CheckedCase(case.name, str(error), SeenImages("", ""))


def calibrated_model(dataset: str) -> ModelChoice:
    """Find the model of a dataset that was calibrated last and knows the modalities' images.

    Raises:
        ValueError: there is none.
    """
    name = ModelChoice(dataset, "").dataset_name
    models = trained_models(Path(str(nnUNet_results or "")), name) if nnUNet_results.is_set() else []
    files = [file for model in models if (file := model.folder / CALIBRATION).is_file()]
    for file in sorted(files, key=lambda file: -file.stat().st_mtime):
        if read_calibration(file).sequences is not None:
            model = next(model for model in models if model.folder == file.parent)
            return ModelChoice(name, model.configuration, model.trainer, model.plans, model_folder=model.folder)
    raise ValueError(
        f"Expected a model of {name} that was calibrated with the training images at hand, found none in "
        "nnUNet_results: only from them is it known what each modality looks like. Run missmod calibrate on the scores "
        "of one."
    )
