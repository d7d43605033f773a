"""What host/ relies on in nnU-Net, one test per seam: it fails with a sentence that says what has moved.

Those of the preprocessor stand in test_preprocessor.py, of a plan's format in test_plan_checks.py, of named classes in
test_named_classes.py, of the doors in test_doors.py.
"""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run import run_training
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_datasets import small_dataset
from small_models import small_images, write_case, write_model
from small_plans import CONFIGURATION, small_dataset_json, small_plans, small_trainer
from torch import nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.files.reading import read_images
from nnunetv2_missmod.host import checkpoint, logger, plan_block, train_command
from nnunetv2_missmod.host.augmentation import spatial_only
from nnunetv2_missmod.host.cropping import cropped_to_nonzero, nonzero_mask
from nnunetv2_missmod.host.deep_supervision import loss_at_one_level
from nnunetv2_missmod.host.fingerprint import NUM_VOXELS, PERCENTILES, foreground_intensities
from nnunetv2_missmod.host.folders import temporary_nnunet_folders
from nnunetv2_missmod.host.planner import SMALLEST_FEATURE_MAP, find_planner, plan_configuration, topology_for
from nnunetv2_missmod.host.predictor import label_map, mean_probabilities, num_forwards, predicting_with
from nnunetv2_missmod.host.raw_dataset import reader_class_for, training_files
from nnunetv2_missmod.host.trainer_lookup import find_trainer_class
from nnunetv2_missmod.host.unet import HEADS, decoder_alone, decoder_steps
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.prediction.model import PredictionSettings, open_predictor
from nnunetv2_missmod.prediction.regions import regions_of

HOST = Path(inspect.getfile(checkpoint)).parent
ELSEWHERE = {
    "preprocessor": "test_preprocessor.py",
    "plan_checks": "test_plan_checks.py",
    "plan_stages": "test_plan_checks.py",
    "named_classes": "test_named_classes.py",
    "doors": "test_doors.py",
}


def seam(module, what):
    """The sentence that a test fails with."""
    return f"nnU-Net {what}. Find the new place and mend nnunetv2_missmod/host/{module}.py."


def test_every_seam_says_what_it_relies_on_and_is_tested():
    own = Path(__file__).read_text(encoding="utf-8")
    for file in HOST.glob("*.py"):
        if file.stem == "__init__":
            continue
        beside = Path(__file__).with_name(ELSEWHERE.get(file.stem, "none"))
        tested = beside.is_file() or re.search(rf'seam\(\s*"{file.stem}"', own)
        assert tested, f"host/{file.name} has no test of what it relies on"
        assert "nnunet" in file.read_text(encoding="utf-8").split('"""')[1].lower().replace("-", ""), file.name


# --- trainers ---------------------------------------------------------------------------------------------------------


def test_trainers_are_found_by_name_or_not_at_all(monkeypatch):
    moved = seam("trainer_lookup", "no longer finds trainers by name in its own folders and in nnUNet_extTrainer")
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    assert find_trainer_class("nnUNetTrainer") is nnUNetTrainer, moved
    with pytest.raises(LookupError):
        find_trainer_class("DCSegTrainer")
    folder = Path(__file__).parents[2] / "trainers"
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    assert find_trainer_class("DCSegTrainer").__module__ == "nnunetv2_missmod.methods.dcseg.trainer", moved


class Plain(nnUNetTrainer):
    """A stock trainer, as the bases of this package's are."""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    plans = small_plans(features=(8, 8, 16, 16), patch=(16, 16, 16), num_epochs=3)
    return small_trainer(ModalityDropoutTrainer, plans, small_dataset_json(), tmp_path, monkeypatch)


def test_the_private_parts_of_the_trainer(trainer):
    moved = seam("trainer", "has renamed private parts of its trainer, or no longer asks for them")
    for part in ("_do_i_compile", "_get_deep_supervision_scales", "_set_batch_size_and_oversample", "_build_loss"):
        assert callable(getattr(nnUNetTrainer, part, None)), f"{part}: {moved}"
    assert trainer.compiles() is False, moved
    assert trainer.deep_supervision_scales() == [[1.0] * 3, [0.5] * 3, [0.25] * 3], moved
    assert hasattr(trainer, "_best_ema"), moved
    type(trainer).deep_supervision_scales, before = lambda self: [[1.0] * 3], type(trainer).deep_supervision_scales
    try:
        assert len(trainer._build_loss().weight_factors) == 1, moved
    finally:
        type(trainer).deep_supervision_scales = before
    source = inspect.getsource(nnUNetTrainer.initialize)
    order = [
        source.index(step)
        for step in ("_set_batch_size", "build_network_architecture", "configure_optim", "_build_loss")
    ]
    assert order == sorted(order), moved
    assert "_best_ema" in inspect.getsource(nnUNetTrainer.on_epoch_end), moved


def test_the_loss_at_one_level(trainer):
    moved = seam("deep_supervision", "wraps the loss of one level differently, or switches deep supervision elsewhere")
    assert isinstance(trainer.loss, DeepSupervisionWrapper), moved
    alone = loss_at_one_level(trainer.loss)
    logits, target = torch.randn(1, 3, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    assert alone(logits, target).ndim == 0, moved
    assert loss_at_one_level(alone) is alone
    trainer.set_deep_supervision_enabled(False)
    assert trainer.network.decoder.deep_supervision is False, moved


def test_the_curves_and_the_loggers_of_others(trainer):
    moved = seam("logger", "keeps the curves of a training differently")
    for epoch, score in enumerate((0.5, 1.0)):
        logger.log_scores(trainer.logger, epoch, [score, score], score, -score)
    assert logger.moving_averages(trainer.logger) == pytest.approx([0.5, 0.55]), moved
    curves = trainer.logger.get_checkpoint()
    assert curves["dice_per_class_or_region"] == [[0.5, 0.5], [1.0, 1.0]], moved
    assert curves["val_losses"] == [-0.5, -1.0], moved
    logger.log_scores(trainer.logger, 2, [np.nan, np.nan], np.nan, 0.0)
    assert logger.moving_averages(trainer.logger)[-1] == pytest.approx(0.55), moved

    told, drawn = [], []
    trainer.logger.loggers.append(type("Other", (), {"log": lambda self, *what: told.append(what)})())
    logger.log_elsewhere(trainer.logger, "loss/style", 0.5, 2)
    assert told == [("loss/style", 0.5, 2)], moved
    logger.draw_progress_with(trainer.logger, lambda *what: drawn.append(what))
    trainer.logger.plot_progress_png("folder")
    assert [folder for folder, _ in drawn] == ["folder"], moved
    assert set(drawn[0][1]) >= {"mean_fg_dice", "ema_fg_dice", "train_losses"}, moved


def test_what_changes_intensities_is_left_out_of_the_augmentation():
    moved = seam("augmentation", "composes its augmentation differently")
    arguments = ([16] * 3, (0, 0), None, (0, 1, 2), False)
    all_of_them = [str(t) for t in nnUNetTrainer.get_training_transforms(*arguments).transforms]
    kept = [str(t) for t in spatial_only(nnUNetTrainer.get_training_transforms)(*arguments).transforms]
    left_out = "".join(t for t in all_of_them if t not in kept)
    assert len(kept) < len(all_of_them), moved
    for name in ("GaussianNoise", "GaussianBlur", "MultiplicativeBrightness", "Contrast", "Gamma", "SimulateLowRes"):
        assert name in left_out or not any(name in t for t in all_of_them), f"{name} stays: {moved}"
    composed = spatial_only(nnUNetTrainer.get_training_transforms)(*arguments)
    images = {"image": torch.full((2, 16, 16, 16), 3.0), "segmentation": torch.zeros(1, 16, 16, 16)}
    for seed in range(8):
        torch.manual_seed(seed)
        np.random.seed(seed)
        found = composed(**images)["image"]
        assert found.max() == pytest.approx(3, abs=1e-3), moved
        assert found.min() > -1e-3, moved


def test_the_parts_of_the_train_command(monkeypatch):
    moved = seam(
        "train_command", "builds a trainer from the command's arguments, or loads its checkpoints, differently"
    )
    names = list(inspect.signature(run_training.get_trainer_from_args).parameters)
    assert names == [
        *("dataset_name_or_id", "configuration", "fold", "trainer_name", "plans_identifier", "continue_training"),
        "device",
    ], moved
    loaded = []
    fake = type("Trainer", (), {"load_checkpoint": lambda self, file: loaded.append(Path(file).name)})()
    fake.output_folder, fake.disable_checkpointing = "nowhere", False
    monkeypatch.setattr(run_training, "isfile", lambda file: file.endswith("checkpoint_latest.pth"))
    train_command.load(fake, True, False, None)
    assert loaded == ["checkpoint_latest.pth"], moved


# --- networks and checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_the_u_net_from_the_inside(residual):
    moved = seam("unet", "or dynamic_network_architectures build U-Nets of other parts")
    plans = PlansManager(small_plans(residual=residual, features=(8, 8, 16)))
    unet = Architecture.from_configuration(plans.get_configuration(CONFIGURATION)).unet(2, 3, True)
    images = torch.randn(1, 2, 16, 16, 16)
    expected = unet.eval()(images)
    levels = unet.encoder(images)
    decoder = decoder_alone(unet)
    assert not any(name.startswith("encoder") for name in decoder.state_dict()), moved
    features, outputs = levels[-1], []
    for step, skip in zip(decoder_steps(decoder), reversed(levels[:-1]), strict=True):
        features = step.stage(torch.cat((step.upsampling(features), skip), 1))
        outputs.insert(0, step.head(features))
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text: f"{moved}\n{text}")
    assert any(HEADS in name for name in unet.state_dict()), moved


def test_a_checkpoint_of_a_stock_trainer_opens_as_data_alone(tmp_path, monkeypatch):
    moved = seam("checkpoint", "keeps other things in a checkpoint than numbers, words and its log's arrays")
    plain = small_trainer(Plain, small_plans(features=(8, 8, 16)), small_dataset_json(), tmp_path, monkeypatch)
    for curve in ("train_losses", "val_losses", "mean_fg_dice"):
        plain.logger.log(curve, np.float32(0.5), 0)
    file = tmp_path / checkpoint.CHECKPOINTS[0]
    plain.save_checkpoint(str(file))
    try:
        found = checkpoint.load_data(file)
    except ValueError as error:
        pytest.fail(f"{moved} ({error})")
    checkpoint.check_checkpoint(found)
    assert found["trainer_name"] == "Plain", moved
    assert "inference_allowed_mirroring_axes" in found, moved
    source = inspect.getsource(run_training.maybe_load_checkpoint)
    places = [source.index(name) for name in checkpoint.CHECKPOINTS]
    assert places == sorted(places), moved


def test_a_configuration_keeps_what_is_not_nnunets():
    moved = seam("plan_block", "no longer keeps entries of a configuration that it does not know")
    plans = small_plans(spread_weight=0.5)
    plans["configurations"]["inheriting"] = {"inherits_from": CONFIGURATION}
    inherited = PlansManager(plans).get_configuration("inheriting")
    assert plan_block.plan_block(inherited) == {"trainer": {"spread_weight": 0.5}}, moved


# --- prediction -------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Another network of five output channels that counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls, self.loaded = 0, 0

    def load_state_dict(self, *_, **__):
        self.loaded += 1

    def forward(self, images):
        self.calls += 1
        return images[:, :1].expand(-1, 5, *images.shape[2:]).clone()


@pytest.mark.parametrize("mirroring", [False, True])
def test_the_predictor_runs_another_network_on_every_patch(mirroring, tmp_path, monkeypatch):
    moved = seam("predictor", "runs its sliding window, mirroring and folds differently")
    choice = write_model(tmp_path, monkeypatch, folds=(0, 1))
    predictor = open_predictor(choice, PredictionSettings("cpu", mirroring=mirroring, num_processes=0))
    network, own = Counting(), predictor.network
    volume = torch.randn(3, 20, 18, 24)
    with predicting_with(predictor, network, 5):
        logits = predictor.predict_logits_from_preprocessed_data(volume)
    assert logits.shape == (5, 20, 18, 24), moved
    assert network.loaded == 2, moved
    assert network.calls == num_forwards(predictor, volume) > 2, moved
    assert predictor.network is own
    assert predictor.label_manager.num_segmentation_heads == 3


@pytest.mark.parametrize("regions", [False, True])
def test_the_heads_are_the_labels_in_order_or_the_regions_of_dataset_json(regions, tmp_path, monkeypatch):
    moved = seam("predictor", "orders its heads, or makes probabilities and labels of them, differently")
    choice = write_model(tmp_path, monkeypatch, regions=regions)
    predictor = open_predictor(choice, PredictionSettings("cpu", num_processes=0))
    of_regions = regions_of(predictor.dataset_json)
    heads = predictor.label_manager.num_segmentation_heads
    logits = np.random.default_rng(0).normal(0, 2, (heads, 4, 5, 6)).astype(np.float16)
    exact = logits.astype(np.float64)
    probabilities = 1 / (1 + np.exp(-exact)) if regions else np.exp(exact) / np.exp(exact).sum(0)
    labels = probabilities.argmax(0)
    if regions:
        labels = np.zeros((4, 5, 6), dtype=int)
        for head, value in enumerate(predictor.dataset_json["regions_class_order"]):
            labels[probabilities[head] > 0.5] = value
    expected = {}
    for position, (name, values) in enumerate(of_regions.items()):
        of_region = probabilities[position] if regions else sum(probabilities[value] for value in values)
        expected[name] = of_region[np.isin(labels, values)].mean()
    found = mean_probabilities(logits, predictor.plans_manager, predictor.dataset_json, of_regions)
    assert found == pytest.approx(expected, rel=1e-5), moved
    nothing = np.full_like(logits, -9.0)
    if not regions:
        nothing[0] = 9.0
    empty = mean_probabilities(nothing, predictor.plans_manager, predictor.dataset_json, of_regions)
    assert all(np.isnan(value) for value in empty.values()), moved


def test_logits_become_a_label_map_on_the_grid_of_the_images(tmp_path, monkeypatch):
    moved = seam("predictor", "exports logits differently")
    choice = write_model(tmp_path, monkeypatch)
    predictor = open_predictor(choice, PredictionSettings("cpu", num_processes=0))
    images = small_images()
    files = write_case(tmp_path / "in", "case", images)
    reader = predictor.plans_manager.image_reader_writer_class()
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    model = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    volume, _, properties = preprocessor.run_case(files, None, *model)
    logits = np.zeros((3, *volume.shape[1:]), dtype=np.float16)
    logits[2] = 1
    found = label_map(logits, *model, properties)
    assert found.shape == read_images(reader, files, "case")[0].shape[1:], moved
    assert set(np.unique(found)) <= {0, 2}, moved
    assert (found == 2).any(), moved


def test_the_crop_is_the_filled_union_of_what_is_not_zero():
    moved = seam("cropping", "crops to something else than the filled union of the channels' voxels that are not zero")
    images = np.zeros((2, 8, 8, 8), dtype=np.float32)
    images[0, 1:6, 1:6, 1:6] = 1
    images[0, 3, 3, 3] = 0  # a hole
    images[1, 5:7, 5:7, 5:7] = 1
    union = nonzero_mask(images)
    assert union[3, 3, 3], moved
    assert np.array_equal(union, nonzero_mask((nonzero_mask(images[:1]) | nonzero_mask(images[1:]))[None])), moved
    cropped, labels = cropped_to_nonzero(images, np.zeros((1, 8, 8, 8), dtype=np.int8))
    assert cropped.shape == (2, 6, 6, 6), moved
    assert labels[0, 0, 5, 5] == -1, moved


# --- datasets and plans -----------------------------------------------------------------------------------------------


def test_intensities_are_drawn_from_each_channel_s_foreground():
    moved = seam("fingerprint", "draws the foreground's intensities differently")
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(2, 8, 8, 8)).astype(np.float32), np.zeros((1, 8, 8, 8), dtype=np.int8)
    labels[0, 2:5, 2:5, 2:5] = 1
    drawn = foreground_intensities(labels, images, 50)
    assert [len(values) for values in drawn] == [50, 50], moved
    for values, channel in zip(drawn, images, strict=True):
        assert set(values.tolist()) <= set(channel[labels[0] > 0].tolist()), moved
    again = foreground_intensities(labels, images, 50)
    assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True)), moved
    assert [len(values) for values in foreground_intensities(labels * 0, images, 50)] == [0, 0], moved
    module = inspect.getmodule(foreground_intensities).DatasetFingerprintExtractor
    source = inspect.getsource(module)
    assert all(name in source for name in PERCENTILES), moved
    assert f"{NUM_VOXELS:.0e}".replace("+0", "") == "1e8" and "10e7" in source, moved


def test_training_files_and_their_reader(tmp_path, capsys):
    moved = seam("raw_dataset", "lists training files, or chooses a reader, differently")
    description = small_dataset_json(2)
    for name in ("b_0000", "b_0001", "a_0000", "a_0001"):
        write_case(tmp_path / "imagesTr", name.split("_")[0], small_images(2, (6, 6, 6)))
    found = training_files(tmp_path, description)
    assert list(found) == ["a", "b"], moved
    assert [Path(file).name for file in found["b"]["images"]] == ["b_0000.nii.gz", "b_0001.nii.gz"], moved
    assert Path(found["b"]["label"]) == tmp_path / "labelsTr" / "b.nii.gz", moved
    assert "numTraining" in description, "the given description was changed"
    reader = reader_class_for(description, found["b"]["images"][0])
    assert reader().read_images(found["b"]["images"])[0].shape == (2, 6, 6, 6), moved
    assert capsys.readouterr().out == "", moved


def test_a_planner_is_asked_again_with_another_memory(tmp_path):
    moved = seam("planner", "plans configurations differently")
    dataset = small_dataset(tmp_path)
    base = dataset.plans["configurations"][CONFIGURATION]
    asked = []

    def memory(patch, architecture):
        asked.append((tuple(map(int, patch)), sorted(architecture)))
        return float(np.prod(patch))

    planner = find_planner("ExperimentPlanner", "Dataset501_Small", dataset.json, dataset.fingerprint)
    target = float(np.prod(base["median_image_size_in_voxels"])) / 2
    planned = plan_configuration(planner, base, memory, target)
    assert [len(patch) for patch, _ in asked] == [len(base["patch_size"])] * len(asked), moved
    assert asked[0][1] == ["_kw_requires_import", "arch_kwargs", "network_class_name"], moved
    sizes = [np.prod(patch) for patch, _ in asked]
    assert sizes == sorted(sizes, reverse=True), moved
    assert np.prod(planned["patch_size"]) <= target < sizes[0], moved
    with pytest.raises(LookupError):
        find_planner("nnUNetTrainer", "Dataset501_Small", dataset.json, dataset.fingerprint)
    strides, kernels, patch = topology_for([1, 1, 1], [33, 32, 30])
    assert patch == [40, 32, 32] or all(size % 4 == 0 for size in patch), moved
    assert len(strides) == len(kernels), moved
    assert min(n // s for n, s in zip(patch, np.prod(strides, axis=0), strict=True)) >= SMALLEST_FEATURE_MAP, moved
    json.dumps([strides, kernels, patch])


def test_nnunets_folders_are_read_when_they_are_asked_for(monkeypatch):
    moved = seam("folders", "reads its variables once, not whenever a folder is asked for")
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

    monkeypatch.setenv("nnUNet_raw", "/elsewhere")
    with temporary_nnunet_folders() as folder:
        assert {str(path) for path in (nnUNet_raw, nnUNet_preprocessed, nnUNet_results)} == {str(folder)}, moved
    assert str(nnUNet_raw) == "/elsewhere", moved
