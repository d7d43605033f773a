"""Masks back to the label values of their source."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from small_cohort import label_map, read, save, source_of, write_case

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings, convert
from nnunetv2_missmod.datasets.conversion.restore import restore_labels
from nnunetv2_missmod.datasets.layouts.source import LabelScheme


@pytest.fixture
def dataset(tmp_path):
    cases = [write_case(tmp_path / "archive", name, origin=(1.0, -2.0, 3.0)) for name in "ab"]
    return convert(source_of(*cases), tmp_path / "raw", 137, ConversionSettings(processes=1))[0]


@pytest.fixture
def masks(tmp_path):
    return save(tmp_path / "masks" / "a.nii.gz", label_map((1, 2, 3))).parent


def test_restoring_undoes_the_conversion(dataset, tmp_path):
    """The converted labels stand for masks of the test cases."""
    assert restore_labels(dataset / "labelsTr", tmp_path / "out", dataset / "dataset.json") == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    for name in "ab":
        restored = sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz"))
        source = sitk.ReadImage(str(tmp_path / "archive" / name / "seg.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(restored), sitk.GetArrayFromImage(source))
        assert restored.GetPixelID() == sitk.sitkUInt8
        assert restored.GetOrigin() == source.GetOrigin() and restored.GetSpacing() == source.GetSpacing()
        assert restored.GetDirection() == source.GetDirection()


def test_values_that_became_one_label_come_back_as_the_first(tmp_path):
    scheme = LabelScheme({0: 0, 600: 1, 7: 1}, {"background": 0, "lesion": 1})
    case = write_case(tmp_path / "archive", "a")
    array = label_map((1, 2)).astype(np.int16)
    save(case.label, np.choose(array, [0, 600, 7]).astype(np.int16))
    folder, _ = convert(source_of(case, scheme=scheme), tmp_path / "raw", 1, ConversionSettings(processes=1))
    restore_labels(folder / "labelsTr", tmp_path / "out", folder / "dataset.json")
    assert set(np.unique(read(tmp_path / "out" / "a.nii.gz"))) == {0, 600}


def test_other_files_of_a_folder_of_masks_are_left_where_they_are(dataset, masks, tmp_path):
    (masks / "plans.json").write_text("{}")
    (masks / "masks.csv").write_text("case\n")
    assert restore_labels(masks, tmp_path / "out", dataset / "dataset.json") == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("bad", ["value", "truncated", "fraction"])
def test_a_bad_mask_is_named_and_the_others_are_restored(dataset, masks, tmp_path, capsys, bad):
    file = masks / "A_bad.nii.gz"
    noise = np.random.default_rng(0).integers(0, 4, (8, 9, 10)).astype(np.uint8)
    save(file, noise + 1.5 if bad == "fraction" else noise + 1)
    if bad == "truncated":
        save(file, noise)
        file.write_bytes(file.read_bytes()[:200])
    assert restore_labels(masks, tmp_path / "out", dataset / "dataset.json") == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.nii.gz"]
    error = capsys.readouterr().err
    assert "A_bad.nii.gz: " in error
    assert {"value": "got 4", "truncated": "expected a whole image", "fraction": "whole numbers"}[bad] in error


def test_masks_are_not_overwritten(dataset, masks):
    before = (masks / "a.nii.gz").read_bytes()
    linked = masks.parent / "linked"
    linked.symlink_to(masks)
    with pytest.raises(ValueError, match="another folder than that of the masks"):
        restore_labels(masks, linked, dataset / "dataset.json")
    assert (masks / "a.nii.gz").read_bytes() == before


def test_a_folder_without_masks(dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"masks that end in \.nii\.gz .* found none"):
        restore_labels(tmp_path / "empty", tmp_path / "out", dataset / "dataset.json")
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_was_not_converted(dataset, masks, tmp_path):
    described = json.loads((dataset / "dataset.json").read_text())
    del described["missmod"]
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="no block 'missmod'"):
        restore_labels(masks, tmp_path / "out", tmp_path / "dataset.json")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"missmod": ["source_values"]}, "no block 'missmod'"),
        ({"missmod": {"source_values": {"1": "x"}}}, "Expected source_values"),
        ({"missmod": {"source_values": [1]}}, "Expected source_values"),
        ({"file_ending": None}, "file_ending to be"),
    ],
)
def test_a_description_of_other_kinds(dataset, masks, tmp_path, changes, named):
    described = json.loads((dataset / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(described | changes))
    with pytest.raises(ValueError, match=named):
        restore_labels(masks, tmp_path / "out", tmp_path / "dataset.json")


def test_a_description_that_is_a_list(masks, tmp_path):
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(ValueError, match="Expected a JSON object"):
        restore_labels(masks, tmp_path / "out", tmp_path / "dataset.json")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["137", "Dataset137_Small"])
def test_the_command_finds_the_dataset(dataset, masks, tmp_path, monkeypatch, named):
    monkeypatch.setenv("nnUNet_raw", str(dataset.parent))
    assert main(["restore-labels", "-i", str(masks), "-o", str(tmp_path / "out"), "-d", named]) == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.nii.gz"), label_map((2, 1, 4)))


def test_the_command_takes_a_description(dataset, masks, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    save(masks / "bad.nii.gz", label_map((9,)))
    description = str(dataset / "dataset.json")
    arguments = ["restore-labels", "-i", str(masks), "-o", str(tmp_path / "out"), "-dataset_json", description]
    assert main(arguments) == 1
    assert "1 mask failed" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "said"), [((), "got neither"), (("-d", "7"), "found 0")])
def test_the_command_needs_a_dataset(masks, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert main(["restore-labels", "-i", str(masks), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_description(masks, tmp_path):
    with pytest.raises(ValueError, match="found none: give -dataset_json"):
        restore_labels(masks, tmp_path / "out", tmp_path / "dataset.json")
