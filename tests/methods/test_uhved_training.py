"""U-HVED's network and training step: draws, what reaches what, RA-HVED's pass and discriminator, words refused."""

import math
from collections import Counter

import pytest
import torch
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.reconstruction import mse_reconstruction_loss
from nnunetv2_missmod.host.doors import plans_folder
from nnunetv2_missmod.methods.uhved.losses import subset_divergences
from nnunetv2_missmod.methods.uhved.product import steady_noise
from nnunetv2_missmod.methods.uhved.trainer import UHVEDTrainer, are_nested
from nnunetv2_missmod.modalities import all_subsets
from nnunetv2_missmod.planning.fragments import load_fragment

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

RAHVED = load_fragment(plans_folder() / "RAHVED.json")["missmod"]
SUBSETS = torch.tensor([[True, False, False], [False, True, True]])
NAMES = {"segmentation", "kl_inter", "kl_prior", "reconstruction"}


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(modalities=3, regions=False, dims=2, rahved=False, seed=0, **overrides):
        plans = small_plans(modalities, dims, features=(8, 8, 16))
        block = plans["configurations"][CONFIGURATION]["missmod"]
        block["trainer"] = {**(RAHVED["trainer"]["UHVEDTrainer"] if rahved else {}), **overrides}
        block["network"] = RAHVED["network"] if rahved else {}
        dataset_json = small_dataset_json(modalities, regions)
        trainer = small_trainer(UHVEDTrainer, plans, dataset_json, tmp_path, monkeypatch, seed=seed)
        trainer.network.train()
        return trainer

    return make


def prepared(trainer, **available):
    trainer.available_in_case |= available
    return trainer.prepare_batch(random_batch(trainer))


def as_list(levels):
    return levels if isinstance(levels, list) else [levels]


# --- the network ------------------------------------------------------------------------------------------------------


def test_training_draws_anew_and_prediction_always_the_same(make):
    trainer = make()
    images, noise = prepared(trainer).images, trainer.draw_noise(2, 1)
    assert [tuple(level.shape) for level in noise] == [(2, 4, 16, 16), (2, 4, 8, 8), (2, 8, 4, 4)]
    means, draws = trainer.network(images, SUBSETS), trainer.network(images, SUBSETS, noise)
    again = trainer.network(images, SUBSETS, noise)
    for first, second, mean in zip(as_list(draws.logits), as_list(again.logits), as_list(means.logits), strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, mean)
    steady = [steady_noise(level.shape[1:], level.device).expand_as(level) for level in noise]
    drawn = trainer.network(images, SUBSETS, steady).logits
    with torch.no_grad():
        for level, expected in zip(as_list(trainer.network.eval()(images, SUBSETS)), as_list(drawn), strict=True):
            assert torch.equal(level, expected)


def test_what_is_not_drawn_reaches_no_output_of_training_but_the_experts(make):
    trainer = make(rahved=True)
    images, available = prepared(trainer).images, torch.ones(2, 3, dtype=torch.bool)
    noise = trainer.draw_noise(2, 2)
    before = trainer.network(images, SUBSETS, noise, available)
    changed = torch.where(SUBSETS[..., None, None], images, images + 1)
    after = trainer.network(changed, SUBSETS, noise, available)
    assert torch.equal(before.reconstruction, after.reconstruction)
    assert torch.equal(before.logits[0], after.logits[0])
    assert not torch.equal(before.full_logits[0], after.full_logits[0])
    assert not torch.equal(before.full_reconstruction, after.full_reconstruction)


@pytest.mark.parametrize("dims", [2, 3])
def test_with_gates_absent_means_absent_and_each_modality_is_encoded_once(make, dims):
    trainer, calls = make(rahved=True, dims=dims), []
    trainer.set_deep_supervision_enabled(False)
    network, images = trainer.network.eval(), prepared(trainer).images
    with torch.no_grad():
        expected = [network(images, subset.expand(2, -1)) for subset in all_subsets(3)]
        for encoder in network.encoders:
            encoder.register_forward_hook(lambda *_: calls.append(1))
        of_subsets = network.forward_subsets(images, all_subsets(3))
        assert len(calls) == 3
        assert all(map(torch.equal, of_subsets, expected))
        for subset, logits in zip(all_subsets(3), expected, strict=True):
            images[:, ~subset] = math.nan
            assert torch.equal(network(images, subset.expand(2, -1)), logits)
            images = prepared(trainer).images


# --- the training step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("rahved", [False, True])
def test_terms_are_weighted_losses_of_the_network_s_output(make, rahved, regions):
    trainer = make(rahved=rahved, regions=regions)
    batch = prepared(trainer, a=(True, False, True))
    drawn = SUBSETS & batch.available
    trainer.draw_subset = lambda available: drawn
    trainer.generator.manual_seed(1)
    terms = trainer.training_loss(batch)
    trainer.generator.manual_seed(1)
    full = batch.available if rahved else None
    out = trainer.network(batch.images, drawn, trainer.draw_noise(2, 1 + rahved), full)
    divergences = subset_divergences(out.experts, drawn, all_subsets(3).expand(2, -1, -1))
    has = [[0, 2, 4], list(range(7))]  # of all_subsets, those of the first case and of the second
    inter, prior = (sum(part[b, has[b]].mean() for b in range(2)) / 2 for part in divergences)
    rebuilt = mse_reconstruction_loss(out.reconstruction, batch.images, batch.available)
    expected = {
        "segmentation": trainer.loss(out.logits, batch.target),
        "kl_inter": 0.1 * inter,
        "kl_prior": 0.1 * prior,
        "reconstruction": 0.1 * rebuilt,
    }
    if rahved:
        of_drawn = subset_divergences(out.experts, drawn, drawn[:, None])[1].mean()
        discriminator = trainer.discriminator.network
        seen_full = trainer.seen(out.full_logits, out.full_reconstruction, batch.available)
        seen_missing = trainer.seen(out.logits, out.reconstruction, batch.available)
        telling = (discriminator(seen_full) - 1).square().mean() + discriminator(seen_missing).square().mean()
        expected = {
            "segmentation": expected["segmentation"],
            "full_set": trainer.loss(out.full_logits, batch.target),
            "kl_prior": 0.2 * of_drawn,
            "reconstruction": 0.2 * rebuilt,
            "adversarial": 0.1 * (discriminator(seen_missing) - 1).square().mean(),
            "discriminator": 0.1 * 0.5 * telling,
        }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_the_discriminator_sees_what_a_case_has_brighter_where_the_foreground_is(make):
    trainer = make(regions=False, rahved=True)
    logits = torch.tensor([4.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2).clone()
    logits[..., 1] = logits[..., 1].flip(1)  # background, then foreground
    seen = trainer.seen(logits, torch.ones(1, 3, 1, 2), torch.tensor([[True, False, True]]))
    foreground = 1 - logits.softmax(1)[0, 0, 0, 1].item()
    assert torch.equal(seen[:, :3], logits.softmax(1))
    assert seen[0, 3:, 0].flatten().tolist() == pytest.approx([1, 1 + foreground, 0, 0, 1, 1 + foreground])
    assert are_nested([(1, 2, 3), (2, 3), 3])
    assert not are_nested([(1, 2), (2, 3)])


def test_rahved_s_step_reaches_everything_and_each_adversary_alone(make):
    trainer = make(rahved=True, regions=True)
    trainer.loss.weight_factors = tuple(w or 1e-6 for w in trainer.loss.weight_factors)
    terms = trainer.training_loss(prepared(trainer, a=(True, False, True), b=(False, False, True)))
    judge = list(trainer.discriminator.network.parameters())
    own = [p for p in trainer.network.parameters() if p.requires_grad]
    of_judge = torch.autograd.grad(terms["discriminator"], [*judge, *own], retain_graph=True, allow_unused=True)
    assert all(grad is not None for grad in of_judge[: len(judge)])
    assert all(grad is None for grad in of_judge[len(judge) :])
    fooled = torch.autograd.grad(terms["adversarial"], judge, retain_graph=True, allow_unused=True)
    assert all(grad is None for grad in fooled)
    outputs = trainer.train_step(random_batch(trainer))
    assert all(value.isfinite() for value in outputs.values())
    assert all(p.grad is not None for p in [*judge, *own])


def test_a_weight_of_zero_leaves_a_term_out(make):
    for name in ("kl_inter", "kl_prior"):
        assert set(make(**{f"{name}_weight": 0.0}).training_loss(prepared(make()))) == NAMES - {name}
    trainer = make(kl_inter_weight=0.0, kl_prior_weight=0.0)
    assert set(trainer.training_loss(prepared(trainer))) == {"segmentation", "reconstruction"}


def test_beyond_four_modalities_the_drawn_subset_and_fourteen_others_are_compared(make):
    trainer = make(modalities=5)
    available = torch.tensor([[True] * 5, [True, True, False, False, False]])
    drawn = trainer.draw_subset(available)
    compared = trainer.compared_subsets(drawn, available)
    assert compared.shape == (2, 15, 5)
    assert torch.equal(compared[:, 0], drawn)
    assert (compared & ~available[:, None]).sum() == 0
    assert compared.any(2).all()
    assert all(term.isfinite() for term in trainer.training_loss(prepared(trainer)).values())


def test_proper_subsets_have_uniform_sizes_and_one_modality_stays(make):
    trainer = make(modalities=4, subset_sizes="proper")
    available = torch.tensor([[True] * 4, [False, True, False, False]])
    drawn = torch.stack([trainer.draw_subset(available) for _ in range(900)])
    assert (drawn[:, 1] == available[1]).all()
    counts = Counter(drawn[:, 0].sum(1).tolist())
    assert set(counts) == {1, 2, 3}
    assert all(abs(count - 300) < 90 for count in counts.values())  # six standard deviations
    assert len({tuple(row) for row in drawn[:, 0].tolist()}) == 14


def test_the_discriminator_is_in_the_checkpoint_and_its_lack_is_said(make, tmp_path):
    trainer, file = make(rahved=True), str(tmp_path / "checkpoint.pth")
    trainer.train_step(random_batch(trainer))
    trainer.save_checkpoint(file)
    resumed = make(rahved=True, seed=1)
    resumed.load_checkpoint(file)
    weights = resumed.discriminator.network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in trainer.discriminator.network.state_dict().items())
    make().save_checkpoint(file)
    with pytest.raises(ValueError, match=r"a checkpoint with discriminator.*got one without.*train anew"):
        make(rahved=True).load_checkpoint(file)


@pytest.mark.parametrize("wrong", [{"kl_prior_over": "all"}, {"subset_sizes": "few"}])
def test_words_that_mean_nothing_are_refused(make, wrong):
    with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))} to be one of"):
        make(**wrong)
