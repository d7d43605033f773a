"""The bytes that are alive on meta, against sums by hand."""

import torch
from torch import nn

from nnunetv2_missmod.planning.live_memory import LiveMemory

FLOAT = 4


def meta(*shape, **options):
    return torch.empty(*shape, device="meta", **options)


def test_weights_input_and_output_of_a_layer_are_counted_until_they_go():
    with LiveMemory() as memory:
        layer = nn.Linear(3, 5, bias=False, device="meta")
        images = meta(7, 3)
        assert memory.now == FLOAT * (15 + 21)
        out = layer(images)
        assert memory.now == memory.peak == FLOAT * (15 + 21 + 35)
        del out
        assert memory.now == FLOAT * (15 + 21)
        assert memory.peak == FLOAT * (15 + 21 + 35)


def test_a_step_leaves_gradients_and_the_optimizer_s_states():
    with LiveMemory() as memory:
        layer = nn.Linear(3, 5, bias=False, device="meta")
        optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
        layer(meta(7, 3)).sum().backward()
        assert memory.now == FLOAT * (15 + 15)
        optimizer.step()
        assert memory.now == FLOAT * (15 + 15 + 15)


def test_activations_are_alive_until_the_backward_pass():
    with LiveMemory() as memory:
        images = meta(1000, requires_grad=True)
        out = images.exp().exp().exp()
        assert memory.now == FLOAT * 4000  # exp keeps its result
        with torch.no_grad():
            images.exp().exp()
        assert memory.now == FLOAT * 4000
        out.sum().backward()
        del out
        assert memory.now == FLOAT * 2000  # the input and its gradient


def test_a_view_costs_nothing_and_keeps_its_storage():
    with LiveMemory() as memory:
        whole = meta(10, 10)
        part = whole[2:4].flatten()
        assert memory.now == FLOAT * 100
        del whole
        assert memory.now == FLOAT * 100
        del part
        assert memory.now == 0


def test_half_precision_is_half_and_tensors_of_the_host_are_not_counted():
    with LiveMemory() as memory:
        half, host = meta(100, dtype=torch.float16), torch.zeros(1000)
        assert memory.now == half.numel() * 2
        assert len(host) == 1000
