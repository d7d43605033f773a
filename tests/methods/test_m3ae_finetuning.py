"""M3AE's second stage: its step against two plain forward passes, and how it starts from the first stage."""

import copy
import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.methods.m3ae import pretraining
from nnunetv2_missmod.methods.m3ae import trainer as finetuning
from nnunetv2_missmod.methods.m3ae.masking import drop_in_two_ways
from nnunetv2_missmod.methods.m3ae.network import M3AEOutput
from nnunetv2_missmod.methods.m3ae.pretraining import M3AEPretrainTrainer
from nnunetv2_missmod.methods.m3ae.trainer import M3AETrainer
from nnunetv2_missmod.training.trainer import Batch

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

TINY, DEEPER = (8, 8, 16), (8, 8, 8, 8, 8)
EVERYTHING, INCOMPLETE = [[True] * 3] * 2, [[True, False, True], [True, True, False]]
HEADS = ".seg_layers."


class OtherPretrainTrainer(M3AEPretrainTrainer):
    """A user's own pretraining."""


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(
        trainer_class=M3AETrainer, dims=2, side=16, features=TINY, regions=False, seed=0, batch_dice=False, **overrides
    ):
        if trainer_class is M3AETrainer:
            overrides = {"pretrained": False, **overrides}
        plans = small_plans(3, dims, patch=[side] * dims, features=features, **overrides)
        plans["configurations"][CONFIGURATION]["batch_dice"] = batch_dice
        dataset_json = small_dataset_json(3, regions)
        trainer = small_trainer(trainer_class, plans, dataset_json, tmp_path, monkeypatch, seed=seed)
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        trainer.network.train()
        return trainer

    return make


def with_substitute(trainer):
    """As a pretraining would leave it."""
    with torch.no_grad():
        trainer.network.substitute.normal_(generator=torch.Generator().manual_seed(4))
    return trainer


def prepared(trainer, available=EVERYTHING, seed=0):
    """A batch as the training step takes it."""
    trainer.available_in_case = dict(zip("ab", map(tuple, available), strict=True))
    return trainer.prepare_batch(random_batch(trainer, seed=seed))


def weights_of(trainer):
    return copy.deepcopy(trainer.network.state_dict())


def same(first, second, but=()):
    return all(torch.equal(v, second[k]) for k, v in first.items() if not any(part in k for part in but))


# --- the loss ---------------------------------------------------------------------------------------------------------


def plain_composition(trainer, images, present):
    composed = images.clone()
    for b, m in product(range(len(images)), range(3)):
        if not present[b][m]:
            composed[b, m] = trainer.network.substitute[0, m]
    return composed


def plain_copies(trainer, batch, seed):
    """Two passes of the plan's U-Net on the subsets that the trainer draws: bottleneck and logits of each."""
    generator = torch.Generator().manual_seed(seed)
    copies = []
    for present in drop_in_two_ways(batch.available, generator):
        levels = trainer.network.encoder(plain_composition(trainer, batch.images, present))
        copies.append((levels[-1], trainer.network.decoder(levels)))
    return copies


def plain_terms(trainer, batch, seed, compared):
    first, second = plain_copies(trainer, batch, seed)
    difference = compared(first) - compared(second)
    return {
        "segmentation": trainer.loss(first[1], batch.target) + trainer.loss(second[1], batch.target),
        "consistency": trainer.consistency_weight * (difference**2).sum() / difference.numel(),
    }


def bottleneck_of(one):
    return one[0]


def assert_terms(trainer, available, compared):
    """Terms and gradients are those of the plain computation."""
    batch = prepared(trainer, available)
    trainer.generator.manual_seed(7)
    terms = trainer.training_loss(batch)
    expected = plain_terms(trainer, batch, 7, compared)
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert expected["consistency"] > 0
    weights = [p for p in trainer.network.parameters() if p.requires_grad]
    for name, value in expected.items():
        got = torch.autograd.grad(terms[name], weights, retain_graph=True, allow_unused=True)
        wanted = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        for one, other in zip(got, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("available", [EVERYTHING, INCOMPLETE], ids=["full", "incomplete"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"batch_dice": True}, {"enable_deep_supervision": False}, {"regions": True, "batch_dice": True}, {"dims": 3}],
    ids=["default", "batch dice", "no deep supervision", "regions", "3D"],
)
def test_the_loss_is_that_of_two_plain_forward_passes(settings, available, make):
    assert_terms(with_substitute(make(**settings)), available, bottleneck_of)


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_batch_dice_is_that_of_each_copy(deep_supervision, make):
    """Not of both together, which on these images is nearly the same."""
    trainer = make(batch_dice=True, enable_deep_supervision=deep_supervision)
    calls, loss = [], trainer.loss
    trainer.loss = lambda logits, target: calls.append((logits, target)) or loss(logits, target)
    batch = prepared(trainer)
    out = []
    trainer.network.register_forward_hook(lambda _, inputs, output: out.append(output.logits))
    trainer.training_loss(batch)
    assert [target is batch.target for _, target in calls] == [True, True]
    both = out[0] if deep_supervision else [out[0]]
    first, second = ([logits] if isinstance(logits, torch.Tensor) else logits for logits, _ in calls)
    for level, one, other in zip(both, first, second, strict=True):
        assert torch.equal(level[:2], one)
        assert torch.equal(level[2:], other)


def quarter_of(one, patch):
    """The logits at a quarter of the patch's sides, at its full size."""
    (quarter,) = (level for level in one[1] if level.shape[2] * 4 == patch[0])
    return F.interpolate(quarter, size=patch, mode={2: "bilinear", 3: "trilinear"}[len(patch)], align_corners=False)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_logits_at_a_quarter_may_be_compared(dims, make):
    trainer = with_substitute(make(dims=dims, side=32, features=DEEPER, consistency_at="logits"))
    assert_terms(trainer, EVERYTHING, lambda one: quarter_of(one, [32] * dims))


def test_with_fewer_levels_the_coarsest_logits_are_compared(make):
    trainer = with_substitute(make(consistency_at="logits"))
    assert_terms(trainer, EVERYTHING, lambda one: F.interpolate(one[1][-1], size=[16] * 2, mode="bilinear"))


def test_without_deep_supervision_the_only_logits_are_compared(make):
    trainer = with_substitute(make(consistency_at="logits", enable_deep_supervision=False))
    assert_terms(trainer, EVERYTHING, lambda one: one[1])


def test_the_consistency_teaches_both_copies(make):
    trainer = with_substitute(make())
    levels = []
    trainer.network.encoder.register_forward_hook(lambda _, inputs, out: levels.append(out[-1]))
    trainer.generator.manual_seed(7)
    consistency = trainer.training_loss(prepared(trainer))["consistency"]
    (bottleneck,) = levels
    (gradient,) = torch.autograd.grad(consistency, [bottleneck])
    first, second = gradient.chunk(2)
    assert first.any()
    torch.testing.assert_close(first, -second)


def test_without_a_weight_the_copies_need_not_agree(make):
    """Table 3 (e)."""
    trainer = with_substitute(make(consistency_weight=0))
    batch = prepared(trainer)
    trainer.generator.manual_seed(7)
    terms = trainer.training_loss(batch)
    assert terms["consistency"].item() == 0
    weights = [p for p in trainer.network.parameters() if p.requires_grad]
    with_term = torch.autograd.grad(sum(terms.values()), weights, retain_graph=True, allow_unused=True)
    without = torch.autograd.grad(terms["segmentation"], weights, allow_unused=True)
    for one, other in zip(with_term, without, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_equal_subsets_agree(make):
    trainer = with_substitute(make())
    trainer.draw_two_subsets = lambda available: torch.cat((available, available))
    assert trainer.training_loss(prepared(trainer))["consistency"].item() == pytest.approx(0, abs=1e-9)


def test_both_copies_go_through_the_network_at_once(make):
    trainer = make()
    calls = []
    trainer.network.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    batch = prepared(trainer, INCOMPLETE)
    trainer.training_loss(batch)
    ((images, present),) = calls
    assert images.shape == (4, 3, 16, 16)
    assert torch.equal(images[:2], batch.images)
    assert torch.equal(images[2:], batch.images)
    assert present.shape == (4, 3)
    assert not present[~torch.tensor(INCOMPLETE).repeat(2, 1)].any()
    assert present.any(1).all()


class SubsetsOnly:
    """In place of a network, to see many draws."""

    def __init__(self):
        self.presents = []

    def __call__(self, images, present):
        self.presents.append(present)
        return M3AEOutput(torch.zeros(len(images), 3, 1, 1), torch.zeros(len(images), 1, 1, 1))


def test_the_two_subsets_differ_where_a_case_has_two_modalities(make):
    trainer = make()
    trainer.network, trainer.loss = SubsetsOnly(), lambda logits, target: torch.zeros(())
    count = 300
    available = torch.tensor([[True, True, True], [True, False, True], [False, True, False]]).repeat(count // 3, 1)
    trainer.training_loss(Batch(torch.zeros(count, 3, 1, 1), torch.zeros(()), available, ("a",) * count))
    first, second = trainer.network.presents[0].chunk(2)
    assert torch.equal((first == second).all(1), available.sum(1) == 1)


def test_the_substitute_stays_as_it_is(make):
    trainer = with_substitute(make(initial_lr=0.1, weight_decay=0.5))
    before = weights_of(trainer)
    for seed in range(3):
        trainer.train_step(random_batch(trainer, seed=seed))
    after = trainer.network.state_dict()
    first = "encoder.stages.0.0.convs.0.conv.weight"
    assert torch.equal(after["substitute"], before["substitute"])
    assert not torch.equal(after[first], before[first])


def test_adam_has_every_weight_but_the_substitute(make):
    trainer = make()
    (group,) = trainer.optimizer.param_groups
    assert type(trainer.optimizer) is torch.optim.Adam
    assert (group["lr"], group["weight_decay"], trainer.num_epochs) == (3e-4, 1e-4, 263)
    expected = [p for name, p in trainer.network.named_parameters() if name != "substitute"]
    assert [id(p) for p in group["params"]] == [id(p) for p in expected]
    trainer.lr_scheduler.step(100)
    assert group["lr"] == pytest.approx(3e-4 * (1 + math.cos(math.pi * 100 / 263)) / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"consistency_at": "output"}, "Expected consistency_at to be one of bottleneck, logits, got 'output'"),
        ({"substitute": "none"}, "Expected substitute to be one of learned, zero, mean, got 'none'"),
    ],
)
def test_settings_that_mean_nothing_are_errors(settings, message, make):
    with pytest.raises(ValueError, match=message):
        make(**settings)


# --- from pretraining to fine-tuning ----------------------------------------------------------------------------------


def prepare_folder(trainer):
    base = Path(trainer.preprocessed_dataset_folder_base)
    (base / "dataset_fingerprint.json").write_text("{}")
    (base / "splits_final.json").write_text(json.dumps([{"train": ["a", "b", "c"], "val": ["d"]}]))


def give_batches(trainer, monkeypatch):
    prepare_folder(trainer)
    batches = (random_batch(trainer, seed=seed) for seed in range(6))
    monkeypatch.setattr(trainer, "get_dataloaders", lambda: (batches, batches))


def final_checkpoint_of(trainer):
    return Path(trainer.output_folder) / "checkpoint_final.pth"


def of_fold(trainer, fold):
    """The same trainer on another fold, not yet initialised."""
    given = {**trainer.my_init_kwargs, "fold": fold}
    plans = {**copy.deepcopy(given.pop("plans")), "continue_training": False}
    other = type(trainer)(plans, **given)
    other.available_in_case = trainer.available_in_case
    return other


SHORT = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
BOTH = {**SHORT, "M3AEPretrainTrainer": {"initial_lr": 0.01}}


@pytest.fixture
def pretrain(make):
    """Leave the checkpoint of a pretraining, quickly: its weights are drawn, not learned."""

    def pretrain(trainer_class=M3AEPretrainTrainer, fold=0, seed=11, **settings):
        trainer = of_fold(make(trainer_class, **settings), fold)
        torch.manual_seed(seed)
        trainer.initialize()
        trainer.save_checkpoint(str(final_checkpoint_of(trainer)))
        return trainer

    return pretrain


@pytest.fixture
def searched(monkeypatch):
    """The searches for a checkpoint."""
    searches = []
    find = finetuning.find_pretrained

    def spy(*arguments):
        searches.append(arguments)
        return find(*arguments)

    monkeypatch.setattr(finetuning, "find_pretrained", spy)
    return searches


def log_of(trainer):
    return Path(trainer.log_file).read_text()


def test_fine_tuning_starts_where_a_pretraining_ended(make, monkeypatch):
    """Both stages through nnU-Net's own loop."""
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
    monkeypatch.setattr(pretraining, "draw_progress", lambda *_: None)
    first = make(M3AEPretrainTrainer, **BOTH)
    untrained = weights_of(first)
    give_batches(first, monkeypatch)
    first.run_training()
    learned = first.network.state_dict()
    assert not torch.equal(learned["substitute"], untrained["substitute"])

    second = make(pretrained=True, seed=1, **BOTH)
    give_batches(second, monkeypatch)
    begin, started = second.on_epoch_start, []
    monkeypatch.setattr(second, "on_epoch_start", lambda: (started.append(weights_of(second)), begin()))
    own = weights_of(second)
    second.run_training()
    (started,) = started
    assert same(learned, started, but=[HEADS])
    assert all(torch.equal(value, own[key]) for key, value in started.items() if HEADS in key)
    after = second.network.state_dict()
    assert torch.equal(after["substitute"], learned["substitute"])
    assert not same(after, started)
    assert str(final_checkpoint_of(first)) in log_of(second)
    assert final_checkpoint_of(second).is_file()


def test_the_optimizer_trains_the_weights_that_were_loaded(make, pretrain, monkeypatch):
    pretrain()
    trainer = make(pretrained=True, seed=1)
    give_batches(trainer, monkeypatch)
    trainer.on_train_start()
    trainer.network.train()
    before = weights_of(trainer)
    trainer.train_step(random_batch(trainer))
    assert not same(before, trainer.network.state_dict())


@pytest.mark.parametrize("fold", [0, 3, "all"])
def test_the_checkpoint_is_that_of_the_same_fold(fold, make, pretrain, monkeypatch):
    other = 1 if fold == 0 else 0
    pretrain(fold=other, seed=5)
    first = pretrain(fold=fold)
    trainer = of_fold(make(pretrained=True), fold)
    give_batches(trainer, monkeypatch)
    trainer.on_train_start()  # which initialises it, as nnU-Net leaves it to do
    assert same(first.network.state_dict(), trainer.network.state_dict(), but=[HEADS])
    assert f"fold_{fold}" in log_of(trainer)


def test_a_pretraining_of_another_name_may_be_asked_for(make, pretrain, monkeypatch):
    first = pretrain(OtherPretrainTrainer)
    trainer = make(pretrained=True, pretraining="OtherPretrainTrainer", seed=1)
    give_batches(trainer, monkeypatch)
    trainer.on_train_start()
    assert same(first.network.state_dict(), trainer.network.state_dict(), but=[HEADS])


def assert_does_not_start(trainer, monkeypatch, message):
    monkeypatch.setattr(trainer, "get_dataloaders", lambda: pytest.fail("workers were started"))
    before = weights_of(trainer)
    with pytest.raises(ValueError, match=message) as error:
        trainer.run_training()
    assert same(before, trainer.network.state_dict())
    assert trainer.dataloader_train is None
    assert not list(Path(trainer.output_folder).glob("*.pth"))
    return str(error.value)


@pytest.mark.parametrize("pretraining_name", ["M3AEPretrainTrainer", "OtherPretrainTrainer"])
def test_without_a_pretraining_nothing_starts(pretraining_name, make, monkeypatch):
    trainer = make(pretrained=True, pretraining=pretraining_name)
    message = assert_does_not_start(trainer, monkeypatch, "Expected a pretrained checkpoint .*, got none")
    assert f"`nnUNetv2_train Dataset501_Small 3d_fullres 0 -tr {pretraining_name} -p smallPlans`" in message


def test_the_pretraining_of_another_fold_will_not_do(make, pretrain, monkeypatch):
    pretrain(fold=2)
    assert_does_not_start(make(pretrained=True), monkeypatch, "got none")


def test_a_pretraining_that_has_not_ended_is_to_be_continued(make, monkeypatch):
    first = make(M3AEPretrainTrainer)
    first.save_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))
    message = assert_does_not_start(make(pretrained=True), monkeypatch, "a pretraining that has not ended")
    assert "-tr M3AEPretrainTrainer -p smallPlans --c`" in message


def test_a_pretraining_that_does_not_fit_is_refused(make, pretrain, monkeypatch):
    pretrain(features=(8, 16, 16))
    assert_does_not_start(make(pretrained=True), monkeypatch, "from a plan with another network")


def test_training_from_scratch_needs_no_pretraining(make, monkeypatch, searched):
    """Table 3 (a); zeros stand for what is absent."""
    trainer = make(pretrained=False)
    before = weights_of(trainer)
    give_batches(trainer, monkeypatch)
    trainer.on_train_start()
    assert not searched
    assert same(before, trainer.network.state_dict())
    assert not trainer.network.substitute.any()
    trainer.network.train()
    assert trainer.train_step(random_batch(trainer))["loss"].isfinite()


def test_from_scratch_ignores_a_pretraining_that_is_there(make, pretrain, monkeypatch, searched):
    pretrain()
    trainer = make(pretrained=False, seed=1)
    before = weights_of(trainer)
    give_batches(trainer, monkeypatch)
    trainer.on_train_start()
    assert not searched
    assert same(before, trainer.network.state_dict())


def test_weights_given_to_nnunet_are_kept(make, pretrain, monkeypatch, tmp_path, searched):
    """-pretrained_weights: nnU-Net loads them before the training starts."""
    first = pretrain()
    file = final_checkpoint_of(first).rename(tmp_path / "elsewhere.pth")
    pretrain(seed=9)
    trainer = make(pretrained=True, seed=1)
    load_pretrained_weights(trainer.network, str(file))
    given = weights_of(trainer)
    assert same(first.network.state_dict(), given, but=[HEADS])
    give_batches(trainer, monkeypatch)
    trainer.on_train_start()
    assert not searched
    assert same(given, trainer.network.state_dict())


def test_a_resumed_training_keeps_its_weights(make, monkeypatch, tmp_path, searched):
    """--c, also where the pretraining's checkpoint has been removed meanwhile."""
    first = with_substitute(make())
    first.train_step(random_batch(first))
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    resumed = of_fold(make(pretrained=True, seed=1), 0)
    resumed.load_checkpoint(str(tmp_path / "checkpoint.pth"))  # which initialises it
    assert resumed.current_epoch == 1
    give_batches(resumed, monkeypatch)
    resumed.on_train_start()
    assert not searched
    assert same(first.network.state_dict(), resumed.network.state_dict())


def test_a_search_is_made_where_there_was_nothing_to_resume(make, pretrain, monkeypatch, searched):
    """--c without a checkpoint starts anew."""
    pretrain()
    trainer = make(pretrained=True)
    assert not trainer.weights_were_loaded
    give_batches(trainer, monkeypatch)
    trainer.on_train_start()
    assert len(searched) == 1


@pytest.mark.parametrize("substitute", ["zero", "mean"])
@pytest.mark.parametrize("given", [False, True], ids=["found", "given"])
def test_a_substitute_that_is_not_learned_replaces_the_pretrained_one(
    substitute, given, make, pretrain, monkeypatch, tmp_path
):
    """Table 3 (c) and (d): the other weights are the pretrained ones."""
    first = pretrain()
    trainer = make(pretrained=True, substitute=substitute, num_val_iterations_per_epoch=2, seed=1)
    if given:
        load_pretrained_weights(trainer.network, str(final_checkpoint_of(first)))
    give_batches(trainer, monkeypatch)
    trainer.on_train_start()
    images = [random_batch(trainer, seed=seed)["data"] for seed in range(2)]
    expected = torch.cat(images).mean(0, keepdim=True) if substitute == "mean" else torch.zeros(1, 3, 16, 16)
    torch.testing.assert_close(trainer.network.substitute.detach(), expected, rtol=1e-5, atol=1e-6)
    assert same(first.network.state_dict(), trainer.network.state_dict(), but=[HEADS, "substitute"])
    assert not trainer.network.substitute.requires_grad


@pytest.mark.parametrize("substitute", ["zero", "mean"])
def test_a_resumed_training_keeps_its_substitute(substitute, make, monkeypatch, tmp_path):
    first = with_substitute(make(substitute=substitute))
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    resumed = make(substitute=substitute, seed=1)
    resumed.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    give_batches(resumed, monkeypatch)
    resumed.on_train_start()
    assert torch.equal(resumed.network.substitute, first.network.substitute)


def test_prediction_puts_the_substitute_where_a_modality_is_absent(make):
    trainer = with_substitute(make())
    trainer.set_deep_supervision_enabled(False)
    images, present = random_batch(trainer)["data"], [[True, False, True], [False, True, False]]
    images[~torch.tensor(present)] = 0  # as a file that is missing
    with torch.no_grad():
        got = trainer.network.eval()(images)
        levels = trainer.network.encoder(plain_composition(trainer, images, present))
        assert torch.equal(got, trainer.network.decoder(levels))
