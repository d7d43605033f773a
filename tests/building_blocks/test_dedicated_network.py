"""The base of networks for one subset of the modalities."""

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_plans import CONFIGURATION, small_plans
from torch import nn

from nnunetv2_missmod.building_blocks.dedicated import DedicatedNetwork
from nnunetv2_missmod.building_blocks.network import MissingModalityNetwork


class Calls(nn.Module):
    """Counts how often it is called."""

    count = 0

    def forward(self, chosen):
        self.count += 1
        return chosen.sum(1, keepdim=True)


class Sum(DedicatedNetwork):
    """Sums what it gets to see."""

    def __init__(self, spec, *, subset=None):
        super().__init__(spec, subset=subset)
        self.body = Calls()

    def forward(self, images, present=None):
        return self.body(self.select(images, present))


def build(subset, modalities=3, extra=0):
    manager = PlansManager(small_plans(modalities, features=(8, 8)))
    configuration = manager.get_configuration(CONFIGURATION)
    return Sum.from_plans(manager, configuration, modalities + extra, 3, False, {"subset": subset})


@pytest.mark.parametrize("subset", [[2, 0], (0, 2)])
def test_the_subset_is_known_in_the_order_of_the_channels(subset):
    assert build(subset).subset == (0, 2)
    assert MissingModalityNetwork.subset == ()


@pytest.mark.parametrize("subset", [None, [], 1, [3], [-1], [0, 0], [True], [1.0], ["0"], {0: 1}])
def test_what_is_no_subset_is_refused_with_the_way_out(subset):
    with pytest.raises(ValueError, match=r"of 0 to 2, each once, got .*missmod plan --subset"):
        build(subset)


def test_a_cascade_is_refused():
    with pytest.raises(NotImplementedError, match="a network for one subset does not look at a previous stage"):
        build([0], extra=1)


def test_what_is_present_of_the_subset_is_selected():
    images = torch.arange(12.0).reshape(2, 3, 2)
    present = torch.tensor([[True, True, True], [True, True, False]])
    expected = torch.tensor([[[0.0, 1], [4, 5]], [[6, 7], [0, 0]]])
    net = build([0, 2])
    assert torch.equal(net.select(images, present), expected)
    images[1, 2] = 9
    assert torch.equal(net.select(images, None), expected)


@pytest.mark.parametrize("present", [None, torch.tensor([[True, False, True]])])
def test_nothing_outside_the_subset_counts(present):
    net, images = build([2]), torch.randn(1, 3, 4)
    for image in (images[:, 2:], torch.zeros(1, 1, 4), torch.full((1, 1, 4), 7.0)):
        images[:, 2:] = image
        expected = net(images, present)
        for other in (float("nan"), 0, 5, torch.randn(1, 2, 4)):
            changed = images.clone()
            changed[:, :2] = other
            assert torch.equal(net(changed, present), expected)


def test_subsets_that_agree_within_it_are_predicted_once():
    net, images = build([0, 2]), torch.randn(2, 3, 4)
    presents = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)
    found = net.forward_subsets(images, presents)
    assert net.body.count == 3
    assert torch.equal(found, torch.stack([net(images, present.expand(2, -1)) for present in presents]))
