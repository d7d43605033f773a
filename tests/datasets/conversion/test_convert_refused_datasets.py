"""What is wrong with a whole dataset: nothing is written then."""

import os

import pytest
from small_cohort import ALONE, nothing_written, source_of, write_case

from nnunetv2_missmod.datasets.conversion import convert as convert_module
from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings, convert
from nnunetv2_missmod.datasets.layouts.brats import YEARS


@pytest.mark.parametrize("dataset_id", [0, -3, 1000])
def test_ids_that_nnunet_does_not_have(tmp_path, archive, dataset_id):
    nothing_written(tmp_path, "dataset id from 1 to 999", write_case(archive, "a"), dataset_id=dataset_id)


@pytest.mark.parametrize("name", ["", "a/b", "../up", "white space", ".hidden"])
def test_names_that_are_no_folder(tmp_path, archive, name):
    settings = ConversionSettings(name=name or " ", processes=1)
    nothing_written(tmp_path, "Expected a name", write_case(archive, "a"), settings=settings)


@pytest.mark.parametrize("taken", ["Dataset137_Small", "Dataset137_Other"])
def test_an_id_that_is_taken(tmp_path, archive, taken):
    (tmp_path / "raw" / taken).mkdir(parents=True)
    nothing_written(tmp_path, f"id 137 to be free, found .*{taken}", write_case(archive, "a"))


def test_an_id_that_is_taken_by_another_name_where_nnunet_preprocesses(tmp_path, archive):
    for name in ("Dataset137_Small", "Dataset1370_Other"):
        (tmp_path / "preprocessed" / name).mkdir(parents=True)
    convert(source_of(write_case(archive, "a")), tmp_path / "raw", 137, ALONE, [tmp_path / "preprocessed"])
    (tmp_path / "preprocessed" / "Dataset138_Other").mkdir()
    folders = [tmp_path / "preprocessed"]
    nothing_written(tmp_path, "to be free", write_case(archive, "b"), dataset_id=138, folders=folders)


def test_no_sound_case(tmp_path, archive):
    cases = write_case(archive, "a", values=(9,)), write_case(archive, "b", values=(8,))
    nothing_written(tmp_path, r"got none of 2\. a: .*got 9.*; b: ", *cases)


@pytest.mark.parametrize("processes", [1, 2])
def test_labels_of_another_release_than_the_layout_s(tmp_path, archive, processes):
    settings = ConversionSettings(processes=processes)
    cases = write_case(archive, "a", values=(1, 2, 3)), write_case(archive, "b", values=(1, 4))
    scheme = YEARS["brats2023-ped"].scheme
    nothing_written(tmp_path, r"got 4, as in the pediatric release of 2024", *cases, settings=settings, scheme=scheme)


def test_no_complete_case(tmp_path, archive):
    settings = ConversionSettings(complete_only=True, processes=1)
    nothing_written(tmp_path, "a: no T1c", write_case(archive, "a", ("FLAIR",)), settings=settings)


def test_a_modality_that_no_training_case_has(tmp_path, archive):
    cases = write_case(archive, "a", ("FLAIR",)), write_case(archive, "b", values=None)
    nothing_written(tmp_path, "got none with T1c", *cases)


def test_a_modality_that_only_refused_cases_have_is_said_with_their_reasons(tmp_path, archive):
    cases = write_case(archive, "a", ("FLAIR",)), write_case(archive, "b", values=(9,))
    nothing_written(tmp_path, r"got none with T1c.*These cases were refused: b: .*got 9", *cases)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_a_conversion_that_is_ended_leaves_nothing(tmp_path, archive, monkeypatch, stop):
    """Ended when all cases are written."""
    source = source_of(write_case(archive, "a"))

    def ended(*_):
        raise stop

    monkeypatch.setattr(convert_module, "write_table", ended)
    with pytest.raises(stop):
        convert(source, tmp_path / "raw", 137, ALONE)
    assert os.listdir(tmp_path / "raw") == []
