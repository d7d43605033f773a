"""nnU-Net's fingerprint of incomplete cohorts: the zeros of absent channels are no intensities."""

import json
import multiprocessing
import re
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from small_cohort import save, source_of, volume, write_case

from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets import fingerprint as fingerprint_module
from nnunetv2_missmod.datasets.conversion.convert import ConversionSettings, convert
from nnunetv2_missmod.datasets.fingerprint import cohort_fingerprint, write_fingerprint
from nnunetv2_missmod.training.availability import find_available

pytestmark = pytest.mark.slow

SHAPE = (20, 24, 24)
CT = ("CT", "FLAIR")
SAMPLES = 500  # of each case and channel
STATISTICS = "foreground_intensity_properties_per_channel"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))


@pytest.fixture(autouse=True)
def few_voxels(monkeypatch):
    monkeypatch.setattr(cohort_fingerprint, "__defaults__", (8, (), SAMPLES))


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """In place of nnU-Net's spawned processes, which take seconds to start."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))


def write_cohort(tmp_path, dataset_id, modalities_of):
    """Cases a, b, ... of the modalities, 100 times brighter from case to case; returns the dataset's name."""
    cases = []
    for position, modalities in enumerate(modalities_of):
        name = "abcdef"[position]
        case = write_case(tmp_path / "archive", name, modalities)
        spacing = (1.0, 1.0, 1.0 + 0.5 * position)
        for channel, image in enumerate(case.images.values()):
            bright = volume(position * 10 + channel, SHAPE) * 100**position
            save(image.file, bright - 1000 * (bright != 0), spacing)
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:8, 5:12, 5:12] = 1
        save(case.label, labels, spacing)
        cases.append(case)
    settings = ConversionSettings(f"Cohort{dataset_id}", processes=1)
    return convert(source_of(*cases, modalities=CT), tmp_path / "raw", dataset_id, settings)[0].name


def of_stock(dataset, number_of_cases):
    extractor = DatasetFingerprintExtractor(dataset, 1)
    extractor.num_foreground_voxels_for_intensitystats = SAMPLES * number_of_cases
    return json.loads(json.dumps(extractor.run(), default=lambda x: x.tolist()))


def of_ours(tmp_path, dataset, number_of_cases):
    return cohort_fingerprint(tmp_path / "raw" / dataset, 1, num_voxels=SAMPLES * number_of_cases)


def test_statistics_of_an_incomplete_cohort_are_those_of_its_present_channels(tmp_path):
    incomplete = write_cohort(tmp_path, 1, [CT, CT, ("FLAIR",)])
    present = write_cohort(tmp_path, 2, [CT, CT])
    ours = of_ours(tmp_path, incomplete, 3)
    stock = of_stock(present, 2)
    assert ours[STATISTICS]["0"] == pytest.approx(stock[STATISTICS]["0"], rel=1e-12)
    assert ours[STATISTICS]["1"] != pytest.approx(stock[STATISTICS]["1"], rel=0.01)


def test_everything_else_is_what_nnunet_finds(tmp_path, monkeypatch):
    incomplete = write_cohort(tmp_path, 1, [CT, ("CT",), ("FLAIR",)])
    ours = of_ours(tmp_path, incomplete, 3)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "stock"))
    stock = of_stock(incomplete, 3)
    assert list(ours) == list(stock)
    for entry in ours.keys() - {STATISTICS}:
        assert ours[entry] == stock[entry]
    for channel in "01":
        assert sorted(ours[STATISTICS][channel]) == sorted(stock[STATISTICS][channel])
        assert ours[STATISTICS][channel] != stock[STATISTICS][channel]


def test_nnunet_plans_and_preprocesses_with_it_and_zeros_stay_absent(tmp_path):
    """The cases are resampled: one of the three spacings is the target."""
    dataset = write_cohort(tmp_path, 1, [CT, ("FLAIR",), ("CT",)])
    file = write_fingerprint(1, processes=1)
    before = file.read_bytes()
    extract_fingerprint_dataset(1, num_processes=1, clean=False)
    plan_experiment_dataset(1)
    assert file.read_bytes() == before
    plans = json.loads((file.parent / "nnUNetPlans.json").read_text())
    assert plans[STATISTICS] == json.loads(before)[STATISTICS]
    assert plans["configurations"]["3d_fullres"]["normalization_schemes"] == [
        "CTNormalization",
        "ZScoreNormalization",
    ]
    preprocess_dataset(1, configurations=("3d_fullres",), num_processes=(1,))
    folder = str(file.parent / "nnUNetPlans_3d_fullres")
    found = find_available(infer_dataset_class(folder)(folder))
    assert found == {"a": (True, True), "b": (False, True), "c": (True, False)}
    assert dataset == file.parent.name


def test_a_fingerprint_is_replaced_on_demand_alone(tmp_path, capsys):
    name = write_cohort(tmp_path, 1, [CT])
    file = tmp_path / "preprocessed" / name / "dataset_fingerprint.json"
    file.parent.mkdir()
    file.write_text("{}")
    assert main(["fingerprint", "-d", "1", "-np", "1"]) == 2
    assert file.read_text() == "{}"
    assert "found" in capsys.readouterr().err
    assert main(["fingerprint", "-d", "1", "-np", "1", "--clean"]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert set(json.loads(file.read_text())[STATISTICS]) == {"0", "1"}
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_channel_without_foreground_anywhere_is_named(tmp_path):
    name = write_cohort(tmp_path, 1, [CT, ("FLAIR",)])
    label = tmp_path / "raw" / name / "labelsTr" / "a.nii.gz"
    spacing = (1.0, 1.0, 1.0)
    label.unlink()
    save(label, np.zeros(SHAPE, np.uint8), spacing)
    with pytest.raises(ValueError, match="Expected foreground of CT in at least one training case"):
        write_fingerprint(1, processes=1)
    assert not list((tmp_path / "preprocessed" / name).glob("*"))


@pytest.mark.parametrize("dataset", ["77", "Dataset077_Nothing"])
def test_a_dataset_that_is_not_there(dataset, capsys):
    assert main(["fingerprint", "-d", dataset]) == 2
    assert f"Expected one raw dataset {dataset}" in capsys.readouterr().err


def test_folders_that_are_not_set(monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_preprocessed")
    assert main(["fingerprint", "-d", "1"]) == 2
    assert "nnUNet_preprocessed" in capsys.readouterr().err


# --- what cannot be right ---------------------------------------------------------------------------------------------


def test_damaged_labels_are_an_error_of_their_case(tmp_path):
    """SimpleITK reads zeros for what is missing, which are no foreground."""
    label = tmp_path / "raw" / write_cohort(tmp_path, 1, [CT]) / "labelsTr" / "a.nii.gz"
    label.write_bytes(label.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"Case a: .*{label}: its compressed stream"):
        write_fingerprint(1, processes=1)


def test_a_case_that_lacks_a_file_is_named(tmp_path):
    dataset = tmp_path / "raw" / write_cohort(tmp_path, 1, [CT])
    (dataset / "imagesTr" / "a_0001.nii.gz").unlink()
    with pytest.raises(ValueError, match="Case a: expected 2 channels, got 1"):
        write_fingerprint(1, processes=1)


@pytest.mark.parametrize("text", ["[]", "{", '{"channel_names": {}}', '{"channel_names": ["CT"], "labels": {}}'])
def test_a_dataset_json_that_cannot_be(tmp_path, capsys, text):
    file = tmp_path / "raw" / "Dataset001_Odd" / "dataset.json"
    file.parent.mkdir()
    file.write_text(text)
    assert main(["fingerprint", "-d", "1"]) == 2
    assert re.search(rf"in {file}|{file}: expected channel_names", capsys.readouterr().err)


def test_the_files_are_those_that_nnunet_finds(tmp_path):
    folder = tmp_path / "raw" / write_cohort(tmp_path, 1, [CT, CT])
    stock = get_filenames_of_train_images_and_targets(str(folder))
    ours = fingerprint_module._training_files(folder, json.loads((folder / "dataset.json").read_text()), ())
    assert ours == [(name, files["images"], files["label"]) for name, files in stock.items()]
