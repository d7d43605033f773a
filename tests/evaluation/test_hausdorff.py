"""HD95 over edge voxels: medpy's and MONAI's convention, against plain loops and against MONAI itself."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage
from small_shapes import ball, blobs, box_mask

from nnunetv2_missmod.evaluation.hausdorff import EDGE_HD95, HD95_CONVENTIONS, edge_of, larger_hd95, pooled_hd95
from nnunetv2_missmod.evaluation.metrics import ScoringRules, score
from nnunetv2_missmod.evaluation.shapes import surface_of, surface_scores
from nnunetv2_missmod.evaluation.truth import Truth

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 1.0, 0.7)]


def pairs():
    """Masks and what networks make of them: grown, displaced, with islands far off; others that agree badly."""
    truth = ball(5, (1.0, 1.0, 1.0), 8)
    islands = truth.copy()
    islands[(0, 16, 1), (0, 1, 15), (16, 3, 0)] = True
    yield truth, ndimage.binary_dilation(truth, iterations=2)
    yield truth, np.roll(truth, 4, 1)
    yield islands, truth
    yield from ((blobs(seed), blobs(seed + 20, level=0.8)) for seed in range(3))


def scored(convention, predicted, reference, spacing):
    """HD95 of a region, as the long table holds it."""
    truth = Truth(reference.astype(np.uint8), spacing, {"lesion": (1,)})
    (found,) = score(predicted.astype(np.uint8), truth, ScoringRules(hd95_convention=convention))
    return found.hd95


# --- plain references -------------------------------------------------------------------------------------------------


def plain_edge(mask):
    """The voxels with a neighbour across a face that is background or lies beyond the image."""
    inside = set(map(tuple, np.argwhere(mask).tolist()))
    steps = [step for axis in np.eye(mask.ndim, dtype=int).tolist() for step in (axis, [-i for i in axis])]
    return [
        place
        for place in inside
        if any(tuple(i + j for i, j in zip(place, s, strict=True)) not in inside for s in steps)
    ]


def plain_directed(from_places, to_places, spacing):
    return sorted(
        min(
            sum(((a - b) * mm) ** 2 for a, b, mm in zip(one, other, spacing, strict=True)) ** 0.5 for other in to_places
        )
        for one in from_places
    )


def plain_percentile(ordered):
    """The 95th, linear between its neighbours."""
    place = 0.95 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def plain_hd95(predicted, reference, spacing):
    """By convention."""
    a, b = plain_edge(predicted), plain_edge(reference)
    there, back = plain_directed(a, b, spacing), plain_directed(b, a, spacing)
    return {
        "medpy": plain_percentile(sorted(there + back)),
        "monai": max(plain_percentile(there), plain_percentile(back)),
    }


# --- each convention --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
def test_hd95_is_that_of_plain_loops(spacing):
    for predicted, reference in pairs():
        expected = plain_hd95(predicted, reference, spacing)
        assert {name: scored(name, predicted, reference, spacing) for name in expected} == pytest.approx(expected)


def test_hd95_in_2d_is_that_of_plain_loops():
    predicted, reference, spacing = blobs(3, (20, 17)), blobs(4, (20, 17)), (2.5, 0.7)
    expected = plain_hd95(predicted, reference, spacing)
    assert {name: scored(name, predicted, reference, spacing) for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_larger_percentile_is_monais(spacing):
    for predicted, reference in pairs():
        batch = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, reference)]
        monais = compute_hausdorff_distance(*batch, include_background=True, percentile=95, spacing=spacing)
        assert scored("monai", predicted, reference, spacing) == pytest.approx(monais.item(), rel=1e-5)


def test_the_surface_convention_is_the_default_and_what_it_was():
    for predicted, reference in pairs():
        surfaces = (surface_of(mask, SPACINGS[1]) for mask in (predicted, reference))
        assert scored("surface", predicted, reference, SPACINGS[1]) == surface_scores(*surfaces, 1.0)[0]
    assert ScoringRules().hd95_convention == HD95_CONVENTIONS[0] == "surface"


def test_pooling_hides_the_distances_of_the_smaller_mask():
    """A prediction of one far voxel beside a large truth: one distance among many, or the whole of its direction."""
    cube = box_mask((40, 12, 12), (2, 2, 2), (10, 10, 10))
    far = cube | box_mask((40, 12, 12), (38, 5, 5), (39, 6, 6))
    small = box_mask((40, 12, 12), (38, 5, 5), (39, 6, 6))
    edges = [edge_of(mask, (1.0, 1.0, 1.0)) for mask in (far, cube, small)]
    assert pooled_hd95(edges[0], edges[1]) == larger_hd95(edges[0], edges[1]) == 0
    assert pooled_hd95(edges[2], edges[1]) <= larger_hd95(edges[2], edges[1]) > 28


# --- what all have in common ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hd95", EDGE_HD95.values())
def test_the_order_of_the_masks_and_a_shift_of_both_do_not_matter(hd95):
    a, b = blobs(9), blobs(10)
    pads = [((0, 9), (0, 9), (0, 9)), ((9, 0), (7, 2), (3, 6))]
    padded = [[edge_of(np.pad(mask, pad), SPACINGS[1]) for mask in (a, b)] for pad in pads]
    expected = hd95(edge_of(a, SPACINGS[1]), edge_of(b, SPACINGS[1]))
    assert expected > 1
    assert [hd95(*edges) for edges in padded] == pytest.approx([expected] * 2)
    assert hd95(*padded[0][::-1]) == pytest.approx(expected)


@pytest.mark.parametrize("convention", HD95_CONVENTIONS)
def test_a_shifted_cube_is_off_by_its_shift_and_an_equal_one_by_nothing(convention):
    cube = box_mask((20, 16, 16), (4, 4, 4), (12, 12, 12))
    assert scored(convention, np.roll(cube, 3, 0), cube, (1.0, 1.0, 1.0)) == 3
    assert scored(convention, cube, cube, (1.0, 1.0, 1.0)) == 0


@pytest.mark.parametrize("convention", HD95_CONVENTIONS)
def test_nothing_but_hd95_depends_on_the_convention(convention):
    truth = Truth(blobs(1).astype(np.uint8), SPACINGS[1], {"lesion": (1,)})
    prediction = blobs(2).astype(np.uint8)
    (found,) = score(prediction, truth, ScoringRules(hd95_convention=convention))
    (usual,) = score(prediction, truth, ScoringRules())
    assert found._replace(hd95=usual.hd95) == usual


def test_an_unknown_convention_is_an_error():
    with pytest.raises(ValueError, match="surface, medpy, monai, got 'itk'"):
        ScoringRules(hd95_convention="itk")
