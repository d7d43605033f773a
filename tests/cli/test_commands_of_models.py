"""The verbs that predict, score and report: their flags reach the functions, their failures the exit code."""

import inspect
import json
import os
from pathlib import Path

import pytest
import torch
from small_scores import long_table, provenance

from nnunetv2_missmod.cli.main import build_parsers, main
from nnunetv2_missmod.evaluation.evaluate import EvaluationSettings
from nnunetv2_missmod.evaluation.hausdorff import HD95_CONVENTIONS
from nnunetv2_missmod.evaluation.metrics import EMPTY_POLICIES, ScoringRules
from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import read_scores, write_scores
from nnunetv2_missmod.host.doors import VARIABLE, door_folder
from nnunetv2_missmod.machine.chatter import LOG, chatter
from nnunetv2_missmod.prediction.mask_table import append_masks
from nnunetv2_missmod.prediction.masks import predict_masks
from nnunetv2_missmod.prediction.model import ModelChoice, PredictionSettings
from nnunetv2_missmod.prediction.trust import TrustSettings
from nnunetv2_missmod.report.page import POLICIES

MODEL = "-d 137 -c 3d_fullres -tr DCSegTrainer -p myPlans -f 1 all -chk checkpoint_best.pth"
HOW = "-device cpu -step_size 0.25 --disable_tta -nps 5 --memory 1.5 -num_parts 4 -part_id 3"
CHOICE = ModelChoice("137", "3d_fullres", "DCSegTrainer", "myPlans", ("1", "all"), "checkpoint_best.pth")
SETTINGS = PredictionSettings("cpu", 0.25, False, 5, 4, 3, 1.5)
FEWEST = {
    "predict": ["predict", "-i", "images", "-o", "out", "-d", "137", "-c", "2d"],
    "evaluate": ["evaluate", "-o", "out", "-d", "137", "-c", "2d"],
}
FUNCTIONS = {
    "predict": "nnunetv2_missmod.prediction.masks.predict_masks",
    "evaluate": "nnunetv2_missmod.evaluation.evaluate.evaluate_model",
}


@pytest.fixture(autouse=True)
def no_doors(monkeypatch):
    """The verbs set the variable for this process; afterwards it is as it was."""
    monkeypatch.setenv(VARIABLE, "before")
    monkeypatch.delenv(VARIABLE)


@pytest.fixture
def arguments_of(monkeypatch):
    """What a verb calls its function with, by the function's own names."""
    calls = []
    for function in FUNCTIONS.values():
        module, _, name = function.rpartition(".")
        signature = inspect.signature(getattr(__import__(module, fromlist=[name]), name))

        def record(*arguments, signature=signature, **keywords):
            bound = signature.bind(*arguments, **keywords)
            bound.apply_defaults()
            calls.append(bound.arguments)
            return 0

        monkeypatch.setattr(function, record)

    def of(*flags):
        assert main(flags) == 0
        return calls.pop()

    return of


# --- flags ------------------------------------------------------------------------------------------------------------


def test_every_flag_of_predict_arrives(arguments_of):
    flags = f"predict -i images -o out {MODEL} {HOW} --subsets singles --min_voxels a=2 b=30"
    trust = ["--confidence", "0.8", "--refuse_mixups", "--no-calibration"]
    assert arguments_of(*flags.split(), "--continue_prediction", "--resample", *trust) == {
        "choice": CHOICE,
        "prediction": SETTINGS,
        "images": Path("images"),
        "out": Path("out"),
        "subsets": "singles",
        "min_voxels": {"a": 2, "b": 30},
        "continued": True,
        "resample": True,
        "settings": TrustSettings(use=False, confidence=0.8, refuse_mixups=True),
    }


def test_every_flag_of_evaluate_arrives(arguments_of):
    flags = (
        f"evaluate -i images -gt labels -o out {MODEL} {HOW} --subsets T1,T2 --min_voxels a=2 --no-save --refuse_mixups"
    )
    assert arguments_of(*flags.split(), "--empty", "brats", "--tolerance", "2.5", "--hd95", "medpy") == {
        "choice": CHOICE,
        "prediction": SETTINGS,
        "evaluation": EvaluationSettings(
            "T1,T2", ScoringRules("brats", 2.5, "medpy"), {"a": 2}, save=False, refuse_mixups=True
        ),
        "out": Path("out"),
        "images": Path("images"),
        "labels": Path("labels"),
    }


def test_the_defaults_are_those_of_the_functions(arguments_of, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    predicted, evaluated = arguments_of(*FEWEST["predict"]), arguments_of(*FEWEST["evaluate"])
    for arguments in (predicted, evaluated):
        assert arguments["choice"] == ModelChoice("137", "2d")
        assert arguments["prediction"] == PredictionSettings()
    defaults = {name: parameter.default for name, parameter in inspect.signature(predict_masks).parameters.items()}
    assert {name: predicted[name] or None for name in ("subsets", "min_voxels", "continued", "resample")} == {
        name: defaults[name] or None for name in ("subsets", "min_voxels", "continued", "resample")
    }
    assert evaluated["evaluation"] == EvaluationSettings()
    assert evaluated["images"] is evaluated["labels"] is None


def test_every_flag_of_report_arrives(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("s_1", "s_0", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "s_file").touch()
    calls = []
    monkeypatch.setattr(
        "nnunetv2_missmod.report.page.write_report", lambda *arguments: calls.append(arguments) or "page"
    )
    assert main(["report", "one", "two", "-o", "out"]) == 0
    assert (
        main(["report", "--group", "seeds=s_*", "--reference", "seeds", "one", "-o", "out", "--cases", "a", "b"]) == 0
    )
    assert calls == [
        ([Path("one"), Path("two")], Path("out"), None, {}, ()),
        ([Path("one")], Path("out"), "seeds", {"seeds": [Path("s_0"), Path("s_1")]}, ["a", "b"]),
    ]
    assert capsys.readouterr().out == "page\n" * 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group", "seeds"], "NAME=GLOB"),
        (["--group", "=one*"], "NAME=GLOB"),
        (["--group", "a=one*", "--group", "a=one*"], "a name for each"),
        (["--group", "a=nowhere*"], "fit nowhere*, got none"),
    ],
)
def test_a_wrong_group_is_an_error_that_says_how_it_is_given(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    assert main(["report", *flags, "-o", "out"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_the_doors_are_found_by_the_function_and_its_processes(verb, monkeypatch):
    seen = []
    monkeypatch.setattr(FUNCTIONS[verb], lambda *_: seen.append(os.environ[VARIABLE]) or 0)
    assert main([*FEWEST[verb], "-device", "cpu"]) == 0
    assert seen == [str(door_folder())]


@pytest.mark.parametrize(
    ("verb", "lacking"), [("predict", "-i"), ("predict", "-o"), ("predict", "-d"), ("evaluate", "-d"), ("report", "-o")]
)
def test_a_flag_that_is_needed_is_named(verb, lacking, capsys):
    flags = {**FEWEST, "report": ["report", "folder", "-o", "out"]}[verb]
    start = flags.index(lacking)
    with pytest.raises(SystemExit) as exit_:
        main(flags[:start] + flags[start + 2 :])
    assert exit_.value.code == 2
    required = {"-i": "one of the arguments -i --case is", "-d": "one of the arguments -d -m is"}
    assert required.get(lacking, f"the following arguments are required: {lacking}") in capsys.readouterr().err


# --- --min_voxels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["enhancing=200"], {"enhancing": 200}),
        (["enhancing=200", "whole tumor=0"], {"enhancing": 200, "whole tumor": 0}),
        (["core=2=10"], {"core=2": 10}),
        (["b=1", "a=2"], {"b": 1, "a": 2}),
    ],
)
def test_a_minimum_of_voxels_is_read_for_each_region_in_order(given, expected, arguments_of):
    found = arguments_of(*FEWEST["predict"], "-device", "cpu", "--min_voxels", *given)["min_voxels"]
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize("verb", FUNCTIONS)
@pytest.mark.parametrize("given", ["enhancing", "enhancing=", "=200", "enhancing=-1", "enhancing=2.5", "200", ""])
def test_what_is_no_minimum_of_voxels_is_named(verb, given, capsys):
    assert main([*FEWEST[verb], "-device", "cpu", "--min_voxels", "whole=3", given]) == 2
    error = capsys.readouterr().err
    assert error == f"missmod: Expected --min_voxels REGION=N, such as enhancing=200, got {given!r}.\n"


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", FUNCTIONS)
@pytest.mark.parametrize(
    ("failed", "code", "said"),
    [
        (0, 0, ""),
        (1, 1, "missmod: 1 case failed, see above; the others are done.\n"),
        (3, 1, "missmod: 3 cases failed, see above; the others are done.\n"),
    ],
)
def test_cases_that_failed_give_the_exit_code_1(verb, failed, code, said, monkeypatch, capsys):
    monkeypatch.setattr(FUNCTIONS[verb], lambda *_: failed)
    assert main([*FEWEST[verb], "-device", "cpu"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("verb", FUNCTIONS)
@pytest.mark.parametrize("error", [ValueError, NotImplementedError])
def test_a_mistake_is_said_in_a_line_with_the_exit_code_2(verb, error, monkeypatch, capsys):
    def fail(*_):
        raise error("Expected this, got that.")

    monkeypatch.setattr(FUNCTIONS[verb], fail)
    assert main([*FEWEST[verb], "-device", "cpu"]) == 2
    assert capsys.readouterr().err == "missmod: Expected this, got that.\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-device", "cpu", "-step_size", "2"], "got 2.0"),
        (["-device", "cpu", "-part_id", "1"], "got 1 of 1"),
        (["-device", "cpu", "--tolerance", "-1"], "got -1.0"),
    ],
)
def test_a_setting_that_cannot_be_is_said_in_a_line(flags, said, capsys):
    assert main([*FEWEST["evaluate"], *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("missmod: Expected ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*FEWEST["evaluate"], "-device", "tpu"], ("tpu", "cuda", "cpu", "mps")),
        ([*FEWEST["predict"], "-device", "tpu"], ("tpu", "cuda", "cpu", "mps")),
        ([*FEWEST["evaluate"], "--empty", "none"], ("none", "nnunet", "brats", "zero", "one")),
        ([*FEWEST["evaluate"], "--hd95", "itk"], ("itk", "surface", "medpy", "monai")),
        (["plan", "-d", "5", "-tr", "DCSegTrainer", "--setting", "best"], ("best", "nnunet", "paper", "quick")),
        (["plan", "-d", "5", "-tr", "DCSegTrainer", "-device", "mps"], ("mps", "auto", "cuda", "cpu")),
        (["demo", "--device", "tpu"], ("tpu", "cpu", "cuda", "mps")),
    ],
)
def test_a_flag_that_takes_few_words_lists_them(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(repr(word) in error or word in error.split("choose from")[1] for word in words)
    with pytest.raises(SystemExit):
        main([arguments[0], "--help"])
    assert "{" + ",".join(words[1:]) + "}" in "".join(capsys.readouterr().out.split())


def test_a_configuration_is_needed_where_no_model_is_known(monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert main(["evaluate", "-o", "out", "-d", "137", "-device", "cpu"]) == 2
    assert "missmod: Expected -c, a configuration, or the variable nnUNet_results" in capsys.readouterr().err


# --- --json and the log -----------------------------------------------------------------------------------------------


def chatty(*_):
    """Stands for a verb's function: it speaks, and so does nnU-Net."""
    print("case: done")
    with chatter():
        print("Searching for class")
    return 1


def test_the_masks_as_json_and_all_else_on_standard_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(FUNCTIONS["predict"], chatty)
    append_masks(tmp_path, [{"case": "a", "subset": "T1", "mask": "T1/a.nii.gz", "channels": "T1"}])
    assert main(["predict", "-i", "images", "-o", str(tmp_path), "-d", "137", "-c", "2d", "-device", "cpu", "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["folder"], found["failed"]) == (str(tmp_path), 1)
    (mask,) = found["masks"]
    assert (mask["case"], mask["subset"], mask["mask"], mask["channels"]) == ("a", "T1", "T1/a.nii.gz", "T1")
    assert "case: done" in err
    assert "Searching" not in err
    assert "Searching" in (tmp_path / LOG).read_text()


def test_the_scores_as_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(FUNCTIONS["evaluate"], chatty)
    write_provenance(tmp_path, provenance())
    write_scores(tmp_path, long_table(2, ("FLAIR", "T1c"), ("whole", "enhancing"), undefined=0.3))
    flags = ["evaluate", "-o", str(tmp_path), "-d", "137", "-c", "2d", "-device", "cpu", "--json", "--verbose"]
    assert main(flags) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    table, whose = read_scores(tmp_path)
    assert (found["model"], found["cases"], found["failed"]) == (whose.model, table["case"].nunique(), 1)
    assert set(found["mean_dice"]) == set(table["subset"])
    for subset, dice in found["mean_dice"].items():
        for region, value in dice.items():
            rows = table[(table["subset"] == subset) & (table["region"] == region)]["dice"]
            assert value == (None if rows.isna().all() else pytest.approx(rows.mean()))
    assert set(found["mean_dice_over_subsets"]) == set(whose.regions)
    assert "case: done" in err
    assert "Searching" in err
    assert not (tmp_path / LOG).exists()


def test_the_mean_over_the_subsets_as_json_is_over_the_cases_that_have_them_all(monkeypatch, tmp_path, capsys):
    """As on the console: the one case that lacks a modality would move it."""
    monkeypatch.setattr(FUNCTIONS["evaluate"], chatty)
    write_provenance(tmp_path, provenance())
    table = long_table(3, ("FLAIR", "T1c"), ("whole", "enhancing"))
    lacking = table["case"].unique()[0]
    table = table[(table["case"] != lacking) | (table["subset"] == "FLAIR")]
    write_scores(tmp_path, table)
    main(["evaluate", "-o", str(tmp_path), "-d", "137", "-c", "2d", "-device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["cases"], found["cases_of_mean_over_subsets"], found["same_cases"]) == (3, 2, True)
    complete = read_scores(tmp_path).table.query("case != @lacking")
    for region, mean in found["mean_dice_over_subsets"].items():
        of_subsets = complete[complete["region"] == region].groupby("subset")["dice"].mean()
        assert mean == pytest.approx(of_subsets.mean())


def test_the_words_of_the_conventions_are_those_that_scores_know():
    """They stand in the flags too, so that the help needs no heavy import."""
    of_flags = {flag.dest: flag.choices for flag in build_parsers()[1]["evaluate"].flags}
    assert tuple(of_flags["empty"]) == tuple(EMPTY_POLICIES) == tuple(POLICIES)
    assert tuple(of_flags["hd95"]) == tuple(HD95_CONVENTIONS)


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_a_mistake_leaves_standard_output_empty(verb, monkeypatch, capsys):
    assert main([*FEWEST[verb], "-device", "cpu", "-step_size", "2", "--json"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_a_dataset_that_is_not_there_is_the_users_mistake(verb, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    flags = [*FEWEST[verb], "-device", "cpu"]
    flags[flags.index("137")] = "Dataset777_None"
    assert main(flags) == 2
    assert "Trained on this dataset are: none" in capsys.readouterr().err
