"""What the conversion takes for an image, against the trainers, whose module takes seconds to load."""

import numpy as np
import pytest

from nnunetv2_missmod.datasets import volumes
from nnunetv2_missmod.datasets.volumes import is_constant
from nnunetv2_missmod.host.preprocessor import varying
from nnunetv2_missmod.modalities import CONSTANT_TOLERANCE


def test_the_tolerance_is_that_of_the_trainers():
    assert volumes.CONSTANT_TOLERANCE == CONSTANT_TOLERANCE


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("values", [(0, 0), (7, 7), (0, 1), (100, 101)])
def test_what_is_constant_is_absent_for_the_trainers(dtype, values):
    array = np.full((4, 4, 4), values[0], dtype)
    array[2, 2, 2] = values[1]
    assert is_constant(array) == (not varying(array[None].astype(np.float32))[0]) == (values[0] == values[1])


def test_rounding_is_no_image():
    array = np.full((4, 4, 4), -3.7, np.float32)
    array[2, 2, 2] *= 1 + 2e-6
    assert is_constant(array)
    assert not varying(array[None])[0]
