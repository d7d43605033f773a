"""Whatever a folder holds: images, or a ValueError with a message; never another error, never half of a file."""

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
from fuzz_profile import bounded
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_missmod.cli.main import build_parser
from nnunetv2_missmod.cli.model_flags import min_voxels_of
from nnunetv2_missmod.files.channels import IMAGES, assign_channels, list_cases
from nnunetv2_missmod.files.names import whats_wrong
from nnunetv2_missmod.host.preprocessor import read_case
from nnunetv2_missmod.prediction.subsets import choose_subsets

pytestmark = pytest.mark.slow

MODALITIES = ["FLAIR", "T1", "T1c"]
DATASET_JSON = {"channel_names": dict(enumerate(MODALITIES)), "labels": {"background": 0}, "file_ending": ".nii.gz"}
SHAPE = (5, 6, 7)
IMAGE = np.random.default_rng(0).normal(3, 1, SHAPE).astype(np.float32)


# --- names ------------------------------------------------------------------------------------------------------------

ODD_TEXT = st.text(min_size=0, max_size=8) | st.sampled_from(["", "..", "a", "a_0000", "=1+1", "a b", "\0", "٠", ".a"])
SUFFIXES = st.sampled_from(["_0000", "_0001", "_0002", "_0003", "_001", "_٠٠٠١", "-0001", "", "_T1"]) | ODD_TEXT
ENDINGS = st.sampled_from([".nii.gz", ".nii", ".NII.GZ", ".Nii", ".mha", ".png", ".json", ""])
NAMES = st.builds(lambda case, suffix, ending: f"{case}{suffix}{ending}", ODD_TEXT, SUFFIXES, ENDINGS)


@bounded(300)
@given(st.lists(NAMES.filter(lambda name: name and "/" not in name), max_size=6))
def test_every_image_is_a_channel_an_error_or_named(names):
    listed = list_cases(names, ".nii.gz")
    told = [*listed.passed_over, *(name for of_case in listed.files_of.values() for name in of_case)]
    assert sorted(told) == sorted(name for name in names if name.lower().endswith(IMAGES))
    for case, of_case in listed.files_of.items():
        try:
            channels, name = assign_channels(of_case, MODALITIES, ".nii.gz")
        except ValueError as error:
            assert len(str(error)) > 20
            continue
        assert name == case
        assert whats_wrong(case) == ""
        assert len(set(channels)) == len(of_case)
        for file, channel in zip(of_case, channels, strict=True):
            assert file.lower() in (f"{case}_{channel:04d}{ending}".lower() for ending in (".nii.gz", ".nii"))


@bounded(200)
@given(ODD_TEXT | st.lists(st.sampled_from([*MODALITIES, "+", ",", " ", "all", "singles"]), max_size=6).map("".join))
def test_subsets_are_chosen_or_refused(text):
    try:
        subsets = choose_subsets(text, MODALITIES)
    except ValueError as error:
        assert "Expected" in str(error)
        return
    assert subsets.present.any(1).all()
    assert len(set(subsets.names)) == len(subsets.names)


@bounded(100)
@given(st.lists(ODD_TEXT | st.builds("{}={}".format, ODD_TEXT, ODD_TEXT | st.integers()), min_size=1, max_size=3))
def test_fewest_voxels_are_counts_or_refused(texts):
    if any(text.startswith("-") for text in texts):
        return  # argparse takes it for a flag
    arguments = ["predict", "-i", "i", "-o", "o", "-d", "1", "-c", "c", "--min_voxels", *texts]
    try:
        counts = min_voxels_of(build_parser().parse_args(arguments))
    except ValueError as error:
        assert "Expected --min_voxels REGION=N" in str(error)
        return
    assert all(isinstance(count, int) and count >= 0 for count in counts.values())


# --- contents ---------------------------------------------------------------------------------------------------------


def nifti_bytes():
    return nib.Nifti1Image(IMAGE, np.eye(4)).to_bytes()


WHOLE = nifti_bytes()
HEADER = 348
PATCHES = st.lists(st.tuples(st.integers(0, HEADER + 3), st.integers(0, 255)), max_size=4)


@st.composite
def damaged_files(draw):
    """A NIfTI file with a few bytes of its header changed, its content and its stream cut, or a byte of it flipped."""
    content = bytearray(WHOLE)
    for place, value in draw(PATCHES):
        content[place] = value
    content = content[: draw(st.just(len(content)) | st.integers(0, len(content)))]
    stream = bytearray(gzip.compress(bytes(content), 1, mtime=0))
    if draw(st.booleans()) and draw(st.booleans()):
        stream[draw(st.integers(0, len(stream) - 1))] ^= draw(st.integers(1, 255))
    return bytes(stream[: draw(st.just(len(stream)) | st.integers(0, len(stream)))])


def is_whole(stream):
    """Whether a reader that believes nothing finds all that the header promises."""
    try:
        content = gzip.decompress(stream)
        header = nib.Nifti1Header(content[:HEADER], check=False)
        shape, itemsize = header.get_data_shape(), header.get_data_dtype().itemsize
        return len(content) >= int(header["vox_offset"]) + int(np.prod(shape, dtype=object)) * itemsize
    except Exception:
        return False


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_a_damaged_file_is_read_whole_or_refused(reader):
    @bounded(250)
    @given(damaged_files(), st.booleans())
    def check(stream, resample):
        with TemporaryDirectory() as folder:
            good, bad = Path(folder, "a_0000.nii.gz"), Path(folder, "a_0001.nii.gz")
            good.write_bytes(gzip.compress(WHOLE, 1))
            bad.write_bytes(stream)
            try:
                images, _ = read_case([str(good), str(bad)], reader(), DATASET_JSON, resample)
            except ValueError as error:
                assert str(error).startswith("Case a: ")
                return
            assert is_whole(stream)
            assert images.shape == (3, *SHAPE[::-1])
            assert np.isfinite(images).all()

    check()
