import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_sources import image, labels, write_brats_case, write_image, write_layout, write_wmh_case

from nnunetv2_missmod.datasets.layouts.pattern import PatternLayout
from nnunetv2_missmod.datasets.layouts.recognition import LAYOUTS, read_source

FOUR = ("FLAIR", "T1", "T1c", "T2")
BRATS = [layout for layout in LAYOUTS if layout.startswith(("brats", "fets"))]
KNOWN = [layout for layout in LAYOUTS if layout not in ("auto", "pattern")]
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A copy of each layout, to be read only: the folder that its archive unpacks to."""
    folder = tmp_path_factory.mktemp("layouts")
    return {layout: write_layout(folder / layout, layout) for layout in KNOWN}


def names(source):
    return [case.name for case in source.cases]


def values_in(source):
    files = [case.label for case in source.cases]
    return {int(value) for file in files for value in np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))}


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


# --- BraTS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", BRATS)
def test_brats_converts_to_the_labels_of_nnunets_own_conversion(originals, layout):
    source = read_source(originals[layout])
    assert source.modalities == FOUR
    enhancing = 3 if "2023" in layout or "2024" in layout else 4
    assert {2: 1, 1: 2, enhancing: 3}.items() <= source.scheme.from_source.items()
    assert REGIONS.items() <= dict(source.scheme.labels).items()
    assert source.scheme.regions_class_order[:3] == (1, 2, 3)


def test_the_resection_cavity_is_no_tumour(originals):
    scheme = read_source(originals["brats2024-gli"]).scheme
    assert scheme.from_source[4] == 4 and scheme.regions_class_order == (1, 2, 3, 4)
    assert scheme.labels == {**REGIONS, "resection cavity": [4]}


@pytest.mark.parametrize(
    ("layout", "case", "subject"),
    [
        ("brats2018", "Brats18_2013_1_1", "Brats18_2013_1"),
        ("brats2019", "BraTS19_TCIA01_131_1", "BraTS19_TCIA01_131"),
        ("brats2020", "BraTS20_Training_354", "BraTS20_Training_354"),
        ("brats2021", "BraTS2021_00001", "BraTS2021_00001"),
        ("fets2022", "FeTS2022_00001", "FeTS2022_00001"),
        ("brats2023-met", "BraTS-MET-00000-001", "BraTS-MET-00000"),
        ("brats2024-gli", "BraTS-GLI-00000-101", "BraTS-GLI-00000"),
    ],
)
def test_subjects_of_brats_are_told_by_their_names(originals, layout, case, subject):
    assert {found.name: found.subject for found in read_source(originals[layout]).cases}[case] == subject


def test_each_modality_is_its_file(originals):
    for layout, ends in (
        ("brats2018", ("_flair", "_t1", "_t1ce", "_t2", "_seg")),
        ("brats2023-gli", ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")),
    ):
        case = read_source(originals[layout]).cases[0]
        files = [case.images[modality].file.name for modality in FOUR] + [case.label.name]
        assert files == [f"{case.name}{end}.nii.gz" for end in ends]
        assert all(image.volume is None for image in case.images.values())


def test_the_labels_that_the_archive_misnames_are_found(originals):
    case = read_source(originals["brats2020"]).cases[2]
    assert case.name == "BraTS20_Training_355" and case.label.name == "W39_1998.09.19_Segm.nii"


def test_a_grade_or_a_case_alone_can_be_read(originals):
    root = originals["brats2018"]
    assert names(read_source(root / "LGG")) == ["Brats18_2013_1_1"]
    assert names(read_source(root / "LGG" / "Brats18_2013_1_1")) == ["Brats18_2013_1_1"]


def test_cases_without_labels_are_not_for_training(tmp_path, originals):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    (root / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz").unlink()
    first, second, _ = read_source(root).cases
    assert first.is_training and first.label
    assert not second.is_training and second.label is None and len(second.images) == 4


def test_a_case_may_lack_modalities(tmp_path, originals):
    root = shutil.copytree(originals["brats2023-gli"], tmp_path / "root")
    for end in ("t2f", "t1c"):
        (root / "BraTS-GLI-00000-001" / f"BraTS-GLI-00000-001-{end}.nii.gz").unlink()
    case = read_source(root).cases[1]
    assert list(case.images) == ["T1", "T2"] and case.is_training


def test_a_case_in_two_places_is_an_error_that_names_both(tmp_path, originals):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    shutil.copytree(root / "BraTS2021_00001", root / "copy" / "BraTS2021_00001")
    with pytest.raises(ValueError, match=r"BraTS2021_00001 once.*root/BraTS2021_00001.*root/copy/BraTS2021_00001"):
        read_source(root)


def test_labels_in_another_folder_are_no_labels_of_the_case(tmp_path, originals):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    (root / "masks").mkdir()
    (root / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz").rename(root / "masks" / "BraTS2021_00001_seg.nii.gz")
    with pytest.raises(ValueError, match="masks"):
        read_source(root)


def test_a_file_packed_and_unpacked_is_an_error_that_names_both(tmp_path, originals):
    root = shutil.copytree(originals["brats2021"], tmp_path / "root")
    write_image(root / "BraTS2021_00001" / "BraTS2021_00001_t1ce.nii", image("twice", 0))
    with pytest.raises(ValueError, match=r"T1c of the case BraTS2021_00001.*_t1ce\.nii and .*_t1ce\.nii\.gz"):
        read_source(root)


def test_gliomas_of_2023_among_those_after_treatment_are_read_with_them(tmp_path, originals):
    for layout in ("brats2023-gli", "brats2024-gli"):
        shutil.copytree(originals[layout], tmp_path / layout)
    source = read_source(tmp_path)
    assert source.layout == "brats2024-gli" and len(source.cases) == 6
    assert {case.subject for case in source.cases} == {"BraTS-GLI-00000", "BraTS-GLI-00001"}
    assert len(read_source(tmp_path, "brats2023-gli").cases) == 3


def test_pediatric_cases_must_say_that_they_are_of_2023(tmp_path, originals):
    unsaid = shutil.copytree(originals["brats2023-ped"], tmp_path / "PED")
    with pytest.raises(ValueError, match=r"2023.*--layout brats2023-ped"):
        read_source(unsaid)
    assert len(read_source(unsaid, "brats2023-ped").cases) == 3


# --- Decathlon, WMH ---------------------------------------------------------------------------------------------------


def change_description(root, **changes):
    file = root / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_volumes_and_values_of_the_decathlon_are_found_by_name(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    case = read_source(root).cases[0]
    assert {modality: image.volume for modality, image in case.images.items()} == dict(zip(FOUR, range(4), strict=True))
    change_description(
        root,
        modality={"0": "T2w", "1": "FLAIR", "2": "T1w", "3": "t1gd"},
        labels={"0": "background", "1": "enhancing tumour", "2": "edema", "3": "non-enhancing tumor"},
    )
    source = read_source(root)
    volumes = {modality: image.volume for modality, image in source.cases[0].images.items()}
    assert volumes == {"FLAIR": 1, "T1": 2, "T1c": 3, "T2": 0}
    assert source.scheme.from_source == {0: 0, 2: 1, 3: 2, 1: 3}


@pytest.mark.parametrize("entry", [["FLAIR"], {"zero": "FLAIR"}, 5])
def test_a_decathlon_whose_description_cannot_be(tmp_path, entry):
    root = write_layout(tmp_path, "msd-task01")
    change_description(root, modality=entry)
    with pytest.raises(ValueError, match="Expected modality such as"):
        read_source(root, "msd-task01")


def test_test_images_of_the_decathlon_are_not_for_training(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    write_image(root / "imagesTs" / "BRATS_485.nii.gz", np.stack([image("485", n) for n in range(4)]))
    case = read_source(root).cases[-1]
    assert (case.name, case.is_training, case.label) == ("BRATS_485", False, None)


def test_another_task_of_the_decathlon_is_an_error(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    change_description(root, modality={"0": "T2", "1": "ADC"})
    with pytest.raises(ValueError, match=r"t1gd.*t2, adc.*nnUNetv2_convert_MSD_dataset"):
        read_source(root)


def test_the_decathlon_as_nnunet_v1_has_it_is_an_error(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    write_image(root / "imagesTr" / "BRATS_001_0000.nii.gz", image("v1", 0))
    with pytest.raises(ValueError, match="nnUNetv2_convert_old_nnUNet_dataset"):
        read_source(root)


def test_a_decathlon_without_images_is_an_error(tmp_path):
    root = write_layout(tmp_path, "msd-task01")
    shutil.rmtree(root / "imagesTr")
    with pytest.raises(ValueError, match="imagesTr"):
        read_source(root)


def test_wmh_reads_the_aligned_images_and_ignores_other_pathology(originals):
    source = read_source(originals["wmh"])
    assert names(source) == ["GE3T_100", "Singapore_50", "Utrecht_0"]
    assert {image.file.parent.name for case in source.cases for image in case.images.values()} == {"pre"}
    assert source.scheme.labels == {"background": 0, "white matter hyperintensity": 1, "ignore": 2}


def test_the_later_archive_of_wmh_has_the_same_names_and_test_cases(tmp_path):
    for place in (
        "training/Utrecht/0",
        "training/Amsterdam/GE3T/100",
        "test/Amsterdam/GE1T5/150",
        "test/Amsterdam/Philips_VU .PETMR_01./160",
        "test/Singapore/70",
    ):
        write_wmh_case(tmp_path / "WMH" / place)
    write_image(tmp_path / "WMH/additional_annotations/observer_o3/training/Utrecht/0/result.nii.gz", labels((1, 2)))
    source = read_source(tmp_path / "WMH")
    assert {case.name: case.is_training for case in source.cases} == {
        "GE1T5_150": False,
        "GE3T_100": True,
        "Philips_VU_PETMR_01_160": False,
        "Singapore_70": False,
        "Utrecht_0": True,
    }
    assert all(case.label for case in source.cases)
    assert names(read_source(tmp_path / "WMH" / "test" / "Singapore")) == ["Singapore_70"]


def test_folders_that_are_like_those_of_wmh_are_not_taken_for_them(tmp_path):
    for name in ("pre/FLAIR.nii.gz", "pre/T1.nii.gz", "pre/IR.nii.gz", "segm.nii.gz"):  # MRBrainS18
        write_image(tmp_path / "training" / "1" / name, image(name, 0))
    with pytest.raises(ValueError, match="known layout"):
        read_source(tmp_path)


def test_wmh_without_labels_can_be_named(tmp_path):
    write_wmh_case(tmp_path / "Utrecht" / "0")
    (tmp_path / "Utrecht" / "0" / "wmh.nii.gz").unlink()
    case = read_source(tmp_path, "wmh").cases[0]
    assert case.label is None and not case.is_training and list(case.images) == ["FLAIR", "T1"]


def test_a_case_of_both_archives_of_wmh_is_an_error(tmp_path):
    for place in ("old/Utrecht/0", "new/training/Utrecht/0"):
        write_wmh_case(tmp_path / place)
    with pytest.raises(ValueError, match="Utrecht_0 once"):
        read_source(tmp_path)


# --- nnU-Net ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    return write_layout(tmp_path, "nnunet")


def test_an_nnunet_dataset_keeps_its_labels_and_says_what_is_missing(dataset):
    source = read_source(dataset)
    assert source.name == "Lesions" and source.modalities == ("FLAIR", "T1")
    assert source.scheme.from_source == {0: 0, 1: 1, 2: 2}
    assert source.scheme.labels == {"background": 0, "lesion": 1, "ignore": 2}
    assert [list(case.images) for case in source.cases] == [["FLAIR", "T1"], ["FLAIR"], ["FLAIR", "T1"]]


def test_an_nnunet_dataset_with_regions(dataset):
    change_description(dataset, labels={"background": 0, "all": [1, 2], "core": [2]}, regions_class_order=[1, 2])
    scheme = read_source(dataset).scheme
    assert scheme.labels["all"] == [1, 2] and scheme.regions_class_order == (1, 2)


def test_test_cases_of_an_nnunet_dataset_may_have_labels(dataset):
    for case, channels in (("test_1", (0, 1)), ("test_2", (1,))):
        for channel in channels:
            write_image(dataset / "imagesTs" / f"{case}_{channel:04d}.nii.gz", image(case, channel))
    write_image(dataset / "labelsTs" / "test_1.nii.gz", labels((1,)))
    first, second = read_source(dataset).cases[-2:]
    assert first.label and not first.is_training
    assert second.label is None and list(second.images) == ["T1"] and not second.is_training


@pytest.mark.parametrize("name", ["case_00_0002.nii.gz", "case_00.nii.gz", "case_00_2.nii.gz"])
def test_a_file_that_is_no_channel_is_named(dataset, name):
    write_image(dataset / "imagesTr" / name, image("more", 0))
    with pytest.raises(ValueError, match=rf"_0000 to _0001.*{name}"):
        read_source(dataset)


def test_a_case_of_nnunet_in_both_parts_is_an_error(dataset):
    shutil.copytree(dataset / "imagesTr", dataset / "imagesTs")
    with pytest.raises(ValueError, match=r"case_00 once.*imagesTr.*imagesTs"):
        read_source(dataset)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": {"case_00": {"images": [], "label": ""}}}, NotImplementedError, "imagesTr"),
        ({"file_ending": ".png"}, NotImplementedError, r"\.png"),
        ({"file_ending": ".mha"}, ValueError, r"case_0000\.mha"),
        ({"channel_names": {"0": "MRI", "1": "MRI"}}, ValueError, "MRI twice"),
        ({"channel_names": {"1": "FLAIR", "2": "T1"}}, ValueError, "names of the channels 0 to 1"),
        ({"labels": {"0": "background", "1": "lesion"}}, ValueError, "labels.0 to be a whole number"),
        ({"labels": ["background", "lesion"]}, ValueError, "labels to be keys with values"),
        ({"labels": {"lesion": 1}}, ValueError, "labels.background to be 0, got None"),
        ({"labels": {"background": 0, "all": [1, 2]}}, ValueError, "regions_class_order"),
        ({"labels": {"background": 0, "ignore": [1]}}, ValueError, "ignore to be one label"),
        ({"channel_names": ["FLAIR", "T1"]}, ValueError, "channel_names to be"),
        ({"channel_names": {"zero": "FLAIR"}}, ValueError, "channel_names to be"),
        ({"channel_names": {"0": 1}}, ValueError, "channel_names.0 to be a name"),
        ({"file_ending": 5}, ValueError, "file_ending to be"),
        ({"file_ending": "/../x"}, ValueError, "file_ending to be"),
        ({"regions_class_order": "1"}, ValueError, "regions_class_order to be"),
        ({"overwrite_image_reader_writer": 5}, ValueError, "overwrite_image_reader_writer to be"),
    ],
)
def test_what_a_dataset_json_may_not_say(dataset, changes, error, message):
    change_description(dataset, **changes)
    with pytest.raises(error, match=message):
        read_source(dataset)


@pytest.mark.parametrize("text", ["{", "[]", '{"channel_names": {"0": "FLAIR"}}', '{"labels": {}}'])
def test_a_dataset_json_that_is_none(dataset, text):
    (dataset / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"(?i)expected.*dataset\.json|dataset\.json: expected"):
        read_source(dataset, "nnunet")


def test_labels_may_be_numbers_in_quotes_as_nnunet_takes_them(dataset):
    expected = read_source(dataset).scheme
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    change_description(dataset, labels={name: str(label) for name, label in labels.items()})
    assert read_source(dataset).scheme == expected


def test_two_nnunet_datasets_in_a_folder_are_an_error(dataset):
    shutil.copytree(dataset, dataset.parent / "Dataset043_Others")
    with pytest.raises(ValueError, match=r"Dataset042_Lesions.*Dataset043_Others"):
        read_source(dataset.parent)


def test_a_brats_case_of_other_modalities_keeps_those_that_are_known(tmp_path):
    write_brats_case(tmp_path / "BraTS2021_00000", ("_flair", "_t1gd", "_seg"), (1, 2, 4), ".nii.gz")
    assert list(read_source(tmp_path).cases[0].images) == ["FLAIR"]
