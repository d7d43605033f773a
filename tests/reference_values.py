"""The reference values of tests/parity (see its README), and how gradients are compared with them."""

from pathlib import Path

import numpy as np
import torch

PARITY = Path(__file__).parent / "parity"
TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-5}  # released code computes in float32


def reference(name):
    """The arrays of a file, by name."""
    with np.load(PARITY / f"{name}.npz") as file:
        return dict(file)


def names_of(kind):
    """The files of a kind."""
    names = sorted(file.stem for file in PARITY.glob(f"{kind}*.npz"))
    assert names, f"Expected reference values of {kind} in {PARITY}, got none."
    return names


def stored_entries(gradient, values):
    """What of a gradient is stored: every so many entries of the flattened tensor."""
    return gradient.flatten()[:: int(values["every"])]


def drawn_anew(values):
    """x (float32) and x_sub of ``m3ae_pretrain_0``, too large to be stored."""
    generator = np.random.default_rng(int(values["seed"]))
    x = generator.random(values["x_shape"]).astype(np.float32)
    generator.bit_generator.advance(int(values["draws_between"]))
    x_sub = generator.standard_normal(values["x_sub_shape"])
    for drawn, last in ((x, values["x_last"]), (x_sub, values["x_sub_last"])):
        assert np.array_equal(drawn.ravel()[-4:], last), "NumPy draws other numbers than it did"
    return x, x_sub


def as_input(array, dtype):
    return torch.from_numpy(array).to(dtype).requires_grad_()


def assert_close(actual, expected, dtype):
    """Compare to the precision's tolerance, relative to the largest value."""
    scale = np.abs(expected).max()
    difference = np.abs(actual.detach().numpy() - expected).max()
    assert difference <= TOLERANCES[dtype] * scale
