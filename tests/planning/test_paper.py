"""The papers' settings on datasets that they fit and on those that they do not."""

import pytest
from small_datasets import small_dataset
from small_plans import CONFIGURATION

from nnunetv2_missmod.host.doors import door_names, plans_folder
from nnunetv2_missmod.planning.fragments import load_fragment
from nnunetv2_missmod.planning.paper import merge_paper, paper_files, paper_numbers

PAPERS = [name for name in door_names() if (plans_folder() / f"{name}.json").is_file()]
BRAIN = (192, 208, 176)
SIX_STAGES = (32, 64, 128, 256, 320, 320)


@pytest.mark.parametrize("name", PAPERS)
def test_a_brain_takes_the_paper_s_patch_and_batch(name, tmp_path):
    dataset, (file,) = small_dataset(tmp_path, 4, shape=BRAIN, features=SIX_STAGES), paper_files([name])
    plans, said = merge_paper(dataset.plans, CONFIGURATION, [file], "paperPlans")
    configuration = plans["configurations"][CONFIGURATION]
    assert {key: configuration[key] for key in ("patch_size", "batch_size")} == {
        key: load_fragment(file)[key] for key in ("patch_size", "batch_size")
    }
    assert said == ""
    assert plans["plans_name"] == "paperPlans"
    assert configuration["data_identifier"] == "small_3d"


def test_an_axis_beyond_the_median_case_is_cut_to_it_and_rounded_up_by_nnunet(tmp_path):
    dataset = small_dataset(tmp_path, 4, shape=(155, 60, 200), features=SIX_STAGES)
    plans, said = merge_paper(dataset.plans, CONFIGURATION, paper_files(["DCSegTrainer"]), "paperPlans")
    assert plans["configurations"][CONFIGURATION]["patch_size"] == [112, 64, 112]
    assert "[112, 112, 112] is larger than the median case [155, 60, 200]" in said
    assert "[112, 64, 112]" in said


def test_a_2d_configuration_is_refused(tmp_path):
    dataset = small_dataset(tmp_path, 4, 2, shape=BRAIN)
    with pytest.raises(ValueError, match=r"Expected a configuration of 3 axes, got 3d_fullres.*--setting nnunet"):
        merge_paper(dataset.plans, CONFIGURATION, paper_files(["DCSegTrainer"]), "paperPlans")


def test_the_stages_of_m3ae_are_merged_into_one_plan_with_fine_tuning_s_batch(tmp_path):
    dataset = small_dataset(tmp_path, 4, shape=BRAIN, features=SIX_STAGES)
    files = paper_files(["M3AEPretrainTrainer", "M3AETrainer"])
    plans, said = merge_paper(dataset.plans, CONFIGURATION, files, "paperPlans")
    configuration = plans["configurations"][CONFIGURATION]
    assert configuration["batch_size"] == 1
    assert said.endswith("M3AETrainer's, 1; M3AEPretrainTrainer's would be 2.")
    assert set(configuration["missmod"]["trainer"]) == {"M3AEPretrainTrainer", "M3AETrainer"}


def test_a_trainer_without_a_paper_is_named():
    with pytest.raises(ValueError, match=r"the settings of a paper, got ModalityDropoutTrainer.*--setting nnunet"):
        paper_files(["ModalityDropoutTrainer"])


@pytest.mark.parametrize("name", PAPERS)
def test_every_number_comes_with_its_source(name):
    numbers = paper_numbers(*paper_files([name]))
    assert {number.trainer for number in numbers} == {name}
    assert {"patch_size", "batch_size", "num_epochs", "initial_lr"} < {number.name for number in numbers}
    assert all(number.source for number in numbers)


def test_numbers_of_trainer_and_network_are_listed_with_their_values():
    numbers = {number.name: number.value for number in paper_numbers(*paper_files(["MSTKDNetTrainer"]))}
    assert (numbers["tau"], numbers["embed_dim"], numbers["patch_size"]) == (7.0, 768, [160, 192, 128])
