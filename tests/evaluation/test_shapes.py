import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from monai.metrics.utils import get_mask_edges
from scipy import ndimage

from nnunetv2_missmod.evaluation.shapes import (
    bounding_box,
    lesion_wise_dice,
    lesions_of,
    surface_of,
    surface_scores,
)

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 1.0, 0.7)]
SPACINGS_2D = [(1.0, 1.0), (2.5, 0.7)]


def box_mask(shape, start, stop):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def ball(radius, spacing, image_radius=22):
    """A ball in the middle of an image, both with a radius in mm."""
    axes = [np.arange(-int(image_radius / mm), int(image_radius / mm) + 1) * mm for mm in spacing]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) <= radius**2


def blobs(seed, shape=(9, 10, 8), sigma=1.0, level=0.5):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return smooth > level * smooth.std()


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


def plain_lesion_wise_dice(predicted, reference):
    """The challenge's algorithm, lesion by lesion on the whole image."""
    cross, cube = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    merged, num_lesions = ndimage.label(ndimage.binary_dilation(reference, cross), cube)
    components, num_components = ndimage.label(predicted, cube)
    dices, touched = [], set()
    for number in range(1, num_lesions + 1):
        lesion = reference & (merged == number)
        rim = ndimage.binary_dilation(lesion, cross)
        matching = set(components[rim].tolist()) - {0}
        touched |= matching
        found = np.isin(components, list(matching)) & predicted
        dices.append(2 * (found & lesion).sum() / (found.sum() + lesion.sum()))
    return sum(dices) / (num_lesions + num_components - len(touched))


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


# --- lesions ----------------------------------------------------------------------------------------------------------


def lesion_dice(predicted, reference):
    return lesion_wise_dice(predicted, reference, lesions_of(reference))


def three_lesions():
    """Lesions of 8, 27 and 1 voxels, far from each other."""
    shape = (12, 12, 24)
    return [
        box_mask(shape, (1, 1, 1), (3, 3, 3)),
        box_mask(shape, (6, 6, 8), (9, 9, 11)),
        box_mask(shape, (2, 2, 18), (3, 3, 19)),
    ]


def test_found_lesions_are_perfect():
    a, b, c = three_lesions()
    assert lesion_dice(a | b | c, a | b | c) == 1


def test_a_missed_lesion_counts_as_zero():
    a, b, c = three_lesions()
    assert lesion_dice(b, a | b | c) == pytest.approx(1 / 3)


def test_a_false_lesion_counts_as_zero():
    a, b, c = three_lesions()
    assert lesion_dice(a | b | c, b) == pytest.approx(1 / 3)
    assert lesion_dice(a | c, b) == 0


def test_lesions_count_alike_whatever_their_size():
    a, b, c = three_lesions()
    half = b.copy()
    half[:, :, 9:] = False  # 9 of 27 voxels
    assert lesion_dice(a | half | c, a | b | c) == pytest.approx((1 + 18 / 36 + 1) / 3)


def test_all_components_that_touch_a_lesion_are_compared_with_it():
    lesion = box_mask((5, 5, 20), (1, 1, 2), (4, 4, 12))  # 90 voxels
    parts = box_mask((5, 5, 20), (1, 1, 2), (4, 4, 5)) | box_mask((5, 5, 20), (1, 1, 9), (4, 4, 14))  # 27 + 45
    assert lesion_dice(parts, lesion) == pytest.approx(2 * (27 + 27) / (72 + 90))


def test_one_component_may_touch_several_lesions():
    lesions = box_mask((5, 5, 20), (1, 1, 2), (4, 4, 5)) | box_mask((5, 5, 20), (1, 1, 10), (4, 4, 13))
    bar = box_mask((5, 5, 20), (1, 1, 2), (4, 4, 13))  # 99 voxels
    assert lesion_dice(bar, lesions) == pytest.approx(2 * 27 / (99 + 27))


@pytest.mark.parametrize(("gap", "number"), [(1, 1), (2, 1), (3, 2)])
def test_lesions_whose_rims_meet_are_one(gap, number):
    both = box_mask((5, 5, 20), (1, 1, 2), (4, 4, 5)) | box_mask((5, 5, 20), (1, 1, 5 + gap), (4, 4, 8 + gap))
    assert lesions_of(both).sizes.tolist() == ([54] if number == 1 else [27, 27])


def test_a_component_in_the_rim_of_a_lesion_touches_it():
    lesion = box_mask((5, 5, 20), (1, 1, 2), (4, 4, 5))
    beside, apart = (box_mask((5, 5, 20), (1, 1, z), (4, 4, z + 3)) for z in (5, 7))
    assert lesion_dice(lesion, lesion) == 1
    assert lesion_dice(beside, lesion) == 0  # Dice 0 of one lesion, no false one
    smaller = box_mask((5, 5, 20), (1, 1, 2), (4, 4, 4))
    assert lesion_dice(smaller | apart, lesion) == pytest.approx(2 * 18 / (18 + 27) / 2)


def test_voxels_that_meet_at_a_corner_are_one_component():
    diagonal = np.zeros((6, 6, 6), dtype=bool)
    diagonal[[1, 2, 3], [1, 2, 3], [1, 2, 3]] = True
    far = box_mask((6, 6, 20), (1, 1, 15), (2, 2, 16))
    predicted = np.pad(diagonal, ((0, 0), (0, 0), (0, 14)))
    assert lesion_dice(predicted | far, far) == pytest.approx(1 / 2)


@pytest.mark.parametrize("seed", range(6))
def test_lesion_wise_dice_is_that_of_plain_loops(seed):
    predicted = blobs(seed, (14, 15, 16), 0.8, 2.0)
    reference = blobs(seed, (14, 15, 16), 0.8, 2.2) & blobs(seed + 20, (14, 15, 16), 2.0, -0.5)
    reference |= blobs(seed + 40, (14, 15, 16), 0.8, 2.5)
    assert lesion_dice(predicted, reference) == pytest.approx(plain_lesion_wise_dice(predicted, reference), rel=1e-12)


def test_lesions_are_found_in_2d():
    reference = box_mask((20, 20), (1, 1), (4, 4)) | box_mask((20, 20), (10, 10), (12, 12))
    assert lesions_of(reference).sizes.tolist() == [9, 4]
    assert lesion_dice(box_mask((20, 20), (1, 1), (4, 4)), reference) == pytest.approx(1 / 2)


def test_a_box_with_a_margin_stays_in_the_image():
    mask = box_mask((5, 6, 7), (0, 2, 6), (1, 4, 7))
    assert bounding_box(mask) == (slice(0, 1), slice(2, 4), slice(6, 7))
    assert bounding_box(mask, margin=1) == (slice(0, 2), slice(1, 5), slice(5, 7))
