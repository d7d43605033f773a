import importlib

import pytest
import torch

from nnunetv2_missmod.building_blocks import recompute


def calls_in_a_step():
    """Call a part as a network would; give how often it ran, and the gradient."""
    calls, inputs = [], torch.tensor([1.0, 2.0], requires_grad=True)

    def part(values):
        calls.append(values)
        return values.square()

    recompute.recompute(part, inputs).sum().backward()
    return len(calls), inputs.grad.tolist()


@pytest.mark.parametrize(
    ("value", "calls"), [(None, 2), ("t", 2), ("True", 2), ("1", 2), ("f", 1), ("False", 1), ("0", 1)]
)
def test_a_variable_says_whether_activations_are_kept(value, calls, monkeypatch):
    if value is None:
        monkeypatch.delenv("missmod_recompute", raising=False)
    else:
        monkeypatch.setenv("missmod_recompute", value)
    importlib.reload(recompute)
    assert calls_in_a_step() == (calls, [2.0, 4.0])
    monkeypatch.undo()
    importlib.reload(recompute)


def test_nothing_is_computed_again_where_no_gradient_is_recorded():
    with torch.no_grad():
        assert recompute.recompute(torch.square, torch.tensor(3.0)) == 9
