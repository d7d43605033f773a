"""The README's blocks are run by .ci/run, those of the first steps by test_end_to_end.py, their settings here."""

import json

from pages import FIRST_STEPS, README, REPOSITORY, blocks_of, texts_of
from small_plans import small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer
from nnunetv2_missmod.planning.fragments import merge_fragment


def test_the_start_section_is_what_ci_runs():
    script = (REPOSITORY / ".ci" / "run").read_text()
    assert "## Start" in script
    demo, check = texts_of(README, "bash")
    assert "missmod demo" in demo
    assert "make check" in check


def test_every_block_of_the_readme_is_of_a_kind_that_is_run():
    assert {block.language for block in blocks_of(README)} == {"", "bash"}  # "": what the commands look like


def test_the_settings_block_is_a_fragment_that_the_trainer_accepts(tmp_path, monkeypatch):
    (block,) = texts_of(FIRST_STEPS, "json")
    plans = merge_fragment(small_plans(), "3d_fullres", json.loads(block), "myPlans")
    trainer = small_trainer(DCSegTrainer, plans, small_dataset_json(), tmp_path, monkeypatch)
    assert trainer.reconstruction_weight == 0
    assert trainer.num_epochs == 2
    assert trainer.network.modality_encoders[0].code.out_features == 16
