import copy
import csv
import json
import os
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer, write_preprocessed

from nnunetv2_missmod.methods.modality_dropout.network import ModalityDropoutNet
from nnunetv2_missmod.methods.modality_dropout.trainer import ModalityDropoutTrainer
from nnunetv2_missmod.modalities import all_subsets, subset_name
from nnunetv2_missmod.training.learning import MAX_NORM, Learner, Update
from nnunetv2_missmod.training.settings import HOST_SETTINGS
from nnunetv2_missmod.training.trainer import MissingModalityTrainer

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")

TINY = (8, 8, 16)
NAN, INF = float("nan"), float("inf")
NAMES = ["mod0", "mod1", "mod2"]


class ScriptedTrainer(ModalityDropoutTrainer):
    """Multiplies its loss by what the test says, term by term."""

    beta = 0.25
    _hidden = 3
    not_a_number = [1, 2]  # noqa: RUF012
    factors = {"segmentation": 1.0, "other": 0.0}  # noqa: RUF012

    def training_loss(self, batch):
        loss = super().training_loss(batch)["segmentation"]
        return {name: factor * loss for name, factor in self.factors.items()}


class FakeLogger:
    """An external logger such as nnU-Net's for Weights & Biases."""

    def __init__(self):
        self.values = {}

    def log(self, name, value, step):
        self.values[name, step] = float(value)

    def update_config(self, config):
        pass

    def log_summary(self, name, value):
        pass


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(
        name=ScriptedTrainer, modalities=3, dims=3, regions=False, seed=0, cases=("a", "b", "c", "d"), **overrides
    ):
        plans = small_plans(modalities, dims, features=TINY, **overrides)
        trainer = small_trainer(
            name, plans, small_dataset_json(modalities, regions), tmp_path, monkeypatch, cases=cases, seed=seed
        )
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        return trainer

    return make


def log_text(trainer):
    return Path(trainer.log_file).read_text(encoding="utf-8")


def weights(trainer):
    return copy.deepcopy(trainer.network.state_dict())


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def step(**terms):
    """What train_step gives back."""
    terms = {name: torch.tensor(float(value)) for name, value in terms.items()}
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


# --- losses that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("count", [3, 5])
def test_a_loss_that_is_bad_in_most_steps_stops_the_training(bad, count, make):
    trainer = make()
    trainer.current_epoch = 7
    outputs = [step(good=1, style=bad if i < count else 2) for i in range(5)]
    with pytest.raises(RuntimeError, match=f"epoch 7, in how many of 5 steps: .*'style': {count}") as error:
        trainer.check_finite(outputs)
    message = str(error.value)
    assert "'good'" not in message
    assert "initial_lr" in message
    assert "--c" in message


@pytest.mark.parametrize(("bad", "steps"), [(1, 5), (2, 5), (2, 4)])
def test_a_loss_that_is_bad_in_few_steps_is_logged(bad, steps, make):
    trainer = make()
    trainer.check_finite([step(good=1, style=NAN if i < bad else 2) for i in range(steps)])
    (line,) = (line for line in log_text(trainer).splitlines() if "not finite" in line)
    assert f"in how many of {steps} steps" in line
    assert f"'style': {bad}" in line
    assert "'good'" not in line
    assert "skipped" in line


def test_a_sound_epoch_logs_nothing(make):
    trainer = make()
    trainer.check_finite([step(good=1, style=2)] * 3)
    assert "not finite" not in log_text(trainer)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_bad_step_raises_before_the_weights_change(bad, make):
    trainer = make()
    trainer.network.train()
    trainer.train_step(random_batch(trainer))
    before, moments = weights(trainer), copy.deepcopy(trainer.optimizer.state_dict())
    trainer.factors = {"segmentation": 1.0, "other": bad}
    with pytest.raises(RuntimeError, match="'other': 1"):
        trainer.train_step(random_batch(trainer))
    assert same(before, trainer.network.state_dict())
    assert str(moments) == str(trainer.optimizer.state_dict())


def test_a_good_step_changes_the_weights_and_gives_its_terms(make):
    trainer = make()
    trainer.network.train()
    trainer.factors = {"segmentation": 1.0, "other": 0.5}
    before = weights(trainer)
    outputs = trainer.train_step(random_batch(trainer))
    assert not same(before, trainer.network.state_dict())
    assert list(outputs) == ["loss", "segmentation", "other"]
    assert outputs["other"] == pytest.approx(0.5 * float(outputs["segmentation"]))
    assert outputs["loss"] == pytest.approx(1.5 * float(outputs["segmentation"]))
    assert not any(term.requires_grad for term in outputs.values())


@pytest.mark.parametrize("factor", [1, 1000])
def test_the_step_is_nnunet_s_own(factor, make):
    """Same gradients, clipping and update as nnU-Net's step on the same loss; the larger one is clipped."""
    ours, theirs = make(ModalityDropoutTrainer), make(ModalityDropoutTrainer)
    for trainer in (ours, theirs):
        trainer.loss = lambda output, target, loss=trainer.loss: factor * loss(output, target)
    ours.draw_subset = lambda available: available
    ours.network.train()
    outputs = ours.train_step(random_batch(ours))
    theirs.network.eval()  # logits, not a NamedTuple; there is neither dropout nor batch norm
    expected = nnUNetTrainer.train_step(theirs, random_batch(theirs))
    assert float(outputs["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    for key, value in theirs.network.state_dict().items():
        torch.testing.assert_close(ours.network.state_dict()[key], value)


def test_under_a_gradient_scaler_a_bad_step_is_skipped(make):
    trainer = make()
    trainer.network.train()
    trainer.grad_scaler = torch.amp.GradScaler("cpu")
    before = weights(trainer)
    trainer.factors = {"segmentation": 1.0, "other": NAN}
    outputs = trainer.train_step(random_batch(trainer))
    assert outputs["other"].isnan()
    assert same(before, trainer.network.state_dict())
    trainer.factors = {"segmentation": 1.0, "other": 0.0}
    good = trainer.train_step(random_batch(trainer))
    assert not same(before, trainer.network.state_dict())
    trainer.check_finite([outputs, good])
    with pytest.raises(RuntimeError, match="'other': 1"):
        trainer.check_finite([outputs])


@pytest.mark.parametrize(("size", "clipped"), [(100.0, True), (0.1, False)])
@pytest.mark.parametrize("scale", [2.0**16, 1.0])
def test_gradients_are_clipped_after_they_are_unscaled(size, clipped, scale, make):
    """Clipped while they are scaled, small gradients would be cut down by the scale."""
    trainer = make()
    weight = torch.nn.Parameter(torch.zeros(4))
    network = torch.nn.Module()
    network.weight = weight
    learner = Learner(network, torch.optim.SGD([weight], 1.0))
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer.backward_and_step((size * weight).sum(), [learner])
    expected = -torch.full((4,), size) * (MAX_NORM / (2 * size) if clipped else 1)  # the norm of four alike is 2 * size
    torch.testing.assert_close(weight.detach(), expected)


# --- the order of learners --------------------------------------------------------------------------------------------


class TwoLearnersTrainer(ModalityDropoutTrainer):
    """A second network learns first; what the first learns from depends on it."""

    teacher_factor = 1.0

    def initialize(self):
        super().initialize()
        network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(network.weight)
        self.teacher = Learner(network, torch.optim.SGD(network.parameters(), 0.5))
        self.seen = []

    def learners(self):
        return [*super().learners(), self.teacher]

    def updates(self, batch):
        weight = self.teacher.network.weight
        self.seen.append(("teacher", float(weight.detach()), torch.is_autocast_enabled("cpu")))
        yield Update([self.teacher], {"teacher": self.teacher_factor * weight.sum()})
        self.seen.append(("student", float(weight.detach()), torch.is_autocast_enabled("cpu")))
        terms = {name: float(weight.detach()) * term for name, term in self.training_loss(batch).items()}
        yield Update(super().learners(), {**terms, "constant": torch.tensor(3.0)})


@pytest.fixture
def two(make):
    trainer = make(TwoLearnersTrainer)
    trainer.network.train()
    return trainer


def test_a_learner_has_taken_its_step_when_the_next_terms_are_computed(two):
    outputs = two.train_step(random_batch(two))
    assert [(name, weight) for name, weight, _ in two.seen] == [("teacher", 1.0), ("student", 0.5)]
    assert list(outputs) == ["loss", "teacher", "segmentation", "constant"]
    assert float(outputs["loss"]) == pytest.approx(1 + 3 + float(outputs["segmentation"]))
    assert not any(term.requires_grad for term in outputs.values())


def test_every_learners_gradients_are_of_this_step_alone(two):
    for number in range(2):
        two.train_step(random_batch(two, seed=number))
        assert float(two.teacher.network.weight.grad) == 1


def test_terms_are_computed_under_autocast_and_learned_from_outside(two):
    steps = []
    two.autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    two.step = lambda learner: steps.append(torch.is_autocast_enabled("cpu"))
    two.train_step(random_batch(two))
    assert [autocast for *_, autocast in two.seen] == [True, True]
    assert steps == [False, False]


def test_a_bad_term_stops_before_its_own_step_and_what_follows(two):
    two.teacher_factor = NAN
    before = weights(two)
    with pytest.raises(RuntimeError, match="'teacher': 1"):
        two.train_step(random_batch(two))
    assert float(two.teacher.network.weight) == 1
    assert len(two.seen) == 1
    assert same(before, two.network.state_dict())


def test_the_gradient_scaler_is_updated_once_for_all_learners(two):
    two.grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    scales = []
    for number in range(4):
        two.train_step(random_batch(two, seed=number))
        scales.append(two.grad_scaler.get_scale())
    assert scales == [8, 16, 16, 32]


# --- the batch --------------------------------------------------------------------------------------------------------


def test_a_batch_is_emptied_of_what_its_cases_do_not_have(make):
    trainer = make()
    trainer.available_in_case = {"a": (True, False, True), "b": (True, True, True), "c": (False, True, False)}
    given = random_batch(trainer, cases=("c", "a", "c"))
    images = given["data"].clone()
    given["data"][1, 1] = NAN  # whatever augmentation did
    batch = trainer.prepare_batch(given)
    expected = torch.tensor([[False, True, False], [True, False, True], [False, True, False]])
    assert torch.equal(batch.available, expected)
    assert batch.cases == ("c", "a", "c")
    for sample in range(3):
        for channel in range(3):
            kept = images[sample, channel] if expected[sample, channel] else torch.zeros(16, 16, 16)
            assert torch.equal(batch.images[sample, channel], kept)
    assert [level.shape for level in batch.target] == [level.shape for level in given["target"]]


def test_the_channels_of_a_previous_stage_are_kept(make):
    trainer = make()
    trainer.available_in_case = {"a": (False, False, True), "b": (True, True, True)}
    given = random_batch(trainer)
    previous_stage = torch.ones(2, 2, 16, 16, 16)
    images = given["data"]
    batch = trainer.prepare_batch({**given, "data": torch.cat((images, previous_stage), 1)})
    assert torch.equal(batch.images[:, 3:], previous_stage)
    assert batch.available.shape == (2, 3)
    assert not batch.images[0, :2].any()
    assert torch.equal(batch.images[0, 2], images[0, 2])


def test_a_target_without_deep_supervision_is_no_list(make):
    trainer = make(enable_deep_supervision=False)
    trainer.network.train()
    given = random_batch(trainer)
    assert torch.equal(trainer.prepare_batch(given).target, given["target"])
    assert trainer.train_step(given)["loss"].isfinite()


def test_the_method_sees_the_case_as_it_is_and_the_network_a_subset(make):
    trainer = make(ModalityDropoutTrainer)
    trainer.available_in_case = dict.fromkeys("ab", (True, False, True))
    trainer.network.train()
    seen = []
    trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    for number in range(20):
        trainer.train_step(random_batch(trainer, seed=number))
    images, presents = torch.cat([i for i, _ in seen]), torch.cat([p for _, p in seen])
    assert not images[:, 1].any()
    assert images[:, [0, 2]].flatten(2).any(2).all()
    assert {tuple(row) for row in presents.tolist()} == {
        (True, False, False),
        (False, False, True),
        (True, False, True),
    }


# --- which modalities the cases have ----------------------------------------------------------------------------------


@pytest.fixture
def incomplete(tmp_path, monkeypatch):
    """A trainer on a preprocessed dataset whose cases lack channels, with a split."""
    plans, dataset_json = small_plans(3, features=TINY), small_dataset_json(3)
    absent = {"b": (1,), "d": (0, 2), "unused": (0, 1, 2)}
    write_preprocessed(tmp_path, plans, dataset_json, ("a", "b", "c", "d", "unused"), absent)
    splits = [{"train": ["c", "a", "b"], "val": ["d"]}, {"train": ["d"], "val": ["b"]}]
    base = tmp_path / "nnUNet_preprocessed" / plans["dataset_name"]
    (base / "splits_final.json").write_text(json.dumps(splits))
    return small_trainer(ModalityDropoutTrainer, plans, dataset_json, tmp_path, monkeypatch)


def test_the_modalities_of_each_case_are_found_in_the_preprocessed_images(incomplete):
    training, validation = incomplete.get_tr_and_val_datasets()
    assert sorted(training.identifiers) == ["a", "b", "c"]
    assert list(validation.identifiers) == ["d"]
    assert incomplete.available_in_case == {
        "a": (True, True, True),
        "b": (True, False, True),
        "c": (True, True, True),
        "d": (False, True, False),
    }
    assert incomplete.case_number == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert "Training: 1 of 3 cases lack modalities. 1 x mod0+mod2;" in log_text(incomplete)


def test_nnunet_s_dataloader_gives_the_keys_that_are_looked_up(incomplete):
    training, _ = incomplete.get_tr_and_val_datasets()
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    loader = nnUNetDataLoader(training, 2, [16] * 3, [16] * 3, incomplete.label_manager)
    batch = next(loader)
    prepared = incomplete.prepare_batch(batch)
    assert set(prepared.cases) <= {"a", "b", "c"}
    rows = [list(incomplete.available_in_case[case]) for case in prepared.cases]
    assert prepared.available.tolist() == rows


# --- subsets ----------------------------------------------------------------------------------------------------------


def draws(trainer, epoch):
    trainer.current_epoch = epoch
    trainer.logger.local_logger.my_fantastic_logging["lrs"] = [0.0] * epoch
    trainer.on_train_epoch_start()
    return trainer.draw_subset(torch.ones(200, 3, dtype=torch.bool))


def test_epochs_draw_other_subsets_and_the_same_ones_when_repeated(make):
    trainer = make()
    drawn = [draws(trainer, epoch) for epoch in range(4)]
    for epoch in range(4):
        assert all(not torch.equal(drawn[epoch], drawn[other]) for other in range(epoch))
    assert torch.equal(draws(trainer, 2), drawn[2])
    torch.manual_seed(99)
    trainer.draw_subset(torch.ones(7, 3, dtype=torch.bool))
    assert torch.equal(draws(trainer, 1), drawn[1])
    counts = torch.cat(drawn).long() @ torch.tensor([1, 2, 4])
    frequencies = torch.bincount(counts, minlength=8) / 800
    assert frequencies[0] == 0
    assert (frequencies[1:] - 1 / 7).abs().max() < 0.05


def test_runs_with_another_seed_draw_other_subsets(make):
    first, second, third = make(seed=0), make(seed=1), make(seed=0)
    assert first.subset_seed == third.subset_seed != second.subset_seed
    assert torch.equal(draws(first, 1), draws(third, 1))
    assert not torch.equal(draws(first, 1), draws(second, 1))


def test_what_dropout_draws_from_is_seeded_for_every_epoch_and_rank(make):
    trainer, drawn = make(), {}
    assert trainer.seed < 0
    for before, rank, epoch in product(range(2), range(2), range(3)):
        torch.manual_seed(before)
        trainer.local_rank = rank
        draws(trainer, epoch)
        drawn.setdefault((rank, epoch), set()).add(torch.rand(1).item())
    assert all(len(values) == 1 for values in drawn.values())
    assert len(set.union(*drawn.values())) == 6


def test_each_rank_draws_its_own_subsets_also_after_it_is_resumed(make, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def draws_of_ranks(trainer):
        found = {}
        for rank in (0, 1):
            trainer.is_ddp, trainer.local_rank = True, rank
            found |= {(rank, epoch): draws(trainer, epoch) for epoch in range(3)}
        trainer.is_ddp, trainer.local_rank = False, 0
        return found

    trainer, resumed, file = make(), make(seed=1), str(tmp_path / "checkpoint.pth")
    drawn = draws_of_ranks(trainer)
    assert all(not torch.equal(a, b) for (a, b) in combinations(drawn.values(), 2))
    trainer.save_checkpoint(file)
    resumed.load_checkpoint(file)
    again = draws_of_ranks(resumed)
    assert all(torch.equal(again[key], subsets) for key, subsets in drawn.items())


def test_drawing_leaves_the_other_random_numbers_alone(make):
    trainer = make()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.draw_subset(torch.ones(200, 3, dtype=torch.bool))
    assert torch.equal(torch.rand(3), expected)


# --- the epoch's log --------------------------------------------------------------------------------------------------


def metrics(trainer):
    with open(Path(trainer.output_folder) / "metrics.csv", newline="", encoding="utf-8") as file:
        return {(row["name"], int(row["epoch"])): float(row["value"]) for row in csv.DictReader(file)}


@pytest.fixture
def started(make):
    """A trainer that has begun, with an external logger."""

    def start(*arguments, **settings):
        trainer = make(*arguments, **settings)
        trainer.epoch_log.keep_before(0)
        trainer.logger.loggers.append(FakeLogger())
        return trainer

    return start


def test_the_mean_of_every_term_is_logged(started):
    trainer = started()
    logger = trainer.logger.loggers[0]
    trainer.on_train_epoch_end([step(seg=1, style=0.5), step(seg=2, style=0.25), step(seg=6, style=0)])
    expected = {("loss/seg", 0): 3.0, ("loss/style", 0): 0.25}
    assert metrics(trainer) == expected
    assert logger.values == {**expected, ("train_losses", 0): 3.25}
    assert trainer.logger.get_value("train_losses", 0) == pytest.approx(3.25)
    assert "{'seg': 3.0, 'style': 0.25}" in log_text(trainer)
    trainer.current_epoch = 1
    trainer.on_train_epoch_end([step(seg=4, style=8)])
    assert metrics(trainer) == {**expected, ("loss/seg", 1): 4.0, ("loss/style", 1): 8.0}
    assert logger.values["loss/style", 1] == 8.0


@pytest.mark.parametrize("bad", [NAN, INF])
def test_skipped_steps_take_no_part_in_the_means(bad, started):
    """Under mixed precision single steps overflow; the curves stay finite."""
    trainer = started()
    trainer.on_train_epoch_end([step(seg=1, style=2), step(seg=bad, style=4), step(seg=3, style=6)])
    assert metrics(trainer)["loss/seg", 0] == 2.0
    assert trainer.logger.get_value("train_losses", 0) == pytest.approx((3 + 9) / 2)


def test_an_epoch_of_bad_steps_is_not_logged(started):
    trainer = started()
    with pytest.raises(RuntimeError, match="'seg': 2"):
        trainer.on_train_epoch_end([step(seg=NAN), step(seg=NAN), step(seg=1)])
    assert metrics(trainer) == {}
    assert trainer.logger.loggers[0].values == {}


def test_other_ranks_log_nothing(started):
    trainer = started()
    trainer.local_rank = 1
    trainer.log_metrics({"loss/seg": 1.0})
    assert metrics(trainer) == {}
    assert trainer.logger.loggers[0].values == {}


def test_terms_of_half_precision_are_averaged_in_single(started):
    trainer = started()
    values = torch.tensor([2048.0, 2050.0, 2048.0]).half()
    outputs = [{"loss": value, "seg": value} for value in values]
    trainer.on_train_epoch_end(outputs)
    assert metrics(trainer)["loss/seg", 0] == pytest.approx(2048 + 2 / 3, abs=0.01)


# --- validation during training ---------------------------------------------------------------------------------------


def counts(subset, tp, fp, fn, loss=0.5):
    arrays = {"tp_hard": tp, "fp_hard": fp, "fn_hard": fn}
    return {**{key: np.array(value) for key, value in arrays.items()}, "subset": subset, "loss": np.array(loss)}


def test_the_curve_is_the_mean_over_subsets_not_over_voxels(started):
    trainer = started()
    logger = trainer.logger.loggers[0]
    outputs = [
        counts("mod0", [900, 10], [50, 0], [50, 0], 1.0),
        counts("mod0", [0, 0], [100, 20], [0, 0], 2.0),  # pooled with the one above
        counts("mod1", [1, 0], [0, 0], [2, 5], 3.0),
    ]
    trainer.on_validation_epoch_end(outputs)
    first = (2 * 900 / (2 * 900 + 150 + 50), 2 * 10 / (2 * 10 + 20))
    second = (0.5, 0.0)
    per_class = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert trainer.logger.get_value("mean_fg_dice", 0) == pytest.approx(sum(per_class) / 2)
    assert trainer.logger.get_value("ema_fg_dice", 0) == pytest.approx(sum(per_class) / 2)
    assert trainer.logger.get_value("dice_per_class_or_region", 0) == pytest.approx(per_class)
    assert trainer.logger.get_value("val_losses", 0) == pytest.approx(2.0)
    expected = {("pseudo_dice/mod0", 0): sum(first) / 2, ("pseudo_dice/mod1", 0): 0.25}
    assert metrics(trainer) == pytest.approx(expected)
    assert {key: logger.values[key] for key in expected} == pytest.approx(expected)
    pooled = (2 * 901 / (2 * 901 + 150 + 52), 20 / (20 + 20 + 5))
    assert abs(sum(pooled) / 2 - sum(per_class) / 2) > 0.1


def test_a_class_that_no_step_holds_does_not_count(started):
    trainer = started()
    trainer.on_validation_epoch_end([counts("mod0", [5, 0], [0, 0], [0, 0]), counts("mod1", [1, 3], [0, 0], [2, 0])])
    assert trainer.logger.get_value("dice_per_class_or_region", 0) == pytest.approx([(1 + 0.5) / 2, 1.0])
    assert metrics(trainer) == pytest.approx({("pseudo_dice/mod0", 0): 1.0, ("pseudo_dice/mod1", 0): 0.75})


def test_nnunet_ends_an_epoch_on_these_values(started):
    """Its log lines, its curve and checkpoint_best, which follows the mean over subsets."""
    trainer = started(save_every=100)
    for epoch, tp in enumerate((5, 50, 1)):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([step(seg=1)])
        trainer.on_validation_epoch_end([counts("mod0", [tp], [10], [0]), counts("mod1", [tp], [0], [20])])
        trainer.on_epoch_end()
        assert trainer.current_epoch == epoch + 1
    best = torch.load(Path(trainer.output_folder) / "checkpoint_best.pth", weights_only=False)
    assert best["current_epoch"] == 2
    assert log_text(trainer).count("New best EMA pseudo Dice") == 2
    assert (Path(trainer.output_folder) / "progress.png").is_file()
    json.dumps(trainer.logger.get_checkpoint(), default=float)


@pytest.fixture
def presented(started, monkeypatch):
    """Run validation steps; what was present in each: (present channels, output)."""

    def show(available, steps, **settings):
        trainer = started(num_val_iterations_per_epoch=steps, **settings)
        trainer.available_in_case = available
        seen = []
        trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        trainer.on_validation_epoch_start()
        assert not trainer.network.training
        outputs = []
        with torch.no_grad():
            for number in range(steps):
                outputs.append(trainer.validation_step(random_batch(trainer, seed=number, cases=tuple(available))))
        presents = [images.flatten(2).any(2) for images in seen]
        return trainer, presents, outputs

    return show


def test_validation_goes_through_the_subsets(presented):
    _, presents, outputs = presented({"a": (True,) * 3, "b": (True,) * 3}, 8)
    subsets = all_subsets(3)
    for number, (present, output) in enumerate(zip(presents, outputs, strict=True)):
        subset = subsets[number % 7]
        assert torch.equal(present, subset.expand(2, -1))
        assert output["subset"] == subset_name(subset, NAMES)
        assert output["tp_hard"].shape == (2,)


def test_validation_never_shows_what_a_case_lacks(presented):
    available = {"a": (True, False, True), "b": (False, True, False), "c": (True, True, True)}
    _, presents, _ = presented(available, 7)
    for subset, present in zip(all_subsets(3), presents, strict=True):
        for row, has in zip(present, torch.tensor(list(available.values())), strict=True):
            expected = subset & has if (subset & has).any() else has
            assert torch.equal(row, expected)


def test_every_epoch_has_the_same_subsets_and_ends_with_a_row_for_each(presented):
    trainer, _, outputs = presented({"a": (True,) * 3, "b": (True, False, True)}, 7)
    trainer.on_validation_epoch_end(outputs)
    names = [subset_name(subset, NAMES) for subset in all_subsets(3)]
    assert list(metrics(trainer)) == [(f"pseudo_dice/{name}", 0) for name in names]
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        again = [trainer.validation_step(random_batch(trainer, seed=n, cases=("a", "b"))) for n in range(7)]
    assert [output["subset"] for output in again] == [output["subset"] for output in outputs]
    assert all(np.array_equal(new["tp_hard"], old["tp_hard"]) for new, old in zip(again, outputs, strict=True))


def test_validation_does_not_change_the_batch(make):
    trainer = make(num_val_iterations_per_epoch=1)
    trainer.on_validation_epoch_start()
    trainer.validation_subsets = [torch.tensor([True, False, False])]
    batch = random_batch(trainer)
    images = batch["data"].clone()
    with torch.no_grad():
        trainer.validation_step(batch)
    assert torch.equal(batch["data"], images)
    assert trainer.validation_subsets == []


# --- settings and the plan --------------------------------------------------------------------------------------------


def test_settings_are_the_numbers_of_the_method_and_of_nnunet(make):
    trainer = make(num_epochs=12)
    settings = trainer.settings()
    assert set(settings) == {"beta", "optimizer_name", "lr_schedule", "amsgrad", "adam_beta2", "seed", *HOST_SETTINGS}
    assert settings["beta"] == 0.25
    assert settings["num_epochs"] == 12
    assert list(settings) == sorted(settings)
    assert all(hasattr(trainer, name) for name in HOST_SETTINGS)


def test_a_subclass_inherits_the_settings(make):
    class Ablation(ScriptedTrainer):
        beta = 0.0
        window = 5

    trainer = make(Ablation, window=7)
    assert {name: trainer.settings()[name] for name in ("beta", "window")} == {"beta": 0.0, "window": 7}
    assert (Ablation.window, trainer.window) == (5, 7)


def test_overrides_reach_what_nnunet_builds_from_them(make):
    trainer = make(enable_deep_supervision=False, weight_decay=0.125, num_epochs=3, initial_lr=1)
    assert not trainer.network.decoder.deep_supervision
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.125
    assert trainer.lr_scheduler.max_steps == 3
    assert trainer.lr_scheduler.initial_lr == 1


class ConstantNet(ModalityDropoutNet):
    """A network with constants."""

    def __init__(self, spec, *, width: int = 1, overlapping: bool = False):
        super().__init__(spec)
        self.width, self.overlapping = width, overlapping


class ConstantTrainer(ModalityDropoutTrainer):
    """Tells its network something of the dataset."""

    build_network = staticmethod(ConstantNet.from_plans)

    def __init__(self, plans, configuration, fold, dataset_json, device=None):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.set_network_constants(overlapping=True)


def test_network_constants_land_in_the_plan_and_survive_json(make):
    trainer = make(ConstantTrainer, num_epochs=5)
    assert trainer.network.overlapping
    saved = json.loads(json.dumps(trainer.plans_manager.plans))
    expected = {"trainer": {"num_epochs": 5}, "network": {"overlapping": True}}
    assert saved["configurations"][CONFIGURATION]["missmod"] == expected
    assert trainer.configuration_manager.configuration["missmod"] == expected
    assert trainer.my_init_kwargs["plans"]["configurations"][CONFIGURATION]["missmod"] == expected
    manager = type(trainer.plans_manager)(saved)
    network = ConstantTrainer.build_network_architecture(manager, manager.get_configuration(CONFIGURATION), 3, 3)
    assert network.overlapping


def test_network_constants_stand_beside_those_of_the_plan(make, tmp_path, monkeypatch):
    plans = small_plans(3, features=TINY)
    plans["configurations"][CONFIGURATION]["missmod"] = {"network": {"width": 4, "overlapping": False}}
    trainer = small_trainer(ConstantTrainer, plans, small_dataset_json(3), tmp_path, monkeypatch)
    assert (trainer.network.width, trainer.network.overlapping) == (4, True)
    assert plans["configurations"][CONFIGURATION]["missmod"]["network"]["overlapping"] is False


def test_network_constants_reach_a_configuration_that_inherits(tmp_path, monkeypatch):
    plans = small_plans(3, features=TINY)
    plans["configurations"]["3d_lowres"] = {"inherits_from": CONFIGURATION}
    small_trainer(ConstantTrainer, plans, small_dataset_json(3), tmp_path, monkeypatch)  # sets the folders
    trainer = ConstantTrainer(
        {**copy.deepcopy(plans), "continue_training": False},
        "3d_lowres",
        0,
        small_dataset_json(3),
        torch.device("cpu"),
    )
    saved = json.loads(json.dumps(trainer.plans_manager.plans))["configurations"]
    assert saved["3d_lowres"]["missmod"]["network"] == {"overlapping": True}
    assert "network" not in saved[CONFIGURATION]["missmod"]


def test_the_base_class_is_no_method(make):
    class Hookless(MissingModalityTrainer):
        build_network = staticmethod(ModalityDropoutNet.from_plans)

    trainer = make(Hookless)
    trainer.network.train()
    with pytest.raises(NotImplementedError):
        trainer.train_step(random_batch(trainer))


# --- checkpoints ------------------------------------------------------------------------------------------------------


class StatefulTrainer(ScriptedTrainer):
    """Has something of its own to remember."""

    def method_state(self):
        return {**super().method_state(), "remembered": self.remembered}

    def load_method_state(self, state):
        super().load_method_state(state)
        self.remembered = state["remembered"]


def test_a_checkpoint_is_nnunet_s_with_the_method_s_state(make, tmp_path):
    trainer = make(StatefulTrainer)
    trainer.remembered = torch.arange(3)
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["checkpoint.pth"]
    checkpoint = torch.load(file, weights_only=False)
    assert checkpoint["trainer_name"] == "StatefulTrainer"
    assert set(checkpoint["missmod"]) == {"subset_seed", "optimizer_name", "remembered"}
    nnUNetTrainer.save_checkpoint(trainer, str(tmp_path / "stock.pth"))
    stock = torch.load(tmp_path / "stock.pth", weights_only=False)
    assert set(checkpoint) == {*stock, "missmod"}
    assert same(stock["network_weights"], checkpoint["network_weights"])

    other = make(StatefulTrainer, seed=1)
    assert other.subset_seed != trainer.subset_seed
    other.load_checkpoint(str(file))
    assert other.subset_seed == trainer.subset_seed
    assert torch.equal(other.remembered, torch.arange(3))
    assert same(other.network.state_dict(), trainer.network.state_dict())


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_run_killed_while_saving_keeps_the_former_checkpoint(fails_at, make, tmp_path, monkeypatch):
    trainer = make()
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    former = file.read_bytes()
    trainer.network.train()
    trainer.train_step(random_batch(trainer))
    save, calls = torch.save, []

    def fail(content, target):
        calls.append(target)
        if len(calls) == fails_at:
            Path(target).write_bytes(former[: len(former) // 2])
            raise OSError("No space left on device")
        save(content, target)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == former
    monkeypatch.setattr(torch, "save", save)
    trainer.save_checkpoint(str(file))
    checkpoint = torch.load(file, weights_only=False)
    assert same(trainer.network.state_dict(), checkpoint["network_weights"])
    assert not list(tmp_path.glob("*.tmp"))


def test_a_checkpoint_appears_whole(make, tmp_path, monkeypatch):
    trainer = make()
    file = tmp_path / "checkpoint.pth"
    replaced = []

    def replace(source, target):
        replaced.append((str(source), str(target), "missmod" in torch.load(source, weights_only=False)))
        assert not file.exists()
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    trainer.save_checkpoint(str(file))
    assert replaced == [(f"{file}.tmp", str(file), True)]


@pytest.mark.parametrize(("attribute", "value"), [("disable_checkpointing", True), ("local_rank", 1)])
def test_nothing_is_written_where_nnunet_writes_nothing(attribute, value, make, tmp_path):
    trainer = make()
    setattr(trainer, attribute, value)
    before = sorted(tmp_path.rglob("*"))
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert sorted(tmp_path.rglob("*")) == before
    assert ("checkpointing is disabled" in log_text(trainer)) == (attribute == "disable_checkpointing")


def test_only_the_epochs_that_the_checkpoint_knows_stay_in_the_log(make, monkeypatch):
    trainer = make()
    for epoch in range(4):
        trainer.epoch_log.append(epoch, {"loss/seg": epoch})
    trainer.current_epoch = 2
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    trainer.on_train_start()
    assert list(metrics(trainer)) == [("loss/seg", 0), ("loss/seg", 1)]


# --- weights of stock nnU-Net -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_weights_of_stock_nnunet_are_taken_over(dims, residual, tmp_path, monkeypatch):
    plans = small_plans(3, dims, residual, features=TINY)
    del plans["configurations"][CONFIGURATION]["missmod"]
    stock = small_trainer(nnUNetTrainer, plans, small_dataset_json(3), tmp_path, monkeypatch)
    file = str(tmp_path / "stock.pth")
    stock.save_checkpoint(file)
    trainer = small_trainer(ModalityDropoutTrainer, plans, small_dataset_json(3), tmp_path, monkeypatch, seed=1)
    assert list(stock.network.state_dict()) == list(trainer.network.state_dict())
    own = weights(trainer)
    load_pretrained_weights(trainer.network, file)
    taken_over = trainer.network.state_dict()
    for key, value in stock.network.state_dict().items():
        assert torch.equal(taken_over[key], own[key] if ".seg_layers." in key else value)
    assert any(not torch.equal(own[key], taken_over[key]) for key in own)

    trainer.network.load_state_dict(stock.network.state_dict())
    images = random_batch(trainer)["data"]
    with torch.no_grad():
        expected, got = stock.network.eval()(images), trainer.network.eval()(images)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
