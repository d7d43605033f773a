"""What cannot be converted: cases that are refused while the others are done, and whole datasets."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from small_cohort import ALONE, SHAPE, label_map, nothing_written, save, source_of, volume, write_case

from nnunetv2_missmod.datasets.conversion.convert import convert
from nnunetv2_missmod.datasets.conversion.fill import fill
from nnunetv2_missmod.datasets.layouts.source import ImageFile, LabelScheme, SourceCase


def refusal(tmp_path, archive, case):
    """Convert the case with a sound one; returns why it was refused, of which nothing may be written."""
    folder, outcomes = convert(source_of(write_case(archive, "sound"), case), tmp_path / "raw", 137, ALONE)
    assert [outcome.status for outcome in outcomes] == ["kept", "refused"]
    assert outcomes[1].subset == ""
    assert sorted(file.name for file in folder.glob("*/*")) == [
        "sound.nii.gz",
        "sound_0000.nii.gz",
        "sound_0001.nii.gz",
    ]
    return outcomes[1].why


# --- a case is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["FLAIR", "T1c", "seg"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_file(tmp_path, archive, part, share):
    """SimpleITK reads what is left, and zeros for the rest."""
    case = write_case(archive, "bad")
    file = archive / "bad" / f"{part}.nii.gz"
    # Noise does not compress: its end is the end of the voxels.
    save(file, np.random.default_rng(0).uniform(1, 100, SHAPE).astype(np.float32))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    why = refusal(tmp_path, archive, case)
    assert f"expected a whole image, got {file}" in why
    assert "Copy it again" in why


def test_a_truncated_uncompressed_file(tmp_path, archive):
    case = write_case(archive, "bad", ending=".nii")
    file = case.images["T1c"].file
    file.write_bytes(file.read_bytes()[:1000])
    assert f"got {file}: it ends " in refusal(tmp_path, archive, case)


def test_a_file_that_is_no_image(tmp_path, archive):
    case = write_case(archive, "bad")
    case.images["FLAIR"].file.write_text("404 not found")
    assert "its compressed stream is damaged" in refusal(tmp_path, archive, case)


def test_a_file_that_is_not_there(tmp_path, archive):
    case = write_case(archive, "bad")
    case.images["FLAIR"].file.unlink()
    assert "it does not exist" in refusal(tmp_path, archive, case)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["FLAIR", "seg"])
def test_values_that_are_not_finite(tmp_path, archive, part, value):
    """SimpleITK reads both as 0."""
    case = write_case(archive, "bad")
    file = archive / "bad" / f"{part}.nii.gz"
    array = volume(0)
    array[3, 3, 3] = value
    nib.save(nib.Nifti1Image(array.T, np.diag([-1.0, -1.0, 2.0, 1.0])), file)
    assert f"got {file}: it holds NaN or infinity" in refusal(tmp_path, archive, case)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"spacing": (1.0, 1.0, 2.1)}, "spacing [1.0, 1.0, 2.1] against [1.0, 1.0, 2.0]"),
        ({"origin": (0.0, 0.5, 0.0)}, "origin [0.0, 0.5, 0.0] against [0.0, 0.0, 0.0]"),
        ({"orientation": "RPS", "origin": (1.0, 0.0, 0.0)}, "origin [1.0, 0.0, 0.0] against [0.0, 0.0, 0.0]"),
    ],
)
@pytest.mark.parametrize("part", ["T1c", "seg"])
def test_files_on_different_grids(tmp_path, archive, part, change, named):
    case = write_case(archive, "bad")
    file = archive / "bad" / f"{part}.nii.gz"
    save(file, volume(1) if part == "T1c" else label_map(), **change)
    why = refusal(tmp_path, archive, case)
    assert f"got {named} in {file} and {case.images['FLAIR'].file}" in why


@pytest.mark.parametrize("part", ["T1c", "seg"])
def test_files_of_different_shapes(tmp_path, archive, part):
    case = write_case(archive, "bad")
    file, shape = archive / "bad" / f"{part}.nii.gz", (9, 9, 10)
    save(file, volume(1, shape) if part == "T1c" else label_map(shape=shape))
    assert "got shape [10, 9, 9] against [10, 9, 8]" in refusal(tmp_path, archive, case)


def test_directions_that_differ(tmp_path, archive):
    case = write_case(archive, "bad")
    image = sitk.ReadImage(str(case.images["T1c"].file))
    turn = sitk.Euler3DTransform((0, 0, 0), 0, 0, 0.1).GetMatrix()
    image.SetDirection(turn)
    sitk.WriteImage(image, str(case.images["T1c"].file))
    assert "direction" in refusal(tmp_path, archive, case)


@pytest.mark.parametrize(
    ("values", "named"),
    [((1, 3, 9), "got 3, 9"), ((1.0, 2.5), "got 2.5"), ((-1.0,), "got -1"), ((0.5, 1.0), "got 0.5")],
)
def test_label_values_outside_the_scheme(tmp_path, archive, values, named):
    case = write_case(archive, "bad")
    array = np.zeros(SHAPE, np.float32)
    for place, value in enumerate(values):
        array[place + 1] = value
    save(case.label, array)
    why = refusal(tmp_path, archive, case)
    assert named in why
    assert str(case.label) in why


def test_a_case_of_constant_images(tmp_path, archive):
    case = write_case(archive, "bad")
    for image in case.images.values():
        save(image.file, np.full(SHAPE, 3, np.float32))
    assert "expected at least one modality, got only constant volumes (FLAIR, T1c)" in refusal(tmp_path, archive, case)


def test_a_label_without_images(tmp_path, archive):
    case = write_case(archive, "bad")
    assert "got no image" in refusal(tmp_path, archive, SourceCase("bad", "bad", {}, case.label))


@pytest.mark.parametrize(("volume_of", "named"), [(None, "one volume"), (3, "a volume 3")])
def test_a_4d_file_without_the_volume(tmp_path, archive, volume_of, named):
    case = write_case(archive, "bad")
    file = archive / "bad" / "all.nii.gz"
    image = sitk.JoinSeries([sitk.ReadImage(str(image.file)) for image in case.images.values()])
    sitk.WriteImage(image, str(file))
    why = refusal(tmp_path, archive, SourceCase("bad", "bad", {"FLAIR": ImageFile(file, volume_of)}, case.label))
    assert f"expected {named}, got 2 of them in {file}" in why


def test_a_picture(tmp_path, archive):
    file = archive / "bad.png"
    file.parent.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8), np.uint8)), str(file))
    why = refusal(tmp_path, archive, SourceCase("bad", "bad", {"FLAIR": ImageFile(file)}, None, False))
    assert "expected 3D volumes of one value per voxel, got 2D" in why


def test_a_case_that_fails_while_it_is_written_leaves_no_file(tmp_path, archive, monkeypatch):
    """Its images are linked by then; its labels cannot be mapped."""
    sound = write_case(archive, "sound", values=None)

    def fails(file, *_):
        raise ValueError(f"cannot read {file}")

    monkeypatch.setattr("nnunetv2_missmod.datasets.conversion.writing.read_volume", fails)
    folder, outcomes = convert(source_of(sound, write_case(archive, "bad")), tmp_path / "raw", 137, ALONE)
    assert [outcome.status for outcome in outcomes] == ["kept", "refused"]
    assert sorted(file.name for file in folder.glob("*/*")) == ["sound_0000.nii.gz", "sound_0001.nii.gz"]


def test_a_disk_without_links(tmp_path, archive, monkeypatch):
    def refuses(*_):
        raise OSError("Operation not permitted")

    case = write_case(archive, "bad")
    monkeypatch.setattr("pathlib.Path.symlink_to", refuses)
    nothing_written(tmp_path, "Operation not permitted.*: convert with --copy", case)


def test_a_header_that_promises_more_than_there_is_memory_for(tmp_path, archive):
    case = write_case(archive, "bad", ending=".nii")
    file = case.images["T1c"].file
    header = bytearray(file.read_bytes())
    header[40:48] = np.array([3, 30000, 30000, 30000], "<i2").tobytes()
    file.write_bytes(header)
    assert "before the end of the 27,000,000,000,000 voxels" in refusal(tmp_path, archive, case)


@pytest.mark.parametrize("step", ["checks.read_voxels", "writing.read_volume"])
def test_a_case_that_needs_more_memory_than_there_is(tmp_path, archive, monkeypatch, step):
    case = write_case(archive, "bad")
    sound = write_case(archive, "sound", values=None)
    module, name = f"nnunetv2_missmod.datasets.conversion.{step}".rsplit(".", 1)
    reads = getattr(__import__(module, fromlist=[name]), name)

    def needs_much(file, *how):
        if file == case.label:
            raise MemoryError
        return reads(file, *how)

    monkeypatch.setattr(f"{module}.{name}", needs_much)
    _, outcomes = convert(source_of(sound, case), tmp_path / "raw", 137, ALONE)
    assert [outcome.status for outcome in outcomes] == ["kept", "refused"]
    assert "more memory than there is: ask for fewer processes" in outcomes[1].why


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_a_colour_image(tmp_path, archive, ending):
    case = write_case(archive, "bad")
    file = archive / "bad" / f"colour{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True), str(file))
    images = {**case.images, "T1c": ImageFile(file)}
    assert "colour image" in refusal(tmp_path, archive, SourceCase("bad", "bad", images, case.label))


def test_the_file_that_differs_from_the_others_is_the_one_that_is_named(tmp_path, archive):
    case = write_case(archive, "bad")
    first = case.images["FLAIR"].file
    save(first, volume(1), spacing=(1.0, 1.0, 2.1))
    save(case.images["T1c"].file, volume(2), spacing=(1.0, 1.0 + 2.4e-7, 2.0))
    why = refusal(tmp_path, archive, case)
    assert f"got spacing [1.0, 1.0, 2.1] against [1.0, 1.0, 2.0] in {first} and" in why


# --- labels that are whole but for rounding ---------------------------------------------------------------------------


def scaled(file, array, slope):
    image = nib.Nifti1Image(array.T, np.diag([-1.0, -1.0, 2.0, 1.0]))
    image.header.set_slope_inter(slope, 0)
    image.header.set_data_dtype(array.dtype)
    nib.save(image, file)
    with open(file, "r+b") as raw:  # nibabel scales the voxels by itself: put in those that are meant
        raw.seek(352)
        raw.write(np.asfortranarray(array.T).tobytes(order="F"))


def test_labels_are_rounded_and_written_as_integers(tmp_path, archive):
    case = write_case(archive, "a")
    save(case.label, (label_map() * np.float32(0.9999999)).astype(np.float32))
    other = write_case(archive, "b", ending=".nii")
    scaled(other.label, label_map() * np.uint8(51), 1 / 51)
    folder, outcomes = convert(source_of(case, other), tmp_path / "raw", 137, ALONE)
    assert [outcome.status for outcome in outcomes] == ["kept", "kept"]
    for name in "ab":
        converted = sitk.ReadImage(str(folder / "labelsTr" / f"{name}.nii.gz"))
        expected = np.array([0, 2, 1, 9, 3])[label_map()]
        np.testing.assert_array_equal(sitk.GetArrayFromImage(converted), expected)


def test_a_slope_that_makes_no_labels_is_said(tmp_path, archive):
    case = write_case(archive, "bad", ending=".nii")
    scaled(case.label, label_map(), 1 / 255)
    why = refusal(tmp_path, archive, case)
    assert "got 0.0039215" in why
    assert "(its header multiplies by 0.0039215" in why


def test_labels_that_would_have_to_be_rounded_are_refused_where_no_file_is_changed(tmp_path, archive):
    case = write_case(archive, "bad", values=(1,))
    save(case.label, (label_map((1,)) * np.float32(0.9999999)).astype(np.float32))
    same = LabelScheme({0: 0, 1: 1}, {"background": 0, "lesion": 1})
    source = source_of(write_case(archive, "sound", values=(1,)), case, scheme=same)
    _, outcomes = fill(source, archive, ".nii.gz", 1)
    assert [outcome.status for outcome in outcomes] == ["kept", "refused"]
    assert "a rounding error keeps from being whole" in outcomes[1].why
