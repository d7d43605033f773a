"""A loaded model in Python: the masks of `missmod predict`, from files of any name and from arrays."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from small_models import small_images, write_case, write_image, write_model

import nnunetv2_missmod
from nnunetv2_missmod import Segmenter
from nnunetv2_missmod.prediction import segmenter as segmenter_module
from nnunetv2_missmod.prediction.masks import predict_masks
from nnunetv2_missmod.prediction.model import PredictionSettings
from nnunetv2_missmod.prediction.trained import model_in

pytestmark = pytest.mark.slow
NAMES = ["mod0", "mod1", "mod2"]
QUICK = {"device": "cpu", "mirroring": False, "step_size": 1.0}
SPACING = (1.5, 1.0, 1.0)  # z, y, x, as small_models writes


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield write_model(tmp_path_factory.mktemp("model"), monkeypatch, "DCSegTrainer", regions=True)


@pytest.fixture(scope="module")
def segmenter(choice):
    return Segmenter.from_folder(choice.folder, **QUICK)


@pytest.fixture(scope="module")
def images():
    return small_images(3, (16, 18, 16))


@pytest.fixture
def files(images, tmp_path):
    """The images under names that say nothing."""
    for number, image in enumerate(images):
        write_image(tmp_path / f"scan{2 - number}.nii.gz", image)
    return {name: tmp_path / f"scan{2 - number}.nii.gz" for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def predicted(choice, images, tmp_path_factory):
    """Masks of `missmod predict` by subset."""
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    write_case(folder, "a", images)
    settings = PredictionSettings("cpu", 1.0, False, 0)
    assert predict_masks(choice, settings, folder, out, "all") == 0
    return {file.parent.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in out.glob("*/a.nii.gz")}


def given(images, names):
    return {name: images[name] for name in names}


def test_each_subset_has_the_mask_of_missmod_predict(segmenter, files, images, predicted):
    """Given alone, asked for among more, in another order, as files or as arrays."""
    assert len(predicted) == 7
    arrays = dict(zip(NAMES, images, strict=True))
    of_all = segmenter.segment_subsets(files)
    assert set(of_all) == set(predicted)
    for subset, expected in predicted.items():
        names = subset.split("+")
        alone = segmenter.segment(given(files, reversed(names)))
        from_arrays = segmenter.segment(given(arrays, names), SPACING)
        for found in (of_all[subset], alone, from_arrays):
            assert found.modalities == tuple(names)
            np.testing.assert_array_equal(found.mask, expected)
    assert any(mask.any() for mask in predicted.values())


def test_regions_are_those_of_the_mask(segmenter, files):
    found = segmenter.segment(files)
    regions = segmenter.predictor.dataset_json["labels"]
    assert set(found.regions) == set(regions) - {"background", "ignore"}
    for name, region in found.regions.items():
        np.testing.assert_array_equal(region, np.isin(found.mask, regions[name]))


@pytest.mark.parametrize("as_arrays", [False, True], ids=["files", "arrays"])
def test_a_mask_is_saved_on_the_grid_of_the_images(segmenter, files, images, tmp_path, as_arrays):
    found = segmenter.segment({"mod1": images[1]}, SPACING) if as_arrays else segmenter.segment({"mod1": files["mod1"]})
    found.save(tmp_path / "mask.nii.gz")
    image, mask = (sitk.ReadImage(str(file)) for file in (files["mod1"], tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), found.mask)
    assert mask.GetSpacing() == pytest.approx(image.GetSpacing())
    assert mask.GetSize() == image.GetSize()


def test_a_constant_image_counts_as_absent(segmenter, images, predicted):
    arrays = {"mod0": np.full_like(images[0], 7), "mod2": images[2]}
    found = segmenter.segment(arrays, SPACING)
    assert found.modalities == ("mod2",)
    np.testing.assert_array_equal(found.mask, predicted["mod2"])


def test_threads_wait_for_each_other(segmenter, files, predicted):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda name: segmenter.segment({name: files[name]}), NAMES))
    for name, segmentation in zip(NAMES, found, strict=True):
        np.testing.assert_array_equal(segmentation.mask, predicted[name])


def test_a_case_is_read_and_preprocessed_while_another_is_segmented(segmenter, files, predicted, monkeypatch):
    second_is_ready, prepared = threading.Event(), []
    prepare, predict_prepared = segmenter_module.prepare, segmenter_module.predict_prepared

    def preparing(*arguments):
        prepared.append(prepare(*arguments))
        if len(prepared) == 2:
            second_is_ready.set()
        return prepared[-1]

    def predicting(*arguments, **settings):
        assert second_is_ready.wait(20)
        return predict_prepared(*arguments, **settings)

    monkeypatch.setattr(segmenter_module, "prepare", preparing)
    monkeypatch.setattr(segmenter_module, "predict_prepared", predicting)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: segmenter.segment({name: files[name]}), NAMES[:2]))
    for name, segmentation in zip(NAMES, found, strict=False):
        np.testing.assert_array_equal(segmentation.mask, predicted[name])


def test_little_memory_gives_the_same_masks(choice, files, predicted):
    thrifty = Segmenter.from_folder(choice.folder, memory=1e-9, **QUICK)
    for subset, found in thrifty.segment_subsets(files).items():
        np.testing.assert_array_equal(found.mask, predicted[subset])


def test_a_zip_of_one_model_is_as_good_as_its_folder(choice, segmenter, files, tmp_path):
    model = choice.folder
    shutil.copytree(model, tmp_path / "zipped" / model.parent.name / model.name)
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "zipped")
    zipped = Segmenter.from_folder(archive, **QUICK)
    np.testing.assert_array_equal(zipped.segment(files).mask, segmenter.segment(files).mask)


def test_a_folder_names_its_model(choice, tmp_path):
    found = model_in(choice.folder)
    assert found == replace(choice, folds=("0",), model_folder=choice.folder.resolve())
    assert found.checkpoint_files() == choice.checkpoint_files()
    given = shutil.copytree(choice.folder, tmp_path / "renamed")
    assert replace(model_in(given), dataset=choice.dataset) == replace(found, model_folder=given.resolve())
    with pytest.raises(ValueError, match=r"without plans\.json and dataset\.json"):
        model_in(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint_best\.pth"):
        model_in(choice.folder, checkpoint="checkpoint_best.pth")
    (tmp_path / "model.zip").write_text("no zip")
    with pytest.raises(ValueError, match="zip of one"):
        Segmenter.from_folder(tmp_path / "model.zip", **QUICK)


@pytest.mark.parametrize(
    ("wrong", "spacing", "message"),
    [
        (lambda images: {"T9": images[0]}, SPACING, "mod0, mod1, mod2.*'T9'"),
        (lambda images: {}, SPACING, "at least one of mod0"),
        (lambda images: {"mod0": images[0]}, None, "spacing"),
        (lambda images: {"mod0": images[0]}, (1, 1, 0), "spacing"),
        (lambda images: {"mod0": images[0], "mod1": images[1][:-1]}, SPACING, "one shape"),
        (lambda images: {"mod0": images}, SPACING, "one shape"),
        (lambda images: {"mod0": images[0], "mod1": "b.nii.gz"}, SPACING, "files or arrays"),
        (lambda images: {"mod0": np.where(images[0] > 3, np.nan, images[0])}, SPACING, "NaN"),
        (lambda images: {"mod0": np.ones_like(images[0])}, SPACING, "not constant"),
        (lambda images: {"mod0": "nowhere.nii.gz"}, None, "nowhere"),
    ],
)
def test_what_is_wrong_is_said(segmenter, images, wrong, spacing, message):
    with pytest.raises(ValueError, match=message):
        segmenter.segment(wrong(images), spacing)


def test_files_on_two_grids_are_refused_or_resampled(segmenter, files, images, tmp_path):
    write_image(tmp_path / "elsewhere.nii.gz", images[1], (1.0, 1.0, 1.4))
    both = {"mod0": files["mod0"], "mod1": tmp_path / "elsewhere.nii.gz"}
    with pytest.raises(ValueError, match="one grid"):
        segmenter.segment(both)
    assert segmenter.segment(both, resample=True).mask.shape == images[0].shape


def test_a_file_of_all_channels_is_none_of_one(segmenter, images, tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(images.astype(np.float32), isVector=False), str(tmp_path / "all.nii.gz"))
    with pytest.raises(ValueError, match="one channel"):
        segmenter.segment({"mod0": tmp_path / "all.nii.gz"})


def test_the_package_imports_torch_only_where_it_is_asked_for():
    code = "import sys, nnunetv2_missmod; assert 'torch' not in sys.modules; print(nnunetv2_missmod.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == nnunetv2_missmod.__version__
    with pytest.raises(AttributeError, match="Segmentr"):
        nnunetv2_missmod.Segmentr  # noqa: B018
