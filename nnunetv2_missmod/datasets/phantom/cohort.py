"""A synthetic, glioma-like cohort written as an nnU-Net raw dataset: any number of modalities, no download.

Each modality shows what it shows in patients. Edema is bright on FLAIR and T2, the enhancing rim on T1c alone, the
necrotic core is dark on T1 and T1c. Healthy tissue misleads: ventricles are as bright as edema on T2, vessels as
bright as the rim on T1c.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunetv2_missmod.datasets.phantom.anatomy import (
    CLEAR,
    EDEMA,
    ENHANCING,
    HARD,
    VESSEL,
    Difficulty,
    Shape,
    draw_anatomy,
)
from nnunetv2_missmod.datasets.phantom.imaging import CONTRASTS, GENERATED, acquire, contrast_of
from nnunetv2_missmod.datasets.raw_folder import free_folder, write_json
from nnunetv2_missmod.datasets.volumes import write_volume
from nnunetv2_missmod.files.whole_files import clear_hidden_folders, hidden_folder
from nnunetv2_missmod.machine.progress import track

PURPOSE = "phantom"  # of the hidden folder that the cohort is written to before it gets its name
FEWER_THAN_FOUR = {2: ("FLAIR", "T1c"), 3: ("FLAIR", "T1c", "T2")}
SMALLEST_AXIS = 32  # voxels; below it the enhancing rim is thinner than one voxel


def phantom_modalities(num_modalities: int) -> tuple[str, ...]:
    """Names of the phantom's modalities: FLAIR, T1, T1c, T2 for four, the most telling of these for two and three.

    From five on come PD, DWI, and then generated sequences (SYN7, SYN8, ...). ValueError below two.
    """
    if num_modalities < 2:
        raise ValueError(f"The phantom needs at least 2 modalities, got {num_modalities}: ask for 2 or more.")
    if num_modalities in FEWER_THAN_FOUR:
        return FEWER_THAN_FOUR[num_modalities]
    generated = (f"{GENERATED}{i}" for i in range(len(CONTRASTS) + 1, num_modalities + 1))
    return (*CONTRASTS, *generated)[:num_modalities]


def phantom_case(
    rng: np.random.Generator, modalities: Sequence[str], shape: Shape, difficulty: Difficulty = CLEAR
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one case: images (M, *shape), 0 outside the brain and positive inside, and its label map (*shape).

    Labels: 0 background, 1 edema, 2 non-enhancing or necrotic core, 3 enhancing tumour (absent in about a quarter of
    the cases). A modality looks the same whichever others are drawn with it. The axes are (z, y, x): z up, x left to
    right. ValueError for an unknown modality (see `phantom_modalities`) or an axis below 32 voxels.
    """
    _check_shape(shape)
    contrasts = [contrast_of(name) for name in modalities]
    anatomy = draw_anatomy(rng, shape, difficulty)
    entropy = int(rng.integers(2**63))
    images = [
        acquire(np.random.default_rng([entropy, zlib.crc32(name.encode())]), anatomy, contrast, difficulty.noise)
        for name, contrast in zip(modalities, contrasts, strict=True)
    ]
    is_tumour = (anatomy.tissue >= EDEMA) & (anatomy.tissue <= ENHANCING)
    labels = np.where(is_tumour, anatomy.tissue - VESSEL, 0)
    return np.stack(images).astype(np.float32), labels.astype(np.uint8)


def write_phantom_dataset(
    raw: Path,
    dataset_id: int = 501,
    name: str = "Phantom",
    *,
    num_training: int = 20,
    num_test: int = 4,
    num_modalities: int = 4,
    shape: Shape = (64, 64, 64),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    incomplete: float = 0.0,
    hard: bool = False,
    seed: int = 0,
) -> Path:
    """Write a phantom cohort below `raw` (nnUNet_raw) as DatasetXXX_name, and return that folder.

    `shape` (voxels) and `spacing` (mm) are in array order (z, y, x). `incomplete` is the share of training cases that
    lack one or more modalities, never all; nnU-Net's planning wants every file, so an absent one is written as zeros.
    `hard` makes tumours smaller, fainter, patchy and several, among findings that look like them. Case n depends on
    `seed` and n alone, so a larger cohort contains the smaller one.

    Raises:
        ValueError: an argument is out of its range or the dataset id is taken; nothing is written then.
        OSError: a file could not be written; nothing is then.
    """
    modalities = phantom_modalities(num_modalities)
    _check_cohort(num_training, num_test, shape, spacing, incomplete, seed)
    folder = free_folder(raw, dataset_id, name)
    raw.mkdir(parents=True, exist_ok=True)
    clear_hidden_folders(raw, PURPOSE)
    with hidden_folder(raw, PURPOSE) as hidden:
        absent = _absent_channels(seed, num_training, num_modalities, incomplete)
        for number in track(range(num_training + num_test), folder.name, num_training + num_test):
            rng, part = np.random.default_rng([seed, number]), "Tr" if number < num_training else "Ts"
            images, labels = phantom_case(rng, modalities, shape, HARD if hard else CLEAR)
            images[absent.get(number, [])] = 0
            _write_case(hidden / folder.name, part, f"phantom_{number:03d}", images, labels, spacing)
        write_json(hidden / folder.name / "dataset.json", _dataset_json(modalities, num_training))
        (hidden / folder.name).rename(folder)
    return folder


def _absent_channels(seed: int, num_training: int, num_modalities: int, incomplete: float) -> dict[int, list[int]]:
    """Channels that the incomplete training cases lack, by case number."""
    rngs = [np.random.default_rng([seed, number, 1]) for number in range(num_training)]
    lots = np.argsort([rng.random() for rng in rngs])[: round(incomplete * num_training)]
    counts = {n: int(rngs[n].integers(1, num_modalities)) for n in lots.tolist()}
    return {n: rngs[n].choice(num_modalities, count, replace=False).tolist() for n, count in counts.items()}


def _write_case(
    folder: Path,
    part: str,
    case: str,
    images: NDArray[np.float32],
    labels: NDArray[np.uint8],
    spacing: Sequence[float],
) -> None:
    for channel, image in enumerate(images):
        _write_volume(folder / f"images{part}" / f"{case}_{channel:04d}.nii.gz", image, spacing)
    _write_volume(folder / f"labels{part}" / f"{case}.nii.gz", labels, spacing)


def _write_volume(path: Path, volume: NDArray[np.float32] | NDArray[np.uint8], spacing: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing([float(s) for s in reversed(spacing)])
    write_volume(image, path)


def _dataset_json(modalities: Sequence[str], num_training: int) -> dict[str, object]:
    return {
        "channel_names": {str(channel): name for channel, name in enumerate(modalities)},
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
        "regions_class_order": [1, 2, 3],
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 3 or min(shape) < SMALLEST_AXIS:
        raise ValueError(f"Expected three axes of at least {SMALLEST_AXIS} voxels, got {tuple(shape)}: enlarge it.")


def _check_cohort(
    num_training: int, num_test: int, shape: Shape, spacing: Sequence[float], incomplete: float, seed: int
) -> None:
    _check_shape(shape)
    for holds, expected, got in (
        (num_training >= 1, "at least 1 training case", num_training),
        (num_test >= 1, "at least 1 test case", num_test),
        (len(spacing) == 3 and min(spacing) > 0, "three positive spacings in mm", spacing),
        (0 <= incomplete <= 1, "the share of incomplete cases to lie between 0 and 1", incomplete),
        (seed >= 0, "a seed of 0 or more", seed),
    ):
        if not holds:
            raise ValueError(f"Expected {expected}, got {got}: change that argument.")
