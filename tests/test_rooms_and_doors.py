"""The doors, the folders of the methods, and the sizes of functions and files, read from the sources."""

import ast

import pytest
from sources import METHODS, PACKAGE, ROOT, package_sources

METHOD_FILES = {"__init__.py", "network.py", "losses.py", "trainer.py"}
TRAINER_MODULES = {"trainer", "pretraining"}  # the second holds the trainer of a stage before
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper"}
MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_FILE = 40, 300


# --- the doors --------------------------------------------------------------------------------------------------------


def wrong_with_door(name, source):
    """What keeps a file of trainers/ from being a door: a docstring, one absolute import of its class, __all__."""
    body = ast.parse(source).body
    wrong = [] if ast.get_docstring(ast.parse(source)) else ["no docstring"]
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    if not (len(imports) == 1 and isinstance(imports[0], ast.ImportFrom) and imports[0].level == 0):
        return [*wrong, "not exactly one absolute from-import"]
    aliases = [(alias.name, alias.asname) for alias in imports[0].names]
    if aliases != [(name, None)]:
        wrong.append(f"imports {aliases}, not {name} alone")
    module = (imports[0].module or "").split(".")
    if not (".".join(module[:2]) == METHODS and len(module) == 4 and module[3] in TRAINER_MODULES):
        wrong.append(f"imports from {imports[0].module}, not from a method's trainer")
    rest = [ast.unparse(node) for node in body if node not in imports][1:]
    if rest not in ([], [f"__all__ = ['{name}']"]):
        wrong.append(f"holds more: {rest}")
    return wrong


def doors():
    return [file for file in sorted((ROOT / "trainers").rglob("*.py")) if file.name != "__init__.py"]


GOOD_DOOR = '"""Door."""\n\nfrom nnunetv2_missmod.methods.one.trainer import OneTrainer\n'


@pytest.mark.parametrize(
    "source",
    [
        "from nnunetv2_missmod.methods.one.trainer import OneTrainer",
        GOOD_DOOR + "import torch\n",
        GOOD_DOOR + "class OneTrainer(OneTrainer):\n    pass\n",
        GOOD_DOOR + '__all__ = ["OneTrainer", "Batch"]\n',
        GOOD_DOOR.replace("import OneTrainer", "import OtherTrainer"),
        GOOD_DOOR.replace("import OneTrainer", "import Other as OneTrainer"),
        GOOD_DOOR.replace("import OneTrainer", "import OneTrainer, Batch"),
        GOOD_DOOR.replace("import OneTrainer", "import *"),
        GOOD_DOOR.replace("nnunetv2_missmod.methods.one.trainer", ".one"),
        GOOD_DOOR.replace("nnunetv2_missmod.methods.one.trainer", "..methods.one.trainer"),
        GOOD_DOOR.replace("nnunetv2_missmod.methods.one.trainer", "nnunetv2_missmod.methods.one.network"),
        GOOD_DOOR.replace("nnunetv2_missmod.methods.one.trainer", "nnunetv2_missmod.training.trainer"),
        '"""Door."""\nimport nnunetv2_missmod.methods.one.trainer\n',
        '"""Door."""\n',
    ],
)
def test_the_door_rule_sees_what_is_no_door(source):
    assert wrong_with_door("OneTrainer", source)


def test_the_door_rule_knows_a_door():
    assert wrong_with_door("OneTrainer", GOOD_DOOR) == []
    assert wrong_with_door("OneTrainer", GOOD_DOOR.replace("one.trainer", "one.pretraining")) == []
    assert wrong_with_door("OneTrainer", GOOD_DOOR + '\n__all__ = ["OneTrainer"]\n') == []


@pytest.mark.parametrize("file", doors(), ids=lambda file: file.stem)
def test_every_file_in_trainers_is_a_door(file):
    assert wrong_with_door(file.stem, file.read_text(encoding="utf-8")) == []


def test_there_are_doors_and_nothing_beside_them():
    assert len(doors()) >= 2
    kinds = {file.suffix for file in (ROOT / "trainers").iterdir() if file.name != "__pycache__"}
    assert kinds == {".py"}
    init = ast.parse((ROOT / "trainers" / "__init__.py").read_text(encoding="utf-8"))
    assert all(isinstance(node, ast.Expr) for node in init.body)  # a docstring at most


def test_every_method_has_a_door():
    opened = {ast.parse(file.read_text(encoding="utf-8")).body[1].module.split(".")[2] for file in doors()}
    assert opened == {folder.name for folder in method_folders()}


# --- the rooms --------------------------------------------------------------------------------------------------------


def method_folders():
    folders = (ROOT / PACKAGE / "methods").iterdir()
    return sorted(folder for folder in folders if folder.is_dir() and folder.name != "__pycache__")


def wrong_with_method_folder(folder):
    """A method's folder holds the same four files as every other, and is flat; it may hold further files."""
    names = {entry.name for entry in folder.iterdir()} - {"__pycache__"}
    wrong = [f"{folder.name} lacks {name}" for name in sorted(METHOD_FILES - names)]
    return wrong + [f"{folder.name} has {name}/" for name in sorted(names) if (folder / name).is_dir()]


def names_that_say_nothing(sources):
    return sorted(module for module in sources if set(module.rstrip(".").split(".")) & NAMES_THAT_SAY_NOTHING)


@pytest.mark.parametrize("lacking", sorted(METHOD_FILES))
def test_the_folder_rule_sees_a_missing_file(tmp_path, lacking):
    for name in METHOD_FILES - {lacking}:
        (tmp_path / name).touch()
    assert wrong_with_method_folder(tmp_path) == [f"{tmp_path.name} lacks {lacking}"]


def test_the_folder_rule_sees_a_subfolder_but_allows_further_files(tmp_path):
    for name in [*METHOD_FILES, "fusion.py"]:
        (tmp_path / name).touch()
    (tmp_path / "__pycache__").mkdir()
    assert wrong_with_method_folder(tmp_path) == []
    (tmp_path / "blocks").mkdir()
    assert wrong_with_method_folder(tmp_path) == [f"{tmp_path.name} has blocks/"]


@pytest.mark.parametrize("folder", method_folders(), ids=lambda folder: folder.name)
def test_every_method_has_the_same_files(folder):
    assert wrong_with_method_folder(folder) == []


def test_methods_have_folders_of_their_own():
    assert [file.name for file in (ROOT / PACKAGE / "methods").glob("*.py")] == ["__init__.py"]
    assert len(method_folders()) >= 2


@pytest.mark.parametrize(
    "module", [f"{PACKAGE}.utils", f"{METHODS}.one.helpers", f"{PACKAGE}.utils.", f"{PACKAGE}.utils.io"]
)
def test_the_name_rule_sees_names_that_say_nothing(module):
    assert names_that_say_nothing({module: "", f"{PACKAGE}.modalities": ""}) == [module]


def test_no_module_is_named_utils_or_helpers():
    assert names_that_say_nothing(package_sources()) == []


# --- sizes ------------------------------------------------------------------------------------------------------------


def too_long(sources):
    """Functions and files that nobody takes in at a glance."""
    files = [module for module, source in sources.items() if source.count("\n") > MOST_LINES_OF_A_FILE]
    functions = [
        f"{module}.{node.name}"
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION
    ]
    return sorted(files + functions)


def test_the_size_rule_sees_what_is_too_long():
    body = "    pass\n" * MOST_LINES_OF_A_FUNCTION
    assert too_long({"long": f"def f():\n{body}", "short": f"def g():\n{body[9:]}"}) == ["long.f"]
    assert too_long({"file": "\n" * (MOST_LINES_OF_A_FILE + 1)}) == ["file"]


def test_functions_and_files_are_short():
    assert too_long(package_sources()) == []
