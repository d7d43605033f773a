"""Whatever provenance.json and the cases of scores.csv are: a model whose files lie where it may look, or one line."""

import copy
import json

import pandas as pd
import pytest
from fuzz_json import TEXTS, VALUES, damaged
from fuzz_profile import bounded
from hypothesis import given
from hypothesis import strategies as st
from small_scores import long_table, provenance

from nnunetv2_missmod.evaluation.provenance import Provenance, write_provenance
from nnunetv2_missmod.evaluation.scores import write_scores
from nnunetv2_missmod.report.case_volumes import predictions_of
from nnunetv2_missmod.report.inputs import load_comparison

pytestmark = pytest.mark.slow

MODALITIES, REGIONS = ("FLAIR", "T1c"), ("whole", "enhancing")
GIVEN = json.loads(json.dumps(vars(provenance(MODALITIES, REGIONS))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    write_scores(folder, long_table(2, MODALITIES, REGIONS))
    write_provenance(folder, Provenance(**copy.deepcopy(GIVEN)))
    (folder / "predictions").mkdir()
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)


def stays(place, part):
    return (place / part).resolve().parent == place.resolve()


@bounded(80)
@given(content=damaged(GIVEN) | VALUES, case=st.none() | TEXTS)
def test_a_folder_of_scores_is_a_model_or_one_line(folder, table, content, case):
    (folder / "provenance.json").write_text(json.dumps(content))
    named = table.assign(case=table["case"].replace("case_000", case)) if case is not None else table
    named.to_csv(folder / "scores.csv", index=False, encoding="utf-8", errors="surrogatepass")
    try:
        comparison = load_comparison([folder])
    except (ValueError, NotImplementedError) as error:
        assert len(str(error)) > 20
        return
    model = comparison.first
    found = model.provenance
    for name in comparison.scores["case"].unique():
        for place in (found.images, found.labels):
            assert stays(folder / place, f"{name}_0000{found.file_ending}")
        for subset in comparison.subsets if predictions_of(model) and predictions_of(model).is_dir() else ():
            assert folder.resolve() in (predictions_of(model) / subset).resolve().parents
            assert stays(predictions_of(model) / subset, f"{name}{found.file_ending}")
