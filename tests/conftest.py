import json
import os
import sys
from pathlib import Path

import pytest

# Helpers such as small_plans.py stand beside the tests; spawned workers find them through PYTHONPATH.
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("nnUNet_n_proc_DA", "1")
os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are so small that threads mostly wait for each other
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # nnU-Net takes all cores all the same

QUICK = {
    "batch_size": 2,
    "patch_size": [32, 32, 32],  # a whole case: one patch to predict
    "architecture": {"arch_kwargs": {"features_per_stage": [8, 8, 16, 16]}},
    "missmod": {"trainer": {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 2}},
}


def pytest_collection_modifyitems(items):
    """Start with the tests on the trained model: they take longest, and share one process."""
    items.sort(key=lambda item: "trained" not in item.fixturenames)


@pytest.fixture(scope="module", autouse=True)
def environment():
    """What the tests of a file set in the environment, for processes that they start, ends with the file."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The commands of the first steps, run to the letter; between planning and training the plan is made quick."""
    import preloaded
    from pages import FIRST_STEPS, texts_of
    from shell import Shell

    from nnunetv2_missmod.planning.fragments import merge_fragment

    commands = tmp_path_factory.mktemp("commands") / "bin"
    server = preloaded.start(commands)
    shell = Shell(tmp_path_factory.mktemp("home"), commands)
    shell.outputs = []
    for block in texts_of(FIRST_STEPS, "bash"):
        if block.startswith("nnUNetv2_train 501 3d_fullres 0 -tr DCSegTrainer"):
            plans_file = shell.folder / "nnUNet_preprocessed" / "Dataset501_Phantom" / "nnUNetPlans.json"
            plans = merge_fragment(json.loads(plans_file.read_text()), "3d_fullres", QUICK, "nnUNetPlans")
            plans_file.write_text(json.dumps(plans))
        shell.outputs.append(shell.run(block))
    yield shell
    server.terminate()
