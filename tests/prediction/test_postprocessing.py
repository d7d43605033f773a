import numpy as np
import pytest

from nnunetv2_missmod.prediction.postprocessing import check_min_voxels, remove_small_regions
from nnunetv2_missmod.prediction.regions import region_mask

BRATS = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def tumour():
    """Edema (label 1) around necrosis (2) around enhancing tumour (3): 125, 27 and 1 voxels."""
    image = np.zeros((9, 9, 9), dtype=np.uint8)
    image[2:7, 2:7, 2:7] = 1
    image[3:6, 3:6, 3:6] = 2
    image[4, 4, 4] = 3
    return image


def sizes(image, regions):
    return {name: int(region_mask(image, values).sum()) for name, values in regions.items()}


def test_a_small_enhancing_region_becomes_core():
    removed = remove_small_regions(tumour(), BRATS, {"enhancing": 2})
    assert sizes(removed, BRATS) == {"whole": 125, "core": 27, "enhancing": 0}
    assert removed[4, 4, 4] == 2


def test_a_small_core_becomes_whole_tumour_with_what_is_in_it():
    removed = remove_small_regions(tumour(), BRATS, {"core": 28})
    assert sizes(removed, BRATS) == {"whole": 125, "core": 0, "enhancing": 0}
    assert set(np.unique(removed)) == {0, 1}


def test_a_small_whole_tumour_becomes_background():
    assert not remove_small_regions(tumour(), BRATS, {"whole": 126}).any()


def test_as_many_voxels_as_the_minimum_stay():
    kept = remove_small_regions(tumour(), BRATS, {"whole": 125, "core": 27, "enhancing": 1})
    np.testing.assert_array_equal(kept, tumour())


@pytest.mark.parametrize("numbers", [(1, 2, 3), (2, 1, 3), (3, 1, 2), (2, 3, 1)])
def test_the_numbers_of_the_labels_do_not_matter(numbers):
    edema, necrosis, enhancing = numbers
    renumbered = np.choose(tumour(), [0, *numbers])
    regions = {"enhancing": (enhancing,), "whole": sorted(numbers), "core": (enhancing, necrosis)}
    removed = remove_small_regions(renumbered, regions, {"enhancing": 2})
    assert removed[4, 4, 4] == necrosis
    assert edema not in remove_small_regions(renumbered, regions, {"whole": 200})


def test_labels_that_overlap_with_nothing_become_background():
    separate = {"edema": (1,), "necrosis": (2,), "enhancing": (3,)}
    removed = remove_small_regions(tumour(), separate, {"enhancing": 2, "necrosis": 5})
    assert removed[4, 4, 4] == 0
    assert sizes(removed, separate) == {"edema": 98, "necrosis": 26, "enhancing": 0}


def test_regions_that_cross_keep_what_is_not_removed():
    crossing = {"left": (1, 2), "right": (2, 3)}
    removed = remove_small_regions(tumour(), crossing, {"left": 10**6})
    assert sizes(removed, crossing) == {"left": 0, "right": 27}


def test_the_prediction_itself_is_not_changed():
    image = tumour()
    remove_small_regions(image, BRATS, {"whole": 999})
    np.testing.assert_array_equal(image, tumour())


def test_a_minimum_for_an_unknown_region_is_an_error():
    with pytest.raises(ValueError, match="whole, core, enhancing, got one for 'ET'"):
        check_min_voxels({"ET": 500}, BRATS)


def test_a_remainder_without_a_label_is_an_error():
    no_label_for_whole_alone = {"whole": (1, 2), "left": (1,), "right": (2,)}
    with pytest.raises(ValueError, match="whole but not in left"):
        check_min_voxels({"left": 10**6}, no_label_for_whole_alone)


def test_a_negative_minimum_is_an_error():
    with pytest.raises(ValueError, match="0 voxels or more for core, got -1"):
        check_min_voxels({"core": -1}, BRATS)
