"""A scan that is there never counts as absent because of its name: it is taken, or named."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from small_sources import image, labels, write_brats_case, write_image, write_layout, write_wmh_case

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets.layouts.label_names import parse_labels
from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout
from nnunetv2_missmod.datasets.layouts.recognition import read_source

TWO = {"FLAIR": "flair", "T1c": "t1ce"}


@pytest.fixture(autouse=True)
def raw(tmp_path, monkeypatch):
    for name in ("preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


def convert(*arguments, code=0):
    assert main(["convert", *map(str, arguments), "-np", "1"]) == code


def table_of(raw):
    (file,) = raw.glob("*/conversion.csv")
    return pd.read_csv(file, keep_default_na=False).set_index("case")


def pattern_source(folder, modalities=TWO, images="{case}/{case}_{modality}.nii.gz", label=None):
    return read_source(
        folder, "pattern", PatternLayout(images, modalities, label, parse_labels(["a=1"]) if label else {})
    )


def renamed(file, name):
    return file.rename(file.with_name(name))


# --- capital letters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "end", "other"),
    [
        ("brats2023-gli", "-t2w.nii.gz", "-t2W.nii.gz"),
        ("brats2021", "_t1ce.nii.gz", "_T1CE.nii.gz"),
        ("brats2020", "_flair.nii", "_flair.NII"),
        ("brats2021", "_seg.nii.gz", "_Seg.NII.GZ"),
    ],
)
def test_suffixes_of_brats_match_without_regard_to_case(tmp_path, layout, end, other):
    root = write_layout(tmp_path, layout, cases=1)
    (file,) = root.rglob(f"*{end}")
    new = renamed(file, file.name.replace(end, other))
    (case,) = read_source(root).cases
    assert len(case.images) == 4 and case.label and case.is_training
    assert new in [*(found.file for found in case.images.values()), case.label]


def test_wmh_and_the_decathlon_match_without_regard_to_case(tmp_path):
    write_wmh_case(tmp_path / "wmh" / "Utrecht" / "0")
    renamed(tmp_path / "wmh/Utrecht/0/pre/T1.nii.gz", "t1.NII.gz")
    renamed(tmp_path / "wmh/Utrecht/0/wmh.nii.gz", "WMH.nii.gz")
    (case,) = read_source(tmp_path / "wmh").cases
    assert list(case.images) == ["FLAIR", "T1"] and case.label
    root = write_layout(tmp_path, "msd-task01", cases=1)
    renamed(root / "labelsTr" / "BRATS_001.nii.gz", "BRATS_001.NII.GZ")
    (case,) = read_source(root).cases
    assert len(case.images) == 4 and case.label


def test_patterns_match_without_regard_to_case_where_nothing_fits_to_the_letter(tmp_path):
    for name in ("a/a_FLAIR.nii.gz", "a/a_t1ce.NII.gz", "b/b_flair.nii.gz", "b/b_Flair.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_image(tmp_path / "a" / "a_SEG.nii.gz", labels((1,)))
    source = pattern_source(tmp_path, label="{case}/{case}_seg.nii.gz")
    first, second = source.cases
    assert list(first.images) == ["FLAIR", "T1c"] and first.label.name == "a_SEG.nii.gz"
    assert second.images["FLAIR"].file.name == "b_flair.nii.gz"
    assert source.unread == {"b": ("b/b_Flair.nii.gz",)}


def test_texts_that_differ_in_case_alone_are_told_apart_by_it(tmp_path):
    for name in ("a_t1.nii.gz", "a_T1.NII.GZ", "b_T1.nii.gz"):
        (tmp_path / name).touch()
    first, second = pattern_source(tmp_path, {"plain": "t1", "contrast": "T1"}, "{case}_{modality}.nii.gz").cases
    assert {name: found.file.name for name, found in first.images.items()} == {
        "plain": "a_t1.nii.gz",
        "contrast": "a_T1.NII.GZ",
    }
    assert list(second.images) == ["contrast"]


# --- nnU-Net's own folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["case_01_0001.nii", "case_01_0001.NII.GZ", "case_01_0001.mha"])
def test_a_channel_of_another_ending_is_that_channel(tmp_path, raw, name):
    dataset = write_layout(tmp_path / "source", "nnunet")
    scan = image("scan", 5)
    write_image(dataset / "imagesTr" / name.lower(), scan)
    renamed(dataset / "imagesTr" / name.lower(), name)
    convert(dataset, "-d", 5)
    (converted,) = raw.glob("*/imagesTr/case_01_0001.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(converted))), scan)
    assert table_of(raw)["status"].tolist() == ["kept"] * 3


@pytest.mark.parametrize("name", ["case_01_0001.nii", "case_01_0001.NII.GZ"])
def test_no_zeros_are_put_beside_a_scan(raw, capsys, name):
    dataset = write_layout(raw, "nnunet")
    write_image(dataset / "imagesTr" / name.lower(), image("scan", 5))
    renamed(dataset / "imagesTr" / name.lower(), name)
    before = sorted((dataset / "imagesTr").iterdir())
    convert(dataset, "-d", 42, code=1)
    assert sorted((dataset / "imagesTr").iterdir()) == before
    said = capsys.readouterr().out
    assert f"Refused case_01: expected files that end in .nii.gz, got {dataset / 'imagesTr' / name}" in said


def test_digits_of_other_scripts_are_no_channel(tmp_path):
    dataset = write_layout(tmp_path, "nnunet")
    write_image(dataset / "imagesTr" / "case_01_٠٠٠١.nii.gz", image("scan", 5))
    with pytest.raises(ValueError, match="Expected a suffix from _0000 to _0001"):
        read_source(dataset)


# --- what no rule takes -----------------------------------------------------------------------------------------------


def test_files_that_no_rule_takes_are_named_with_their_case(tmp_path, raw, capsys):
    root = write_layout(tmp_path / "source", "brats2021")
    case = root / "BraTS2021_00001"
    renamed(case / "BraTS2021_00001_t1ce.nii.gz", "BraTS2021_00001_t1gd.nii.gz")
    for name in ("BraTS2021_00001/.BraTS2021_00001_t1ce.nii.gz", "atlas.MHA", "._atlas.nii", "__MACOSX/x.nii.gz"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    convert(root, "-d", 5)
    table = table_of(raw)
    assert table["why"]["BraTS2021_00001"] == "no T1c"
    assert table["unread"].tolist() == [
        "",
        "BraTS2021_00001/.BraTS2021_00001_t1ce.nii.gz; BraTS2021_00001/BraTS2021_00001_t1gd.nii.gz",
        "",
    ]
    printed = capsys.readouterr()
    assert "Image files that fitted no rule: atlas.MHA, 2 that macOS added" in printed.out
    assert "missmod: 4 image files fitted no rule and did not count: " in printed.err


def test_cases_that_share_a_folder_are_told_by_their_names(tmp_path):
    dataset = write_layout(tmp_path, "nnunet", cases=2)
    for name in ("case_01_t1.mha", ".case_01_0001.nii.gz", "case_010.mha", "other.nrrd"):
        (dataset / "imagesTr" / name).touch()
    assert read_source(dataset).unread == {
        "case_01": ("imagesTr/.case_01_0001.nii.gz", "imagesTr/case_01_t1.mha"),
        "": ("imagesTr/case_010.mha", "imagesTr/other.nrrd"),
    }


def test_images_in_folders_of_a_case_belong_to_it(tmp_path):
    write_wmh_case(tmp_path / "WMH" / "Utrecht" / "0")
    assert read_source(tmp_path / "WMH").unread == {
        "Utrecht_0": tuple(f"Utrecht/0/orig/{name}.nii.gz" for name in ("3DT1", "FLAIR", "T1"))
    }


def test_nothing_is_said_where_every_image_was_read(tmp_path, capsys):
    root = write_layout(tmp_path / "source", "brats2021")
    assert read_source(root).unread == {}
    convert(root, "-d", 5)
    assert "rule" not in "".join(capsys.readouterr())


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\rb", "=1+1", " a", "a ", "@a", "a\tb", "-1"])
def test_names_of_cases_that_can_be_no_file_s_are_an_error(tmp_path, raw, capsys, name):
    write_image(tmp_path / "source" / "x_flair.nii.gz", image("x", 0))
    (tmp_path / "source" / "x_flair.nii.gz").rename(tmp_path / "source" / f"{name}_flair.nii.gz")
    pattern = ["--layout", "pattern", "--pattern", "{case}_{modality}.nii.gz", "--modalities", "FLAIR=flair"]
    convert(tmp_path / "source", "-d", 5, *pattern, code=2)
    assert f"Expected a name for a case that can be a file's, got {name!r}" in capsys.readouterr().err
    assert not raw.exists()


@pytest.mark.parametrize("name", ["..", "=SUM", "a\0b", "T1+c", "a/b"])
def test_names_of_modalities_that_can_be_no_file_s_are_an_error(tmp_path, raw, capsys, name):
    dataset = write_layout(tmp_path / "source", "nnunet")
    text = (dataset / "dataset.json").read_text()
    (dataset / "dataset.json").write_text(text.replace('"T1"', json.dumps(name)))
    convert(dataset, "-d", 5, code=2)
    said = capsys.readouterr().err
    assert "Expected a name for a modality" in said or "expected channel_names.1 to be a name" in said
    assert not raw.exists()


def test_a_cell_that_would_be_a_formula_is_text(tmp_path, raw):
    root = write_layout(tmp_path / "source", "pattern", cases=2)
    for folder in ("patient_00", "patient_01"):
        for file in (root / folder).iterdir():
            file.rename(root / file.name)
        (root / folder).rmdir()
    (root / "=x").mkdir()
    for file in root.glob("patient_00_*"):
        file.rename(root / "=x" / file.name)
    (root / "=x" / "y.nii.gz").touch()
    convert(root, "-d", 5, "--layout", "pattern", "--pattern", "*/{case}_{modality}.nii.gz", "--modalities", "F=flair")
    assert table_of(raw)["unread"].tolist()[0].startswith("'=x/")


# --- the misnamed labels of 2020 --------------------------------------------------------------------------------------


def test_a_copy_of_the_misnamed_labels_under_the_right_name_is_accepted_if_it_is_one(tmp_path):
    root = write_layout(tmp_path, "brats2020")
    case = root / "BraTS20_Training_355"
    right = case / "BraTS20_Training_355_seg.nii"
    shutil.copy(case / "W39_1998.09.19_Segm.nii", right)
    source = read_source(root)
    assert source.cases[2].label == right
    assert source.unread == {"BraTS20_Training_355": ("BraTS20_Training_355/W39_1998.09.19_Segm.nii",)}
    write_image(right, labels((1, 2)))
    with pytest.raises(ValueError, match=r"labels of the case BraTS20_Training_355.*remove one"):
        read_source(root)


def test_a_brats_case_of_another_suffix_is_named(tmp_path):
    write_brats_case(tmp_path / "BraTS2021_00000", ("_flair", "_t1gd", "_seg"), (1, 2, 4), ".nii.gz")
    assert read_source(tmp_path).unread == {"BraTS2021_00000": ("BraTS2021_00000/BraTS2021_00000_t1gd.nii.gz",)}
