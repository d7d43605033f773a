"""The images that a model was trained on, from which its modalities are learnt to be told apart."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_raw

from nnunetv2_missmod.calibration.sequence_fitting import fit_sequences
from nnunetv2_missmod.calibration.sequence_model import SequenceModel, case_features
from nnunetv2_missmod.host.preprocessor import read_case, varying
from nnunetv2_missmod.machine.parallel import in_processes
from nnunetv2_missmod.prediction.cases import CaseFiles, cases_in

UNSEEN = "Whether files are exchanged will not be seen"
MOST_CASES = 200  # drawn evenly where there are more


def learn_sequences(
    dataset_name: str, dataset_json: dict[str, Any], modalities: list[str], reader_class: Any, processes: int
) -> tuple[SequenceModel | None, str]:
    """Learn to tell the modalities of the training cases apart.

    Args:
        dataset_name: of the raw dataset.
        dataset_json: of the model.
        modalities: their names.
        reader_class: nnU-Net's, of the images.
        processes: that read them.

    Returns:
        The model and what is to be said of it: why there is none, or which training cases look exchanged themselves.

    Raises:
        ValueError: an image cannot be read.
    """
    folder = Path(str(nnUNet_raw or "")) / dataset_name / "imagesTr"
    if not (nnUNet_raw.is_set() and folder.is_dir()):
        return None, f"{UNSEEN}: the training images of {dataset_name} are not in nnUNet_raw."
    cases = cases_in(folder, dataset_json["file_ending"])
    chosen = [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, MOST_CASES).astype(int))]
    features = in_processes(partial(features_of, dataset_json, reader_class), chosen, processes, "Read training images")
    fit = fit_sequences({case.name: found for case, found in zip(chosen, features, strict=True)}, modalities)
    if fit.model is None:
        return None, f"{UNSEEN}: {fit.why}"
    doubtful = (
        f"Look at the training cases {', '.join(fit.doubtful)}: their files look exchanged." if fit.doubtful else ""
    )
    return fit.model, " ".join(filter(None, ["Files that look like another modality will be named.", doubtful]))


def features_of(dataset_json: dict[str, Any], reader_class: Any, case: CaseFiles) -> dict[int, Any]:
    """Measure the images of a case."""
    voxels, _ = read_case(case.images, reader_class(), dataset_json)
    return case_features(voxels, varying(voxels))
