"""The terms of an epoch as plain functions; tests/training/test_trainer.py has what a trainer makes of them."""

import math

import pytest
import torch
import torch.distributed as dist

from nnunetv2_missmod.training.terms import require_finite, term_means


def epoch(**terms):
    """Steps as train_step gives them, of each term's values."""
    return [dict(zip(terms, map(torch.tensor, values), strict=True)) for values in zip(*terms.values(), strict=True)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_each_term_is_averaged_over_its_own_finite_steps(bad):
    steps = epoch(loss=[bad, bad, 5.0], seg=[1.0, 2.0, 6.0], style=[bad, 4.0, 2.0])
    assert term_means(steps, is_ddp=False) == {"loss": 5.0, "seg": 3.0, "style": 3.0}


def test_a_term_that_is_never_finite_has_no_mean_and_spoils_no_other():
    means = term_means(epoch(style=[math.nan, math.inf], seg=[1.0, 3.0]), is_ddp=False)
    assert list(means) == ["style", "seg"]
    assert math.isnan(means["style"])
    assert means["seg"] == 2.0


def test_terms_of_different_precision_share_an_epoch():
    steps = [{"seg": torch.tensor(1.0).half(), "style": torch.tensor(2.0), "count": torch.tensor(3)}] * 2
    assert require_finite(steps, 0, is_ddp=False) == ""
    assert term_means(steps, is_ddp=False) == {"seg": 1.0, "style": 2.0, "count": 3.0}


def test_the_mean_is_that_of_all_ranks(monkeypatch):
    others = torch.tensor([6.0, 2.0])
    monkeypatch.setattr(dist, "all_reduce", lambda means, op: means.add_(others if op == dist.ReduceOp.SUM else 0))
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    assert term_means(epoch(seg=[1.0, 3.0], style=[4.0, math.nan]), is_ddp=True) == {"seg": 4.0, "style": 3.0}


def test_every_term_that_was_not_finite_is_named_with_its_own_count():
    nan, inf = math.nan, -math.inf
    steps = epoch(loss=[nan, 1.0, inf, 1.0], seg=[1.0] * 4, style=[nan, 1.0, 1.0, 1.0], gram=[1.0, 1.0, inf, 1.0])
    message = require_finite(steps, 12, is_ddp=False)
    assert "epoch 12" in message
    assert "of 4 steps: {'loss': 2, 'style': 1, 'gram': 1}." in message
    assert message.endswith("skipped.")


@pytest.mark.parametrize(("bad", "steps"), [(1, 1), (2, 3), (3, 4)])
def test_a_single_term_that_is_bad_in_more_than_half_of_the_steps_raises(bad, steps):
    terms = epoch(
        seg=[1.0] * steps, style=[math.nan] * bad + [1.0] * (steps - bad), gram=[math.inf] + [1.0] * (steps - 1)
    )
    with pytest.raises(RuntimeError, match=f"of {steps} steps: {{'style': {bad}, 'gram': 1}}.*initial_lr.*--c resumes"):
        require_finite(terms, 0, is_ddp=False)


def test_terms_that_fail_in_different_steps_are_not_added_up():
    steps = epoch(seg=[math.nan, 1.0], style=[1.0, math.nan])
    assert "{'seg': 1, 'style': 1}" in require_finite(steps, 0, is_ddp=False)


def test_a_rank_stops_when_another_one_must(monkeypatch):
    elsewhere = torch.tensor([0, 3])

    def all_reduce(counts, op):
        assert op == dist.ReduceOp.MAX
        counts.copy_(torch.maximum(counts, elsewhere))

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    with pytest.raises(RuntimeError, match=r"\{'style': 3\}"):
        require_finite(epoch(seg=[1.0] * 5, style=[1.0] * 5), 0, is_ddp=True)
    elsewhere[1] = 0
    assert require_finite(epoch(seg=[1.0] * 5, style=[1.0] * 5), 0, is_ddp=True) == ""
