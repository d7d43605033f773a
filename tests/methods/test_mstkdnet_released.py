"""What MST-KDNet's released code has and the paper's text has not, as settings: content, decoded maps; beta_2."""

import pytest
import torch
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer, with_small_network

from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(**overrides):
        plans = with_small_network(MSTKDNetTrainer, small_plans(3, 2, features=(8, 8, 16), **overrides))
        trainer = small_trainer(MSTKDNetTrainer, plans, small_dataset_json(3), tmp_path, monkeypatch)
        trainer.network.train()
        trainer.draw_subset = lambda available: torch.tensor([[True, False, False], [False, True, True]])
        trainer.current_epoch = 80  # after the ramp-up
        return trainer

    return make


def outputs_and_terms(trainer):
    batch = trainer.prepare_batch(random_batch(trainer))
    outputs = trainer.teacher.network(batch.images), trainer.network(batch.images, trainer.draw_subset(None))
    return *outputs, {name: term for update in trainer.updates(batch) for name, term in update.terms.items()}


def test_the_content_term_is_the_weighted_mean_squared_error_of_f_dec_and_off_by_default(make):
    assert "content" not in outputs_and_terms(make())[2]
    trainer = make(content_weight=0.2)
    full, missing, terms = outputs_and_terms(trainer)
    expected = 0.2 * (full.decoded - missing.decoded).square().mean() / trainer.label_manager.num_segmentation_heads
    torch.testing.assert_close(terms["content"], expected)
    gradient = torch.autograd.grad(terms["content"], trainer.network.first_conv.parameters(), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradient)


def test_mst_of_maps_is_of_several_resolutions_and_ends_at_f_t(make):
    full, missing, terms = outputs_and_terms(make(mst_of="maps"))
    error = sum((t - s).square().mean() for t, s in zip(full.maps, missing.maps, strict=True))
    torch.testing.assert_close(terms["mst"], 0.2 * error / 3)
    assert len(full.maps) == 4
    assert full.maps[-1].shape == full.transformed.shape


@pytest.mark.parametrize("mst_of", ["tokens", "maps"])
def test_mst_teaches_the_transformer_from_every_layer(mst_of, make):
    trainer = make(mst_of=mst_of)
    term = outputs_and_terms(trainer)[2]["mst"]
    weights = [block.feedforward[0].weight for block in trainer.network.transformer.blocks]
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(term, weights))


@pytest.mark.parametrize("wrong", [1.0, 1.5])
def test_a_beta_of_one_or_more_is_an_error(wrong, make):
    with pytest.raises(ValueError, match="Expected adam_beta2 from 0 to below 1"):
        make(adam_beta2=wrong)


def test_a_checkpoint_of_other_betas_resumes_with_its_own(make, tmp_path):
    """Earlier versions trained student and teacher with torch's 0.999: their moments are of that."""
    earlier, resumed = make(adam_beta2=0.999), make()
    earlier.train_step(random_batch(earlier))
    file = str(tmp_path / "checkpoint.pth")
    earlier.save_checkpoint(file)
    resumed.load_checkpoint(file)
    betas = {group["betas"] for learner in resumed.learners() for group in learner.optimizer.param_groups}
    assert betas == {(0.9, 0.999)}


def test_the_earlier_name_of_relative_errors_is_still_read(make):
    terms = [outputs_and_terms(make(evd_scale=word))[2]["evd"] for word in ("relative", "teacher", "tokens")]
    assert terms[0] == terms[1]
    assert terms[0] != terms[2]
