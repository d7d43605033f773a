"""Whatever a source holds: a result or an error with a message, every image named, nothing outside the output folder.

MISSMOD_FUZZ multiplies the number of examples.
"""

import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
from fuzz_profile import bounded
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_missmod.datasets.conversion.checks import check_case
from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings, convert
from nnunetv2_missmod.datasets.conversion.splits import read_splits
from nnunetv2_missmod.datasets.layouts.described import check_nnunet, read_description
from nnunetv2_missmod.datasets.layouts.label_names import parse_labels, scheme_of
from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout, parse_modalities
from nnunetv2_missmod.datasets.layouts.recognition import LAYOUTS, read_source
from nnunetv2_missmod.datasets.layouts.source import ImageFile, LabelScheme, SourceCase
from nnunetv2_missmod.files.names import whats_wrong

pytestmark = pytest.mark.slow

FLAT = PatternLayout("{case}_{modality}.nii.gz", {"FLAIR": "flair", "T1": "t1"}, "{case}_seg.nii.gz", {"a": (1,)})
SCHEME = LabelScheme({0: 0, 1: 1}, {"background": 0, "lesion": 1})
VOXELS = np.random.default_rng(0).integers(1, 99, (4, 5, 6)).astype(np.int16)


def result_or_message(call, *arguments, **named):
    """What a call returns; None if it raises an error that says something. Any other error is a failure."""
    try:
        return call(*arguments, **named)
    except (ValueError, NotImplementedError) as error:
        assert len(str(error)) > 10
        return None


def written_to(folder, names):
    """Write a small image under each name that the file system takes."""
    written = []
    for name in names:
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(IMAGE)
        except (OSError, ValueError):
            continue
        written.append(folder / name)
    return sorted(set(written))


def bytes_of(voxels=VOXELS, **header):
    image = nib.Nifti1Image(voxels, np.eye(4))
    for entry, value in header.items():
        image.header[entry] = value
    return image.to_bytes()


IMAGE = bytes_of()

# --- names ------------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=6) | st.sampled_from(
    ["a", "b", "case", "..", "=1+1", ".a", "a ", "a\r", "\udcff", "٣", "a+b", ""]
)
CASES = TEXT | st.sampled_from(
    ["BraTS2021_00001", "BraTS-GLI-00000-000", "BraTS20_Training_355", "BRATS_001", "case_01", "٠٠٠١"]
)
PARTS = st.sampled_from(
    ["_flair", "_FLAIR", "_t1", "-t2f", "-t2W", "_seg", "_0000", "_0001", "_0009", "_٠٠٠١", "", "/pre/FLAIR", "/wmh"]
)
ENDINGS = st.sampled_from([".nii.gz", ".nii", ".NII.GZ", ".Nii", ".mha", ".nrrd", ".txt"])
FOLDERS = st.sampled_from(["", "a/", "imagesTr/", "labelsTr/", "imagesTs/", ".hidden/", "__MACOSX/"])
NAMES = st.lists(st.builds("{}{}{}{}".format, FOLDERS, CASES, PARTS, ENDINGS), max_size=8)
DESCRIPTION = {
    "channel_names": {"0": "FLAIR", "1": "T1"},
    "labels": {"background": 0, "a": 1},
    "file_ending": ".nii.gz",
}


def images_of(source):
    files = [image.file for case in source.cases for image in case.images.values()]
    return {*files, *(case.label for case in source.cases if case.label)}


@bounded(40)
@given(NAMES, st.sampled_from(LAYOUTS))
def test_every_image_is_read_or_named(names, layout):
    with TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        (root / "dataset.json").write_text(json.dumps(DESCRIPTION))
        written = written_to(root, [name for name in names if ".." not in name.split("/")])
        source = result_or_message(read_source, root, layout, FLAT if layout == "pattern" else None)
        if source is None:
            return
        images = [file for file in written if file.name.lower().endswith((".nii.gz", ".nii", ".mha", ".nrrd"))]
        told = "\n".join(name for names in source.unread.values() for name in names)
        of_a_mac = [file for file in images if file.name.startswith("._") or "__MACOSX" in file.parts]
        for file in set(images) - images_of(source) - set(of_a_mac):
            name = str(file.relative_to(root))
            assert (name if name.isprintable() else ascii(name)) in told
        assert ("macOS" in told) == bool(of_a_mac)
        for case in source.cases:
            assert whats_wrong(case.name) == ""


@bounded(25)
@given(NAMES)
def test_nothing_is_written_outside_the_output_folder(names):
    with TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        (root / "source").mkdir()
        (root / "raw").mkdir()
        written_to(root / "source", [name for name in names if ".." not in name.split("/")])
        before = sorted(root.rglob("*"))
        source = result_or_message(read_source, root / "source", "pattern", FLAT)
        done = source and result_or_message(convert, source, root / "raw", 5, ConversionSettings(processes=1))
        allowed = root / "raw" / "Dataset005_source"
        new = set(root.rglob("*")) - set(before)
        assert all(file == allowed or allowed in file.parents for file in new)
        assert bool(new) == bool(done)


# --- arguments, descriptions, splits ----------------------------------------------------------------------------------

PATTERNS = st.text(max_size=20) | st.lists(
    st.sampled_from(
        ["{case}", "{modality}", "{subject}", "{", "}", "*", "/", "_", "(", "[", "\\", ".nii.gz", "a", "{}"]
    ),
    max_size=8,
).map("".join)
VALUES = st.lists(st.sampled_from(["0", "1", "2", "9", "٣", "-1", "", " ", "1.5", "99999999999"]), max_size=3).map(
    ",".join
)
ASSIGNMENTS = st.lists(st.builds("{}={}".format, TEXT, VALUES | TEXT) | TEXT, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    written_to(folder, ["a/a_flair.nii.gz", "a/a_t1.nii.gz", "a/a_seg.nii.gz", "b_flair.nii.gz"])
    return folder


@bounded(150)
@given(pattern=PATTERNS, label=st.none() | PATTERNS, modalities=ASSIGNMENTS, labels=ASSIGNMENTS)
def test_patterns_modalities_and_labels(archive, pattern, label, modalities, labels):
    read_modalities = result_or_message(parse_modalities, modalities)
    read_labels = result_or_message(parse_labels, labels)
    if read_labels:
        result_or_message(scheme_of, read_labels)
    layout = PatternLayout(pattern, read_modalities or {"FLAIR": "flair"}, label, read_labels or {})
    result_or_message(read_source, archive, "pattern", layout)


@bounded(80)
@given(st.dictionaries(st.sampled_from([*DESCRIPTION, "regions_class_order", "dataset", "modality", "missmod"]), JSON))
def test_descriptions(changes):
    with TemporaryDirectory() as folder:
        written_to(Path(folder), ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii", "labelsTr/a.nii.gz"])
        file = Path(folder) / "dataset.json"
        file.write_text(json.dumps({**DESCRIPTION, **changes}))
        for layout in ("auto", "nnunet", "msd-task01"):
            result_or_message(read_source, folder, layout)
        file.write_text(json.dumps(changes))
        result_or_message(check_nnunet, file, read_description(file))
        result_or_message(read_source, folder, "nnunet")


@bounded(100)
@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_dataset_json_of_any_bytes(content):
    with TemporaryDirectory() as folder:
        (Path(folder) / "dataset.json").write_bytes(content)
        result_or_message(read_source, folder)


LINES = st.text(max_size=60) | st.lists(
    st.sampled_from(
        ["case,fold\n", "a,0\n", "b,1\n", "a,train\n", "b,val\n", "a\n", "b\n", ",\n", '"', "\0", "\udcff"]
    ),
    max_size=6,
).map("".join)


@bounded(150)
@given(
    st.lists(
        st.tuples(st.sampled_from(["train.txt", "val.txt", "test1.csv", "s.csv", "s.json", "x"]), LINES), max_size=3
    )
)
def test_split_files(files):
    with TemporaryDirectory() as folder:
        for name, text in files:
            (Path(folder) / name).write_bytes(
                text.encode("utf-8", "surrogateescape" if "\udcff" in text else "replace")
            )
        paths = [Path(folder) / name for name in dict(files)]
        splits = result_or_message(read_splits, paths, {"a": "a", "b": "b", "c": "c"})
        for fold in splits or []:
            assert fold["train"] and fold["val"] and not set(fold["train"]) & set(fold["val"])


@bounded(60)
@given(JSON | st.lists(st.fixed_dictionaries({"train": JSON, "val": JSON}), max_size=2))
def test_splits_of_any_json(value):
    with TemporaryDirectory() as folder:
        (Path(folder) / "s.json").write_text(json.dumps(value))
        result_or_message(read_splits, [Path(folder) / "s.json"], {"a": "a", "b": "b"})


# --- files ------------------------------------------------------------------------------------------------------------


def checked(image, label=None):
    """What ``check_case`` finds in the bytes of two files and a sound third one."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = {name: Path(folder) / f"{name}.nii" for name in ("FLAIR", "T1", "seg")}
        files["FLAIR"].write_bytes(image)
        files["T1"].write_bytes(IMAGE)
        files["seg"].write_bytes(label or bytes_of((VOXELS > 50).astype(np.uint8)))
        images = {name: ImageFile(files[name]) for name in ("FLAIR", "T1")}
        return check_case(SourceCase("a", "a", images, files["seg"]), SCHEME)


@bounded(80)
@given(st.integers(0, len(IMAGE) - 1), st.booleans())
def test_a_file_that_is_cut_is_neither_there_nor_absent(length, is_label):
    cut = IMAGE[:length]
    assert checked(IMAGE, cut or b"\0").refused if is_label else checked(cut).refused


HEADER_BYTES = st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4)
SPECIAL = st.sampled_from(
    [
        ("dim", [3, 30000, 30000, 30000, 1, 1, 1, 1]),
        ("dim", [3, 4, 5, -6, 1, 1, 1, 1]),
        ("dim", [4, 4, 5, 3, 2, 1, 1, 1]),
        ("dim", [0] * 8),
        ("pixdim", [0.0] * 8),
        ("pixdim", [np.nan] * 8),
        ("datatype", 128),
        ("datatype", 32),
        ("datatype", 1536),
        ("datatype", 0),
        ("scl_slope", np.nan),
        ("scl_slope", np.inf),
        ("scl_slope", 1e38),
        ("vox_offset", np.nan),
        ("vox_offset", -1.0),
        ("quatern_b", 9.0),
        ("srow_x", [np.inf] * 4),
    ]
)


@bounded(120)
@given(HEADER_BYTES, st.booleans())
def test_headers_of_which_some_bytes_are_others(changes, is_label):
    damaged = bytearray(IMAGE)
    for place, value in changes:
        damaged[place] = value
    _is_result(checked(IMAGE, bytes(damaged)) if is_label else checked(bytes(damaged)))


@bounded(60)
@given(st.lists(SPECIAL, min_size=1, max_size=2), st.sampled_from([0, 1, 2]))
def test_headers_of_odd_values(changes, sform):
    header = nib.Nifti1Image(VOXELS, np.eye(4)).header
    header["sform_code"], header["qform_code"] = sform, 1
    header["vox_offset"] = 352
    for entry, value in changes:
        header[entry] = value
    damaged = header.binaryblock + b"\0" * 4 + VOXELS.tobytes(order="F")
    _is_result(checked(damaged))
    _is_result(checked(IMAGE, damaged))


def _is_result(found):
    """A refusal with a reason, or a case whose files are all whole and lie on one grid."""
    assert found.refused or found.geometry is not None
    assert not found.refused or len(found.refused) > 20


@bounded(60)
@given(st.binary(max_size=400), st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd", ".gipl", ".NII.GZ", ".mhd"]))
def test_files_of_any_bytes(content, ending):
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"a{ending}"
        file.write_bytes(content)
        assert check_case(SourceCase("a", "a", {"FLAIR": ImageFile(file)}, None, False), SCHEME).refused
