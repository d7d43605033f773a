import hashlib
import json
import shutil

import pytest
import torch
from small_models import small_images, write_case, write_label, write_model

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.prediction.model import (
    ModelChoice,
    PredictionSettings,
    find_trainer,
    fingerprints,
    open_predictor,
)

CPU = PredictionSettings(device="cpu", num_processes=0)
FINAL = "checkpoint_final.pth"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model of one fold, its checkpoints empty files."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    dataset = tmp_path / "Dataset501_Small"
    for trainer, folds in (("TrainerB", ("fold_2", "fold_all")), ("TrainerA", ())):
        (dataset / f"{trainer}__smallPlans__3d_fullres").mkdir(parents=True)
        for fold in folds:
            folder = dataset / f"{trainer}__smallPlans__3d_fullres" / fold
            folder.mkdir()
            (folder / FINAL).touch()
    (dataset / "crossval_results_folds_0_1").mkdir()
    return ModelChoice("501", "3d_fullres", "TrainerB", "smallPlans", ("2", "all"))


def changed(choice, **changes):
    return ModelChoice(**{**vars(choice), **changes})


# --- which model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["501", "Dataset501_Small"])
def test_a_model_is_found_by_its_datasets_id_or_name(model, tmp_path, dataset):
    choice = changed(model, dataset=dataset)
    folder = tmp_path / "Dataset501_Small" / "TrainerB__smallPlans__3d_fullres"
    assert choice.dataset_name == "Dataset501_Small"
    assert choice.folder == folder
    assert choice.checkpoint_files() == [folder / "fold_2" / FINAL, folder / "fold_all" / FINAL]


@pytest.mark.parametrize("dataset", ["502", "Small"])
def test_a_dataset_that_is_not_there_is_an_error(model, dataset):
    with pytest.raises(ValueError, match=rf"-d {dataset}|{dataset}"):
        _ = changed(model, dataset=dataset).folder


@pytest.mark.parametrize("other", [{"trainer": "TrainerC"}, {"plans": "otherPlans"}, {"configuration": "2d"}])
def test_a_model_that_is_not_there_lists_the_ones_that_are(model, other):
    trained = r"are: TrainerA__smallPlans__3d_fullres, TrainerB__smallPlans__3d_fullres\. Give its -tr, -p and -c"
    with pytest.raises(ValueError, match=trained):
        _ = changed(model, **other).folder


def test_a_dataset_without_models_says_so(model):
    with pytest.raises(ValueError, match=r"Trained on this dataset are: none\."):
        _ = changed(model, dataset="Dataset777_New").folder


def test_without_the_results_variable_there_is_no_model(model, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(ValueError, match="nnUNet_results, which says where the models are"):
        _ = changed(model, dataset="Dataset501_Small").folder


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"folds": ("2", "3")}, "fold_2, fold_all"),
        ({"checkpoint": "checkpoint_best.pth"}, "none"),
        ({"trainer": "TrainerA"}, "none"),
    ],
)
def test_a_fold_that_is_not_trained_lists_the_ones_that_are(model, change, trained):
    choice = changed(model, **change)
    with pytest.raises(ValueError, match=rf"Folds with a {choice.checkpoint} are: {trained}\. Train this fold, or"):
        choice.checkpoint_files()


def test_fingerprints_are_of_what_the_files_hold(tmp_path):
    contents = [b"a" * (2**20 + 1), b"a" * 2**20, b"a" * 2**20]
    files = [tmp_path / name for name in ("one", "two", "three")]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert fingerprints(files) == [hashlib.sha256(content).hexdigest() for content in contents]
    assert len(set(fingerprints(files))) == 2


# --- how to predict ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"device": "tpu"}, "-device cuda, cpu or mps, got tpu"),
        ({"step_size": 0.0}, "-step_size above 0 and up to 1, got 0.0"),
        ({"step_size": 1.1}, "-step_size above 0 and up to 1, got 1.1"),
        ({"part_id": 2, "num_parts": 2}, "-part_id from 0 to -num_parts - 1, got 2 of 2"),
        ({"part_id": -1}, "-part_id from 0 to -num_parts - 1, got -1 of 1"),
        ({"num_parts": 0}, "got 0 of 0"),
        ({"num_processes": -1}, "-nps 0 or more, got -1"),
        ({"memory": 0.0}, "--memory above 0, in GB, got 0.0"),
        ({"memory": float("nan")}, "--memory above 0, in GB, got nan"),
    ],
)
def test_settings_that_cannot_be_are_errors(wrong, said):
    with pytest.raises(ValueError, match=said):
        PredictionSettings(**{"device": "cpu", **wrong})


def test_settings_at_their_limits_are_right():
    PredictionSettings(device="cpu", step_size=1.0, num_processes=0, num_parts=2, part_id=1)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"found none\. Take -device cpu"):
        PredictionSettings(device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert PredictionSettings().device == "cuda"


# --- open -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def choice(tmp_path, monkeypatch):
    return write_model(tmp_path, monkeypatch, "nnUNetTrainer", num_modalities=2)


def edit_checkpoint(choice, edit):
    (file,) = choice.checkpoint_files()
    checkpoint = torch.load(file, weights_only=False)
    edit(checkpoint)
    torch.save(checkpoint, file)


def edit_configuration(choice, **changes):
    file = choice.folder / "plans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"].update(changes)
    file.write_text(json.dumps(plans))


def test_a_model_is_opened_with_the_weights_of_its_checkpoint(choice):
    settings = PredictionSettings(device="cpu", step_size=0.75, mirroring=False)
    predictor = open_predictor(choice, settings)
    (file,) = choice.checkpoint_files()
    checkpoint = torch.load(file, weights_only=False)
    torch.testing.assert_close(predictor.network.state_dict(), checkpoint["network_weights"])
    torch.testing.assert_close(predictor.list_of_parameters, [checkpoint["network_weights"]])
    assert (predictor.tile_step_size, predictor.use_mirroring, predictor.device.type) == (0.75, False, "cpu")
    assert predictor.allowed_mirroring_axes == checkpoint["inference_allowed_mirroring_axes"]
    assert predictor.trainer_name == "nnUNetTrainer"


def test_a_checkpoint_of_an_unknown_trainer_says_where_it_is_looked_for(choice):
    edit_checkpoint(choice, lambda checkpoint: checkpoint.update(trainer_name="MyTrainer"))
    with pytest.raises(ValueError, match=r"a trainer that nnU-Net finds, got MyTrainer\. .*nnUNet_extTrainer"):
        open_predictor(choice, CPU)


def test_a_trainer_with_the_signature_before_is_named(monkeypatch):
    class OldTrainer:
        @staticmethod
        def build_network_architecture(architecture_class_name, arch_init_kwargs):
            raise AssertionError

    monkeypatch.setattr("nnunetv2_missmod.prediction.model.find_trainer_class", lambda name: OldTrainer)
    with pytest.raises(ValueError, match=r"takes plans_manager, .* got OldTrainer with the signature before"):
        find_trainer("OldTrainer")


def test_the_weights_of_another_network_are_named(choice):
    edit_checkpoint(choice, lambda checkpoint: checkpoint["network_weights"].popitem())
    with pytest.raises(ValueError, match=r"(?s)that .*plans.json describes, got others in .*fold_0.*Missing key"):
        open_predictor(choice, CPU)


def test_a_configuration_with_a_previous_stage_is_an_error(choice):
    edit_configuration(choice, previous_stage="3d_lowres")
    with pytest.raises(ValueError, match=r"without a previous stage, got 3d_fullres.*-prev_stage_predictions"):
        open_predictor(choice, CPU)


def test_a_plan_with_a_preprocessor_of_its_own_is_an_error(choice):
    edit_configuration(choice, preprocessor_name="MyPreprocessor")
    with pytest.raises(NotImplementedError, match="got MyPreprocessor"):
        open_predictor(choice, CPU)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("{")])
def test_a_file_of_the_model_that_cannot_be_read_is_named(choice, name, damage):
    damage(choice.folder / name)
    with pytest.raises(ValueError, match=rf"Expected {name} of nnU-Net at {choice.folder / name}, but it cannot"):
        open_predictor(choice, CPU)


# --- a model from elsewhere -------------------------------------------------------------------------------------------


def edit_plans(choice, edit):
    file = choice.folder / "plans.json"
    plans = json.loads(file.read_text())
    edit(plans, plans["configurations"]["3d_fullres"])
    file.write_text(json.dumps(plans))


def popen(file):
    def edit(_, configuration):
        kwargs = {"args": f"echo x > {file}", "shell": True}
        configuration["architecture"]["arch_kwargs"].update(nonlin="subprocess.Popen", nonlin_kwargs=kwargs)

    return edit


def test_a_plan_executes_nothing(choice, tmp_path):
    edit_plans(choice, popen(tmp_path / "executed"))
    plans = choice.folder / "plans.json"
    with pytest.raises(
        ValueError, match=rf"^{plans}: expected architecture.arch_kwargs.nonlin of configuration 3d_full"
    ):
        open_predictor(choice, CPU)
    assert not (tmp_path / "executed").exists()


def test_predict_evaluate_and_plan_execute_nothing(choice, tmp_path, capsys):
    edit_plans(choice, popen(tmp_path / "executed"))
    write_case(tmp_path / "images", "case", small_images(2))
    write_label(tmp_path / "labels", "case")
    preprocessed = tmp_path / "nnUNet_preprocessed" / "Dataset501_Small"
    for name, other in (("plans.json", "smallPlans.json"), ("dataset.json", "dataset.json")):
        shutil.copy(choice.folder / name, preprocessed / other)
    model = ["-d", "501", "-c", "3d_fullres", "-tr", "nnUNetTrainer", "-p", "smallPlans", "-f", "0", "-device", "cpu"]
    folders = ["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    plan = ["plan", "-d", "501", "-p", "smallPlans", "-tr", "DCSegTrainer", "-device", "cpu"]
    (tmp_path / "fragment.json").write_text("{}")
    for arguments in (
        ["predict", *folders, *model],
        ["evaluate", *folders, "-gt", str(tmp_path / "labels"), *model],
        [*plan, "--show"],
        [*plan, "--merge", str(tmp_path / "fragment.json")],
        [*plan, "--setting", "paper"],
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("missmod: ")
        assert "architecture.arch_kwargs.nonlin of configuration 3d_fullres" in line
    assert not (tmp_path / "executed").exists()
    assert {file.name for file in preprocessed.glob("*.json")} == {"smallPlans.json", "dataset.json"}


@pytest.mark.parametrize("name", ["os", "np", "join", "nnUNetPredictor"])
def test_a_trainer_is_one_of_nnunets(choice, name):
    edit_checkpoint(choice, lambda checkpoint: checkpoint.update(trainer_name=name))
    with pytest.raises(ValueError, match=rf"a trainer that nnU-Net finds, got {name}\."):
        open_predictor(choice, CPU)


def test_weights_that_are_not_finite_name_the_file(choice):
    edit_checkpoint(
        choice, lambda checkpoint: next(iter(checkpoint["network_weights"].values())).view(-1)[0].fill_(torch.nan)
    )
    with pytest.raises(ValueError, match=rf"got {choice.checkpoint_files()[0]}: .*NaN or infinity in encoder"):
        open_predictor(choice, CPU)


def test_a_plan_for_other_modalities_is_an_error(choice):
    dataset_json = json.loads((choice.folder / "dataset.json").read_text())
    dataset_json["channel_names"]["2"] = "mod2"
    (choice.folder / "dataset.json").write_text(json.dumps(dataset_json))
    with pytest.raises(
        ValueError, match=r"normalization_schemes of configuration 3d_fullres to be one for each of the 3"
    ):
        open_predictor(choice, CPU)


@pytest.mark.parametrize("axes", ["abc", (3,), [-1], 5, (0, "1"), {"a": 1}])
def test_mirroring_axes_that_are_not_there_are_an_error(choice, axes):
    edit_checkpoint(choice, lambda checkpoint: checkpoint.update(inference_allowed_mirroring_axes=axes))
    with pytest.raises(ValueError, match=r"inference_allowed_mirroring_axes below 3 in .*fold_0"):
        open_predictor(choice, CPU)


def test_folds_of_different_trainers_are_an_error(choice):
    (file,) = choice.checkpoint_files()
    other = choice.folder / "fold_1" / FINAL
    other.parent.mkdir()
    torch.save({**torch.load(file, weights_only=False), "trainer_name": "ModalityDropoutTrainer"}, other)
    with pytest.raises(
        ValueError, match=rf"Expected a checkpoint of nnUNetTrainer in {other}, got one of ModalityDropout"
    ):
        open_predictor(changed(choice, folds=("0", "1")), CPU)


def test_a_network_that_cannot_be_built_is_one_line(choice):
    edit_plans(
        choice, lambda _, configuration: configuration["architecture"]["arch_kwargs"].update(nonlin_kwargs={"x": 1})
    )
    with pytest.raises(
        ValueError, match=r"^Expected a plan that the network of nnUNetTrainer can be built from, got [^\n]*$"
    ):
        open_predictor(choice, CPU)
