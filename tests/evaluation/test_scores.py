import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from math import nan

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from small_scores import provenance

from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import (
    DTYPES,
    RegionScores,
    append_case,
    case_table,
    open_scores,
    read_scores,
    write_scores,
)

SUBSETS, REGIONS = provenance().subsets, provenance().regions


def region(name, dice=0.1 + 0.2, hd95=nan):
    return RegionScores(name, dice, hd95, 1 / 3, nan, -1 / 7, 0.5, 30, 20, 10, 1000)


def rows(case, subsets=SUBSETS, dice=0.1 + 0.2):
    return case_table(case, {subset: [region(name, dice) for name in REGIONS] for subset in subsets}, SUBSETS)


def folder_of_scores(folder, *cases):
    table = open_scores(folder, provenance())
    for case in cases:
        table = append_case(folder, rows(case))
    return table


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_columns_are_those_of_the_contract_in_their_order():
    assert list(rows("a")) == [
        *("case", "subset", "num_present", "region"),
        *("dice", "hd95", "nsd", "sensitivity", "volume_error", "lesion_dice"),
        *("num_reference", "num_predicted", "num_true_positive", "num_voxels", "mean_probability", "predicted_volume"),
    ]


def test_a_case_has_a_row_per_subset_and_region_in_their_order():
    table = rows("a")
    assert table["subset"].tolist() == ["FLAIR", "FLAIR", "T1c", "T1c", "FLAIR+T1c", "FLAIR+T1c"]
    assert table["region"].tolist() == ["whole", "enhancing"] * 3
    assert table["num_present"].tolist() == [1, 1, 1, 1, 2, 2]
    assert set(table["case"]) == {"a"}


def test_no_case_has_the_types_of_many():
    assert case_table("a", {}, SUBSETS).dtypes.to_dict() == rows("a").dtypes.to_dict()
    assert {str(dtype) for dtype in rows("a").dtypes[4:10]} == {"float64"}
    assert {str(dtype) for dtype in rows("a").dtypes[10:14]} == {"int64"}
    assert {str(dtype) for dtype in rows("a").dtypes[14:]} == {"float64"}


def test_the_table_needs_no_network():
    code = (
        "import sys, nnunetv2_missmod.evaluation.nnunet_summary; sys.exit(bool({'torch', 'nnunetv2'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_to_the_last_digit(tmp_path):
    table = folder_of_scores(tmp_path, "a", "b")
    found = read_scores(tmp_path)
    assert_frame_equal(found.table, table, check_exact=True)
    assert found.provenance == provenance()
    assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), table, check_exact=True)


def test_plain_pandas_reads_the_csv(tmp_path):
    folder_of_scores(tmp_path, "a")
    assert list(pd.read_csv(tmp_path / "scores.csv")) == list(DTYPES)


@pytest.mark.parametrize("case", ["007", "1e5", "NA", "nan", "None", "a,b", 'a"b', "Fälle 1"])
def test_any_name_of_a_case_is_read_back(tmp_path, case):
    folder_of_scores(tmp_path, case)
    assert set(read_scores(tmp_path).table["case"]) == {case}


def test_undefined_scores_are_read_back_as_nan(tmp_path):
    folder_of_scores(tmp_path, "a")
    assert read_scores(tmp_path).table["hd95"].isna().all()


def test_provenance_is_plain_json(tmp_path):
    write_provenance(tmp_path, provenance())
    found = json.loads((tmp_path / "provenance.json").read_text())
    assert found == asdict(provenance())
    assert list(found["subsets"]) == list(SUBSETS)


def test_fields_that_a_later_version_adds_to_provenance_do_no_harm(tmp_path):
    folder_of_scores(tmp_path, "a")
    found = asdict(provenance()) | {"gpu": "H200"}
    (tmp_path / "provenance.json").write_text(json.dumps(found))
    assert read_scores(tmp_path).provenance == provenance()


def test_columns_that_a_user_adds_are_left_out(tmp_path):
    table = folder_of_scores(tmp_path, "a")
    table.assign(note="x")[["note", *DTYPES]].to_csv(tmp_path / "scores.csv", index=False)
    assert_frame_equal(read_scores(tmp_path).table, table, check_exact=True)


def test_writing_leaves_nothing_else_behind(tmp_path):
    folder_of_scores(tmp_path, "a", "b")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        ".lock",
        "provenance.json",
        "scores.csv",
        "scores.parquet",
    ]


# --- a killed run -----------------------------------------------------------------------------------------------------


def test_a_new_folder_has_no_finished_case(tmp_path):
    table = open_scores(tmp_path / "scores" / "dcseg", provenance())
    assert table.empty
    assert_frame_equal(read_scores(tmp_path / "scores" / "dcseg").table, table)


def test_a_killed_run_takes_up_its_finished_cases(tmp_path):
    table = folder_of_scores(tmp_path, "a", "b")
    again = open_scores(tmp_path, provenance(versions={"nnunetv2": "2.8.1"}))
    assert_frame_equal(again, table, check_exact=True)
    longer = append_case(tmp_path, rows("c"))
    assert set(longer["case"]) == {"a", "b", "c"}
    assert read_scores(tmp_path).table["case"].unique().tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("file", ["scores.parquet", "scores.csv", "provenance.json"])
def test_a_write_that_is_killed_midway_leaves_the_file_before(tmp_path, file, monkeypatch):
    folder_of_scores(tmp_path, "a")
    before = (tmp_path / file).read_bytes()

    replace_file = os.replace

    def killed(source, target):
        if target.name == file:
            raise KeyboardInterrupt
        replace_file(source, target)

    monkeypatch.setattr("nnunetv2_missmod.files.whole_files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        append_case(tmp_path, rows("b"))
        write_provenance(tmp_path, provenance())
    monkeypatch.undo()
    assert (tmp_path / file).read_bytes() == before
    finished = set(open_scores(tmp_path, provenance())["case"])
    assert finished == ({"a", "b"} if file == "provenance.json" else {"a"})


def test_a_run_killed_before_its_first_file_starts_anew(tmp_path):
    write_provenance(tmp_path, provenance(dataset="Dataset001_Other"))
    assert open_scores(tmp_path, provenance()).empty
    assert read_scores(tmp_path).provenance == provenance()


def test_a_case_that_lacks_modalities_has_the_rows_of_the_subsets_that_it_has(tmp_path):
    folder_of_scores(tmp_path, "a")
    append_case(tmp_path, rows("b", ["FLAIR"]))
    again = open_scores(tmp_path, provenance())
    assert again.groupby("case").size().to_dict() == {"a": 6, "b": 2}


def test_processes_that_share_a_folder_lose_no_case(tmp_path):
    folder_of_scores(tmp_path)
    cases = [f"case_{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda case: append_case(tmp_path, rows(case)), cases))
    assert set(read_scores(tmp_path).table["case"]) == set(cases)


def test_a_case_that_is_scored_again_replaces_its_rows(tmp_path):
    folder_of_scores(tmp_path, "a", "b")
    table = append_case(tmp_path, rows("a", dice=0.9))
    assert len(table) == 12
    assert (read_scores(tmp_path).table.query("case == 'a'")["dice"] == 0.9).all()


@pytest.mark.parametrize(
    "change",
    [{"checkpoint": "checkpoint_best.pth"}, {"min_voxels": {"enhancing": 500}}, {"hd95_convention": "medpy"}],
)
def test_the_scores_of_another_run_are_not_continued(tmp_path, change):
    folder_of_scores(tmp_path, "a")
    (name,) = change
    with pytest.raises(ValueError, match=rf"provenance.json.*{name}: .* there, .* now.*another folder"):
        open_scores(tmp_path, provenance(**change))
    assert read_scores(tmp_path).provenance == provenance()


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["scores.csv", "provenance.json"])
def test_a_missing_file_is_named(tmp_path, file):
    folder_of_scores(tmp_path, "a")
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=rf"{file} is missing. Run missmod evaluate -o {tmp_path}"):
        read_scores(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        read_scores(tmp_path / "nowhere")


def test_missing_columns_are_named(tmp_path):
    folder_of_scores(tmp_path, "a").drop(columns=["nsd", "region"]).to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"scores.csv: expected .* it lacks region, nsd. Run"):
        read_scores(tmp_path)


@pytest.mark.parametrize("content", ["", "case,subset\n", "\x00\x01"])
def test_a_file_that_is_no_table_is_named(tmp_path, content):
    folder_of_scores(tmp_path, "a")
    (tmp_path / "scores.csv").write_text(content)
    with pytest.raises(ValueError, match=r"scores.csv: expected a table with the columns case, "):
        read_scores(tmp_path)


def test_words_in_place_of_numbers_are_an_error(tmp_path):
    table = folder_of_scores(tmp_path, "a").astype({"dice": "object"})
    table.loc[2, "dice"] = "good"
    table.to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"scores.csv: .*good"):
        read_scores(tmp_path)


@pytest.mark.parametrize(("column", "known"), [("region", "whole, enhancing"), ("subset", r"FLAIR, T1c, FLAIR\+T1c")])
def test_unknown_regions_and_subsets_are_named(tmp_path, column, known):
    table = folder_of_scores(tmp_path, "a")
    table.loc[0, column] = "T7"
    table.to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(ValueError, match=rf"scores.csv: expected the {column}s .*{known}.* got T7. .*empty folder"):
        read_scores(tmp_path)


def test_rows_that_are_there_twice_are_an_error(tmp_path):
    table = folder_of_scores(tmp_path, "a")
    write_scores(tmp_path, pd.concat([table, table[1:2]]))
    with pytest.raises(ValueError, match="a / FLAIR / enhancing more than once"):
        read_scores(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "7", "null", '{"model": "a"}', json.dumps(list(asdict(provenance())))])
def test_a_provenance_that_is_none_is_named(tmp_path, content):
    folder_of_scores(tmp_path, "a")
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(ValueError, match=r"provenance.json: expected a JSON object with model, "):
        read_scores(tmp_path)
