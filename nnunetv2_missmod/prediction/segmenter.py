"""A trained model for use from Python: a case by its modalities' names, from files or arrays."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_missmod.files.dataset_json import distinct_names
from nnunetv2_missmod.host.doors import with_doors
from nnunetv2_missmod.host.plan_block import needed_channels
from nnunetv2_missmod.host.preprocessor import check_needed, read_channels, varying
from nnunetv2_missmod.modalities import JOIN
from nnunetv2_missmod.prediction.cohort import export_of
from nnunetv2_missmod.prediction.engine import MEMORY, Images, Segmented, predict_prepared, prepare
from nnunetv2_missmod.prediction.judgement import Judgement
from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings, open_predictor
from nnunetv2_missmod.prediction.regions import LabelMap, Mask, region_mask, regions_of
from nnunetv2_missmod.prediction.subsets import ALL, choose_subsets
from nnunetv2_missmod.prediction.trained import model_in, unpack
from nnunetv2_missmod.prediction.trust import AS_USUAL, CONFIDENCE, TrustSettings, trust_in

Image = str | PathLike[str] | np.ndarray
Write = Callable[[LabelMap, Path], None]
AXES = 3


@dataclass(frozen=True)
class Segmentation:
    """What a model makes of a case.

    Attributes:
        mask: label map (z, y, x) on the grid of the images.
        regions: each region that the model segments, (z, y, x) bool; regions may overlap.
        modalities: what it was made from.
        write: writes a label map on that grid.
        judgement: what is expected of it; None for a model without a calibration.
        suspicions: which images look like another modality, in words; empty where none does or nothing is known.
    """

    mask: LabelMap
    regions: Mapping[str, Mask]
    modalities: tuple[str, ...]
    write: Write
    judgement: Judgement | None = None
    suspicions: str = ""

    @property
    def expected_dice(self) -> Mapping[str, float | None]:
        """By region, the expected Dice; None where the mask is empty or the model has no calibration."""
        return {region: self.judgement and self.judgement.regions[region].dice for region in self.regions}

    @property
    def dice_at_least(self) -> Mapping[str, float | None]:
        """By region, what the Dice is at least, at the confidence; None likewise."""
        return {region: self.judgement and self.judgement.regions[region].bound for region in self.regions}

    @property
    def subset(self) -> str:
        """Name of what it was made from, such as ``FLAIR+T1c``."""
        return JOIN.join(self.modalities)

    def save(self, file: str | PathLike[str]) -> None:
        """Write the mask on the grid of the images, and read it back.

        Args:
            file: of a format that the model's reader writes, such as ``mask.nii.gz``.

        Raises:
            OSError: what was written is not the mask, as when the disk is full.
            ValueError: the model's reader cannot write it.
        """
        self.write(self.mask, Path(file))


class Segmenter:
    """A trained model that stays loaded: of any trainer of this package, and of stock nnU-Net.

    One case is segmented at a time; calls from several threads wait for each other, and read and preprocess meanwhile.
    What is absent does not count: a mask depends on no bit of a modality that is not given.

    Args:
        choice: of the model.
        settings: how to predict.
        trust: what is said of how far its masks can be trusted.

    Raises:
        ValueError: says what is wrong with the model.
    """

    def __init__(self, choice: ModelChoice, settings: PredictionSettings, trust: TrustSettings = AS_USUAL):
        os.environ.update(with_doors(os.environ))
        self.predictor: nnUNetPredictor = open_predictor(choice, settings)
        self.export = export_of(self.predictor, {})
        self.trust = trust_in(choice, settings, {}, trust)
        self.modalities: list[str] = distinct_names(self.predictor.dataset_json)
        self.needed = needed_channels(self.predictor.configuration_manager)
        self.memory = settings.memory
        self.lock = threading.Lock()

    @classmethod
    def from_folder(
        cls,
        model: str | PathLike[str],
        folds: Sequence[str | int] = (),
        checkpoint: str = "checkpoint_final.pth",
        device: str | None = None,
        mirroring: bool = True,
        step_size: float = 0.5,
        confidence: float = CONFIDENCE,
        calibrated: bool = True,
        memory: float = MEMORY,
    ) -> Segmenter:
        """Load a model from its folder, or from a zip of ``nnUNetv2_export_model_to_zip``.

        Args:
            model: folder such as ``nnUNet_results/Dataset137_BraTS/DCSegTrainer__nnUNetPlans__3d_fullres``, or a zip
                that holds one model.
            folds: whose predictions are averaged; none: all that have the checkpoint.
            checkpoint: a file in every fold's folder.
            device: cuda, cpu or mps; None: cuda where there is one, else cpu.
            mirroring: test-time augmentation.
            step_size: of the sliding window, as a fraction of the patch.
            confidence: of the lower bounds of Dice, if the model has a calibration.
            calibrated: say what its calibration lets expect.
            memory: GB of logits at a time: more subsets than fit are predicted in several runs.

        Raises:
            ValueError: says what is wrong with the model.
        """
        trust = TrustSettings(calibrated, confidence)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        settings = PredictionSettings(device, step_size, mirroring, memory=memory)
        path, names = Path(model), [str(fold) for fold in folds]
        if not path.is_file():
            return cls(model_in(path, names, checkpoint), settings, trust)
        with tempfile.TemporaryDirectory() as unpacked:  # its files are read or mapped before their names go
            return cls(model_in(unpack(path, Path(unpacked)), names, checkpoint), settings, trust)

    def segment(
        self, images: Mapping[str, Image], spacing: Sequence[float] | None = None, resample: bool = False
    ) -> Segmentation:
        """Segment a case from whatever it has.

        Args:
            images: by modality's name (``modalities`` lists those of the model) the image's file, of any name, or an
                array (z, y, x) as ``SimpleITK.GetArrayFromImage`` gives it. All lie on one grid. An image that holds a
                single value counts as absent.
            spacing: of arrays, in mm, in the order of their axes (z, y, x).
            resample: bring files that lie elsewhere onto the first one's grid instead of refusing them.

        Raises:
            ValueError: a name is none of the model's, nothing is given, a modality is not given that a dedicated model
                needs, or what is wrong with which image.
        """
        read, write = self._read(images, spacing, resample)
        return self._segmented(read, read.available[None], write)[0]

    def segment_subsets(
        self,
        images: Mapping[str, Image],
        subsets: str = ALL,
        spacing: Sequence[float] | None = None,
        resample: bool = False,
    ) -> dict[str, Segmentation]:
        """Segment a case from several subsets of what it has, each as if the other images were not there.

        Read, preprocessed and, where the network allows, encoded once.

        Args:
            images: as in ``segment``.
            subsets: "all" or "singles" of what is given, or names such as ``FLAIR+T1c,T2``.
            spacing: as in ``segment``.
            resample: as in ``segment``.

        Returns:
            By the subset's name; subsets with a modality that the case lacks are left out. A dedicated model gives the
            same for all that have what it looks at.

        Raises:
            ValueError: as ``segment``, or a subset is none of the model's modalities.
        """
        chosen = choose_subsets(subsets, self.modalities, self.needed)
        read, write = self._read(images, spacing, resample)
        found = self._segmented(read, chosen.present, write)
        return {chosen.names[position]: each for position, each in found.items()}

    def _segmented(self, images: Images, subsets: np.ndarray, write: Write) -> dict[int, Segmentation]:
        check_needed(images.voxels, self.predictor.configuration_manager, self.predictor.dataset_json)
        case = prepare(self.predictor, images, subsets)
        with self.lock:
            segmented = predict_prepared(self.predictor, case, memory=self.memory)
            found = [(each, self.export.mask_of(each)) for each in segmented]
        regions, suspicions = regions_of(self.predictor.dataset_json), self.trust.check.seen_of(images).suspicions
        return {
            each.position: Segmentation(
                mask,
                {name: region_mask(mask, labels) for name, labels in regions.items()},
                tuple(name for name, is_present in zip(self.modalities, each.present, strict=True) if is_present),
                write,
                self._judgement(each, mask),
                suspicions,
            )
            for each, mask in sorted(found, key=lambda pair: pair[0].position)
        }

    def _judgement(self, segmented: Segmented, mask: LabelMap) -> Judgement | None:
        judge = self.trust.judge
        return None if judge is None else judge.judgement_of(segmented.present, self.export.signs_of(segmented, mask))

    def _read(
        self, images: Mapping[str, Image], spacing: Sequence[float] | None, resample: bool
    ) -> tuple[Images, Write]:
        """Read the images of a case; give them, and what writes a mask of it."""
        channels = [self._channel(name) for name in images]
        if not images:
            raise ValueError(f"Expected an image of at least one of {', '.join(self.modalities)}, got none.")
        arrays = [image for image in images.values() if isinstance(image, np.ndarray)]
        if arrays and len(arrays) < len(images):
            raise ValueError("Expected files or arrays, got both. Read the files, or write the arrays.")
        if arrays:
            read = _stacked(dict(zip(channels, arrays, strict=True)), len(self.modalities), spacing)
            return read, partial(_write_array, spacing=read.properties["spacing"])
        reader, files = self.predictor.plans_manager.image_reader_writer_class(), [str(i) for i in images.values()]
        read = Images(*read_channels(files, channels, Path(files[0]).name, reader, self.modalities, resample))
        return read, partial(self.export.write, properties=read.properties)

    def _channel(self, name: str) -> int:
        if name not in self.modalities:
            raise ValueError(f"Expected modalities among {', '.join(self.modalities)}, got {name!r}.")
        return self.modalities.index(name)


def _stacked(arrays: Mapping[int, np.ndarray], num_modalities: int, spacing: Sequence[float] | None) -> Images:
    """Put arrays (z, y, x) by channel into Images; the absent channels are zero."""
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or any(len(shape) != AXES for shape in shapes):
        raise ValueError(f"Expected arrays (z, y, x) of one shape, got {sorted(shapes)}.")
    if spacing is None or len(spacing) != AXES or not all(np.isfinite(mm) and mm > 0 for mm in spacing):
        raise ValueError(f"Expected the spacing of the arrays' axes (z, y, x) in mm, got {spacing}.")
    voxels = np.zeros((num_modalities, *shapes.pop()), dtype=np.float32)
    for channel, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError("Expected finite values, got NaN or infinity in an array.")
        voxels[channel] = array
    if not varying(voxels).any():
        raise ValueError("Expected at least one image that is not constant, got none: nothing to segment from.")
    return Images(voxels, {"spacing": [float(mm) for mm in spacing]})


def _write_array(mask: LabelMap, file: Path, spacing: Sequence[float]) -> None:
    image = sitk.GetImageFromArray(
        mask.astype(np.uint8 if mask.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16)
    )
    image.SetSpacing([float(mm) for mm in reversed(spacing)])
    try:
        sitk.WriteImage(image, str(file), useCompression=True)
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    except RuntimeError as error:
        raise ValueError(f"Expected a file that SimpleITK writes, such as mask.nii.gz, got {file}: {error}") from error
    if not np.array_equal(written, mask):
        raise OSError(f"the mask {file.name} was written with other values than it has: is the disk full?")
