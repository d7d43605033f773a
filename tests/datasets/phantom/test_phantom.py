import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets.phantom.anatomy import (
    CORE,
    CSF,
    EDEMA,
    ENHANCING,
    GLIOSIS,
    HAEMORRHAGE,
    HARD,
    VESSEL,
    draw_anatomy,
)
from nnunetv2_missmod.datasets.phantom.cohort import phantom_case, phantom_modalities, write_phantom_dataset
from nnunetv2_missmod.datasets.phantom.imaging import contrast_of

SHAPE = (36, 40, 32)
FOUR = phantom_modalities(4)


def draw(*seed, modalities=FOUR, shape=SHAPE, **difficulty):
    return phantom_case(np.random.default_rng(seed), modalities, shape, **difficulty)


@pytest.fixture(scope="module")
def cohort():
    """24 cases; each a dict from modality to image, and the label map."""
    drawn = [draw(0, number) for number in range(24)]
    return [(dict(zip(FOUR, images, strict=True)), labels) for images, labels in drawn]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw")
    return write_phantom_dataset(
        raw, num_training=5, num_test=2, shape=SHAPE, spacing=(3.0, 1.5, 1.0), incomplete=0.4, seed=3
    )


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def contrast(cohort, modality, region, reference):
    """Mean over the cases that have both of (region - reference) / mean intensity of the brain."""
    differences = []
    for images, labels in cohort:
        image, brain = images[modality], images[modality] > 0
        inside, outside = np.isin(labels, region) & brain, np.isin(labels, reference) & brain
        if inside.any() and outside.any():
            differences.append((image[inside].mean() - image[outside].mean()) / image[brain].mean())
    assert len(differences) >= 10
    return np.mean(differences)


def test_modality_names():
    assert phantom_modalities(2) == ("FLAIR", "T1c")
    assert phantom_modalities(3) == ("FLAIR", "T1c", "T2")
    assert phantom_modalities(4) == ("FLAIR", "T1", "T1c", "T2")
    many = phantom_modalities(12)
    assert len(many) == len(set(many)) == 12
    assert many[:6] == ("FLAIR", "T1", "T1c", "T2", "PD", "DWI")


def test_shapes_and_types():
    images, labels = draw(0, 0, modalities=phantom_modalities(8))
    assert images.shape == (8, *SHAPE) and images.dtype == np.float32
    assert labels.shape == SHAPE and labels.dtype == np.uint8
    generated = images[6:]
    assert np.isfinite(images).all() and not np.allclose(generated[0], generated[1])


def test_the_seed_decides_the_case():
    images, labels = draw(0, 1)
    same_images, same_labels = draw(0, 1)
    assert images.tobytes() == same_images.tobytes() and labels.tobytes() == same_labels.tobytes()
    other_images, other_labels = draw(1, 1)
    assert not np.array_equal(images, other_images) and not np.array_equal(labels, other_labels)


def test_a_modality_looks_the_same_whichever_others_are_drawn():
    images, labels = draw(0, 2)
    fewer, fewer_labels = draw(0, 2, modalities=("T1c", "FLAIR"))
    np.testing.assert_array_equal(fewer, images[[FOUR.index("T1c"), FOUR.index("FLAIR")]])
    np.testing.assert_array_equal(fewer_labels, labels)


def test_outside_the_brain_is_zero_in_every_channel_and_inside_is_positive(cohort):
    for images, labels in cohort:
        stacked = np.stack(list(images.values()))
        brain = stacked[0] > 0
        assert 0.1 < brain.mean() < 0.6
        assert (stacked[:, brain] > 0).all() and (stacked[:, ~brain] == 0).all()
        assert brain[labels > 0].all()
        edges = [brain.take(side, axis) for axis in range(3) for side in (0, -1)]
        assert not any(edge.any() for edge in edges)


def test_regions_are_nested_and_of_sensible_size(cohort):
    shares = []
    for images, labels in cohort:
        whole, core, rim = labels > 0, labels >= 2, labels == 3
        shares.append(whole.sum() / (images["T1"] > 0).sum())
        assert 0.05 < shares[-1] < 0.25
        assert 0.2 < core.sum() / whole.sum() < 0.7
        assert (labels == 2).any() and (labels == 1).any()
        if rim.any():  # the necrosis is the inside: it meets the edema less than the rim does
            assert touching(rim, labels == 1) > 3 * touching(labels == 2, labels == 1)
    assert max(shares) > 1.5 * min(shares)


def touching(region, other):
    """Number of voxel faces at which the two regions meet."""
    pairs = [(region, np.roll(other, step, axis)) for axis in range(3) for step in (1, -1)]
    return sum(int((a & b).sum()) for a, b in pairs)


def test_about_a_quarter_of_the_cases_does_not_enhance(cohort):
    without = sum(not (labels == 3).any() for _, labels in cohort)
    assert 2 <= without <= 12


def test_tumours_lie_in_different_places(cohort):
    centres = np.array([np.argwhere(labels > 0).mean(0) for _, labels in cohort])
    assert (centres.std(0) > 0.05 * np.array(SHAPE)).all()


@pytest.mark.parametrize(
    ("modality", "region", "reference", "low", "high"),
    [
        ("FLAIR", 1, 0, 0.3, np.inf),
        ("T2", 1, 0, 0.3, np.inf),
        ("T1", 1, 0, -0.2, 0.0),
        ("T1c", 1, 0, -0.2, 0.0),
        ("T1c", 3, 0, 0.3, np.inf),
        ("T1c", 3, 1, 0.3, np.inf),
        ("FLAIR", 3, 1, -np.inf, -0.05),
        ("T1", 3, 1, -np.inf, -0.05),
        ("T1", 3, 0, -np.inf, -0.05),
        ("T2", 3, 1, -np.inf, 0.0),
        ("T1", 2, 0, -np.inf, -0.15),
        ("T1c", 2, 0, -np.inf, -0.15),
        ("T1c", 2, 3, -np.inf, -0.5),
        ("FLAIR", 2, 0, 0.05, 0.35),
        ("FLAIR", 2, 1, -np.inf, -0.1),
        ("T2", 2, 0, 0.4, np.inf),
    ],
)
def test_each_modality_shows_its_regions(cohort, modality, region, reference, low, high):
    assert low < contrast(cohort, modality, region, reference) < high


def test_healthy_tissue_mimics_the_tumour(cohort):
    fluid_as_bright_as_edema, vessels_as_bright_as_rim = [], []
    for images, labels in cohort:
        healthy = (labels == 0) & (images["FLAIR"] > 0)
        fluid = healthy & (images["FLAIR"] < np.quantile(images["FLAIR"][healthy], 0.03))
        fluid_as_bright_as_edema.append(images["T2"][fluid].mean() / images["T2"][labels == 1].mean())
        if (labels == 3).any():
            brightest = np.quantile(images["T1c"][healthy], 0.998)
            vessels_as_bright_as_rim.append(brightest / images["T1c"][labels == 3].mean())
    assert np.mean(fluid_as_bright_as_edema) > 0.8
    assert np.mean(vessels_as_bright_as_rim) > 0.9


def test_written_files(dataset):
    assert dataset.name == "Dataset501_Phantom"
    names = {part.name: sorted(f.name for f in part.iterdir()) for part in dataset.iterdir() if part.is_dir()}
    training, test = [f"phantom_{n:03d}" for n in range(5)], [f"phantom_{n:03d}" for n in (5, 6)]
    assert names == {
        "imagesTr": [f"{case}_{channel:04d}.nii.gz" for case in training for channel in range(4)],
        "labelsTr": [f"{case}.nii.gz" for case in training],
        "imagesTs": [f"{case}_{channel:04d}.nii.gz" for case in test for channel in range(4)],
        "labelsTs": [f"{case}.nii.gz" for case in test],
    }


def test_dataset_json(dataset):
    assert json.loads((dataset / "dataset.json").read_text()) == {
        "channel_names": {"0": "FLAIR", "1": "T1", "2": "T1c", "3": "T2"},
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
        "regions_class_order": [1, 2, 3],
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }


def test_geometry_is_written_in_array_order(dataset):
    for path in (dataset / "imagesTr/phantom_000_0002.nii.gz", dataset / "labelsTs/phantom_005.nii.gz"):
        image = sitk.ReadImage(str(path))
        assert image.GetSize() == SHAPE[::-1]
        assert image.GetSpacing() == (1.0, 1.5, 3.0)


def test_written_case_is_the_drawn_case(dataset):
    images, labels = draw(3, 6)
    np.testing.assert_array_equal(read(dataset / "labelsTs/phantom_006.nii.gz"), labels)
    for channel, image in enumerate(images):
        np.testing.assert_array_equal(read(dataset / f"imagesTs/phantom_006_{channel:04d}.nii.gz"), image)


def present_channels(dataset, part, case):
    return [read(path).any() for path in sorted((dataset / part).glob(f"{case}_*.nii.gz"))]


def test_incomplete_share_lacks_some_channels_but_never_all(dataset):
    present = [present_channels(dataset, "imagesTr", f"phantom_{number:03d}") for number in range(5)]
    assert [len(channels) for channels in present] == [4] * 5
    assert sum(not all(channels) for channels in present) == 2
    assert all(any(channels) for channels in present)
    assert all(
        present_channels(dataset, "imagesTs", "phantom_005") + present_channels(dataset, "imagesTs", "phantom_006")
    )


def test_every_case_may_be_incomplete(tmp_path):
    folder = write_phantom_dataset(
        tmp_path, num_training=4, num_test=1, num_modalities=2, shape=(32, 32, 32), incomplete=1.0
    )
    present = [present_channels(folder, "imagesTr", f"phantom_{number:03d}") for number in range(4)]
    assert [sum(channels) for channels in present] == [1] * 4


def test_a_case_is_independent_of_the_size_of_the_cohort(tmp_path):
    settings = {"num_modalities": 2, "shape": (32, 32, 32), "seed": 5}
    small = write_phantom_dataset(tmp_path, 501, num_training=1, num_test=1, **settings)
    large = write_phantom_dataset(tmp_path, 502, num_training=2, num_test=1, **settings)
    for file in ("phantom_001_0000.nii.gz", "phantom_001_0001.nii.gz"):
        np.testing.assert_array_equal(read(small / "imagesTs" / file), read(large / "imagesTr" / file))
    np.testing.assert_array_equal(
        read(small / "labelsTs/phantom_001.nii.gz"), read(large / "labelsTr/phantom_001.nii.gz")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_training": 0}, "at least 1 training case, got 0"),
        ({"num_test": 0}, "at least 1 test case, got 0"),
        ({"num_modalities": 1}, "at least 2 modalities, got 1"),
        ({"incomplete": -0.1}, "between 0 and 1, got -0.1"),
        ({"incomplete": 1.1}, "between 0 and 1, got 1.1"),
        ({"shape": (32, 31, 32)}, "at least 32 voxels, got (32, 31, 32)"),
        ({"spacing": (1.0, 0.0, 1.0)}, "positive spacings in mm, got (1.0, 0.0, 1.0)"),
        ({"dataset_id": 1000}, "from 1 to 999, got 1000"),
        ({"seed": -1}, "a seed of 0 or more, got -1"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_phantom_dataset(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["Dataset501_Phantom", "Dataset501_Other"])
def test_a_taken_dataset_id_is_left_alone(tmp_path: Path, taken):
    (tmp_path / taken).mkdir()
    with pytest.raises(ValueError, match=f"{taken}: choose another id or remove it"):
        write_phantom_dataset(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == [taken]


@pytest.mark.parametrize("modality", ["CT", "SYN", "SYNx"])
def test_unknown_modality(modality):
    with pytest.raises(ValueError, match=f"Expected one of FLAIR.* got '{modality}'"):
        draw(0, modalities=("FLAIR", modality))


def test_small_axis_in_a_single_case():
    with pytest.raises(ValueError, match="at least 32 voxels"):
        draw(0, shape=(32, 32, 16))


# --- a hard cohort ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hard_cohort():
    drawn = [draw(0, number, difficulty=HARD) for number in range(24)]
    return [(dict(zip(FOUR, images, strict=True)), labels) for images, labels in drawn]


def share_of_brain(cohort):
    return np.mean([(labels > 0).sum() / (images["T1"] > 0).sum() for images, labels in cohort])


def test_hard_tumours_are_smaller_and_fainter(cohort, hard_cohort):
    assert share_of_brain(hard_cohort) < 0.4 * share_of_brain(cohort)
    for modality, region in (("FLAIR", 1), ("T2", 1), ("T1c", 3)):
        assert contrast(hard_cohort, modality, region, 0) < 0.8 * contrast(cohort, modality, region, 0)


def test_some_hard_cases_have_several_tumours_and_clear_ones_have_one(cohort, hard_cohort):
    def large_parts(labels):
        parts, count = ndimage.label(labels > 0)
        return (ndimage.sum_labels(labels > 0, parts, range(1, count + 1)) > 0.1 * (labels > 0).sum()).sum()

    assert {large_parts(labels) for _, labels in cohort} == {1}
    assert max(large_parts(labels) for _, labels in hard_cohort) > 1


def test_hard_cases_have_findings_that_are_no_tumour():
    rng = np.random.default_rng(0)
    anatomies = [draw_anatomy(rng, SHAPE, HARD) for _ in range(12)]
    found = [set(np.unique(anatomy.healthy)) for anatomy in anatomies]
    assert 0 < sum(GLIOSIS in tissues for tissues in found) < 12
    assert 0 < sum(HAEMORRHAGE in tissues for tissues in found) < 12


def test_findings_that_are_no_tumour_have_no_label(hard_cohort):
    assert set(np.unique([labels for _, labels in hard_cohort])) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("mimic", "region", "alike_on", "told_apart_by"),
    [
        (GLIOSIS, EDEMA, "FLAIR", "T2"),
        (CSF, CORE, "T2", "FLAIR"),
        (VESSEL, ENHANCING, "T1c", "FLAIR"),
        (HAEMORRHAGE, ENHANCING, "T1c", "T1"),
    ],
)
def test_every_mimic_is_told_apart_by_another_modality(mimic, region, alike_on, told_apart_by):
    def difference(modality):
        return abs(contrast_of(modality)[mimic] - contrast_of(modality)[region])

    assert difference(alike_on) < 0.16
    assert difference(told_apart_by) > 0.25


def test_a_hard_cohort_is_written(tmp_path):
    hard = write_phantom_dataset(tmp_path / "hard", num_training=1, num_test=1, shape=SHAPE, hard=True)
    clear = write_phantom_dataset(tmp_path / "clear", num_training=1, num_test=1, shape=SHAPE)
    labels = [read(folder / "labelsTr" / "phantom_000.nii.gz") for folder in (hard, clear)]
    assert 0 < (labels[0] > 0).sum() < (labels[1] > 0).sum()


@pytest.mark.parametrize(
    "arguments",
    [["--size", "0"], ["--training", "-1"], ["--test", "0"], ["--modalities", "0"], ["--incomplete", "2"], ["-d", "0"]],
)
def test_arguments_that_cannot_be_are_one_line_and_nothing_is_written(tmp_path, capsys, arguments):
    assert main(["phantom", "-o", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_for_a_phantom(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["phantom", "-o", str(tmp_path / "file")]) == 2
    assert "which is a file" in capsys.readouterr().err
