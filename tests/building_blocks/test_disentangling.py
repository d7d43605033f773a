"""AdaIN, against plain loops."""

import math
from itertools import product

import pytest
import torch

from nnunetv2_missmod.building_blocks.disentangling import ADAIN_EPS, adain


def style(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, generator=generator).double(), torch.rand(2, 3, generator=generator).double() + 0.5


def test_adain_gives_mean_and_standard_deviation():
    """The standard deviation is torch's default one, ddof = 1, up to the eps on the variance."""
    content = 4 * torch.randn(2, 3, 4, 2, 3, generator=torch.Generator().manual_seed(0)).double() + 7
    mu, sigma = style()
    out = adain(content, mu, sigma, eps=0)
    with_eps = adain(content, mu, sigma)
    for b, c in product(range(2), range(3)):
        voxels = out[b, c].flatten().tolist()
        mean = sum(voxels) / len(voxels)
        variance = sum((v - mean) ** 2 for v in voxels) / (len(voxels) - 1)
        assert mean == pytest.approx(mu[b, c].item(), rel=1e-9)
        assert math.sqrt(variance) == pytest.approx(sigma[b, c].item(), rel=1e-9)
        shrunk = torch.sqrt(content[b, c].var() / (content[b, c].var() + ADAIN_EPS)) * sigma[b, c]
        assert with_eps[b, c].std().item() == pytest.approx(shrunk.item(), rel=1e-9)


def test_adain_of_blank_content_is_its_mean():
    content = torch.full((2, 3, 4, 4, 4), 5.0, requires_grad=True)
    mu, sigma = (values.float().requires_grad_() for values in style())
    out = adain(content, mu, sigma)
    assert torch.equal(out, mu[..., None, None, None].expand_as(out))
    out.square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in (content, mu, sigma))
