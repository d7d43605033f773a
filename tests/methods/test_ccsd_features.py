"""Table 4 of CCSD: DMCD distils fused, shared or specific features."""

import math

import pytest
import torch
from small_ccsd import FULL, ONE_EACH, PARTIAL, ccsd_maker, plain_divergence, prepared, segmenting, terms_of

from nnunetv2_missmod.building_blocks.network import unwrapped

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

FEATURES = ("fused", "shared", "specific")


@pytest.fixture
def make(tmp_path, monkeypatch):
    return ccsd_maker(tmp_path, monkeypatch)


def features_of(trainer, image):
    """Each kind's features of one sample (M, *patch), and of zeros: (M, C, *spatial)."""
    net, zeros = trainer.network, torch.zeros(1, 1, *image.shape[1:])
    found = []
    for images in (image[:, None], zeros.expand(len(image), *zeros.shape[1:])):
        shared = net.shared_encoder(images)[-1]
        specific = torch.cat([e(i[None])[-1] for e, i in zip(net.specific_encoders, images, strict=True)])
        fused = net.composition(torch.cat((shared, specific), 1))
        found.append({"fused": fused, "shared": shared, "specific": specific})
    return found


@pytest.mark.parametrize("substitute", ["zero_input", "mean_available"])
@pytest.mark.parametrize("features", FEATURES)
def test_z_holds_the_features_that_the_setting_names(features, substitute, make):
    """An absent slot holds its features of zeros: E_shared(0) for fused and shared ones, E_spec^m(0) for specific."""
    trainer = segmenting(make(dmcd_features=features, network={"substitute": substitute}), ONE_EACH)
    batch = prepared(trainer, (FULL, PARTIAL))
    term = terms_of(trainer, batch)["dmcd"]
    states = trainer.path(trainer.network(batch.images, batch.available), None, batch)
    total = 0.0
    for b in range(2):
        with torch.no_grad():
            own, of_zeros = features_of(trainer, batch.images[b])
        averaged = "specific" if features == "specific" else "shared"

        def assembled(left, own=own, of_zeros=of_zeros, averaged=averaged):
            mean = own[averaged][left].mean(0)
            absent = of_zeros[averaged] if substitute == "zero_input" else mean.expand_as(own[averaged])
            return torch.cat([(own[features] if left[m] else absent)[m] for m in range(3)]).double()

        steps = [(a, z) for a, z in zip(states[b, :-1], states[b, 1:], strict=True) if a.sum() > 1]
        assert len(steps) == (2, 1)[b]
        total += sum(plain_divergence(assembled(before), assembled(after), 1.0) for before, after in steps)
    assert term.item() == pytest.approx(total / 2, rel=1e-3)


def test_the_three_differ(make):
    terms = [terms_of(t := segmenting(make(dmcd_features=name), ONE_EACH), prepared(t)) for name in FEATURES]
    assert len({round(of["dmcd"].item(), 6) for of in terms}) == 3
    for other in terms[1:]:
        torch.testing.assert_close(other["segmentation"], terms[0]["segmentation"])
        torch.testing.assert_close(other["hmsd"], terms[0]["hmsd"], rtol=1e-3, atol=1e-6)


def taught(trainer, term):
    """Which encoders and whether the composition learn from a term."""
    net = trainer.network
    parts = {"shared": net.shared_encoder, "specific": net.specific_encoders, "fused": net.composition}
    found = set()
    for name, part in parts.items():
        slopes = torch.autograd.grad(term, list(part.parameters()), retain_graph=True, allow_unused=True)
        found |= {name for slope in slopes if slope is not None and slope.abs().max() > 0}
    return found


@pytest.mark.parametrize(
    ("features", "expected"), [("fused", set(FEATURES)), ("shared", {"shared"}), ("specific", {"specific"})]
)
def test_dmcd_teaches_the_encoders_of_its_features(features, expected, make):
    trainer = segmenting(make(dmcd_features=features), ONE_EACH)
    assert taught(trainer, terms_of(trainer, prepared(trainer))["dmcd"]) == expected


@pytest.mark.parametrize(("features", "weight"), [("fused", 1.0), ("shared", 1.0), ("specific", 0.0)])
def test_specific_features_are_held_only_where_they_are_distilled(features, weight, make):
    trainer = segmenting(make(dmcd_features=features, dmcd_weight=weight), ONE_EACH)
    outputs, encoded = [], []
    trainer.network.register_forward_hook(lambda _, __, out: outputs.append(out))
    trainer.network.specific_encoders[0].register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    terms_of(trainer, prepared(trainer))
    assert outputs[0].specific is None
    assert encoded == [2]


@pytest.mark.parametrize("features", FEATURES)
def test_what_is_not_available_reaches_no_features(features, make):
    results = []
    for garbage in (0.0, 1e3):
        trainer = segmenting(make(dmcd_features=features), ONE_EACH)
        batch = prepared(trainer, (PARTIAL, FULL))
        batch.images[0, 1] = garbage
        results.append(terms_of(trainer, batch)["dmcd"].item())
    assert results[0] == results[1]
    assert math.isfinite(results[0])


@pytest.mark.parametrize("features", FEATURES)
def test_the_path_follows_the_fused_features(features, make):
    trainer = make(dmcd_features=features)
    batch = prepared(trainer)
    out = unwrapped(trainer.network)(batch.images, batch.available)
    states = trainer.path(out, None, batch)
    fused = out.fused.flatten(2)
    unit = fused / fused.norm(dim=2, keepdim=True)
    assert (states[:, 0] & ~states[:, 1]).long().argmax(1).tolist() == (-(unit @ unit.mT).sum(2)).argmax(1).tolist()


def test_another_word_is_an_error(make):
    with pytest.raises(ValueError, match="dmcd_features to be one of fused, shared, specific, got 'mixed'"):
        make(dmcd_features="mixed")
