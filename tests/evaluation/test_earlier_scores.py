"""Scores that an earlier version wrote (tests/earlier/scores): read, reported, continued.

They are from before the column num_true_positive and before HD95 had conventions.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from nnunetv2_missmod.evaluation.nnunet_summary import write_summary
from nnunetv2_missmod.evaluation.scores import (
    DTYPES,
    SEEN,
    TRUE_POSITIVE,
    append_case,
    open_scores,
    read_scores,
)
from nnunetv2_missmod.report.inputs import load_comparison

EARLIER = Path(__file__).parents[1] / "earlier" / "scores"


@pytest.fixture
def earlier(tmp_path):
    """A copy that may be written to."""
    return Path(shutil.copytree(EARLIER, tmp_path / "scores"))


def without_files(summary):
    """What nnU-Net's summary says of each case but for where its files were."""
    found = json.loads(summary.read_text())
    return found | {"metric_per_case": [case["metrics"] for case in found["metric_per_case"]]}


def test_it_lacks_the_column():
    assert set(DTYPES) - set(pd.read_csv(EARLIER / "scores.csv").columns) == {TRUE_POSITIVE, *SEEN}


def test_the_counts_are_those_of_the_masks_at_the_time():
    scores = read_scores(EARLIER)
    for subset in scores.provenance.subsets:
        summary = json.loads((EARLIER / "predictions" / subset / "summary.json").read_text())
        counted = [region["TP"] for case in summary["metric_per_case"] for region in case["metrics"].values()]
        assert scores.table.query("subset == @subset")[TRUE_POSITIVE].tolist() == counted
        assert 0 in counted


def test_summaries_come_out_as_they_did(earlier):
    before = {
        subset: without_files(earlier / "predictions" / subset / "summary.json") for subset in ("FLAIR", "FLAIR+T1c")
    }
    for subset, summary in before.items():
        write_summary(earlier, subset, read_scores(earlier))
        assert without_files(earlier / "predictions" / subset / "summary.json") == summary


def test_the_report_reads_it(earlier):
    comparison = load_comparison([earlier])
    plain = pd.read_csv(EARLIER / "scores.csv")
    assert_frame_equal(comparison.scores[list(plain)], plain, check_exact=True)


def test_a_continued_run_leaves_a_complete_table(earlier):
    before = open_scores(earlier, read_scores(earlier).provenance)
    added = before[before["case"] == "case_1"].assign(case="case_5", **{TRUE_POSITIVE: 7})
    append_case(earlier, added)
    written = pd.read_csv(earlier / "scores.csv")
    assert list(written) == list(DTYPES)
    assert_frame_equal(written, pd.concat([before, added], ignore_index=True), check_exact=True)
    assert_frame_equal(pd.read_parquet(earlier / "scores.parquet"), written, check_exact=True)
    written = json.loads((EARLIER / "provenance.json").read_text())
    assert asdict(read_scores(earlier).provenance) == written | {
        "hd95_convention": "surface",
        "held_out": None,
        "needs": None,
    }


def test_it_is_not_continued_by_another_convention_of_hd95(earlier):
    known = read_scores(earlier).provenance
    with pytest.raises(ValueError, match="hd95_convention: surface there, medpy now"):
        open_scores(earlier, replace(known, hd95_convention="medpy"))


def test_a_dice_that_says_nothing_is_an_error(earlier):
    table = pd.read_csv(earlier / "scores.csv")
    table.loc[1, "dice"] = None
    table.to_csv(earlier / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"scores.csv: .*it lacks the Dice of a region that has voxels\. Run"):
        read_scores(earlier)
