"""What is pickled in a checkpoint is never executed, and the data that nnU-Net keeps in one is read."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from nnunetv2_missmod.prediction.model import read_checkpoint

FINAL = "checkpoint_final.pth"


def content_of(**more):
    return {"network_weights": {"a": torch.arange(3.0)}, "trainer_name": "nnUNetTrainer", **more}


class Touch:
    """What writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_would_execute_code_is_refused_and_does_not(tmp_path, legacy):
    file, executed = tmp_path / FINAL, tmp_path / "executed"
    torch.save(content_of(logging=Touch(executed)), file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=rf"(?s)holds data alone, got {file}: .*Nothing in it was executed"):
        read_checkpoint(file)
    assert not executed.exists()
    torch.load(file, weights_only=False)
    assert executed.exists()


def test_a_checkpoint_with_logs_as_nnunet_keeps_them_is_read(tmp_path):
    logs = {
        "train_losses": [np.float64(-0.5), np.float32(0.25), np.mean([1, 2])],
        "dice_per_class_or_region": [[np.float64(np.nan), np.float64(0.75)]],
        "counts": np.arange(3),
        "means": [np.array([0.5, 1.5]), np.array([0.5], dtype=np.float32), np.int64(7)],
        "lrs": [0.01],
        "device": torch.device("cpu"),
    }
    torch.save(content_of(logging=logs, _best_ema=np.float64(0.5)), tmp_path / FINAL)
    found = read_checkpoint(tmp_path / FINAL)
    np.testing.assert_equal(found["logging"], logs)
    assert found["_best_ema"] == 0.5
    torch.testing.assert_close(found["network_weights"]["a"], torch.arange(3.0))


def as_numpy_1(file):
    """Give NumPy's names in a checkpoint as NumPy 1 has them."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part.replace(b"numpy._core.", b"numpy.core."))


def test_a_checkpoint_that_was_written_with_numpy_1_is_read(tmp_path):
    logs = [np.float64(0.5), np.array([1.0, 2.0]), np.float32(0.25)]
    torch.save(content_of(logging=logs), tmp_path / FINAL)
    as_numpy_1(tmp_path / FINAL)
    pickled = (tmp_path / FINAL).read_bytes()
    assert b"numpy.core.multiarray" in pickled
    assert b"numpy._core" not in pickled
    np.testing.assert_equal(read_checkpoint(tmp_path / FINAL)["logging"], logs)


@pytest.mark.parametrize("content", [b"", b"nothing", pickle.dumps({"network_weights": {}})])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / FINAL).write_bytes(content)
    with pytest.raises(ValueError, match=rf"got {tmp_path / FINAL}: .*Copy or train it again"):
        read_checkpoint(tmp_path / FINAL)


def test_a_checkpoint_that_was_cut_short_is_named(tmp_path):
    buffer = io.BytesIO()
    torch.save(content_of(), buffer)
    (tmp_path / FINAL).write_bytes(buffer.getvalue()[:-100])
    with pytest.raises(ValueError, match=rf"got {tmp_path / FINAL}: "):
        read_checkpoint(tmp_path / FINAL)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {}}, "it lacks network_weights, trainer_name"),
        ({"network_weights": {}}, "it lacks trainer_name"),
        ([1, 2], "keys"),
        (torch.zeros(2), "keys"),
    ],
)
def test_a_checkpoint_of_something_else_is_named(tmp_path, content, said):
    torch.save(content, tmp_path / FINAL)
    with pytest.raises(ValueError, match=rf"got {tmp_path / FINAL}: .*{said}"):
        read_checkpoint(tmp_path / FINAL)


@pytest.mark.parametrize("name", ["os.system", "../x", "", "a b", "_Trainer", 5, None, ["nnUNetTrainer"], {}])
def test_a_trainer_s_name_is_the_name_of_a_class(tmp_path, name):
    torch.save(content_of(trainer_name=name), tmp_path / FINAL)
    with pytest.raises(ValueError, match=rf"got {tmp_path / FINAL}: its trainer_name is no name of a class"):
        read_checkpoint(tmp_path / FINAL)


@pytest.mark.parametrize("weights", [[], None, {"a": 1.0}, {"a": torch.zeros(1), "b": [1.0]}])
def test_weights_are_tensors(tmp_path, weights):
    torch.save(content_of(network_weights=weights), tmp_path / FINAL)
    with pytest.raises(ValueError, match=rf"got {tmp_path / FINAL}: its network_weights are no tensors"):
        read_checkpoint(tmp_path / FINAL)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_and_named(tmp_path, wrong, dtype):
    weights = {"right": torch.ones(3, dtype=dtype), "count": torch.tensor(5), "wrong": torch.ones(2, 2, dtype=dtype)}
    torch.save(content_of(network_weights=weights), tmp_path / FINAL)
    read_checkpoint(tmp_path / FINAL)
    weights["wrong"][1, 0] = wrong
    torch.save(content_of(network_weights=weights), tmp_path / FINAL)
    with pytest.raises(ValueError, match=rf"got {tmp_path / FINAL}: .*NaN or infinity in wrong"):
        read_checkpoint(tmp_path / FINAL)
