"""CCSD's training step against plain passes and loops: its terms, incomplete cases, warm-up and log."""

from itertools import combinations

import pytest
import torch
from small_ccsd import (
    FULL,
    ONE_EACH,
    PARTIAL,
    Passes,
    ccsd_maker,
    logits_of,
    plain_divergence,
    prepared,
    segmenting,
    terms_of,
)
from small_plans import random_batch

from nnunetv2_missmod.methods.ccsd.trainer import CCSDTrainer

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]


@pytest.fixture
def make(tmp_path, monkeypatch):
    return ccsd_maker(tmp_path, monkeypatch)


# --- the terms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("segmented", [ONE_EACH, [[True, True, False], [False, True, True]], [[True] * 3] * 2])
def test_hmsd_is_the_mean_over_all_subsets_of_one_size(make, regions, segmented):
    """Where the segmented subset is the full set, k is drawn, and that pass is the teacher."""
    trainer = segmenting(make(regions=regions), segmented)
    batch, passes = prepared(trainer), Passes(trainer)
    hmsd = terms_of(trainer, batch)["hmsd"]
    size = sum(segmented[0])
    assert passes.encoded == 1
    assert passes.decoded == 4  # the full set and the three subsets of one or of two
    expected = []
    for k in (1, 2) if size == 3 else (size,):
        students = [logits_of(trainer, batch, [m in s for m in range(3)]) for s in combinations(range(3), k)]
        teacher = logits_of(trainer, batch, FULL)
        values = [plain_divergence(teacher[b], student[b], 4.0, regions) for student in students for b in range(2)]
        expected.append(sum(values) / len(values))
    # logits of one pass and of many differ by rounding, and the divergence is small
    assert min(abs(hmsd.item() / e - 1) for e in expected) < 1e-3


def cosine(a, b):
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


@pytest.mark.parametrize("substitute", ["zero_input", "mean_available"])
@pytest.mark.parametrize("over", ["slots", "each_slot", "decoder_input"])
def test_dmcd_follows_each_samples_own_path(make, substitute, over):
    trainer = segmenting(make(network={"substitute": substitute}, dmcd_over=over), ONE_EACH)
    batch = prepared(trainer)
    dmcd = terms_of(trainer, batch)["dmcd"]
    with torch.no_grad():
        out = trainer.network(batch.images, batch.available)
    total = 0.0
    for b in range(2):
        left = [0, 1, 2]
        fused, shared = out.fused[b].double(), out.shared[b].double()

        def score(j, among, fused=fused):
            return -sum(cosine(fused[j], fused[z]) for z in among if z != j)

        def assembled(left, fused=fused, shared=shared):
            substituted = out.zero[0, 0].double() if substitute == "zero_input" else shared[left].mean(0)
            slots = [fused[m] if m in left else substituted for m in range(3)]
            if over == "each_slot":
                return slots
            if over == "slots":
                return [torch.cat(slots)]
            reduction = trainer.network.reductions[-1].weight.detach().double().flatten(1)
            return [torch.einsum("fc,c...->f...", reduction, torch.cat(slots))]

        while len(left) > 1:
            among = [0, 1, 2] if len(left) == 2 else left
            removed = max(left, key=lambda j: score(j, among))
            remaining = [m for m in left if m != removed]
            groups = zip(assembled(left), assembled(remaining), strict=True)
            total += sum(plain_divergence(before, after, 1.0, False) for before, after in groups)
            left = remaining
    assert dmcd.item() == pytest.approx(total / 2, rel=1e-4)


@pytest.mark.parametrize(("over", "sees_content"), [("slots", False), ("each_slot", False), ("decoder_input", True)])
def test_what_dmcd_teaches_of_the_removed_modality(make, over, sees_content):
    """Over slots, what remains learns the same whatever the order of the removed one's channels: one number a voxel."""
    trainer = segmenting(make(dmcd_over=over), ONE_EACH)
    batch = prepared(trainer)
    out = trainer.network(batch.images, batch.available)
    states = torch.tensor([[[True, True, True], [False, True, True], [False, True, True]]] * 2)
    slopes = []
    for removed in (out.fused[:, :1], out.fused[:, :1].flip(2)):
        fused = torch.cat((removed, out.fused[:, 1:]), 1).detach().requires_grad_()
        loss = trainer.dmcd(out._replace(fused=fused), states)
        slopes.append(torch.autograd.grad(loss, fused)[0][:, 1:])
    differ = not torch.allclose(*slopes, rtol=1e-3, atol=1e-9)
    assert differ == sees_content
    assert (slopes[0].abs().max() > 1e-6) == (over != "each_slot")  # else rounding


def test_the_segmentation_term_is_the_pipelines_loss_of_the_drawn_subset(make):
    trainer = segmenting(make(), [[True, True, False], [False, True, True]])
    batch = prepared(trainer)
    terms = terms_of(trainer, batch)
    present = torch.tensor([[True, True, False], [False, True, True]])
    expected = trainer.loss(trainer.network(batch.images, present).logits, batch.target)
    torch.testing.assert_close(terms["segmentation"], expected)
    assert tuple(terms) == ("segmentation", "hmsd", "dmcd")


def test_weights_and_temperatures_reach_their_terms(make):
    base = terms_of(t := segmenting(make(), ONE_EACH), prepared(t))
    scaled = terms_of(t := segmenting(make(hmsd_weight=2.0, dmcd_weight=3.0), ONE_EACH), prepared(t))
    hotter = terms_of(t := segmenting(make(hmsd_tau=8.0, dmcd_tau=2.0), ONE_EACH), prepared(t))
    torch.testing.assert_close(scaled["hmsd"], 2 * base["hmsd"])
    torch.testing.assert_close(scaled["dmcd"], 3 * base["dmcd"])
    assert hotter["hmsd"] < base["hmsd"]
    assert hotter["dmcd"] < base["dmcd"]
    assert torch.equal(hotter["segmentation"], base["segmentation"])


@pytest.mark.parametrize("weight", ["hmsd_weight", "dmcd_weight"])
def test_an_ablation_leaves_its_term_out_and_decodes_nothing_for_it(make, weight):
    trainer = segmenting(make(**{weight: 0.0}), ONE_EACH)
    batch, passes = prepared(trainer), Passes(trainer)
    whole = terms_of(t := segmenting(make(), ONE_EACH), prepared(t))
    terms = terms_of(trainer, batch)
    kept = {"hmsd", "dmcd"} - {weight.removesuffix("_weight")}
    assert set(terms) == {"segmentation", *kept}
    assert all(torch.equal(terms[name], whole[name]) for name in terms)
    assert passes.decoded == (1 if weight == "hmsd_weight" else 4)


def test_the_full_set_can_be_segmented_too(make):
    trainer = segmenting(make(full_set_weight=0.5), ONE_EACH)
    batch, passes = prepared(trainer, (FULL, PARTIAL)), Passes(trainer)
    terms = terms_of(trainer, batch)
    assert passes.decoded == 4  # that pass is the teacher
    expected = trainer.loss(trainer.network(batch.images, batch.available).logits, batch.target)
    torch.testing.assert_close(terms["full_set"], 0.5 * expected)
    plain = terms_of(t := segmenting(make(), ONE_EACH), prepared(t, (FULL, PARTIAL)))
    torch.testing.assert_close(terms["hmsd"], plain["hmsd"], rtol=1e-4, atol=1e-8)


# --- incomplete cases -------------------------------------------------------------------------------------------------


def test_a_single_modality_skips_distillation_for_that_sample_only(make):
    single = (False, True, False)
    trainer = segmenting(make(), [[True, False, False], [False, True, False]])
    whole = prepared(trainer, (FULL, single))
    terms = terms_of(trainer, whole)
    alone = make()
    alone.draw_subset = lambda available: torch.tensor([[True, False, False]])
    batch = prepared(alone, (FULL, single))
    cut = type(batch)(batch.images[:1], [t[:1] for t in batch.target], batch.available[:1], batch.cases[:1])
    expected = terms_of(alone, cut)
    torch.testing.assert_close(2 * terms["hmsd"], expected["hmsd"], rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(2 * terms["dmcd"], expected["dmcd"], rtol=1e-4, atol=1e-7)
    assert trainer.order.first.sum() == 1


def test_a_batch_of_single_modalities_has_the_segmentation_alone(make):
    trainer = make()
    batch = prepared(trainer, ((True, False, False), (False, True, False)))
    passes = Passes(trainer)
    terms = terms_of(trainer, batch)
    assert terms["hmsd"] == terms["dmcd"] == 0
    assert terms["segmentation"] > 0
    assert passes.decoded == 1
    assert trainer.order.first.sum() == 0


def test_the_teacher_of_an_incomplete_case_is_what_it_has(make):
    trainer = segmenting(make(), [[True, False, False]] * 2)
    batch = prepared(trainer, (PARTIAL, PARTIAL))
    hmsd = terms_of(trainer, batch)["hmsd"]
    students = [logits_of(trainer, batch, subset) for subset in ([True, False, False], [False, False, True])]
    teacher = logits_of(trainer, batch, PARTIAL)
    values = [plain_divergence(teacher[b], student[b], 4.0, False) for student in students for b in range(2)]
    assert hmsd.item() == pytest.approx(sum(values) / 4, rel=1e-3)


@pytest.mark.parametrize("modalities", [1, 2, 6])
@pytest.mark.parametrize("regions", [False, True])
def test_any_number_of_modalities_trains(make, modalities, regions):
    trainer = make(modalities, regions=regions, full_set_weight=0.5, criticality="gradient")
    available = ((True,) * modalities, (True,) + (False,) * (modalities - 1))
    trainer.available_in_case |= dict(zip("ab", available, strict=True))
    passes = Passes(trainer)
    for seed in range(4):
        terms = trainer.train_step(random_batch(trainer, seed=seed))
        assert all(term.isfinite() for term in terms.values())
        assert (terms["dmcd"] > 0) == (terms["hmsd"] > 0) == (modalities > 1)
    assert passes.decoded <= 4 * (1 + 1 + trainer.max_students + 2)  # with two of them decoded again


# --- warm-up, log, settings -------------------------------------------------------------------------------------------


def test_warm_up_segments_without_distillation(make):
    trainer = make(warm_up_fraction=0.25, num_epochs=8)
    for epoch in range(4):
        trainer.current_epoch, passes = epoch, Passes(trainer)
        terms = terms_of(trainer, prepared(trainer))
        assert set(terms) == ({"segmentation"} if epoch < 2 else {"segmentation", "hmsd", "dmcd"})
        assert (passes.decoded == 1) == (epoch < 2)


def test_by_default_a_twentieth_of_the_epochs_is_warm_up(make):
    trainer = make(warm_up_fraction=CCSDTrainer.warm_up_fraction)
    assert trainer.num_epochs == 1000
    trainer.current_epoch = 49
    assert not trainer.distils()
    trainer.current_epoch = 50
    assert trainer.distils()


def test_every_parameter_is_reached_in_warm_up(make):
    trainer = segmenting(make(warm_up_fraction=0.5), [[True, False, False]] * 2)
    trainer.loss.weight_factors = tuple(w or 1e-6 for w in trainer.loss.weight_factors)
    trainer.train_step(random_batch(trainer))
    assert all(p.grad is not None for p in trainer.network.parameters())


def test_the_log_says_which_modality_is_removed_first(make):
    trainer = make(regions=True)
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(random_batch(trainer, seed=seed)) for seed in range(3)]
    counts = trainer.order.first.tolist()
    assert sum(counts) == 6
    trainer.on_train_epoch_end(outputs)
    rows = {name: float(value) for _, name, value in trainer.epoch_log.rows()}
    assert {name for name in rows if name.startswith("loss/")} == {"loss/segmentation", "loss/hmsd", "loss/dmcd"}
    for modality, count in zip(trainer.modalities, counts, strict=True):
        assert rows[f"removed_first/{modality}"] == pytest.approx(count / 6, rel=1e-4)
    trainer.on_train_epoch_start()
    assert trainer.order.first.sum() == 0


def test_the_host_and_the_schedule_are_nnunets_own(make):
    trainer = make()
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert (trainer.num_epochs, trainer.initial_lr, trainer.weight_decay) == (1000, 1e-2, 3e-5)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("path_order", "best", "max, min, random"),
        ("criticality", "entropy", "cosine, gradient"),
        ("hmsd_tau", 0.0, "hmsd_tau above zero"),
        ("dmcd_tau", -1.0, "dmcd_tau = -1.0; expected a finite number of 0 or more"),
        ("max_students", 0, "max_students above zero"),
    ],
)
def test_a_wrong_setting_is_an_error(make, setting, value, message):
    with pytest.raises(ValueError, match=message):
        make(**{setting: value})
