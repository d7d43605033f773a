"""`missmod convert` in the folders that a test sets, and what it leaves there."""

import multiprocessing
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

from nnunetv2_missmod.cli.main import main


def convert(*arguments, code=0):
    assert main(["convert", *map(str, arguments), "-np", "1"]) == code


def dataset_of(tmp_path, dataset_id=137):
    (found,) = (tmp_path / "raw").glob(f"Dataset{dataset_id:03d}_*")
    return found


def failure(capsys, tmp_path, *arguments):
    """What is said when nothing can be converted; nothing may be written then."""
    before = sorted(tmp_path.rglob("*"))
    convert(*arguments, code=2)
    assert sorted(tmp_path.rglob("*")) == before
    error = capsys.readouterr().err
    return error[error.index("missmod: ") :]


def nnunet_in_threads(monkeypatch):
    """Let nnU-Net check a dataset in threads in place of spawned processes, which take seconds to start."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))
