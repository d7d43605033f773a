import base64
import gzip
import io
import re

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from small_folders import REGIONS, write_data, write_model

from nnunetv2_missmod.report.case_volumes import Case, read_cropped_case
from nnunetv2_missmod.report.inputs import load_comparison
from nnunetv2_missmod.report.overlays import contours, cut, draw_overlay, region_colours, widest_slices
from nnunetv2_missmod.report.viewer import BUDGET, encode_case, label_colours, viewer_of


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("overlays")
    truths = write_data(root, num_modalities=2, cases=("case",))
    write_model(root / "model", root, truths, modalities=("FLAIR", "T1c"))
    comparison = load_comparison([root / "model"])
    case = read_cropped_case(comparison, "case", "the only one")
    assert isinstance(case, Case)
    return comparison, case


def rings(path):
    """The closed polygons of a path in half pixels."""
    for ring in path.removesuffix("z").split("z"):
        start, steps = ring.removeprefix("M").split("l")
        start = np.array([[int(v) for v in start.split()]])
        yield np.concatenate([start, start + np.array([int(v) for v in steps.split()]).reshape(-1, 2).cumsum(0)])


def filled(path, shape):
    """Pixels whose centre is inside a path, by the even-odd rule and plain crossings."""
    inside = np.zeros(shape, bool)
    for ring in rings(path):
        for row, column in np.ndindex(shape):
            x, y = 2 * column + 1, 2 * row + 1.001
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
                if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                    inside[row, column] ^= True
    return inside


def test_a_contour_encloses_just_the_pixels_of_its_mask():
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random((9, 12)) > 0.6
        np.testing.assert_array_equal(filled(contours(mask), mask.shape), mask)


def test_an_empty_mask_has_no_contour():
    assert contours(np.zeros((4, 4), bool)) == ""


def test_a_full_mask_is_enclosed_at_the_border():
    assert filled(contours(np.ones((4, 5), bool)), (4, 5)).all()


def test_planes_are_upright():
    volume = np.zeros((3, 4, 5))  # z up, y back, x left
    volume[2, 0, 4] = 1  # top, front, left
    assert cut(volume, 0, 2)[0, 4] == 1  # axial: front is up, the patient's left is on the right
    assert cut(volume, 1, 0)[0, 4] == 1  # coronal: head up
    assert cut(volume, 2, 4)[0, 0] == 1  # sagittal: head up, face to the left


def test_the_slices_with_most_of_the_truth():
    mask = np.zeros((6, 7, 8), bool)
    mask[2, 3:6, 1:4] = mask[1:4, 4, 2] = True
    assert widest_slices(mask) == [2, 4, 2]
    assert widest_slices(np.zeros((6, 7, 8), bool)) == [3, 3, 4]


def test_an_overlay_has_every_subset_in_three_planes(cohort):
    comparison, case = cohort
    overlay = draw_overlay(comparison, case, ["DCSeg"])
    assert [plane.name for plane in overlay.planes] == ["axial", "coronal", "sagittal"]
    assert [p.subset for p in overlay.predictions["DCSeg"]] == ["FLAIR", "T1c", "FLAIR+T1c"]
    assert [p.background for p in overlay.predictions["DCSeg"]] == ["FLAIR", "T1c", "FLAIR"]
    for prediction in overlay.predictions["DCSeg"]:
        assert [len(plane) for plane in prediction.paths] == [len(REGIONS)] * 3
        assert all(re.fullmatch(r"\d\d\.\d\d|–", value) for value in prediction.dice)


def test_the_contours_of_the_truth_enclose_its_slice(cohort):
    comparison, case = cohort
    plane = draw_overlay(comparison, case, [])[1][0]
    truth = sitk.GetArrayFromImage(case.truth)
    section = truth[(truth > 0).sum((1, 2)).argmax()]
    for path, labels in zip(plane.truth, REGIONS.values(), strict=True):
        np.testing.assert_array_equal(filled(path, section.shape), np.isin(section, labels))


def test_pictures_are_in_proportion_and_show_the_image(cohort):
    comparison, case = cohort
    x, y, z = case.truth.GetSize()
    axial, coronal, sagittal = draw_overlay(comparison, case, []).planes
    assert (axial.width, axial.height) == (x, y)
    assert (coronal.width, coronal.height) == (x, 1.5 * z)
    assert (sagittal.width, sagittal.height) == (y, 1.5 * z)
    with Image.open(io.BytesIO(base64.b64decode(axial.pictures["FLAIR"].split(",")[1]))) as picture:
        assert picture.size == (x, y)
        assert np.asarray(picture).std() > 10


def test_a_single_slice_has_one_plane_and_no_viewer(cohort):
    comparison, case = cohort
    middle = case.truth.GetSize()[2] // 2
    images = {name: image[:, :, middle : middle + 1] for name, image in case.images.items()}
    flat = Case("flat", "", images, case.truth[:, :, middle : middle + 1], case.box, case.size)
    assert [plane.name for plane in draw_overlay(comparison, flat, []).planes] == ["axial"]
    assert "single slice" in encode_case(comparison, flat, [], BUDGET)


@pytest.mark.parametrize("count", [1, 3, 6, 11])
def test_regions_have_colours_of_their_own(count):
    assert len(set(region_colours(count))) == count


# --- the viewer -------------------------------------------------------------------------------------------------------


def decoded(data, tmp_path):
    content = base64.b64decode(data)
    assert gzip.decompress(content)[344:348] == b"n+1\0"
    (tmp_path / "volume.nii.gz").write_bytes(content)
    return sitk.ReadImage(str(tmp_path / "volume.nii.gz"))


@pytest.fixture
def not_small(monkeypatch):
    """As with a patient's volumes, which are not made finer."""
    monkeypatch.setattr("nnunetv2_missmod.report.viewer.SMALL", 0)


def test_the_viewer_holds_images_and_masks_where_they_are_in_space(cohort, tmp_path, not_small):
    comparison, case = cohort
    shown = encode_case(comparison, case, ["DCSeg"], BUDGET)
    assert (shown["name"], shown["description"]) == ("case", "the only one")
    assert [layer["name"] for layer in shown["images"]] == ["FLAIR", "T1c"]
    assert [layer["subset"] for layer in shown["masks"]] == ["FLAIR", "T1c", "FLAIR+T1c"]
    for data in (shown["images"][0]["data"], shown["truth"], shown["masks"][0]["data"]):
        volume = decoded(data, tmp_path)
        assert volume.GetSize() == case.truth.GetSize()
        np.testing.assert_allclose(volume.GetOrigin(), case.truth.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(volume.GetSpacing(), case.truth.GetSpacing(), atol=1e-4)
    assert "reduced to 256 grey values." in shown["note"]
    assert shown["start"] == {"model": "DCSeg", "subset": "FLAIR+T1c"}


def test_a_small_case_is_made_finer_where_it_fits_so_that_the_outline_is_thin(cohort, tmp_path):
    comparison, case = cohort
    shown = encode_case(comparison, case, ["DCSeg"], BUDGET)
    outline, mask = (decoded(data, tmp_path) for data in (shown["truth"], shown["masks"][0]["data"]))
    truth, inside = sitk.GetArrayFromImage(case.truth), sitk.GetArrayFromImage(outline) > 0
    assert outline.GetSize() == mask.GetSize() == tuple(2 * size for size in case.truth.GetSize())
    assert inside.sum() < 0.75 * 8 * (truth > 0).sum()
    repeated = truth.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert (sitk.GetArrayFromImage(outline)[inside] == repeated[inside]).all()
    np.testing.assert_allclose(outline.GetSpacing(), np.array(case.truth.GetSpacing()) / 2)
    corner = np.array(case.truth.GetOrigin()) - np.array(case.truth.GetSpacing()) / 4
    np.testing.assert_allclose(outline.GetOrigin(), corner, atol=1e-4)
    plain = encode_case(comparison, case, ["DCSeg"], len(str(shown)) // 2)
    assert decoded(plain["truth"], tmp_path).GetSize() == case.truth.GetSize()
    assert "reduced to 256 grey values." in plain["note"]


def test_a_large_case_is_made_coarser_until_it_fits_and_the_page_says_so(cohort, tmp_path, not_small):
    comparison, case = cohort
    size = len(str(encode_case(comparison, case, ["DCSeg"], BUDGET)))
    shown = encode_case(comparison, case, ["DCSeg"], size // 3)
    assert "reduced 2 times along each axis" in shown["note"]
    assert len(str(shown)) < size // 3 + 1000
    volume = decoded(shown["masks"][0]["data"], tmp_path)
    np.testing.assert_allclose(volume.GetSpacing(), 2 * np.array(case.truth.GetSpacing()))
    assert set(np.unique(sitk.GetArrayFromImage(volume))) <= {0, 1, 2, 3}


def test_a_case_that_never_fits_is_left_out(cohort):
    comparison, case = cohort
    assert "too large" in encode_case(comparison, case, ["DCSeg"], budget=10)


def test_the_viewer_holds_the_cases_that_can_be_shown(cohort):
    comparison, _ = cohort
    viewer = viewer_of(comparison, ["flat is a single slice.", {"name": "case"}, {"name": "again"}])
    assert [shown["name"] for shown in viewer["cases"]] == ["case", "again"]
    assert (viewer["modalities"], list(viewer["subsets"])) == (["FLAIR", "T1c"], ["FLAIR", "T1c", "FLAIR+T1c"])
    assert viewer_of(comparison, ["flat is a single slice."]) is None


def test_a_label_has_the_colour_of_its_smallest_region(cohort):
    comparison, _ = cohort
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in region_colours(3)]
    assert [(entry["label"], tuple(entry["rgb"])) for entry in label_colours(comparison)] == [
        (1, colours[0]),
        (2, colours[1]),
        (3, colours[2]),
    ]
