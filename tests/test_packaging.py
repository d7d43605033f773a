"""What is packed: an sdist that builds what the tree builds, and a wheel that works without the sources."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from sources import ROOT

import nnunetv2_missmod
from nnunetv2_missmod.host.doors import door_names

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX paths")]
BUILD = "from setuptools import build_meta; print(build_meta.build_{kind}({out!r}))"
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "missmod_demo", "site"
)
ASK = """
import sys
from pathlib import Path
target, *places = sys.argv[1:]
sys.path.insert(0, target)
from nnunetv2_missmod.host.doors import door_folder, door_names, plans_folder
for folder in (door_folder(), plans_folder()):
    assert Path(target) in folder.parents, folder
print(*door_names())
missing = [place for place in places if not (Path(target) / "nnunetv2_missmod" / place).exists()]
assert not missing, missing
"""


def build(kind, tree, out):
    """Build an sdist or a wheel of a tree with setuptools alone; the file."""
    command = [sys.executable, "-c", BUILD.format(kind=kind, out=str(out))]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The sdist of a copy of the tree: setuptools writes beside the sources."""
    tree = tmp_path_factory.mktemp("sources") / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    return tree, build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel_of_sdist(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist[1]) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree, build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def files_of(tree):
    """Names of a tree's own files."""
    skipped = {"build", "dist", "nnunetv2_missmod.egg-info", "__pycache__", "PKG-INFO", "setup.cfg"}
    paths = (path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
    return {str(path) for path in paths if not skipped & set(path.parts)}


def test_the_sdist_holds_the_whole_tree(sdist, wheel_of_sdist):
    missing = files_of(sdist[0]) - files_of(wheel_of_sdist[0])
    assert not missing


def test_sdist_and_tree_build_the_same_wheel(sdist, wheel_of_sdist, tmp_path):
    from_tree = zipfile.ZipFile(build("wheel", sdist[0], tmp_path))
    from_sdist = zipfile.ZipFile(wheel_of_sdist[1])
    assert set(from_tree.namelist()) == set(from_sdist.namelist())


def test_the_wheel_says_what_it_is(wheel_of_sdist):
    with zipfile.ZipFile(wheel_of_sdist[1]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(wheel.read(name))
        licences = [name for name in wheel.namelist() if "licenses/" in name]
    assert metadata["Version"] == nnunetv2_missmod.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert len(metadata.get_all("Classifier")) >= 10
    assert {Path(name).name for name in licences} == {"LICENSE", "niivue.LICENSE.txt"}
    links = re.findall(r"\]\(([^)]*)\)", metadata.get_payload())
    assert links and all(link.startswith("https://") for link in links)


def test_the_wheel_works_without_the_sources(wheel_of_sdist, tmp_path):
    """Doors, plans, the report's assets and the embedded model come along."""
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel_of_sdist[1]) as wheel:
        wheel.extractall(target)
    tree = ROOT / "nnunetv2_missmod"
    places = ["py.typed", *(f"plans/{path.name}" for path in (ROOT / "plans").glob("*.json"))]
    for folder in ("report/templates", "report/assets", "datasets/phantom/model"):
        places += [str(path.relative_to(tree)) for path in (tree / folder).rglob("*") if path.is_file()]
    command = [sys.executable, "-I", "-c", ASK, str(target), *places]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == door_names()


def test_the_container_gets_what_the_wheel_is_built_from():
    """What .dockerignore lets through has all that setup.py packs and reads; a build itself needs the network."""
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {"LICENSE", "README.md", "nnunetv2_missmod", "plans", "pyproject.toml", "setup.py", "trainers"}
    assert all((ROOT / name).exists() for name in kept)
    stages = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line[:1].isalpha()]
    words = [line.split()[0] for line in stages]
    assert " ".join(words) == "ARG FROM ARG COPY RUN ENV WORKDIR ENTRYPOINT CMD"
