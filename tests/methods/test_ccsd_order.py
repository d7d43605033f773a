"""What CCSD logs of the order of removal: shares, and how far the criticality scores lie apart, against their noise."""

import math
from statistics import fmean, stdev

import pytest
import torch
from small_ccsd import FULL, PARTIAL, ccsd_maker
from small_plans import random_batch

from nnunetv2_missmod.methods.ccsd.order import RemovalOrder, Spread, shares_of_mean

CPU = torch.device("cpu")


def random_scores(samples, means, std, seed=0):
    noise = torch.randn(samples, len(means), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(means) + std * noise


def order_of(*parts, modalities=3):
    order = RemovalOrder(modalities, CPU)
    for scores, available in parts:
        order.add_scores(scores, available)
    return order


def plain_spread(scores):
    """Of every sample's scores (dicts by modality) minus their mean."""
    centred = [{m: v - fmean(sample.values()) for m, v in sample.items()} for sample in scores if len(sample) > 1]
    of_modality = [[sample[m] for sample in centred if m in sample] for m in sorted({m for s in centred for m in s})]
    errors = [stdev(values) / math.sqrt(len(values)) for values in of_modality]
    noise = math.sqrt(sum(e**2 for e in errors) / (len(errors) - 1))
    return stdev([fmean(values) for values in of_modality]), noise


def test_the_spread_is_that_of_the_formula_over_steps_and_incomplete_cases():
    scores = random_scores(20, (0.1, 0.0, -0.2), 0.3)
    available = torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    samples = [{m: row[m].item() for m in range(3) if a[m]} for row, a in zip(scores, available, strict=True)]
    assert {len(sample) for sample in samples} == {1, 2, 3}
    scores[~available] = math.nan  # of no meaning
    order = order_of((scores[:7], available[:7]), (scores[7:], available[7:]))
    between, noise = plain_spread(samples)
    assert order.spread().between == pytest.approx(between, rel=1e-4)
    assert order.spread().noise == pytest.approx(noise, rel=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_scores_that_differ_by_chance_are_noise_and_those_that_differ_are_not(seed):
    everything = torch.ones(300, 4, dtype=torch.bool)
    by_chance = random_scores(300, (-0.1,) * 4, 0.03, seed)
    apart = random_scores(300, (-0.1, -0.12, -0.08, -0.1), 0.03, seed)
    assert order_of((by_chance, everything), modalities=4).spread().is_noise
    assert not order_of((apart, everything), modalities=4).spread().is_noise


def test_what_all_scores_of_a_sample_share_is_no_noise():
    """Samples differ by far more than modalities do; the order within each is the same."""
    scores = random_scores(50, (0.02, 0.0, -0.02), 0.005) + 10 * torch.randn(50, 1)
    assert not order_of((scores, torch.ones(50, 3, dtype=torch.bool))).spread().is_noise


def test_two_modalities_tie_and_so_have_no_order():
    scores = torch.randn(30, 1).expand(-1, 2)
    assert order_of((scores, torch.ones(30, 2, dtype=torch.bool)), modalities=2).spread().is_noise


def test_a_sample_whose_scores_overflowed_is_left_out():
    scores, everything = random_scores(9, (0.3, 0.0, -0.1), 0.1), torch.ones(9, 3, dtype=torch.bool)
    expected = order_of((scores[:7], everything[:7])).spread()
    scores[7, 1], scores[8, 2] = math.inf, math.nan
    assert order_of((scores, everything)).spread() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("samples", [0, 1])
def test_no_spread_without_two_scores_of_two_modalities(samples):
    parts = (random_scores(samples, (1.0, 0.0, -1.0), 0.1), torch.ones(samples, 3, dtype=torch.bool))
    assert order_of(parts).spread() is None


def test_norms_of_gradients_are_compared_whatever_their_scale():
    norms, available = torch.tensor([[2.0, 4.0, 9.0], [0.0, 0.0, 0.0]]), torch.tensor([[True, True, False], [True] * 3])
    shares = shares_of_mean(norms, available)
    torch.testing.assert_close(shares[0], torch.tensor([2 / 3, 4 / 3, 0.0]))
    torch.testing.assert_close(shares_of_mean(65536 * norms, available), shares, equal_nan=True)
    order = order_of((shares, available))
    assert order.scores[0].tolist() == [1, 1, 0]


def test_the_message_names_both_sizes():
    assert str(Spread(0.0123, 0.00841)) == "the modalities' mean criticality spreads by 0.012, by chance by up to 0.017"


# --- in a training ----------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path, monkeypatch):
    return ccsd_maker(tmp_path, monkeypatch)


def epoch_of(trainer, steps=3, available=(FULL, FULL)):
    """The log's lines and the metrics of one epoch."""
    lines = []
    trainer.print_to_log_file = lambda *words, **_: lines.append(" ".join(map(str, words)))
    trainer.available_in_case |= dict(zip("ab", available, strict=True))
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(random_batch(trainer, seed=seed)) for seed in range(steps)]
    return trainer, lines, outputs


def logged(trainer, lines, outputs):
    trainer.on_train_epoch_end(outputs)
    rows = {name: float(value) for _, name, value in trainer.epoch_log.rows()}
    return [line for line in lines if line.startswith("removed first")], rows


def in_training(test):
    """Mark a test that takes steps, on images so small that they are saved without nnU-Net's chunk sizes."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")(test))


@in_training
@pytest.mark.parametrize("criticality", ["cosine", "gradient"])
@pytest.mark.parametrize(("far", "says"), [(0.0, "in no order that can be told from chance"), (9.0, "{'mod0': ")])
def test_the_log_gives_the_shares_only_of_an_order(criticality, far, says, make):
    trainer, lines, outputs = epoch_of(make(criticality=criticality), available=(FULL, PARTIAL))
    assert trainer.order.scores[0].tolist() == [6, 3, 6]
    everything = torch.ones(100, 3, dtype=torch.bool)
    trainer.order.clear()
    trainer.order.first += 2
    trainer.order.add_scores(random_scores(100, (far, 0.0, -far), 0.1), everything)
    spread = trainer.order.spread()
    message, rows = logged(trainer, lines, outputs)
    assert len(message) == 1
    assert says in message[0]
    assert rows["criticality/spread"] == pytest.approx(spread.between, rel=1e-4)
    assert rows["criticality/noise"] == pytest.approx(spread.noise, rel=1e-4)
    assert sum(value for name, value in rows.items() if name.startswith("removed_first/")) == pytest.approx(1, abs=1e-4)


@in_training
def test_a_random_path_has_no_criticality(make):
    message, rows = logged(*epoch_of(make(path_order="random")))
    assert message[0].startswith("removed first {")
    assert not [name for name in rows if name.startswith("criticality")]


@in_training
def test_the_scores_are_those_of_the_path_whatever_its_direction(make):
    most, least = (epoch_of(make(path_order=order), steps=1)[0].order.scores for order in ("max", "min"))
    torch.testing.assert_close(most, least)
    assert most[2].sum() > 0
