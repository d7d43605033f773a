"""The pages for Python are run: the blocks of docs/python.md, and the notebook, on the model that comes along."""

import shutil

import nbformat
import numpy as np
import pytest
import SimpleITK as sitk
from nbclient import NotebookClient
from pages import REPOSITORY, texts_of
from small_models import write_image

from nnunetv2_missmod.cli.demo_job import EMBEDDED
from nnunetv2_missmod.datasets.phantom.cohort import phantom_case

pytestmark = pytest.mark.slow
NOTEBOOK = REPOSITORY / "docs" / "segmenter.ipynb"


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EMBEDDED, "nnUNet_results/Dataset501_Phantom/DCSegTrainer__nnUNetPlans__3d_fullres")
    images, _ = phantom_case(np.random.default_rng(0), ("FLAIR", "T1c"), (32, 32, 32))
    for number, image in enumerate(images, 1):
        write_image(tmp_path / f"scan{number}.nii.gz", image)
    names = {}
    for text in texts_of(REPOSITORY / "docs" / "python.md", "python"):
        exec(compile(text, "python.md", "exec"), names)
    masks = [sitk.GetArrayFromImage(sitk.ReadImage(name)) for name in ("mask.nii.gz", "mask_without_contrast.nii.gz")]
    np.testing.assert_array_equal(masks[0], names["found"].mask)
    assert masks[0].shape == images[0].shape
    assert (masks[0] != masks[1]).any()


def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "mask.nii.gz").is_file()


def test_the_notebook_shows_what_it_makes_and_nothing_of_a_machine():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"execute_result", "display_data"}
    assert sum("image/png" in output.data for output in outputs) == 2
    assert all(cell.execution_count for cell in cells)
