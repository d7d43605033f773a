"""The models of nnUNet_results, and which is meant where a command leaves a part of its name out."""

import json

import pytest
import torch

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.host.checkpoint import CHECKPOINTS
from nnunetv2_missmod.prediction.model import ModelChoice
from nnunetv2_missmod.prediction.trained import complete_choice, trained_models

FINAL, LATEST, BEST = CHECKPOINTS
DATASET = "Dataset501_Small"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Write a model's checkpoint."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))

    def write(
        trainer, configuration="3d_fullres", plans="nnUNetPlans", fold="0", name=FINAL, epochs=3, dataset=DATASET
    ):
        folder = tmp_path / dataset / f"{trainer}__{plans}__{configuration}" / f"fold_{fold}"
        folder.mkdir(parents=True, exist_ok=True)
        averages = [0.1 * epoch for epoch in range(1, epochs + 1)]
        torch.save({"current_epoch": epochs, "logging": {"ema_fg_dice": averages}}, folder / name)
        return folder / name

    return write


def completed(configuration=None, trainer=None, plans=None):
    given = {"configuration": configuration, "trainer": trainer, "plans": plans}
    defaults = configuration or "", trainer or "nnUNetTrainer", plans or "nnUNetPlans"
    found = complete_choice(ModelChoice("501", *defaults, ("0",), BEST), given)
    assert (found.dataset, found.folds, found.checkpoint) == ("501", ("0",), BEST)
    return found.configuration, found.trainer, found.plans


# --- which is meant ---------------------------------------------------------------------------------------------------


def test_the_only_model_is_meant_and_named(trained, capsys):
    trained("DCSegTrainer", "2d", "myPlans")
    assert completed() == completed("2d") == completed(trainer="DCSegTrainer") == ("2d", "DCSegTrainer", "myPlans")
    said = "missmod: the one trained model of Dataset501_Small that fits is -c 2d -tr DCSegTrainer -p myPlans.\n"
    assert capsys.readouterr().err == 3 * said


def test_the_only_model_that_fits_what_is_given_is_meant(trained):
    trained("DCSegTrainer")
    trained("CCSDTrainer")
    assert completed(trainer="CCSDTrainer") == ("3d_fullres", "CCSDTrainer", "nnUNetPlans")


def test_several_that_fit_are_listed(trained):
    trained("DCSegTrainer")
    trained("CCSDTrainer")
    trained("CCSDTrainer", "2d")
    with pytest.raises(ValueError, match=r"got -c 3d_fullres, which fit more than one model") as error:
        completed("3d_fullres")
    assert "-c 3d_fullres -tr CCSDTrainer -p nnUNetPlans; -c 3d_fullres -tr DCSegTrainer -p nnUNetPlans" in str(
        error.value
    )
    assert "2d" not in str(error.value)
    with pytest.raises(ValueError, match=r"got none of -c, -tr and -p, .*2d"):
        completed()


def test_nnunets_own_trainer_is_meant_as_ever_where_it_is_there(trained, capsys):
    trained("DCSegTrainer")
    trained("nnUNetTrainer")
    assert completed("3d_fullres") == ("3d_fullres", "nnUNetTrainer", "nnUNetPlans")
    assert capsys.readouterr().err == ""


def test_what_is_given_in_full_is_not_looked_up(trained, monkeypatch):
    monkeypatch.setattr("nnunetv2_missmod.prediction.trained.trained_models", None)
    assert completed("2d", "ATrainer", "p") == ("2d", "ATrainer", "p")


def test_a_pretraining_segments_nothing(trained):
    trained("M3AETrainer")
    trained("M3AEPretrainTrainer")
    assert completed() == ("3d_fullres", "M3AETrainer", "nnUNetPlans")


def test_where_none_fits_those_that_are_there_are_listed(trained):
    trained("DCSegTrainer")
    with pytest.raises(ValueError, match=r"got -tr CCSDTrainer, which fit no model.*are: -c 3d_fullres -tr DCSegTrain"):
        completed(trainer="CCSDTrainer")


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_says_how_far_each_fold_is_and_what_to_type(trained, tmp_path, capsys):
    trained("DCSegTrainer", plans="myPlans")
    trained("DCSegTrainer", plans="myPlans", fold="1", name=LATEST, epochs=2)
    trained("DCSegTrainer", plans="myPlans", fold="1", name=BEST, epochs=1)
    trained("CCSDTrainer", dataset="Dataset007_Other", fold="all", name=BEST, epochs=1)
    assert main(["models"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Dataset007_Other: CCSDTrainer, 3d_fullres, nnUNetPlans",
        "  fold all: not complete after 1 epochs, pseudo Dice 0.100",
        f"  -d 7 -c 3d_fullres -tr CCSDTrainer -p nnUNetPlans -f all -chk {BEST}",
        "Dataset501_Small: DCSegTrainer, 3d_fullres, myPlans",
        "  fold 0: complete after 3 epochs, pseudo Dice 0.300; fold 1: not complete after 2 epochs, pseudo Dice 0.200",
        "  -d 501 -c 3d_fullres -tr DCSegTrainer -p myPlans -f 0",
        f"2 models in {tmp_path}.",
    ]


def test_the_list_of_one_dataset_as_json(trained, capsys):
    trained("DCSegTrainer")
    trained("CCSDTrainer", dataset="Dataset007_Other")
    assert main(["models", "-d", "7", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert (model["dataset"], model["trainer"]) == ("Dataset007_Other", "CCSDTrainer")
    assert model["folds"] == [
        {
            "fold": "0",
            "checkpoint": FINAL,
            "is_readable": True,
            "epochs": 3,
            "pseudo_dice": pytest.approx(0.3),
            "is_complete": True,
        }
    ]


def test_a_pretraining_has_no_dice_and_nothing_to_type(trained, capsys):
    trained("M3AEPretrainTrainer")
    assert main(["models"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "  fold 0: complete after 3 epochs",
        "  a pretraining, which segments nothing",
    ]


def test_a_checkpoint_that_cannot_be_read_stays_in_the_list(trained, capsys):
    trained("DCSegTrainer").write_bytes(b"no checkpoint")
    assert main(["models"]) == 0
    assert f"fold 0: complete, {FINAL} cannot be read" in capsys.readouterr().out


def test_a_checkpoint_of_weights_alone_stays_in_the_list(trained, capsys):
    torch.save({"network_weights": {}}, trained("DCSegTrainer"))
    assert main(["models"]) == 0
    assert "  fold 0: complete\n" in capsys.readouterr().out


def test_folders_without_a_checkpoint_are_no_models(tmp_path):
    for name in ("DCSegTrainer__nnUNetPlans__2d/fold_0", "notes", "a__b/fold_0"):
        (tmp_path / DATASET / name).mkdir(parents=True)
    assert trained_models(tmp_path) == []


@pytest.mark.parametrize("results", [None, "/nowhere"])
def test_without_the_folder_of_results_the_variable_is_asked_for(results, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_results", raising=False)
    if results:
        monkeypatch.setenv("nnUNet_results", results)
    assert main(["models"]) == 2
    assert "Expected the variable nnUNet_results" in capsys.readouterr().err
