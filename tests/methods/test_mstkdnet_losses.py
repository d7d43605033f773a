"""MST-KDNet's loss terms: plain loops over the paper's formulas, stored values, invariances, degenerate inputs."""

import math
from functools import partial
from itertools import product
from statistics import fmean, pstdev, pvariance, stdev

import numpy as np
import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from reference_values import names_of, reference, stored_entries

from nnunetv2_missmod.building_blocks import matching, recompute
from nnunetv2_missmod.building_blocks.discriminator import adversarial_loss, discriminator_loss
from nnunetv2_missmod.methods.mstkdnet import losses

TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-5}  # the released code's values were computed in float32
TAU = 1.7
NETWORKS = ("teacher", "student")
MAPS = (("c3d", "c4d"), ("style", "c3d"), ("c4d", "style"))  # of the released cross-Grams


def plain_mst(teacher, student):
    """Mean squared error of each pair of tensors, summed over the pairs."""
    pairs = [(t.flatten().tolist(), s.flatten().tolist()) for t, s in zip(teacher, student, strict=True)]
    return sum(fmean((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs)


def plain_evd(teacher, student, axis, relative=False):
    """Equations 2 to 4 of attention (L, H, ...); a layer's error by the mean squares of its products where relative."""
    total, (layers, heads, elements) = 0, teacher.flatten(2).shape
    for layer in range(layers):
        pairs = [
            [
                extreme((a[:, h, i] if axis == "layer" else a[layer, :, i]).tolist()) * a[layer, h, i].item()
                for a in (teacher.flatten(2), student.flatten(2))
            ]
            for extreme, h, i in product((max, min, fmean), range(heads), range(elements))
        ]
        error = fmean((full - missing) ** 2 for full, missing in pairs)
        total += error / fmean(full**2 + missing**2 for full, missing in pairs) if relative else 3 * error
    return total


def plain_scores(logits, axis, overlapping):
    """Equation 6 over the classes of a voxel, the voxels of a region or of one of two classes, or a line of voxels."""
    scores = logits.detach().clone()
    last, outputs = axis == "last_spatial", scores.flatten(1)
    of_voxels = not last and (overlapping or len(outputs) <= 2)
    for group in scores.flatten(0, -2) if last else outputs if of_voxels else outputs.T:
        values = group.tolist()
        std = stdev(values) if last else pstdev(values)
        size = math.hypot(std, 0.1) if of_voxels else std + 1e-7
        group.copy_(group.new_tensor([(v - fmean(values)) / size for v in values]))
    return outputs.T.tolist()


def plain_distribution(scores, tau, overlapping):
    """The softmax of a voxel, or the Bernoulli distributions of its regions one after the other."""
    groups = [[v, 0] for v in scores] if overlapping else [scores]
    return [math.exp(v / tau) / sum(math.exp(w / tau) for w in group) for group in groups for v in group]


def plain_slkd(teacher, student, tau, axis, overlapping):
    divergences = []
    for scores in zip(*(plain_scores(logits, axis, overlapping) for logits in (teacher, student)), strict=True):
        q_full, q_missing = (plain_distribution(voxel, tau, overlapping) for voxel in scores)
        divergences.append(sum(p * math.log(p / q) for p, q in zip(q_full, q_missing, strict=True)))
    return tau**2 * fmean(divergences)


def plain_gram(teacher, student):
    """M1 = enc dec^T, M2 = enc t^T and M3 = dec t^T, Equation 10, of channels of zero mean and unit norm."""
    grams = []
    for lists in (teacher.flatten(2).tolist(), student.flatten(2).tolist()):
        enc, t, dec = (
            [[(v - fmean(c)) / math.sqrt((pvariance(c) + 1e-5) * len(c)) for v in c] for c in maps] for maps in lists
        )
        pairs = [product(*pair) for pair in ((enc, dec), (enc, t), (dec, t))]
        grams.append(teacher.new_tensor([[sum(map(float.__mul__, a, b)) for a, b in pair] for pair in pairs]))
    return plain_mst(*grams)


def plain_bce(logits, label):
    probabilities = [1 / (1 + math.exp(-v)) for v in logits]
    return fmean(-math.log(p if label else 1 - p) for p in probabilities)


def of_parts(loss, **options):
    """A loss of L tensors as one of them stacked (B, L, ...)."""
    return lambda teacher, student: loss(teacher.unbind(1), student.unbind(1), **options)


def slkd_case(outputs, axis="class", overlapping=False):
    options = {"tau": TAU, "axis": axis, "overlapping": overlapping}
    return partial(losses.slkd_loss, **options), partial(plain_slkd, **options), (outputs,)


DISTILLATION = {
    "EVD over layers": (of_parts(losses.evd_loss), partial(plain_evd, axis="layer"), (3, 2)),
    "EVD over heads": (of_parts(losses.evd_loss, axis="head"), partial(plain_evd, axis="head"), (3, 2)),
    "EVD as a share": (
        of_parts(losses.evd_loss, relative=True),
        partial(plain_evd, axis="layer", relative=True),
        (3, 2),
    ),
    "MST": (of_parts(losses.mst_loss), plain_mst, (3, 2)),
    "MSE": (losses.logit_mse, plain_mst, (4,)),
    "SLKD of four classes": slkd_case(4),
    "SLKD of two classes": slkd_case(2),
    "SLKD of three regions": slkd_case(3, overlapping=True),
    "SLKD of one region": slkd_case(1, overlapping=True),
    "SLKD over the last axis": slkd_case(4, "last_spatial"),
    "SLKD of regions over the last axis": slkd_case(2, "last_spatial", overlapping=True),
    "gram": (of_parts(matching.gram_loss), plain_gram, (3, 2)),
}
on_distillation = pytest.mark.parametrize(("loss", "plain", "parts"), DISTILLATION.values(), ids=DISTILLATION)
on_spatial = pytest.mark.parametrize("spatial", [(3, 4), (2, 2, 3)], ids=["2D", "3D"])
on_axis = pytest.mark.parametrize("axis", ["layer", "head"])
on_outputs = pytest.mark.parametrize(("outputs", "overlapping"), [(3, False), (3, True), (2, False), (1, True)])


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_finite(loss, leaf):
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), leaf)[0].isfinite().all()


@on_distillation
@on_spatial
def test_each_loss_is_its_formula_and_reaches_teacher_and_student(loss, plain, parts, spatial):
    pair = random_tensor(2, 2, *parts, *spatial).requires_grad_()
    actual = loss(*pair)
    assert actual.tolist() == pytest.approx([plain(*sample) for sample in pair.transpose(0, 1)], rel=1e-9)
    assert (torch.autograd.grad(actual.sum(), pair)[0] != 0).all()


@on_distillation
def test_a_value_is_of_its_own_sample_and_zero_for_an_identical_student(loss, plain, parts):
    pair = random_tensor(2, 2, *parts, 2, 3)
    before = loss(*pair).tolist()
    pair[:, 1] = pair[0, 1] ** 2 - 3
    assert loss(*pair).tolist() == [pytest.approx(before[0], rel=1e-12), 0]
    assert before[1] > 0


def test_adversarial_losses_are_cross_entropies_of_full_as_zero_and_missing_as_one():
    full, missing = random_tensor(2, 3, 1)
    of_discriminator = plain_bce(full[:, 0].tolist(), 0) + plain_bce(missing[:, 0].tolist(), 1)
    assert discriminator_loss(full, missing).item() == pytest.approx(of_discriminator, rel=1e-9)
    assert adversarial_loss(missing).item() == pytest.approx(plain_bce(missing[:, 0].tolist(), 0), rel=1e-9)


def stored_evd(x, axis="layer"):
    return {"loss": losses.evd_loss(*(x[k].unbind() for k in NETWORKS), axis).mean()}


def stored_slkd(x):
    q = {f"q_{k}": (losses.standardise(x[f"logit_{k}"], "class") / x["tau"]).softmax(1) for k in ("full", "missing")}
    loss = losses.slkd_loss(x["logit_full"], x["logit_missing"], x["tau"]).mean()
    return {"tau2_kl": loss, "kl_mean_over_voxels": loss / x["tau"] ** 2, **q}


def released_slkd(x):
    """The arguments are swapped, and the sum over all elements is divided by their number and the samples."""
    full, missing = x["logit_full"], x["logit_missing"]
    factor = full[0, 0].numel() / full.numel()  # ours is that sum, divided by samples and voxels
    pairs = {"loss_as_called": (missing, full), "loss_swapped_arguments": (full, missing)}
    return {k: factor * losses.slkd_loss(*p, x["temperature"], "last_spatial").mean() for k, p in pairs.items()}


def released_gram(x, first="style", second="style"):
    """The squared difference of the cross-Grams of two maps, the channels of all samples in one (formula H)."""
    shape = x[f"{first}_full"].shape
    pairs = [[x[f"{part}_{k}"].flatten(0, 1)[None] for part in (first, second)] for k in ("full", "missing")]
    full, missing = (matching.cross_gram(*pair) / shape.numel() for pair in pairs)
    return 1e-4 * (full - missing).square().sum() / (2 * shape[1] * shape[2] * shape[3]) ** 2


def dice_loss(probability, target):
    return 1 - 2 * (probability * target).sum() / (probability.square().sum() + target.square().sum() + 1e-7)


def released_totals(x):
    """Formula I, with the teacher's background Dice, channel 3, inside the student's terms of one of two totals."""
    full, missing, target = (x[k].transpose(0, 1) for k in ("prob_full", "prob_missing", "target"))
    dice = sum(0.4 * dice_loss(full[c], target[c]) + 0.6 * dice_loss(missing[c], target[c]) for c in range(3))
    consistency = losses.logit_mse(x["prob_full"][:, :3], x["prob_missing"][:, :3]).mean()
    content = losses.mst_loss([x["content_full"]], [x["content_missing"]]).mean()
    weight = 10 * matching.ramp_up(x["epoch"], 20)
    total = dice + weight * consistency + 0.2 * content
    divided = total + (0.4 + 0.6 + weight) * dice_loss(full[3], target[3])
    return {"region_loss_Co": total + released_gram(x), "divide_loss_Co": divided, "region_content_loss": content}


def released_rates(x):
    """nnU-Net's schedule, an epoch later."""
    schedule, rates = PolyLRScheduler(torch.optim.Adam([torch.zeros(1)], 1e-4), 1e-4, 100), []
    for epoch in x["epoch"]:
        schedule.step(epoch + 1)
        rates += schedule.get_last_lr()
    assert rates[-1] == 0
    return {"lr_used": torch.tensor(rates)}


STORED = {
    "mst_evd": stored_evd,
    "mst_feat": lambda x: {"loss": losses.mst_loss(*([x[f"{k}{i}"] for i in range(4)] for k in NETWORKS)).mean()},
    "mst_slkd": released_slkd,
    "mst_gsm": lambda x: {"loss": sum(released_gram(x, *p) for p in MAPS), "style_gram_loss": released_gram(x)},
    "mst_coloss": released_totals,
    "mst_consistency_rampup": lambda x: {"weight": torch.tensor([10 * matching.ramp_up(e, 20) for e in x["epoch"]])},
    "mst_lr_poly_100": released_rates,
    "mst_adv": lambda x: {
        "d_total": discriminator_loss(x["d_out_full"], x["d_out_missing"]),
        "generator_bce": adversarial_loss(x["d_out_missing"]),
    },
    "paper_mst_eq2_4_headaxis": partial(stored_evd, axis="head"),
    "paper_mst_eq6_8": stored_slkd,
}
FILES = [pytest.param(STORED[k], file, id=file) for k in STORED for file in names_of(k)]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])
@pytest.mark.parametrize(("compute", "file"), FILES)
def test_the_losses_match_the_stored_values(compute, file, dtype):
    """Arrays in float32 are the inputs, or gradients of the first of the values with respect to them."""
    values = reference(file)
    if "headaxis" in file:  # of the same attention
        values |= {k: reference("mst_evd_a")[k] for k in NETWORKS}
    x = {k: torch.from_numpy(v).to(dtype) if v.dtype == np.float32 else v.tolist() for k, v in values.items()}
    slopes_of = {k: x[k.removeprefix("grad_")].requires_grad_() for k in values if k.startswith("grad_")}
    actual = compute(x)
    slopes = torch.autograd.grad(next(iter(actual.values())), slopes_of.values()) if slopes_of else ()
    slopes = [stored_entries(slope, values) for slope in slopes]
    for name, result in (actual | dict(zip(slopes_of, slopes, strict=True))).items():
        expected, tolerance = torch.as_tensor(values[name]), TOLERANCES[torch.float32 if name in slopes_of else dtype]
        assert result.shape == expected.shape
        assert (result - expected).abs().max() <= tolerance * expected.abs().max()


@on_axis
def test_evd_of_attention_times_tokens_does_not_shrink_with_their_number(axis):
    pairs = ((0.3 * random_tensor(2, 1, 4, 2, tokens, tokens)).softmax(-1) for tokens in (8, 120))
    few, many = (of_parts(losses.evd_loss, axis=axis)(*pair).item() for pair in pairs)
    assert many < 1e-4 * few
    assert 1 / 3 < (8**4 * few) / (120**4 * many) < 3


@on_axis
def test_recomputation_changes_neither_value_nor_gradients_of_evd(axis, monkeypatch):
    loss, pair = of_parts(losses.evd_loss, axis=axis), random_tensor(2, 2, 3, 2, 2, 2).requires_grad_()
    recomputed = loss(*pair)
    slopes = torch.autograd.grad(recomputed.sum(), pair)[0]
    assert torch.autograd.gradcheck(lambda leaf: loss(*leaf), pair)
    assert torch.equal(torch.no_grad()(loss)(*pair), recomputed)
    monkeypatch.setattr(recompute, "RECOMPUTES", False)
    assert torch.equal(torch.autograd.grad(loss(*pair).sum(), pair)[0], slopes)


@on_spatial
def test_slkd_knows_neither_scale_nor_shift_of_a_voxels_logits(spatial):
    loss = partial(losses.slkd_loss, tau=TAU)
    (full, missing), (scale, shift) = random_tensor(2, 2, 3, *spatial), random_tensor(2, 2, 1, *spatial, seed=1)
    for pair in ((scale.exp() * full + 100 * shift, missing), (full, scale.exp() * missing + 100 * shift)):
        assert loss(*pair).tolist() == pytest.approx(loss(full, missing).tolist(), rel=1e-5)


@on_outputs
def test_slkd_of_any_number_of_outputs_sees_more_than_their_order(outputs, overlapping):
    """Two logits standardised against each other are 1 and -1, and a single one 0, whatever the network says."""
    teacher = random_tensor(2, outputs, 3, 4)
    pair = torch.stack((teacher, teacher**3)).requires_grad_()
    loss = losses.slkd_loss(*pair, TAU, overlapping=overlapping)
    assert (loss > 1e-3).all()
    assert (torch.autograd.grad(loss.sum(), pair)[0].abs() > 1e-9).all()


@on_outputs
@pytest.mark.parametrize("axis", ["class", "last_spatial"])
@pytest.mark.parametrize("equal", [[0], [1], [0, 1]], ids=["teacher", "student", "both"])
def test_slkd_of_equal_logits_is_finite(outputs, overlapping, axis, equal):
    pair = random_tensor(2, 2, outputs, 3, 4).float()
    pair[equal] = 0.3
    assert_finite(losses.slkd_loss(*pair.requires_grad_(), 7.0, axis, overlapping), pair)


@pytest.mark.parametrize(("changed", "constant"), [*product((slice(None), slice(1)), (0.0, 1e3))])
def test_gram_loss_of_constant_channels_is_finite(changed, constant):
    pair = random_tensor(2, 2, 3, 4, 3, 4).float()
    pair[0, :, :, changed] = pair[1, :, 0, changed] = constant
    assert_finite(of_parts(matching.gram_loss)(*pair.requires_grad_()), pair)


def test_gram_loss_knows_neither_scale_nor_shift_of_a_channel():
    teacher, student = ([random_tensor(2, c, 3, 4, seed=k * c) for c in (2, 3, 4)] for k in (1, 10))
    expected = matching.gram_loss(teacher, student).tolist()
    for part in (*teacher, *student):
        part[:, 1] = 100 * part[:, 1] + 1000
        assert matching.gram_loss(teacher, student).tolist() == pytest.approx(expected, rel=1e-3)


def test_adversarial_losses_of_a_certain_discriminator_are_finite():
    missing = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    assert_finite(discriminator_loss(-missing, missing) + adversarial_loss(missing), missing)


def test_ramp_up_rises_from_its_least_to_one():
    assert [matching.ramp_up(0, 8), matching.ramp_up(1, 2.5)] == pytest.approx([math.exp(-5), math.exp(-1.8)])
    assert matching.ramp_up(0, 0) == matching.ramp_up(5, 0) == matching.ramp_up(8, 8) == matching.ramp_up(3, 2.5) == 1
