"""Dedicated models, one for each subset, in a report: one model beside those that serve every subset."""

import numpy as np
import pytest
import SimpleITK as sitk
from report_page import read_page
from small_scores import MODALITIES, REGIONS, long_table, provenance, subset_names, subsets_of

from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import write_scores
from nnunetv2_missmod.report.case_volumes import Case, read_prediction
from nnunetv2_missmod.report.inputs import load_comparison
from nnunetv2_missmod.report.page import write_report

EVERY = subsets_of(MODALITIES)


def write(folder, seed, trainer="ACNTrainer", needs=None, scored=None):
    """Scores of a model; of a dedicated one on all subsets that have what it needs."""
    subsets = {name: members for name, members in EVERY.items() if set(needs or ()) <= {*members}}
    subsets = {name: subsets[name] for name in scored or subsets}
    folder.mkdir()
    table = long_table(cases=6, seed=seed, subsets=list(subsets))
    write_scores(folder, table)
    plans = "nnUNetPlans" if needs is None else f"nnUNetPlans_{'+'.join(needs)}"
    known = provenance(MODALITIES, tuple(REGIONS), trainer, subsets=subsets, plans=plans)
    write_provenance(folder, provenance_with(known, needs))
    return folder


def provenance_with(known, needs):
    return type(known)(**{**vars(known), "needs": needs})


@pytest.fixture
def dedicated(tmp_path):
    """Folders of a model for each subset, the last subset's first."""
    named = reversed(EVERY.items())
    return {name: write(tmp_path / f"acn_{name}", seed, needs=of) for seed, (name, of) in enumerate(named)}


def rows_of(table, subset):
    return table[table["subset"] == subset].sort_values(["case", "region"])["dice"].to_numpy()


def test_models_of_all_subsets_are_one_with_the_scores_that_each_has_on_its_own(dedicated, tmp_path, no_figures):
    write(tmp_path / "dropout", 99, "ModalityDropoutTrainer")
    comparison = load_comparison([*dedicated.values(), tmp_path / "dropout"])
    assert list(comparison.models) == ["ACN (dedicated)", "ModalityDropout"]
    assert list(comparison.subsets) == subset_names()
    assert comparison.notes == []
    for seed, name in enumerate(reversed(EVERY)):
        own = long_table(cases=6, seed=seed, subsets=[n for n, of in EVERY.items() if {*EVERY[name]} <= {*of}])
        np.testing.assert_array_equal(rows_of(comparison.tables["ACN (dedicated)"], name), rows_of(own, name))
    page = read_page(write_report([*dedicated.values(), tmp_path / "dropout"], tmp_path / "report"))
    assert page.texts("dice")[1][:2] == ["ACN (dedicated)", "ModalityDropout"]
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "15 models of ACNTrainer, one for each subset" in text
    assert "each subset by itself" in text
    assert "any subset" in text


def test_subsets_without_a_dedicated_model_are_left_out_and_that_is_said(dedicated, tmp_path):
    write(tmp_path / "dropout", 99, "ModalityDropoutTrainer")
    some = [dedicated[name] for name in ("T1c", "FLAIR", "FLAIR+T1c")]
    comparison = load_comparison([*some, tmp_path / "dropout"])
    assert list(comparison.subsets) == ["FLAIR", "T1c", "FLAIR+T1c"]
    assert comparison.notes == ["12 subsets that not every model was evaluated on are left out."]


def test_one_dedicated_model_alone_is_shown_on_all_subsets_that_it_was_scored_on(dedicated):
    comparison = load_comparison([dedicated["T1c"]])
    assert list(comparison.models) == ["ACN (dedicated)"]
    assert list(comparison.subsets) == [name for name, members in EVERY.items() if "T1c" in members]


def test_each_trainer_s_models_are_its_own(dedicated, tmp_path):
    folders = [dedicated["T1"], dedicated["T2"]]
    folders += [write(tmp_path / f"smu_{name}", 40, "SMUNetTrainer", needs=EVERY[name]) for name in ("T1", "T2")]
    comparison = load_comparison(folders)
    assert list(comparison.models) == ["ACN (dedicated)", "SMUNet (dedicated)"]
    assert list(comparison.subsets) == ["T1", "T2"]


def test_trainings_of_each_subset_make_a_group(tmp_path):
    folders = [
        write(tmp_path / f"{name}_{seed}", seed + 10 * channel, needs=[name])
        for channel, name in enumerate(("T1", "T2"))
        for seed in range(2)
    ]
    comparison = load_comparison([], groups={"acn": folders})
    assert list(comparison.subsets) == ["T1", "T2"]
    trainings = comparison.trainings_of("acn")
    assert len(trainings) == 2
    for seed, table in enumerate(trainings):
        for channel, name in enumerate(("T1", "T2")):
            own = long_table(6, seed=seed + 10 * channel, subsets=[n for n, of in EVERY.items() if name in of])
            np.testing.assert_array_equal(rows_of(table, name), rows_of(own, name))
    with pytest.raises(ValueError, match=r"as many trainings for each subset, got \{'T1': 2, 'T2': 1\}"):
        load_comparison([], groups={"acn": folders[:3]})
    seeds_of_one = load_comparison([], groups={"acn": folders[:2]})
    assert len(seeds_of_one.trainings_of("acn")) == 2
    with pytest.raises(ValueError, match=r"two for T1: .*T1_0 and .*T1_1\. Trainings of one model make a group"):
        load_comparison(folders[:2])


def test_a_model_that_was_not_scored_on_its_own_subset_joins_none(dedicated, tmp_path):
    other = write(tmp_path / "other", 3, needs=["T2"], scored=["FLAIR+T2"])
    with pytest.raises(
        ValueError, match=r"Expected scores of T2, which the model in .*other was trained for, got none"
    ):
        load_comparison([dedicated["T1"], other])


def test_masks_of_a_subset_are_those_of_its_own_model(dedicated):
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    for number, name in enumerate(("T1", "T2"), 1):
        folder = dedicated[name] / "predictions" / name
        folder.mkdir(parents=True)
        sitk.WriteImage(image + number, str(folder / "case_0.nii.gz"))
    (model,) = load_comparison([dedicated["T1"], dedicated["T2"]]).models.values()
    case = Case("case_0", "", {}, image, (slice(None),) * 3, image.GetSize())
    for number, name in enumerate(("T1", "T2"), 1):
        assert (sitk.GetArrayFromImage(read_prediction(model, name, case)) == number).all()
    assert read_prediction(model, "FLAIR", case) is None
