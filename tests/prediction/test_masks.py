"""`missmod predict` end to end, on models with random weights: masks, and what each was made from."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from small_models import folders_of, no_room_for, small_images, two_folds, write_case, write_image

from nnunetv2_missmod.prediction import masks
from nnunetv2_missmod.prediction.mask_table import read_masks
from nnunetv2_missmod.prediction.masks import predict_masks
from nnunetv2_missmod.prediction.model import PredictionSettings, open_predictor

pytestmark = pytest.mark.slow

QUICK = PredictionSettings(device="cpu", step_size=1.0, mirroring=False, num_processes=0)
CHANNELS = {"a": [0, 1], "b": [0, 1], "c": [1]}
ALL = ["mod0", "mod1", "mod0+mod1"]


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    with two_folds(tmp_path_factory.mktemp("nnunet"), CHANNELS, []) as folds:
        yield replace(folds, folds=("0",))


@pytest.fixture(scope="module")
def images(choice):
    return folders_of(choice)[0]


@pytest.fixture(scope="module")
def predicted(choice, images, tmp_path_factory):
    """Masks of what each case has, and of all subsets."""
    found = {subsets: tmp_path_factory.mktemp(subsets) for subsets in ("available", "all")}
    for subsets, out in found.items():
        assert predict_masks(choice, QUICK, images, out, subsets) == 0
    return found


@pytest.fixture
def read(monkeypatch):
    """The names of the cases whose images were read."""
    names = []
    read_case = masks.read_case

    def reading(files, reader, dataset_json, resample):
        names.append(files[0].rpartition("/")[2].rpartition("_")[0])
        return read_case(files, reader, dataset_json, resample)

    monkeypatch.setattr(masks, "read_case", reading)
    return names


def files_in(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def voxels(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def rows(folder):
    return sorted(tuple(row) for row in read_masks(folder)[["case", "subset", "mask", "channels"]].to_numpy())


BESIDE = {"masks.csv", "prediction.json", "dataset.json", "plans.json", ".lock"}


# --- what is written --------------------------------------------------------------------------------------------------


def test_what_a_case_has_is_one_mask_beside_nnunets_files(predicted, choice):
    folder = predicted["available"]
    assert files_in(folder) == {"a.nii.gz", "b.nii.gz", "c.nii.gz", *BESIDE}
    for name in ("dataset.json", "plans.json"):
        assert json.loads((folder / name).read_text()) == json.loads((choice.folder / name).read_text())


def test_the_table_says_which_channels_a_mask_was_made_from(predicted):
    table = (predicted["available"] / "masks.csv").read_text()
    names = ("expected_dice", "dice_at_least", "chance_of_region")
    of_regions = [f"{name} ({region})" for region in ("edema", "tumor") for name in names]
    header = ["case,subset,mask,channels,resampled,inputs,suspicions", *of_regions, "would_help"]
    nothing = "," * (len(of_regions) + 2)  # the model is not calibrated
    assert re.sub(r",[0-9a-f]{16},", ",HASH,", table).splitlines() == [
        ",".join(header),
        f"a,available,a.nii.gz,mod0+mod1,,HASH{nothing}",
        f"b,available,b.nii.gz,mod0+mod1,,HASH{nothing}",
        f"c,available,c.nii.gz,mod1,,HASH{nothing}",
    ]
    assert read_masks(predicted["available"])["inputs"].nunique() == 3


def test_all_subsets_are_folders_and_what_a_case_lacks_is_an_empty_field(predicted):
    of_c = [("c", "mod0", "", ""), ("c", "mod0+mod1", "", ""), ("c", "mod1", "mod1/c.nii.gz", "mod1")]
    of_others = [(case, subset, f"{subset}/{case}.nii.gz", subset) for case in "ab" for subset in ALL]
    assert rows(predicted["all"]) == sorted([*of_c, *of_others])
    there = {mask for _, _, mask, _ in rows(predicted["all"]) if mask}
    assert files_in(predicted["all"]) == there | BESIDE
    assert read_masks(predicted["all"])["subset"].tolist() == ALL * 3


def test_the_masks_are_those_that_nnunet_predicts(predicted, choice, images, tmp_path):
    predictor = open_predictor(choice, QUICK)
    for case, channels in CHANNELS.items():
        files = [str(images / f"{case}_000{channel}.nii.gz") for channel in channels]
        predictor.predict_from_files_sequential([files], [str(tmp_path / case)])
        expected = voxels(tmp_path / f"{case}.nii.gz")
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(voxels(predicted["available"] / f"{case}.nii.gz"), expected)
        subset = "+".join(f"mod{channel}" for channel in channels)
        np.testing.assert_array_equal(voxels(predicted["all"] / subset / f"{case}.nii.gz"), expected)


def test_a_channel_that_holds_no_image_is_none_of_a_masks(choice, tmp_path):
    voxels_of = small_images(2, (16, 18, 16))
    voxels_of[0] = 4.0
    write_case(tmp_path / "images", "case", voxels_of)
    assert predict_masks(choice, QUICK, tmp_path / "images", tmp_path / "out") == 0
    assert rows(tmp_path / "out") == [("case", "available", "case.nii.gz", "mod1")]


def test_a_list_of_subsets_gives_the_same_masks_as_all(predicted, choice, images, tmp_path):
    assert predict_masks(choice, QUICK, images, tmp_path, "mod1+mod0, mod1") == 0
    assert rows(tmp_path) == [row for row in rows(predicted["all"]) if row[1] != "mod0"]
    for _, _, mask, _ in rows(tmp_path):
        if mask:
            np.testing.assert_array_equal(voxels(tmp_path / mask), voxels(predicted["all"] / mask))
    assert not (tmp_path / "mod0").exists()


def test_small_regions_are_removed(predicted, choice, images, tmp_path):
    assert predict_masks(choice, QUICK, images, tmp_path, min_voxels={"tumor": 10**6}) == 0
    for case in CHANNELS:
        mask = voxels(predicted["available"] / f"{case}.nii.gz")
        assert (mask == 2).any()
        np.testing.assert_array_equal(voxels(tmp_path / f"{case}.nii.gz"), np.where(mask == 2, 0, mask))


# --- several runs -----------------------------------------------------------------------------------------------------


def test_parts_that_share_a_folder_give_what_one_run_gives(predicted, choice, images, tmp_path, read):
    for part, share in ((1, ["b"]), (0, ["a", "c"])):
        assert predict_masks(choice, replace(QUICK, num_parts=2, part_id=part), images, tmp_path, "all") == 0
        assert read == share
        read.clear()
    assert rows(tmp_path) == rows(predicted["all"])
    assert files_in(tmp_path) == files_in(predicted["all"])


def test_a_continued_run_keeps_the_finished_cases_whose_masks_are_there(predicted, choice, images, tmp_path, read):
    assert predict_masks(choice, QUICK, images, tmp_path, "all", continued=True) == 0
    assert read == ["a", "b", "c"]
    read.clear()
    assert predict_masks(choice, QUICK, images, tmp_path, "all", continued=True) == 0
    assert read == []
    (tmp_path / "mod0" / "b.nii.gz").unlink()
    assert predict_masks(choice, QUICK, images, tmp_path, "all", continued=True) == 0
    assert read == ["b"]
    assert (tmp_path / "mod0" / "b.nii.gz").exists()
    assert rows(tmp_path) == rows(predicted["all"])


def test_a_continued_run_goes_on_for_subsets_that_were_not_asked_for_before(choice, images, tmp_path, read):
    assert predict_masks(choice, QUICK, images, tmp_path, "mod0") == 0
    assert predict_masks(choice, QUICK, images, tmp_path, "mod0,mod1", continued=True) == 0
    assert read == ["a", "b", "c"] * 2
    assert len(rows(tmp_path)) == 6
    assert predict_masks(choice, QUICK, images, tmp_path, "mod1", continued=True) == 0
    assert read == ["a", "b", "c"] * 2


def test_a_run_that_is_not_continued_starts_over(choice, images, tmp_path, read):
    for _ in range(2):
        assert predict_masks(choice, QUICK, images, tmp_path, "mod1") == 0
    assert read == ["a", "b", "c"] * 2
    assert rows(tmp_path) == [(case, "mod1", f"mod1/{case}.nii.gz", "mod1") for case in "abc"]


def test_a_case_whose_images_changed_is_no_finished_one(choice, tmp_path, read):
    images, out = tmp_path / "images", tmp_path / "out"
    for case in ("added", "replaced", "same"):
        write_case(images, case, small_images(2, (16, 18, 16)), channels=[1])
    assert predict_masks(choice, QUICK, images, out) == 0
    read.clear()
    write_case(images, "added", small_images(2, (16, 18, 16)), channels=[0])
    write_case(images, "replaced", small_images(2, (16, 18, 16), seed=5), channels=[1])
    assert predict_masks(choice, QUICK, images, out, continued=True) == 0
    assert read == ["added", "replaced"]
    assert [row[3] for row in rows(out)] == ["mod0+mod1", "mod1", "mod1"]


@pytest.mark.parametrize("continued", [True, False])
@pytest.mark.parametrize(
    ("model", "how", "arguments", "said"),
    [
        ({"folds": ("1",)}, {}, {}, "weights: "),
        ({}, {"mirroring": True}, {}, "mirroring: False there, True now"),
        ({}, {}, {"min_voxels": {"tumor": 5}}, "min_voxels: "),
        ({}, {}, {"resample": True}, "resample: False there, True now"),
    ],
)
def test_masks_of_another_run_are_not_mixed_with(predicted, choice, images, model, how, arguments, said, continued):
    out = predicted["available"]
    before = {name: (out / name).read_bytes() for name in files_in(out)}
    with pytest.raises(ValueError, match=rf"masks of this same run in .*, found those of another \(.*{said}"):
        predict_masks(replace(choice, **model), replace(QUICK, **how), images, out, continued=continued, **arguments)
    assert {name: (out / name).read_bytes() for name in files_in(out)} == before


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_masks_of_an_unknown_run_are_not_mixed_with(choice, images, tmp_path, content):
    (tmp_path / "masks.csv").write_text("case,subset,mask,channels\na,available,a.nii.gz,mod0+mod1\n")
    if content is not None:
        (tmp_path / "prediction.json").write_text(content)
    with pytest.raises(ValueError, match=r"found those of another \(prediction.json cannot be read"):
        predict_masks(choice, QUICK, images, tmp_path, continued=True)


def test_what_a_dead_run_left_is_cleared(choice, images, tmp_path):
    left = tmp_path / "mod1" / ".writing_dead"
    left.mkdir(parents=True)
    (left / "a.nii.gz").write_text("half a mask")
    assert predict_masks(choice, QUICK, images, tmp_path, "mod1") == 0
    assert not left.exists()


# --- what fails -------------------------------------------------------------------------------------------------------


def test_a_case_that_fails_loses_the_mask_that_it_had(choice, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    for case in ("bad", "good"):
        write_case(images, case, small_images(2, (16, 18, 16)))
    assert predict_masks(choice, QUICK, images, out) == 0
    damage(images / "bad_0001.nii.gz")
    assert predict_masks(choice, QUICK, images, out, continued=True) == 1
    assert rows(out) == [("good", "available", "good.nii.gz", "mod0+mod1")]
    assert files_in(out) == {"good.nii.gz", *BESIDE}


def damage(file):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 6 // 10])


@pytest.mark.parametrize("name", ["=cmd", "..", "a\rb", " a"])
def test_a_case_that_cannot_be_a_files_name_fails_alone(choice, tmp_path, name):
    images, out = tmp_path / "images", tmp_path / "out"
    write_case(images, "good", small_images(2, (16, 18, 16)))
    write_case(images, "z", small_images(2, (16, 18, 16)), [0])[0]
    (images / "z_0000.nii.gz").rename(images / f"{name}_0000.nii.gz")
    hidden = name.startswith(".")  # an image that is hidden is passed over, and named
    assert predict_masks(choice, QUICK, images, out) == (0 if hidden else 1)
    assert files_in(out) == {"good.nii.gz", *BESIDE}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["images", "out"]


def test_a_mask_that_was_not_written_whole_is_an_error(choice, images, tmp_path, monkeypatch, capsys):
    """SimpleITK says nothing when the disk is full."""
    write_seg = SimpleITKIO.write_seg

    def on_a_full_disk(writer, seg, file, properties):
        write_seg(writer, seg, file, properties)
        if file.endswith("b.nii.gz"):
            damage(Path(file))

    monkeypatch.setattr(SimpleITKIO, "write_seg", on_a_full_disk)
    assert predict_masks(choice, QUICK, images, tmp_path) == 1
    assert "b: failed. the mask b.nii.gz was not written whole" in capsys.readouterr().out
    assert files_in(tmp_path) == {"a.nii.gz", "c.nii.gz", *BESIDE}


def test_a_writers_assertion_is_its_cases_error(choice, images, tmp_path, monkeypatch, capsys):
    def refuses(*_):
        raise AssertionError("1 < output_dimension < 4")

    monkeypatch.setattr(SimpleITKIO, "write_seg", refuses)
    assert predict_masks(choice, QUICK, images, tmp_path) == 3
    assert "a: failed. expected a mask that SimpleITKIO can write, but 1 <" in capsys.readouterr().out


def test_cases_that_fail_are_named_and_counted_and_the_others_segmented(choice, tmp_path, capsys):
    images, out = tmp_path / "images", tmp_path / "out"
    write_case(images, "good", small_images(2, (16, 18, 16)))
    write_case(images, "constant", np.ones((2, 16, 18, 16)))
    write_image(images / "suffix_0002.nii.gz", small_images(1, (16, 18, 16))[0])
    write_image(images / "shapes_0000.nii.gz", small_images(1, (16, 18, 16))[0])
    write_image(images / "shapes_0001.nii.gz", small_images(1, (16, 18, 17))[0])
    (images / "damaged_0000.nii.gz").write_text("nothing")
    assert predict_masks(choice, QUICK, images, out) == 4
    said = capsys.readouterr().out
    assert "good: done" in said
    for case, reason in {
        "constant": "expected at least one modality, got none",
        "damaged": "expected a whole image, got",
        "shapes": "expected images on one grid, got the shape",
        "suffix": "expected files that end in one of _0000 = mod0, _0001 = mod1",
    }.items():
        assert f"{case}: failed. Case {case}: {reason}" in said
    assert rows(out) == [("good", "available", "good.nii.gz", "mod0+mod1")]
    assert {name for name in files_in(out) if name.endswith(".nii.gz")} == {"good.nii.gz"}


def test_a_case_of_which_one_mask_failed_is_no_finished_one(predicted, choice, images, tmp_path, read):
    with no_room_for("mod0+mod1/b.nii.gz"):
        assert predict_masks(choice, QUICK, images, tmp_path, "all") == 1
    assert {row[0] for row in rows(tmp_path)} == {"a", "c"}
    read.clear()
    assert predict_masks(choice, QUICK, images, tmp_path, "all", continued=True) == 0
    assert read == ["b"]
    assert rows(tmp_path) == rows(predicted["all"])


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ({"folds": ("0", "2")}, {}, "Folds with a checkpoint_final.pth are: fold_0, fold_1"),
        ({"dataset": "Dataset502_None"}, {}, "Trained on this dataset are: none"),
        ({}, {"subsets": "mod0,mod7"}, "got 'mod7' in 'mod0,mod7'"),
        ({}, {"min_voxels": {"core": 5}}, "out of edema, tumor, got one for 'core'"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(model, arguments, said, choice, images, tmp_path):
    with pytest.raises(ValueError, match=said):
        predict_masks(replace(choice, **model), QUICK, images, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_cases_is_an_error(choice, tmp_path):
    with pytest.raises(ValueError, match=r"no file that ends in \.nii\.gz"):
        predict_masks(choice, QUICK, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
