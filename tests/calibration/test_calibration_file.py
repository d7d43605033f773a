"""calibration.json: what is written is read back, and nothing else is believed."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_quality import masks_of

from nnunetv2_missmod.calibration.file import (
    CALIBRATION,
    Calibration,
    calibration_in,
    read_calibration,
    write_calibration,
)


def made():
    masks = masks_of(6).assign(region="tumor")
    gains = pd.DataFrame([{"subset": "A", "modality": "B", "region": "tumor", "gain": 0.25, "cases": 6}])
    settings = {"step_size": 0.5, "mirroring": True, "min_voxels": {}}
    return Calibration(("A", "B"), ("tumor",), ("f" * 64,), settings, masks, gains, None)


@pytest.fixture
def file(tmp_path):
    write_calibration(made(), tmp_path / CALIBRATION)
    return tmp_path / CALIBRATION


def test_it_comes_back(file):
    before, found = made(), calibration_in(file.parent)
    assert replace(found, masks=None, gains=None) == replace(before, masks=None, gains=None)
    pd.testing.assert_frame_equal(found.masks[before.masks.columns], before.masks, atol=1e-4, check_dtype=False)
    assert found.gain_of == {("A", "B", "tumor"): 0.25}
    new = masks_of(3, seed=1)
    for read, written in zip((found, before), (before, found), strict=True):
        assert set(read.quality) == set(written.quality) == {"tumor"}
    np.testing.assert_allclose(found.quality["tumor"].expected(new), before.quality["tumor"].expected(new), atol=1e-3)


def test_there_may_be_none(tmp_path):
    assert calibration_in(tmp_path) is None


def changed(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("masks"), "masks"),
        (lambda c: c.update(version=2), "version"),
        (lambda c: c.update(regions="tumor"), "regions"),
        (lambda c: c["masks"]["dice"].__setitem__(0, 1.5), "masks.dice"),
        (lambda c: c["masks"]["dice"].__setitem__(0, "__import__('os')"), "masks.dice"),
        (lambda c: c["masks"]["is_there"].__setitem__(0, 1), "masks.is_there"),
        (lambda c: c["masks"]["log_volume"].__setitem__(0, 1e999), "masks.log_volume"),
        (lambda c: c["masks"]["subset"].pop(), "masks"),
        (lambda c: c["gains"].pop("gain"), "gains.gain"),
        (lambda c: c["gains"].update(cases=[0]), "gains.cases"),
        (lambda c: c.update(sequences=[1]), "sequences"),
    ],
)
def test_what_was_edited_is_refused_with_the_way_out(change, words, file):
    changed(file, change)
    with pytest.raises(ValueError, match=words) as error:
        read_calibration(file)
    assert str(file) in str(error.value)
    assert "alibrate" in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1'])
def test_what_is_damaged_is_refused(text, file):
    file.write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read|expected a calibration"):
        read_calibration(file)
