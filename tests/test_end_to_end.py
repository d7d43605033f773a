"""nnU-Net's own commands, and those of docs/, on a model that the first steps' commands trained."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from pages import FIRST_STEPS, PAGES, blocks_of, each_of, shows, texts_of
from small_plans import small_network
from small_sources import write_layout

from nnunetv2_missmod.cli import demo_job
from nnunetv2_missmod.methods.mstkdnet.trainer import MSTKDNetTrainer

pytestmark = pytest.mark.slow

MODEL = "Dataset501_Phantom/DCSegTrainer__nnUNetPlans__3d_fullres"
PRETRAINING = "nnUNet_results/Dataset501_Phantom/M3AEPretrainTrainer__nnUNetPlans__3d_fullres/fold_0"
PREDICT = "nnUNetv2_predict -d 501 -c 3d_fullres -tr DCSegTrainer -device cpu --disable_tta -npp 1 -nps 1"
SEQUENTIALLY = " -npp 0 -nps 0"


def masks(folder):
    files = sorted(folder.glob("*.nii.gz"))
    return {file.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files}


def assert_same_masks(folder, other):
    expected, got = masks(folder), masks(other)
    assert expected.keys() == got.keys()
    assert expected, f"no mask in {folder}"
    for name, mask in expected.items():
        np.testing.assert_array_equal(mask, got[name])


def test_the_commands_do_what_the_first_steps_say(trained):
    setup = trained.outputs[0]
    assert "All is well." in setup
    results = trained.folder / "nnUNet_results" / "Dataset501_Phantom" / "DCSegTrainer__nnUNetPlans__3d_fullres"
    assert (results / "fold_0" / "checkpoint_final.pth").is_file()
    assert (results / "fold_0" / "validation" / "summary.json").is_file()
    masks = {file.name for file in (trained.folder / "out").glob("*.nii.gz")}
    assert masks == {"phantom_010.nii.gz", "phantom_011.nii.gz"}
    stages = [results.with_name(results.name.replace("DCSeg", name)) for name in ("M3AEPretrain", "M3AE")]
    assert [(stage / "fold_0" / "checkpoint_final.pth").is_file() for stage in stages] == [True, True]
    assert [(stage / "fold_0" / "validation").is_dir() for stage in stages] == [False, True]


@pytest.fixture
def shell(trained, tmp_path):
    """A copy of what the first steps' commands left, and what prepare.md converts; two of these lack a file."""
    shell = trained.copied_to(tmp_path / "home")
    write_layout(shell.folder, "brats2020")
    write_layout(shell.folder / "nnUNet_raw", "nnunet")
    cohort = write_layout(shell.folder, "pattern")
    (cohort / "patient_01" / "patient_01_flair.nii.gz").unlink()
    return shell


@each_of([page for page in PAGES if page != FIRST_STEPS and texts_of(page, "bash")])
def test_the_commands_of_a_page_run_and_say_what_it_shows(page, shell):
    output = ""
    for block in blocks_of(page):
        if block.language == "bash":
            output = shell.run(block.text)
        elif block.language == "text":
            assert shows(output, block.text), f"{page.name}:{block.line} expects other output than\n{output}"


def assert_same_but_for_ties(mask, nnunets, name):
    """Where nnU-Net's mask is another, its probability of a region is a half, but for what nnU-Net, which adds windows
    up in half precision, cannot tell from it. A summation's order, which processors differ in, decides such a voxel.
    """
    expected = masks(nnunets)[f"{name}.nii.gz"]
    probabilities = np.load(nnunets / f"{name}.npz")["probabilities"]
    ties = (np.abs(probabilities - 0.5) < 1e-3).any(0)
    assert mask.shape == expected.shape == ties.shape
    assert ties.mean() < 0.05, "a network that is unsure of everything shows nothing"
    different = mask != expected
    assert different.mean() <= 1e-4
    assert not (different & ~ties).any()


def test_the_masks_of_both_commands_are_the_same(trained):
    with_mirroring = PREDICT.replace(" --disable_tta", "") + SEQUENTIALLY
    trained.run(f"{with_mirroring} -f 0 -i cases_lacking_channels -o probabilities --save_probabilities")
    nnunets, got = trained.folder / "probabilities", masks(trained.folder / "masks")
    assert_same_masks(trained.folder / "out", nnunets)
    for name in ("phantom_010", "phantom_011"):  # FLAIR and T1c; T1
        assert_same_but_for_ties(got[f"{name}.nii.gz"], nnunets, name)
    made_from = (trained.folder / "masks" / "masks.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[:4] for row in made_from) == [
        ["phantom_010", "available", "phantom_010.nii.gz", "FLAIR+T1c"],
        ["phantom_011", "available", "phantom_011.nii.gz", "T1"],
    ]


def test_every_subset_has_the_mask_that_nnunet_predicts_with_the_other_files_missing(trained, inputs):
    predictions = trained.folder / "scores" / "dcseg" / "predictions"
    assert_same_but_for_ties(masks(predictions / "FLAIR+T1c")["phantom_010.nii.gz"], inputs, "phantom_010")
    assert_same_but_for_ties(masks(predictions / "T1")["phantom_011.nii.gz"], inputs, "phantom_011")


def test_every_subset_is_scored_and_reported(trained):
    for model in ("dcseg", "m3ae"):
        table = pd.read_csv(trained.folder / "scores" / model / "scores.csv")
        assert len(table) == 2 * 15 * 3
        summaries = list((trained.folder / "scores" / model / "predictions").glob("*/summary.json"))
        assert len(summaries) == 15
    page = (trained.folder / "report" / "index.html").read_text()
    assert all(name in page for name in ("DCSeg", "M3AE", "enhancing tumor", "phantom_010"))
    assert (trained.folder / "report" / "table.tex").is_file()


def test_incomplete_training_cases_are_noticed(trained):
    fold = trained.folder / "nnUNet_results/Dataset501_Phantom/DCSegTrainer__nnUNetPlans__3d_fullres/fold_0"
    log = min(fold.glob("training_log*.txt")).read_text()
    assert "cases lack modalities." in log
    assert "Training: 0 of" not in log


def assert_predicts(shell, trainer):
    """Cases that lack channels get masks of their own size."""
    out = trainer.split()[0]
    predict = PREDICT.replace("DCSegTrainer", trainer) + SEQUENTIALLY
    shell.run(f"{predict} -f 0 -i cases_lacking_channels -o {out}")
    scan = sitk.ReadImage(str(shell.folder / "cases_lacking_channels" / "phantom_011_0001.nii.gz"))
    found = masks(shell.folder / out)
    assert set(found) == {"phantom_010.nii.gz", "phantom_011.nii.gz"}
    assert found["phantom_011.nii.gz"].shape == scan.GetSize()[::-1]


@pytest.fixture(scope="session")
def inputs(trained):
    """Two cases that lack different channels, and their masks from spawned workers."""
    shell = trained
    shell.run(f"{PREDICT} -f 0 -i cases_lacking_channels -o spawned --save_probabilities")
    return shell.folder / "spawned"


def test_sequential_prediction_gives_the_same_masks(trained, inputs):
    trained.run(f"{PREDICT} -f 0 -i cases_lacking_channels -o sequential -npp 0 -nps 0")
    assert_same_masks(inputs, trained.folder / "sequential")


@pytest.fixture(scope="session")
def blank(trained):
    """The same two cases; the second one's missing files are there and hold one value each."""
    source, target = trained.folder / "cases_lacking_channels", trained.folder / "filled"
    shutil.copytree(source, target)
    reference = sitk.ReadImage(str(source / "phantom_011_0001.nii.gz"))
    for channel, value in ((0, 0), (2, 5), (3, -1000)):
        filler = sitk.GetImageFromArray(np.full(reference.GetSize()[::-1], value, dtype=np.float32))
        filler.CopyInformation(reference)
        sitk.WriteImage(filler, str(target / f"phantom_011_{channel:04d}.nii.gz"))
    return target


def test_an_absent_file_equals_a_file_of_zeros_or_of_one_value(trained, inputs, blank):
    trained.run(f"{PREDICT} -f 0 -i {blank} -o from_filled -npp 0 -nps 0")
    assert_same_masks(inputs, trained.folder / "from_filled")


def test_parts_folds_probabilities_and_model_folder(trained):
    model = trained.folder / "nnUNet_results" / MODEL
    shutil.copytree(model / "fold_0", model / "fold_1")
    options = "-f 0 1 --save_probabilities -i cases_lacking_channels"
    first, second = (f"{PREDICT} {options} -o parts -num_parts 2 -part_id {part}" for part in (0, 1))
    trained.run(f"{first}{SEQUENTIALLY}\n{second}{SEQUENTIALLY}")
    from_folder = f"nnUNetv2_predict_from_modelfolder -m nnUNet_results/{MODEL} --disable_tta -device cpu"
    trained.run(f"{from_folder} {options} -o from_folder -npp 1 -nps 1")
    shutil.rmtree(model / "fold_1")
    assert_same_masks(trained.folder / "parts", trained.folder / "from_folder")
    probabilities = sorted((trained.folder / "parts").glob("*.npz"))
    assert len(probabilities) == 2
    assert np.load(probabilities[0])["probabilities"].shape[0] == 3


def test_a_model_exported_and_installed_as_zip(trained, inputs):
    trained.run("nnUNetv2_export_model_to_zip -d 501 -o model.zip -c 3d_fullres -f 0 -tr DCSegTrainer")
    trained.run(
        'mkdir elsewhere\nexport nnUNet_results="$PWD/elsewhere"\n'
        "nnUNetv2_install_pretrained_model_from_zip model.zip\n"
        f"{PREDICT} -f 0 -i cases_lacking_channels -o from_zip\n"
        'export nnUNet_results="$PWD/nnUNet_results"'
    )
    assert_same_masks(inputs, trained.folder / "from_zip")


@pytest.mark.parametrize("workers", ["", "-npp 0 -nps 0"])
def test_a_bad_case_gives_an_error_that_names_it_and_no_mask(trained, workers):
    bad = trained.folder / "bad"
    shutil.rmtree(bad, ignore_errors=True)
    shutil.rmtree(trained.folder / "from_bad", ignore_errors=True)
    bad.mkdir()
    scan = trained.folder / "cases_lacking_channels" / "phantom_011_0001.nii.gz"
    shutil.copy(scan, bad / "patient7_0001.nii.gz")
    shutil.copy(scan, bad / "patient7_0004.nii.gz")
    output = trained.run(f"{PREDICT} -f 0 -i bad -o from_bad {workers}", expected_code=1)
    assert "Case patient7" in output
    assert "patient7_0004.nii.gz" in output
    assert "_0003 = T2" in output
    assert masks(trained.folder / "from_bad") == {}


def test_run_sets_the_variable_for_one_command(trained):
    """With it nnU-Net finds a trainer; docs/train.md trains this one."""
    finds = (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "print(find('ModalityDropoutTrainer').__module__)"
    )
    output = trained.run(f'( unset nnUNet_extTrainer\n missmod run python -c "{finds}" )')
    assert "nnunetv2_missmod.methods.modality_dropout.trainer" in output


def test_continue_goes_on_from_the_checkpoint(trained):
    fold = trained.folder / "nnUNet_results" / MODEL / "fold_0"
    before = (fold / "metrics.csv").read_text()
    plans_file = trained.folder / "nnUNet_preprocessed" / "Dataset501_Phantom" / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["missmod"]["trainer"]["num_epochs"] = 3
    plans_file.write_text(json.dumps(plans))
    backup = trained.folder / "backup"
    shutil.copytree(fold, backup)
    output = trained.run("nnUNetv2_train 501 3d_fullres 0 -tr DCSegTrainer -device cpu --c")
    assert "Epoch 2" in output
    assert "Epoch 1\n" not in output
    after = (fold / "metrics.csv").read_text()
    assert after.startswith(before)
    assert len(after) > len(before)
    shutil.rmtree(fold)
    shutil.copytree(backup, fold)


def test_a_misspelt_setting_stops_the_training_with_the_known_names(trained):
    plans_file = trained.folder / "nnUNet_preprocessed" / "Dataset501_Phantom" / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["missmod"]["trainer"]["alhpa"] = 0.2
    (plans_file.parent / "typoPlans.json").write_text(json.dumps({**plans, "plans_name": "typoPlans"}))
    output = trained.run("nnUNetv2_train 501 3d_fullres 0 -tr DCSegTrainer -p typoPlans -device cpu", expected_code=1)
    assert "ValueError" in output
    assert "alhpa" in output
    assert "alpha = 0.4" in output


def test_m3ae_predicts_without_the_files_as_with_blank_ones(trained, blank):
    predict = PREDICT.replace("DCSegTrainer", "M3AETrainer") + SEQUENTIALLY
    trained.run(f"{predict} -f 0 -i cases_lacking_channels -o m3ae\n{predict} -f 0 -i {blank} -o m3ae_blank")
    assert_same_masks(trained.folder / "m3ae", trained.folder / "m3ae_blank")


def test_ccsd_trains_on_incomplete_cases_and_predicts_from_missing_files(trained):
    output = trained.run("nnUNetv2_train 501 3d_fullres 0 -tr CCSDTrainer -device cpu")
    assert "removed first" in output
    fold = trained.folder / "nnUNet_results" / MODEL.replace("DCSegTrainer", "CCSDTrainer") / "fold_0"
    rows = [row.split(",") for row in (fold / "metrics.csv").read_text().splitlines()]
    shares = {name: float(value) for epoch, name, value in rows if epoch == "0" and name.startswith("removed_first/")}
    assert set(shares) == {f"removed_first/{modality}" for modality in ("FLAIR", "T1", "T1c", "T2")}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
    assert_predicts(trained, "CCSDTrainer")


def test_mstkdnet_trains_on_incomplete_cases_and_predicts_from_missing_files(trained):
    plans_file = trained.folder / "nnUNet_preprocessed" / "Dataset501_Phantom" / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["missmod"]["network"] = {"MSTKDNetTrainer": small_network(MSTKDNetTrainer)}
    (plans_file.parent / "smallPlans.json").write_text(json.dumps({**plans, "plans_name": "smallPlans"}))
    trained.run("nnUNetv2_train 501 3d_fullres 0 -tr MSTKDNetTrainer -p smallPlans -device cpu")
    model = trained.folder / "nnUNet_results/Dataset501_Phantom/MSTKDNetTrainer__smallPlans__3d_fullres"
    rows = [row.split(",") for row in (model / "fold_0" / "metrics.csv").read_text().splitlines()]
    terms = {name for _, name, _ in rows if name.startswith("loss/")}
    names = "segmentation teacher evd mst mse slkd gram adversarial discriminator"
    assert terms == {f"loss/{name}" for name in names.split()}
    assert_predicts(trained, "MSTKDNetTrainer -p smallPlans")


def test_a_pretraining_shows_what_it_learned_and_validates_no_masks(trained):
    fold = trained.folder / PRETRAINING
    pictures = {"progress.png", "reconstruction.png", "substitute.png"}
    assert pictures <= {file.name for file in fold.iterdir()}
    (fold / "reconstruction.png").unlink()
    output = trained.run("nnUNetv2_train 501 3d_fullres 0 -tr M3AEPretrainTrainer -device cpu --val")
    assert "no validation by Dice" in output
    assert (fold / "reconstruction.png").is_file()
    assert not (fold / "validation").exists()


def test_a_pretraining_predicts_nothing(trained):
    predict = PREDICT.replace("DCSegTrainer", "M3AEPretrainTrainer")
    output = trained.run(f"{predict} -f 0 -i cases_lacking_channels -o images", expected_code=1)
    assert "ValueError: Expected a trainer that segments" in output
    assert "-tr M3AETrainer" in output
    assert masks(trained.folder / "images") == {}


def test_fine_tuning_wants_its_pretraining_or_other_weights(trained):
    plans_file = trained.folder / "nnUNet_preprocessed" / "Dataset501_Phantom" / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    (plans_file.parent / "otherPlans.json").write_text(json.dumps({**plans, "plans_name": "otherPlans"}))
    train = "nnUNetv2_train 501 3d_fullres 0 -tr M3AETrainer -p otherPlans -device cpu"
    output = trained.run(train, expected_code=1)
    command = "nnUNetv2_train Dataset501_Phantom 3d_fullres 0 -tr M3AEPretrainTrainer -p otherPlans"
    assert f"Run `{command}` first" in output
    fold = trained.folder / "nnUNet_results" / "Dataset501_Phantom" / "M3AETrainer__otherPlans__3d_fullres" / "fold_0"
    assert list(fold.glob("checkpoint*")) == []
    output = trained.run(f"{train} -pretrained_weights {PRETRAINING}/checkpoint_final.pth")
    assert "Validation complete" in output
    assert (fold / "checkpoint_final.pth").is_file()


def test_the_whole_demo(trained, tmp_path, monkeypatch, capsys):
    settings = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
    fragment = {"architecture": {"arch_kwargs": {"features_per_stage": [8, 8, 16]}}, "missmod": {"trainer": settings}}
    monkeypatch.setattr(demo_job, "load_fragment", lambda file: fragment)
    monkeypatch.setattr(demo_job, "find_command", lambda name: str(trained.commands / name))
    monkeypatch.setattr(demo_job, "NUM_TRAINING", 5)
    monkeypatch.setattr(demo_job, "SIZE", 32)
    page = demo_job.run_demo(tmp_path / "demo", "ModalityDropoutTrainer", "cpu")
    assert page.is_file()
    printed = capsys.readouterr().out
    assert "ModalityDropoutTrainer: mean Dice of 6 cases" in printed
    assert printed.count("●") == 4 * 8
    log = (tmp_path / "demo" / "log.txt").read_text()
    assert "6 held-out cases, each foretold from the others" in " ".join(log.split())
    assert "This split has 4 training and 1 validation cases." in log
