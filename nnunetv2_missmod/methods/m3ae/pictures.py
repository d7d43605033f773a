"""What pretraining learned, to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from nnunetv2_missmod.methods.m3ae.network import to_voxels

plain_style = style.context("default", after_reset=True)  # nnU-Net's plots leave large fonts behind
INCHES = 3  # side of one picture
HIDDEN = "tab:blue"  # colour of what the network does not see
MOST_IN_LEGEND = 15  # subsets: all there are of four modalities


def central_patch(images: NDArray[np.float32], patch: Sequence[int]) -> NDArray[np.float32]:
    """Cut the middle out of a case, filled up with zeros where it is smaller than the patch.

    Args:
        images: (M, x, y, z).
        patch: two or three sides; with two, the patch is of the middle slice along x.

    Returns:
        (M, *patch).
    """
    if len(patch) < images.ndim - 1:
        images = images[:, images.shape[1] // 2]
    starts = [(size - side) // 2 for size, side in zip(images.shape[1:], patch, strict=True)]
    bounds = [[start, start + side] for start, side in zip(starts, patch, strict=True)]
    cut: NDArray[np.float32] = crop_and_pad_nd(images, bounds)
    return cut


@plain_style
def draw_reconstruction(
    file: Path, modalities: Sequence[str], images: Tensor, visible: Tensor, reconstruction: Tensor
) -> None:
    """Draw what was visible, what was made of it, and the truth: one row per modality, the middle slice.

    Args:
        file: the picture to write.
        modalities: the M names.
        images, reconstruction: (M, *patch).
        visible: blocks, (M, *grid) bool.
    """
    seen = images.where(to_voxels(visible[None], tuple(images.shape[1:]))[0], float("nan"))
    columns = {"visible": seen, "reconstruction": reconstruction, "truth": images}
    figure, axes = _grid(len(modalities), len(columns))
    for row, modality in enumerate(modalities):
        limits = _grey_range(images[row])
        for column, (title, pictures) in enumerate(columns.items()):
            _show(axes[row][column], pictures[row], limits)
            axes[row][column].set_title(f"{modality}: {title}")
    figure.savefig(file)


@plain_style
def draw_substitute(file: Path, modalities: Sequence[str], substitute: Tensor, images: Tensor) -> None:
    """Draw x_sub, the middle slice of each modality, as its image is drawn, with x_sub's own range in words.

    Args:
        file: the picture to write.
        modalities: the M names.
        substitute: (M, *patch).
        images: (M, *patch), of a case; a modality that is constant in it is drawn as all of them together are.
    """
    figure, axes = _grid(1, len(modalities))
    for axis, modality, picture, image in zip(axes[0], modalities, substitute.cpu(), images, strict=True):
        low, high = float(picture.min()), float(picture.max())
        _show(axis, picture, _grey_range(image if image.min() < image.max() else images))
        axis.set_title(f"{modality}: {low:.2g} to {high:.2g}")
    figure.savefig(file)


@plain_style
def draw_progress(file: Path, curves: Mapping[str, list[Any]], errors: Sequence[tuple[int, str, str]]) -> None:
    """Draw nnU-Net's progress.png with the reconstruction error of every subset in it.

    Args:
        file: the picture to write.
        curves: nnU-Net's own, by name.
        errors: rows (epoch, name/subset, value) of metrics.csv.
    """
    figure = Figure(figsize=(12, 16), layout="constrained")
    losses, subsets, seconds, rates = figure.subplots(4, 1)
    losses.plot(curves["train_losses"], "b", label="loss_tr")
    losses.plot(curves["val_losses"], "r", label="loss_val (MSE)")
    losses.set_yscale("log")  # R(x_sub) may outweigh the MSE at first
    explained = losses.twinx()
    explained.plot(curves["mean_fg_dice"], "g:", label="explained variance")
    explained.plot(curves["ema_fg_dice"], "g", label="explained variance (mov. avg.)")
    explained.set_ylabel("explained variance")
    explained.legend(loc="lower left", bbox_to_anchor=(0.3, 1))
    _draw_errors(subsets, errors)
    pairs = zip(curves["epoch_start_timestamps"], curves["epoch_end_timestamps"], strict=False)
    seconds.plot([end - start for start, end in pairs], "b", label="epoch duration")
    rates.plot(curves["lrs"], "b", label="learning rate")
    labels = ("loss", "reconstruction error (MSE)", "time [s]", "learning rate")
    for axis, label in zip((losses, subsets, seconds, rates), labels, strict=True):
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1 + 4 * (axis is subsets), fontsize="small")
    figure.savefig(file)


def _draw_errors(axis: Axes, errors: Sequence[tuple[int, str, str]]) -> None:
    """One line per subset, its colour by how many modalities are visible."""
    by_subset: dict[str, list[tuple[int, float]]] = {}
    for epoch, name, value in errors:
        by_subset.setdefault(name.split("/", 1)[1], []).append((epoch, float(value)))
    most = max((subset.count("+") + 1 for subset in by_subset), default=1)
    for number, (subset, points) in enumerate(by_subset.items()):
        colour = colormaps["viridis"](subset.count("+") / most)
        label = subset if number < MOST_IN_LEGEND else f"_{subset}"
        axis.plot(*zip(*points, strict=True), color=colour, marker=".", label=label)


def _grey_range(images: Tensor) -> tuple[float, float]:
    """Values that are drawn black and white."""
    low, high = np.quantile(images.numpy(), (0.01, 0.99))
    return float(low), float(high)


def _grid(rows: int, columns: int) -> tuple[Figure, NDArray[Any]]:
    figure = Figure(figsize=(INCHES * columns, (INCHES + 0.4) * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axis: Axes, picture: Tensor, limits: tuple[float, float]) -> None:
    middle = picture if picture.ndim == 2 else picture[len(picture) // 2]
    axis.imshow(
        middle.float().cpu().numpy(), cmap=colormaps["gray"].with_extremes(bad=HIDDEN), vmin=limits[0], vmax=limits[1]
    )
    axis.set_axis_off()
