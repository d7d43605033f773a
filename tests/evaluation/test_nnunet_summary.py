import json
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import numpy as np
import pytest
from nnunetv2.evaluation import evaluate_predictions
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from small_scores import provenance

from nnunetv2_missmod.evaluation.metrics import ScoringRules, score
from nnunetv2_missmod.evaluation.nnunet_summary import write_summary
from nnunetv2_missmod.evaluation.scores import Scores, append_case, case_table, open_scores, read_scores
from nnunetv2_missmod.evaluation.truth import Truth

REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
SUBSETS = {"FLAIR": ["FLAIR"], "FLAIR+T1c": ["FLAIR", "T1c"]}
CASES = ["case_2", "case_10", "case_1", "case_1-b"]  # nnU-Net sorts the files, not the names


class NumpyReader:
    """nnU-Net's reader, for .npy files."""

    def read_seg(self, name):
        return np.load(name)[None].astype(np.float32), {}


def image(seed, values):
    return np.random.default_rng(seed).choice(values, (7, 8, 9)).astype(np.uint8)


def scored_folder(tmp_path, policy, predicted=(0, 1, 2, 3), true=(0, 1, 2, 3)):
    """A folder of scores with masks of every subset, and the truths beside it."""
    labels, scores = tmp_path / "labelsTs", tmp_path / "scores"
    labels.mkdir()
    known = provenance(
        labels=str(labels),
        file_ending=".npy",
        regions=list(REGIONS),
        region_labels=REGIONS,
        subsets=SUBSETS,
        empty_policy=policy,
    )
    table = open_scores(scores, known)
    for number, case in enumerate(CASES):
        truth = image(number, true)
        np.save(labels / f"{case}.npy", truth)
        found = {}
        for seed, subset in enumerate(SUBSETS):
            prediction = image(10 * number + 100 + seed, predicted)
            (scores / "predictions" / subset).mkdir(parents=True, exist_ok=True)
            np.save(scores / "predictions" / subset / f"{case}.npy", prediction)
            rules = ScoringRules(empty_policy=policy)
            found[subset] = score(prediction, Truth(truth, (1.0, 1.0, 1.0), REGIONS), rules)
        table = append_case(scores, case_table(case, found, SUBSETS))
    return scores, Scores(table, known)


@pytest.fixture
def threads(monkeypatch):
    """nnU-Net scores in threads of this process, not in spawned processes."""
    context = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr(evaluate_predictions, "multiprocessing", context)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("policy", ["nnunet", "brats"])
@pytest.mark.parametrize(
    ("predicted", "true"), [((0, 1, 2, 3), (0, 1, 2, 3)), ((0, 1, 2), (0, 1, 2)), ((0,), (0, 1, 3)), ((0, 2), (0,))]
)
def test_the_summary_is_the_one_that_nnunet_computes_from_the_masks(tmp_path, threads, policy, predicted, true):
    folder, scores = scored_folder(tmp_path, policy, predicted, true)
    for subset in SUBSETS:
        write_summary(folder, subset, scores)
        masks = folder / "predictions" / subset
        theirs = tmp_path / "theirs.json"
        compute_metrics_on_folder(
            scores.provenance.labels, str(masks), str(theirs), NumpyReader(), ".npy", [(1, 2, 3), (2, 3), 3], None, 1
        )
        assert (masks / "summary.json").read_text() == theirs.read_text()


def test_the_summary_comes_from_the_rows_alone(tmp_path):
    folder, scores = scored_folder(tmp_path, "nnunet")
    write_summary(folder, "FLAIR", scores)
    expected = (folder / "predictions" / "FLAIR" / "summary.json").read_text()
    for mask in tmp_path.rglob("*.npy"):
        mask.unlink()
    write_summary(folder, "FLAIR", read_scores(folder))
    assert (folder / "predictions" / "FLAIR" / "summary.json").read_text() == expected


def test_nnunet_reads_the_summary(tmp_path):
    folder, scores = scored_folder(tmp_path, "nnunet")
    write_summary(folder, "FLAIR+T1c", scores)
    found = load_summary_json(str(folder / "predictions" / "FLAIR+T1c" / "summary.json"))
    assert list(found["mean"]) == [(1, 2, 3), (2, 3), 3]
    assert found["mean"][(1, 2, 3)]["Dice"] == pytest.approx(
        scores.table.query("subset == 'FLAIR+T1c' and region == 'whole'")["dice"].mean()
    )


def test_the_summary_of_labels_is_keyed_by_them(tmp_path):
    folder, scores = scored_folder(tmp_path, "nnunet")
    known = provenance(
        subsets=SUBSETS, regions=list(REGIONS), region_labels={"whole": [1], "core": [2], "enhancing": [3]}
    )
    write_summary(folder, "FLAIR", Scores(scores.table, known))
    found = json.loads((folder / "predictions" / "FLAIR" / "summary.json").read_text())
    assert list(found["mean"]) == ["1", "2", "3"]
