import shutil
from pathlib import Path

import pytest
from small_layouts import names, values_in
from small_sources import image, write_image

from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout
from nnunetv2_missmod.datasets.layouts.recognition import LAYOUTS, read_source

KNOWN = [layout for layout in LAYOUTS if layout not in ("auto", "pattern")]


# --- every layout -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", KNOWN)
def test_a_layout_is_recognised_and_read_as_when_it_is_named(originals, layout):
    source = read_source(originals[layout])
    assert source.layout == layout
    assert source == read_source(originals[layout], layout)
    assert len(source.cases) == 3 and names(source) == sorted(names(source))


@pytest.mark.parametrize("layout", KNOWN)
def test_the_folder_may_be_one_above(originals, layout):
    assert names(read_source(originals[layout].parent)) == names(read_source(originals[layout]))


@pytest.mark.parametrize("layout", KNOWN)
def test_every_value_of_the_labels_is_in_the_scheme_and_the_other_way_round(originals, layout):
    source = read_source(originals[layout])
    assert values_in(source) == set(source.scheme.from_source)


@pytest.mark.parametrize("layout", KNOWN)
def test_the_scheme_is_one_that_nnunet_accepts(originals, layout):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    scheme = read_source(originals[layout]).scheme
    manager = LabelManager(dict(scheme.labels), scheme.regions_class_order or None)
    ignored = [manager.ignore_label] if manager.has_ignore_label else []
    assert sorted([*manager.all_labels, *ignored]) == sorted(set(scheme.from_source.values()))


@pytest.mark.parametrize("layout", KNOWN)
def test_the_way_back_to_the_source_undoes_the_way_here(originals, layout):
    scheme = read_source(originals[layout]).scheme
    assert {scheme.from_source[value]: value for value in scheme.from_source} == scheme.to_source()


@pytest.mark.parametrize("layout", KNOWN)
def test_images_are_named_by_modality_in_channel_order(originals, layout):
    source = read_source(originals[layout])
    for case in source.cases:
        assert list(case.images) == [modality for modality in source.modalities if modality in case.images]
    assert max(len(case.images) for case in source.cases) == len(source.modalities)


def test_what_is_no_layout_is_an_error_that_names_those_there_are():
    with pytest.raises(ValueError, match=r"brats2021.*wmh.*got 'brats2017'"):
        read_source(Path(), "brats2017")


def test_a_pattern_goes_with_its_layout_alone(originals):
    pattern = PatternLayout("{case}_{modality}.nii.gz", {"FLAIR": "flair"})
    for layout, given in (("pattern", None), ("auto", pattern), ("wmh", pattern)):
        with pytest.raises(ValueError, match="with --layout pattern"):
            read_source(originals["wmh"], layout, given)


def test_a_folder_that_is_none_is_an_error(tmp_path):
    for layout in KNOWN:
        with pytest.raises(ValueError, match=str(tmp_path / "no")):
            read_source(tmp_path / "no", layout)


def test_a_folder_without_volumes_is_an_error(tmp_path):
    (tmp_path / "brats.zip").touch()
    with pytest.raises(ValueError, match="Unpack"):
        read_source(tmp_path)


def test_what_is_not_recognised_says_how_to_go_on(tmp_path):
    write_image(tmp_path / "anna" / "flair.nii.gz", image("anna", 0))
    with pytest.raises(ValueError, match=r"anna/flair\.nii\.gz.*brats2018.*msd-task01.*--layout pattern.*\{case\}"):
        read_source(tmp_path)


@pytest.mark.parametrize("layout", KNOWN)
def test_a_layout_that_it_is_not_is_an_error(originals, layout):
    other = "wmh" if layout != "wmh" else "brats2021"
    with pytest.raises(ValueError, match="Expected"):
        read_source(originals[other], layout)


@pytest.mark.parametrize("others", [("brats2020", "brats2021"), ("brats2021", "wmh"), ("fets2022", "msd-task01")])
def test_two_layouts_in_a_folder_are_named(originals, tmp_path, others):
    for layout in others:
        shutil.copytree(originals[layout], tmp_path / originals[layout].name)
    with pytest.raises(ValueError, match="found ") as raised:
        read_source(tmp_path)
    assert all(layout in str(raised.value) for layout in others)
    assert read_source(tmp_path, others[0]).layout == others[0]


def test_hidden_files_and_those_of_macos_are_left_out(originals, tmp_path):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    for extra in ("__MACOSX/BraTS2021_00000/BraTS2021_00000_t1.nii.gz", ".Trash/BraTS2021_00009_t1.nii.gz"):
        write_image(root / extra, image("extra", 0))
    (root / "BraTS2021_00000" / "._BraTS2021_00000_t1.nii.gz").touch()
    (root / ".DS_Store").touch()
    assert names(read_source(root)) == names(read_source(originals["brats2021"]))


def test_links_to_cases_are_followed_and_circles_are_not(originals, tmp_path):
    case = next(originals["brats2021"].glob("BraTS2021_*"))
    (tmp_path / case.name).symlink_to(case)
    (tmp_path / "circle").symlink_to(tmp_path)
    assert names(read_source(tmp_path)) == [case.name]


def test_a_folder_relative_to_the_current_one(originals, monkeypatch):
    for layout in ("wmh", "brats2023-ped", "nnunet"):
        monkeypatch.chdir(originals[layout])
        assert read_source(Path()) == read_source(originals[layout])
