"""Tables of missing modalities: read in the forms that are published, drawn at rates, applied by `missmod convert`."""

import json
from collections import Counter

import pandas as pd
import pytest
from small_cohort import hashes, read, source_of
from small_conversion import convert, dataset_of, failure
from small_sources import write_layout

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets.conversion.availability import (
    PublishedTable,
    read_availability,
    said_of,
    without_absent,
    write_availability,
)
from nnunetv2_missmod.datasets.conversion.draw_availability import draw_availability
from nnunetv2_missmod.datasets.layouts.source import ImageFile, SourceCase

MODALITIES = ("FLAIR", "T1", "T1c", "T2")
pytestmark = pytest.mark.usefixtures("folders")


def source(*names, modalities=MODALITIES, has=MODALITIES):
    cases = [SourceCase(name, name, {m: ImageFile(f"{name}_{m}.nii.gz") for m in has}, None) for name in names]
    return source_of(*cases, modalities=modalities)


@pytest.fixture
def kept_by(tmp_path):
    """What a table's text leaves each case of a source."""

    def read_text(text, *names, order=(), **of_source):
        (tmp_path / "table.csv").write_text(text, encoding="utf-8")
        return read_availability(PublishedTable(tmp_path / "table.csv", order), source(*names, **of_source))

    return read_text


# --- forms of a table -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "case,FLAIR,T1,T1c,T2\na,1,0,0,1\nb,0,1,1,1\n",
        "T2,case,T1c,T1,FLAIR\n1,a,0,0,1\n1,b,1,1,0\n",
        "\ufeffCase_ID;flair;t1;T1C;t2\r\na;True;false;FALSE;true\r\n\r\nb; 0;1 ;1;1\r\n",
        "name\tFLAIR\tT1\tT1c\tT2\na\t1\t0\t0\t1\nfolder/b/\t0\t1\t1\t1\n",
    ],
)
def test_a_column_for_every_modality(text, kept_by):
    assert kept_by(text, "a", "b", "c") == {"a": ("FLAIR", "T2"), "b": ("T1", "T1c", "T2")}


@pytest.mark.parametrize(
    "mask", ["1001", "1 0 0 1", '"1,0,0,1"', '"[True, False, False, True]"', "[ True False False  True]"]
)
def test_a_column_of_masks_in_the_order_that_is_given(mask, kept_by):
    text = f"data_name,mask_id,mask\na,8,{mask}\n"
    assert kept_by(text, "a", order=MODALITIES) == {"a": ("FLAIR", "T2")}
    assert kept_by(text, "a", order=["t1", "T1c", "FLAIR", "T2"]) == {"a": ("T1", "T2")}


def test_passions_table_of_brats_2020_is_read(kept_by):
    """Its lines as published: another order of modalities, and names that begin with the grade."""
    text = (
        "data_name,mask_id,mask,pos_mask_ids\n"
        'HG_BraTS20_Training_004,10,"[True, True, True, False]","[1, 2, 3, 5, 6, 9, 10]"\n'
        'LG_BraTS20_Training_294,1,"[False, True, False, False]",[1]\n'
    )
    names = ("BraTS20_Training_004", "BraTS20_Training_294", "BraTS20_Training_300")
    assert kept_by(text, *names, order=["FLAIR", "T1c", "T1", "T2"]) == {
        "BraTS20_Training_004": ("FLAIR", "T1", "T1c"),
        "BraTS20_Training_294": ("T1c",),
    }


def test_capital_letters_count_where_they_tell_modalities_apart(kept_by):
    assert kept_by("case,T1,t1\na,1,0\n", "a", modalities=("t1", "T1"), has=("t1", "T1")) == {"a": ("T1",)}


# --- what is wrong with a table ---------------------------------------------------------------------------------------

HEADER = "case,FLAIR,T1,T1c,T2\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            HEADER + "a,1,0,0,1\nz,1,1,1,1\n",
            "got z, of which the source has none. Its cases are called as a and 1 more",
        ),
        (HEADER + "a,1,0,0,1\na,1,1,1,1\n", "Expected each case once, got a again in line 3"),
        (HEADER + "a,1,0,0,1\nx_a,1,1,1,1\n", "Expected each case once, got a again in line 3"),
        (HEADER + "a,0,0,0,0\n", "Expected at least one modality for a, got none in line 2"),
        (HEADER + "a,1,0,2,1\n", "Expected 1 or 0, or True or False, as T1c in line 2 .*got '2'"),
        (HEADER + "a,1,0,,1\n", "as T1c in line 2 .*got ''"),
        (HEADER + "a,1,0,1\n", "Expected 5 cells in line 2 .*got 4"),
        (HEADER, "got 1 lines"),
        ("", "got 0 lines"),
        ("case,FLAIR,T1,T1c\na,1,0,0\n", "a column of 0 and 1 for each of FLAIR, T1, T1c, T2"),
        ("case,FLAIR,T1,T1c,T2,ADC\na,1,0,0,1,1\n", "got FLAIR, T1, T1c, T2, ADC"),
        ("case,FLAIR,T1,T1,T2\na,1,0,0,1\n", "'T1' twice"),
        ("patient,FLAIR,T1,T1c,T2\na,1,0,0,1\n", "Expected a column of cases"),
        ("case,mask\na,1001\n", "Expected the order of the modalities.*got none.*--mask_order FLAIR T1 T1c T2"),
    ],
)
def test_a_table_that_is_not_understood_is_an_error(text, said, kept_by):
    with pytest.raises(ValueError, match=said):
        kept_by(text, "a", "b")


@pytest.mark.parametrize(
    ("mask", "order", "said"),
    [
        ("101", MODALITIES, "Expected 4 marks .* in line 2 .*got '101'"),
        ("1 0 1 0 1", MODALITIES, "Expected 4 marks"),
        ("1021", MODALITIES, "got '2'"),
        ("1001", ("FLAIR", "T1", "T2"), "got FLAIR T1 T2. Give each once"),
        ("1001", ("FLAIR", "T1", "T1", "T2"), "got FLAIR T1 T1 T2. Give each once"),
        ("1001", ("FLAIR", "T1", "ADC", "T2"), "got FLAIR T1 ADC T2. Give each once"),
    ],
)
def test_a_mask_that_is_not_understood_is_an_error(mask, order, said, kept_by):
    with pytest.raises(ValueError, match=said):
        kept_by(f"case,mask\na,{mask}\n", "a", order=order)


def test_an_order_without_masks_is_an_error(kept_by):
    with pytest.raises(ValueError, match="Expected a column mask"):
        kept_by(HEADER + "a,1,0,0,1\n", "a", order=MODALITIES)


def test_a_prefix_that_fits_two_cases_is_an_error(kept_by):
    with pytest.raises(ValueError, match="got HG_b_1, of which the source has none"):
        kept_by(HEADER + "HG_b_1,1,0,0,1\n", "b_1", "1")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00c", b'case,T1\n"' + b"a" * 200_000])
def test_a_file_that_is_no_table_is_an_error(content, tmp_path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match="Expected a"):
        read_availability(PublishedTable(tmp_path / "table.csv"), source("a"))


# --- what a table does ------------------------------------------------------------------------------------------------


def test_listed_cases_lose_files_and_others_keep_theirs(kept_by):
    before = source("a", "b")
    kept = kept_by(HEADER + "a,1,0,0,1\n", "a", "b")
    after = without_absent(before, kept)
    assert [tuple(case.images) for case in after.cases] == [("FLAIR", "T2"), MODALITIES]
    assert after.cases[0].images["T2"] == before.cases[0].images["T2"]
    assert said_of(before, kept) == ["Cases that the table lists: 1; cases that it does not list, and that keep all: 1"]


def test_cases_that_are_incomplete_already_are_said_and_may_not_end_up_bare():
    half = source("a", has=("FLAIR", "T1"))
    assert "lack files of modalities that the table leaves them: a" in said_of(half, {"a": ("FLAIR", "T2")})[1]
    assert tuple(without_absent(half, {"a": ("FLAIR", "T2")}).cases[0].images) == ("FLAIR",)
    with pytest.raises(ValueError, match="got none for a: such cases are incomplete already"):
        without_absent(half, {"a": ("T2",)})


def test_a_written_table_is_read_back(tmp_path, kept_by):
    kept = {"b": ("T1", "T2"), "a": ("FLAIR",)}
    write_availability(tmp_path / "written.csv", kept, MODALITIES)
    assert (tmp_path / "written.csv").read_text() == HEADER + "b,0,1,0,1\na,1,0,0,0\n"
    assert kept_by((tmp_path / "written.csv").read_text(), "a", "b") == kept


# --- drawing ----------------------------------------------------------------------------------------------------------

NAMES = [f"case_{number:03d}" for number in range(50)]


def absent_in(drawn):
    return {name: sum(name not in kept for kept in drawn.values()) for name in MODALITIES}


@pytest.mark.parametrize("seed", range(3))
def test_as_many_cases_lack_a_modality_as_its_rate_asks_for(seed):
    drawn = draw_availability(NAMES, MODALITIES, {"FLAIR": 0.2, "T1": 0.41, "T1c": 0.6, "T2": 0.8}, seed)
    assert list(drawn) == NAMES
    assert absent_in(drawn) == {"FLAIR": 10, "T1": 21, "T1c": 30, "T2": 40}
    assert all(drawn.values())
    assert [kept for kept in drawn.values() if list(kept) != [m for m in MODALITIES if m in kept]] == []


def test_the_highest_rates_that_leave_every_case_one():
    drawn = draw_availability(NAMES[:8], MODALITIES, dict.fromkeys(MODALITIES, 0.75))
    assert absent_in(drawn) == dict.fromkeys(MODALITIES, 6)
    assert Counter(len(kept) for kept in drawn.values()) == {1: 8}


def test_modalities_without_a_rate_are_kept_and_are_taken_apart_from_each_other():
    drawn = draw_availability(NAMES, MODALITIES, {"T1": 0.5, "T1c": 0.5})
    assert absent_in(drawn) == {"FLAIR": 0, "T1": 25, "T1c": 25, "T2": 0}
    assert len(set(drawn.values())) == 4  # both, one or the other, none


def test_a_seed_draws_the_same_again_and_another_something_else():
    rates = {"T1": 0.5}
    assert draw_availability(NAMES, MODALITIES, rates, 1) == draw_availability(NAMES, MODALITIES, rates, 1)
    assert draw_availability(NAMES, MODALITIES, rates, 1) != draw_availability(NAMES, MODALITIES, rates, 2)


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"ADC": 0.5}, "Expected rates of FLAIR, T1, T1c, T2, got one of ADC"),
        ({"T1": 1.0}, "from 0 to below 1, got T1=1.0"),
        ({"T1": -0.1}, "got T1=-0.1"),
        ({"T1": float("nan")}, "got T1=nan"),
        ({"T1": 0.995}, "leaves T1 to none"),
        (dict.fromkeys(MODALITIES, 0.8), "at most 150 absent files, got 160"),
    ],
)
def test_rates_that_cannot_be_are_an_error(rates, said):
    with pytest.raises(ValueError, match=said):
        draw_availability(NAMES, MODALITIES, rates)


# --- whole commands ---------------------------------------------------------------------------------------------------


def test_a_drawn_table_makes_a_dataset_that_lacks_those_files(tmp_path, preprocessed, fingerprints, capsys):
    archive = write_layout(tmp_path / "source", "brats2021")
    before = hashes(archive)
    convert(archive, "-d", 137)
    complete, table = dataset_of(tmp_path), tmp_path / "table.csv"
    capsys.readouterr()
    assert main(["availability", "-d", "137", "--rates", "FLAIR=0.4", "T1=0.7", "-o", str(table), "--seed", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "FLAIR: absent from 1 of 3 cases (rate 0.4)",
        "T1: absent from 2 of 3 cases (rate 0.7)",
        "T1c: absent from 0 of 3 cases (rate 0)",
        "T2: absent from 0 of 3 cases (rate 0)",
    ]
    assert said[-1] == str(table)
    convert(complete, "-d", 138, "--availability", table)
    incomplete = dataset_of(tmp_path, 138)
    assert (incomplete / "availability.csv").read_text() == table.read_text()
    kept = pd.read_csv(table, index_col="case")
    for case in kept.index:
        for channel, modality in enumerate(kept.columns):
            file = f"imagesTr/{case}_{channel:04d}.nii.gz"
            expected = read(complete / file) * kept.loc[case, modality]
            assert (read(incomplete / file) == expected).all()
    subsets = pd.read_csv(incomplete / "conversion.csv", index_col="case")["subset"].to_dict()
    assert subsets == {case: "+".join(kept.columns[kept.loc[case] == 1]) for case in kept.index}
    assert "Cases that the table lists: 3; cases that it does not list, and that keep all: 0" in capsys.readouterr().out
    assert fingerprints == [("Dataset138_BraTS2021", [])]
    assert hashes(archive) == before


def test_masks_are_converted_by_in_their_order(tmp_path, capsys):
    archive = write_layout(tmp_path / "source", "brats2021")
    (tmp_path / "table.csv").write_text("case,mask\nHG_BraTS2021_00001,0100\n")
    flags = ["--availability", tmp_path / "table.csv", "--mask_order", "FLAIR", "T1c", "T1", "T2"]
    convert(archive, "-d", 137, *flags)
    table = pd.read_csv(dataset_of(tmp_path) / "conversion.csv", index_col="case")
    assert table["subset"].tolist() == ["FLAIR+T1+T1c+T2", "T1c", "FLAIR+T1+T1c+T2"]
    assert (dataset_of(tmp_path) / "availability.csv").read_text() == HEADER + "BraTS2021_00001,0,0,1,0\n"
    assert "that keep all: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--availability", "none.csv"], "which is no file"),
        (["--mask_order", "T1"], "Expected --availability with --mask_order"),
        (["--availability", "table.csv", "--complete-only"], "Expected one of --availability and --complete-only"),
        (["--availability", "table.csv", "--mask_order", "T1"], "got T1. Give each once"),
    ],
)
def test_flags_that_cannot_be_write_nothing(flags, said, tmp_path, monkeypatch, capsys):
    archive = write_layout(tmp_path / "source", "brats2021")
    (tmp_path / "table.csv").write_text("case,mask\nBraTS2021_00001,0100\n")
    (tmp_path / "raw").mkdir()
    monkeypatch.chdir(tmp_path)
    assert said in failure(capsys, tmp_path, archive, "-d", 137, *flags)


def test_no_file_is_taken_from_a_dataset_in_place(dataset, tmp_path, capsys):
    (tmp_path / "table.csv").write_text("case,FLAIR,T1\ncase_00,1,0\n")
    said = failure(capsys, tmp_path, dataset, "-d", 42, "--availability", tmp_path / "table.csv")
    assert "Expected another -d with --name, --copy, --complete-only or --availability" in said


def drawing_fails(tmp_path, capsys, *arguments):
    before = sorted(tmp_path.rglob("*"))
    assert main(["availability", *map(str, arguments)]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    return capsys.readouterr().err


@pytest.mark.parametrize("rates", [["T1"], ["=0.5"], ["T1=much"], ["T1=0.2", "T1=0.4"], ["T1=-1"]])
def test_rates_that_are_not_understood_are_said(rates, dataset, tmp_path, capsys):
    said = drawing_fails(tmp_path, capsys, "-d", 42, "-o", tmp_path / "out.csv", "--rates", *rates)
    assert "Expected --rates NAME=RATE, each name once" in said


def test_a_table_is_drawn_for_complete_cases_and_over_no_other_file(dataset, tmp_path, capsys):
    flags = ["-d", 42, "--rates", "T1=0.4", "-o"]
    assert "got case_01 in" in drawing_fails(tmp_path, capsys, *flags, tmp_path / "out.csv")
    convert(dataset, "-d", 42)  # the missing file is there now, and full of zeros
    assert "got case_01 in" in drawing_fails(tmp_path, capsys, *flags, tmp_path / "out.csv")
    (tmp_path / "mine.csv").write_text("mine")
    assert "Expected no file yet" in drawing_fails(tmp_path, capsys, *flags, tmp_path / "mine.csv")
    assert "Expected a --seed of 0 or more" in drawing_fails(
        tmp_path, capsys, *flags, tmp_path / "out.csv", "--seed", -1
    )


def test_an_unknown_dataset_or_variable_is_said(dataset, tmp_path, monkeypatch, capsys):
    flags = ["--rates", "T1=0.4", "-o", tmp_path / "out.csv"]
    assert "Expected one dataset 7" in drawing_fails(tmp_path, capsys, "-d", 7, *flags)
    monkeypatch.delenv("nnUNet_raw")
    assert "Expected the variable nnUNet_raw" in drawing_fails(tmp_path, capsys, "-d", 42, *flags)


def test_the_dataset_says_nothing_of_a_table_that_there_was_not(tmp_path):
    convert(write_layout(tmp_path / "source", "brats2021"), "-d", 137)
    assert not (dataset_of(tmp_path) / "availability.csv").exists()
    assert json.loads((dataset_of(tmp_path) / "dataset.json").read_text())["numTraining"] == 3
