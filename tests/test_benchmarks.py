"""The comparisons: what is trained is what the tables say, and the tables are those of the figures that are kept."""

import importlib
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_dataset_json, small_plans, small_trainer, with_small_network
from small_scores import MODALITIES, REGIONS, long_table, provenance

from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import write_scores
from nnunetv2_missmod.evaluation.summary import robustness_area
from nnunetv2_missmod.host.doors import pretraining_of
from nnunetv2_missmod.planning.fragments import load_fragment, merge_fragment

REPOSITORY = Path(__file__).parents[1]
sys.path.append(str(REPOSITORY))

from benchmarks import profile, seeded_training  # noqa: E402
from benchmarks.comparison import METHODS, OPTIMIZER_OF_DCSEG, Bench, plans_name, stages_of  # noqa: E402
from benchmarks.comparison_tables import collect, table_by_count, table_of_ablations, table_of_means, table_of_subsets  # noqa: E402
from benchmarks.methods import READINGS, ROWS, WHOLES  # noqa: E402
from benchmarks.models import Setting, plans_for  # noqa: E402

pytestmark = pytest.mark.slow

PHANTOM = {"channel_names": dict(zip("0123", ("FLAIR", "T1", "T1c", "T2"), strict=True))}


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, "Dataset501_Small", CONFIGURATION, "cpu", 1, 5, {"batch_size": 3})
    bench.preprocessed.mkdir(parents=True)
    (bench.preprocessed / "nnUNetPlans.json").write_text(json.dumps(small_plans()))
    return bench


def door_class(name):
    return getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)


def plan_of(bench, name):
    file = bench.preprocessed / f"{bench.write_plan(name, ROWS[name])}.json"
    return json.loads(file.read_text())


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_trained_with_its_settings_and_no_others(name, bench, tmp_path, monkeypatch):
    run = ROWS[name]
    plans = plan_of(bench, name)
    assert plans["configurations"][CONFIGURATION]["batch_size"] == 3
    if run.is_stock:
        return
    for stage in stages_of(run):
        door = door_class(stage)
        with_small_network(door, with_scratch(plans, stage))
        trainer = small_trainer(door, plans, small_dataset_json() | PHANTOM, tmp_path / stage, monkeypatch)
        asked = plans["configurations"][CONFIGURATION]["missmod"]["trainer"][stage]
        optimizer = {*OPTIMIZER_OF_DCSEG, "initial_lr"} if run.adam else set()
        assert set(asked) - {"pretrained"} == {"num_epochs", *optimizer, *run.settings.get(stage, {})} - {"pretrained"}
        settings = trainer.settings()
        assert {setting: settings[setting] for setting in asked} == asked
        assert all(
            value == getattr(door, setting, value) for setting, value in settings.items() if setting not in asked
        )


def with_scratch(plans, stage):
    """The plan, for a second stage without the checkpoint of its first."""
    if pretraining_of(stage):
        plans["configurations"][CONFIGURATION]["missmod"]["trainer"][stage]["pretrained"] = False
    return plans


@pytest.mark.parametrize("name", ROWS)
def test_all_rows_have_the_same_number_of_updates_or_say_how_many_times_that(name, bench):
    run = ROWS[name]
    if run.is_stock:
        return
    settings = plan_of(bench, name)["configurations"][CONFIGURATION]["missmod"]["trainer"]
    of_stages = [settings[stage]["num_epochs"] for stage in stages_of(run)]
    expected = [5] if len(of_stages) == 1 else [2, 3] if run.counted else [2, 5]  # of the last, with labels
    assert of_stages == [epochs * run.times for epochs in expected]
    assert (run.times == 1) == ("times the updates" not in name)


def test_both_ways_to_count_a_pretraining_are_rows():
    ways = {METHODS[name].counted for name in METHODS if METHODS[name].trainer == "M3AETrainer"}
    assert ways == {True, False}


def test_a_row_may_set_constants_of_its_network(bench):
    row = METHODS["DC-Seg"]._replace(network={"anatomy_level": "bottleneck"})
    plans = json.loads((bench.preprocessed / f"{bench.write_plan('DC-Seg, bottleneck', row)}.json").read_text())
    manager = PlansManager(plans)
    network = door_class("DCSegTrainer").build_network_architecture(
        manager, manager.get_configuration(CONFIGURATION), 4, 3
    )
    assert network.anatomy_level == -1
    assert "network" not in plan_of(bench, "DC-Seg")["configurations"][CONFIGURATION]["missmod"]


def test_two_stages_that_share_need_two_epochs(bench):
    bench.epochs = 1
    with pytest.raises(ValueError, match="M3AEPretrainTrainer and M3AETrainer"):
        bench.write_plan("M3AE, pretraining counted", ROWS["M3AE, pretraining counted"])
    assert bench.shares_of(ROWS["M3AE"]) == [1, 1]
    assert bench.write_plan("DC-Seg", ROWS["DC-Seg"]) == "nnUNetPlans_DcSeg"


def test_rows_have_plans_and_folders_of_their_own(bench):
    assert len({plans_name(name) for name in ROWS}) == len(ROWS)
    assert len({bench.scores(name, 0) for name in ROWS}) == len(ROWS)


def run_seeded(monkeypatch, *arguments):
    """What nnUNetv2_train would have done: its arguments, stock's epochs, and the first random number."""
    seen = {}

    def train():
        dataset_json = small_dataset_json()
        trainer = nnUNetTrainer(
            {**small_plans(), "continue_training": False}, CONFIGURATION, 0, dataset_json, torch.device("cpu")
        )
        length = trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch
        seen.update(argv=sys.argv[1:], length=length, number=torch.rand(1).item())

    monkeypatch.setattr(nnUNetTrainer, "__init__", nnUNetTrainer.__init__)
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", nnUNetTrainer.perform_actual_validation)
    monkeypatch.setattr(MetaLogger, "plot_progress_png", MetaLogger.plot_progress_png)
    monkeypatch.setattr(seeded_training, "run_training_entry", train)
    monkeypatch.setattr(sys, "argv", ["seeded_training", *arguments])
    seeded_training.main()
    return seen


def test_a_seeded_training_hands_the_rest_to_nnunet(monkeypatch, tmp_path):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    nnunet = ["501", "2d", "0", "-tr", "nnUNetTrainer", "-p", "plans", "-device", "cpu", "--c"]
    first = run_seeded(monkeypatch, "--seed", "3", "--epochs", "7", *nnunet)
    assert (first["argv"], first["length"]) == (nnunet, (7, 250, 50))
    shorter = run_seeded(
        monkeypatch, "--seed", "3", "--epochs", "7", "--iterations", "9", "--val_iterations", "2", *nnunet
    )
    assert shorter["length"] == (7, 9, 2)
    assert run_seeded(monkeypatch, "--seed", "3", "--epochs", "7", *nnunet)["number"] == first["number"]
    assert run_seeded(monkeypatch, "--seed", "4", "--epochs", "7", *nnunet)["number"] != first["number"]


@pytest.mark.parametrize("name", [name for name, run in ROWS.items() if run.adam])
def test_a_row_with_adam_has_the_optimizer_of_dcseg(name, bench, tmp_path, monkeypatch):
    rows = {row: door_class(ROWS[row].trainer) for row in (name, "DC-Seg")}
    of_row, of_dcseg = (
        small_trainer(door, plan_of(bench, row), small_dataset_json(), tmp_path, monkeypatch).optimizer
        for row, door in rows.items()
    )
    assert type(of_row) is type(of_dcseg)
    (group,), (expected,) = of_row.param_groups, of_dcseg.param_groups
    rates = {"params", "lr", "initial_lr"}
    assert {key: group[key] for key in group.keys() - rates} == {key: expected[key] for key in expected.keys() - rates}
    assert group["lr"] == ROWS[name].adam


def test_tables_have_the_mean_over_subsets_the_area_and_the_spread_over_seeds():
    dice = {0: (0.2, 0.4, 0.9), 1: (0.4, 0.6, 0.9)}
    means = pd.DataFrame(
        [
            ("A", seed, subset, "tumor", value)
            for seed, values in dice.items()
            for subset, value in zip(("x", "y", "x+y"), values, strict=True)
        ],
        columns=["trainer", "seed", "subset", "region", "dice"],
    )
    row = table_of_means(means).splitlines()[2].strip("| ").split(" | ")
    areas = [(0.3 + 0.9) / 2, (0.5 + 0.9) / 2]
    assert row[:3] == ["A", "2", f"{(0.5 + 1.9 / 3) / 2:.3f} ± {pd.Series([0.5, 1.9 / 3]).std():.3f}"]
    assert row[4] == f"{sum(areas) / 2:.3f} ± {pd.Series(areas).std():.3f}"
    assert robustness_area(pd.DataFrame({"tumor": dice[0]}, index=["x", "y", "x+y"]))["tumor"] == pytest.approx(
        areas[0]
    )
    assert "| x+y | tumor | 0.900 ± 0.000 |" in table_of_subsets(means).splitlines()


def test_the_means_of_a_comparison_are_over_the_cases_that_have_every_subset(tmp_path):
    table = long_table(cases=3)
    lacks_t1c = (table["case"] == "case_001") & table["subset"].str.contains("T1c")
    write_scores(tmp_path, table[~lacks_t1c])
    write_provenance(tmp_path, provenance(MODALITIES, tuple(REGIONS)))
    means = collect({"A": {0: tmp_path}}).set_index(["subset", "region"])["dice"]
    complete = table[table["case"] != "case_001"]
    for key, rows in complete.groupby(["subset", "region"]):
        assert means[key] == pytest.approx(rows["dice"].mean(), abs=5.1e-5)
    write_scores(tmp_path, table[(table["case"] == "case_001") ^ (table["subset"] == "T1c")])
    with pytest.raises(ValueError, match="Expected a case with every subset"):
        collect({"A": {0: tmp_path}})


@pytest.fixture(scope="module")
def page():
    return (REPOSITORY / "docs" / "does_it_help.md").read_text(encoding="utf-8")


def figures(name):
    return pd.read_csv(REPOSITORY / "benchmarks" / "figures" / f"{name}.csv", keep_default_na=False)


def test_the_page_has_the_tables_of_the_phantoms_figures(page):
    phantom = figures("phantom")
    assert table_of_means(phantom[phantom["trainer"].isin(METHODS)]) in page
    assert table_of_ablations(phantom, WHOLES) in page
    assert set(phantom["trainer"]) <= set(ROWS)


def test_the_page_has_the_table_of_the_readings(page):
    readings = figures("readings")
    assert table_by_count(readings) in page
    assert set(readings["trainer"]) - {"MST-KDNet, before", "M3AE, before"} <= set(ROWS)
    assert set(READINGS) <= set(readings["trainer"])


def test_a_table_by_count_has_the_mean_over_regions_by_the_number_of_modalities():
    dice = {"x": (0.2, 0.4), "y": (0.4, 0.6), "x+y": (0.8, 1.0)}
    rows = [("A", 0, subset, "pq"[i], value) for subset, both in dice.items() for i, value in enumerate(both)]
    means = pd.DataFrame(rows, columns=["trainer", "seed", "subset", "region", "dice"])
    assert table_by_count(means).splitlines()[2] == "| A | 1 | 0.567 | 0.400 | 0.900 |"


def test_the_page_has_the_table_of_the_gliomas_figures(page):
    glioma = figures("glioma")
    assert table_of_subsets(glioma) in page
    assert set(glioma["trainer"]) <= set(METHODS)


def test_an_ablations_gain_is_what_the_whole_has_more():
    rows = [("whole", 0, 0.5), ("whole", 1, 0.9), ("without", 0, 0.6)]
    means = pd.DataFrame(
        [(name, seed, subset, "tumor", dice) for name, seed, dice in rows for subset in ("x", "y")],
        columns=["trainer", "seed", "subset", "region", "dice"],
    )
    table = table_of_ablations(means, {"without": "whole", "not run": "whole"}).splitlines()
    assert table[2:] == ["| without | 0.600 | -0.100 | -0.100 |"]


@pytest.mark.parametrize("name", ["phantom_2d_cpu", "glioma_2d_cpu", "patients_2d_cpu"])
def test_the_settings_that_are_kept_can_be_merged(name):
    fragment = load_fragment(REPOSITORY / "benchmarks" / "settings" / f"{name}.json")
    plans = small_plans(dims=2, patch=[64, 64], features=(32, 64, 128, 256))
    merged = merge_fragment(plans, CONFIGURATION, fragment, "merged")["configurations"][CONFIGURATION]
    assert merged["batch_size"] == 4
    network = merged["architecture"]["arch_kwargs"]
    assert network == {**network, **fragment["architecture"]["arch_kwargs"]}


def test_stock_has_as_long_epochs_as_a_fragment_gives_the_others(bench):
    assert bench.iterations_of_stock() == []
    bench.fragment = load_fragment(REPOSITORY / "benchmarks" / "settings" / "patients_2d_cpu.json")
    assert bench.iterations_of_stock() == ["--iterations", "50", "--val_iterations", "5"]


# --- cost -------------------------------------------------------------------------------------------------------------


def test_settings_reach_the_trainers_that_have_them():
    setting = Setting((8, 8, 16), 16, settings={"separate_modalities": 1, "max_students": 1})
    for door, own in (("DCSegTrainer", "separate_modalities"), ("CCSDTrainer", "max_students")):
        block = plans_for(door_class(door), setting)["configurations"][CONFIGURATION]["missmod"]["trainer"]
        assert block[own] == 1
        assert not setting.settings.keys() - {own} & block.keys()


# --- profile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("DCSegTrainer", {"anatomy_encoders", "fusions", "decoder", "separate_decoder"}),
        ("M3AEPretrainTrainer", {"encoder", "decoder"}),
    ],
)
def test_a_profile_says_which_part_took_the_time(name, parts):
    spent = profile.spent_by(name, Setting((8, 8, 16), 16))
    step = spent["step"]
    backward = {f"{part}, backward" for part in parts}
    assert parts | backward | {"optimizer"} <= {part for part, time in step.time.items() if time > 0}
    assert step.time.total() == pytest.approx(step.operators.total())
    assert step.memory["decoder"] > 0
    assert list(spent) == (["step", "every subset"] if name == "DCSegTrainer" else ["step"])
    columns = profile.HEAD.splitlines()[0].count("|")
    for job, of_job in spent.items():
        assert "backward" not in " ".join(of_job.time) or job == "step"
        row = profile.row_of(name, job, of_job)
        assert row.count("|") == columns
        assert row.startswith(f"| {name} | {job} | ")
        assert (" + " in row) == (job == "step")
        assert "convolution" in row.split("|")[6]
