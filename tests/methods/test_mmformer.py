"""mmFormer's transformers, network and training step: stored values, plain algebra, what reaches what."""

import math

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_values import as_input, assert_close, reference
from small_plans import CONFIGURATION, random_batch, small_dataset_json, small_plans, small_trainer
from torch import nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.transformer import tokens_of
from nnunetv2_missmod.methods.mmformer.network import MmFormerNet
from nnunetv2_missmod.methods.mmformer.trainer import MmFormerTrainer
from nnunetv2_missmod.methods.mmformer.transformers import InterTransformer, IntraTransformers, Size, Transformer
from nnunetv2_missmod.modalities import all_subsets

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")]

K, M, E, GRID = 3, 3, 8, (2, 3)
T = math.prod(GRID)
SIZE = Size(embed_dim=E, num_heads=2, feedforward_dim=12, dropout=0.0)
SMALL = {"embed_dim": 8, "num_heads": 2, "feedforward_dim": 12}
PRESENT = torch.tensor([[True, False, True], [False, False, True]])
on_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def plans_of(modalities=M, dims=2, features=(8, 8, 16), network=None, **options):
    plans = small_plans(modalities, dims, features=features, **options)
    plans["configurations"][CONFIGURATION]["missmod"]["network"] = SMALL | (network or {})
    return plans


def build_network(modalities=M, dims=2, extra_channels=0, features=(8, 8, 16), **network):
    plans = PlansManager(plans_of(modalities, dims, features, network))
    torch.manual_seed(0)
    net = MmFormerNet.from_plans(
        plans, plans.get_configuration(CONFIGURATION), modalities + extra_channels, K, enable_deep_supervision=False
    )
    nn.init.normal_(net.position)
    return net


def architecture(dims, channels):
    plans = PlansManager(small_plans(M, dims, features=(channels, channels)))
    return Architecture.from_configuration(plans.get_configuration(CONFIGURATION))


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(modalities=M, network=None, features=(8, 8, 16), **overrides):
        plans = plans_of(modalities, features=features, network=network, **overrides)
        return small_trainer(MmFormerTrainer, plans, small_dataset_json(modalities), tmp_path, monkeypatch)

    return make


# --- the transformers -------------------------------------------------------------------------------------------------

RELEASED_NAMES = {
    "attention_norm": "cross_attention_list.{}.fn.norm",
    "attention.in_proj": "cross_attention_list.{}.fn.fn.qkv",
    "attention.out_proj": "cross_attention_list.{}.fn.fn.proj",
    "feedforward_norm": "cross_ffn_list.{}.fn.norm",
    "feedforward.0": "cross_ffn_list.{}.fn.fn.net.0",
    "feedforward.2": "cross_ffn_list.{}.fn.fn.net.3",
}


def released_inter(values, dtype):
    """The inter-modal transformer with the stored weights."""
    modalities, _, embed_dim = values["position"].shape
    hidden = len(values["transformer__cross_ffn_list.0.fn.fn.net.0.weight"])
    size = Size(embed_dim, int(values["heads"]), hidden, dropout=0.1)
    inter = InterTransformer(architecture(3, values["bottleneck"].shape[1] // modalities), modalities, size, 1, False)
    weights = {f"join.{name}": values[f"decode__{name}"] for name in ("weight", "bias")}
    for name in inter.transformer.blocks[0].state_dict():
        stem, _, kind = name.replace("in_proj_", "in_proj.").rpartition(".")
        weights[f"transformer.blocks.0.{name}"] = values[f"transformer__{RELEASED_NAMES[stem].format(0)}.{kind}"]
    inter.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return inter.to(dtype).eval()


@on_precision
def test_the_inter_modal_transformer_is_the_released_one(dtype):
    values = reference("mmformer_inter_0")
    inter, present = released_inter(values, dtype), torch.from_numpy(values["present"])
    intra, position = (as_input(values[name], dtype) for name in ("intra", "position"))
    grid = intra.shape[3:]
    out = inter(tokens_of(intra.flatten(0, 1)).unflatten(0, present.shape), position, present, grid)
    assert_close(out, values["bottleneck"], dtype)
    (out * torch.from_numpy(values["probe"]).to(dtype)).sum().backward()
    assert_close(intra.grad, values["grad_intra"], dtype)
    assert_close(position.grad, values["grad_position"], dtype)
    assert_close(inter.transformer.blocks[0].attention.in_proj_weight.grad, values["grad_qkv_weight"], dtype)


def test_the_released_reshape_mixes_voxels_with_modalities():
    """It is stored as well, and is what the card says."""
    values = reference("mmformer_inter_0")
    inter, tokens = released_inter(values, torch.float64), torch.from_numpy(values["tokens_out"])
    grid = values["bottleneck"].shape[2:]
    viewed = tokens.view(len(tokens), *grid, -1).movedim(-1, 1)
    assert_close(inter.join(viewed), values["bottleneck_released_view"], torch.float64)
    assert torch.equal(viewed[:, :16, 0, 0, 1], tokens[:, 4])  # the second voxel has the fifth token of one modality


@pytest.mark.parametrize("dims", [2, 3])
def test_a_voxel_is_joined_from_its_own_tokens(dims):
    grid, tokens = (2, 3, 2)[:dims], drawn(2, M, math.prod((2, 3, 2)[:dims]), E)
    inter = InterTransformer(architecture(dims, E), M, SIZE, 0, False)
    nn.init.zeros_(inter.join.bias)
    with torch.no_grad():
        inter.join.weight.copy_(torch.eye(M * E).view_as(inter.join.weight))
        out = inter(tokens, torch.zeros(M, tokens.shape[2], E), PRESENT, torch.Size(grid))
    for b in range(2):
        for number, voxel in enumerate(torch.cartesian_prod(*map(torch.arange, grid)).tolist()):
            expected = [tokens[b, m, number] if PRESENT[b, m] else torch.zeros(E) for m in range(M)]
            assert torch.equal(out[(b, slice(None), *voxel)], torch.cat(expected))


@pytest.mark.parametrize("layers", [1, 2])
def test_the_position_is_added_before_every_layer(layers):
    torch.manual_seed(0)
    transformer, tokens, position = Transformer(SIZE, layers), drawn(2, T, E), drawn(T, E, seed=1)
    expected = tokens
    for block in transformer.blocks:
        expected, _ = block(expected + position)
    assert torch.equal(transformer(tokens, position), expected)
    names = {name for name, _ in transformer.named_parameters()}
    assert "blocks.0.attention.out_proj.bias" in names
    assert not any("in_proj_bias" in name for name in names)  # q, k and v have none
    assert torch.equal(Transformer(SIZE, 0)(tokens, position), tokens)


@pytest.mark.parametrize("shared", [False, True])
def test_a_modality_s_tokens_see_that_modality_alone(shared):
    torch.manual_seed(0)
    intra = IntraTransformers(architecture(2, 4), M, SIZE, 2, shared)
    maps, position = drawn(2, M, 4, *GRID), drawn(M, T, E, seed=1)
    assert len(intra.transformers) == (1 if shared else M)
    tokens = intra(maps, position)
    assert tokens.shape == (2, M, T, E)
    for m in range(M):
        own = intra.transformers[0 if shared else m]
        expected = own(tokens_of(intra.embeddings[m](maps[:, m])), position[m])
        torch.testing.assert_close(tokens[:, m], expected)
    changed = maps.clone()
    changed[:, 1] = math.nan
    assert torch.equal(intra(changed, position)[:, [0, 2]], tokens[:, [0, 2]])


def inter_with_weights(mask_absent):
    torch.manual_seed(0)
    inter = InterTransformer(architecture(2, E), M, SIZE, 2, mask_absent)
    for parameter in inter.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        inter.join.weight.copy_(torch.eye(M * E).view_as(inter.join.weight))
        inter.join.bias.zero_()
    return inter


def test_masked_tokens_are_as_if_the_absent_modalities_did_not_exist():
    tokens, position = drawn(2, M, T, E), drawn(M, T, E, seed=1)
    for mask_absent in (True, False):
        inter = inter_with_weights(mask_absent)
        out = inter(tokens, position, PRESENT, torch.Size(GRID)).unflatten(1, (M, E))
        for b, present in enumerate(PRESENT):
            alone = inter.transformer(tokens[b : b + 1, present].flatten(1, 2), position[present].flatten(0, 1))
            among_all = tokens_of(out[b, present]).flatten(0, 1)[None]
            assert torch.allclose(among_all, alone, rtol=1e-4, atol=1e-5) == mask_absent


@pytest.mark.parametrize("mask_absent", [False, True])
def test_a_subset_changes_nothing_but_what_its_modalities_say(mask_absent):
    """Two cases that agree in what is present agree bit by bit, and absent tokens get no gradient."""
    inter, position = inter_with_weights(mask_absent), drawn(M, T, E, seed=1)
    tokens, other = drawn(2, M, T, E).requires_grad_(), drawn(2, M, T, E, seed=2)
    mixed = torch.where(PRESENT[:, :, None, None], tokens, other.fill_(math.nan))
    out = inter(tokens, position, PRESENT, torch.Size(GRID))
    assert torch.equal(inter(mixed, position, PRESENT, torch.Size(GRID)), out)
    out.square().sum().backward()
    assert torch.equal(tokens.grad.abs().sum((2, 3)) > 0, PRESENT)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [{}, {"share_intra": True, "mask_absent_tokens": True}], ids=["released", "ours"])
@pytest.mark.parametrize(("dims", "patch"), [(2, (16, 16)), (2, (24, 16)), (3, (8, 16, 8))])
def test_forward_subsets_encodes_once_and_is_forward_of_every_subset(dims, patch, network):
    """On the plan's grid of tokens and on others, to which the position is resized."""
    net, presents, calls = build_network(dims=dims, **network).eval(), all_subsets(M), []
    for part in (*net.encoders, net.intra):
        part.register_forward_hook(lambda *_: calls.append(1))
    images = drawn(2, M, *patch)
    with torch.no_grad():
        logits = net.forward_subsets(images, presents)
        assert len(calls) == M + 1
        for subset, present in zip(logits, presents, strict=True):
            torch.testing.assert_close(subset, net(images, present.expand(2, -1)), rtol=1e-4, atol=1e-4)
    assert logits.shape == (len(presents), 2, K, *patch)
    assert all(not torch.equal(logits[s], logits[r]) for s in range(len(presents)) for r in range(s))


def test_the_network_is_what_the_card_says():
    net, images = build_network(dropout=0.0), drawn(2, M, 16, 16)
    encoded = [encoder(images[:, m : m + 1]) for m, encoder in enumerate(net.encoders)]
    levels = [torch.stack(maps, 1) for maps in zip(*encoded, strict=True)]
    position = net.position.flatten(2).transpose(1, 2)
    joined = net.inter(net.intra(levels[-1], position), position, PRESENT, levels[-1].shape[3:])
    seen = [torch.where(PRESENT[:, :, None, None, None], maps, 0).flatten(1, 2) for maps in levels[:-1]]
    fused = [fuse(maps) for fuse, maps in zip(net.fusions, [*seen, joined], strict=True)]
    out = net(images, PRESENT)
    torch.testing.assert_close(out.logits, net.decoder(fused))
    torch.testing.assert_close(net.eval()(images, PRESENT), out.logits)
    alone = net.separate_decoder([maps[1] for maps in levels])  # the second sample's modalities
    torch.testing.assert_close(out.separate_logits[M:], alone, rtol=1e-4, atol=1e-4)


def test_what_each_part_is_made_of():
    net = build_network(4, 3, embed_dim=16, num_heads=4, feedforward_dim=24)
    assert [len(net.encoders), len(net.intra.transformers), len(net.intra.transformers[0].blocks)] == [4, 4, 1]
    assert net.position.shape == (4, 16, 4, 4, 4)
    assert net.inter.join.weight.shape[:2] == (4 * 8, 4 * 16)  # bottleneck of 16 / sqrt(4) channels
    assert len(build_network(4, share_intra=True).intra.transformers) == 1
    fresh = MmFormerNet.constants()
    assert (fresh["embed_dim"], fresh["num_heads"], fresh["feedforward_dim"], fresh["dropout"]) == (512, 8, 4096, 0.1)


@pytest.mark.parametrize(("token_level", "grid", "outputs"), [(-1, 2, 3), (3, 2, 3), (2, 4, 2)])
def test_the_network_ends_at_the_level_of_its_tokens(token_level, grid, outputs, make_trainer):
    trainer = make_trainer(features=(8, 8, 16, 16), network={"token_level": token_level})
    assert trainer.network.position.shape[2:] == (grid, grid)
    assert len(trainer.deep_supervision_scales()) == outputs
    trainer.network.train()
    terms = trainer.train_step(random_batch(trainer))
    assert all(term.isfinite() for term in terms.values())
    trainer.set_deep_supervision_enabled(False)
    assert trainer.network.eval()(drawn(1, M, 32, 16)).shape == (1, K, 32, 16)
    trainer.enable_deep_supervision = False
    assert trainer.deep_supervision_scales() is None


def test_dropout_is_of_training_alone():
    images, present = drawn(2, M, 16, 16), torch.ones(2, M, dtype=torch.bool)
    for dropout in (0.0, 0.5):
        net = build_network(dropout=dropout)
        first, second = net(images, present), net(images, present)
        assert torch.equal(first.logits, second.logits) == (dropout == 0)
        assert torch.equal(first.separate_logits, second.separate_logits)
        net.eval()
        assert torch.equal(net(images, present), net(images, present))


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        ({"embed_dim": 9}, "Expected embed_dim a multiple of num_heads, got 9 channels and 2 heads"),
        ({"num_heads": 0}, "got 8 channels and 0 heads"),
        ({"intra_layers": -1}, "intra_layers = -1; expected a finite number of 0 or more"),
        ({"dropout": 1.0}, "Expected dropout from 0 to below 1, got 1.0"),
        ({"token_level": 3}, "Expected token_level from 2 to 2, the plan's coarsest, or -1 for that, got 3"),
        ({"token_level": 1}, "got 1"),
    ],
)
def test_a_network_that_cannot_be_is_refused(network, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_network(**network)


def test_a_cascade_is_refused():
    with pytest.raises(NotImplementedError, match=r"cascade: mmFormer has.*ModalityDropoutTrainer"):
        build_network(extra_channels=2)


# --- the training step ------------------------------------------------------------------------------------------------


def loss_terms(trainer):
    """The terms of one step, its draws always the same."""
    trainer.generator.manual_seed(0)
    torch.manual_seed(0)
    return trainer.training_loss(trainer.prepare_batch(random_batch(trainer)))


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_a_step_has_the_weighted_losses_of_the_network_s_output(weight, make_trainer):
    trainer = make_trainer(separate_weight=weight)
    terms, batch = loss_terms(trainer), trainer.prepare_batch(random_batch(trainer))
    trainer.generator.manual_seed(0)
    torch.manual_seed(0)
    out = trainer.network(batch.images, trainer.draw_subset(batch.available))
    each = [[level[m::M] for level in out.separate_logits] for m in range(M)]
    expected = {
        "segmentation": trainer.loss(out.logits, batch.target),
        "separate": weight * sum(trainer.loss(levels, batch.target) for levels in each),
    }
    assert tuple(terms) == tuple(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_transformers_learn_from_the_fused_path_alone(make_trainer):
    trainer = make_trainer()
    loss_terms(trainer)["separate"].backward()
    reached = {name for name, p in trainer.network.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in reached} == {"encoders", "separate_decoder"}
    loss_terms(trainer)["segmentation"].backward()
    assert trainer.network.position.grad.abs().sum() > 0


@pytest.mark.parametrize("layers", [{"intra_layers": 0}, {"inter_layers": 0}, {"intra_layers": 0, "inter_layers": 0}])
def test_without_transformers_every_parameter_still_learns(layers, make_trainer):
    trainer = make_trainer(network=layers)
    sum(loss_terms(trainer).values()).backward()
    unreached = [n for n, p in trainer.network.named_parameters() if p.requires_grad and p.grad is None]
    assert all(".seg_layers.0." in name for name in unreached)  # nnU-Net gives the coarsest head no weight


def test_the_drawn_subset_acts_behind_the_encoders_alone(make_trainer):
    trainer, found = make_trainer(), []
    for garbage in (1.0, math.nan):
        batch = trainer.prepare_batch(random_batch(trainer))
        batch.images[:, 1] *= garbage
        torch.manual_seed(0)
        out = trainer.network(batch.images, torch.tensor([[True, False, True]] * 2))
        found.append((out.logits[0], out.separate_logits[0]))
    (logits, separate), (other_logits, other_separate) = found
    assert torch.equal(logits, other_logits)
    assert torch.equal(separate[0::M], other_separate[0::M])
    assert other_separate[1::M].isnan().all()


def test_one_modality_trains_too(make_trainer):
    trainer = make_trainer(1)
    terms = trainer.train_step(random_batch(trainer))
    assert all(term.isfinite() for term in terms.values())
