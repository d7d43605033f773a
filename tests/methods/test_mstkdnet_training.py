"""MST-KDNet's training step against plain passes of its networks: terms, gradients, ablations, incomplete cases."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer, with_small_network

from nnunetv2_missmod.building_blocks.matching import gram_loss
from nnunetv2_missmod.methods.mstkdnet.losses import evd_loss, logit_mse, mst_loss, slkd_loss
from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer
from nnunetv2_missmod.training.learning import Learner

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

FULL, PARTIAL, SINGLE = (True, True, True), (True, False, True), (False, True, False)
SUBSETS = [[True, False, False], [False, True, True]]
DISTILLATION = ("evd", "mst", "mse", "slkd", "gram")
TERMS = {"segmentation", "teacher", *DISTILLATION, "adversarial", "discriminator"}
NETWORKS = {"student", "teacher", "discriminator"}
REGIONS = {"targets": {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}}
REGION = {"targets": {"labels": {"background": 0, "whole": [1, 2]}, "regions_class_order": [1]}}
BINARY = {"targets": {"labels": {"background": 0, "tumor": 1}}}
VARIANT = {
    "evd_axis": "head",
    "evd_scale": "tokens",
    "mst_of": "maps",
    "ramp_up_of": "mse",
    "mse_of": "logits",
    "slkd_axis": "last_spatial",
    "ramp_up_fraction": 0.03,
}
UNDISTILLED = {f"{name}_weight": 0.0 for name in DISTILLATION}
ABLATIONS = [("evd", "mst"), ("gram", "adversarial"), ("slkd",), ("mse",), (*DISTILLATION, "adversarial")]
WRONG = [
    {"evd_axis": "token"},
    {"evd_scale": "student"},
    {"ramp_up_of": "evd"},
    {"mst_of": "heads"},
    {"mse_of": "labels"},
    {"slkd_axis": "voxel"},
    {"tau": 0.0},
    {"tau": -1.0},
]
SETTINGS = [REGIONS, REGION, BINARY, VARIANT, {"enable_deep_supervision": False}, {"modalities": 2}, {"modalities": 5}]
EITHER_TEACHER = pytest.mark.parametrize("detach_teacher", [True, False])


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(modalities=3, targets=None, available=(FULL, FULL), subsets=SUBSETS, seed=0, **overrides):
        plans = with_small_network(MSTKDNetTrainer, small_plans(modalities, 2, features=(8, 8, 16), **overrides))
        dataset_json = {**small_dataset_json(modalities), **(targets or {})}
        trainer = small_trainer(MSTKDNetTrainer, plans, dataset_json, tmp_path, monkeypatch, seed=seed)
        trainer.network.train()
        if subsets:
            trainer.available_in_case = dict(zip("ab", available, strict=True))
            trainer.draw_subset = lambda available: torch.tensor(subsets) & available
        return trainer

    return make


def prepared(trainer):
    return trainer.prepare_batch(random_batch(trainer))


def step(trainer, **how):
    return trainer.train_step(random_batch(trainer, **how))


def learners(trainer):
    return {"student": Learner(trainer.network, trainer.optimizer), **trainer.companions()}


def state(trainer, moments=False):
    """Weights of every network, and the moments of its optimizer."""
    found = {}
    for name, (network, optimizer) in learners(trainer).items():
        found |= {f"{name}/{key}": value.clone() for key, value in network.state_dict().items()}
        for number, entries in optimizer.state_dict()["state"].items() if moments else ():
            found |= {f"{name}/{number}/{key}": value.clone() for key, value in entries.items()}
    return found


def different(first, second):
    """Names of the networks whose states differ."""
    keys = first.keys() | second.keys()
    return {k.split("/")[0] for k in keys if not (k in first and k in second and torch.equal(first[k], second[k]))}


def finite(tensors):
    return all(tensor.isfinite().all() for tensor in tensors.values())


def terms_of(trainer, batch):
    """The terms of all updates, in their order; nobody takes a step."""
    return {name: term for update in trainer.updates(batch) for name, term in update.terms.items()}


def losing(trainer, teacher, student):
    """The trainer, whose pipeline loss is multiplied: once for the teacher, then for the student."""
    factors = iter((teacher, student))
    trainer.loss = lambda output, target, loss=trainer.loss: next(factors) * loss(output, target)
    return trainer


def expected_terms(trainer, batch):
    """Eq. 12 with its released weights, and the discriminator's loss, of the outputs that both networks give here.

    Distillation counts once for all of the outputs, as the pipeline's Dice, a mean over them, does.
    """
    missing = trainer.network(batch.images, torch.tensor(SUBSETS) & batch.available)
    labelled = trainer.teacher.network(batch.images, batch.available)
    with torch.no_grad() if trainer.detach_teacher else nullcontext():
        full = trainer.teacher.network(batch.images, batch.available)
    pair, judge = (full.logits[0], missing.logits[0]), trainer.discriminator.network
    regions = trainer.label_manager.has_regions
    probabilities = [logits.sigmoid() if regions else logits.softmax(1) for logits in pair]
    released, of_maps = trainer.evd_scale == "tokens", trainer.mst_of == "maps"
    evd = evd_loss(full.attention, missing.attention, trainer.evd_axis, relative=not released)
    ramp = math.exp(-5 * (1 - min(trainer.current_epoch / (trainer.ramp_up_fraction * 1000), 1)) ** 2)
    of_mse = ramp / full.logits[0].shape[1]
    share = (1 if trainer.ramp_up_of == "mse" else ramp) / full.logits[0].shape[1]
    return {
        "segmentation": 0.6 * trainer.loss(missing.logits, batch.target),
        "teacher": 0.4 * trainer.loss(labelled.logits, batch.target),
        "evd": share * 3 * (16**4 / 6 if released else 1) * evd.mean(),
        "mst": share * 0.2 * mst_loss(*((out.maps if of_maps else out.hidden) for out in (full, missing))).mean(),
        "mse": of_mse * 10 * logit_mse(*(pair if trainer.mse_of == "logits" else probabilities)).mean(),
        "slkd": share * slkd_loss(*pair, 7.0, trainer.slkd_axis, regions).mean() / pair[0].shape[1],
        "gram": share * gram_loss(*((out.encoded, out.transformed, out.decoded) for out in (full, missing))).mean(),
        "adversarial": 2e-4 * F.softplus(judge(missing.style)).mean(),
        "discriminator": (F.softplus(judge(full.style.detach())) + F.softplus(-judge(missing.style.detach()))).mean(),
    }


@EITHER_TEACHER
@pytest.mark.parametrize("targets", [{}, REGIONS])
@pytest.mark.parametrize(("epoch", "words"), [(0, {}), (20, VARIANT), (80, {})])
def test_the_terms_are_those_of_equation_12(detach_teacher, targets, epoch, words, make):
    trainer = make(**targets, available=(PARTIAL, FULL), detach_teacher=detach_teacher, **words)
    trainer.current_epoch = epoch
    batch = prepared(trainer)
    expected = expected_terms(trainer, batch)
    terms = terms_of(trainer, batch)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        assert term > 0
        torch.testing.assert_close(term, expected[name], msg=lambda text, name=name: f"{name}: {text}")


@EITHER_TEACHER
def test_the_teacher_steps_first_or_together_with_the_student(detach_teacher, make):
    """The student is compared with the teacher as it was before its step."""
    trainer = make(detach_teacher=detach_teacher)
    batch, order = prepared(trainer), []
    expected = expected_terms(trainer, batch)
    names = {id(network): name for name, (network, _) in learners(trainer).items()}
    for update in trainer.updates(batch):
        order.append([names[id(learner.network)] for learner in update.learners])
        if update.learners == [trainer.teacher]:
            before = state(trainer)
            trainer.backward_and_step(sum(update.terms.values()), update.learners)
            assert different(state(trainer), before) == {"teacher"}
    apart = [["teacher"], ["student", "discriminator"]]
    assert order == (apart if detach_teacher else [["student", "discriminator", "teacher"]])
    torch.testing.assert_close(update.terms["mse"], expected["mse"])


def gradients(network, term):
    return torch.autograd.grad(term, list(network.parameters()), retain_graph=True, materialize_grads=True)


@EITHER_TEACHER
def test_a_term_teaches_the_networks_that_it_is_meant_for(detach_teacher, make):
    trainer = make(detach_teacher=detach_teacher)
    distilled = {"student"} if detach_teacher else {"student", "teacher"}
    expected = {name: {"student"} for name in TERMS} | dict.fromkeys(DISTILLATION, distilled)
    expected |= {"teacher": {"teacher"}, "discriminator": {"discriminator"}}
    for name, term in terms_of(trainer, prepared(trainer)).items():
        taught = {
            pupil for pupil, (network, _) in learners(trainer).items() if any(g.any() for g in gradients(network, term))
        }
        assert taught == expected[name], name


@EITHER_TEACHER
def test_a_step_follows_the_gradient_of_each_networks_own_terms(detach_teacher, make):
    trainer = make(detach_teacher=detach_teacher)
    trainer.current_epoch = 80
    before, networks, terms = state(trainer), learners(trainer), expected_terms(trainer, prepared(trainer))
    distillation = sum(terms[name] for name in DISTILLATION)
    own = {} if detach_teacher else {"teacher": terms["teacher"] + distillation}
    own["student"] = terms["segmentation"] + distillation + terms["adversarial"]
    own["discriminator"] = terms["discriminator"]
    expected = {name: gradients(networks[name].network, term) for name, term in own.items()}
    step(trainer)
    assert different(state(trainer), before) == NETWORKS
    assert detach_teacher == all(p.grad is None for p in networks["teacher"].network.parameters())
    for name, of_network in expected.items():
        clip = min(1, 12 / math.sqrt(sum(float(g.square().sum()) for g in of_network)))
        for parameter, gradient in zip(networks[name].network.parameters(), of_network, strict=True):
            got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(got, clip * gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("overrides", [{}, UNDISTILLED, {"slkd_weight": 50.0, "evd_weight": 50.0}])
@pytest.mark.parametrize("factor", [1, 1000])
def test_a_detached_teacher_learns_from_its_labels_alone(overrides, factor, make):
    trainer, alone = losing(make(**overrides), factor, factor), losing(make(), factor, factor)
    step(trainer)
    network, batch = alone.teacher.network, prepared(alone)
    alone.teacher = Learner(network, torch.optim.Adam(network.parameters(), 1e-4, (0.9, 0.99), weight_decay=1e-5))
    (0.4 * alone.loss(network(batch.images, batch.available).logits, batch.target)).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
    alone.teacher.optimizer.step()
    assert different(state(trainer, moments=True), state(alone, moments=True)) == {"student", "discriminator"}


@EITHER_TEACHER
def test_only_a_joint_teacher_learns_from_distillation(detach_teacher, make):
    trainer, plain = (make(detach_teacher=detach_teacher, **overrides) for overrides in ({}, UNDISTILLED))
    step(trainer), step(plain)
    assert different(state(trainer), state(plain)) == ({"student"} if detach_teacher else {"student", "teacher"})


@EITHER_TEACHER
@pytest.mark.parametrize("without", ABLATIONS)
def test_a_weight_of_zero_leaves_its_term_out(detach_teacher, without, make):
    trainer = make(detach_teacher=detach_teacher, **{f"{name}_weight": 0.0 for name in without})
    before = state(trainer)
    gone = {*without, "discriminator"} if "adversarial" in without else {*without}
    assert step(trainer).keys() == {"loss"} | TERMS - gone
    assert different(state(trainer), before) == NETWORKS - gone


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_setting_is_an_error(wrong, make):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=rf"Expected {name} |{name} = -1.0; expected a finite number of 0 or more"):
        make(**wrong)


@pytest.mark.parametrize(("cases", "how"), [("a", {}), *(("ab", how) for how in SETTINGS)])
def test_all_labels_and_sizes_train(cases, how, make):
    trainer = make(subsets=None, **how)
    before, outputs = state(trainer), step(trainer, cases=cases)
    assert finite(outputs)
    assert outputs["slkd"] > 0
    assert different(state(trainer), before) == NETWORKS


@EITHER_TEACHER
def test_a_channel_that_is_not_available_enters_no_term_and_no_weight(detach_teacher, make):
    results = []
    for seed in (1, 2):
        trainer = make(available=(PARTIAL, FULL), detach_teacher=detach_teacher)
        batch = prepared(trainer)
        batch.images[0, 1] = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
        terms = trainer.take(trainer.updates(batch))
        results.append({**terms, **state(trainer, moments=True)})
    assert different(*results) == set()


def test_a_case_of_one_modality_is_not_distilled(make):
    pair, alone = make(available=(FULL, SINGLE)), make(subsets=SUBSETS[:1])
    terms, batch = terms_of(pair, prepared(pair)), prepared(alone)
    first = {"images": batch.images[:1], "target": [t[:1] for t in batch.target], "available": batch.available[:1]}
    expected = terms_of(alone, replace(batch, **first))
    for name in DISTILLATION:
        torch.testing.assert_close(2 * terms[name], expected[name], rtol=1e-4, atol=1e-8)


@EITHER_TEACHER
def test_a_batch_of_single_modalities_trains_without_distillation(detach_teacher, make):
    trainer = make(available=((True, False, False), SINGLE), detach_teacher=detach_teacher)
    trainer.loss.weight_factors = tuple(w or 1e-6 for w in trainer.loss.weight_factors)  # as nnU-Net's under DDP
    outputs = step(trainer)
    assert all(outputs[name] == 0 for name in DISTILLATION)
    assert finite(outputs | state(trainer))
    assert all(p.grad is not None for p in trainer.network.parameters())


@EITHER_TEACHER
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_teachers_loss_that_is_not_finite_raises_before_any_step(detach_teacher, bad, make):
    trainer = losing(make(detach_teacher=detach_teacher), bad, 1)
    before = state(trainer, moments=True)
    with pytest.raises(RuntimeError, match="'teacher': 1"):
        step(trainer)
    assert different(state(trainer, moments=True), before) == set()


@EITHER_TEACHER
def test_a_gradient_scaler_changes_no_step(detach_teacher, make):
    plain, trainer = (make(detach_teacher=detach_teacher) for _ in range(2))
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    for scale in (1024, 1024, 2048):
        step(plain), step(trainer)
        assert trainer.grad_scaler.get_scale() == scale  # it doubles after three updates
    assert different(state(plain, moments=True), state(trainer, moments=True)) == set()


@EITHER_TEACHER
@pytest.mark.parametrize(
    ("factors", "skips"), [((1, 1), set()), ((math.inf, 1), {"teacher"}), ((1, math.inf), {"student"})]
)
def test_mixed_precision_skips_only_a_step_that_overflowed(detach_teacher, factors, skips, make, monkeypatch):
    trainer = losing(make(detach_teacher=detach_teacher), *factors)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    monkeypatch.setattr(f"{MSTKDNetTrainer.__module__}.full_precision", lambda _: torch.autocast("cpu", enabled=False))
    before = state(trainer)
    step(trainer)
    assert different(state(trainer), before) == NETWORKS - skips
    assert finite(state(trainer, moments=True))
    assert trainer.grad_scaler.get_scale() == (512 if skips else 1024)


def test_teacher_and_discriminator_follow_the_students_learning_rate(make):
    trainer = make()
    trainer.current_epoch = 500
    trainer.on_train_epoch_start()
    rates = [optimizer.param_groups[0]["lr"] for _, optimizer in learners(trainer).values()]
    assert rates == pytest.approx([1e-4 * 0.5**0.9] * 3)


@EITHER_TEACHER
def test_a_checkpoint_holds_all_networks_and_the_student_alone_for_inference(detach_teacher, make, tmp_path):
    trainer, other = (make(subsets=None, seed=seed, detach_teacher=detach_teacher) for seed in (0, 1))
    assert different(state(trainer), state(other)) == NETWORKS
    step(trainer)
    file = str(tmp_path / "checkpoint.pth")
    trainer.save_checkpoint(file)
    other.load_checkpoint(file)
    assert different(state(trainer, moments=True), state(other, moments=True)) == set()
    assert torch.load(file, weights_only=False)["network_weights"].keys() == other.build_teacher().state_dict().keys()
    trainer.current_epoch = other.current_epoch
    for each in (trainer, other):
        each.on_train_epoch_start()
        step(each, seed=1), step(each, seed=2)
    assert different(state(trainer, moments=True), state(other, moments=True)) == set()
