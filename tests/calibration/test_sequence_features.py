"""What is measured of one image: whatever its intensities' scale and offset, and of any image there is."""

import numpy as np
import pytest
from small_sequences import head_features, small_head

from nnunetv2_missmod.calibration.sequence_features import LONGEST_AXIS, NUM_FEATURES, image_features
from nnunetv2_missmod.calibration.sequence_model import case_features


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 0), (40, 0), (1, 1000), (0.01, -3)])
def test_scale_and_offset_do_not_matter(scale, offset):
    image = small_head(0)[1]
    moved = image.astype(np.float64) * scale + offset
    np.testing.assert_allclose(image_features(moved), image_features(image), atol=1e-6)


def test_mirroring_does_not_matter():
    image = small_head(0)[1].astype(np.float64)
    np.testing.assert_allclose(image_features(image[::-1, :, ::-1]), image_features(image), atol=0.1)


def test_sequences_of_a_head_differ_more_than_heads():
    one, other = head_features(0), head_features(1)
    distances = [[np.abs(one[a] - other[b]).mean() for b in range(3)] for a in range(3)]
    assert np.argmin(distances, axis=0).tolist() == np.argmin(distances, axis=1).tolist() == [0, 1, 2]


def brain_of(image, background):
    head = np.linalg.norm(np.indices(image.shape).T - (np.array(image.shape) - 1) / 2, axis=-1).T
    return np.where(head < 8, image, background)


def test_a_brain_is_measured_without_its_background():
    image = small_head(0)[2]
    normed = (image - image.mean()) / image.std()
    near, far = (image_features(brain_of(normed, background)) for background in (-7.0, -100.0))
    np.testing.assert_allclose(near[1:], far[1:], atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 44, 1), (1, 40, 44), (40, 1, 44), (24, 28, 2), (LONGEST_AXIS * 2 + 1, 20, 20)])
def test_slices_and_long_axes_are_measured(shape):
    features = image_features(small_head(0, shape=shape)[0])
    assert features.shape == (NUM_FEATURES,)
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    "image",
    [
        np.random.default_rng(0).normal(size=(20, 20, 20)),
        np.indices((20, 20, 20))[0],
        (np.indices((20, 20, 20)).sum(0) % 2),
        np.pad(np.ones((6, 6, 6)), 5),
        np.where(np.indices((20, 20, 20))[0] == 3, 1e30, 0),
        np.ones((2, 2, 2)).cumsum().reshape(2, 2, 2),
        np.arange(5.0).reshape(5, 1, 1),
    ],
    ids=["noise", "ramp", "checkerboard", "cube", "bright slice", "few voxels", "a line"],
)
@pytest.mark.filterwarnings("error")
def test_odd_images_have_finite_features_or_none(image):
    features = image_features(image.astype(np.float32))
    assert features is None or (features.shape == (NUM_FEATURES,) and np.isfinite(features).all())


@pytest.mark.parametrize("value", [0, -3.5, 1e6])
def test_a_constant_image_has_none(value):
    assert image_features(np.full((20, 20, 20), value, np.float32)) is None


def test_absent_channels_are_not_looked_at():
    images = small_head(0)
    images[1] = np.nan
    features = case_features(images, np.array([True, False, True]))
    assert list(features) == [0, 2]
    np.testing.assert_array_equal(features[2], image_features(images[2]))
    images[0] = 0
    assert list(case_features(images, np.array([True, False, True]))) == [2]
