"""Model folders as `missmod evaluate` writes them: the phantom's images, masks by disturbing the truth."""

import json

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage
from small_scores import REGIONS, provenance, subsets_of

from nnunetv2_missmod.datasets.phantom.cohort import phantom_case, phantom_modalities
from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import RegionScores, case_table, write_scores

SHAPE = (32, 36, 40)
SPACING = (1.0, 1.0, 1.5)  # x, y, z


def write_volume(file, array, spacing=SPACING):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file), useCompression=True)


def write_data(folder, *, num_modalities=4, cases=("case_001", "case_002", "case_003"), shape=SHAPE):
    """Images and labels of some phantom cases; returns the truth of each."""
    truths = {}
    for number, case in enumerate(cases):
        images, truth = phantom_case(np.random.default_rng(number), phantom_modalities(num_modalities), shape)
        for channel, image in enumerate(images):
            write_volume(folder / "imagesTs" / f"{case}_{channel:04d}.nii.gz", image)
        write_volume(folder / "labelsTs" / f"{case}.nii.gz", truth)
        truths[case] = truth
    return truths


def disturbed(truth, strength, rng):
    """The truth, redrawn after smooth noise: the stronger, the worse."""
    noise = ndimage.gaussian_filter(rng.normal(size=(4, *truth.shape)), (0, 2, 2, 2)) * 15 * strength
    chances = ndimage.gaussian_filter((truth == np.arange(4)[:, None, None, None]).astype(float), (0, 1, 1, 1))
    return (chances + noise * (ndimage.maximum_filter(truth, 5) > 0)).argmax(0).astype(np.uint8)


def scores_of(truth, prediction):
    """Scores of each region; those but Dice and the volumes are only plausible."""
    for region, labels in REGIONS.items():
        one, two = np.isin(truth, labels), np.isin(prediction, labels)
        total = one.sum() + two.sum()
        dice = 2 * (one & two).sum() / total if total else np.nan
        found = (one & two).sum() / one.sum() if one.any() else np.nan
        yield RegionScores(
            region,
            dice,
            hd95=1 + 30 * (1 - dice) if one.any() and two.any() else np.nan,
            nsd=dice**1.5,
            sensitivity=found,
            volume_error=(two.sum() - one.sum()) / one.sum() if one.any() else np.nan,
            lesion_dice=0.9 * dice,
            num_reference=int(one.sum()),
            num_predicted=int(two.sum()),
            num_true_positive=int((one & two).sum()),
            num_voxels=truth.size,
        )


def write_model(folder, data, truths, *, trainer="DCSegTrainer", strength=0.3, modalities=None, save=True, seed=0):
    """Write scores, provenance and predictions of a model; returns the long table."""
    modalities = list(modalities or phantom_modalities(4))
    rng = np.random.default_rng(seed)
    subsets = subsets_of(modalities)
    tables = []
    for case, truth in truths.items():
        scores = {}
        for subset, present in subsets.items():
            mask = disturbed(truth, strength * (1.3 - len(present) / len(modalities)), rng)
            scores[subset] = list(scores_of(truth, mask))
            if save:
                write_volume(folder / "predictions" / subset / f"{case}.nii.gz", mask)
        tables.append(case_table(case, scores, subsets))
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.concat(tables, ignore_index=True)
    write_scores(folder, table)
    write_provenance(folder, phantom_provenance(data, modalities, trainer=trainer))
    return table


def phantom_provenance(data, modalities, regions=tuple(REGIONS), **changes):
    """Provenance of scores on what ``write_data`` wrote to the folder ``data``."""
    return provenance(
        modalities,
        regions,
        dataset="Dataset501_Phantom",
        images=str(data / "imagesTs"),
        labels=str(data / "labelsTs"),
        **changes,
    )


def change_provenance(folder, **changes):
    """Overwrite entries of a model's provenance."""
    file = folder / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
