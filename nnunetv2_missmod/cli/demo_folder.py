"""The folder of a demo: which of its steps are finished, so that one that was stopped goes on."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2_missmod import __version__
from nnunetv2_missmod.files.whole_files import write_whole

RECORD = "demo.json"


class DemoFolder:
    """A folder that a demo writes to, and its record of what is finished.

    Attributes:
        path: the folder.
        finished: names of steps.
    """

    def __init__(self, path: Path, kind: str, overwrite: bool = False):
        """Begin a demo, or take up one that was stopped.

        Args:
            path: a folder that is new or empty, or that of a demo of this version.
            kind: what sort of demo; one kind does not go on from another.
            overwrite: begin anew where there is a demo of whatever kind and version.

        Raises:
            ValueError: the folder holds something else.
        """
        self.path, self.record = path.resolve(), {"version": __version__, "kind": kind}
        self.finished: list[str] = []
        known = _read(self.path)
        if known is not None and overwrite:
            shutil.rmtree(self.path)
        elif known is not None and {**known, **self.record} == known:
            self.finished = [str(step) for step in known["finished"]]
        elif path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ValueError(_whats_wrong(path, known))
        self.path.mkdir(parents=True, exist_ok=True)
        self._write()

    def finish(self, step: str) -> None:
        """Enter a step that is finished."""
        self.finished.append(step)
        self._write()

    def _write(self) -> None:
        text = json.dumps({**self.record, "finished": self.finished}, indent=2) + "\n"
        write_whole(self.path / RECORD, partial(Path.write_text, data=text, encoding="utf-8"))


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("finished"), list) else None


def _whats_wrong(folder: Path, known: dict[str, Any] | None) -> str:
    if known is None:
        return f"Expected a new or empty folder, got {folder}. Remove it or give another one with -o."
    return (
        f"Expected the folder of a demo to go on with, got {folder} of another one ({known.get('kind')}, version "
        f"{known.get('version')}). Begin anew there with --overwrite, or give another folder with -o."
    )
