import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from monai.metrics.utils import get_mask_edges
from small_shapes import ball, blobs, box_mask

from nnunetv2_missmod.evaluation.shapes import (
    surface_of,
    surface_scores,
)

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 1.0, 0.7)]
SPACINGS_2D = [(1.0, 1.0), (2.5, 0.7)]


def scores(predicted, reference, spacing, tolerance=1.0):
    return surface_scores(surface_of(predicted, spacing), surface_of(reference, spacing), tolerance)


# --- plain references -------------------------------------------------------------------------------------------------


def elements(mask, spacing):
    """Places in mm and areas of the surface elements, from MONAI's edges of the padded mask."""
    padded = torch.from_numpy(np.pad(mask, 1))
    edges, _, areas, _ = get_mask_edges(padded, padded, crop=False, spacing=spacing)
    return [
        ([i * mm for i, mm in zip(place, spacing, strict=True)], float(areas[tuple(place)]))
        for place in edges.nonzero().tolist()
    ]


def directed(from_elements, to_elements):
    """(distance in mm, area) of each element, nearest first."""
    found = []
    for place, area in from_elements:
        distances = [sum((a - b) ** 2 for a, b in zip(place, other, strict=True)) ** 0.5 for other, _ in to_elements]
        found.append((min(distances), area))
    return sorted(found)


def plain_percentile(found, share):
    total, covered = sum(area for _, area in found), 0.0
    for distance, area in found:
        covered += area
        if covered / total >= share:
            return distance
    return found[-1][0]


def plain_surface_scores(predicted, reference, spacing, tolerances):
    """HD95 and NSD at each of the tolerances."""
    a, b = elements(predicted, spacing), elements(reference, spacing)
    there, back = directed(a, b), directed(b, a)
    hd95 = max(plain_percentile(there, 0.95), plain_percentile(back, 0.95))
    whole = sum(area for _, area in there + back)
    return [
        (hd95, sum(area for distance, area in there + back if distance <= tolerance + 1e-9) / whole)
        for tolerance in tolerances
    ]


# --- surfaces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_box_has_the_area_of_its_faces_with_bevelled_edges_and_corners(spacing):
    sides = np.array([4, 6, 5]) - 1
    x, y, z = sides * spacing
    half = np.asarray(spacing) / 2
    edges = [4 * sides[i] * spacing[i] * np.hypot(*np.delete(half, i)) for i in range(3)]
    corner = np.linalg.norm([half[1] * half[2], half[0] * half[2], half[0] * half[1]]) / 2
    area = surface_of(box_mask((8, 9, 8), (2, 2, 2), (6, 8, 7)), spacing).areas.sum()
    assert area == pytest.approx(2 * (x * y + x * z + y * z) + sum(edges) + 8 * corner, rel=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS_2D)
def test_a_rectangle_has_the_length_of_its_sides_with_bevelled_corners(spacing):
    length = surface_of(box_mask((9, 9), (2, 1), (6, 8)), spacing).areas.sum()
    assert length == pytest.approx(2 * (3 * spacing[0] + 6 * spacing[1]) + 4 * np.hypot(*spacing) / 2, rel=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.7)])
def test_a_ball_has_its_area_and_the_tenth_more_that_steps_of_voxels_add(spacing):
    area = surface_of(ball(20, spacing), spacing).areas.sum()
    assert area / (4 * np.pi * 20**2) == pytest.approx(1.1, abs=0.05)


def test_one_voxel_has_a_surface():
    surface = surface_of(box_mask((3, 3, 3), (1, 1, 1), (2, 2, 2)), (1.0, 1.0, 1.0))
    assert len(surface.areas) == 8
    assert surface.areas.sum() == pytest.approx(8 * 3**0.5 / 8)


# --- HD95 and NSD -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hd95_and_nsd_are_those_of_plain_loops(seed, spacing):
    predicted, reference = blobs(seed), blobs(seed + 10, level=0.8)
    tolerances = (0.0, 0.7, 1.0, 1.5)
    expected = plain_surface_scores(predicted, reference, spacing, tolerances)
    for tolerance, at_tolerance in zip(tolerances, expected, strict=True):
        assert scores(predicted, reference, spacing, tolerance) == pytest.approx(at_tolerance, rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS_2D)
def test_hd95_and_nsd_in_2d_are_those_of_plain_loops(spacing):
    predicted, reference = blobs(3, (20, 17)), blobs(4, (20, 17))
    (expected,) = plain_surface_scores(predicted, reference, spacing, [1.0])
    assert scores(predicted, reference, spacing) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_nsd_is_monais(spacing):
    predicted, reference = blobs(5, (20, 22, 18), 2.0), blobs(6, (20, 22, 18), 2.0)
    batch = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, reference)]
    expected = compute_surface_dice(*batch, [1.0], include_background=True, spacing=spacing, use_subvoxels=True)
    assert scores(predicted, reference, spacing)[1] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_cube_is_off_by_its_shift(axis, spacing):
    # With another voxel size per axis, the nearest surface may lie along another axis: shift by one voxel.
    cube = box_mask((16, 16, 16), (4, 4, 4), (12, 12, 12))
    shifted = np.roll(cube, 1, axis)
    assert scores(shifted, cube, spacing)[0] == pytest.approx(spacing[axis])


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_the_nsd_of_a_shifted_cube_is_the_share_of_its_sides_that_agree_and_one_at_its_shift(shift):
    cube = box_mask((20, 20, 20), (4, 4, 4), (14, 14, 14))
    nsd = [scores(np.roll(cube, shift, 0), cube, (1.0, 1.0, 1.0), mm)[1] for mm in range(5)]
    # The elements lie in 11 planes across the shift: 9 rings of sides and bevelled edges between two bevelled ends.
    bevel, corner = 2**-0.5, 3**0.5 / 8
    ring, rim_of_end = 4 * 9 + 4 * bevel, 4 * 9 * bevel + 4 * corner
    whole = 9 * ring + 2 * (rim_of_end + 9 * 9)
    assert nsd[0] == pytest.approx(((10 - shift) * ring + rim_of_end) / whole, rel=1e-6)
    assert nsd[:shift] == sorted(nsd[:shift])
    assert nsd[shift - 1] < nsd[shift] == 1.0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_concentric_balls_are_apart_by_the_difference_of_their_radii(spacing):
    small, large = ball(14, spacing), ball(20, spacing)
    assert scores(large, small, spacing)[0] == pytest.approx(6, abs=max(spacing))
    assert scores(large, small, spacing, 6 + 2 * max(spacing))[1] == pytest.approx(1, abs=0.01)
    assert scores(large, small, spacing, 6 - 2 * max(spacing))[1] == pytest.approx(0, abs=0.01)


def test_hd95_leaves_out_five_percent_of_the_area_not_of_the_elements():
    # A spike of less than 2 % of the plate's area, then a tower of a fifth of it.
    plate = box_mask((30, 46, 46), (2, 3, 3), (4, 43, 43))
    spiked = plate | box_mask((30, 46, 46), (4, 20, 20), (20, 21, 21))
    assert scores(spiked, plate, (1.0, 1.0, 1.0))[0] == 0
    wide = plate | box_mask((30, 46, 46), (4, 15, 15), (20, 25, 25))
    assert scores(wide, plate, (1.0, 1.0, 1.0))[0] > 10


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_scores_are_symmetric(spacing):
    a, b = blobs(7), blobs(8)
    assert scores(a, b, spacing) == pytest.approx(scores(b, a, spacing), rel=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_scores_do_not_change_with_a_shift_of_both(spacing):
    a, b = blobs(9), blobs(10)
    pads = [((0, 9), (0, 9), (0, 9)), ((9, 0), (7, 2), (3, 6))]
    here, there = (scores(np.pad(a, pad), np.pad(b, pad), spacing) for pad in pads)
    assert here == pytest.approx(there, rel=1e-9)


def test_the_order_of_the_axes_does_not_matter():
    a, b, spacing = blobs(11), blobs(12), (3.0, 1.0, 0.7)
    turned = scores(a.transpose(2, 0, 1), b.transpose(2, 0, 1), (0.7, 3.0, 1.0))
    assert turned == pytest.approx(scores(a, b, spacing), rel=1e-6)


def test_equal_masks_are_perfect():
    assert scores(blobs(13), blobs(13), (3.0, 1.0, 0.7), 0.0) == (0.0, 1.0)


def test_masks_at_the_border_score_as_in_a_larger_image():
    a, b = box_mask((6, 6, 6), (0, 0, 0), (6, 6, 3)), np.ones((6, 6, 6), dtype=bool)
    expected = scores(np.pad(a, 3), np.pad(b, 3), (1.0, 2.0, 3.0))
    assert scores(a, b, (1.0, 2.0, 3.0)) == pytest.approx(expected, rel=1e-9)


def test_single_voxels_are_apart_by_their_distance():
    a, b = box_mask((9, 9, 9), (1, 1, 1), (2, 2, 2)), box_mask((9, 9, 9), (4, 5, 1), (5, 6, 2))
    hd95, nsd = scores(a, b, (1.0, 1.0, 1.0))
    assert hd95 == 5  # a quarter of either surface, its far side, lies that far from the other
    assert nsd == 0


@pytest.mark.parametrize("mm", [0.1, 0.7, 1.1, 1.3])
def test_a_distance_that_equals_the_tolerance_agrees_anywhere_in_the_image(mm):
    for start in range(40):
        cube = box_mask((48, 5, 5), (start + 1, 1, 1), (start + 4, 4, 4))
        assert scores(np.roll(cube, 1, 0), cube, (mm, mm, mm), mm)[1] == 1.0
