import math

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from small_scores import calibration_table, provenance

from nnunetv2_missmod.evaluation.calibration_table import DTYPES, read_calibration, write_calibration


def written(folder, **columns):
    """A table with some columns replaced."""
    table = calibration_table(cases=2, modalities=("FLAIR", "T1c"), regions=("whole", "enhancing")).assign(**columns)
    write_calibration(folder, table)
    return table


def test_what_is_written_is_read_back_to_the_last_digit(tmp_path):
    table = written(tmp_path)
    table.loc[3, ["dice", "expected_dice"]] = math.nan
    write_calibration(tmp_path, table.assign(note="x"))
    assert_frame_equal(read_calibration(tmp_path, provenance()), table, check_exact=True)
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.csv"]
    assert list(pd.read_csv(tmp_path / "calibration.csv")) == list(DTYPES)


def test_a_folder_without_one_has_none(tmp_path):
    assert read_calibration(tmp_path, provenance()) is None


def test_a_table_without_rows_is_read_back(tmp_path):
    table = written(tmp_path)
    write_calibration(tmp_path, table[:0])
    assert_frame_equal(read_calibration(tmp_path, provenance()), table[:0])


@pytest.mark.parametrize("case", ["007", "NA", "a,b", 'a"b'])
def test_any_name_of_a_case_is_read_back(tmp_path, case):
    table = written(tmp_path)
    write_calibration(tmp_path, table[:1].assign(case=case))
    assert list(read_calibration(tmp_path, provenance())["case"]) == [case]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"region": "core"}, "the regions of provenance.json are whole, enhancing, not core"),
        ({"subset": "T7"}, r"the subsets of provenance.json are FLAIR, T1c, FLAIR\+T1c, not T7"),
        ({"case": "a"}, "it has a / FLAIR / whole more than once"),
        ({"num_present": 3}, "num_present of FLAIR is 3"),
        ({"dice": 1.5}, "dice is 1.5, which is not between 0 and 1"),
        ({"bound": -math.inf}, "bound is -inf, which is not between 0 and 1"),
        ({"expected_dice": "good"}, "good"),
        ({"confidence": math.nan}, "the confidence is nan: it is one number between 0 and 1"),
        ({"confidence": [0.9, 0.8] * 6}, "the confidence is 0.9, 0.8: it is one number"),
        ({"confidence": 90}, "the confidence is 90.0: it is one number"),
    ],
)
def test_a_table_that_is_wrong_is_named_with_the_way_out(tmp_path, columns, message):
    written(tmp_path, **columns)
    with pytest.raises(ValueError, match=rf"calibration.csv: .* but .*{message}.*Run missmod calibrate {tmp_path}"):
        read_calibration(tmp_path, provenance())


@pytest.mark.parametrize("content", ["", "case,subset\n", "\x00\x01", "case;subset\n1;2\n"])
def test_a_file_that_is_no_table_is_named(tmp_path, content):
    (tmp_path / "calibration.csv").write_text(content)
    with pytest.raises(ValueError, match=r"calibration.csv: expected a table with the columns case, subset, "):
        read_calibration(tmp_path, provenance())
