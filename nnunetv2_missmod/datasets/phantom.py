"""A synthetic, glioma-like cohort written as an nnU-Net raw dataset: any number of modalities, no download.

Each modality shows what it shows in patients. Edema is bright on FLAIR and T2, the enhancing rim on T1c alone, the
necrotic core is dark on T1 and T1c. Healthy tissue misleads: ventricles are as bright as edema on T2, vessels as
bright as the rim on T1c.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

Shape = tuple[int, int, int]
Field = NDArray[np.float64]
Region = NDArray[np.bool_]

OUTSIDE, CSF, GREY, WHITE, VESSEL, EDEMA, CORE, ENHANCING = range(8)

# Mean intensity of each tissue, in the order above.
CONTRASTS: dict[str, tuple[float, ...]] = {
    "FLAIR": (0.0, 0.15, 0.58, 0.48, 0.40, 0.85, 0.62, 0.66),
    "T1": (0.0, 0.20, 0.60, 0.75, 0.50, 0.54, 0.36, 0.46),
    "T1c": (0.0, 0.20, 0.60, 0.75, 1.25, 0.51, 0.30, 1.10),
    "T2": (0.0, 0.95, 0.55, 0.42, 0.30, 0.80, 0.90, 0.67),
    "PD": (0.0, 0.72, 0.66, 0.52, 0.35, 0.72, 0.68, 0.64),
    "DWI": (0.0, 0.12, 0.52, 0.46, 0.30, 0.44, 0.34, 0.48),
}
FEWER_THAN_FOUR = {2: ("FLAIR", "T1c"), 3: ("FLAIR", "T1c", "T2")}
GENERATED = "SYN"

SHARE_WITHOUT_ENHANCEMENT = 0.25
SMALLEST_AXIS = 32  # voxels; below it the enhancing rim is thinner than one voxel


class Anatomy(NamedTuple):
    """What a case is made of, before any modality images it; each array has the case's shape.

    `healthy` and `tissue` hold tissue numbers (OUTSIDE ... ENHANCING) without and with the tumour; `strength` says
    how far a tumour voxel has changed from healthy (0) to tumour (1), and may exceed 1.
    """

    healthy: NDArray[np.uint8]
    tissue: NDArray[np.uint8]
    strength: Field


def modality_names(num_modalities: int) -> tuple[str, ...]:
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
    rng: np.random.Generator, modalities: Sequence[str], shape: Shape
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one case: images (M, *shape), 0 outside the brain and positive inside, and its label map (*shape).

    Labels: 0 background, 1 edema, 2 non-enhancing or necrotic core, 3 enhancing tumour (absent in about a quarter of
    the cases). A modality looks the same whichever others are drawn with it. The axes are (z, y, x): z up, x left to
    right. ValueError for an unknown modality (see `modality_names`) or an axis below 32 voxels.
    """
    _check_shape(shape)
    contrasts = [_contrast(name) for name in modalities]
    anatomy = _draw_anatomy(rng, shape)
    entropy = int(rng.integers(2**63))
    images = [
        _acquire(np.random.default_rng([entropy, zlib.crc32(name.encode())]), anatomy, contrast)
        for name, contrast in zip(modalities, contrasts, strict=True)
    ]
    labels = np.where(anatomy.tissue >= EDEMA, anatomy.tissue - VESSEL, 0)
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
    seed: int = 0,
) -> Path:
    """Write a phantom cohort below `raw` (nnUNet_raw) as DatasetXXX_name, and return that folder.

    `shape` (voxels) and `spacing` (mm) are in array order (z, y, x). `incomplete` is the share of training cases that
    lack one or more modalities, never all; nnU-Net's planning wants every file, so an absent one is written as zeros.
    Case n depends on `seed` and n alone, so a larger cohort contains the smaller one.

    Raises:
        ValueError: an argument is out of its range or the dataset id is taken; nothing is written then.
    """
    modalities = modality_names(num_modalities)
    _check_cohort(dataset_id, num_training, num_test, spacing, incomplete, seed)
    _check_shape(shape)
    folder = _free_folder(raw, dataset_id, name)
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / part).mkdir(parents=True)
    absent = _absent_channels(seed, num_training, num_modalities, incomplete)
    for number in tqdm(range(num_training + num_test), desc=folder.name, unit="case"):
        images, labels = phantom_case(np.random.default_rng([seed, number]), modalities, shape)
        images[absent.get(number, [])] = 0
        part, case = ("Tr" if number < num_training else "Ts"), f"phantom_{number:03d}"
        for channel, image in enumerate(images):
            _write_volume(folder / f"images{part}" / f"{case}_{channel:04d}.nii.gz", image, spacing)
        _write_volume(folder / f"labels{part}" / f"{case}.nii.gz", labels, spacing)
    (folder / "dataset.json").write_text(json.dumps(_dataset_json(modalities, num_training), indent=4) + "\n")
    return folder


def _draw_anatomy(rng: np.random.Generator, shape: Shape) -> Anatomy:
    frame = _brain_frame(rng, shape)
    depth = 1 - np.linalg.norm(frame, axis=0) + 0.025 * _smooth_noise(rng, shape, 4)
    brain = depth > 0
    healthy = _draw_healthy(rng, frame, depth)
    tissue = _draw_tumour(rng, frame, brain & (healthy != CSF), healthy)
    strength = np.clip(0.85 + 0.15 * _smooth_noise(rng, shape, 8), 0.4, 1.2) * rng.uniform(0.75, 1.1)
    return Anatomy(healthy, tissue, strength)


def _brain_frame(rng: np.random.Generator, shape: Shape) -> Field:
    """Coordinates (3, *shape) in which the undeformed brain is the unit ball."""
    axes = [(np.arange(n) + 0.5) / n * 2 - 1 for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    q, r = np.linalg.qr(np.eye(3) + 0.1 * rng.normal(size=(3, 3)))
    rotation = q * np.sign(np.diag(r))  # QR leaves the signs open; these keep it near the identity
    half_axes = np.array([0.78, 0.84, 0.72]) * rng.uniform(0.9, 1.05, size=3)
    frame: Field = np.tensordot(rotation / half_axes[:, None], grid, axes=1)
    return frame


def _draw_healthy(rng: np.random.Generator, frame: Field, depth: Field) -> NDArray[np.uint8]:
    """Tissue numbers of a brain without tumour: white matter, folded cortex, deep grey nuclei, ventricles, vessels."""
    brain, folds = depth > 0, _smooth_noise(rng, depth.shape, 16)
    hemisphere = np.stack([frame[0], frame[1], np.abs(frame[2])])
    tissue = np.where(brain, WHITE, OUTSIDE).astype(np.uint8)
    tissue[brain & (depth < 0.18 + 0.08 * folds)] = GREY
    tissue[brain & (_distance(hemisphere, (-0.1, 0.05, 0.3), (0.17, 0.24, 0.12)) < 1)] = GREY
    tissue[brain & (depth < 0.08 * folds)] = CSF
    tissue[brain & (np.abs(frame[2]) < 0.03) & (depth < 0.35)] = CSF  # the fissure between the hemispheres
    tissue[brain & (_distance(hemisphere, (0.1, 0.0, 0.13), (0.2, 0.42, 0.09)) < rng.uniform(0.8, 1.3))] = CSF
    # Two random fields vanish together along curves: a network of tubes.
    tubes = -np.hypot(_smooth_noise(rng, depth.shape, 5), _smooth_noise(rng, depth.shape, 5))
    tissue[_highest_share(tubes, brain, rng.uniform(0.004, 0.01))] = VESSEL
    return tissue


def _distance(frame: Field, centre: Sequence[float] | Field, half_axes: Sequence[float] | Field) -> Field:
    """Distance (*shape) from `centre`, 1 on the surface of the ellipsoid with these half axes."""
    distance: Field = np.linalg.norm((frame.T - centre) / half_axes, axis=-1).T
    return distance


def _draw_tumour(
    rng: np.random.Generator, frame: Field, invadable: Region, healthy: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Replace healthy tissue by nested regions: edema around the core, an enhancing rim around the necrosis."""
    shape = healthy.shape
    direction = rng.normal(size=3)
    centre = direction / np.linalg.norm(direction) * rng.uniform(0.3, 0.6)
    closeness = -_distance(frame, centre, rng.uniform(0.8, 1.25, size=3))
    fingers = 0.09 * _smooth_noise(rng, shape, 9) + 0.08 * (healthy == WHITE)  # edema spreads along white matter
    whole = _highest_share(closeness + fingers, invadable, rng.uniform(0.08, 0.22))
    closeness = closeness + 0.08 * _smooth_noise(rng, shape, 7)
    core = _highest_share(closeness, whole, rng.uniform(0.3, 0.6))
    enhances = rng.random() >= SHARE_WITHOUT_ENHANCEMENT
    closeness = closeness + 0.05 * _smooth_noise(rng, shape, 9)
    necrosis = _highest_share(closeness, core, rng.uniform(0.25, 0.5)) if enhances else core
    tissue = np.where(whole, EDEMA, healthy).astype(np.uint8)
    tissue[core] = ENHANCING
    tissue[necrosis] = CORE
    return tissue


def _highest_share(field: Field, within: Region, share: float) -> Region:
    """The voxels of `within` where `field` is highest: `share` of them."""
    highest: Region = within & (field >= np.quantile(field[within], 1 - share))
    return highest


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Field:
    """Random field (*shape) of mean 0 and deviation 1 that varies over about 1 / `cells` of an axis."""
    coarse = rng.normal(size=(cells, cells, cells))
    # Splines are separable: one matrix per axis gives what zooming the volume gives, forty times faster.
    z, y, x = (ndimage.zoom(np.eye(cells), (n / cells, 1), order=3) for n in shape)
    noise = np.einsum("zi,yj,xk,ijk->zyx", z, y, x, coarse, optimize=True)
    standard: Field = (noise - noise.mean()) / noise.std()
    return standard


def _contrast(modality: str) -> Field:
    """Mean intensity (8,) of each tissue on `modality`."""
    if modality in CONTRASTS:
        return np.array(CONTRASTS[modality])
    number = modality.removeprefix(GENERATED)
    if number == modality or not number.isdecimal():
        known = ", ".join(CONTRASTS)
        raise ValueError(f"Expected one of {known} or {GENERATED}<number>, got {modality!r}: see modality_names.")
    contrast = np.random.default_rng(int(number)).uniform(0.2, 0.9, size=ENHANCING + 1)
    contrast[OUTSIDE] = 0
    contrast[ENHANCING] = (contrast[EDEMA] + contrast[CORE]) / 2  # only T1c shows the rim for itself
    return contrast


def _acquire(rng: np.random.Generator, anatomy: Anatomy, contrast: Field) -> Field:
    """Image (*shape), positive in the brain: partial volume, bias field, Rician noise, a gain of its own."""
    varied = contrast * rng.normal(1, 0.06, size=contrast.shape)
    signal = varied[anatomy.healthy]
    signal += anatomy.strength * (varied[anatomy.tissue] - signal)
    signal = ndimage.gaussian_filter(signal, 0.6, truncate=3)
    signal *= np.exp(0.12 * _smooth_noise(rng, signal.shape, 3))
    sigma = rng.uniform(0.03, 0.07)
    magnitude = np.hypot(signal + sigma * rng.normal(size=signal.shape), sigma * rng.normal(size=signal.shape))
    image: Field = np.where(anatomy.tissue != OUTSIDE, rng.uniform(200, 800) * np.maximum(magnitude, 1e-3), 0)
    return image


def _absent_channels(seed: int, num_training: int, num_modalities: int, incomplete: float) -> dict[int, list[int]]:
    """Channels that the incomplete training cases lack, by case number."""
    rngs = [np.random.default_rng([seed, number, 1]) for number in range(num_training)]
    lots = np.argsort([rng.random() for rng in rngs])[: round(incomplete * num_training)]
    counts = {n: int(rngs[n].integers(1, num_modalities)) for n in lots.tolist()}
    return {n: rngs[n].choice(num_modalities, count, replace=False).tolist() for n, count in counts.items()}


def _free_folder(raw: Path, dataset_id: int, name: str) -> Path:
    """The folder to write to; ValueError if its id is taken, as nnU-Net refuses one id with two names."""
    for taken in Path(raw).glob(f"Dataset{dataset_id:03d}_*"):
        raise ValueError(f"Expected dataset id {dataset_id} to be free, found {taken}: choose another id or remove it.")
    return Path(raw) / f"Dataset{dataset_id:03d}_{name}"


def _write_volume(path: Path, volume: NDArray[np.float32] | NDArray[np.uint8], spacing: Sequence[float]) -> None:
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing([float(s) for s in reversed(spacing)])
    sitk.WriteImage(image, str(path), useCompression=True)


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
    dataset_id: int, num_training: int, num_test: int, spacing: Sequence[float], incomplete: float, seed: int
) -> None:
    for holds, expected, got in (
        (1 <= dataset_id <= 999, "a dataset id from 1 to 999", dataset_id),
        (num_training >= 1, "at least 1 training case", num_training),
        (num_test >= 1, "at least 1 test case", num_test),
        (len(spacing) == 3 and min(spacing) > 0, "three positive spacings in mm", spacing),
        (0 <= incomplete <= 1, "the share of incomplete cases to lie between 0 and 1", incomplete),
        (seed >= 0, "a seed of 0 or more", seed),
    ):
        if not holds:
            raise ValueError(f"Expected {expected}, got {got}: change that argument.")
