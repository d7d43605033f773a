"""Images and labels of a case: whole, finite, in one place; damage of every kind, every format, every reader."""

import gzip
import struct
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from small_models import SPACING, small_images, write_image

from nnunetv2_missmod.files.reading import RESAMPLED, read_images, read_label
from nnunetv2_missmod.files.whole_files import check_whole

SHAPE = (9, 10, 11)
IMAGE = small_images(1, SHAPE)[0]
NIFTI_READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]
FORMATS = [
    *((reader, ".nii.gz") for reader in NIFTI_READERS),
    *((SimpleITKIO, ending) for ending in (".nii", ".nrrd", ".mha", ".gipl")),
    (Tiff3DIO, ".tif"),
    (NaturalImage2DIO, ".png"),
]


def write_as(file, image=IMAGE):
    if file.suffix == ".tif":
        tifffile.imwrite(file, data=image, compression="zlib")
    elif file.suffix == ".png":
        sitk.WriteImage(sitk.GetImageFromArray((image[0] * 20).astype(np.uint8)), str(file))
    else:
        write_image(file, image)
    return file


def read(*files, reader=SimpleITKIO, **settings):
    return read_images(reader(), [str(file) for file in files], "case", **settings)


def refused(*files, match, reader=SimpleITKIO, **settings):
    with pytest.raises(ValueError, match=f"(?s)^Case case: .*{match}"):
        read(*files, reader=reader, **settings)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reader", "ending"), FORMATS, ids=lambda value: getattr(value, "__name__", value))
def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(tmp_path, reader, ending):
    file = write_as(tmp_path / f"case_0000{ending}")
    read(file, reader=reader)
    whole = file.read_bytes()
    end = len(whole) - 24 * (ending == ".png")  # checksums and the end: without them all its voxels are there
    for length in (0, *(int(end * share) for share in (0.05, 0.3, 0.6, 0.95)), end - 1):
        file.write_bytes(whole[:length])
        refused(file, match=file.name, reader=reader)


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("kept", [400, 0.5, 0.999])
def test_a_sound_stream_whose_content_is_short_is_refused(tmp_path, reader, kept):
    file = write_as(tmp_path / "case_0000.nii.gz")
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content[: kept if kept > 1 else int(len(content) * kept)]))
    refused(file, match="bytes before the end of the 990 voxels that its header promises", reader=reader)


def test_a_stream_whose_checksum_is_wrong_is_refused(tmp_path):
    file = write_as(tmp_path / "case_0000.nii.gz")
    whole = bytearray(file.read_bytes())
    whole[-8] ^= 1
    file.write_bytes(whole)
    refused(file, match="CRC check failed")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".tif"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [(3, 4, 5), ...], ids=["one voxel", "everywhere"])
def test_values_that_are_not_finite_are_refused(tmp_path, ending, value, where):
    image = IMAGE.copy()
    image[where] = value
    file = write_as(tmp_path / f"case_0000{ending}", image)
    refused(file, match="NaN or infinity", reader=Tiff3DIO if ending == ".tif" else SimpleITKIO)


def with_header(file, **changes):
    """Change fields of a NIfTI file's header, given as (offset, format, values)."""
    content = bytearray(file.read_bytes())
    for offset, form, *values in changes.values():
        struct.pack_into(f"<{form}", content, offset, *values)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((40, "8h", 3, 30000, 30000, 30000, 1, 1, 1, 1), "27,000,000,000,000 voxels"),
        ((40, "8h", 3, 11, -10, 9, 1, 1, 1, 1), "promises the shape"),
        ((40, "8h", 3, 0, 10, 9, 1, 1, 1, 1), "promises the shape"),
        ((70, "h", 12345), "unknown type of voxels"),
        ((108, "f", 1e30), "places the voxels at byte"),
        ((108, "f", float("nan")), "places the voxels at byte"),
        ((0, "i", 7), "no NIfTI file"),
        ((70, "h", 128), "colour image"),
    ],
)
def test_a_header_that_promises_what_is_not_there_is_refused(tmp_path, change, said):
    refused(with_header(write_as(tmp_path / "case_0000.nii"), field=change), match=said)


def test_files_of_every_kind_that_nibabel_writes_are_whole(tmp_path):
    for number, dtype in enumerate(("u1", "i2", ">i2", "<u2", "i4", "f4", ">f4", "f8")):
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            file = tmp_path / f"{number}_{kind.__name__}.nii.gz"
            nib.save(kind(IMAGE.astype(dtype), np.eye(4), dtype=np.dtype(dtype)), file)
            check_whole(file)
    scaled = nib.Nifti1Image(IMAGE.astype("u1"), np.eye(4))
    scaled.header.set_slope_inter(0.5, 3)
    nib.save(scaled, tmp_path / "scaled.nii")
    check_whole(tmp_path / "scaled.nii")


def test_a_reader_whose_memory_ends_is_a_cases_error(tmp_path):
    def read_nothing(_):
        raise MemoryError("too large")

    file = write_as(tmp_path / "case_0000.nii.gz")
    with pytest.raises(ValueError, match=r"Case case: cannot read .*case_0000.nii.gz \(too large\)"):
        read_images(SimpleNamespace(read_images=read_nothing), [str(file)], "case")


# --- one place --------------------------------------------------------------------------------------------------------


def placed(file, image=IMAGE, *, mirrored=False, **changes):
    """Write an image with another spacing, origin or direction; mirrored: its axis turned, its header right."""
    written = sitk.GetImageFromArray(image)
    written.SetSpacing(SPACING)
    for name, value in changes.items():
        getattr(written, f"Set{name}")(value)
    sitk.WriteImage(sitk.DICOMOrient(written, "RPS") if mirrored else written, str(file))
    return file


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_an_image_that_is_shifted_is_refused(tmp_path, reader):
    files = [placed(tmp_path / "a_0000.nii.gz"), placed(tmp_path / "a_0001.nii.gz", Origin=(0.0, 40.0, 0.0))]
    refused(*files, match="a_0001.nii.gz", reader=reader)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_an_image_that_is_stored_mirrored_is_refused_or_resampled(tmp_path, reader):
    files = [placed(tmp_path / "a_0000.nii.gz"), placed(tmp_path / "a_0001.nii.gz", mirrored=True)]
    refused(*files, match="expected images on one grid", reader=reader)
    images, properties = read(*files, reader=reader, resample=True)
    np.testing.assert_allclose(images[1], IMAGE, atol=1e-5)
    assert properties[RESAMPLED] == [str(files[1])]


@pytest.mark.parametrize("reader", [SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_a_reader_that_reorients_takes_a_mirrored_image(tmp_path, reader):
    files = [placed(tmp_path / "a_0000.nii.gz"), placed(tmp_path / "a_0001.nii.gz", mirrored=True)]
    images, properties = read(*files, reader=reader)
    np.testing.assert_array_equal(images[0], images[1])
    assert RESAMPLED not in properties


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_a_difference_of_rounding_is_none(tmp_path, reader):
    near = (*SPACING[:2], SPACING[2] + 2.4e-7)
    files = [placed(tmp_path / "a_0000.nii.gz"), placed(tmp_path / "a_0001.nii.gz", Spacing=near, Origin=(5e-4, 0, 0))]
    assert len(read(*files, reader=reader)[0]) == 2


def test_the_file_that_really_differs_is_named(tmp_path):
    """The first differs from the two others; the second only by rounding."""
    files = [
        placed(tmp_path / "a_0000.nii.gz", IMAGE[:-1]),
        placed(tmp_path / "a_0001.nii.gz", Spacing=(*SPACING[:2], SPACING[2] + 2.4e-7)),
        placed(tmp_path / "a_0002.nii.gz"),
    ]
    refused(*files, match=r"the shape \[8, 10, 11\] in .*a_0000.nii.gz and \[9, 10, 11\] in .*a_0001.nii.gz")


def test_an_image_on_a_coarser_grid_is_resampled_onto_the_first_ones(tmp_path):
    coarse = sitk.Resample(
        sitk.ReadImage(str(placed(tmp_path / "fine.nii.gz"))), (6, 5, 5), sitk.Transform(), sitk.sitkLinear,
        (0.0, 0.0, 0.0), (2.0, 2.0, 3.0),
    )  # fmt: skip
    sitk.WriteImage(coarse, str(tmp_path / "a_0001.nii.gz"))
    images, properties = read(placed(tmp_path / "a_0000.nii.gz"), tmp_path / "a_0001.nii.gz", resample=True)
    assert images.shape == (2, *SHAPE)
    assert images[1].std() > 0.5
    assert properties["spacing"] == pytest.approx(SPACING[::-1])


def test_an_image_that_does_not_reach_the_first_one_is_no_absent_one(tmp_path):
    files = [placed(tmp_path / "a_0000.nii.gz"), placed(tmp_path / "a_0001.nii.gz", Origin=(0.0, 40.0, 0.0))]
    refused(*files, match="of which nothing reaches .*a_0000.nii.gz", resample=True)


def test_files_that_do_not_say_where_they_lie_are_not_resampled(tmp_path):
    files = [write_as(tmp_path / "a_0000.tif"), write_as(tmp_path / "a_0001.tif", IMAGE[:-1])]
    refused(*files, match="expected files that say where they lie", reader=Tiff3DIO, resample=True)


# --- several values per voxel, several volumes ------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("shape", [SHAPE, SHAPE[1:]], ids=["3d", "2d"])
def test_a_colour_image_is_called_one(tmp_path, ending, shape):
    colours = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    file = tmp_path / f"case_0000{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(file))
    refused(file, match="it is a colour image")


def test_a_mask_can_be_written_for_a_file_of_four_axes(tmp_path):
    image = sitk.JoinSeries([sitk.ReadImage(str(placed(tmp_path / "flat.nii.gz", Origin=(1.0, 2.0, 3.0))))])
    sitk.WriteImage(image, str(tmp_path / "case_0000.nii.gz"))
    images, properties = read(tmp_path / "case_0000.nii.gz")
    assert images.shape == (1, *SHAPE)
    SimpleITKIO().write_seg(np.ones(SHAPE, np.uint8), str(tmp_path / "mask.nii.gz"), properties)
    mask, flat = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("mask", "flat"))
    assert mask.GetOrigin() == pytest.approx(flat.GetOrigin())
    assert mask.GetDirection() == pytest.approx(flat.GetDirection())
    assert len(read(tmp_path / "case_0000.nii.gz", tmp_path / "flat.nii.gz")[0]) == 2


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_checked_as_images_are(tmp_path):
    file = write_as(tmp_path / "case.nii.gz", np.ones(SHAPE, np.uint8))
    np.testing.assert_array_equal(read_label(SimpleITKIO(), str(file))[0], np.ones((1, *SHAPE)))
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"expected a whole image, got .*case.nii.gz"):
        read_label(SimpleITKIO(), str(file))
    with pytest.raises(ValueError, match=r"nowhere\.nii\.gz: it does not exist"):
        read_label(SimpleITKIO(), str(tmp_path / "nowhere.nii.gz"))
