"""The comparison on patients: what is kept is not run again, and tables compare like with like."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image
from small_folders import write_data, write_model
from small_plans import CONFIGURATION
from small_scores import long_table, provenance

from nnunetv2_missmod.evaluation.provenance import write_provenance
from nnunetv2_missmod.evaluation.scores import write_scores

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import case_picture, patient_page, patient_tables, patients
from benchmarks.comparison import METHODS, Bench
from benchmarks.kept_scores import KeptScores, Piece, common_pieces
from benchmarks.patient_tables import REFERENCE
from benchmarks.training_sets import TrainingSet, holds_no_image, prepare

pytestmark = pytest.mark.slow

FIGURES = Path(__file__).parents[1] / "benchmarks" / "figures"
CASES = [f"case_{number:02d}" for number in range(30)]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, "Dataset700_Mine", CONFIGURATION, "cpu", 1, 5, {})


@pytest.fixture
def dataset_of_ones_own(tmp_path, monkeypatch):
    """A dataset in nnU-Net's folders, as far as a bench looks at it."""
    name = "Dataset700_Mine"
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    raw, preprocessed = tmp_path / "nnUNet_raw" / name, tmp_path / "nnUNet_preprocessed" / name
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed / "nnUNetPlans_2d"):
        folder.mkdir(parents=True)
    (preprocessed / "nnUNetPlans.json").write_text("{}")
    (raw / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "FLAIR", "1": "T1c"}, "file_ending": ".nii.gz"})
    )
    for case in CASES:
        (raw / "labelsTr" / f"{case}.nii.gz").touch()
        for channel in range(2):
            image = sitk.GetImageFromArray(np.arange(8.0).reshape(2, 2, 2) * (case != CASES[0] or channel == 0))
            sitk.WriteImage(image, str(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz"))
    splits = [{"train": CASES[:20], "val": CASES[20:]}, {"train": CASES[10:], "val": CASES[:10]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    return name


def splits_of(bench):
    return json.loads((bench.preprocessed / "splits_final.json").read_text())


@pytest.fixture
def bench_of_ones_own(dataset_of_ones_own, tmp_path, monkeypatch):
    bench = Bench(tmp_path / "bench", dataset_of_ones_own, "2d", "cpu", None, 1, {})
    bench.ran = []
    monkeypatch.setattr(bench, "run", lambda command, seed=0: bench.ran.append(command[1:]))
    return bench


def images_of(folder):
    return {file.name for file in folder.iterdir() if not holds_no_image(file)}


def test_a_dataset_of_ones_own_is_looked_at_and_never_written_to(bench_of_ones_own, tmp_path):
    bench = bench_of_ones_own
    for _ in range(2):  # a run that goes on finds its links
        assert prepare(bench, TrainingSet()) == ["-f", "{fold}"]
    assert splits_of(bench)[0]["val"] == CASES[20:]
    (bench.preprocessed / "nnUNetPlans_ModalityDropout.json").write_text("a row's")
    assert sorted(file.name for file in (tmp_path / "nnUNet_preprocessed" / bench.dataset).iterdir()) == [
        "nnUNetPlans.json",
        "nnUNetPlans_2d",
        "splits_final.json",
    ]
    assert (tmp_path / "bench" / "nnUNet_raw" / bench.dataset / "imagesTr").is_dir()


def test_a_dataset_without_splits_is_an_error(bench_of_ones_own, tmp_path):
    (tmp_path / "nnUNet_preprocessed" / bench_of_ones_own.dataset / "splits_final.json").unlink()
    with pytest.raises(ValueError, match=r"Expected .*splits_final\.json, found none: .*missmod convert"):
        prepare(bench_of_ones_own, TrainingSet())


def test_fewer_patients_are_among_more_and_the_same_are_scored(bench_of_ones_own, tmp_path):
    bench, trained = bench_of_ones_own, {}
    for number in (5, 10):
        flags = prepare(bench, TrainingSet(number))
        trained[number] = [set(fold["train"]) for fold in splits_of(bench)]
        assert [fold["val"] for fold in splits_of(bench)] == [CASES[20:], CASES[:10]]
    for few, more, all_of_fold in zip(trained[5], trained[10], (CASES[:20], CASES[10:]), strict=True):
        assert few < more < set(all_of_fold)
        assert (len(few), len(more)) == (5, 10)
    assert flags[:2] == ["-f", "{fold}"]
    scored = {file.name[:-12] for file in Path(flags[3].format(fold=1)).iterdir()}
    assert (scored, flags[5]) == (set(CASES[:10]), str(tmp_path / "nnUNet_raw" / bench.dataset / "labelsTr"))
    assert TrainingSet(5).suffix == ", 5 patients"


def test_the_complete_patients_are_those_with_an_image_in_every_file(bench_of_ones_own):
    prepare(bench_of_ones_own, TrainingSet(complete=True))
    assert [sorted(fold["train"]) for fold in splits_of(bench_of_ones_own)] == [CASES[1:20], CASES[10:]]


def test_what_is_taken_away_from_training_is_still_scored(bench_of_ones_own, tmp_path):
    bench, training = bench_of_ones_own, TrainingSet(away={"FLAIR": 0.3, "T1c": 0.5})
    flags = prepare(bench, training)
    assert [command[:2] for command in bench.ran] == [["-d", "700"]]
    whole = tmp_path / "nnUNet_raw" / bench.dataset / "imagesTr"
    assert len(images_of(whole)) == 59  # the source is as it was
    left = images_of(bench.out / "nnUNet_raw" / bench.dataset / "imagesTr")
    assert {name[:-12] for name in left} == set(CASES)  # every case keeps one
    assert 3 <= sum(f"{case}_0000.nii.gz" not in left for case in CASES) <= 15
    assert 8 <= sum(f"{case}_0001.nii.gz" not in left for case in CASES) <= 22
    assert len(images_of(Path(flags[3].format(fold=0)))) == 20
    assert not (bench.preprocessed / "nnUNetPlans_2d").exists()  # is to be made of what is left
    assert training.suffix == ", less FLAIR 0.3 T1c 0.5"
    prepare(bench, TrainingSet(complete=True, away=training.away))
    assert len(bench.ran) == 1  # goes on with what was taken away before
    complete = {case for case in CASES if {f"{case}_0000.nii.gz", f"{case}_0001.nii.gz"} <= left}
    assert set(splits_of(bench)[0]["train"]) == complete & set(CASES[:20])


def test_subsets_may_have_models_of_their_own():
    rows = patients.dedicated_rows(["FLAIR+T1c"])
    assert list(rows) == [f"{method} of FLAIR+T1c alone" for method in ("nnU-Net", "ACN", "SMU-Net")]
    for run in rows.values():
        assert run.settings == {run.trainer: {"subset": "FLAIR+T1c"}}
    assert rows["nnU-Net of FLAIR+T1c alone"].adam == METHODS["modality dropout, Adam"].adam


def write_cases(folder, dice, lacks=()):
    """Scores of one region: ``dice`` by case and subset."""
    rows = [
        (case, subset, subset.count("+") + 1, "tumor", value)
        for case, of_case in dice.items()
        for subset, value in of_case.items()
        if (case, subset) not in lacks
    ]
    table = pd.DataFrame(rows, columns=["case", "subset", "num_present", "region", "dice"])
    full = long_table(cases=1).iloc[:1].drop(columns=table.columns)
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(folder, table.merge(full, how="cross")[list(long_table(cases=1).columns)])
    write_provenance(folder, provenance(("A", "B"), ("tumor",)))


@pytest.fixture
def kept(tmp_path):
    """Two rows on two folds, one of them scored on a third; the second row is better by 0.1 to 0.4."""
    kept = KeptScores(tmp_path / "cases.csv")
    for gain, row in enumerate(("modality dropout, Adam", "better")):
        for fold in (2, 3) if gain else (2, 3, 4):
            dice = {
                f"{fold}{case}": {"A": 0.1 + gain * 0.1, "B": 0.2 + gain * 0.2, "A+B": 0.3 + gain * 0.3 + case / 100}
                for case in range(4)
            }
            write_cases(tmp_path / row / str(fold), dice, {(f"{fold}0", "B"), (f"{fold}0", "A+B")})
            kept.add(Piece(row, 0, fold), tmp_path / row / str(fold))
    return kept


def test_what_is_kept_is_not_run_again_and_outlives_its_folders(kept, bench, monkeypatch):
    assert kept.has(Piece("better", 0, 3))
    assert not any(kept.has(piece) for piece in (Piece("better", 0, 4), Piece("better", 1, 3), Piece("worse", 0, 3)))
    ran = []
    monkeypatch.setattr(bench, "train", lambda name, run, seed, fold: ran.append(("train", name, seed, fold)))
    monkeypatch.setattr(bench, "evaluate", lambda name, run, seed, flags, folder: ran.append((name, *flags, folder)))
    monkeypatch.setattr(kept, "add", lambda piece, folder: ran.append((piece, folder.name)))
    for piece in (Piece("better", 0, 3), Piece("better", 0, 4)):
        patients.work_on(bench, kept, piece, METHODS["DC-Seg"], ["-f", "{fold}"])
    assert ran == [("train", "better", 0, 4), ("better", "-f", "4", "fold_4"), (Piece("better", 0, 4), "fold_4")]


def test_a_piece_that_another_command_is_at_is_left_to_it(kept, bench, monkeypatch):
    def train(*piece):
        patients.work_on(bench, kept, Piece("better", 0, 4), METHODS["DC-Seg"], ["-f", "{fold}"])  # as the other would
        trained.append(piece)

    trained = []
    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(bench, "evaluate", lambda *arguments: None)
    monkeypatch.setattr(kept, "add", lambda *arguments: None)
    patients.work_on(bench, kept, Piece("better", 0, 4), METHODS["DC-Seg"], ["-f", "{fold}"])
    assert len(trained) == 1


def test_rows_are_compared_on_the_seeds_folds_and_cases_that_they_share(kept):
    wide = kept.wide()
    assert common_pieces(wide, ["modality dropout, Adam", "better"]) == [(0, 2), (0, 3)]
    text, means, subsets, differences = patient_tables.tables(wide, ["modality dropout, Adam", "better"], REFERENCE)
    assert text == "Seeds 0; folds 2, 3: 8 cases, 6 of them with every subset."
    assert means.splitlines()[2] == "| better | 1 | 0.407 | 0.300 | 0.620 | 0.460 |"
    assert subsets.splitlines()[0] == "| trainer | A (n = 8) | B (n = 6) | A+B (n = 6) |"
    assert subsets.splitlines()[3] == "| better | 0.200 | 0.400 | 0.620 |"
    assert differences.splitlines()[2] == "| better | +0.200 | +0.200 to +0.200 | 6 | 0.031 | 0.031 |"
    with pytest.raises(ValueError, match="Expected a seed and fold that every row has been scored of, got none for"):
        patient_tables.trainings_of(wide, ["better", "never run"])


def test_a_row_of_one_subset_is_shown_for_that_one(kept, tmp_path):
    for fold in (2, 3):
        write_cases(tmp_path / "alone", {f"{fold}1": {"B": 0.9, "A+B": 0.9}})
        kept.add(Piece("nnU-Net of B alone", 0, fold), tmp_path / "alone")
    rows = ["modality dropout, Adam", "better", "nnU-Net of B alone"]
    _, means, subsets, _ = patient_tables.tables(kept.wide(), rows, REFERENCE)
    assert "alone" not in means
    assert subsets.splitlines()[-1] == "| nnU-Net of B alone | - | 0.900 | - |"


@pytest.mark.parametrize(
    ("scored", "common"),
    [
        ([(0, 2), (0, 3), (0, 4), (1, 2)], [(0, 2), (0, 3), (0, 4)]),
        ([(0, 2), (0, 3), (1, 2), (1, 3), (1, 4)], [(0, 2), (0, 3), (1, 2), (1, 3)]),
        ([(0, 2)], [(0, 2)]),
        ([], []),
    ],
)
def test_the_seeds_of_a_table_have_the_same_folds(scored, common):
    wide = pd.DataFrame([("better", *piece) for piece in scored], columns=["row", "seed", "fold"])
    assert common_pieces(wide, ["better"]) == common


@pytest.mark.parametrize(
    ("row", "subset"),
    [
        ("nnU-Net of FLAIR+T1 alone", "FLAIR+T1"),
        ("ACN of T1c alone, 20 patients", "T1c"),
        ("M3AE", None),
        ("M3AE, complete ones alone, less T1 0.5", None),
    ],
)
def test_the_subset_that_a_row_serves_alone(row, subset):
    assert patient_tables.only_subset(row) == subset


def test_a_row_for_each_subset(kept, tmp_path):
    for fold in (2, 3):
        write_cases(tmp_path / "alone", {f"{fold}1": {"B": 0.9, "A+B": 0.9}})
        kept.add(Piece("nnU-Net of B alone", 0, fold), tmp_path / "alone")
    rows = ["modality dropout, Adam", "better", "nnU-Net of B alone"]
    table = patient_tables.table_by_subset(patient_tables.trainings_of(kept.wide(), rows)).splitlines()
    assert table[0] == "| A | B | cases | modality dropout, Adam | better | one of this subset alone |"
    assert [[*line.split(" | ")[1:3], line.split(" | ")[-1]] for line in table[2:]] == [
        ["○", "8", "- |"],
        ["●", "6", "0.900 |"],
        ["●", "6", "- |"],
        ["", "6", "- |"],
    ]
    assert table[2].startswith("| ● | ○ | 8 |")
    assert table[3].split(" | ")[4] == "0.400"
    assert table[5].split(" | ")[4] == "0.407"


@pytest.mark.parametrize(
    ("page", "figures"),
    [
        ("README.md", "patients"),
        ("benchmarks/patients.md", "patients"),
        ("benchmarks/patients_development.md", "patients_development"),
    ],
)
def test_a_page_has_the_tables_of_the_figures_that_are_kept(page, figures):
    wide, text = KeptScores(FIGURES / f"{figures}.csv").wide(), (FIGURES.parents[1] / page).read_text(encoding="utf-8")
    assert patient_page.GROUP.search(text) or patient_page.BY_SUBSET.search(text)
    assert patient_page.renewed(text, wide) == text
    if page != "README.md":
        groups = patient_page.GROUP.findall(text)
        assert {row for group in groups for row in patient_page.rows_in(group, wide)} == set(wide["row"])


def test_the_tables_of_a_page_are_renewed_and_its_text_stays(kept, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    text = "# A page\n\nSeeds are numbers.\n\n{}\n\n## More\n\n{}\n\nThe end.\n"
    group = "Seeds 7.\n\n| trainer | A (n = 1) |\n| --- | --- |\n| modality dropout, Adam | 0.9 |\n| better |"
    by_subset = "| A | B | cases | better | one of this subset alone |\n| --- |"
    page.write_text(text.format(group, by_subset))
    for fold in (2, 3):
        write_cases(tmp_path / "alone", {f"{fold}1": {"B": 0.9, "A+B": 0.9}})
        kept.add(Piece("nnU-Net of B alone", 0, fold), tmp_path / "alone")
    monkeypatch.setattr(sys, "argv", ["patient_page", str(kept.file), str(page)])
    patient_page.main()
    wide = kept.wide()
    group = "\n\n".join(patient_tables.tables(wide, ["modality dropout, Adam", "better"], REFERENCE))
    trainings = patient_tables.trainings_of(wide, ["better", "nnU-Net of B alone"])
    assert page.read_text() == text.format(group, patient_tables.table_by_subset(trainings))


def test_a_page_shows_rows_that_there_are(kept):
    page = "Seeds 0; folds 2.\n\n| trainer | A (n = 1) |\n| --- | --- |\n| never run |\n"
    with pytest.raises(ValueError, match=r"Expected rows of the CSV \(better, .*\), got never run in the page"):
        patient_page.renewed(page, kept.wide())


def test_a_picture_of_a_case_from_every_subset(tmp_path, monkeypatch, capsys):
    truths = write_data(tmp_path, num_modalities=2, cases=("one", "two"))
    write_model(tmp_path / "model", tmp_path, truths, modalities=("FLAIR", "T1c"))
    command = ["case_picture", str(tmp_path / "model"), "--case", "two", "-o", str(tmp_path / "picture.png")]
    monkeypatch.setattr(sys, "argv", command)
    drawn = []
    monkeypatch.setattr(case_picture, "draw_panel", lambda *args: drawn.append(args))
    case_picture.main()
    assert capsys.readouterr().out.startswith("two: ")
    assert len(drawn) == 3
    assert all(truth.any() and truth.shape == image.shape == mask.shape for _, image, truth, mask in drawn)
    titles = [panel.get_title().split("\n")[0] for panel, *_ in drawn]
    assert titles == ["FLAIR", "T1c", "FLAIR+T1c"]
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", command)
    case_picture.main()
    assert len(Image.open(tmp_path / "picture.png").convert("RGB").getcolors(10**6)) > 100


def test_a_picture_needs_masks(tmp_path, monkeypatch):
    truths = write_data(tmp_path, num_modalities=2, cases=("one",))
    write_model(tmp_path / "model", tmp_path, truths, modalities=("FLAIR", "T1c"))
    for mask in (tmp_path / "model" / "predictions").rglob("*.nii.gz"):
        mask.unlink()
    monkeypatch.setattr(sys, "argv", ["case_picture", str(tmp_path / "model"), "-o", str(tmp_path / "picture.png")])
    with pytest.raises(ValueError, match="Evaluate without --no-save"):
        case_picture.main()


def test_a_picture_is_of_a_region_that_there_is(tmp_path, monkeypatch):
    truths = write_data(tmp_path, num_modalities=2, cases=("one",))
    write_model(tmp_path / "model", tmp_path, truths, modalities=("FLAIR", "T1c"))
    command = ["case_picture", str(tmp_path / "model"), "--region", "vessels", "-o", str(tmp_path / "picture.png")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(ValueError, match=r"Expected --region to be one of .*, got vessels"):
        case_picture.main()
