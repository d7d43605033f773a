"""Training for one subset beside a path that sees all modalities, as ACN and SMU-Net do: who learns what from whom."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.methods.acn.losses import entropy_map, mutual_information_loss
from nnunetv2_missmod.methods.acn.trainer import ACNTrainer
from nnunetv2_missmod.methods.smunet.losses import style_loss
from nnunetv2_missmod.methods.smunet.trainer import SMUNetTrainer
from nnunetv2_missmod.training.dedicated import counted_alone
from nnunetv2_missmod.training.learning import Learner

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

EITHER = pytest.mark.parametrize("trainer_class", [ACNTrainer, SMUNetTrainer])
ALL, LACKS_ONE, LACKS_ANOTHER = (True, True, True), (True, True, False), (True, False, True)
COMPANIONS = {
    ACNTrainer: {"teacher", "regressor", "entropy_discriminator", "knowledge_discriminator"},
    SMUNetTrainer: {"teacher", "discriminator"},
}
ABLATIONS = [
    (ACNTrainer, "consistency_weight", {"consistency"}, set()),
    (ACNTrainer, "mi_weight", {"mutual_information"}, {"regressor"}),
    (ACNTrainer, "entropy_weight", {"entropy", "entropy_discriminator"}, {"entropy_discriminator"}),
    (ACNTrainer, "knowledge_weight", {"knowledge", "knowledge_discriminator"}, {"knowledge_discriminator"}),
    (SMUNetTrainer, "consistency_weight", {"consistency"}, set()),
    (SMUNetTrainer, "content_weight", {"content"}, set()),
    (SMUNetTrainer, "style_weight", {"style"}, set()),
    (SMUNetTrainer, "adversarial_weight", {"adversarial", "discriminator"}, {"discriminator"}),
]


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(trainer_class, regions=False, ignore=False, seed=0, batch_dice=False, **overrides):
        """A trainer for mod0+mod2 of three modalities, after the ramp-up."""
        plans = small_plans(3, 2, features=(8, 8, 16), subset="mod0+mod2", **overrides)
        plans["configurations"]["3d_fullres"]["batch_dice"] = batch_dice
        dataset_json = small_dataset_json(3, regions, ignore)
        trainer = small_trainer(trainer_class, plans, dataset_json, tmp_path, monkeypatch, seed=seed)
        trainer.network.train()
        trainer.current_epoch = 100
        return trainer

    return make


def prepared(trainer, cases=("a", "b"), rows=(0, 1), **available):
    """A batch of these rows of the batch of two."""
    trainer.available_in_case |= available
    batch = random_batch(trainer)
    rows = list(rows)
    return trainer.prepare_batch(
        {"data": batch["data"][rows], "target": [level[rows] for level in batch["target"]], "keys": list(cases)}
    )


def terms_of(trainer, batch):
    """The terms of all updates; nobody takes a step."""
    return {name: term for update in trainer.updates(batch) for name, term in update.terms.items()}


def learners(trainer):
    return {"student": Learner(trainer.network, trainer.optimizer), **trainer.companions()}


def gradients(term, network):
    return torch.autograd.grad(term, list(network.parameters()), allow_unused=True, retain_graph=True)


def reaches(term, network):
    return any(g is not None and bool(g.abs().max() > 0) for g in gradients(term, network))


# --- the terms --------------------------------------------------------------------------------------------------------


def expected_of_both(trainer, batch, full, missing):
    overlapping = trainer.label_manager.has_regions
    p_full, p_missing = (x.logits[0].sigmoid() if overlapping else x.logits[0].softmax(1) for x in (full, missing))
    return {
        "teacher": trainer.teacher_weight * trainer.loss(full.logits, batch.target),
        "segmentation": trainer.student_weight * trainer.loss(missing.logits, batch.target),
        "consistency": 10 * (p_full - p_missing).square().mean(),
    }


def expected_adversaries(judge, full, missing):
    return F.softplus(judge(missing)).mean(), (F.softplus(judge(full)) + F.softplus(-judge(missing))).mean()


@pytest.mark.parametrize("regions", [True, False])
def test_the_terms_of_acn(regions, make):
    trainer = make(ACNTrainer, regions)
    batch = prepared(trainer, b=LACKS_ANOTHER)
    full, missing = (net(batch.images, batch.available) for net in (trainer.teacher.network, trainer.network))
    mean, variance = trainer.regressor.network(missing.bottleneck)
    entropies = (entropy_map(out.logits[0], regions) for out in (full, missing))
    of_entropy = expected_adversaries(trainer.entropy_discriminator.network, *entropies)
    of_knowledge = expected_adversaries(trainer.knowledge_discriminator.network, full.bottleneck, missing.bottleneck)
    expected = expected_of_both(trainer, batch, full, missing) | {
        "mutual_information": 0.5 * mutual_information_loss(mean, full.bottleneck, variance).mean(),
        "entropy": 0.001 * of_entropy[0],
        "entropy_discriminator": 0.5 * of_entropy[1],
        "knowledge": 0.0002 * of_knowledge[0],
        "knowledge_discriminator": 0.5 * of_knowledge[1],
    }
    torch.testing.assert_close(terms_of(trainer, batch), expected)


def test_the_terms_of_smunet(make):
    trainer = make(SMUNetTrainer)
    batch = prepared(trainer, b=LACKS_ANOTHER)
    full, missing = (net(batch.images, batch.available) for net in (trainer.teacher.network, trainer.network))
    fooling, telling = expected_adversaries(trainer.discriminator.network, full.style, missing.style)
    expected = expected_of_both(trainer, batch, full, missing) | {
        "content": 0.2 * (full.content - missing.content).square().mean(),
        "style": style_loss(full.style, missing.style).mean(),
        "adversarial": 2e-4 * fooling,
        "discriminator": telling,
    }
    torch.testing.assert_close(terms_of(trainer, batch), expected)


@EITHER
def test_consistency_comes_in_over_the_first_epochs(trainer_class, make):
    trainer = make(trainer_class)
    batch, found = prepared(trainer), []
    for epoch in (0, trainer.ramp_up_fraction * trainer.num_epochs / 2, 100):
        trainer.current_epoch = epoch
        found.append(terms_of(trainer, batch)["consistency"].item())
    shares = [0.006737947, 0.2865048, 1]  # exp(-5), exp(-5/4)
    assert [value / found[-1] for value in found] == pytest.approx(shares, rel=1e-4)


@pytest.mark.parametrize(("trainer_class", "weight", "terms", "companions"), ABLATIONS)
def test_a_weight_of_zero_leaves_a_term_out_and_what_learns_for_it(trainer_class, weight, terms, companions, make):
    trainer, whole = make(trainer_class, **{weight: 0.0}), make(trainer_class)
    without, every = (terms_of(t, prepared(t)).keys() for t in (trainer, whole))
    assert every - without == terms
    assert whole.companions().keys() == COMPANIONS[trainer_class]
    assert whole.companions().keys() - trainer.companions().keys() == companions
    outputs = trainer.train_step(random_batch(trainer))
    assert all(value.isfinite() for value in outputs.values())


# --- who learns from whom ---------------------------------------------------------------------------------------------

FOOLING = {"entropy", "knowledge", "adversarial"}


@pytest.mark.parametrize("detach_teacher", [True, False])
@EITHER
def test_each_term_teaches_those_that_it_should(trainer_class, detach_teacher, make):
    trainer = make(trainer_class, detach_teacher=detach_teacher)
    batch = prepared(trainer)
    for name, term in terms_of(trainer, batch).items():
        taught = {who for who, learner in learners(trainer).items() if reaches(term, learner.network)}
        if name in COMPANIONS[trainer_class]:
            assert taught == {name}
        elif name == "mutual_information":
            assert taught == {"student", "regressor"}
        elif detach_teacher or name in FOOLING or name == "segmentation":
            assert taught == {"student"}
        else:  # co-training: what is matched pulls at both
            assert taught == {"student", "teacher"}


@EITHER
def test_everything_that_learns_takes_a_step(trainer_class, make):
    trainer = make(trainer_class)
    before = {who: copy.deepcopy(learner.network.state_dict()) for who, learner in learners(trainer).items()}
    trainer.train_step(random_batch(trainer))
    for who, learner in learners(trainer).items():
        after = learner.network.state_dict()
        assert any(not torch.equal(value, after[key]) for key, value in before[who].items()), who


@EITHER
def test_the_teacher_sees_what_is_available_and_the_student_the_subset(trainer_class, make):
    trainer = make(trainer_class)
    images, available = torch.randn(1, 3, 16, 16), torch.tensor([ALL])
    outputs = [network(images, available) for network in (trainer.teacher.network, trainer.network)]
    images[:, 1] = float("nan")
    seen = [network(images, available) for network in (trainer.teacher.network, trainer.network)]
    assert torch.equal(seen[1].logits[0], outputs[1].logits[0])
    assert seen[0].logits[0].isnan().any()
    without = trainer.teacher.network(images, torch.tensor([LACKS_ANOTHER]))
    assert without.logits[0].isfinite().all()
    assert trainer.teacher.network.subset == (0, 1, 2)


# --- cases without the subset -----------------------------------------------------------------------------------------


@EITHER
def test_a_case_without_the_subset_teaches_the_teacher_alone(trainer_class, make):
    """Of two samples one counts: the student's gradients are half of those that it alone gives."""
    trainer = make(trainer_class)
    batch, alone = prepared(trainer, b=LACKS_ONE), prepared(trainer, ("a",), (0,))
    terms, of_one = terms_of(trainer, batch), terms_of(trainer, alone)
    for name in terms.keys() - {"teacher", "segmentation"}:
        torch.testing.assert_close(terms[name], of_one[name] / 2)
    for name in terms.keys() - {"teacher"}:
        for who in ("student", "regressor", "discriminator", "entropy_discriminator", "knowledge_discriminator"):
            if who in learners(trainer):
                pairs = zip(*(gradients(t[name], learners(trainer)[who].network) for t in (terms, of_one)), strict=True)
                for got, expected in ((got, expected) for got, expected in pairs if expected is not None):
                    torch.testing.assert_close(got, expected / 2, rtol=1e-3, atol=1e-6)
    both = prepared(trainer, b=ALL)
    assert not torch.equal(terms["teacher"], of_one["teacher"])
    assert reaches(terms["teacher"], trainer.teacher.network)
    assert not torch.equal(terms_of(trainer, both)["consistency"], terms["consistency"])


@EITHER
def test_a_batch_without_the_subset_teaches_the_student_nothing(trainer_class, make):
    trainer = make(trainer_class)
    batch = prepared(trainer, a=LACKS_ONE, b=(False, True, True))
    for name, term in terms_of(trainer, batch).items():
        if name != "teacher":
            for learner in learners(trainer).values():
                assert not reaches(term, learner.network)


@EITHER
def test_a_batch_without_the_subset_reaches_every_parameter(trainer_class, make):
    """With nothing, but DDP would wait for what is not reached."""
    trainer = make(trainer_class)
    trainer.loss.weight_factors = tuple(w or 1e-6 for w in trainer.loss.weight_factors)  # as under DDP
    sum(terms_of(trainer, prepared(trainer, a=LACKS_ONE, b=(False, True, True))).values()).backward()
    for who, learner in learners(trainer).items():
        assert all(p.grad is not None for p in learner.network.parameters()), who


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize(("regions", "ignore"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_sample_that_does_not_count_is_nothing_to_the_pipeline_s_loss(regions, ignore, batch_dice, make):
    trainer = make(ACNTrainer, regions, ignore, batch_dice=batch_dice)
    batch = prepared(trainer)
    out = [level.detach().requires_grad_() for level in trainer.network(batch.images, batch.available).logits]
    counts = torch.tensor([True, False])
    found = []
    for noise in (0.0, 5.0):
        logits = [level + noise * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1) for level in out]
        target = [torch.cat((level[:1], level[1:] if noise == 0 else level[1:].flip(2))) for level in batch.target]
        loss = trainer.loss(*counted_alone(logits, target, counts, regions))
        found.append((loss, *torch.autograd.grad(loss, out[:-1])))  # the coarsest level has no weight
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
    assert all((gradient[1] == 0).all() and (gradient[0] != 0).any() for gradient in found[0][1:])
    finest = trainer.loss.loss
    finest.weight_ce = 0
    of_both = finest(*counted_alone(out[0], batch.target[0], counts, regions))
    of_one = finest(out[0][:1], batch.target[0][:1])
    nothing = torch.tensor(-1.0)  # the Dice of an empty mask with an empty truth
    torch.testing.assert_close(of_both, of_one if batch_dice else (of_one + nothing) / 2)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@EITHER
def test_a_checkpoint_holds_all_that_learns(trainer_class, make, tmp_path):
    trainer, file = make(trainer_class), str(tmp_path / "checkpoint.pth")
    trainer.train_step(random_batch(trainer))
    trainer.save_checkpoint(file)
    resumed = make(trainer_class, seed=1)
    resumed.load_checkpoint(file)
    resumed.current_epoch = trainer.current_epoch
    resumed.network.train()
    for each in (trainer, resumed):
        each.train_step(random_batch(each, seed=1))
    assert resumed.companions().keys() == COMPANIONS[trainer_class]
    for who, learner in learners(trainer).items():
        other = learners(resumed)[who]
        weights, moments = other.network.state_dict(), other.optimizer.state_dict()["state"]
        assert all(torch.equal(value, weights[key]) for key, value in learner.network.state_dict().items())
        for number, entries in learner.optimizer.state_dict()["state"].items():
            assert all(torch.equal(value, moments[number][key]) for key, value in entries.items())


@EITHER
def test_what_is_deployed_is_the_student(trainer_class, make):
    """The network that is saved, and rebuilt to predict, has a channel for each modality of the subset."""
    trainer = make(trainer_class)
    first, of_teacher = (next(net.parameters()) for net in (trainer.network, trainer.teacher.network))
    assert (first.shape[1], of_teacher.shape[1]) == (2, 3)
