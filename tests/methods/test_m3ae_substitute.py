"""Whether x_sub learns: its pattern beside the noise that it began as, in the log, and after a resume."""

import copy
import math
from pathlib import Path

import pytest
import torch
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.methods.m3ae.pretraining import M3AEPretrainTrainer
from nnunetv2_missmod.methods.m3ae.substitute import initial_noise, pattern_correlation, pattern_rms

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")

RMS, CORRELATION = "substitute/rms", "substitute/correlation_with_noise"


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(seed=0, **overrides):
        plans = small_plans(2, 2, features=(8, 8, 8), **overrides)
        return small_trainer(M3AEPretrainTrainer, plans, small_dataset_json(2), tmp_path, monkeypatch, seed=seed)

    return make


def train(trainer, steps=2):
    """One epoch; its rows of metrics.csv, by name."""
    trainer.network.train()
    trainer.epoch_log.keep_before(0)
    outputs = [trainer.train_step(random_batch(trainer, seed=seed)) for seed in range(steps)]
    trainer.on_train_epoch_end(outputs)
    return {name: float(value) for _, name, value in trainer.epoch_log.rows()}


# --- what is measured -------------------------------------------------------------------------------------------------


def patterns(substitute):
    """Values less each modality's mean."""
    out = []
    for modality in substitute[0]:
        values = modality.flatten().tolist()
        mean = sum(values) / len(values)
        out += [v - mean for v in values]
    return out


@pytest.mark.parametrize("spatial", [(5, 4), (2, 3, 2)], ids=["2D", "3D"])
def test_rms_and_correlation_are_their_formulas(spatial):
    noise = initial_noise((1, 3, *spatial), 1)
    substitute = 0.3 * noise + 0.2 * initial_noise((1, 3, *spatial), 2) + 4
    now, then = patterns(substitute), patterns(noise)
    dot = sum(a * b for a, b in zip(now, then, strict=True))
    squares, squares_then = sum(v * v for v in now), sum(v * v for v in then)
    assert pattern_rms(substitute) == pytest.approx(math.sqrt(squares / len(now)), rel=1e-5)
    assert pattern_correlation(substitute, noise) == pytest.approx(dot / math.sqrt(squares * squares_then), rel=1e-5)


def test_neither_sees_a_modalitys_level_and_the_correlation_not_the_scale():
    noise = initial_noise((1, 2, 8, 8), 0)
    shifted = 0.01 * noise + torch.tensor([3.0, -7.0]).view(1, 2, 1, 1)
    assert pattern_rms(shifted) == pytest.approx(0.01 * pattern_rms(noise), rel=1e-4)
    assert pattern_correlation(shifted, noise) == pytest.approx(1, rel=1e-4)
    assert pattern_correlation(-shifted, noise) == pytest.approx(-1, rel=1e-4)


def test_a_constant_substitute_has_no_pattern():
    constant = torch.full((1, 2, 8, 8), 0.5)
    assert pattern_rms(constant) == pytest.approx(0, abs=1e-6)
    assert pattern_correlation(constant, initial_noise((1, 2, 8, 8), 0)) == pytest.approx(0, abs=1e-6)


def test_the_noise_is_standard_normal_and_its_seeds_alone():
    before = torch.get_rng_state()
    noise = initial_noise((1, 4, 64, 64), 5)
    assert torch.equal(noise, initial_noise((1, 4, 64, 64), 5))
    assert not torch.equal(noise, initial_noise((1, 4, 64, 64), 6))
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(torch.get_rng_state(), before)


# --- in a training ----------------------------------------------------------------------------------------------------


def test_a_training_begins_with_the_noise_of_its_seed(make):
    trainer = make()
    substitute = trainer.network.substitute
    assert torch.equal(substitute, initial_noise(substitute.shape, trainer.subset_seed))
    assert substitute.requires_grad
    assert any(substitute is p for group in trainer.optimizer.param_groups for p in group["params"])


def test_an_epoch_logs_whether_it_learns(make):
    trainer = make(substitute_lr=0.1)
    logged = train(trainer)
    substitute, noise = trainer.network.substitute.detach(), initial_noise(trainer.network.substitute.shape, 0)
    assert logged[RMS] == pytest.approx(pattern_rms(substitute), rel=1e-4)
    assert logged[CORRELATION] == pytest.approx(pattern_correlation(substitute, noise), rel=1e-4)
    assert 0.5 < logged[CORRELATION] < 0.9999
    assert "correlation_with_noise" in Path(trainer.log_file).read_text(encoding="utf-8")


@pytest.mark.parametrize(("substitute", "rank"), [("zero", 0), ("mean", 0), ("learned", 1)])
def test_only_what_learns_is_logged_and_by_the_first_rank(substitute, rank, make):
    trainer = make(substitute=substitute)
    trainer.local_rank = rank
    assert not {RMS, CORRELATION} & train(trainer).keys()


def test_a_resumed_training_knows_its_noise_without_keeping_it(make, tmp_path):
    first = make(substitute_lr=0.1)
    train(first)
    file = str(tmp_path / "checkpoint.pth")
    first.save_checkpoint(file)
    stored = torch.load(file, weights_only=False)
    size = first.network.substitute.shape
    assert [key for key, value in stored["network_weights"].items() if value.shape == size] == ["substitute"]
    assert not any(torch.is_tensor(value) for value in stored["missmod"].values())
    resumed = make(seed=1, substitute_lr=0.1)
    assert resumed.subset_seed != first.subset_seed
    resumed.load_checkpoint(file)
    assert resumed.substitute_metrics() == first.substitute_metrics()
    again = str(tmp_path / "again.pth")
    resumed.save_checkpoint(again)
    assert torch.load(again, weights_only=False)["missmod"]["substitute_seed"] == first.subset_seed


def test_a_checkpoint_of_before_has_no_correlation(make, tmp_path):
    first = make()
    file = tmp_path / "checkpoint.pth"
    first.save_checkpoint(str(file))
    stored = torch.load(file, weights_only=False)
    del stored["missmod"]["substitute_seed"]
    torch.save(stored, file)
    resumed = make(seed=1)
    resumed.load_checkpoint(str(file))
    assert torch.equal(resumed.network.substitute, first.network.substitute)
    assert resumed.substitute_metrics().keys() == {RMS}
    resumed.save_checkpoint(str(file))
    resumed.load_checkpoint(str(file))
    assert resumed.substitute_metrics().keys() == {RMS}


def test_weights_from_elsewhere_keep_their_substitute(make, monkeypatch):
    """As nnU-Net's -pretrained_weights gives them, between set-up and training."""
    trainer = make()
    weights = copy.deepcopy(trainer.network.state_dict())
    weights["substitute"] += 2
    trainer.network.load_state_dict(weights)
    monkeypatch.setattr(trainer, "get_dataloaders", lambda: (iter(()), iter(())))
    (Path(trainer.preprocessed_dataset_folder_base) / "dataset_fingerprint.json").write_text("{}")
    trainer.on_train_start()
    assert torch.equal(trainer.network.substitute, weights["substitute"])
