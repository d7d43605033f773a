"""RFNet's fusion and terms against what its released code gives."""

import pytest
import torch
import torch.nn.functional as F
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_values import TOLERANCES, as_input, assert_close, reference, stored_entries
from small_plans import CONFIGURATION, small_plans
from torch import nn

from nnunetv2_missmod.building_blocks.architecture import Architecture
from nnunetv2_missmod.building_blocks.per_modality import separate_loss
from nnunetv2_missmod.building_blocks.region_fusion import RegionAwareFusion, region_loss

SINGLE = torch.float32  # what the inputs are stored in
M, CHANNELS, K = 4, 8, 4


def build_fusion(level, num_classes=K):
    """A fusion with the released convolutions: reflected borders, no affine norm, slope 0.2."""
    plans = small_plans(M, features=(CHANNELS,) * 3)
    arguments = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    arguments |= {"norm_op_kwargs": {"eps": 1e-5, "affine": False}, "nonlin_kwargs": {"negative_slope": 0.2}}
    architecture = Architecture.from_configuration(PlansManager(plans).get_configuration(CONFIGURATION))
    fusion = RegionAwareFusion(architecture, level, M, num_classes, False, "full").double()
    for conv in (module for module in fusion.modules() if isinstance(module, nn.Conv3d)):
        conv.padding_mode = "reflect"
    return fusion


def load(convs, values, part):
    """Give a chain of convolutions the released weights."""
    with torch.no_grad():
        for number, step in enumerate(convs):
            conv, name = (step, f"{part}__{number}") if isinstance(step, nn.Conv3d) else (step.conv, "")
            name = name or f"{part}__{number}__conv"
            conv.weight.copy_(torch.from_numpy(values[f"{name}__weight"]))
            conv.bias.copy_(torch.from_numpy(values[f"{name}__bias"]))


def masked(values):
    return torch.from_numpy(values["maps"] * values["present"][..., None, None, None, None]).double()


def test_modalities_are_weighed_in_each_region():
    """In two of the regions, whose nets know nothing of the others."""
    values, fusion = reference("rfnet_rfm_0"), build_fusion(level=2, num_classes=2)
    layers = (fusion.weights[0], "hidden"), (fusion.weights[2], "out")
    with torch.no_grad():
        for layer, name in layers:
            layer.weight.copy_(torch.from_numpy(values[f"{name}_weight"]).flatten(0, 1)[..., None])
            layer.bias.copy_(torch.from_numpy(values[f"{name}_bias"]).flatten())
    fused = fusion.fuse(masked(values), torch.from_numpy(values["regions"][:, :2]).double())
    assert_close(fused, values["region_fused"][:, :2], SINGLE)


def test_the_fused_regions_are_merged_beside_a_shortcut():
    values, fusion = reference("rfnet_rfm_0"), build_fusion(level=2)
    load(fusion.merge, values, "merge")
    load(fusion.shortcut, values, "shortcut")
    fused, maps = torch.from_numpy(values["region_fused"]).double(), masked(values)
    out = torch.cat((fusion.merge(fused.flatten(1, 2)), fusion.shortcut(maps.flatten(1, 2))), 1)
    assert_close(out, values["out"], SINGLE)


@pytest.mark.parametrize(("part", "level"), [("bottleneck", 2), ("finer", 1)])
def test_region_maps_are_the_released_probabilities(part, level):
    values, fusion = reference("rfnet_prm_0"), build_fusion(level)
    load(fusion.embedding, values, f"{part}__embedding_layer")
    load(fusion.region_maps, values, f"{part}__prm_layer")
    if part == "finer":  # the released code has the decoder's feature first
        weight = fusion.region_maps[0].conv.weight
        weight.data = weight.roll(CHANNELS, 1)
    maps, coarser = masked(values).requires_grad_(), as_input(values["coarser"], torch.float64)
    logits = fusion.region_logits(maps.flatten(1, 2), None if part == "bottleneck" else coarser)
    probabilities = fusion.probabilities(logits)
    assert_close(probabilities, values["prob_bottleneck" if part == "bottleneck" else "prob"], SINGLE)
    if part == "finer":
        (probabilities * torch.from_numpy(values["probe"])).sum().backward()
        slopes = maps.grad * torch.from_numpy(values["present"])[..., None, None, None, None]
        assert_close(stored_entries(slopes, values), values["grad_maps"], SINGLE)
        assert_close(stored_entries(coarser.grad, values), values["grad_coarser"], SINGLE)


def released_loss(probabilities, onehot):
    """Weighted cross entropy and Dice over the whole batch."""
    axes = tuple(range(2, onehot.ndim))
    weights = 1 - onehot.mean(axes, keepdim=True)
    wce = -(weights * onehot * probabilities.clamp(0.005, 1).log()).sum(1).mean()
    overlap = (probabilities * onehot).sum((0, *axes))
    sizes = (probabilities + onehot).sum((0, *axes))
    return wce + 1 - (2 * overlap / (sizes + 1e-7)).mean()


def test_the_terms_are_the_released_ones_but_for_where_region_maps_are_compared():
    """L_prm here weighs levels and leaves maps at their size; a map that is enlarged has its released loss."""
    values, separate = reference("rfnet_total_0"), reference("rfnet_separate_0")["separate_logits"]
    onehot = torch.from_numpy(values["onehot"]).double()

    def loss(logits, target):
        return released_loss(logits.softmax(1), target)

    fuse = loss(torch.from_numpy(values["logits"]).double(), onehot)
    assert fuse.item() == pytest.approx(values["fuse_wce"] + values["fuse_dice"], rel=TOLERANCES[SINGLE])
    each_alone = torch.from_numpy(separate).double().transpose(0, 1).flatten(0, 1)
    source = torch.arange(M).expand(len(onehot), -1)
    regions = 0.0
    for level in range(4):
        maps = torch.from_numpy(values[f"region_logits_{level}"]).double().softmax(1)
        enlarged = F.interpolate(maps, onehot.shape[2:], mode="trilinear", align_corners=True).log()
        regions += region_loss(loss, [enlarged], onehot)
    assert regions.item() == pytest.approx(values["region_wce"] + values["region_dice"], rel=TOLERANCES[SINGLE])
    without_fusion = separate_loss(loss, each_alone, source, onehot) + regions
    assert without_fusion.item() == pytest.approx(float(values["total_warm_up"]), rel=TOLERANCES[SINGLE])
    assert (without_fusion + fuse).item() == pytest.approx(float(values["total"]), rel=TOLERANCES[SINGLE])
