"""DC-Seg's network and training step, on networks small enough for plain loops."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks import recompute
from nnunetv2_missmod.building_blocks.per_modality import separate_loss
from nnunetv2_missmod.building_blocks.region_fusion import region_loss
from nnunetv2_missmod.methods.dcseg.network import DCSegNet, DCSegOutput
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer
from nnunetv2_missmod.modalities import all_subsets, sample_source

pytestmark = pytest.mark.slow

K = 3  # outputs: three labels with the background, or three regions
LEVELS = (8, 8, 16, 16)  # four levels: deep supervision then weighs two of the three outputs
TERMS = ("segmentation", "separate", "regions", "anatomy", "modality", "reconstruction", "kl")


def build_network(num_modalities=3, deep_supervision=False, network=None, extra_channels=0, seed=0, **plan):
    plans = PlansManager(small_plans(num_modalities, **plan))
    configuration = plans.get_configuration(CONFIGURATION)
    configuration.configuration["missmod"]["network"] = network or {}
    torch.manual_seed(seed)
    return DCSegNet.from_plans(plans, configuration, num_modalities + extra_channels, K, deep_supervision)


def random_images(num_modalities=3, samples=2, dims=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, num_modalities, *[16] * dims, generator=generator)


def as_list(levels):
    return levels if isinstance(levels, list) else [levels]


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_modalities", "dims", "overlapping", "deep_supervision", "residual"),
    [
        (2, 3, False, True, False),
        (2, 2, True, False, False),
        (3, 3, True, True, False),
        (3, 2, False, True, True),
        (4, 3, False, False, False),
        (4, 2, True, True, False),
        (4, 3, True, True, True),
    ],
)
def test_training_output_has_its_shapes(num_modalities, dims, overlapping, deep_supervision, residual):
    network = {"overlapping_regions": overlapping}
    net = build_network(num_modalities, deep_supervision, network, dims=dims, residual=residual)
    samples, modalities = 2, num_modalities
    out = net(random_images(modalities, dims=dims), torch.ones(samples, modalities, dtype=torch.bool))

    def at(size):
        return (size,) * dims

    assert isinstance(out, DCSegOutput)
    scales = [16, 8] if deep_supervision else [16]
    assert isinstance(out.logits, list) == isinstance(out.separate_logits, list) == deep_supervision
    assert [x.shape for x in as_list(out.logits)] == [(samples, K, *at(s)) for s in scales]
    assert [x.shape for x in as_list(out.separate_logits)] == [(samples * modalities, K, *at(s)) for s in scales]
    assert [x.shape for x in out.region_logits] == [(samples, K, *at(s)) for s in (16, 8, 4)]
    width = 8 * math.ceil(32 / math.sqrt(modalities) / 8)  # the plan's 32 features shared out among M encoders
    assert out.anatomy.shape == (samples, modalities, width, *at(4))
    assert out.codes.shape == (samples, modalities, 8)
    assert out.reconstruction.shape == (samples, modalities, *at(16))
    assert out.mu.shape == out.sigma.shape == (samples, modalities, width // 2)
    assert (out.sigma > 0).all()
    for value in (*as_list(out.logits), *out.region_logits, out.reconstruction, out.codes):
        assert value.isfinite().all()
        assert value.std() > 0


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_evaluation_gives_the_training_logits_alone(deep_supervision):
    net, images = build_network(deep_supervision=deep_supervision), random_images()
    present = torch.tensor([[True, True, False], [False, True, True]])
    with torch.no_grad():
        trained = net(images, present).logits
        evaluated = net.eval()(images, present)
    assert isinstance(evaluated, list) == deep_supervision
    for a, b in zip(as_list(trained), as_list(evaluated), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_separate_logits_are_those_of_each_modality_alone(deep_supervision):
    """Row b * M + m is D_sep of modality m of sample b."""
    net, images = build_network(4, deep_supervision), random_images(4)
    present = torch.tensor([[True, False, True, False], [False, False, False, True]])  # no matter for D_sep
    with torch.no_grad():
        rows = as_list(net(images, present).separate_logits)
        for b, m in product(range(2), range(4)):
            levels = net.anatomy_encoders[m](images[b : b + 1, m : m + 1])
            alone = as_list(net.separate_decoder(levels))
            for row, expected in zip(rows, alone, strict=True):
                torch.testing.assert_close(row[b * 4 + m], expected[0], rtol=1e-4, atol=1e-5)
    assert (rows[0][0] - rows[0][1]).abs().max() > 1e-2


def test_each_sample_and_modality_has_its_own_anatomy_code_and_image():
    """Entry (b, m) comes from the parts of modality m and the image of sample b alone."""
    net, images = build_network(), random_images()
    present = torch.tensor([[True, False, True], [False, True, True]])
    with torch.no_grad():
        out = net(images, present)
        fused = net.fuse_and_decode(
            [torch.where(present[..., None, None, None, None], level, 0.0) for level in net.encode(images)]
        )[2]
        for b, m in product(range(2), range(3)):
            image = images[b : b + 1, m : m + 1]
            code = net.modality_encoders[m](image)
            rebuilt, mu, sigma = net.reconstruction_decoders[m](fused[b : b + 1], code)
            for actual, expected in [
                (out.anatomy, net.anatomy_encoders[m](image)[-1]),
                (out.codes, code),
                (out.reconstruction, rebuilt),
                (out.mu, mu),
                (out.sigma, sigma),
            ]:
                torch.testing.assert_close(actual[b, m], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("garbage", [1e6, math.nan])
def test_absent_modalities_do_not_reach_the_logits(garbage):
    """Not by a bit; D_sep and the codes do see them: the subset acts inside the fusion alone."""
    net, images = build_network(deep_supervision=True), random_images()
    present = torch.tensor([[True, False, True], [False, True, True]])
    changed = images.clone()
    changed[~present] = garbage * torch.randn(2, 16, 16, 16)
    with torch.no_grad():
        before, after = net(images, present), net(changed, present)
    for a, b in zip(before.logits + before.region_logits, after.logits + after.region_logits, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(before.separate_logits, after.separate_logits, strict=True):
        same = torch.tensor([torch.equal(x, y) for x, y in zip(a, b, strict=True)])
        assert torch.equal(same, present.flatten())
    for a, b in [(before.codes, after.codes), (before.anatomy, after.anatomy)]:
        same = torch.tensor([torch.equal(x, y) for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)])
        assert torch.equal(same, present.flatten())


@pytest.mark.parametrize("modality", range(3))
def test_present_modalities_do_reach_the_logits(modality):
    net, images = build_network().eval(), random_images()
    changed = images.clone()
    changed[:, modality] = -changed[:, modality].flip(2)
    present = torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        assert (net(images, present) - net(changed, present)).abs().max() > 1e-3


def test_presence_is_found_in_the_images():
    """Without ``present``, a constant channel is absent; a sample without any image has every modality."""
    net, images = build_network().eval(), random_images(samples=3)
    images[0, 1] = 0.5
    images[2] = 0
    present = torch.tensor([[True, False, True], [True, True, True], [True, True, True]])
    with torch.no_grad():
        found = net(images)
        assert torch.equal(found, net(images, present))
        assert found.isfinite().all()


@pytest.mark.parametrize("overlapping", [False, True])
def test_forward_subsets_is_forward_of_every_subset(overlapping):
    net, images = build_network(network={"overlapping_regions": overlapping}).eval(), random_images()
    presents = all_subsets(3)
    with torch.no_grad():
        logits = net.forward_subsets(images, presents)
        assert logits.shape == (7, 2, K, 16, 16, 16)
        for subset, present in enumerate(presents):
            expected = net(images, present.expand(2, -1))
            torch.testing.assert_close(logits[subset], expected, rtol=1e-5, atol=1e-5)
    assert (logits[0] - logits[-1]).abs().max() > 1e-3


def test_recomputation_in_the_backward_pass_leaves_the_gradients_as_they_are(monkeypatch):
    images, present = random_images(), torch.tensor([[True, False, True], [False, True, True]])
    gradients, calls = [], []
    for kept in (False, True):
        net = build_network()
        net.decoder.stages[-1].register_forward_pre_hook(lambda *_: calls.append("decoder"))
        net.fusions[0].register_forward_pre_hook(lambda *_: calls.append("fusion"))
        if kept:
            monkeypatch.setattr(recompute, "RECOMPUTES", False)
        parameters = [p for part in (net.anatomy_encoders, net.decoder, net.fusions) for p in part.parameters()]
        gradients.append(
            torch.autograd.grad(net(images, present).logits.square().mean(), parameters, allow_unused=True)
        )
    assert calls == ["fusion", "decoder", "fusion", "fusion", "decoder"]  # the first network's fusion ran twice
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_cascade_is_refused():
    with pytest.raises(NotImplementedError, match=r"cascade.*ModalityDropoutTrainer"):
        build_network(extra_channels=2)


def test_an_unknown_constant_is_refused():
    with pytest.raises(ValueError, match=r"code_chanels.*Known are: anatomy_level = .*code_channels = 8"):
        build_network(network={"code_chanels": 3})


def test_the_released_code_length_is_a_constant_of_the_plan():
    net = build_network(2, network={"code_channels": 128})
    assert net(random_images(2)).codes.shape == (2, 2, 128)


# --- the training step ------------------------------------------------------------------------------------------------


@pytest.fixture
def make_trainer(tmp_path, monkeypatch) -> Callable[..., DCSegTrainer]:
    """Trainers of equal weights, whatever their plan overrides."""

    def make(num_modalities=3, regions=False, features=LEVELS, batch_size=2, patch=None, **overrides):
        plans = small_plans(num_modalities, features=features, batch_size=batch_size, patch=patch, **overrides)
        dataset_json = small_dataset_json(num_modalities, regions)
        return small_trainer(DCSegTrainer, plans, dataset_json, tmp_path, monkeypatch)

    return make


def loss_terms(trainer, batch=None):
    """The terms of one step, its draws always the same."""
    trainer.generator.manual_seed(0)
    return trainer.training_loss(trainer.prepare_batch(batch or random_batch(trainer)))


def test_a_step_has_every_term(make_trainer):
    trainer = make_trainer(kl_weight=0.1)
    terms = loss_terms(trainer)
    assert tuple(terms) == TERMS
    assert all(term.shape == () and term.isfinite() and term > 0 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainer.network.anatomy_encoders.parameters())
    for part in trainer.network.children():
        assert any((p.grad != 0).any() for p in part.parameters())


def test_the_default_weights_are_the_papers(make_trainer):
    trainer = make_trainer()
    assert (trainer.alpha, trainer.kl_weight, trainer.warm_up_epochs, trainer.ssim_window) == (0.4, 0.0, 0, 0)
    assert trainer.t == pytest.approx(1 / 0.07)
    assert loss_terms(trainer)["kl"] == 0
    assert (trainer.num_epochs, trainer.initial_lr) == (220, 2e-4)
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert (group["lr"], group["weight_decay"], group["amsgrad"]) == (2e-4, 1e-4, True)


@pytest.mark.parametrize(
    ("weight", "term"),
    [
        ("anatomy_weight", "anatomy"),
        ("modality_weight", "modality"),
        ("reconstruction_weight", "reconstruction"),
        ("separate_weight", "separate"),
        ("region_weight", "regions"),
    ],
)
def test_an_ablation_removes_one_term(make_trainer, weight, term):
    whole = loss_terms(make_trainer())
    ablated = loss_terms(make_trainer(**{weight: 0.0}))
    for name in TERMS:
        assert torch.equal(ablated[name], torch.zeros(()) if name == term else whole[name]), name


def test_alpha_scales_the_bracket_of_equation_9(make_trainer):
    base, doubled = (loss_terms(make_trainer(alpha=alpha, kl_weight=0.1)) for alpha in (0.4, 0.8))
    bracket = {"anatomy", "modality", "reconstruction"}
    for name in TERMS:
        assert doubled[name].item() == pytest.approx((2 if name in bracket else 1) * base[name].item(), rel=1e-6)


def test_the_temperature_and_the_window_reach_the_loss(make_trainer):
    base = loss_terms(make_trainer())
    windowed, colder = loss_terms(make_trainer(ssim_window=11)), loss_terms(make_trainer(t=5.0))
    changed_by_window = {name for name in TERMS if not torch.equal(base[name], windowed[name])}
    changed_by_t = {name for name in TERMS if not torch.equal(base[name], colder[name])}
    assert changed_by_window == {"anatomy"}
    assert changed_by_t == {"anatomy", "modality"}


def test_warm_up_leaves_out_the_segmentation_loss_at_first(make_trainer):
    trainer, whole = make_trainer(warm_up_epochs=2), loss_terms(make_trainer())
    for epoch in range(4):
        trainer.current_epoch = epoch
        terms = loss_terms(trainer)
        assert torch.equal(terms["segmentation"], torch.zeros(()) if epoch < 2 else whole["segmentation"])
        assert all(torch.equal(terms[name], whole[name]) for name in TERMS if name != "segmentation")


@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
def test_the_fusion_knows_whether_regions_overlap(make_trainer, regions):
    trainer = make_trainer(regions=regions)
    assert all(fusion.overlapping_regions == regions for fusion in trainer.network.fusions)
    block = trainer.plans_manager.plans["configurations"][CONFIGURATION]["missmod"]
    assert block["network"] == {"overlapping_regions": regions}  # prediction reads it there


@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_region_loss_weighs_every_level(make_trainer, regions, deep_supervision):
    """Weights 1, 1/2, 1/4, 1/8 over their sum; a coarse voxel's target is the voxel just above its centre."""
    trainer = make_trainer(regions=regions, enable_deep_supervision=deep_supervision)
    at_one_level = trainer.loss.loss if deep_supervision else trainer.loss
    target = random_batch(trainer)["target"]
    finest = as_list(target)[0]
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(2, K, *[size] * 3, generator=generator) for size in (16, 8, 4, 2)]
    total = 0.0
    for level, step in enumerate((1, 2, 4, 8)):
        picked = slice(step // 2, None, step)
        total += 2.0**-level * at_one_level(logits[level], finest[:, :, picked, picked, picked]).item()
    assert region_loss(trainer.loss, logits, target).item() == pytest.approx(
        total / (1 + 1 / 2 + 1 / 4 + 1 / 8), rel=1e-5
    )


def test_region_loss_follows_anisotropic_levels(make_trainer):
    trainer = make_trainer(patch=[4, 16, 16], features=(8, 8, 16))
    finest = torch.randint(0, K, (2, 1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    logits = [torch.randn(2, K, *shape) for shape in ((4, 16, 16), (4, 8, 8), (2, 4, 4))]
    targets = [finest, finest[:, :, :, 1::2, 1::2], finest[:, :, 1::2, 2::4, 2::4]]
    losses = [trainer.loss.loss(x, y).item() for x, y in zip(logits, targets, strict=True)]
    expected = (4 * losses[0] + 2 * losses[1] + losses[2]) / 7
    assert region_loss(trainer.loss, logits, [finest]).item() == pytest.approx(expected, rel=1e-5)


def drawn_separate_loss(trainer, logits, batch):
    source = sample_source(batch.available, trainer.generator)
    return separate_loss(trainer.loss, logits, source, batch.target)


def separate_inputs(trainer, available):
    """Random logits of D_sep with a batch, and the loss (B, M) of every slot alone."""
    batch = trainer.prepare_batch(random_batch(trainer))
    object.__setattr__(batch, "available", torch.tensor(available))
    samples, modalities = batch.available.shape
    generator = torch.Generator().manual_seed(1)
    scales = [t.shape[2:] for t in as_list(batch.target)]
    levels = [torch.randn(samples * modalities, K, *shape, generator=generator) for shape in scales]
    logits = levels if trainer.enable_deep_supervision else levels[0]
    losses = torch.zeros(samples, modalities)
    for b, m in product(range(samples), range(modalities)):
        row = [level[b * modalities + m][None] for level in levels]
        target = [t[b : b + 1] for t in as_list(batch.target)]
        losses[b, m] = trainer.loss(row, target) if trainer.enable_deep_supervision else trainer.loss(row[0], target[0])
    return logits, batch, losses


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
def test_separate_loss_is_the_sum_over_all_modalities(make_trainer, regions, deep_supervision):
    trainer = make_trainer(regions=regions, enable_deep_supervision=deep_supervision)
    logits, batch, losses = separate_inputs(trainer, [[True] * 3] * 2)
    assert drawn_separate_loss(trainer, logits, batch).item() == pytest.approx(losses.mean(0).sum().item(), rel=1e-5)


def test_separate_loss_is_in_expectation_m_times_the_mean_over_available_modalities(make_trainer):
    """Sample 1 lacks modality 1, whose slot repeats modality 0 or 2 with equal chance."""
    trainer = make_trainer()
    available = [[True, True, True], [True, False, True]]
    logits, batch, losses = separate_inputs(trainer, available)
    by_source = []
    for stand_in in (0, 2):
        source = torch.tensor([[0, 1, 2], [0, stand_in, 2]])
        by_source.append(separate_loss(trainer.loss, logits, source, batch.target).item())
        expected = (losses[0].sum() + losses[1, 0] + losses[1, 2] + losses[1, stand_in]) / 2
        assert by_source[-1] == pytest.approx(expected.item(), rel=1e-5)
    mean_over_available = (losses[0].mean() + losses[1, [0, 2]].mean()) / 2
    assert sum(by_source) / 2 == pytest.approx(3 * mean_over_available.item(), rel=1e-5)

    trainer.generator.manual_seed(0)
    drawn = [drawn_separate_loss(trainer, logits, batch).item() for _ in range(60)]
    is_first = [loss == pytest.approx(by_source[0], rel=1e-6) for loss in drawn]
    assert all(
        first or loss == pytest.approx(by_source[1], rel=1e-6) for first, loss in zip(is_first, drawn, strict=True)
    )
    assert by_source[0] != pytest.approx(by_source[1], rel=1e-4)
    assert 15 <= sum(is_first) <= 45  # of 60 fair draws; outside with a chance of 1e-4, and the draws are fixed


def test_separate_loss_gives_unavailable_modalities_no_gradient(make_trainer):
    trainer = make_trainer()
    logits, batch, _ = separate_inputs(trainer, [[False, True, True], [True, False, False]])
    for level in logits:
        level.requires_grad_()
    drawn_separate_loss(trainer, logits, batch).backward()
    has_gradient = (logits[0].grad != 0).flatten(1).any(1)
    assert torch.equal(has_gradient, batch.available.flatten())


@pytest.mark.parametrize("ssim_window", [0, 11])
def test_unavailable_channels_never_enter_a_term(make_trainer, ssim_window):
    trainer = make_trainer(kl_weight=0.1, ssim_window=ssim_window)
    trainer.available_in_case = {"a": (True, False, True), "b": (False, False, True)}
    unavailable = ~torch.tensor([trainer.available_in_case[case] for case in ("a", "b")])
    before = loss_terms(trainer)
    for garbage in (1e6, math.nan):
        batch = random_batch(trainer)
        batch["data"][unavailable] = garbage * torch.randn(int(unavailable.sum()), 16, 16, 16)
        after = loss_terms(trainer, batch)
        assert all(torch.equal(before[name], after[name]) for name in TERMS)
    batch = random_batch(trainer)
    batch["data"][~unavailable] = batch["data"][~unavailable].exp()
    after = loss_terms(trainer, batch)
    assert not any(torch.equal(before[name], after[name]) for name in TERMS)


@pytest.mark.parametrize("ssim_window", [0, 11])
def test_a_modality_that_no_case_has_trains_nothing(make_trainer, ssim_window):
    """Its encoders and decoder get no gradient from any term; those of the others do."""
    trainer = make_trainer(kl_weight=0.1, ssim_window=ssim_window)
    trainer.available_in_case = {"a": (True, False, True), "b": (True, False, False)}
    torch.stack(list(loss_terms(trainer).values())).sum().backward()
    net = trainer.network
    for modules in (net.anatomy_encoders, net.modality_encoders, net.reconstruction_decoders):
        trained = [any(p.grad is not None and (p.grad != 0).any() for p in module.parameters()) for module in modules]
        assert trained == [True, False, True]


def test_training_on_incomplete_cases_runs(make_trainer):
    """Whole steps, backward pass and update included, with samples of one modality each."""
    trainer = make_trainer(kl_weight=0.1)
    trainer.available_in_case = {"a": (False, True, False), "b": (False, False, True)}
    for _ in range(2):
        outputs = trainer.train_step(random_batch(trainer))
        assert all(value.isfinite() for value in outputs.values())
    assert all(p.isfinite().all() for p in trainer.network.parameters())


def test_blank_patches_give_finite_gradients(make_trainer):
    trainer = make_trainer(kl_weight=0.1)
    batch = random_batch(trainer)
    batch["data"] = torch.zeros_like(batch["data"])
    terms = loss_terms(trainer, batch)
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in trainer.network.parameters())


def test_two_crops_of_one_patient_are_no_negatives(make_trainer):
    """L_ana compares each crop with itself alone; the other terms do not ask whose crops they are."""
    trainer = make_trainer()
    one, two = (loss_terms(trainer, random_batch(trainer, cases=cases)) for cases in (("a", "a"), ("a", "b")))
    assert one["anatomy"] < two["anatomy"]
    assert all(torch.equal(one[name], two[name]) for name in TERMS if name != "anatomy")


def test_missing_negatives_are_said_once(make_trainer, monkeypatch):
    trainer, said = make_trainer(), []
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *words, **_: said.append(" ".join(map(str, words))))
    loss_terms(trainer, random_batch(trainer, cases=("a", "b")))
    assert said == []
    loss_terms(trainer, random_batch(trainer, cases=("a", "a")))
    loss_terms(trainer, random_batch(trainer, cases=("b",)))
    assert len(said) == 1
    assert "no negative pairs" in said[0]


def test_anatomy_pulls_all_available_modalities_whatever_the_subset(make_trainer, monkeypatch):
    """The drawn subset acts inside the fusion: the contrastive terms and D_sep do not change with it."""
    trainer, results = make_trainer(), []
    for subset in ([True, False, False], [False, True, True]):
        monkeypatch.setattr(trainer, "draw_subset", lambda available, subset=subset: available & torch.tensor(subset))
        results.append(loss_terms(trainer))
    unchanged = {name for name in TERMS if torch.equal(results[0][name], results[1][name])}
    assert unchanged == {"separate", "anatomy", "modality", "kl"}


def test_terms_are_weighted_losses_of_the_networks_output(make_trainer):
    """Equation 9, from the network's output in the trainer's own pieces."""
    trainer = make_trainer(kl_weight=0.1, separate_weight=0.5, region_weight=0.25, anatomy_weight=3.0)
    terms, batch = loss_terms(trainer), trainer.prepare_batch(random_batch(trainer))
    trainer.generator.manual_seed(0)
    out = trainer.network(batch.images, trainer.draw_subset(batch.available))
    mu, sigma = out.mu, out.sigma
    expected = {
        "segmentation": trainer.loss(out.logits, batch.target),
        "separate": 0.5 * 3 * trainer.loss(out.separate_logits, [t.repeat_interleave(3, 0) for t in batch.target]),
        "regions": 0.25 * region_loss(trainer.loss, out.region_logits, batch.target),
        "reconstruction": 0.4 * F.l1_loss(out.reconstruction, batch.images),
        "kl": 0.1 * sum(0.5 * (mu**2 + sigma**2 - 2 * sigma.log() - 1)[:, m].mean() for m in range(3)),
    }
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
