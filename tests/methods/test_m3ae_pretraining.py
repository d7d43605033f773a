"""M3AE's first stage: its step against a plain computation, its optimizer, its validation and what it leaves behind."""

import copy
import json
import math
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer, write_preprocessed

from nnunetv2_missmod.methods.m3ae import pretraining
from nnunetv2_missmod.methods.m3ae.masking import draw_visible_blocks, drop_modalities
from nnunetv2_missmod.methods.m3ae.pictures import central_patch
from nnunetv2_missmod.methods.m3ae.pretraining import M3AEPretrainTrainer
from nnunetv2_missmod.modalities import all_subsets, subset_name
from nnunetv2_missmod.training.optimizers import CosineLR

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

TINY = (8, 8, 16)
NAMES = ["mod0", "mod1", "mod2"]
EVERYTHING, INCOMPLETE = [[True] * 3] * 2, [[True, False, True], [True, True, False]]
SPLITS = [{"train": ["a", "b", "c"], "val": ["d"]}]


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(modalities=3, dims=2, patch=None, regions=False, seed=0, absent=None, **overrides):
        plans = small_plans(modalities, dims, patch=patch, features=TINY, **overrides)
        dataset_json = small_dataset_json(modalities, regions)
        write_preprocessed(tmp_path, plans, dataset_json, ("a", "b", "c", "d"), absent)
        trainer = small_trainer(M3AEPretrainTrainer, plans, dataset_json, tmp_path, monkeypatch, seed=seed)
        write_split(trainer)
        return trainer

    return make


def write_split(trainer):
    base = Path(trainer.preprocessed_dataset_folder_base)
    (base / "dataset_fingerprint.json").write_text("{}")
    (base / "splits_final.json").write_text(json.dumps(SPLITS))


@pytest.fixture
def unplotted(monkeypatch):
    """No curves: they take longer than an epoch here."""
    monkeypatch.setattr(pretraining, "draw_progress", lambda *_: None)


@pytest.fixture
def pictures(monkeypatch):
    """What would be drawn, by the name of the file."""
    drawn = {}
    for function in ("draw_reconstruction", "draw_substitute", "draw_progress"):
        monkeypatch.setattr(pretraining, function, lambda file, *content: drawn.update({file.name: content}))
    return drawn


def fresh(trainer, **arguments):
    """The same trainer as another process would make it, not yet initialised."""
    given = {**trainer.my_init_kwargs, **arguments}
    plans = {**copy.deepcopy(given.pop("plans")), "continue_training": False}
    return type(trainer)(plans, **given)


def prepared(trainer, available=EVERYTHING, seed=0):
    """A batch as the training step takes it."""
    trainer.available_in_case = dict(zip("ab", map(tuple, available), strict=True))
    return trainer.prepare_batch(random_batch(trainer, seed=seed))


def hear(trainer):
    """Every input and output of the network from now on."""
    heard = []
    trainer.network.register_forward_hook(lambda _, inputs, output: heard.append((inputs, output)))
    return heard


def metrics(trainer):
    return {(name, epoch): float(value) for epoch, name, value in trainer.epoch_log.rows()}


# --- what the network is given: the clean image -----------------------------------------------------------------------

KEPT = ["SpatialTransform", "MirrorTransform", "MaskImageTransform", "RemoveLabelTransform"]
LEFT_OUT = ["GaussianNoise", "GaussianBlur", "MultiplicativeBrightness", "Contrast", "SimulateLowResolution", "Gamma"]


def transforms_of(trainer_class, dummy_2d=False, regions=None, scales=((1, 1, 1), (0.5, 0.5, 0.5))):
    pipeline = trainer_class.get_training_transforms(
        np.array([16, 16, 16]),
        (-0.5, 0.5),
        scales,
        (0, 1, 2),
        dummy_2d,
        use_mask_for_norm=[True] * 3,
        is_cascaded=False,
        foreground_labels=[1, 2],
        regions=regions,
        ignore_label=None,
    )
    return pipeline, [type(t).__name__ for t in pipeline.transforms]


def test_the_pipeline_is_nnunet_s_without_what_changes_intensities():
    _, names = transforms_of(M3AEPretrainTrainer)
    assert names == [*KEPT, "DownsampleSegForDSTransform"]
    stock, stock_names = transforms_of(nnUNetTrainer)
    assert [name for name in stock_names if name != "RandomTransform"] == names
    left_out = {type(t.transform).__name__ for t in stock.transforms if type(t).__name__ == "RandomTransform"}
    assert left_out == {f"{name}Transform" for name in LEFT_OUT}


def test_what_is_kept_of_the_pipeline_is_set_as_in_nnunet():
    own, _ = transforms_of(M3AEPretrainTrainer)
    stock, _ = transforms_of(nnUNetTrainer)
    expected = [t for t in stock.transforms if type(t).__name__ != "RandomTransform"]
    assert [repr(t) for t in own.transforms] == [repr(t) for t in expected]


def test_the_pipeline_follows_the_plan():
    spatial, *rest = KEPT
    _, names = transforms_of(M3AEPretrainTrainer, dummy_2d=True, regions=[(1, 2), (2,)], scales=None)
    expected = ["Convert3DTo2DTransform", spatial, "Convert2DTo3DTransform", *rest]
    assert names == [*expected, "ConvertSegmentationToRegionsTransform"]


def without_moving(pipeline):
    for transform in pipeline.transforms:
        if type(transform).__name__ == "SpatialTransform":
            transform.p_rotation = transform.p_scaling = transform.p_elastic_deform = 0
        if type(transform).__name__ == "MirrorTransform":
            transform.allowed_axes = ()
    return pipeline


def test_an_image_that_is_not_moved_passes_through_unchanged():
    image = torch.randn(3, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    segmentation = torch.zeros(1, 16, 16, 16, dtype=torch.int16)
    segmentation[:, :4] = -1  # outside of the mask, where nnU-Net's preprocessing has left zeros
    image[:, :4] = 0
    own, _ = transforms_of(M3AEPretrainTrainer, scales=None)
    stock, _ = transforms_of(nnUNetTrainer, scales=None)
    torch.manual_seed(0)
    given = {"image": image, "segmentation": segmentation}
    passed = [without_moving(own)(**copy.deepcopy(given))["image"] for _ in range(20)]
    assert all(torch.equal(got, image) for got in passed)
    augmented = [without_moving(stock)(**copy.deepcopy(given))["image"] for _ in range(20)]
    assert not all(torch.equal(got, image) for got in augmented)


def test_an_image_is_still_moved():
    own, _ = transforms_of(M3AEPretrainTrainer, scales=None)
    torch.manual_seed(0)
    image = torch.randn(3, 16, 16, 16)
    passed = own(image=image.clone(), segmentation=torch.zeros(1, 16, 16, 16, dtype=torch.int16))["image"]
    assert not torch.equal(passed, image)


def test_the_dataloader_takes_the_pipeline_and_looks_for_no_foreground(make, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = make(dims=3)
    training, validation = trainer.get_dataloaders()
    names = [type(t).__name__ for t in training.data_loader.transforms.transforms]
    assert names == [*KEPT, "DownsampleSegForDSTransform"]
    for loader in (training.data_loader, validation.data_loader):
        assert loader.oversample_foreground_percent == 0
        assert not any(loader.get_do_oversample(sample) for sample in range(loader.batch_size))


# --- optimizer and schedule -------------------------------------------------------------------------------------------


def is_coarse_head(name):
    return ".seg_layers.0." in name


def grouped(trainer):
    names = {id(p): name for name, p in trainer.network.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in trainer.optimizer.param_groups]


def test_adam_has_a_rate_of_its_own_for_the_substitute(make):
    trainer = make(weight_decay=0.25)
    assert type(trainer.optimizer) is torch.optim.Adam
    weights, substitute = trainer.optimizer.param_groups
    assert (weights["lr"], weights["weight_decay"]) == (3e-4, 0.25)
    assert (substitute["lr"], substitute["weight_decay"]) == (0.005, 0.0)
    names, of_substitute = grouped(trainer)
    assert of_substitute == ["substitute"]
    every = [name for name, _ in trainer.network.named_parameters()]
    assert any(is_coarse_head(name) for name in every)
    assert names == [name for name in every if name != "substitute" and not is_coarse_head(name)]


def test_the_numbers_are_the_released_code_s(make):
    trainer = make()
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.0
    assert (trainer.num_epochs, trainer.oversample_foreground_percent) == (264, 0.0)
    assert (trainer.visible_fraction, trainer.gamma, trainer.penalty) == (0.125, 0.005, "mean_square")
    assert make(substitute_lr=0.1).optimizer.param_groups[1]["lr"] == 0.1


@pytest.mark.parametrize("substitute", ["zero", "mean"])
def test_a_substitute_that_is_not_learned_is_in_no_group(substitute, make):
    trainer = make(substitute=substitute)
    (names,) = grouped(trainer)
    assert names
    assert not trainer.network.substitute.requires_grad
    assert not any(name == "substitute" or is_coarse_head(name) for name in names)


def test_a_step_moves_what_learns_and_nothing_else(make):
    trainer = make()
    trainer.network.train()
    before = copy.deepcopy(trainer.network.state_dict())
    trainer.train_step(random_batch(trainer))
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(value, before[name]) == is_coarse_head(name), name


def cosine(rate, epoch, epochs):
    return rate * (1 + math.cos(math.pi * epoch / epochs)) / 2


def begin_epoch(trainer, epoch):
    trainer.current_epoch = epoch
    trainer.logger.local_logger.my_fantastic_logging["lrs"] = [0.0] * epoch
    trainer.on_train_epoch_start()
    return [group["lr"] for group in trainer.optimizer.param_groups]


def test_both_rates_follow_the_cosine_to_zero_also_after_a_resume(make, tmp_path):
    make()  # writes the cases
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = make(num_epochs=6, initial_lr=0.02)
        expected = [[cosine(rate, epoch, 6) for rate in (0.02, 0.005)] for epoch in range(6)]
        for epoch in range(6):
            assert begin_epoch(trainer, epoch) == pytest.approx(expected[epoch])
            trainer.optimizer.step()
            if epoch == 2:
                trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
        assert begin_epoch(trainer, 6) == pytest.approx([0, 0], abs=1e-12)

        resumed = make(num_epochs=6, initial_lr=0.02, seed=1)
        resumed.load_checkpoint(str(tmp_path / "checkpoint.pth"))
        assert resumed.current_epoch == 3
        for epoch in range(3, 6):
            assert begin_epoch(resumed, epoch) == pytest.approx(expected[epoch])
            resumed.optimizer.step()


@pytest.mark.parametrize("epochs", [[0, 1, 2, 3, 4, 5], [4, 4, 0, 2], [3]])
def test_a_rate_depends_on_the_epoch_alone(epochs):
    """Whichever came before, and without one of torch's warnings."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([{"params": [weight]}, {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0}], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = CosineLR(optimizer, 5)
        for epoch in epochs:
            schedule.step(epoch)
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates == pytest.approx([cosine(2, epoch, 5), cosine(1, epoch, 5)], abs=1e-12)


def test_the_logged_rate_is_that_of_the_weights(make):
    trainer = make(num_epochs=6)
    begin_epoch(trainer, 2)
    assert trainer.logger.get_value("lrs", 2) == pytest.approx(cosine(3e-4, 2, 6))


# --- the loss ---------------------------------------------------------------------------------------------------------


def to_plain_voxels(visible, patch):
    """Which block each voxel is in, along each axis."""
    blocks = [
        [math.floor((i + 0.5) * n / side) for i in range(side)]
        for side, n in zip(patch, visible.shape[2:], strict=True)
    ]
    return torch.from_numpy(np.stack([[m[np.ix_(*blocks)] for m in sample] for sample in visible.numpy()]))


def plain_reconstruction(trainer, images, visible):
    composed = images.clone()
    voxels = to_plain_voxels(visible, images.shape[2:])
    for b, m in product(*map(range, images.shape[:2])):
        hidden = ~voxels[b, m]
        composed[b, m][hidden] = trainer.network.substitute[0, m][hidden]
    return trainer.network.decoder(trainer.network.encoder(composed))


def plain_mse(reconstruction, images, available):
    errors = []
    for b, m in product(*map(range, images.shape[:2])):
        if available[b][m]:
            errors.append(((reconstruction[b, m] - images[b, m]) ** 2).flatten())
    return torch.cat(errors).mean()


def plain_norm(substitute):
    return sum(((m - m.mean()) ** 2).sum() for m in substitute[0]) ** 0.5


def plain_mean_square(substitute):
    return (math.sqrt(4 * 128**3) / 2) ** 0.5 * plain_norm(substitute) ** 2 / substitute.numel()


PENALTIES = {"mean_square": plain_mean_square, "norm": plain_norm}


def plain_draws(trainer, available, seed):
    generator = torch.Generator().manual_seed(seed)
    present = drop_modalities(torch.tensor(available), generator)
    return draw_visible_blocks(present, trainer.grid, trainer.visible_fraction, generator)


@pytest.mark.parametrize("available", [EVERYTHING, INCOMPLETE], ids=["full", "incomplete"])
@pytest.mark.parametrize(("penalty", "dims"), [("mean_square", 3), ("norm", 2)])
def test_the_loss_is_the_reconstruction_s_and_the_substitute_s(dims, penalty, available, make):
    trainer = make(dims=dims, penalty=penalty, gamma=0.03)
    trainer.network.train()
    batch = prepared(trainer, available)
    trainer.generator.manual_seed(7)
    terms = trainer.training_loss(batch)
    visible = plain_draws(trainer, available, 7)
    reconstruction = plain_reconstruction(trainer, batch.images, visible)
    expected = {
        "reconstruction": plain_mse(reconstruction, batch.images, available),
        "substitute": 0.03 * PENALTIES[penalty](trainer.network.substitute),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name

    weights = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    got = torch.autograd.grad(sum(terms.values()), weights)
    wanted = torch.autograd.grad(sum(expected.values()), weights)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_substitute_learns_from_the_reconstruction_where_something_was_hidden(make):
    trainer = make(visible_fraction=0.9)
    trainer.draw_subset = lambda available: available
    trainer.network.train()
    batch = prepared(trainer)
    heard = hear(trainer)
    loss = trainer.training_loss(batch)["reconstruction"]
    (gradient,) = torch.autograd.grad(loss, [trainer.network.substitute])
    ((_, visible), _), *_ = heard
    hidden = ~to_plain_voxels(visible, (16, 16)).all(0, keepdim=True)
    assert hidden.any()
    assert not hidden.all()
    assert torch.equal(gradient != 0, hidden)


def test_an_unavailable_channel_is_no_target(make):
    """The head of a modality that no sample has is not told anything."""
    trainer = make()
    trainer.network.train()
    batch = prepared(trainer, [[True, False, True]] * 2)
    loss = trainer.training_loss(batch)["reconstruction"]
    (gradient,) = torch.autograd.grad(loss, [trainer.network.decoder.seg_layers[-1].weight])
    assert gradient.flatten(1).any(1).tolist() == [True, False, True]


@pytest.mark.parametrize("fraction", [0.125, 0.25])
def test_a_fraction_of_all_blocks_is_visible(fraction, make):
    trainer = make(visible_fraction=fraction)
    trainer.network.train()
    heard = hear(trainer)
    for seed in range(3):
        trainer.training_loss(prepared(trainer, INCOMPLETE, seed))
    for (_, visible), _ in heard:
        assert visible.shape == (2, 3, 8, 8)
        assert visible.flatten(1).sum(1).tolist() == [round(fraction * 3 * 8**2)] * 2
        assert not visible[~torch.tensor(INCOMPLETE)].any()


def test_with_every_block_visible_modalities_are_dropped_alone(make):
    """Table 3 (b)."""
    trainer = make(visible_fraction=1)
    trainer.network.train()
    heard = hear(trainer)
    shown = set()
    for seed in range(20):
        assert trainer.training_loss(prepared(trainer, INCOMPLETE, seed))["reconstruction"].isfinite()
    for (_, visible), _ in heard:
        for sample in visible.flatten(2):
            assert torch.equal(sample.all(1), sample.any(1))
            shown.add(tuple(sample.any(1).tolist()))
    assert len(shown) == 5  # FLAIR, T1 and T2, alone or with FLAIR


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"substitute": "none"}, "Expected substitute to be one of learned, zero, mean, got 'none'"),
        ({"penalty": "l2"}, "Expected penalty to be one of mean_square, norm, got 'l2'"),
        ({"visible_fraction": 0}, "Expected visible_fraction above 0 and at most 1, got 0"),
        ({"visible_fraction": 2}, "Expected visible_fraction above 0 and at most 1, got 2"),
        ({"visible_fraction": -0.125}, "visible_fraction = -0.125; expected a finite number of 0 or more"),
        ({"visible_fraction": float("nan")}, "visible_fraction = nan; expected a finite number of 0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_errors(settings, message, make):
    with pytest.raises(ValueError, match=message):
        make(**settings)


# --- a substitute that is not learned ---------------------------------------------------------------------------------


def begin(trainer, monkeypatch, batches):
    """Start a training whose dataloader gives these batches; what it did not take."""
    left = iter(batches)
    monkeypatch.setattr(trainer, "get_dataloaders", lambda: (left, iter(())))
    trainer.on_train_start()
    return list(left)


def plain_mean_image(batches, available, modality):
    seen = [
        batch["data"][b, modality]
        for batch in batches
        for b, case in enumerate(batch["keys"])
        if available[case][modality]
    ]
    return torch.stack(seen).mean(0) if seen else torch.zeros(16, 16)


def test_the_mean_image_is_that_of_the_samples_that_have_a_modality(make, monkeypatch):
    trainer = make(substitute="mean", num_val_iterations_per_epoch=3)
    available = {"a": (True, False, True), "b": (True, False, False)}
    trainer.available_in_case = available
    batches = [random_batch(trainer, seed=seed) for seed in range(5)]
    for batch in batches:  # channels of a previous stage have no mean image
        batch["data"] = torch.cat((batch["data"], torch.full((2, 2, 16, 16), 9.0)), 1)
    given = copy.deepcopy(batches)
    left = begin(trainer, monkeypatch, batches)
    assert len(left) == 2
    for m in range(3):
        expected = plain_mean_image(given[:3], available, m)
        torch.testing.assert_close(trainer.network.substitute[0, m], expected, rtol=1e-5, atol=1e-6)
    assert not trainer.network.substitute[0, 1].any()  # no sample had it
    assert not trainer.network.substitute.requires_grad


@pytest.mark.parametrize("substitute", ["zero", "mean"])
def test_a_substitute_that_is_not_learned_stays(substitute, make, monkeypatch):
    trainer = make(substitute=substitute, num_val_iterations_per_epoch=1, initial_lr=0.01, weight_decay=0.5)
    begin(trainer, monkeypatch, [random_batch(trainer)])
    trainer.network.train()
    before = trainer.network.substitute.clone()
    assert before.any() == (substitute == "mean")
    for seed in range(3):
        outputs = trainer.train_step(random_batch(trainer, seed=seed))
        assert list(outputs) == ["loss", "reconstruction"]
    assert torch.equal(trainer.network.substitute, before)


def test_a_training_whose_substitute_is_learned_begins_with_noise(make, monkeypatch):
    trainer = make(num_val_iterations_per_epoch=1)
    before = trainer.network.substitute.clone()
    assert len(begin(trainer, monkeypatch, [random_batch(trainer)])) == 1
    assert torch.equal(trainer.network.substitute, before)
    assert '"Pseudo dice" below: share of each modality\'s variance' in Path(trainer.log_file).read_text()
    assert float(before.detach().mean()) == pytest.approx(0, abs=0.15)
    assert float(before.detach().std()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("substitute", ["zero", "mean"])
def test_a_resumed_training_keeps_its_substitute(substitute, make, monkeypatch, tmp_path):
    first = make(substitute=substitute)
    with torch.no_grad():
        first.network.substitute += 3
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    resumed = make(substitute=substitute, num_val_iterations_per_epoch=2, seed=1)
    resumed.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert len(begin(resumed, monkeypatch, [random_batch(resumed)] * 2)) == 2
    assert torch.equal(resumed.network.substitute, first.network.substitute)


# --- validation during training ---------------------------------------------------------------------------------------


def validate(trainer, available=EVERYTHING):
    """One epoch's validation; what went into the network and came out of it, and the batches."""
    trainer.available_in_case = dict(zip("ab", map(tuple, available), strict=True))
    heard = hear(trainer)
    trainer.on_validation_epoch_start()
    batches = [random_batch(trainer, seed=seed) for seed in range(trainer.num_val_iterations_per_epoch)]
    with torch.no_grad():
        outputs = [trainer.validation_step(copy.deepcopy(batch)) for batch in batches]
    return outputs, list(heard), batches


@pytest.mark.parametrize("available", [EVERYTHING, INCOMPLETE], ids=["full", "incomplete"])
def test_validation_goes_through_the_subsets(available, make):
    trainer = make(num_val_iterations_per_epoch=9)
    outputs, heard, _ = validate(trainer, available)
    assert not trainer.network.training
    for number, (output, ((_, visible), _)) in enumerate(zip(outputs, heard, strict=True)):
        subset = all_subsets(3)[number % 7]
        assert output["subset"] == subset_name(subset, NAMES)
        has = torch.tensor(available)
        both = has & subset
        expected = both.where(both.any(1, keepdim=True), has)
        assert torch.equal(visible.flatten(2).any(2), expected)


@pytest.mark.parametrize("available", [EVERYTHING, INCOMPLETE], ids=["full", "incomplete"])
def test_the_loss_of_validation_is_the_mse(available, make):
    trainer = make(num_val_iterations_per_epoch=7)
    outputs, heard, batches = validate(trainer, available)
    for output, ((images, visible), reconstruction), batch in zip(outputs, heard, batches, strict=True):
        assert float(output["loss"]) == pytest.approx(float(plain_mse(reconstruction, batch["data"], available)))
        with torch.no_grad():
            expected = plain_reconstruction(trainer, images, visible)
        torch.testing.assert_close(reconstruction, expected, rtol=1e-4, atol=1e-5)


def test_every_epoch_is_validated_on_the_same_blocks(make):
    trainer = make(num_val_iterations_per_epoch=4)
    blocks = []
    for epoch in range(2):
        begin_epoch(trainer, epoch)
        trainer.draw_subset(torch.ones(3 + epoch, 3, dtype=torch.bool))
        _, heard, _ = validate(trainer)
        blocks.append([visible for (_, visible), _ in heard[-4:]])
    assert all(torch.equal(one, other) for one, other in zip(*blocks, strict=True))
    assert not torch.equal(blocks[0][0].flatten(2).any(1), blocks[0][1].flatten(2).any(1))


def test_the_epoch_is_logged(make):
    trainer = make(num_val_iterations_per_epoch=7)
    outputs, heard, batches = validate(trainer, INCOMPLETE)
    trainer.epoch_log.keep_before(0)
    trainer.on_validation_epoch_end(outputs)
    explained = []
    for m in range(3):
        pairs = [
            (reconstruction[b, m], batch["data"][b, m])
            for (_, reconstruction), batch in zip(heard, batches, strict=True)
            for b in range(2)
            if INCOMPLETE[b][m]
        ]
        made, true = (torch.cat([pair[i].flatten() for pair in pairs]) for i in range(2))
        explained.append(1 - float((made - true).square().sum() / (true - true.mean()).square().sum()))
    logged = {name: trainer.logger.get_value(name, 0) for name in ("mean_fg_dice", "ema_fg_dice", "val_losses")}
    assert logged["mean_fg_dice"] == pytest.approx(np.mean(explained), abs=1e-4)
    assert logged["ema_fg_dice"] == logged["mean_fg_dice"]
    assert trainer.logger.get_value("dice_per_class_or_region", 0) == pytest.approx(explained, abs=1e-4)
    assert logged["val_losses"] == pytest.approx(np.mean([output["loss"] for output in outputs]))
    names = [subset_name(subset, NAMES) for subset in all_subsets(3)]
    expected = {(f"reconstruction_error/{n}", 0): o["loss"] for n, o in zip(names, outputs, strict=True)}
    assert list(metrics(trainer)) == list(expected)
    assert metrics(trainer) == pytest.approx(expected, rel=1e-4)
    assert "'mod0+mod1+mod2'" in Path(trainer.log_file).read_text()


def test_a_modality_that_no_validation_case_has_takes_no_part(make):
    trainer = make(num_val_iterations_per_epoch=3)
    outputs, _, _ = validate(trainer, [[True, False, True]] * 2)
    changed = make(num_val_iterations_per_epoch=3)
    changed.available_in_case = trainer.available_in_case
    changed.on_validation_epoch_start()
    for number, output in enumerate(outputs):
        batch = random_batch(changed, seed=number)
        batch["data"][:, 1] = 1e6  # whatever the file has there
        with torch.no_grad():
            again = changed.validation_step(batch)
        assert again["loss"] == output["loss"]
        assert output["voxels"][1] == output["squared_error"][1] == 0
    trainer.on_validation_epoch_end(outputs)
    per_modality = trainer.logger.get_value("dice_per_class_or_region", 0)
    assert np.isnan(per_modality).tolist() == [False, True, False]
    assert np.isfinite(trainer.logger.get_value("mean_fg_dice", 0))


def test_validation_does_not_change_the_batch(make):
    trainer = make(num_val_iterations_per_epoch=1)
    trainer.available_in_case = dict(zip("ab", map(tuple, INCOMPLETE), strict=True))
    batch = random_batch(trainer)
    images = batch["data"].clone()
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        trainer.validation_step(batch)
    assert torch.equal(batch["data"], images)


# --- it trains --------------------------------------------------------------------------------------------------------


def test_a_few_steps_lower_the_reconstruction_error(make):
    """On images that the modalities share, so that a few blocks tell the rest."""
    trainer = make(initial_lr=0.01)
    trainer.network.train()
    batch = random_batch(trainer)
    first, second = torch.meshgrid(*[torch.linspace(-3, 3, 16)] * 2, indexing="ij")
    wave = first.sin() + first.cos() * second
    batch["data"] = wave * torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1).expand(-1, 3, -1, -1)
    errors = [float(trainer.train_step(batch)["reconstruction"]) for _ in range(30)]
    assert sum(errors[-5:]) < 0.5 * sum(errors[:5])


@pytest.mark.parametrize(
    ("dims", "patch", "grid"),
    [
        (3, (24, 20, 12), (8, 8, 8)),
        (3, (4, 32, 32), (4, 8, 8)),
        (2, (16, 16), (8, 8)),
        (2, (152, 128), (10, 8)),
    ],
    ids=["not divisible", "anisotropic", "2D", "2D of whole blocks"],
)
def test_every_shape_of_patch_trains(dims, patch, grid, make, pictures):
    trainer = make(dims=dims, patch=patch, num_val_iterations_per_epoch=1)
    assert trainer.grid == grid
    trainer.network.train()
    batch = prepared(trainer)
    trainer.generator.manual_seed(5)
    with torch.no_grad():
        expected = plain_mse(
            plain_reconstruction(trainer, batch.images, plain_draws(trainer, EVERYTHING, 5)), batch.images, EVERYTHING
        )
    outputs = trainer.train_step(random_batch(trainer))
    assert float(outputs["reconstruction"]) == pytest.approx(float(expected), rel=1e-4)
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(random_batch(trainer))["loss"])
    trainer.draw_pictures()
    _, images, visible, reconstruction = pictures["reconstruction.png"]
    assert images.shape == reconstruction.shape == (3, *patch)
    assert visible.shape == (3, *grid)


@pytest.mark.parametrize("modalities", [1, 2, 5])
def test_any_number_of_modalities_trains(modalities, make):
    trainer = make(modalities, dims=3, num_val_iterations_per_epoch=3)
    trainer.network.train()
    outputs = trainer.train_step(random_batch(trainer))
    assert all(term.isfinite() for term in outputs.values())
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        steps = [trainer.validation_step(random_batch(trainer)) for _ in range(3)]
    trainer.on_validation_epoch_end(steps)
    assert len(trainer.logger.get_value("dice_per_class_or_region", 0)) == modalities
    assert np.isfinite(trainer.logger.get_value("mean_fg_dice", 0))


def test_on_the_cpu_everything_is_single_precision(make):
    trainer = make()
    trainer.network.train()
    precisions = []
    trainer.network.encoder.register_forward_hook(
        lambda _, inputs, levels: precisions.append((levels[-1].dtype, torch.is_autocast_enabled("cpu")))
    )
    outputs = trainer.train_step(random_batch(trainer))
    assert trainer.grad_scaler is None
    assert precisions == [(torch.float32, False)]
    assert {term.dtype for term in outputs.values()} == {torch.float32}


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("regions", [True, False])
def test_the_targets_of_the_batches_have_no_part_in_it(deep_supervision, regions, make):
    trainer = make(regions=regions, enable_deep_supervision=deep_supervision, num_val_iterations_per_epoch=1)
    trainer.set_deep_supervision_enabled(deep_supervision)  # as nnU-Net does at the start
    trainer.network.train()
    given = random_batch(trainer)
    assert isinstance(given["target"], list) == deep_supervision
    assert trainer.train_step(given)["loss"].isfinite()
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        expected = trainer.validation_step(random_batch(trainer))
    trainer.on_validation_epoch_start()
    other = random_batch(trainer)
    levels = other["target"] if deep_supervision else [other["target"]]
    for level in levels:
        level.zero_()
    with torch.no_grad():
        assert trainer.validation_step(other)["loss"] == expected["loss"]


SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 2}


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_nnunet_s_own_loop_runs_on_its_dataloaders(deep_supervision, make, monkeypatch, unplotted):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = make(dims=3, enable_deep_supervision=deep_supervision, absent={"b": (1,), "d": (0,)}, **SHORT)
    trainer.available_in_case = {}
    trainer.run_training()
    assert trainer.available_in_case["d"] == (False, True, True)
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()
    assert np.isnan(trainer.logger.get_value("dice_per_class_or_region", 0)).tolist() == [True, False, False]


def write_without_labels(folder, plans):
    """Preprocessed cases in which everything is background."""
    configuration = plans["configurations"][CONFIGURATION]
    target = folder / "nnUNet_preprocessed" / plans["dataset_name"] / configuration["data_identifier"]
    target.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for case in "abcd":
        images = rng.normal(size=(3, 20, 20, 20)).astype(np.float32)
        labels = np.zeros((1, 20, 20, 20), np.int16)
        nnUNetDatasetBlosc2.save_case(images, labels, {"class_locations": {}}, str(target / case))


@pytest.mark.parametrize("labels", [{"background": 0, "tumor": 1}, {"background": 0}], ids=["unused", "none"])
def test_labels_are_not_needed(labels, tmp_path, monkeypatch, unplotted):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    plans = small_plans(3, features=TINY, **SHORT)
    write_without_labels(tmp_path, plans)
    dataset_json = {**small_dataset_json(3), "labels": labels}
    trainer = small_trainer(M3AEPretrainTrainer, plans, dataset_json, tmp_path, monkeypatch)
    write_split(trainer)
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value("train_losses", 0))
    assert np.isfinite(trainer.logger.get_value("mean_fg_dice", 0))


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_at_the_end_there_are_pictures_and_no_segmentation(make):
    trainer = make()
    folder = Path(trainer.output_folder)
    before = {file.name for file in folder.iterdir()}
    trainer.perform_actual_validation()
    assert {file.name for file in folder.iterdir()} - before == {"reconstruction.png", "substitute.png"}
    assert "no validation by Dice" in Path(trainer.log_file).read_text()


def test_pictures_can_be_drawn_of_a_checkpoint_alone(make, tmp_path):
    """What nnU-Net's --val does, here in another process's trainer."""
    trainer = make()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    again = fresh(trainer)
    assert not again.was_initialized
    again.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    again.perform_actual_validation(True)
    folder = Path(again.output_folder)
    assert (folder / "reconstruction.png").is_file()
    assert (folder / "substitute.png").is_file()
    assert not (folder / "validation").exists()
    assert not list(folder.rglob("summary.json"))


@pytest.mark.parametrize("fold", [0, "all"])
def test_the_picture_is_of_the_middle_of_a_held_out_case(fold, make, pictures):
    trainer = make(dims=3, absent={"a": (2,), "b": (0,), "c": (0, 1), "d": (1,)})
    again = fresh(trainer, fold=fold)
    again.initialize()
    case = "d" if fold == 0 else "a"
    heard = hear(again)
    again.draw_pictures()
    names, images, visible, reconstruction = pictures["reconstruction.png"]
    dataset = again.dataset_class(again.preprocessed_dataset_folder, [case])
    assert names == NAMES
    assert torch.equal(images, torch.from_numpy(central_patch(dataset.load_case(case)[0][:], (16, 16, 16))))
    ((given, blocks), out), *_ = heard
    assert torch.equal(given[0], images)
    assert torch.equal(blocks[0], visible)
    assert torch.equal(out[0], reconstruction)
    assert not again.network.training
    assert torch.equal(visible.flatten(1).any(1), images.flatten(1).any(1))
    assert int(visible.sum()) == round(0.125 * 3 * 8**3)
    substitute_names, substitute, beside = pictures["substitute.png"]
    assert substitute_names == NAMES
    assert torch.equal(beside, images)  # whose range it is drawn in
    assert torch.equal(substitute, again.network.substitute[0])
    assert not substitute.requires_grad


def test_the_pictures_are_always_of_the_same_blocks(make, pictures):
    trainer = make()
    seen = []
    for epoch in range(2):
        begin_epoch(trainer, epoch)
        trainer.draw_pictures()
        seen.append(pictures["reconstruction.png"][2])
    assert torch.equal(*seen)


def test_drawing_leaves_the_training_s_random_numbers_alone(make, pictures):
    trainer = make()
    trainer.generator.manual_seed(1)
    state = trainer.generator.get_state(), torch.get_rng_state()
    trainer.draw_pictures()
    assert torch.equal(trainer.generator.get_state(), state[0])
    assert torch.equal(torch.get_rng_state(), state[1])


def test_other_ranks_draw_nothing(make, pictures):
    trainer = make()
    trainer.local_rank = 1
    heard = hear(trainer)
    trainer.draw_pictures()
    assert len(heard) == 1  # but run the network, which may wait for them
    assert not pictures


def run_loop(trainer, monkeypatch):
    """nnU-Net's whole loop on random batches."""
    batches = iter([random_batch(trainer, seed=seed) for seed in range(40)])
    monkeypatch.setattr(trainer, "get_dataloaders", lambda: (batches, batches))
    trainer.run_training()


def test_pictures_are_drawn_with_every_checkpoint(make, monkeypatch, unplotted):
    trainer = make(**{**SHORT, "num_epochs": 4, "save_every": 2})
    epochs = []
    monkeypatch.setattr(trainer, "draw_pictures", lambda: epochs.append(trainer.current_epoch))
    run_loop(trainer, monkeypatch)
    assert epochs == [2, 4]


def test_progress_is_drawn_once_an_epoch_in_place_of_nnunet_s_own(make, monkeypatch, pictures):
    trainer = make(**{**SHORT, "num_epochs": 2})
    drawn = []
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: pytest.fail("drawn twice"))
    monkeypatch.setattr(pretraining, "draw_progress", lambda *content: drawn.append(content))
    run_loop(trainer, monkeypatch)
    assert len(drawn) == 2
    file, curves, errors = drawn[1]
    assert file == Path(trainer.output_folder) / "progress.png"
    assert curves["val_losses"] == trainer.logger.get_value("val_losses", None)
    names = [subset_name(subset, NAMES) for subset in all_subsets(3)]
    assert [(epoch, name) for epoch, name, _ in errors] == [
        (epoch, f"reconstruction_error/{name}") for epoch in range(2) for name in (names[2], names[6])
    ]


def test_the_progress_ends_up_in_the_output_folder(make, monkeypatch):
    trainer = make(**{**SHORT, "save_every": 1})
    run_loop(trainer, monkeypatch)
    folder = Path(trainer.output_folder)
    assert {file.stem for file in folder.glob("*.png")} == {"progress", "reconstruction", "substitute"}
    best = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    assert best["_best_ema"] == pytest.approx(trainer.logger.get_value("mean_fg_dice", 0))


def test_other_ranks_draw_no_progress(make, monkeypatch, pictures):
    trainer = make(**{**SHORT, "num_epochs": 2})
    monkeypatch.setattr(pretraining, "draw_progress", lambda *_: pytest.fail("drawn"))
    trainer.local_rank = 1
    run_loop(trainer, monkeypatch)
    assert trainer.current_epoch == 2


def test_a_cascade_is_refused(make):
    trainer = make()
    trainer.is_cascaded = True
    with pytest.raises(NotImplementedError, match="without a previous stage, got 3d_fullres"):
        trainer.initialize()
