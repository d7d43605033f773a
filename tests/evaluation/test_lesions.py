"""Lesions and the lesion-wise Dice, against the challenge's algorithm."""

import numpy as np
import pytest
from scipy import ndimage
from small_shapes import blobs, box_mask

from nnunetv2_missmod.evaluation.shapes import (
    bounding_box,
    lesion_wise_dice,
    lesions_of,
)

# --- plain references -------------------------------------------------------------------------------------------------


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
