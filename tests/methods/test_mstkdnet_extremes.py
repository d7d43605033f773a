"""MST-KDNet's terms of extreme inputs: attention of any peak, and students that see no inside or no outside."""

import pytest
import torch

from nnunetv2_missmod.methods.mstkdnet import losses

TAPS, TOKENS, TAU = 4, 42, 7.0
STDS = (0.0, 1.0, 6.0, 10.0, 60.0)  # of the logits of attention: from uniform to one token alone


def attention(std, seed):
    """A of each tap, of two samples and three heads."""
    logits = torch.randn(TAPS, 2, 3, TOKENS, TOKENS, generator=torch.Generator().manual_seed(seed))
    return (std * logits).softmax(-1)


@pytest.mark.parametrize("of_student", STDS)
@pytest.mark.parametrize("of_teacher", STDS)
@pytest.mark.parametrize("axis", ["layer", "head"])
def test_relative_evd_stays_below_the_number_of_taps_however_attention_peaks(axis, of_teacher, of_student):
    teacher, student = attention(of_teacher, 0), attention(of_student, 1).requires_grad_()
    loss = losses.evd_loss(teacher.unbind(), student.unbind(), axis, relative=True)
    assert (loss < TAPS).all()
    assert (loss > 0.01).all() or of_teacher == of_student == 0
    assert torch.autograd.grad(loss.sum(), student)[0].isfinite().all()


def test_relative_evd_of_nearly_uniform_attention_is_a_sixth_of_t4_times_the_raw_value():
    pair = [attention(0.01, seed).unbind() for seed in (0, 1)]
    raw, shares = losses.evd_loss(*pair), losses.evd_loss(*pair, relative=True)
    assert (TOKENS**4 / 6 * raw / shares).tolist() == pytest.approx([1, 1], rel=0.1)


def test_relative_evd_keeps_the_balance_of_the_three_products():
    """Between the raw errors of two students, and between their shares, is the same factor."""
    teacher = attention(6.0, 0)[:1].unbind()
    near, far = (torch.lerp(teacher[0], attention(6.0, 1)[0], weight) for weight in (1e-4, 1e-3))
    raw, shares = ([losses.evd_loss(teacher, [s], "head", r) for s in (near, far)] for r in (False, True))
    assert (raw[1] / raw[0]).tolist() == pytest.approx((shares[1] / shares[0]).tolist(), rel=0.01)


def signed_distances(spatial):
    """How far inside each of three nested regions a voxel is, (1, 3, *spatial)."""
    axes = torch.meshgrid(*(torch.arange(n) - n // 2 for n in spatial), indexing="ij")
    distance = torch.stack(axes).square().sum(0).sqrt()
    return torch.stack([radius - distance for radius in (3.3, 2.2, 1.1)])[None]


def teacher_of_regions(spatial):
    """Logits of the regions, certain and right: 6 inside, -6 outside."""
    return 6 * signed_distances(spatial).sign()


STUDENTS = {
    "all tumour": (lambda spatial: torch.full((1, 3, *spatial), 6.0), 1.0),
    "all background": (lambda spatial: torch.full((1, 3, *spatial), -6.0), 1.0),
    "nothing yet": (lambda spatial: torch.zeros(1, 3, *spatial), 1.0),
    "the inverse": (lambda spatial: -signed_distances(spatial), 0.1),
}


@pytest.mark.parametrize(("student", "least"), STUDENTS.values(), ids=STUDENTS)
@pytest.mark.parametrize("spatial", [(12, 10), (8, 9, 10)], ids=["2D", "3D"])
def test_slkd_of_regions_tells_inside_from_outside(student, least, spatial):
    """The gradient raises a region's logits inside it, against outside; about as much as a cross-entropy's."""
    teacher, logits = teacher_of_regions(spatial), student(spatial).requires_grad_()
    loss = losses.slkd_loss(teacher, logits, TAU, overlapping=True)
    assert 0.3 < loss.item() < 2
    gradient = torch.autograd.grad(loss.sum(), logits)[0] * teacher[0, 0].numel()
    assert gradient[teacher > 0].mean() < -least
    assert gradient[teacher < 0].mean() > 0.05 * least
    assert gradient.abs().max() < 100


@pytest.mark.parametrize("spatial", [(12, 10), (8, 9, 10)], ids=["2D", "3D"])
def test_slkd_of_regions_is_highest_for_the_teachers_opposite(spatial):
    """Where z-scores are each other's negatives the loss turns, so that its gradient is small, but not nothing."""
    teacher = teacher_of_regions(spatial)
    logits = (-teacher).requires_grad_()
    loss = losses.slkd_loss(teacher, logits, TAU, overlapping=True)
    assert loss > 3 * losses.slkd_loss(teacher, torch.full_like(teacher, 6.0), TAU, overlapping=True)
    gradient = torch.autograd.grad(loss.sum(), logits)[0] * teacher[0, 0].numel()
    assert gradient[teacher > 0].mean() < -1e-4
    assert gradient[teacher < 0].mean() > 1e-5


def test_slkd_of_regions_is_zero_for_the_teachers_own_logits_in_another_unit():
    teacher = teacher_of_regions((8, 9, 10))
    scale, shift = (torch.tensor(values).view(1, 3, 1, 1, 1) for values in ((0.5, 1.0, 2.0), (3.0, 0.0, -1.0)))
    assert losses.slkd_loss(teacher, scale * teacher + shift, TAU, overlapping=True).item() < 1e-3


@pytest.mark.parametrize("std", [0.0, 1e-8, 1e-4, 1e-2, 1.0])
def test_slkd_of_regions_has_a_bounded_gradient_for_students_that_hardly_vary(std):
    """A z-score with the eps of Eq. 6 would have 1e7 of it."""
    teacher = teacher_of_regions((8, 9, 10))
    noise = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0))
    logits = (3.0 + std * noise).requires_grad_()
    loss = losses.slkd_loss(teacher, logits, TAU, overlapping=True)
    assert torch.autograd.grad(loss.sum(), logits)[0].abs().max() * teacher[0, 0].numel() < 100
