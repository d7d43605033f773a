"""The import directions of the package, read from its sources.

Every rule is a function from sources to violations. Each is tested twice: on made-up code that breaks it, so that it
cannot be blind, and on the package.
"""

import ast
import sys

import pytest
from sources import DOORS, METHODS, PACKAGE, ROOT, imported, package_sources, within


def violations(sources, importer, forbidden):
    """Imports by the modules that ``importer`` picks of names that ``forbidden(module, name)`` forbids."""
    return sorted(
        f"{module} imports {name}"
        for module, source in sources.items()
        if importer(module)
        for name in imported(module, source)
        if forbidden(module, name)
    )


def reached_from(room, sources):
    """The modules that a room consists of and imports, directly or not."""
    modules = {module.rstrip("."): module for module in sources}
    reached, left = set(), {module for module in sources if within(module, room)}
    while left:
        module = left.pop()
        reached.add(module)
        left |= {modules[name] for name in imported(module, sources[module]) if name in modules} - reached
    return reached


# --- the rules of imports ---------------------------------------------------------------------------------------------

# From the ground up: a room imports from those below it, and from no other. What trainers/ may import stands with the
# doors; nothing imports methods/, which nnU-Net finds by its doors.
MAY_IMPORT = {
    "modalities": (),
    "files": (),
    "machine": (),
    "calibration": ("files",),
    "host": ("modalities", "files", "machine"),
    "building_blocks": ("modalities", "files", "host"),
    "training": ("modalities", "files", "machine", "host", "building_blocks"),
    "methods": ("modalities", "files", "host", "building_blocks", "training"),
    "prediction": ("modalities", "files", "machine", "calibration", "host", "building_blocks"),
    "evaluation": ("modalities", "files", "machine", "calibration", "host", "prediction"),
    "report": ("files", "evaluation"),
    "planning": ("modalities", "files", "machine", "host", "building_blocks", "training"),
    "datasets": ("modalities", "files", "machine", "host"),
    "cli": ("files", "machine", "host", "training", "prediction", "evaluation", "report", "planning", "datasets"),
    "__main__": ("cli",),
    "trainers": ("methods",),
    "plans": (),
}


def room_of(name):
    """The folder or module right below the package that a dotted name is in; None for any other library."""
    parts = name.rstrip(".").split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 and parts[1] != "__version__" else None


def method_of(name):
    parts = name.rstrip(".").split(".")
    return parts[2] if within(name, METHODS) and len(parts) > 2 else None


def methods_import_no_other_method(sources):
    return violations(sources, method_of, lambda module, name: method_of(name) not in (None, method_of(module)))


def rooms_import_what_they_may(sources):
    """A room's modules import their own room and those that ``MAY_IMPORT`` lists."""
    return violations(sources, room_of, lambda module, name: not may_import(room_of(module), room_of(name)))


def may_import(room, other):
    return other in (None, room) or other in MAY_IMPORT.get(room, ())


def the_report_needs_no_network(sources):
    """Neither itself nor through what it imports."""
    reached = reached_from(f"{PACKAGE}.report", sources)
    return violations(sources, reached.__contains__, lambda _, name: within(name, "torch", "nnunetv2", "monai"))


# What nnU-Net documents, and what its own trainers outside of it cannot do without. All else goes through host/.
PROMISED = (
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
    "nnunetv2.training.lr_scheduler.polylr",
    "nnunetv2.inference.predict_from_raw_data",
    "nnunetv2.paths",
    "nnunetv2.utilities.plans_handling.plans_handler",
    "nnunetv2.utilities.dataset_name_id_conversion",
    "nnunetv2.utilities.file_path_utilities",
    "nnunetv2.utilities.ddp_allgather",
)
NOT_NNUNETS = {
    "_asdict",
    "_replace",
    "_exit",
    "_dynamo",
    "_orig_mod",
    "_pytree",
    "_python_dispatch",
    "_cdata",
    "_core",
    "_fields",
}


def in_host(module):
    return within(module, f"{PACKAGE}.host")


def nnunet_is_relied_on_in_host_alone(sources):
    """Elsewhere only what nnU-Net promises is imported, and no private name of others is used."""
    unpromised = violations(
        sources,
        lambda module: not in_host(module),
        lambda _, name: within(name, "nnunetv2", "batchgeneratorsv2") and not within(name, *PROMISED),
    )
    used = {module: private_names(source) for module, source in sources.items() if not in_host(module)}
    return unpromised + [f"{module} uses {name}" for module, names in used.items() for name in sorted(names)]


def private_names(source):
    """The private names behind a dot that a module does not give itself."""
    tree = ast.parse(source)
    given = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    behind_a_dot = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    given |= {
        node.attr for node in behind_a_dot if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    used = {node.attr for node in behind_a_dot if node.attr.startswith("_") and not node.attr.endswith("__")}
    return used - given - NOT_NNUNETS


def nothing_imports_a_door(sources):
    return violations(sources, lambda module: True, lambda _, name: within(name, DOORS))


def losses_know_no_nnunet(sources):
    return violations(
        sources, lambda module: module.split(".")[-1] == "losses", lambda _, name: within(name, "nnunetv2")
    )


def the_vocabulary_needs_torch_alone(sources):
    known = {"torch", *sys.stdlib_module_names}
    return violations(
        sources,
        lambda module: module == f"{PACKAGE}.modalities",
        lambda _, name: name.split(".")[0] not in known,
    )


OWN = f"{METHODS}.one.trainer"
RULES = {
    methods_import_no_other_method: (
        [
            (OWN, "from nnunetv2_missmod.methods.other.losses import style_loss"),
            (OWN, "from nnunetv2_missmod.methods import other"),
            (OWN, "import nnunetv2_missmod.methods.other.network as network"),
            (OWN, "from ..other import network"),
            (OWN, "from .. import other"),
            (f"{METHODS}.one.", "from ..other import network"),
            (OWN, "def late():\n    from nnunetv2_missmod.methods.other import network"),
            (OWN, "if TYPE_CHECKING:\n    from nnunetv2_missmod.methods.one_more import network"),
            (OWN, "network = importlib.import_module('nnunetv2_missmod.methods.other.network')"),
        ],
        [
            (OWN, "from nnunetv2_missmod.methods.one.losses import style_loss"),
            (OWN, "from . import losses"),
            (OWN, "from .losses import style_loss"),
            (f"{METHODS}.one.", "from .losses import style_loss"),
            (OWN, "from nnunetv2_missmod.building_blocks import network"),
        ],
    ),
    rooms_import_what_they_may: (
        [
            (f"{PACKAGE}.building_blocks.network", "from nnunetv2_missmod.methods.one import network"),
            (f"{PACKAGE}.building_blocks.network", "from nnunetv2_missmod import methods"),
            (f"{PACKAGE}.building_blocks.", "from ..training.trainer import Batch"),
            (f"{PACKAGE}.building_blocks.network", "import nnunetv2_missmod.training.trainer"),
            (f"{PACKAGE}.files.reading", "from nnunetv2_missmod.host import doors"),
            (f"{PACKAGE}.training.trainer", "from nnunetv2_missmod.methods.one.network import OneNet"),
            (f"{PACKAGE}.cli.train", "def late():\n    from nnunetv2_missmod.methods import one"),
            (f"{PACKAGE}.prediction.engine", "from nnunetv2_missmod.evaluation.scores import Scores"),
            (f"{PACKAGE}.evaluation.", "from ..methods import one"),
            (f"{PACKAGE}.report.page", "from nnunetv2_missmod.prediction import cases"),
            (f"{PACKAGE}.new_room.module", "from nnunetv2_missmod.files import names"),
            (OWN, "from nnunetv2_missmod.planning.show import show"),
        ],
        [
            (
                f"{PACKAGE}.building_blocks.network",
                "from nnunetv2_missmod.modalities import drop_absent\nimport nnunetv2",
            ),
            (f"{PACKAGE}.prediction.masks", "from .engine import Images"),
            (OWN, "from nnunetv2_missmod.methods.one.network import OneNet"),
        ],
    ),
    the_report_needs_no_network: (
        [
            (f"{PACKAGE}.report", "import torch"),
            (f"{PACKAGE}.report.", "from nnunetv2.paths import nnUNet_results"),
            (f"{PACKAGE}.report.figures", "import monai"),
        ],
        [(f"{PACKAGE}.report", "import pandas"), (f"{PACKAGE}.prediction.engine", "import torch")],
    ),
    nnunet_is_relied_on_in_host_alone: (
        [
            (
                f"{PACKAGE}.prediction.engine",
                "from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask",
            ),
            (f"{PACKAGE}.prediction.engine", "def f(predictor):\n    predictor._internal_get_sliding_window_slicers()"),
            (OWN, "class T(B):\n    def f(self):\n        return self._do_i_compile()"),
            (OWN, "class T(B):\n    def f(self):\n        return super()._build_loss()"),
            (f"{PACKAGE}.cli.train", "def late():\n    from nnunetv2.run import run_training"),
            (f"{PACKAGE}.planning.fitting", "import nnunetv2"),
        ],
        [
            (f"{PACKAGE}.host.predictor", "from nnunetv2.inference.export_prediction import x\nx._y"),
            (OWN, "from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler"),
            (OWN, "class T(B):\n    def _own(self):\n        return self._own(), self.__class__, x._replace()"),
        ],
    ),
    nothing_imports_a_door: (
        [
            (f"{PACKAGE}.cli.main", "from nnunetv2_missmod.trainers.One import One"),
            (f"{PACKAGE}.cli.main", "from nnunetv2_missmod import trainers"),
            (f"{DOORS}.Two", "from .One import One"),
        ],
        [(f"{PACKAGE}.cli.main", "from nnunetv2_missmod.training.trainer import Batch")],
    ),
    losses_know_no_nnunet: (
        [
            (f"{METHODS}.one.losses", "from nnunetv2.training.loss.dice import SoftDiceLoss"),
            (f"{METHODS}.one.losses", "import nnunetv2"),
        ],
        [
            (f"{METHODS}.one.losses", "import torch\nfrom nnunetv2_missmod.modalities import expand_to"),
            (OWN, "import nnunetv2"),
        ],
    ),
    the_vocabulary_needs_torch_alone: (
        [
            (f"{PACKAGE}.modalities", "import numpy as np"),
            (f"{PACKAGE}.modalities", "from nnunetv2_missmod.host.preprocessor import varying"),
            (f"{PACKAGE}.modalities", "from .host.preprocessor import varying"),
        ],
        [(f"{PACKAGE}.modalities", "from __future__ import annotations\nimport math, torch.nn.functional as F")],
    ),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_sees_what_breaks_it_and_nothing_else(rule):
    broken, kept = RULES[rule]
    for module, source in broken:
        assert rule({module: source}), (module, source)
    for module, source in kept:
        assert not rule({module: source}), (module, source)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    assert rule(package_sources()) == []


def test_what_the_report_reaches_is_followed():
    sources = {f"{PACKAGE}.report.page": f"from {PACKAGE}.files import names", f"{PACKAGE}.files.names": "import torch"}
    assert the_report_needs_no_network(sources) == [f"{PACKAGE}.files.names imports torch"]


def test_every_room_has_its_line_and_every_line_its_room():
    folders = {entry.stem for entry in (ROOT / PACKAGE).iterdir() if entry.suffix in ("", ".py")} | {
        "trainers",
        "plans",
    }
    assert set(MAY_IMPORT) == folders - {"__init__", "__pycache__"}


def test_rooms_import_from_those_below_them_alone():
    rooms = list(MAY_IMPORT)
    assert all(rooms.index(other) < rooms.index(room) for room, others in MAY_IMPORT.items() for other in others)


def test_the_rules_read_the_whole_package():
    sources = package_sources()
    assert {f"{PACKAGE}.", f"{PACKAGE}.modalities", f"{PACKAGE}.training.trainer", f"{DOORS}."} <= set(sources)
    assert f"{METHODS}.modality_dropout.network" in sources
    assert f"{DOORS}.ModalityDropoutTrainer" in sources
    graph = imported(f"{METHODS}.modality_dropout.trainer", sources[f"{METHODS}.modality_dropout.trainer"])
    assert f"{METHODS}.modality_dropout.network.ModalityDropoutNet" in graph
