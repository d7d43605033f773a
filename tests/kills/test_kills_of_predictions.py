"""`missmod predict` and `missmod evaluate`, killed at random moments: the end equals an uninterrupted run."""

import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from killing import IN_CI, KILLS, kill_within, prediction, run
from small_models import two_folds

from nnunetv2_missmod.evaluation.scores import read_scores
from nnunetv2_missmod.files.whole_files import check_whole
from nnunetv2_missmod.machine.chatter import LOG
from nnunetv2_missmod.prediction.mask_table import read_masks

pytestmark = pytest.mark.slow

START = 10  # seconds that spawned processes take to load
CHANNELS = {"a": [0, 1], "b": [0, 1], "c": [1], "d": [0], "e": [0, 1]}


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    with two_folds(tmp_path_factory.mktemp("nnunet"), CHANNELS, []) as folds:
        yield folds


def content(folder):
    """Everything that a run leaves, in comparable form; hidden files too."""
    found = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and file.name != LOG):
        name = str(file.relative_to(folder))
        if name.endswith(".nii.gz"):
            check_whole(file)
            found[name] = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).tobytes()
        elif name == "masks.csv":
            found[name] = sorted(map(tuple, read_masks(folder).to_numpy()))
        elif name == "scores.csv":
            table = read_scores(folder).table.sort_values(["case", "subset", "region"])
            found[name] = table.replace(np.nan, -1).to_numpy().tolist()
        elif name.endswith(".parquet"):
            assert len(pd.read_parquet(file))
            found[name] = None
        else:
            found[name] = None if name.endswith("summary.json") else file.read_bytes()
    return found


def check_half(out):
    """What a killed run left is whole: masks that have their name, and tables."""
    for file in out.rglob("*.nii.gz"):
        if not any(part.startswith(".") for part in file.relative_to(out).parts):
            check_whole(file)
    if (out / "masks.csv").exists():
        masks = [mask for mask in read_masks(out)["mask"] if mask]
        assert all((out / mask).is_file() for mask in masks)
    if (out / "scores.csv").exists():
        read_scores(out)


@pytest.fixture(scope="module")
def uninterrupted(choice, tmp_path_factory):
    """What a run of each verb leaves, and the seconds that it takes."""
    found = {}
    for verb in ("predict", "evaluate"):
        out = tmp_path_factory.mktemp(verb) / "whole"
        code, seconds = run(prediction(verb, choice, 0, out), out.with_name("log.txt"))
        assert code == 0, out.with_name("log.txt").read_text()
        found[verb] = content(out), seconds
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "processes"), [("predict", 0), ("evaluate", 0), ("predict", 2), ("evaluate", 1)])
def test_a_killed_run_goes_on_to_the_same_end(choice, uninterrupted, tmp_path, verb, processes):
    if processes and verb == "predict" and KILLS <= IN_CI:
        pytest.skip("half a minute; MISSMOD_KILLS of more than 2 asks for it")
    (expected, seconds), log, killed = uninterrupted[verb], tmp_path / "log.txt", 0
    kills = max(1, KILLS // 2) if processes else KILLS
    for number in range(kills):
        out = tmp_path / "out"
        arguments = prediction(verb, choice, processes, out)
        how = signal.SIGTERM if number % 4 == 3 else signal.SIGKILL
        killed += kill_within(seconds + START * (processes > 0), arguments, log, how, seed=number) != 0
        check_half(out)
        assert run(arguments, log)[0] == 0, log.read_text()
        assert content(out) == expected
        shutil.rmtree(out)
    print(f"{verb} -nps {processes}: {killed} of {kills} ended before their end")
