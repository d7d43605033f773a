"""`missmod predict` of one case by its modalities' names, and with a model that was given as a folder or a zip."""

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from small_models import write_case, write_image

from nnunetv2_missmod import Segmenter
from nnunetv2_missmod.cli.demo_job import EMBEDDED
from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets.phantom.cohort import phantom_case
from nnunetv2_missmod.prediction.mask_table import read_masks

pytestmark = pytest.mark.slow
QUICK = ["-device", "cpu", "--disable_tta", "-step_size", "1"]
NAMES = ["FLAIR", "T1", "T1c", "T2"]


@pytest.fixture(scope="module")
def images():
    return phantom_case(np.random.default_rng(0), NAMES, (32, 32, 32))[0]


@pytest.fixture(scope="module")
def expected(images):
    segmenter = Segmenter.from_folder(EMBEDDED, device="cpu", mirroring=False, step_size=1)
    return segmenter.segment({"FLAIR": images[0], "T1c": images[2]}, (1.5, 1, 1)).mask


@pytest.fixture
def files(images, tmp_path):
    names = {name: tmp_path / f"scan{number}.nii.gz" for number, name in enumerate(NAMES)}
    for name, image in zip(NAMES, images, strict=True):
        write_image(names[name], image)
    return names


def voxels(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_a_case_is_segmented_from_what_is_named_in_any_order(files, expected, tmp_path, capsys):
    mask = tmp_path / "out" / "mask.nii.gz"
    case = [f"T1c={files['T1c']}", f"FLAIR={files['FLAIR']}"]
    assert main(["predict", "-m", str(EMBEDDED), "--case", *case, "-o", str(mask), *QUICK]) == 0
    np.testing.assert_array_equal(voxels(mask), expected)
    assert f"{mask}: from FLAIR+T1c" in capsys.readouterr().out
    assert [file.name for file in mask.parent.iterdir()] == [mask.name]
    assert main(["predict", "-m", str(EMBEDDED), "--case", *case, "-o", str(mask), *QUICK, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["channels"] == "FLAIR+T1c"


def test_a_zip_of_a_model_segments_a_folder(images, expected, tmp_path):
    shutil.copytree(EMBEDDED, tmp_path / "zipped" / "Dataset501_Phantom" / "model")
    model = shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "zipped")
    write_case(tmp_path / "in", "a", images, [0, 2])
    out = tmp_path / "out"
    assert main(["predict", "-m", model, "-i", str(tmp_path / "in"), "-o", str(out), *QUICK, "-nps", "0"]) == 0
    np.testing.assert_array_equal(voxels(out / "a.nii.gz"), expected)
    assert read_masks(out)["channels"].tolist() == ["FLAIR+T1c"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--case", "T1c"], "NAME=FILE.*'T1c'"),
        (["--case", "T1c=a", "T1c=b"], "once.*'T1c=b'"),
        (["--case", "T1c=a.nii.gz", "--subsets", "all"], "without --subsets"),
        (["--case", "T1c=a.nii.gz", "-num_parts", "2"], "without -num_parts"),
        (["--case", "T1c=a.nii.gz", "-tr", "DCSegTrainer"], "without -tr"),
        (["--case", "T9=a.nii.gz"], "FLAIR, T1, T1c, T2.*'T9'"),
        (["--case", "T1=nowhere.nii.gz"], "nowhere"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(flags, message, tmp_path, capsys):
    mask = tmp_path / "mask.nii.gz"
    assert main(["predict", "-m", str(EMBEDDED), *flags, "-o", str(mask), *QUICK]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not mask.exists()


def test_a_model_is_named_in_one_way_and_so_are_the_cases(tmp_path, capsys):
    for flags in (["-d", "501", "-m", str(EMBEDDED), "-i", "in"], ["-m", str(EMBEDDED), "-i", "in", "--case", "T1=a"]):
        with pytest.raises(SystemExit):
            main(["predict", *flags, "-o", str(tmp_path / "out")])
        assert "not allowed with" in capsys.readouterr().err
