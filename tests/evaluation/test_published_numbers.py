"""What papers print, computed from the tables that they publish."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunetv2_missmod.evaluation.summary import (
    mean_over_subsets,
    robustness_area,
    robustness_curve,
    subset_means,
)

SHARED = Path(__file__).parents[2].parent / "shared"

pytestmark = pytest.mark.filterwarnings("error")


def published(name):
    """A published table as the long table of one case, by method; values by (method, region)."""
    file = SHARED / "tables" / f"{name}.csv"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    rows = pd.read_csv(file).assign(case="mean")
    rows["num_present"] = rows["subset"].str.count(r"\+") + 1
    return {str(method): table for method, table in rows.groupby("method")}


def test_the_areas_and_means_of_ccsd_are_reproduced():
    tables = published("ccsd_table1")
    rows = pd.read_csv(SHARED / "tables" / "ccsd_aurc.csv").to_dict("records")
    assert len(rows) == 15
    for row in rows:
        means = subset_means(tables[row["method"]], "dice")[[row["region"]]]
        assert len(means) == 15
        assert robustness_area(means).item() == pytest.approx(row["aurc"], abs=1e-6)
        assert robustness_area(means, normalised=True).item() == pytest.approx(row["aurc_over_3"], abs=1e-6)
        assert robustness_curve(means)[row["region"]].to_list() == pytest.approx(
            [row[f"D{k}"] for k in (1, 2, 3, 4)], abs=1e-6
        )
        assert mean_over_subsets(means).item() == pytest.approx(row["mean15"], abs=1e-6)
        if (row["method"], row["region"]) != ("MIFPN", "TC"):  # does not recompute in print either
            assert mean_over_subsets(means).item() == pytest.approx(row["reported_avg"], abs=0.0051)


def test_the_areas_in_the_readme_of_the_tables_are_reproduced():
    tables = published("ccsd_table1")
    ccsd, mmformer = (robustness_area(subset_means(tables[name], "dice")).round(3) for name in ("CCSD", "mmFormer"))
    assert ccsd.to_dict() == {"ET": 197.920, "TC": 240.020, "WT": 262.998}
    assert mmformer["ET"] == 190.490


def test_the_recomputed_averages_of_mstkdnet_are_reproduced():
    average = mean_over_subsets(subset_means(published("mstkdnet_table1_dice")["MST-KDNet"], "dice")).round(2)
    assert (average["TC"], average["ET"]) == (59.69, 60.07)


@pytest.mark.parametrize(("one", "other"), [("m3ae_table1", "ccsd_table1"), ("m3ae_tableS3_brats2020", "dcseg_table1")])
def test_two_papers_agree_on_the_averages_of_m3ae(one, other):
    averages = [mean_over_subsets(subset_means(published(name)["M3AE"], "dice")) for name in (one, other)]
    assert averages[0].to_dict() == pytest.approx(averages[1].to_dict(), abs=0.01)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("dcseg_table1", "dice"),
        ("m3ae_table1", "dice"),
        ("m3ae_tableS3_brats2020", "dice"),
        ("mstkdnet_table1_dice", "dice"),
        ("mstkdnet_table2_hd95", "hd95"),
    ],
)
def test_published_tables_have_15_subsets_and_average_as_plain_means(name, metric):
    for table in published(name).values():
        means = subset_means(table, metric)
        assert means.shape == (15, 3)
        for region, rows in table.groupby("region"):
            assert mean_over_subsets(means)[region] == pytest.approx(sum(rows[metric]) / 15)


@pytest.mark.parametrize("number", [0, 1])
def test_the_curve_and_area_are_the_parity_values_of_ccsd(number):
    file = SHARED / "parity" / f"ccsd_aurc_{number}.npz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    reference = np.load(file)
    names = ["+".join(np.array(list("abcd"[: len(row)]))[row]) for row in reference["subset_masks"]]
    means = pd.DataFrame(reference["dice"], index=names)
    np.testing.assert_allclose(robustness_curve(means), reference["D"], rtol=1e-12)
    np.testing.assert_allclose(robustness_area(means), reference["aurc"], rtol=1e-12)
    np.testing.assert_allclose(robustness_area(means, normalised=True), reference["aurc_normalised"], rtol=1e-12)
    np.testing.assert_allclose(mean_over_subsets(means), reference["mean_over_subsets"], rtol=1e-12)
