"""nnU-Net's folders for `missmod convert`, and a dataset in them."""

import pytest
from small_sources import write_layout


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """nnU-Net's folders; fingerprints, which take seconds, are written where a test asks for them."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnUNet_preprocessed")


@pytest.fixture
def preprocessed(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    return tmp_path / "preprocessed"


@pytest.fixture
def fingerprints(monkeypatch):
    """The datasets whose fingerprint was asked for."""
    asked = []

    def fingerprint(folder, _, added):
        asked.append((folder.name, [file.name for file in added]))
        return {"of": folder.name}

    monkeypatch.setattr("nnunetv2_missmod.datasets.fingerprint.cohort_fingerprint", fingerprint)
    return asked


@pytest.fixture
def dataset(tmp_path):
    """Dataset042_Lesions in nnUNet_raw; its second case lacks T1."""
    return write_layout(tmp_path / "raw", "nnunet")


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "archive"
