"""What is promised of every door, whatever its method.

Where a promise is tried on many plans, the cases are pairwise: each door meets each number of modalities, each
dimension, plain and residual encoders, classes and regions, with and without a label to ignore, and any two of these
meet in some case. What goes wrong for three of them together alone is not looked for.
"""

import copy
import importlib
import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from pairwise import pairwise
from small_plans import (
    CONFIGURATION,
    random_batch,
    small_dataset_json,
    small_plans,
    small_trainer,
    whole_step,
    with_small_network,
)

from nnunetv2_missmod.host.doors import PRETRAINING, door_names
from nnunetv2_missmod.host.preprocessor import MissingModalityPreprocessor
from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.prediction.model import read_checkpoint
from nnunetv2_missmod.training.settings import HOST_SETTINGS

pytestmark = pytest.mark.slow

DOORS = door_names()
SEGMENTING = [name for name in DOORS if not name.endswith(PRETRAINING)]
MODALITIES, DIMENSIONS, EITHER = (2, 3, 4), (2, 3), (False, True)
TINY = (8, 8, 16)


def door(name):
    return getattr(importlib.import_module(f"nnunetv2_missmod.trainers.{name}"), name)


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(name, modalities=3, dims=3, residual=False, regions=False, ignore=False, seed=0, **overrides):
        plans = small_plans(modalities, dims, residual, features=TINY, **(whole_step(door(name)) | overrides))
        plans = with_small_network(door(name), plans)
        dataset_json = small_dataset_json(modalities, regions, ignore)
        trainer = small_trainer(door(name), plans, dataset_json, tmp_path, monkeypatch, seed=seed)
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        return trainer

    return make


def reach_every_level(trainer):
    """Give the coarsest head the tiny weight that nnU-Net gives it under DDP; alone, it gets none."""
    trainer.loss.weight_factors = tuple(w or 1e-6 for w in trainer.loss.weight_factors)


def not_reached(trainer):
    """Parameters that learn but got no gradient: DDP would wait for them."""
    return [n for n, p in trainer.network.named_parameters() if p.requires_grad and p.grad is None]


def ready_to_predict(trainer):
    """The network as prediction uses it, and images for it."""
    trainer.set_deep_supervision_enabled(False)
    return trainer.network.eval(), random_batch(trainer)["data"]


@pytest.mark.parametrize(
    ("name", "modalities", "dims", "residual", "regions"), pairwise(DOORS, MODALITIES, DIMENSIONS, EITHER, EITHER)
)
def test_absent_means_absent(name, modalities, dims, residual, regions, make_trainer):
    network, images = ready_to_predict(make_trainer(name, modalities, dims, residual, regions))
    for subset in all_subsets(modalities):
        present = subset.expand(2, -1)
        changed = images.clone()
        changed[:, ~subset] = float("nan")
        zeroed = images.clone()
        zeroed[:, ~subset] = 0
        filled = images.clone()
        filled[:, ~subset] = 7
        with torch.no_grad():
            expected = network(images, present)
            assert torch.isfinite(expected).all()
            assert torch.equal(network(changed, present), expected)
            assert torch.equal(network(zeroed), expected)
            assert torch.equal(network(filled), expected)
            assert torch.equal(network.forward_subsets(changed, subset[None])[0], expected)


@pytest.mark.parametrize("name", DOORS)
def test_a_present_channel_counts(name, make_trainer):
    """Each of them, or, of a network for one subset, each of that and no other."""
    network, images = ready_to_predict(make_trainer(name))
    count = network.subset or range(3)
    for subset in all_subsets(3):
        for channel in subset.nonzero().flatten():
            changed = images.clone()
            changed[:, channel] += torch.randn_like(changed[:, channel])
            with torch.no_grad():
                before, after = network(images, subset.expand(2, -1)), network(changed, subset.expand(2, -1))
            assert torch.equal(before, after) == (int(channel) not in count)


@pytest.mark.parametrize("name", DOORS)
def test_samples_of_a_batch_do_not_mix(name, make_trainer):
    """In double precision: single, a batch of two rounds otherwise than two of one."""
    network, images = (value.double() for value in ready_to_predict(make_trainer(name)))
    present = torch.tensor([[True, False, True], [False, True, False]])
    with torch.no_grad():
        together = network(images, present)
        alone = torch.cat([network(images[b : b + 1], present[b : b + 1]) for b in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-10)


def assert_images_come_out(trainer, images, modalities):
    """A pretraining gives one image per modality, at full resolution alone."""
    present = torch.ones(2, modalities, dtype=torch.bool)
    with torch.no_grad():
        assert trainer.network.train()(images, present).logits.shape == images.shape
        assert trainer.network.eval()(images).shape == images.shape
        subsets = all_subsets(modalities)
        assert trainer.network.forward_subsets(images, subsets).shape == (len(subsets), *images.shape)


@pytest.mark.parametrize(
    ("name", "modalities", "dims", "regions", "ignore"), pairwise(DOORS, MODALITIES, DIMENSIONS, EITHER, EITHER)
)
def test_output_shapes(name, modalities, dims, regions, ignore, make_trainer):
    trainer = make_trainer(name, modalities, dims, regions=regions, ignore=ignore)
    network, images = trainer.network, random_batch(trainer)["data"]
    if name not in SEGMENTING:
        assert_images_come_out(trainer, images, modalities)
        return
    heads = trainer.label_manager.num_segmentation_heads
    levels = [(2, heads, *[16 // 2**level] * dims) for level in range(len(TINY) - 1)]
    present = torch.ones(2, modalities, dtype=torch.bool)
    assert [tuple(x.shape) for x in network.train()(images, present).logits] == levels
    assert [tuple(x.shape) for x in network.eval()(images)] == levels
    trainer.set_deep_supervision_enabled(False)
    assert tuple(network(images).shape) == levels[0]
    with torch.no_grad():
        subsets = all_subsets(modalities)
        assert tuple(network.forward_subsets(images, subsets).shape) == (len(subsets), *levels[0])


@pytest.mark.parametrize(
    ("name", "dims", "residual", "regions", "ignore"), pairwise(DOORS, DIMENSIONS, EITHER, EITHER, EITHER)
)
def test_every_parameter_is_reached_by_one_step(name, dims, residual, regions, ignore, make_trainer):
    trainer = make_trainer(name, 3, dims, residual, regions, ignore)
    reach_every_level(trainer)
    trainer.network.train()
    trainer.train_step(random_batch(trainer))
    assert not_reached(trainer) == []


@pytest.mark.parametrize("name", DOORS)
def test_every_parameter_is_reached_when_the_batch_lacks_a_modality(name, make_trainer):
    trainer = make_trainer(name)
    reach_every_level(trainer)
    trainer.network.train()
    trainer.available_in_case = dict.fromkeys("abcd", (True, False, True))
    outputs = trainer.train_step(random_batch(trainer))
    assert not_reached(trainer) == []
    assert all(torch.isfinite(term) for term in outputs.values())


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("available", [(True, False, True), (False, False, True)])
def test_an_unavailable_channel_enters_no_loss_and_no_weight(name, available, make_trainer):
    results = []
    for seed in (1, 2):
        trainer = make_trainer(name, regions=True)
        trainer.available_in_case = {"a": available, "b": (True, True, True)}
        trainer.network.train()
        trainer.generator.manual_seed(0)
        batch = random_batch(trainer)
        noise = torch.randn(batch["data"].shape[2:], generator=torch.Generator().manual_seed(seed))
        for channel in (m for m in range(3) if not available[m]):
            batch["data"][0, channel] = 10 * noise
        results.append((trainer.train_step(batch), copy.deepcopy(trainer.network.state_dict())))
    (terms, weights), (other_terms, other_weights) = results
    assert all(torch.equal(terms[n], other_terms[n]) for n in terms)
    assert all(torch.equal(weights[n], other_weights[n]) for n in weights)


@pytest.mark.parametrize("name", DOORS)
def test_subsets_are_drawn_from_what_is_available(name, make_trainer):
    trainer = make_trainer(name)
    available = torch.tensor([[True, False, True], [False, True, False]])
    first, second = zip(*(trainer.draw_subset(available).tolist() for _ in range(300)), strict=True)
    assert {tuple(row) for row in first} == {(True, False, False), (False, False, True), (True, False, True)}
    assert {tuple(row) for row in second} == {(False, True, False)}


@pytest.mark.parametrize(("name", "regions", "residual"), pairwise(SEGMENTING, EITHER, EITHER))
def test_a_checkpoint_rebuilds_the_same_network_from_the_plan_alone(name, regions, residual, make_trainer, tmp_path):
    trainer = make_trainer(name, dims=2, residual=residual, regions=regions)
    trainer.network.train()
    trainer.train_step(random_batch(trainer))
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    saved_plan = json.loads(json.dumps(trainer.plans_manager.plans))  # what nnU-Net writes beside the checkpoint
    manager = type(trainer.plans_manager)(saved_plan)
    configuration = manager.get_configuration(CONFIGURATION)
    heads = trainer.label_manager.num_segmentation_heads
    network = door(name).build_network_architecture(manager, configuration, 3, heads, enable_deep_supervision=False)
    network.load_state_dict(read_checkpoint(file)["network_weights"])  # nothing in it is executed
    images = random_batch(trainer)["data"]
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), trainer.network.eval()(images))
    assert configuration.preprocessor_class is MissingModalityPreprocessor


@pytest.mark.parametrize("name", sorted({*DOORS} - {*SEGMENTING}))
def test_a_pretraining_refuses_to_predict(name, make_trainer):
    trainer = make_trainer(name)
    manager, configuration = trainer.plans_manager, trainer.configuration_manager
    with pytest.raises(ValueError, match="Expected a trainer that segments"):
        door(name).build_network_architecture(manager, configuration, 3, 3, enable_deep_supervision=False)


class Stream:
    """Batches that depend on epoch and step alone."""

    def __init__(self, trainer, salt):
        self.trainer, self.salt, self.step = trainer, salt, 0

    def __next__(self):
        self.step += 1
        steps = self.trainer.num_iterations_per_epoch
        return random_batch(self.trainer, seed=self.salt + 100 * self.trainer.current_epoch + self.step % steps)


def start(trainer, monkeypatch, stop_at=None):
    """Run nnU-Net's training loop on fixed streams; ``stop_at`` an epoch it is interrupted."""
    monkeypatch.setattr(trainer, "get_dataloaders", lambda: (Stream(trainer, 1), Stream(trainer, 50)))
    for slow in ((LocalLogger, "plot_progress_png"), (Figure, "savefig"), (nnUNetTrainer, "perform_actual_validation")):
        monkeypatch.setattr(*slow, lambda *args, **kwargs: None)  # takes longer than an epoch here
    base = Path(trainer.preprocessed_dataset_folder_base)
    (base / "dataset_fingerprint.json").write_text("{}")
    (base / "splits_final.json").write_text('[{"train": ["a", "b", "c"], "val": ["d"]}]')
    begin_epoch = trainer.on_epoch_start

    def interrupted():
        if trainer.current_epoch == stop_at:
            raise KeyboardInterrupt
        begin_epoch()

    monkeypatch.setattr(trainer, "on_epoch_start", interrupted)
    if stop_at is None:
        trainer.run_training()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.run_training()


def logged(trainer):
    curves = trainer.logger.get_checkpoint()
    return {name: values for name, values in curves.items() if "timestamps" not in name}


@pytest.mark.parametrize("name", DOORS)
def test_an_interrupted_training_resumes_exactly(name, make_trainer, monkeypatch, tmp_path):
    short = {"num_epochs": 3, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 2, "save_every": 2}
    small = {"modalities": 2, "dims": 2, "regions": True}
    whole = make_trainer(name, **small, **short)
    start(whole, monkeypatch)
    whole_metrics = whole.epoch_log.rows()

    interrupted = make_trainer(name, **small, **short)
    start(interrupted, monkeypatch, stop_at=2)
    resumed = make_trainer(name, seed=1, **small, **short)
    resumed.load_checkpoint(f"{interrupted.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 2
    start(resumed, monkeypatch)

    weights = resumed.network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in whole.network.state_dict().items())
    expected, got = whole.optimizer.state_dict(), resumed.optimizer.state_dict()
    assert expected["param_groups"] == got["param_groups"]
    for key, state in expected["state"].items():
        for entry, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(got["state"][key][entry]))
    assert json.dumps(logged(whole), default=str) == json.dumps(logged(resumed), default=str)
    assert resumed.epoch_log.rows() == whole_metrics
    assert {epoch for epoch, _, _ in whole_metrics} == {0, 1, 2}


@pytest.mark.parametrize("name", DOORS)
def test_no_graph_break_under_compile(name, make_trainer):
    """In 2D and with two modalities: what breaks a graph is a branch on values, and these are no other in 3D."""
    trainer = make_trainer(name, modalities=2, dims=2, regions=True)
    images, present = random_batch(trainer)["data"], torch.tensor([[True, False], [True, True]])
    torch._dynamo.reset()
    compiled = torch.compile(trainer.network.train(), backend="eager", fullgraph=True)
    outputs = []
    for network in (compiled, trainer.network):
        torch.manual_seed(0)  # of dropout
        outputs.append(network(images, present).logits)
    torch.testing.assert_close(*outputs)
    compiled = torch.compile(trainer.network.eval(), backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), trainer.network(images))


@pytest.mark.parametrize("name", DOORS)
def test_overrides_of_the_plan_are_applied_and_checked(name, make_trainer):
    trainer = make_trainer(name, num_epochs=7, initial_lr=0.5)
    assert (trainer.num_epochs, trainer.initial_lr) == (7, 0.5)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match=r"num_epoch'.*Known are: .*num_epochs = "):
        make_trainer(name, num_epoch=7)
    with pytest.raises(ValueError, match="expected a value like"):
        make_trainer(name, num_epochs="many")


@pytest.mark.parametrize("name", DOORS)
def test_every_number_of_the_method_is_a_setting(name, make_trainer):
    trainer = make_trainer(name)
    own = {n for n, v in vars(door(name)).items() if isinstance(v, (bool, int, float, str)) and not n.startswith("_")}
    assert own.union(HOST_SETTINGS) <= set(trainer.settings())


@pytest.mark.parametrize("name", DOORS)
def test_the_trainer_takes_the_arguments_of_nnunet(name):
    code = door(name).__init__.__code__
    names = code.co_varnames[1 : code.co_argcount]
    assert names == ("plans", "configuration", "fold", "dataset_json", "device")


@pytest.mark.parametrize("name", SEGMENTING)
def test_a_few_steps_lower_the_segmentation_loss(name, make_trainer):
    """The gradients point the right way."""
    trainer = make_trainer(name, dims=2, regions=True, initial_lr=0.01)
    trainer.network.train()
    batch = random_batch(trainer)
    batch["data"] = torch.cat([batch["target"][0].float()], 1) + 0.1 * batch["data"]  # an image that shows the regions
    losses = [float(trainer.train_step(batch)["segmentation"]) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
