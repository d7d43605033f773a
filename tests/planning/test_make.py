"""`missmod plan` from the command line to the file: fitted plans, papers' plans, what is shown, every mistake."""

import importlib
import json
import math
import re
from functools import cache

import pytest
from small_datasets import small_dataset
from small_plans import CONFIGURATION, subset_for

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.host.doors import PRETRAINING, door_names, plans_folder
from nnunetv2_missmod.planning import dataset as planned_dataset
from nnunetv2_missmod.planning import make, show
from nnunetv2_missmod.planning.fitting import configuration_of
from nnunetv2_missmod.planning.gpu_memory import GB
from nnunetv2_missmod.planning.make import PlanRequest
from nnunetv2_missmod.planning.show import PlanDescription

pytestmark = pytest.mark.slow

SEGMENTING = [name for name in door_names() if not name.endswith(PRETRAINING)]
BASELINE = "ModalityDropoutTrainer"


# nnU-Net's search imports every trainer there is, each time anew.
find_once = cache(planned_dataset.find_trainer_class)


@pytest.fixture
def make_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setattr(planned_dataset, "find_trainer_class", find_once)
    return lambda **options: small_dataset(tmp_path, **options)


def needed_by(trainer):
    """What a plan has to say before a door's trainer can be planned for."""
    return subset_for(getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{trainer}"), trainer))


@pytest.fixture
def by_formula(monkeypatch):
    """Memory by a formula, 10 times for a pretraining; what is shown needs as much."""
    asked = []

    def memory(stage, plans, name, dataset_json):
        configuration = configuration_of(plans, name)
        factor = 10 if stage.__name__.endswith(PRETRAINING) else 1
        asked.append((stage.__name__, configuration))
        return 20_000 * factor * math.prod(configuration["patch_size"]) * configuration["batch_size"]

    def describe(stage, dataset, name, step_memory):
        return PlanDescription(stage.__name__, name, {}, {}, [], step_memory(stage, dataset.plans, name, dataset.json))

    monkeypatch.setattr(make, "step_memory_on", lambda device: memory)
    monkeypatch.setattr(make, "describe", describe)
    return asked


@pytest.fixture
def no_counting(monkeypatch):
    """Rehearse for real, without the steps in which operations and parameters are counted."""
    for name in ("count_macs", "count_predicting_parameters"):
        monkeypatch.setattr(show, name, lambda rehearsal: 0)


def plan(trainer, *flags):
    return main(["plan", "-d", "501", "-tr", trainer, "-device", "cpu", *map(str, flags)])


def written(dataset, name):
    return json.loads((dataset.folder / f"{name}.json").read_text())


def refused(capsys, trainer, *flags):
    assert plan(trainer, *flags) == 2
    message = capsys.readouterr().err
    assert "missmod: " in message
    return message


def with_cascade(dataset):
    """Give the written plan a second stage, as nnU-Net names it."""
    dataset.plans["configurations"]["3d_lowres"] = dataset.plans["configurations"][CONFIGURATION] | {
        "next_stage": "3d_cascade_fullres"
    }
    dataset.plans["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": CONFIGURATION,
        "previous_stage": "3d_lowres",
    }
    (dataset.folder / "nnUNetPlans.json").write_text(json.dumps(dataset.plans))
    return dataset


# --- fitted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", SEGMENTING)
@pytest.mark.parametrize(("num_modalities", "dims", "residual"), [(3, 3, False), (2, 2, True)])
def test_every_trainer_gets_a_plan_of_its_own(trainer, num_modalities, dims, residual, make_dataset, by_formula):
    options = {"num_modalities": num_modalities, "dims": dims, "residual": residual}
    dataset = make_dataset(**options, **needed_by(trainer))
    before = (dataset.folder / "nnUNetPlans.json").read_text()
    assert plan(trainer, "-gpu_memory_target", 4) == 0
    plans = written(dataset, f"nnUNetPlans_{trainer}")
    assert plans["plans_name"] == f"nnUNetPlans_{trainer}"
    configuration = plans["configurations"][CONFIGURATION]
    assert configuration["data_identifier"] == "small_3d"
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"][0] in (32, 24, 16, 12, 8)
    assert (dataset.folder / "nnUNetPlans.json").read_text() == before


def test_one_plan_fits_both_stages_of_m3ae_whichever_is_named(make_dataset, by_formula, capsys):
    dataset = make_dataset(shape=(64, 64, 64))
    for trainer in ("M3AETrainer", "M3AEPretrainTrainer"):
        assert plan(trainer, "-gpu_memory_target", 40, "--overwrite") == 0
        configuration = written(dataset, "nnUNetPlans_M3AETrainer")["configurations"][CONFIGURATION]
        assert 20_000 * 10 * math.prod(configuration["patch_size"]) * configuration["batch_size"] <= 40 * GB
    printed = capsys.readouterr().out
    commands = re.findall(r"-tr (\w+) -p nnUNetPlans_M3AETrainer$", printed, re.MULTILINE)
    assert commands == ["M3AEPretrainTrainer", "M3AETrainer"] * 2


def test_without_a_target_the_planner_s_own_is_taken(make_dataset, by_formula):
    dataset = make_dataset(shape=(128, 128, 128), training=400)
    assert plan(BASELINE) == 0
    configuration = written(dataset, f"nnUNetPlans_{BASELINE}")["configurations"][CONFIGURATION]
    assert configuration["batch_size"] == 8 * GB // (20_000 * math.prod(configuration["patch_size"]))


def test_memory_is_asked_for_once_and_with_the_settings_that_are_merged(make_dataset, by_formula, tmp_path):
    make_dataset()
    fragment = tmp_path / "mine.json"
    fragment.write_text('{"missmod": {"trainer": {"num_epochs": 3}}, "batch_size": 9}')
    assert plan(BASELINE, "--merge", fragment) == 0
    *fitting, _ = by_formula  # the last is what is shown
    assert all(configuration["missmod"]["trainer"] == {"num_epochs": 3} for _, configuration in fitting)
    asked = [json.dumps(configuration) for _, configuration in fitting]
    assert len(asked) == len(set(asked))


def test_a_fragment_of_one_s_own_is_merged_last(make_dataset, by_formula, tmp_path):
    dataset = make_dataset()
    fragment = tmp_path / "mine.json"
    fragment.write_text('{"batch_size": 9, "batch_dice": true, "missmod": {"trainer": {"num_epochs": 3}}}')
    assert plan(BASELINE, "--merge", fragment, "-overwrite_plans_name", "minePlans") == 0
    configuration = written(dataset, "minePlans")["configurations"][CONFIGURATION]
    assert (configuration["batch_size"], configuration["batch_dice"]) == (9, True)
    assert configuration["missmod"]["trainer"] == {"num_epochs": 3}


def test_a_configuration_that_a_trainer_cannot_take_is_left_out_and_said(make_dataset, by_formula, capsys, monkeypatch):
    dataset, describe = with_cascade(make_dataset()), make.describe

    def no_cascade(stage, dataset, name, step_memory):
        if name == "3d_cascade_fullres":
            raise NotImplementedError("no cascade")
        return describe(stage, dataset, name, step_memory)

    monkeypatch.setattr(make, "describe", no_cascade)
    assert plan("DCSegTrainer", "-gpu_memory_target", 1) == 0
    assert "Left out 3d_cascade_fullres: no cascade" in capsys.readouterr().out
    plans = written(dataset, "nnUNetPlans_DCSegTrainer")["configurations"]
    assert plans["3d_cascade_fullres"] == {"inherits_from": CONFIGURATION, "previous_stage": "3d_lowres"}
    assert plans["3d_lowres"]["next_stage"] == "3d_cascade_fullres"
    assert "no cascade" in refused(capsys, "DCSegTrainer", "-c", "3d_cascade_fullres", "--overwrite")


def test_the_other_configurations_stay_as_they_were(make_dataset, by_formula):
    dataset = with_cascade(make_dataset(patch=[16] * 3))
    assert plan(BASELINE, "-c", CONFIGURATION) == 0
    configurations = written(dataset, f"nnUNetPlans_{BASELINE}")["configurations"]
    assert configurations["3d_lowres"] == dataset.plans["configurations"]["3d_lowres"]
    assert configurations[CONFIGURATION] != dataset.plans["configurations"][CONFIGURATION]


def test_the_estimate_of_the_trainer_itself_is_within_the_target(make_dataset, no_counting, capsys):
    dataset = make_dataset(num_modalities=2, shape=(32, 32, 32))
    assert plan(BASELINE, "-gpu_memory_target", 0.8) == 0
    configuration = written(dataset, f"nnUNetPlans_{BASELINE}")["configurations"][CONFIGURATION]
    assert configuration["patch_size"] == [32] * 3
    memory = float(re.search(r"([\d.]+) GB of a GPU, estimated", capsys.readouterr().out)[1])
    assert memory <= 0.8


# --- papers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", [name for name in SEGMENTING if (plans_folder() / f"{name}.json").is_file()])
def test_every_paper_s_settings_are_written_and_explained(trainer, make_dataset, by_formula, capsys):
    dataset = make_dataset(features=(8, 8, 16), **needed_by(trainer))
    assert plan(trainer, "--setting", "paper") == 0
    configuration = written(dataset, f"nnUNetPlans_{trainer}_paper")["configurations"][CONFIGURATION]
    fragment = json.loads((plans_folder() / f"{trainer}.json").read_text())
    assert configuration["batch_size"] == fragment["batch_size"]
    assert configuration["patch_size"] == [32] * 3
    printed = capsys.readouterr().out
    assert "larger than the median case [32, 32, 32]" in printed
    assert "released code" in printed or "released run" in printed
    assert f"-tr {trainer} -p nnUNetPlans_{trainer}_paper" in printed


def test_a_quick_plan_is_small_and_short_for_whichever_trainer(make_dataset, by_formula, capsys):
    dataset = make_dataset()
    assert plan(BASELINE, "--setting", "quick", "-c", CONFIGURATION) == 0
    name = f"{dataset.plans['plans_name']}_quick"
    configuration = written(dataset, name)["configurations"][CONFIGURATION]
    fragment = json.loads((plans_folder() / "demo.json").read_text())
    assert configuration["batch_size"] == fragment["batch_size"]
    assert configuration["missmod"] == fragment["missmod"]
    assert configuration["patch_size"] == dataset.plans["configurations"][CONFIGURATION]["patch_size"]
    said = capsys.readouterr().out
    assert "no scores to compare" in said
    assert f"-tr {BASELINE} -p {name}" in said
    assert name in refused(capsys, "DCSegTrainer", "--setting", "quick", "-c", CONFIGURATION)


def test_a_setting_is_one_of_few():
    with pytest.raises(ValueError, match="Expected --setting nnunet, paper or quick, got papers"):
        PlanRequest("501", BASELINE, setting="papers")


def test_a_paper_s_settings_that_need_more_than_the_target_are_kept_and_said(make_dataset, by_formula, capsys):
    make_dataset(shape=(128, 128, 128))
    assert plan("DCSegTrainer", "--setting", "paper", "-gpu_memory_target", 40) == 0
    needed = 20_000 * 112**3 * 2 / GB
    assert f"needs {needed:.1f} GB, {needed - 40:.1f} GB more than the 40 GB asked for" in capsys.readouterr().out


def test_a_paper_in_2d_is_refused(make_dataset, by_formula, capsys):
    dataset = make_dataset(dims=2)
    assert "Expected a configuration of 3 axes" in refused(capsys, "DCSegTrainer", "--setting", "paper")
    assert [file.stem for file in dataset.folder.glob("nnUNetPlans*")] == ["nnUNetPlans"]


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_show_prints_what_the_trainer_will_do_and_writes_nothing(make_dataset, capsys):
    dataset = make_dataset(features=(8, 8, 16), consistency_weight=0.3)
    before = sorted(dataset.folder.iterdir())
    assert plan("M3AETrainer", "--show", "-c", CONFIGURATION) == 0
    assert sorted(dataset.folder.iterdir()) == before
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.split()}
    assert "M3AETrainer, 3d_fullres" in printed
    assert rows["network"][1:] == ["M3AENet"]
    assert rows["patch"][1:] == ["32", "x", "32", "x", "32"]
    assert rows["consistency_weight"][1:] == ["0.3", "plan"]
    assert rows["num_epochs"][1:] == ["263", "default"]
    assert rows["length"][1:] == ["263", "epochs", "x", "250", "iterations", "=", "65,750", "updates"]
    assert rows["loss"][1:] == ["terms", "segmentation,", "consistency"]
    assert re.search(r"operations per step +[\d.]+ GMAC", printed)
    assert re.search(r"memory +0\.\d GB of a GPU, estimated", printed)
    assert "\x1b" not in printed


def test_what_the_dataset_tells_the_network_is_not_said_to_be_the_plan_s(make_dataset, no_counting, capsys):
    make_dataset(features=(8, 8, 16))
    assert plan("DCSegTrainer", "--show") == 0
    assert re.search(r"overlapping_regions \(network\) +False +dataset", capsys.readouterr().out)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["-gpu_memory_target", 0], "-gpu_memory_target above 0 GB, got 0"),
        (["-gpu_memory_target", -3], "-gpu_memory_target above 0 GB, got -3"),
        (["-c", "3d_full"], r"configurations of nnUNetPlans, got \['3d_full'\]. It has 3d_fullres"),
        (["-p", "noPlans"], r"noPlans.json.*Plans there are: nnUNetPlans.*nnUNetv2_plan_and_preprocess -d 501"),
        (["-overwrite_plans_name", "nnUNetPlans", "--overwrite"], "another name than the original's"),
        (["--merge", "/no/such/file.json"], "fragment of a plan, as JSON, at /no/such/file.json"),
        (["--setting", "paper"], "the settings of a paper, got ModalityDropoutTrainer"),
        (["-gpu_memory_target", 0.000001], "need .* GB. Raise -gpu_memory_target"),
    ],
)
def test_a_mistake_is_said_and_nothing_written(flags, complaint, make_dataset, by_formula, capsys):
    dataset = make_dataset()
    before = sorted(dataset.folder.iterdir())
    assert re.search(complaint, refused(capsys, BASELINE, *flags))
    assert sorted(dataset.folder.iterdir()) == before


def test_a_plan_of_this_name_is_replaced_only_on_request(make_dataset, by_formula, capsys):
    dataset = make_dataset()
    assert plan(BASELINE) == 0
    (dataset.folder / f"nnUNetPlans_{BASELINE}.json").write_text("mine")
    assert re.search("exists.*--overwrite", refused(capsys, BASELINE))
    assert (dataset.folder / f"nnUNetPlans_{BASELINE}.json").read_text() == "mine"
    assert plan(BASELINE, "--overwrite") == 0
    assert written(dataset, f"nnUNetPlans_{BASELINE}")


@pytest.mark.parametrize(
    ("trainer", "complaint"),
    [
        ("NoSuchTrainer", "got -tr NoSuchTrainer, which nnU-Net does not find.*DCSegTrainer"),
        ("nnUNetTrainer", "for missing modalities, got -tr nnUNetTrainer.*nnUNetv2_plan_experiment"),
    ],
)
def test_a_trainer_that_is_none_of_ours_is_refused(trainer, complaint, make_dataset, capsys):
    make_dataset()
    assert re.search(complaint, refused(capsys, trainer))


def test_without_folders_dataset_or_fingerprint(make_dataset, by_formula, capsys, monkeypatch):
    assert "got -d 501" in refused(capsys, BASELINE)
    dataset = make_dataset()
    (dataset.folder / "dataset_fingerprint.json").unlink()
    assert "Run nnUNetv2_extract_fingerprint" in refused(capsys, BASELINE)
    monkeypatch.delenv("nnUNet_preprocessed")
    assert "variable nnUNet_preprocessed" in refused(capsys, BASELINE)


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ({"trainer": {"nonsense": 1}}, "nonsense.*Known are"),
        ({"network": {"nonsense": 1}}, "nonsense.*Known are"),
        ({"trainer": {"num_epochs": 0}}, "num_epochs = 0; expected 1 or more"),
        ({"trainer": {"num_iterations_per_epoch": 0}}, "num_iterations_per_epoch = 0; expected 1 or more"),
        ({"trainer": {"initial_lr": float("nan")}}, "initial_lr = nan; expected a finite number of 0 or more like"),
        ([], "missmod block to hold trainer and network"),
        ({"network": [1]}, "network = \\[1\\]; expected a value like"),
    ],
)
def test_overrides_are_validated_before_anything_is_written(block, complaint, make_dataset, capsys, tmp_path):
    dataset, fragment = make_dataset(features=(8, 8, 16)), tmp_path / "mine.json"
    fragment.write_text(json.dumps({"missmod": block}))
    assert re.search(complaint, refused(capsys, BASELINE, "--merge", fragment))
    assert [file.stem for file in dataset.folder.glob("nnUNetPlans*")] == ["nnUNetPlans"]


@pytest.mark.parametrize(
    ("file", "path", "value", "complaint"),
    [
        ("nnUNetPlans", ("dataset_name",), "../../elsewhere", "dataset_name to be a name that can be a file's"),
        ("nnUNetPlans", ("dataset_name",), "Dataset777_Other", "dataset_name to be Dataset501_Small, the folder"),
        ("nnUNetPlans", ("image_reader_writer",), "os", "image_reader_writer to be the name of a BaseReaderWriter"),
        ("nnUNetPlans", ("configurations", CONFIGURATION, "spacing"), [1, 1], "spacing of configuration 3d_fullres"),
        ("nnUNetPlans", ("original_median_shape_after_transp",), "big", "original_median_shape_after_transp"),
        ("nnUNetPlans", ("experiment_planner_used",), "os.system", "experiment_planner_used"),
        ("nnUNetPlans", ("experiment_planner_used",), "os", "experiment_planner_used"),
        ("dataset", ("labels",), [1], "labels to be keys with values"),
        ("dataset", ("channel_names",), {"0": "T1"}, "normalization_schemes .* one for each of the 1 channels"),
        ("dataset", ("channel_names", "0"), "..", "channel_names.0 to be a name, got '..', which begins with a dot"),
        ("dataset", ("file_ending",), "nii.gz", "file_ending to be a dot and letters"),
        ("dataset", ("numTraining",), "many", "numTraining to be a whole number"),
    ],
)
def test_a_wrong_entry_of_plan_or_dataset_is_one_line(file, path, value, complaint, make_dataset, by_formula, capsys):
    folder = make_dataset().folder
    content = json.loads((folder / f"{file}.json").read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / f"{file}.json").write_text(json.dumps(content))
    before = {entry: sorted(entry.iterdir()) for entry in (folder.parent, folder)}
    message = refused(capsys, BASELINE)
    assert re.search(complaint, message)
    assert len(message.splitlines()) == 1
    assert {entry: sorted(entry.iterdir()) for entry in before} == before


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/x", "a\\b", ".hidden", "=1"])
def test_a_new_plan_s_name_is_no_path(name, make_dataset, by_formula, capsys):
    dataset = make_dataset()
    message = refused(capsys, BASELINE, f"-overwrite_plans_name={name}")
    assert "Expected a name for the new plan that can be a file's" in message
    assert [file.name for file in dataset.folder.iterdir() if "lans" in file.name] == ["nnUNetPlans.json"]


# --- for one subset ---------------------------------------------------------------------------------------------------

DEDICATED = "DedicatedUNetTrainer"


def block_of(dataset, name):
    return written(dataset, name)["configurations"][CONFIGURATION]["missmod"]


def without_names(plans):
    """A plan without its own name and that of its subset."""
    of_all = {key: value for key, value in plans.items() if key not in ("plans_name", "configurations")}
    of_one = {**plans["configurations"][CONFIGURATION]}
    return of_all, {key: value for key, value in of_one.items() if key != "missmod"}


def test_a_plan_for_each_subset_alike_in_all_else(make_dataset, by_formula, capsys):
    dataset = make_dataset()
    assert plan(DEDICATED, "--subset", "mod2", "mod1+mod0", "-gpu_memory_target", 4) == 0
    subsets = {"nnUNetPlans_mod2": "mod2", "nnUNetPlans_mod0+mod1": "mod0+mod1"}
    for name, subset in subsets.items():
        assert written(dataset, name)["plans_name"] == name
        assert block_of(dataset, name) == {"trainer": {"subset": subset}}
    assert len({json.dumps(without_names(written(dataset, name))) for name in subsets}) == 1
    assert {configuration["missmod"]["trainer"]["subset"] for _, configuration in by_formula} == {"mod0+mod1"}
    printed = capsys.readouterr().out
    assert "-tr DedicatedUNetTrainer -p nnUNetPlans_mod2" in printed
    assert "-tr DedicatedUNetTrainer -p nnUNetPlans_mod0+mod1" in printed


def test_all_subsets_and_names_of_ones_own(make_dataset, by_formula):
    dataset = make_dataset(num_modalities=2)
    assert plan(DEDICATED, "--subset", "all", "--setting", "quick") == 0
    for subset in ("mod0", "mod1", "mod0+mod1"):
        assert block_of(dataset, f"nnUNetPlans_quick_{subset}")["trainer"]["subset"] == subset
    assert plan(DEDICATED, "--subset", "mod1", "-overwrite_plans_name", "mine") == 0
    assert block_of(dataset, "mine") == {"trainer": {"subset": "mod1"}}
    assert plan(DEDICATED, "--subset", "mod1", "mod0", "-overwrite_plans_name", "two") == 0
    assert block_of(dataset, "two_mod0") == {"trainer": {"subset": "mod0"}}
    assert plan(DEDICATED, "--subset", "all", "-overwrite_plans_name", "every") == 0
    for subset in ("mod0", "mod1", "mod0+mod1"):
        assert block_of(dataset, f"every_{subset}") == {"trainer": {"subset": subset}}


@pytest.mark.parametrize(
    ("trainer", "subset", "message"),
    [
        (BASELINE, ["mod0"], "Expected --subset for a trainer of one subset, got -tr ModalityDropoutTrainer"),
        (DEDICATED, ["T1"], "Expected a subset of the modalities mod0, mod1, mod2, each once"),
        (DEDICATED, ["mod0+mod1", "mod1+mod0"], "Expected every subset once, got --subset mod0+mod1 mod1+mod0"),
        (DEDICATED, [], "DedicatedUNetTrainer trains a model for one subset of the modalities, which the plan names"),
    ],
)
def test_what_names_no_subset_is_refused(trainer, subset, message, make_dataset, no_counting, capsys):
    dataset = make_dataset()
    assert message in refused(capsys, trainer, *(["--subset", *subset] if subset else []), "--setting", "quick")
    assert [file.name for file in dataset.folder.glob("nnUNetPlans*")] == ["nnUNetPlans.json"]


def test_all_of_very_many_are_not_planned(make_dataset, by_formula, capsys):
    make_dataset(num_modalities=6)
    assert "got all of 6 modalities: 63 trainings" in refused(capsys, DEDICATED, "--subset", "all")


def test_no_plan_is_written_where_one_of_them_would_replace_another(make_dataset, by_formula, capsys):
    dataset = make_dataset()
    assert plan(DEDICATED, "--subset", "mod1") == 0
    assert "nnUNetPlans_mod1.json exists" in refused(capsys, DEDICATED, "--subset", "mod0", "mod1")
    assert not (dataset.folder / "nnUNetPlans_mod0.json").exists()
    assert plan(DEDICATED, "--subset", "mod0", "mod1", "--overwrite") == 0
