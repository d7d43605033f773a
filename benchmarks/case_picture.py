"""A picture of a case, segmented from every subset of its modalities: ``python -m benchmarks.case_picture SCORES``.

SCORES is a folder of ``missmod evaluate``, with its masks. Shown is the axial slice with most of the truth, of one
region: truth dashed, the mask filled, on the first of the modalities that the mask was made from.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunetv2_missmod.report.case_volumes import Case, grey, read_cropped_case, read_prediction
from nnunetv2_missmod.report.inputs import Comparison, load_comparison
from nnunetv2_missmod.report.overlays import region_colours, widest_slices
from nnunetv2_missmod.report.shown_cases import cases_to_show

COLUMNS = 4
CAPTION = 0.3  # height of a panel's two lines, as a share of its width


def main() -> None:
    """Draw one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--case", help="its name (default: the case of median Dice over all subsets)")
    parser.add_argument("--region", help="default: the first")
    parser.add_argument("-o", type=Path, required=True, help="the picture: .png, .svg, ...")
    arguments = parser.parse_args()
    comparison = load_comparison([arguments.scores])
    [(name, what)] = cases_to_show(comparison, [arguments.case or "1"]).items()
    print(f"{name}: {what}")
    case = read_cropped_case(comparison, name, what)
    if isinstance(case, str):
        raise ValueError(case)
    draw_case(comparison, case, arguments.region or comparison.regions[0]).savefig(arguments.o, dpi=110)


def draw_case(comparison: Comparison, case: Case, region: str) -> Figure:
    """Draw a case's region in a panel for each subset that has a mask.

    Args:
        comparison: of one model.
        case: of its cases.
        region: of its regions.

    Raises:
        ValueError: there is no such region, or no mask of the case.
    """
    if region not in comparison.regions:
        raise ValueError(f"Expected --region to be one of {', '.join(comparison.regions)}, got {region}.")
    [model] = comparison.models.values()
    masks = {subset: read_prediction(model, subset, case) for subset in comparison.subsets}
    found = {subset: mask for subset, mask in masks.items() if mask is not None}
    if not found:
        raise ValueError(f"Expected masks of {case.name} beside the scores, found none. Evaluate without --no-save.")
    labels, dice = comparison.first.provenance.region_labels[region], dice_of(comparison, case, region)
    truth = np.isin(sitk.GetArrayFromImage(case.truth), labels)
    index = widest_slices(truth)[0]
    greys = {modality: grey(image)[index] for modality, image in case.images.items()}
    height, width = truth.shape[1:]
    rows = math.ceil(len(found) / COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2 * rows * (height / width + CAPTION)), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for panel, (subset, mask) in zip(panels, found.items(), strict=False):
        shown = next(modality for modality in comparison.subsets[subset] if modality in greys)
        draw_panel(panel, greys[shown], truth[index], np.isin(sitk.GetArrayViewFromImage(mask)[index], labels))
        panel.set_title(f"{subset}\nDice {dice[subset]:.2f}", fontsize=9)
    for panel in figure.axes:
        panel.set_axis_off()
    return figure


def dice_of(comparison: Comparison, case: Case, region: str) -> dict[str, float]:
    """Dice of a case's region by subset."""
    scores = comparison.scores
    rows = scores[(scores["case"] == case.name) & (scores["region"] == region)]
    return dict(zip(rows["subset"], rows["dice"], strict=True))


def draw_panel(panel: Axes, image: NDArray[np.uint8], truth: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
    """Draw one slice (rows, columns) with its truth and its mask."""
    [colour] = region_colours(1)
    panel.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    if mask.any():
        panel.contourf(mask, levels=[0.5, 1.5], colors=[colour], alpha=0.3)
        panel.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
    if truth.any():
        panel.contour(truth, levels=[0.5], colors=["white"], linewidths=1, linestyles="dashed")


if __name__ == "__main__":
    main()
